"""Load checkpoints into models: every tensor, or none."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from ..models.crossformer import CrossFormer
from ..utils.errors import UserError
from ..utils.text import shorten
from .meta import ImpliedLayout, implied_layout
from .names import BACKBONE, backbone_of, recognise_arch, tensors_of
from .reader import Checkpoint, error_context, open_checkpoint


def load_backbone(model: CrossFormer, source: str | Path | Checkpoint) -> None:
    """Load a backbone's weights, all of them or none.

    Args:
        model: The network that gets the weights.
        source: The file, or the result of :func:`~.reader.open_checkpoint`: a released classification
            checkpoint, a converted one, or one of a complete detector or segmentor. The classifier's ``norm``
            and ``head``, buffers that the network computes itself, and stages that ``model`` does not have
            are ignored.

    Raises:
        UserError: The file cannot be read or a backbone tensor is missing, unexpected, of another
            shape, NaN or infinite. The model is then unchanged.
    """
    checkpoint = open_checkpoint(source)
    with error_context(checkpoint.path):
        state = {k: v for k, v in backbone_of(tensors_of(checkpoint)).items() if not model.ignores(k)}
        _check_fit(state, model, f'Backbone from {checkpoint.path}', implied_layout(checkpoint))
        check_finite(state)
    model.load_state_dict(state)


class CrossFormerPretrained:
    """:func:`load_backbone` as one of mmengine's initialisers, which ``init_cfg`` of a backbone uses.

    Args:
        checkpoint: The file.
    """

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def __call__(self, module: CrossFormer) -> None:
        """Load the weights."""
        load_backbone(module, self.checkpoint)


def load_model(model: nn.Module, source: str | Path | Checkpoint) -> Checkpoint:
    """Load a checkpoint of a complete detector or segmentor, strictly.

    Args:
        model: The model that gets the weights; may be wrapped for distributed training.
        source: A checkpoint written by the current toolboxes, or a converted one: the file, or the result of
            :func:`~.reader.open_checkpoint`.

    Returns:
        The checkpoint, with its ``meta``.

    Raises:
        UserError: The file cannot be read, or tensors are missing, unexpected, of another shape
            (another arch, number of classes or head), NaN or infinite. The model is then unchanged.
    """
    model = model.module if is_model_wrapper(model) else model
    checkpoint = open_checkpoint(source)
    with error_context(checkpoint.path):
        state = _tensors_for(model, checkpoint)
        layout = implied_layout(checkpoint)
        _check_fit(state, model, f'Model from {checkpoint.path}', layout)
        check_finite(state)
    compare_layouts(model, checkpoint.path, layout)
    model.load_state_dict(state)
    return checkpoint


def check_model(model: nn.Module, source: str | Path | Checkpoint) -> None:
    """Check that a checkpoint fits a model, without loading or logging anything.

    Args:
        model: The model, which is not changed.
        source: As for :func:`load_model`.

    Raises:
        UserError: As :func:`load_model`, except for NaN and infinite values.
    """
    checkpoint = open_checkpoint(source)
    with error_context(checkpoint.path):
        _check_fit(_tensors_for(model, checkpoint), model)


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors with NaN or infinite values."""
    return [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]


def check_finite(state: Mapping[str, Tensor]) -> None:
    """Raise a :class:`UserError` that names the tensors with NaN or infinite values, if any."""
    if bad := not_finite(state):
        raise UserError(f'NaN or infinite values in {shorten(bad)}; take another checkpoint')


def _tensors_for(model: nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    state, backbone = tensors_of(checkpoint), getattr(model, 'backbone', None)
    if not isinstance(backbone, CrossFormer):
        return state
    return {
        name: tensor
        for name, tensor in state.items()
        if not (name.startswith(BACKBONE) and backbone.ignores(name.removeprefix(BACKBONE)))
    }


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


def _check_fit(
    state: Mapping[str, Tensor],
    model: nn.Module,
    log_as: str | None = None,
    layout: ImpliedLayout | None = None,
) -> None:
    wanted = model.state_dict()
    found = mismatches(state, wanted)
    if log_as:
        matched = len(wanted) - len(found['missing']) - len(found['of another shape'])
        counts = ', '.join(f'{len(names)} {kind}' for kind, names in found.items())
        print_log(f'{log_as}: {matched} tensors matched, {counts}; long_distance {layout}', logger='current')
    if any(found.values()):
        raise UserError(f'does not fit the model{_arch_hint(state, wanted)}: {describe(found)}')


def layout_of(model: nn.Module) -> str | None:
    """The ``long_distance`` of a model's backbone, None if that is not a CrossFormer."""
    return next((module.long_distance for module in model.modules() if isinstance(module, CrossFormer)), None)


def compare_layouts(model: nn.Module, path: Path, layout: ImpliedLayout) -> None:
    """Warn if a file was trained with another layout of long distance attention than the model's.

    Args:
        model: The model.
        path: The file, for the message.
        layout: Its layout, from :func:`~.meta.implied_layout`.
    """
    ours = layout_of(model)
    if ours and layout.layouts and ours not in layout.layouts:
        theirs = layout.layouts[0]
        print_log(
            f'{path}: was trained with long_distance={theirs!r}, but the model has {ours!r},'
            ' which computes different outputs from the same weights; for the results of the training, set'
            f' model.backbone.long_distance={theirs}',
            logger='current',
            level=logging.WARNING,
        )


def _arch_hint(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """A hint with both archs, if they differ."""
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
