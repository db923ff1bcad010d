"""Convert a checkpoint of any origin into one that the current toolboxes load strictly."""

import dataclasses
import json
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..models.arch import STAGES, Arch
from ..models.crossformer import CrossFormer
from ..utils.errors import UserError
from ..utils.files import check_free, sha256_of, write_atomically
from ..utils.outputs import check_place
from ..utils.text import shorten
from ..version import __version__
from .load import check_values, describe, mismatches, not_finite
from .meta import (
    BACKBONE_NOTES,
    IGNORES_EXIF,
    NOTES,
    dataset_meta_of,
    implied_layout,
    notes_of,
    trained_without_exif,
)
from .names import (
    BACKBONE,
    ablation_of,
    arch_of,
    classes_in,
    classifier_of,
    describe_arch,
    find_tensors,
    is_released_classifier,
    key_text,
    model_kind,
    released_of,
    select_tensors,
    strip_prefix,
)
from .reader import SAFETENSORS_META, error_context, local_path, open_checkpoint

DENSE = ('detector', 'segmentor')
RELEASED = 'released'  # a classifier under the published names, instead of MMPretrain's
TARGETS = ('backbone', 'classifier', *DENSE, RELEASED)
NAMED_AS = {'classifier': ' of MMPretrain', RELEASED: ' with the published names'}
SUFFIXES = ('.pth', '.safetensors')
STATISTICS = ('.running_mean', '.running_var', '.num_batches_tracked')  # buffers, not parameters


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        to: One of :data:`TARGETS`.
        state: The tensors.
        meta: Notes and class names, as plain values.
        report: The lines of the report.
    """

    to: str
    state: dict[str, Tensor]
    meta: dict[str, Any]
    report: list[str]


def plan_conversion(
    checkpoint: Mapping[str, Any], to: str | None = None, *, strict: bool = True, half: bool = False
) -> Conversion:
    """Convert a checkpoint in memory, without writing anything.

    Args:
        checkpoint: From :func:`~.reader.read_checkpoint`.
        to: One of :data:`TARGETS`; None means a backbone for a classifier, otherwise the file's own kind.
        strict: Refuse backbone tensors that the network does not have, instead of dropping them.
        half: Store float16.

    Raises:
        UserError: The checkpoint is not of a CrossFormer, is incomplete or not finite, or lacks the heads.
    """
    found = find_tensors(checkpoint)
    state = found.state
    kind = model_kind(state)
    to = to or (kind if kind in DENSE else 'backbone')
    becomes = 'classifier' if to == RELEASED else to
    if becomes not in ('backbone', kind):
        raise UserError(f'holds a {kind}, which cannot become a {becomes}: it has no such heads')
    arch = arch_of(state)
    kept, dropped = _fit(state, arch, becomes, strict)
    kept = stored(released_of(kept) if to == RELEASED else kept, half)
    if too_large := not_finite(kept):
        raise UserError(
            f'values too large for float16 in {shorten(too_large)}; store them in their own dtype'
        )
    if found.copies:
        dropped[f'other weights than those in {".".join(found.path) or "the top level"}'] = found.copies
    keys = [key for key in checkpoint if found.path and key != found.path[0]]
    other = [name for name in (*map(key_text, keys), *found.others) if name not in ('meta', *found.copies)]
    if other:
        dropped['not needed to load weights'] = other
    layout = implied_layout(checkpoint)
    meta = {NOTES: {'version': __version__, 'arch': describe_arch(arch), 'kind': becomes}}
    if layout.layouts:
        several = len(layout.layouts) > 1
        meta[NOTES]['long_distance'] = list(layout.layouts) if several else layout.layouts[0]
    if (ignored := trained_without_exif(checkpoint)) is not None:
        meta[NOTES][IGNORES_EXIF] = ignored
    if settings := notes_of(checkpoint).get(BACKBONE_NOTES):
        meta[NOTES][BACKBONE_NOTES] = settings
    numbers = sum(t.numel() for n, t in kept.items() if not n.endswith(STATISTICS))
    dtypes = sorted({str(t.dtype).removeprefix('torch.') for t in kept.values()})
    report = [
        f'kind      {kind}, converted to a {becomes}{NAMED_AS.get(to, "")}',
        f'arch      {describe_arch(arch)}',
        f'layout    {layout}',
        f'tensors   {len(kept)}, {numbers / 1e6:.3f} M parameters, {", ".join(dtypes)}',
    ]
    if to != 'backbone' and (dataset_meta := dataset_meta_of(checkpoint)):
        meta['dataset_meta'] = dataset_meta
        classes = dataset_meta.get('classes', ())
        report.append(f'classes   {len(classes)}: {shorten(classes)}')
    elif becomes == 'classifier':
        report.append(f'classes   {classes_in(kept)}, not named in the file')
    report += [f'dropped   {len(n)}, {reason}: {shorten(n)}' for reason, n in dropped.items()]
    return Conversion(to, kept, meta, report)


def convert_checkpoint(
    source: str | Path,
    out: str | Path,
    *,
    to: str | None = None,
    strict: bool = True,
    half: bool = False,
    digest_in_name: bool = False,
    overwrite: bool = False,
    verify: Callable[[Path, str], str] | None = None,
    dry_run: bool = False,
) -> list[str]:
    """Convert a file. ``source`` is never changed, and ``out`` is written atomically.

    Args:
        source: The checkpoint, ``.pth`` or ``.safetensors``.
        out: The new file, of either suffix.
        to: As for :func:`plan_conversion`.
        strict: As for :func:`plan_conversion`.
        half: As for :func:`plan_conversion`.
        digest_in_name: Append the first eight digits of the new file's SHA-256 to its stem.
        overwrite: Replace ``out`` if it exists.
        verify: Called with the complete file, before it gets its final name, and its kind; returns a line for
            the report, or raises.
        dry_run: Only return the report.

    Returns:
        The report, in lines.

    Raises:
        UserError: A file is invalid, or ``verify`` raised it; nothing was written.
    """
    source, out = local_path(source), local_path(out)
    _check_out(source, out, overwrite or digest_in_name or dry_run)
    checkpoint = open_checkpoint(source)
    with error_context(source):
        conversion = plan_conversion(checkpoint, to, strict=strict, half=half)
    del checkpoint  # free the memory of dropped tensors
    digest = sha256_of(source)
    conversion.meta[NOTES] |= {'source': source.name, 'source_sha256': digest}
    lines = [f'in        {_description(source, digest)}', *conversion.report]
    if dry_run:
        return [*lines, 'out       nothing, a dry run']

    def save(part: Path) -> None:
        save_conversion(part, out.suffix, conversion)
        if verify is not None:
            try:
                lines.append(f'verified  {verify(part, conversion.to)}')
            except UserError as error:  # report the file by its final name
                raise UserError(str(error).replace(str(part), str(out))) from error

    written = write_atomically(out, save, digest_in_name=digest_in_name, overwrite=overwrite)
    return [*lines, f'out       {_description(written, sha256_of(written))}']


def _check_out(source: Path, out: Path, may_exist: bool) -> None:
    if out.suffix not in SUFFIXES:
        raise UserError(f'{out}: the name must end with {" or ".join(SUFFIXES)}')
    if not out.parent.is_dir():
        raise UserError(f'{out}: there is no folder {out.parent}; create it first')
    check_place('OUT', out, [source])
    check_free(out, may_exist)


def _fit(
    state: Mapping[str, Tensor], arch: Arch, to: str, strict: bool
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Select the tensors for one of the toolboxes' models, and check them.

    Returns:
        The selected tensors; and the names of the others by reason.

    Raises:
        UserError: They do not fit, or are not finite.
    """
    kept, dropped = select_tensors(state, to)
    released = to == 'classifier' and is_released_classifier(kept)
    if released:
        kept = classifier_of(kept)
    more, wanted = _fit_backbone(kept, arch, to, strict)
    if to == 'classifier':
        wanted |= _fit_classifier_head(kept, arch, released)
    check_values(kept, wanted)
    return kept, dropped | more


def _fit_backbone(
    kept: dict[str, Tensor], arch: Arch, to: str, strict: bool
) -> tuple[dict[str, list[str]], dict[str, Tensor]]:
    """Remove the tensors from ``kept`` that the network does not have.

    Returns:
        Their names, by reason; and the tensors that the network has, without values.

    Raises:
        UserError: There are such tensors and ``strict`` is set, or tensors are missing or of another shape.
    """
    backbone = kept if to == 'backbone' else strip_prefix(kept, BACKBONE)
    try:
        with torch.device('meta'):  # only shapes are needed
            wanted = CrossFormer(dataclasses.asdict(arch), **ablation_of(backbone, arch)).state_dict()
    except ValueError as error:
        raise UserError(f'contains no CrossFormer that can be built: {error}') from error
    found = mismatches(backbone, wanted)
    unexpected = found['unexpected']
    if found['missing'] or found['of another shape'] or (strict and unexpected):
        hint = '; without strict conversion, unexpected ones are dropped' if unexpected else ''
        raise UserError(
            f'looks like arch {describe_arch(arch)}, but does not fit it: {describe(found)}{hint}'
        )
    prefix = '' if to == 'backbone' else BACKBONE
    unexpected = [prefix + name for name in unexpected]
    for name in unexpected:
        del kept[name]
    dropped = {'which the network does not have': unexpected} if unexpected else {}
    return dropped, {prefix + name: tensor for name, tensor in wanted.items()}


def _fit_classifier_head(state: Mapping[str, Tensor], arch: Arch, released: bool) -> dict[str, Tensor]:
    """Check a classifier's tensors besides the backbone's.

    Returns:
        Those that it needs, without values.

    Raises:
        UserError: Tensors are missing, unexpected or of another shape; the names are those in the file.
    """
    head = {name: tensor for name, tensor in state.items() if not name.startswith(BACKBONE)}
    width, classes = arch.embed_dims << (STAGES - 1), max(classes_in(state), 1)
    shapes = {'norm.weight': (width,), 'norm.bias': (width,)}
    shapes |= {'fc.weight': (classes, width), 'fc.bias': (classes,)}
    wanted = {f'head.{name}': torch.empty(shape, device='meta') for name, shape in shapes.items()}
    found = mismatches(*(map(released_of, (head, wanted)) if released else (head, wanted)))
    if any(found.values()):
        raise UserError(f"holds another head than a CrossFormer classifier's: {describe(found)}")
    return wanted


def stored(state: Mapping[str, Tensor], half: bool = False) -> dict[str, Tensor]:
    """The tensors, each with its own storage.

    For a view, torch would save the complete storage; safetensors refuses two tensors in one.
    """
    stored, seen = {}, set()
    for name, tensor in state.items():
        tensor = tensor.detach()
        tensor = (tensor.half() if half and tensor.is_floating_point() else tensor).contiguous()
        storage = tensor.untyped_storage()
        is_view = storage.nbytes() != tensor.numel() * tensor.element_size()
        if is_view or storage.data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        stored[name] = tensor
    return stored


def save_conversion(path: Path, suffix: str, conversion: Conversion) -> None:
    """Write the tensors and ``meta`` to ``path``, in the format of ``suffix``.

    Raises:
        OSError: The file cannot be written.
    """
    try:
        if suffix == '.safetensors':
            meta = {'format': 'pt', SAFETENSORS_META: json.dumps(conversion.meta)}
            save_file(conversion.state, path, meta)
            return
        with path.open('wb') as file:  # given a path, torch.save would write its name into the file
            key = 'model' if conversion.to == RELEASED else 'state_dict'
            torch.save({'meta': conversion.meta, key: OrderedDict(conversion.state)}, file)
    except (RuntimeError, SafetensorError) as error:  # on a full disk
        if isinstance(error.__context__, OSError):  # torch raises another error over it
            raise error.__context__ from None
        code = re.search(r'os error (\d+)', str(error))  # safetensors quotes it
        reason = str(error).partition('\n')[0]
        raise (OSError(int(code[1]), os.strerror(int(code[1]))) if code else OSError(reason)) from error


def _description(path: Path, digest: str) -> str:
    return f'{path}, {path.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}'
