"""``crossformer convert``: convert a checkpoint."""

import argparse
from functools import partial
from pathlib import Path

import torch
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..checkpoint import load_backbone, load_model
from ..checkpoint.cache import note_digest, place_in_cache
from ..checkpoint.convert import DENSE, TARGETS, convert_checkpoint
from ..checkpoint.meta import dataset_meta_of
from ..checkpoint.names import classes_in, tensors_of
from ..checkpoint.reader import open_checkpoint
from ..data.datasets import build_network, set_num_classes
from ..utils.errors import UserError
from ..utils.text import printable
from .config import load_config

IMAGE_SIZE = (128, 160)  # height, width


def conversion_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = argparse.ArgumentParser(
        description='Convert a CrossFormer checkpoint of any origin, without running any code in it. '
        'The input is never changed; the output is written atomically.'
    )
    options.add_argument('source', metavar='IN', help='the checkpoint, .pth or .safetensors')
    options.add_argument('out', metavar='OUT', nargs='?', help='the new file, .pth or .safetensors')
    options.add_argument(
        '--to-cache',
        action='store_true',
        help='instead of OUT: write the backbone to the cache folder, for --pretrained and from_pretrained by'
        ' the name of its arch, such as s',
    )
    options.add_argument(
        '--to',
        choices=TARGETS,
        help='what to convert it to: a backbone for init_cfg and --pretrained, the complete model, or'
        " released, a classifier with the published names for other programs (default: a detector's or"
        " segmentor's file keeps its kind, any other becomes a backbone)",
    )
    options.add_argument('--half', action='store_true', help='store float16')
    options.add_argument(
        '--strict',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='fail if there are backbone tensors that the network does not have, instead of dropping them; '
        'missing tensors are always an error (default: on)',
    )
    options.add_argument(
        '--hash-name',
        action='store_true',
        help="append the first eight digits of the new file's SHA-256 to its name, as OpenMMLab does",
    )
    options.add_argument('--overwrite', action='store_true', help='replace OUT if it exists')
    options.add_argument(
        '--verify',
        metavar='CONFIG',
        help="load the result in this config's model with the file's classes, strictly, and run an image"
        ' through it',
    )
    options.add_argument('--dry-run', action='store_true', help='only print the report; write nothing')
    return options


def convert(options: argparse.Namespace) -> None:
    """Convert a checkpoint and print the report.

    Args:
        options: The options parsed by :func:`conversion_parser`.

    Raises:
        UserError: A file or the config is invalid.
    """
    name = _name_in_cache(options)
    report = convert_checkpoint(
        options.source,
        options.out,
        to='backbone' if name else options.to,
        strict=options.strict,
        half=options.half,
        digest_in_name=options.hash_name,
        overwrite=options.overwrite,
        verify=partial(verify, options.verify) if options.verify else None,
        dry_run=options.dry_run,
    )
    if name:
        note_digest(name)
        report.append(f"name      {name}: --pretrained {name}, CrossFormer.from_pretrained('{name}')")
    print('\n'.join(map(printable, report)))


def _name_in_cache(options: argparse.Namespace) -> str | None:
    """The name under which ``--to-cache`` stores a file; sets ``out`` to its place."""
    others = [options.out, options.to, options.hash_name, options.dry_run]
    if not options.to_cache and not options.out:
        raise UserError('give OUT, or --to-cache')
    if options.to_cache and any(others):
        raise UserError('--to-cache goes without OUT, --to, --hash-name and --dry-run')
    if not options.to_cache:
        return None
    name, options.out = place_in_cache(options.source, options.overwrite)
    return name


def verify(config: str | Path, path: Path, kind: str) -> str:
    """Load a checkpoint strictly into a config's model, with the file's classes, and run an image of noise.

    Args:
        config: A config file.
        path: The checkpoint.
        kind: 'backbone' loads it only into the model's backbone.

    Returns:
        A line for the report.

    Raises:
        UserError: The config has no such model, the tensors do not fit, or the outputs are not finite.
    """
    cfg = load_config(config)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    if not isinstance(cfg.get('model'), dict):
        raise UserError(f'{cfg.filename} has no model to verify the file with')
    checkpoint = open_checkpoint(path)
    classes = dataset_meta_of(checkpoint).get('classes', ())
    if count := len(classes) or classes_in(tensors_of(checkpoint)):
        set_num_classes(cfg.model, count)
    model = build_network(cfg, cfg.model).eval()
    image = torch.randint(256, (3, *IMAGE_SIZE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    if kind == 'backbone':
        load_backbone(model.backbone, checkpoint)
        outputs = _features(model, image)
    else:
        load_model(model, checkpoint)
        outputs = [*_features(model, image), *_predictions(model, image, kind)]
    if not all(torch.isfinite(output).all() for output in outputs):
        raise UserError('its outputs are not finite: the weights are damaged')
    size = '×'.join(map(str, IMAGE_SIZE))
    return f'loads strictly in {config}, a {size} image gives {len(outputs)} finite outputs'


@torch.no_grad()
def _features(model: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    return model.backbone(model.data_preprocessor({'inputs': [image]})['inputs'])


@torch.no_grad()
def _predictions(model: nn.Module, image: Tensor, kind: str) -> list[Tensor]:
    """The tensors that the model predicts: boxes and scores, logits, or the scores of classes."""
    data = {'inputs': [image]}
    if kind in DENSE:
        size = {'img_shape': IMAGE_SIZE, 'ori_shape': IMAGE_SIZE, 'scale_factor': (1.0, 1.0)}
        data['data_samples'] = [BaseDataElement(metainfo=size)]
    parts = model.test_step(data)[0].values()
    values = [v for part in parts for v in (part.values() if isinstance(part, BaseDataElement) else [part])]
    return [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]
