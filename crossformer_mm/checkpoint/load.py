"""Load checkpoints into models: every tensor, or none."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Fit:
    """How the tensors of a file match a model's, by their names."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]  # with both shapes

    @classmethod
    def of(cls, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> 'Fit':
        """Compare a file's tensors with those that a model has."""
        both = [name for name in wanted if name in state]
        reshaped = {name for name in both if state[name].shape != wanted[name].shape}
        return cls(
            matched=[name for name in both if name not in reshaped],
            missing=[name for name in wanted if name not in state],
            unexpected=[name for name in state if name not in wanted],
            reshaped=[f'{n} ({_size(state[n])}, not {_size(wanted[n])})' for n in both if n in reshaped],
        )

    @property
    def is_exact(self) -> bool:
        """Whether every tensor has its counterpart."""
        return not (self.missing or self.unexpected or self.reshaped)

    def counts(self) -> str:
        """For the log."""
        return (
            f'{len(self.matched)} tensors matched, {len(self.missing)} missing, '
            f'{len(self.unexpected)} unexpected, {len(self.reshaped)} of another shape'
        )

    def mismatches(self) -> str:
        """For an error: the names of the tensors that do not match."""
        kinds = {'missing': self.missing, 'unexpected': self.unexpected, 'of another shape': self.reshaped}
        return '; '.join(f'{len(names)} {kind}: {shorten(names)}' for kind, names in kinds.items() if names)


def load_backbone(model: CrossFormer, source: str | Path | Checkpoint) -> None:
    """Load a backbone's weights, all of them or none.

    Args:
        model: Gets the weights.
        source: The file, or what :func:`~.reader.open_checkpoint` returned for it: a released
            classification checkpoint, a converted one, or one of a whole detector or segmentor. The
            classifier's ``norm`` and ``head``, buffers that the network computes itself, and stages that
            ``model`` does not have are left out.

    Raises:
        UserError: The file cannot be read or a backbone tensor is missing, unexpected, of another
            shape, NaN or infinite. The model is then unchanged.
    """
    checkpoint = open_checkpoint(source)
    model.load_state_dict(_backbone_for(model, checkpoint, f'Backbone from {checkpoint.path}'))


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


def check_backbone(model: CrossFormer, source: str | Path | Checkpoint) -> None:
    """Check that a file holds a backbone's weights, without loading or logging anything.

    Args:
        model: The backbone; stays as it is.
        source: As for :func:`load_backbone`.

    Raises:
        UserError: As :func:`load_backbone`.
    """
    _backbone_for(model, open_checkpoint(source))


def load_model(model: nn.Module, source: str | Path | Checkpoint) -> Checkpoint:
    """Load a checkpoint of a whole detector or segmentor, strictly.

    Args:
        model: Gets the weights; may be wrapped for distributed training.
        source: A checkpoint that today's toolboxes wrote, or a converted one: the file, or what
            :func:`~.reader.open_checkpoint` returned for it.

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
        _check_fit(state, model.state_dict(), f'Model from {checkpoint.path}', layout)
        check_finite(state)
    _compare_layouts(model, checkpoint.path, layout)
    model.load_state_dict(state)
    return checkpoint


def check_model(model: nn.Module, source: str | Path | Checkpoint) -> None:
    """Check that a checkpoint fits a model, without loading or logging anything.

    Args:
        model: The model; stays as it is.
        source: As for :func:`load_model`.

    Raises:
        UserError: As :func:`load_model`, except for NaN and infinite values.
    """
    checkpoint = open_checkpoint(source)
    with error_context(checkpoint.path):
        _check_fit(_tensors_for(model, checkpoint), model.state_dict())


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors with NaN or infinite values."""
    return [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]


def check_finite(state: Mapping[str, Tensor]) -> None:
    """Raise a :class:`UserError` that names the tensors with NaN or infinite values, if any."""
    if bad := not_finite(state):
        raise UserError(f'NaN or infinite values in {shorten(bad)}; take another checkpoint')


def _backbone_for(model: CrossFormer, checkpoint: Checkpoint, log_as: str | None = None) -> dict[str, Tensor]:
    with error_context(checkpoint.path):
        state = backbone_of(tensors_of(checkpoint))
        backbone = {k: v for k, v in state.items() if not model.ignores(k)}
        _check_fit(backbone, model.state_dict(), log_as, implied_layout(checkpoint))
        check_finite(backbone)
    return backbone


def _tensors_for(model: nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    state, backbone = tensors_of(checkpoint), getattr(model, 'backbone', None)
    if not isinstance(backbone, CrossFormer):
        return state
    return {
        name: tensor
        for name, tensor in state.items()
        if not (name.startswith(BACKBONE) and backbone.ignores(name.removeprefix(BACKBONE)))
    }


def _check_fit(
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    log_as: str | None = None,
    layout: ImpliedLayout | None = None,
) -> None:
    fit = Fit.of(state, wanted)
    if log_as:
        print_log(f'{log_as}: {fit.counts()}; long_distance {layout}', logger='current')
    if not fit.is_exact:
        raise UserError(f'does not fit the model{_arch_hint(state, wanted)}: {fit.mismatches()}')


def _compare_layouts(model: nn.Module, path: Path, layout: ImpliedLayout) -> None:
    """Warn if a file was trained with another layout of long distance attention than the model's."""
    ours = next((module.long_distance for module in model.modules() if isinstance(module, CrossFormer)), None)
    if ours and layout.layouts and ours not in layout.layouts:
        theirs = layout.layouts[0]
        print_log(
            f'{path}: was trained with long_distance={theirs!r}, but the model has {ours!r}, which computes'
            ' different outputs from the same weights; to evaluate and predict as trained, set'
            f' model.backbone.long_distance={theirs}',
            logger='current',
            level=logging.WARNING,
        )


def _arch_hint(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Both archs, if they differ."""
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
