"""Load checkpoints into models: every tensor, or none."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import PretrainedInit, update_init_info
from torch import Tensor, nn

from ..models.crossformer import CrossFormer
from ..utils.errors import UserError
from ..utils.text import shorten
from .cache import find_weights
from .meta import BACKBONE_NOTES, implied_layout, notes_of
from .names import (
    BACKBONE,
    NECK,
    RPN,
    WRAPPERS,
    Found,
    backbone_of,
    classifier_of,
    find_tensors,
    is_released_classifier,
    model_kind,
    recognise_arch,
    strip_prefix,
    unwrapped,
)
from .reader import Checkpoint, error_context, open_checkpoint

NUMBERS = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)
GROUP_SETTINGS = ('group_sizes', 'intervals', 'adaptive_intervals')  # besides `long_distance`
NAMED = 50  # names in the warning about layers that are not loaded


def load_backbone(model: nn.Module, source: str | Path | Checkpoint) -> None:
    """Load a backbone's weights, all of them or none.

    Args:
        model: The network that gets the weights, a :class:`CrossFormer`; it may be compiled or wrapped.
        source: The file, or the result of :func:`~.reader.open_checkpoint`: a released classification
            checkpoint, a converted one, or one of a complete classifier, detector or segmentor. Its other
            parts, which the log names, buffers that the network computes itself, and stages that ``model``
            does not have are ignored.

    Raises:
        UserError: The file cannot be read or a backbone tensor is missing, unexpected, of another
            shape, NaN or infinite. The model is then unchanged.
    """
    _load('Backbone', model, open_checkpoint(source))


def load_model(
    model: nn.Module, source: str | Path | Checkpoint, *, other_classes: bool = False
) -> Checkpoint:
    """Load a checkpoint of a complete classifier, detector or segmentor, strictly.

    Args:
        model: The model that gets the weights; it may be compiled or wrapped.
        source: A checkpoint written by the current toolboxes, a converted one, or a released classification
            checkpoint: the file, or the result of :func:`~.reader.open_checkpoint`.
        other_classes: Take a checkpoint of another number of classes, too: the layers of the heads that
            depend on it are not loaded, and a warning names them.

    Returns:
        The checkpoint, with its ``meta``.

    Raises:
        UserError: The file cannot be read, or tensors are missing, unexpected, of another shape
            (another arch, number of classes or head), NaN or infinite. The model is then unchanged.
    """
    checkpoint = open_checkpoint(source)
    _load('Model', model, checkpoint, other_classes=other_classes)
    compare_layouts(model, checkpoint)
    return checkpoint


def load_part(module: nn.Module, source: str | Path | Checkpoint, prefix: str | None = None) -> None:
    """Load weights into any part of a model, such as a neck, all of them or none.

    Tensors that a part without a CrossFormer does not have, such as the classifier of another backbone, are
    only named in a warning.

    Args:
        module: The part.
        source: The file.
        prefix: The prefix of its tensors in the file.

    Raises:
        UserError: As :func:`load_model`.
    """
    _load(type(_inner(module)).__name__, module, open_checkpoint(source), prefix, lenient=True)


class CrossFormerPretrained(PretrainedInit):
    """mmengine's initialiser ``Pretrained``, which ``init_cfg`` uses, through the safe and strict reader.

    Args:
        checkpoint: The file, or a name for :func:`~.cache.find_weights`.
        prefix: The prefix of the part's tensors in the file.
        map_location: Not used; tensors are copied to where the part's are.
    """

    def __call__(self, module: nn.Module) -> None:
        """Load the weights."""
        load_part(module, find_weights(self.checkpoint), self.prefix)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())


def load_state_dict(
    module: nn.Module, state_dict: Mapping[str, Any], strict: bool = False, logger: Any = None
) -> None:
    """As mmengine's function of this name, but always strict: see :func:`load_part`.

    Args:
        module: The model or part.
        state_dict: Its tensors, or a checkpoint with them.
        strict: Not used.
        logger: Not used.

    Raises:
        UserError: They do not fit.
    """
    _load(None, module, Checkpoint(state_dict, Path('the checkpoint')), lenient=True)


def check_model(model: nn.Module, source: str | Path | Checkpoint) -> None:
    """Check that a checkpoint fits a model, without loading or logging anything.

    Args:
        model: The model, which is not changed.
        source: As for :func:`load_model`.

    Raises:
        UserError: As :func:`load_model`.
    """
    checkpoint = open_checkpoint(source)
    with error_context(checkpoint.path):
        model = _inner(model)
        wanted = _wanted(model)
        state = _tensors_for(model, wanted, checkpoint).state
        _check_fit(state, wanted)
        check_values(state, wanted)


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors with NaN or infinite values."""
    return [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]


def check_values(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Check that tensors are plain, finite numbers.

    Args:
        state: A file's tensors.
        wanted: The model's; where these are floating point, so must be the file's.

    Raises:
        UserError: Some are not; the message names them.
    """
    odd = {name: _oddity(tensor, wanted.get(name)) for name, tensor in state.items()}
    if odd := [f'{name} ({reason})' for name, reason in odd.items() if reason]:
        raise UserError(f'no plain numbers in {shorten(odd)}; save the model in float32')
    if bad := not_finite(state):
        raise UserError(f'NaN or infinite values in {shorten(bad)}; take another checkpoint')


def _oddity(tensor: Tensor, wanted: Tensor | None) -> str | None:
    if tensor.is_meta:
        return 'meta, without values'
    if tensor.layout != torch.strided:
        return str(tensor.layout).removeprefix('torch.')
    integers = not tensor.is_floating_point() and wanted is not None and wanted.is_floating_point()
    return str(tensor.dtype).removeprefix('torch.') if tensor.dtype not in NUMBERS or integers else None


def _inner(model: nn.Module) -> nn.Module:
    """The model inside the modules that compile, distribute or average it."""
    while (children := dict(model.named_children())).keys() in ({name} for name in WRAPPERS):
        (model,) = children.values()
    return model


def _wanted(model: nn.Module) -> dict[str, Tensor]:
    """A model's tensors, with the names that they have in a file; parts of it may be compiled or wrapped."""
    return {unwrapped(name): t for name, t in model.state_dict().items() if isinstance(t, Tensor)}


def _load(
    what: str | None,
    model: nn.Module,
    checkpoint: Checkpoint,
    prefix: str | None = None,
    *,
    other_classes: bool = False,
    lenient: bool = False,
) -> None:
    with error_context(checkpoint.path):
        model = _inner(model)
        wanted = _wanted(model)
        found = _tensors_for(model, wanted, checkpoint, prefix)
        state = found.state
        layers, classes = _class_layers(model, wanted, state) if other_classes else ([], '')
        for name in layers:
            del state[name], wanted[name]
        is_ours = layout_of(model) is not None
        if what:
            _log_counts(f'{what} from {checkpoint.path}', found, wanted, checkpoint if is_ours else None)
        if lenient and not is_ours and not prefix:
            _leave_out(state, wanted, checkpoint.path)
        _check_fit(state, wanted)
        check_values(state, wanted)
    if layers:
        print_log(
            f'{checkpoint.path}: has another number of classes than the model ({classes}); {len(layers)}'
            f' tensors are not loaded, but initialised: {shorten(layers, NAMED)}',
            logger='current',
            level=logging.WARNING,
        )
    own = {unwrapped(name): name for name in model.state_dict()}
    model.load_state_dict({own[name]: state[name] for name in wanted if name in state}, strict=False)


def _tensors_for(
    model: nn.Module, wanted: Mapping[str, Tensor], checkpoint: Checkpoint, prefix: str | None = None
) -> Found:
    """The tensors of a checkpoint that are for a model, without those that a CrossFormer ignores."""
    if prefix:
        prefix = prefix.removesuffix('.') + '.'
        found = find_tensors(checkpoint, [prefix + name for name in wanted])
        if not (state := strip_prefix(found.state, prefix)):
            raise UserError(f'holds no tensors with the prefix {prefix}, but {shorten(found.state)}')
        found = found._replace(state=state)
    else:
        found = find_tensors(checkpoint, wanted)
    backbone = _inner(getattr(model, 'backbone', model))
    if not isinstance(backbone, CrossFormer):
        return found
    at, state, others = BACKBONE, found.state, []
    if backbone is model:
        at, state = '', backbone_of(state)
        others = [name for name in found.state if name.removeprefix(BACKBONE) not in state]
    elif model_kind(wanted) == 'classifier' and is_released_classifier(state):
        state = classifier_of(state)
    names = [n for n in state if not (n.startswith(at) and backbone.ignores(n.removeprefix(at)))]
    return found._replace(state={name: state[name] for name in names}, others=others)


def _class_layers(
    model: nn.Module, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[list[str], str]:
    """The tensors that differ only because a file has another number of classes than the model.

    These have an output for each class, or several, and possibly as many for the background. All of them,
    and all tensors of their layers, must imply the same number of classes in the file.

    Returns:
        Their names, and a text with both numbers of classes.
    """
    names = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    implied = [_class_counts(model, name, wanted[name].shape, state[name].shape) for name in names]
    layers = {name.rpartition('.')[0] for name in names}
    complete = all(name in names for name in wanted if name.rpartition('.')[0] in layers)
    counts = sorted(set.intersection(*implied)) if names and complete else []
    return (names, '{}, not {}'.format(*counts[0])) if counts else ([], '')


def _class_counts(model: nn.Module, name: str, ours: torch.Size, theirs: torch.Size) -> set[tuple[int, int]]:
    """The numbers of classes, of the file and of the model, that explain one tensor's shape."""
    count = None
    for part in name.split('.')[:-1]:
        model = _inner(getattr(_inner(model), part))
        count = getattr(model, 'num_classes', count)
    if name.startswith((BACKBONE, NECK, RPN)) or not count or not ours or ours[1:] != theirs[1:]:
        return set()
    found = set()
    for background in (0, 1):
        outputs, rest = divmod(ours[0], count + background)
        if not rest and theirs[0] % outputs == 0:
            found.add((theirs[0] // outputs - background, count))
    return {counts for counts in found if counts[0]}


def mismatches(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Compare a file's tensors with those of a model; returns the names of mismatches by kind."""
    reshaped = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    return {
        'missing': [name for name in wanted if name not in state],
        'unexpected': [name for name in state if name not in wanted],
        'of another shape': [f'{n} ({_size(state[n])}, not {_size(wanted[n])})' for n in reshaped],
    }


def describe(mismatches: Mapping[str, list[str]]) -> str:
    """Format mismatches for an error message, with the first names of each kind."""
    return '; '.join(f'{len(names)} {kind}: {shorten(names)}' for kind, names in mismatches.items() if names)


def _log_counts(what: str, found: Found, wanted: Mapping[str, Tensor], checkpoint: Checkpoint | None) -> None:
    """Log which tensors were found, how many match, and a CrossFormer's layout and parts left out."""
    found_as = mismatches(found.state, wanted)
    matched = len(wanted) - len(found_as['missing']) - len(found_as['of another shape'])
    counts = ', '.join(f'{len(names)} {kind}' for kind, names in found_as.items())
    if found.copies:
        what += f' ({".".join(found.path) or "top level"}, not {shorten(found.copies)})'
    layout = f'; long_distance {implied_layout(checkpoint)}' if checkpoint else ''
    parts = dict.fromkeys(name.partition('.')[0] for name in found.others)
    left = f'; left out: {shorten(parts)}' if checkpoint and parts else ''
    print_log(f'{what}: {matched} tensors matched, {counts}{layout}{left}', logger='current')


def _leave_out(state: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    """Leave out tensors that the model does not have, and counters of batches that old files lack."""
    unexpected = [name for name in state if name not in wanted]
    for name in unexpected:
        del state[name]
    for name in [name for name in wanted if name.endswith('num_batches_tracked') and name not in state]:
        del wanted[name]
    if unexpected:
        more = describe({'tensors not needed': unexpected})
        print_log(f'{path}: {more}', logger='current', level=logging.WARNING)


def _check_fit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    found = mismatches(state, wanted)
    if any(found.values()):
        raise UserError(f'does not fit the model{_hint(state, wanted)}: {describe(found)}')


def layout_of(model: nn.Module) -> str | None:
    """The ``long_distance`` of a model's backbone, None if that is not a CrossFormer."""
    return notes_on(model).get('long_distance')


def notes_on(model: nn.Module) -> dict[str, Any]:
    """What files with a model note about its backbone; nothing if that is not a CrossFormer."""
    for module in model.modules():
        if isinstance(module, CrossFormer):
            return {'long_distance': module.long_distance, BACKBONE_NOTES: module.settings}
    return {}


def compare_layouts(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Warn if a file was trained with other groups of attention than the model's, which tensors do not show.

    Args:
        model: The model.
        checkpoint: The file.
    """
    ours = notes_on(model).get(BACKBONE_NOTES)
    if not ours:
        return
    layouts = implied_layout(checkpoint).layouts
    theirs = {'long_distance': layouts[0]} if layouts and ours['long_distance'] not in layouts else {}
    noted = notes_of(checkpoint).get(BACKBONE_NOTES)
    if isinstance(noted, Mapping):
        theirs |= {name: noted[name] for name in GROUP_SETTINGS if name in noted}
    for name in theirs:
        value, own = _plain(theirs[name]), _plain(ours[name])
        if value == own:
            continue
        print_log(
            f'{checkpoint.path}: was trained with {name}={value!r}, but the model has {own!r}, which computes'
            ' different outputs from the same weights; for the results of the training, set'
            f' model.backbone.{name}={str(value).replace(" ", "")}',
            logger='current',
            level=logging.WARNING,
        )


def _plain(value: Any) -> Any:
    """A setting as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def _hint(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """A hint with the kinds of model, or the archs, if they differ."""
    theirs, ours = model_kind(state), model_kind(wanted)
    if theirs != ours and ours != 'backbone':
        return f' (the file holds a {theirs}, the model is a {ours})'
    try:
        ours = recognise_arch(wanted)
    except UserError:  # a model of fewer stages, or with another backbone
        return ''
    try:
        theirs = recognise_arch(state)
    except UserError as error:
        return f' (the file {error})'
    return f" (the file's arch is {theirs}, the model's {ours})" if theirs != ours else ''


def _size(tensor: Tensor) -> str:
    return '×'.join(map(str, tensor.shape)) or 'scalar'
