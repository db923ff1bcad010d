"""Load checkpoints into models, whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from ..models.grouping import GroupRule
from ..utils.errors import UserError
from .layout import ImpliedLayout, implied_layout
from .names import BACKBONE, backbone_of, shorten, tensors_of
from .reader import error_context, read_checkpoint
from .recognise import recognise_arch

if TYPE_CHECKING:
    from ..models.crossformer import CrossFormer


@dataclass(frozen=True)
class Fit:
    """How the tensors of a file fit a model's, by their names."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]  # with both shapes

    @classmethod
    def of(cls, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Fit:
        """Compare a file's tensors with those that a model wants."""
        both = [name for name in wanted if name in state]
        reshaped = [name for name in both if state[name].shape != wanted[name].shape]
        return cls(
            matched=[name for name in both if name not in set(reshaped)],
            missing=[name for name in wanted if name not in state],
            unexpected=[name for name in state if name not in wanted],
            reshaped=[f'{n} ({_size(state[n])}, not {_size(wanted[n])})' for n in reshaped],
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

    def misfits(self) -> str:
        """For an error: the names of what does not fit."""
        kinds = {
            'missing': self.missing,
            'unexpected': self.unexpected,
            'of another shape': self.reshaped,
        }
        return '; '.join(f'{len(v)} {kind}: {shorten(v)}' for kind, v in kinds.items() if v)


def load_backbone(model: CrossFormer, path: str | Path) -> None:
    """Load a backbone's weights, all of them or none.

    Args:
        model: Gets the weights.
        path: A released classification checkpoint, a converted one, or one of a whole detector or
            segmentor. The classifier's ``norm`` and ``head``, buffers that the network derives, and
            stages that ``model`` does not build are left out.

    Raises:
        UserError: The file cannot be read or a backbone tensor is missing, unexpected, of another
            shape, NaN or infinite. The model is then as it was.
    """
    model.load_state_dict(_backbone_for(model, path, f'Backbone from {path}'))


def check_backbone(model: CrossFormer, path: str | Path) -> None:
    """Check that a file holds a backbone's weights, without loading or logging anything.

    Args:
        model: As the file should have it; stays as it is.
        path: As for :func:`load_backbone`.

    Raises:
        UserError: As :func:`load_backbone`.
    """
    _backbone_for(model, path)


def load_model(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Load a checkpoint of a whole detector or segmentor, strictly.

    Args:
        model: Gets the weights; may be wrapped for distributed running.
        path: A checkpoint that today's toolboxes wrote, or a converted one.

    Returns:
        The checkpoint, with its ``meta``.

    Raises:
        UserError: The file cannot be read, or tensors are missing, unexpected, of another shape
            (another arch, number of classes or head), NaN or infinite. The model is then as it was.
    """
    model = model.module if is_model_wrapper(model) else model
    checkpoint = read_checkpoint(path, mmap=True)
    with error_context(path):
        state = _tensors_for(model, checkpoint)
        layout = implied_layout(checkpoint)
        _check_fit(state, model.state_dict(), f'Model from {path}', layout)
        check_finite(state)
    _compare_layouts(model, path, layout)
    model.load_state_dict(state)
    return checkpoint


def check_model(model: nn.Module, path: str | Path) -> None:
    """Check that a checkpoint fits a model, without loading or logging anything.

    Args:
        model: As the checkpoint should have it; stays as it is.
        path: The checkpoint.

    Raises:
        UserError: As :func:`load_model`, but for NaN and infinite values.
    """
    checkpoint = read_checkpoint(path, mmap=True)
    with error_context(path):
        _check_fit(_tensors_for(model, checkpoint), model.state_dict())


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors with NaN or infinite values."""
    return [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]


def check_finite(state: Mapping[str, Tensor]) -> None:
    """Raise a :class:`UserError` that names the tensors with NaN or infinite values, if any."""
    if bad := not_finite(state):
        raise UserError(f'NaN or infinite values in {shorten(bad)}; take another checkpoint')


def _backbone_for(model: CrossFormer, path: str | Path, log_as: str | None = None) -> dict[str, Tensor]:
    checkpoint = read_checkpoint(path, mmap=True)
    with error_context(path):
        state = backbone_of(tensors_of(checkpoint))
        backbone = {k: v for k, v in state.items() if not model.ignores(k)}
        _check_fit(backbone, model.state_dict(), log_as, implied_layout(checkpoint))
        check_finite(backbone)
    return backbone


def _tensors_for(model: nn.Module, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    ignored = _ignored_by(getattr(model, 'backbone', None))
    return {k: v for k, v in tensors_of(checkpoint).items() if not ignored(k)}


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
        raise UserError(f'does not fit the model{_arch_hint(state, wanted)}: {fit.misfits()}')


def _compare_layouts(model: nn.Module, path: str | Path, layout: ImpliedLayout) -> None:
    """Warn where a file was trained in another layout of long distance attention than the model has."""
    rules = [module.groups for module in model.modules() if isinstance(vars(module).get('groups'), GroupRule)]
    if rules and layout.layouts and rules[0].layout not in layout.layouts:
        print_log(
            f'{path}: was trained with long_distance={layout.layouts[0]!r}, and the model has'
            f' {rules[0].layout!r}, which computes something else from the same weights; for evaluation and'
            f' prediction as trained: --cfg-options model.backbone.long_distance={layout.layouts[0]}',
            logger='current',
            level=logging.WARNING,
        )


def _ignored_by(backbone: nn.Module | None) -> Callable[[str], bool]:
    ignores = getattr(backbone, 'ignores', lambda name: False)
    return lambda name: name.startswith(BACKBONE) and ignores(name.removeprefix(BACKBONE))


def _arch_hint(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What the two are, where that is what differs."""
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
