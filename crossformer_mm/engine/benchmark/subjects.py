"""What can be measured: the backbones and whole models that a name stands for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model import BaseModel
from torch import nn

from ...models.crossformer import ARCHS, CrossFormer
from ...models.grouping import LAYOUTS
from ...utils.errors import UserError
from ..config import load_config, quiet_imports
from ..flops import build_model

# As published and as in MMDetection's configs.
SWINS: dict[str, dict[str, Any]] = {
    'swin_t': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), drop_path_rate=0.2),
    'swin_s': dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24), drop_path_rate=0.2),
    'swin_b': dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), drop_path_rate=0.3),
}
GROUPS: dict[str, dict[str, Any]] = {  # the papers' settings
    'standard': {'group_sizes': (7, 7, 7, 7), 'intervals': (8, 4, 2, 1)},
    'large': {'group_sizes': (14, 14, 7, 7), 'intervals': (16, 8, 2, 1)},
    'progressive': {'group_sizes': (4, 4, 14, 7), 'intervals': (4, 2, 1, 1)},
}
CHECKPOINTED, COMPILED = 'cp', 'compile'
VARIANTS = (*GROUPS, *LAYOUTS, CHECKPOINTED, COMPILED)
FAVOURED_CLASS_LOGIT = 5.0
PROPOSING_LAYERS = ('rpn_cls', 'rpn_reg', 'fc_reg')  # of MMDetection's two-stage detectors


@dataclass(frozen=True)
class Subject:
    """A network to measure.

    Attributes:
        name: An arch of :data:`ARCHS`, one of :data:`SWINS`, or a config: a file, or ``mmdet::…`` for one of
            MMDetection's own.
        groups: A setting of groups for a CrossFormer; None keeps its own.
        with_cp: Activation checkpointing.
        compiled: ``torch.compile`` the backbone.
        layout: What long distance groups span, ``'map'`` or ``'window'``; None keeps a CrossFormer's own.
    """

    name: str
    groups: str | None = None
    with_cp: bool = False
    compiled: bool = False
    layout: str | None = None

    @property
    def label(self) -> str:
        """The name in tables; a config's without folder and suffix."""
        name = Path(self.name).stem if self.is_whole_model else self.name
        flags = [CHECKPOINTED] * self.with_cp + [COMPILED] * self.compiled
        return '+'.join([word for word in (name, self.groups, self.layout, *flags) if word])

    @property
    def settings(self) -> dict[str, Any]:
        """What it changes about a CrossFormer's groups, as the network's arguments."""
        groups = GROUPS[self.groups] if self.groups else {}
        return {**groups, **({'long_distance': self.layout} if self.layout else {})}

    @property
    def is_whole_model(self) -> bool:
        """Whether it is a config's detector or segmentor, not a backbone alone."""
        return self.name not in ARCHS and self.name not in SWINS


def parse_subject(text: str) -> Subject:
    """Read a subject as it is given on a command line: a name and what is to be different about it.

    Args:
        text: ``s``, ``s+large``, ``s+window``, ``swin_t+cp+compile``, ``configs/NAME.py``, ….

    Returns:
        The subject.

    Raises:
        UserError: There is no such name or variant, or the variant does not apply.
    """
    name, *words = text.split('+')
    unknown = [word for word in words if word not in VARIANTS]
    if unknown:
        raise UserError(f'{text}: no variant is called "{unknown[0]}"; there are {", ".join(VARIANTS)}')
    if not (name in ARCHS or name in SWINS or name.endswith('.py')):
        raise UserError(
            f'{text}: nothing is called "{name}"; choose of {", ".join([*ARCHS, *SWINS])},'
            ' or name a config file'
        )
    groups, layouts = ([word for word in words if word in choices] for choices in (GROUPS, LAYOUTS))
    if len(groups) > 1 or len(layouts) > 1 or ((groups or layouts) and name in SWINS):
        raise UserError(
            f'{text}: only a CrossFormer has a setting of groups and a layout, and just one of each'
        )
    return Subject(
        name,
        groups[0] if groups else None,
        CHECKPOINTED in words,
        COMPILED in words,
        layouts[0] if layouts else None,
    )


def build(subject: Subject) -> nn.Module:
    """Build a subject with random weights; ``compiled`` is not yet applied.

    Args:
        subject: What to build.

    Returns:
        A backbone, or a whole model (an mmengine ``BaseModel``).

    Raises:
        UserError: The config does not work, or its backbone does not know what the subject asks for.
    """
    if subject.is_whole_model:
        return _build_whole(subject)
    if subject.name in ARCHS:
        return CrossFormer(subject.name, with_cp=subject.with_cp, **subject.settings)
    with quiet_imports():
        from mmdet.models import SwinTransformer  # the one part here that needs MMDetection
    return SwinTransformer(**SWINS[subject.name], with_cp=subject.with_cp)


def _build_whole(subject: Subject) -> BaseModel:
    cfg = read_config(subject.name)
    backbone = cfg.get('model', {}).get('backbone', {})
    backbone.pop('init_cfg', None)  # a toolbox's config would download weights
    if subject.with_cp:
        backbone['with_cp'] = True
    backbone.update(subject.settings)
    model = build_model(cfg)
    _find_something(model)
    return model


def read_config(name: str) -> Config:
    """Read a config file, or one that an installed toolbox brings along.

    Args:
        name: Its path, or ``mmdet::`` and its path in that toolbox's configs.

    Returns:
        The config.

    Raises:
        UserError: It is not there, or does not work.
    """
    if '::' not in name:
        return load_config(name)
    try:
        with quiet_imports():
            return get_config(name)
    except Exception as error:  # a config is a program: anything can go wrong in it
        raise UserError(f'{name}: no such config in an installed toolbox ({type(error).__name__})') from error


def _find_something(model: BaseModel) -> None:
    """Make an untrained detector find as much as a trained one, whatever its backbone.

    Its proposals are anchors, the same in every network, as RoIAlign takes the longer the larger they are;
    and one class is favoured, so that boxes are sorted and masks drawn.
    """
    for name, module in model.named_modules():
        layer = name.rpartition('.')[2]
        if layer in PROPOSING_LAYERS:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        elif layer == 'fc_cls' and isinstance(module, nn.Linear):
            nn.init.constant_(module.bias[:1], FAVOURED_CLASS_LOGIT)
