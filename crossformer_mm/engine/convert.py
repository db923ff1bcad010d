"""``tools/convert_checkpoint.py``, from its options to the end."""

import argparse

from ..checkpoint.convert import TARGETS, convert_checkpoint


def conversion_parser() -> argparse.ArgumentParser:
    """The options of ``tools/convert_checkpoint.py``."""
    options = argparse.ArgumentParser(
        description='Convert a released, old or own CrossFormer checkpoint, without running any code in it. '
        'The input is never touched; the output is written whole or not at all.'
    )
    options.add_argument('source', metavar='IN', help='the checkpoint, .pth or .safetensors')
    options.add_argument('out', metavar='OUT', help='the new file, .pth or .safetensors')
    options.add_argument(
        '--to',
        choices=TARGETS,
        help='what it becomes; a backbone is for init_cfg and --pretrained '
        '(a backbone, or what the file holds if it has heads)',
    )
    options.add_argument('--half', action='store_true', help='store float16')
    options.add_argument(
        '--strict',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='stop at backbone tensors that the network has no place for, instead of dropping them; '
        'missing ones always stop (on)',
    )
    options.add_argument(
        '--hash-name',
        action='store_true',
        help="append the first eight digits of the new file's SHA-256 to its name, as OpenMMLab does",
    )
    options.add_argument('--overwrite', action='store_true', help='replace OUT where it exists')
    options.add_argument(
        '--verify',
        metavar='CONFIG',
        help="load the result in this config's model, strictly, and run an image through it",
    )
    options.add_argument('--dry-run', action='store_true', help='report, and write nothing')
    return options


def convert(options: argparse.Namespace) -> None:
    """Convert a checkpoint and print what became of it.

    Args:
        options: What :func:`conversion_parser` parsed.

    Raises:
        UserError: The files or the config do not work.
    """
    report = convert_checkpoint(
        options.source,
        options.out,
        to=options.to,
        strict=options.strict,
        half=options.half,
        digest_in_name=options.hash_name,
        overwrite=options.overwrite,
        config=options.verify,
        dry_run=options.dry_run,
    )
    print('\n'.join(report))
