"""Convert a checkpoint of any origin into one that today's toolboxes load strictly."""

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..engine.verify import verify
from ..models.arch import Arch
from ..models.crossformer import CrossFormer
from ..utils.errors import UserError
from ..utils.files import check_free, sha256_of, write_atomically
from ..version import __version__
from .classes import dataset_meta_of
from .layout import NOTES, ImpliedLayout, implied_layout
from .load import Fit, check_finite, not_finite
from .names import BACKBONE, CONTAINERS, model_kind, select_tensors, shorten, strip_prefix, tensors_of
from .reader import SAFETENSORS_META, error_context, read_checkpoint
from .recognise import arch_of, describe_arch

TARGETS = ('backbone', 'detector', 'segmentor')
SUFFIXES = ('.pth', '.safetensors')
STATISTICS = ('.running_mean', '.running_var', '.num_batches_tracked')  # buffers, not parameters


@dataclass(frozen=True)
class Conversion:
    """What a checkpoint becomes.

    Attributes:
        kind: What the file holds: 'classifier', 'backbone', 'detector' or 'segmentor'.
        to: What it becomes, one of :data:`TARGETS`.
        arch: The backbone's, as :func:`~.recognise.recognise_arch` gives it.
        layout: Of long distance attention.
        state: The tensors.
        meta: Notes and class names, plain values alone.
        dropped: Names of what is left out, by why.
    """

    kind: str
    to: str
    arch: str
    layout: ImpliedLayout
    state: dict[str, Tensor]
    meta: dict[str, Any]
    dropped: dict[str, list[str]]

    def report(self) -> list[str]:
        """Lines for a reader."""
        numbers = sum(t.numel() for n, t in self.state.items() if not n.endswith(STATISTICS))
        dtypes = sorted({str(t.dtype).removeprefix('torch.') for t in self.state.values()})
        classes = self.meta.get('dataset_meta', {}).get('classes', ())
        lines = [
            f'a {self.kind} becomes a {self.to}',
            f'arch      {self.arch}',
            f'layout    {self.layout}',
            f'tensors   {len(self.state)}, {numbers / 1e6:.3f} M parameters, {", ".join(dtypes)}',
        ]
        if classes:
            lines.append(f'classes   {len(classes)}: {shorten(classes)}')
        for reason, names in self.dropped.items():
            lines.append(f'dropped   {len(names)}, {reason}: {shorten(names)}')
        return [*lines, 'missing   nothing of the backbone']


def plan_conversion(
    checkpoint: Mapping[str, Any], to: str | None = None, *, strict: bool = True, half: bool = False
) -> Conversion:
    """Work out what a checkpoint becomes; writes nothing.

    Args:
        checkpoint: What :func:`read_checkpoint` returned.
        to: One of :data:`TARGETS`; None means a backbone for a classifier, otherwise what the file holds.
        strict: Stop at backbone tensors that the network has no place for; otherwise they are dropped.
        half: Store float16.

    Raises:
        UserError: It is no CrossFormer's, is incomplete, not finite, or has not the heads.
    """
    state = tensors_of(checkpoint)
    kind = model_kind(state)
    to = to or (kind if kind in TARGETS else 'backbone')
    if to not in ('backbone', kind):
        raise UserError(f'holds a {kind}, which cannot become a {to}: it has no such heads')
    arch = arch_of(state)
    kept, dropped = select_tensors(state, to)
    dropped |= _fit_backbone(kept, arch, to, strict)
    check_finite(kept)
    kept = {name: _stored(tensor, half) for name, tensor in kept.items()}
    if too_large := not_finite(kept):
        raise UserError(f'values too large for float16 in {shorten(too_large)}; leave out --half')
    other = [key for key in checkpoint if key not in (*CONTAINERS, 'meta') and key not in state]
    if other:
        dropped['not needed to load weights'] = [str(key) for key in other]
    layout = implied_layout(checkpoint)
    meta = {NOTES: {'version': __version__, 'arch': describe_arch(arch), 'kind': to}}
    if len(layout.layouts) == 1:
        meta[NOTES]['long_distance'] = layout.layouts[0]
    if to != 'backbone' and (dataset_meta := dataset_meta_of(checkpoint)):
        meta['dataset_meta'] = dataset_meta
    return Conversion(kind, to, describe_arch(arch), layout, kept, meta, dropped)


def convert_checkpoint(
    source: str | Path,
    out: str | Path,
    *,
    to: str | None = None,
    strict: bool = True,
    half: bool = False,
    digest_in_name: bool = False,
    overwrite: bool = False,
    config: str | Path | None = None,
    dry_run: bool = False,
) -> list[str]:
    """Convert a file. ``source`` is never touched, and ``out`` is there whole or not at all.

    Args:
        source: The checkpoint, ``.pth`` or ``.safetensors``.
        out: The new file; its suffix says which of the two it becomes.
        to: See :func:`plan_conversion`, as for ``strict`` and ``half``.
        strict: Stop at backbone tensors that the network has no place for.
        half: Store float16.
        digest_in_name: Append the first eight digits of the new file's SHA-256 to its stem.
        overwrite: Replace ``out`` where it exists.
        config: Load the result in this config's model and run an image through it, before it gets its name.
        dry_run: Report only.

    Returns:
        The report, in lines.

    Raises:
        UserError: Anything about the files or the config does not work; nothing was written then.
    """
    source, out = Path(source).expanduser(), Path(out).expanduser()
    _check_out(source, out, overwrite or digest_in_name or dry_run)
    checkpoint = read_checkpoint(source, mmap=True)
    with error_context(source):
        conversion = plan_conversion(checkpoint, to, strict=strict, half=half)
    del checkpoint
    digest = sha256_of(source)
    conversion.meta[NOTES] |= {'source': source.name, 'source_sha256': digest}
    lines = [f'in        {_described(source, digest)}', *conversion.report()]
    if dry_run:
        return [*lines, 'out       nothing, a dry run']
    verified = []

    def save(part: Path) -> None:
        save_conversion(part, out.suffix, conversion)
        if config is not None:
            verified.append(f'verified  {_verified(part, out, conversion.to, config)}')

    written = write_atomically(out, save, digest_in_name=digest_in_name, overwrite=overwrite)
    return [*lines, *verified, f'out       {_described(written, sha256_of(written))}']


def _verified(part: Path, out: Path, to: str, config: str | Path) -> str:
    try:
        return verify(part, to, config)
    except UserError as error:  # the user knows the file by the name that it would have got
        raise UserError(str(error).replace(str(part), str(out))) from error


def _check_out(source: Path, out: Path, may_exist: bool) -> None:
    if out.suffix not in SUFFIXES:
        raise UserError(f'{out}: the name must end with {" or ".join(SUFFIXES)}')
    if not out.parent.is_dir():
        raise UserError(f'{out}: there is no folder {out.parent}; create it first')
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f'{out}: is the input itself, which is never overwritten; choose another name')
    check_free(out, may_exist)


def _fit_backbone(kept: dict[str, Tensor], arch: Arch, to: str, strict: bool) -> dict[str, list[str]]:
    """Take the tensors out of ``kept`` that the network has no place for, and name them.

    Raises:
        UserError: There are some and ``strict`` forbids it, or any are missing or of another shape.
    """
    backbone = kept if to == 'backbone' else strip_prefix(kept, BACKBONE)
    try:
        with torch.device('meta'):  # shapes are all that is wanted of it
            wanted = CrossFormer(dataclasses.asdict(arch)).state_dict()
    except ValueError as error:
        raise UserError(f'holds no CrossFormer that can be built: {error}') from error
    fit = Fit.of(backbone, wanted)
    if fit.missing or fit.reshaped or (strict and fit.unexpected):
        hint = '; --no-strict drops the unexpected ones' if fit.unexpected else ''
        raise UserError(f'looks like arch {describe_arch(arch)}, but does not fit it: {fit.misfits()}{hint}')
    if not fit.unexpected:
        return {}
    prefix = '' if to == 'backbone' else BACKBONE
    unexpected = [prefix + name for name in fit.unexpected]
    for name in unexpected:
        del kept[name]
    return {'which the network has no place for': unexpected}


def _stored(tensor: Tensor, half: bool) -> Tensor:
    """What is written of a tensor: its own values alone, not those of a larger storage it is a view of."""
    tensor = tensor.detach()
    if half and tensor.is_floating_point():
        tensor = tensor.half()
    tensor = tensor.contiguous()
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def save_conversion(path: Path, suffix: str, conversion: Conversion) -> None:
    """Write the file.

    Args:
        path: Where, under any name.
        suffix: One of :data:`SUFFIXES`.
        conversion: What.

    Raises:
        OSError: The disk refuses.
    """
    try:
        if suffix == '.safetensors':
            meta = {'format': 'pt', SAFETENSORS_META: json.dumps(conversion.meta)}
            save_file(conversion.state, path, meta)
            return
        with path.open('wb') as file:  # torch.save would write a name given to it into the file
            state = OrderedDict(conversion.state)
            torch.save({'meta': conversion.meta, 'state_dict': state}, file)
    except (RuntimeError, SafetensorError) as error:  # what the two make of a full disk
        raise OSError(str(error).partition('\n')[0]) from error


def _described(path: Path, digest: str) -> str:
    return f'{path}, {path.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}'
