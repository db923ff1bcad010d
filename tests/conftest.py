"""Shared fixtures: a tiny COCO dataset, and configs that are narrow enough to run in seconds on a CPU."""

import copy
import functools
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.visualization import Visualizer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from crossformer_mm import CrossFormer
from crossformer_mm.data.datasets import LOADERS, dicts_in
from crossformer_mm.data.shapes import write_coco

CONFIGS = Path(__file__).parents[1] / 'configs'
WIDTH = 16
WIDTHS = [32, 64, 128, 256]  # of the narrow backbone
NARROW = dict(embed_dims=32, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 8), acl=True)
SMALLER = 8  # how much smaller images and crops are in segmentation than the configs'


def pytest_configure() -> None:
    """Handle Ctrl-C: background jobs, and so the tools that tests interrupt, would otherwise ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def narrow_network(**kwargs: object) -> CrossFormer:
    """A narrow backbone with every kind of layer and the same weights in each call."""
    torch.manual_seed(0)
    return CrossFormer(NARROW, **kwargs)


class plain_path(TorchDispatchMode):
    """A context in which the plain layers are used on CPUs, as on GPUs."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def assert_outputs_close(
    ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float = 1e-5
) -> None:
    """Compare maps, with a tolerance relative to the largest value of each."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * b.abs().max().item())


@pytest.fixture(autouse=True)
def own_visualizer() -> Iterator[None]:
    """Let each run use its own visualiser: mmengine's hooks use the latest one in the process."""
    yield
    classes = [Visualizer]
    for visualizer in classes:
        visualizer._instance_dict.clear()
        classes.extend(visualizer.__subclasses__())


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The messages of mmengine's current logger."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.fixture(scope='session')
def coco_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in COCO's layout: 6 training and 3 validation images of 64×64, three classes."""
    root = tmp_path_factory.mktemp('coco')
    write_coco(root, train=6, val=3, size=64)
    return root


@pytest.fixture(scope='session')
def flat_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``mask_rcnn_crossformer_s.py`` as a single file without base configs, which is quicker to read."""
    path = tmp_path_factory.mktemp('flat') / 'mask_rcnn_crossformer_s.py'
    Config.fromfile(CONFIGS / path.name).dump(path)
    return path


@pytest.fixture(scope='session')
def config() -> Callable[[str], Config]:
    """A function from a config's name in ``configs/`` to that config, each read once."""
    read = functools.cache(lambda name: Config.fromfile(CONFIGS / f'{name}.py'))
    return lambda name: copy.deepcopy(read(name))


@pytest.fixture(scope='session')
def narrow_config(config: Callable[[str], Config]) -> Callable[[str], Config]:
    """A function from a config's name in ``configs/`` to that config, narrow and for small images."""

    def load(name: str) -> Config:
        cfg = config(name)
        narrow_model(cfg.model)
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            cfg[loader].update(num_workers=0, persistent_workers=False)
            for step in cfg[loader].dataset.pipeline:
                if step.type == 'Resize':
                    step.scale = (64, 64)
        return cfg

    return load


@pytest.fixture(scope='session')
def narrow_segmentor(config: Callable[[str], Config]) -> Callable[[str], Config]:
    """A function from a segmentor's name in ``configs/`` to its config, narrow and for small images."""

    def load(name: str) -> Config:
        cfg = config(name)
        _narrow_segmentor(cfg.model)
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            cfg[loader].update(num_workers=0, persistent_workers=False)
            _shrink_images(cfg[loader].dataset.pipeline)
        _shrink_images(cfg.tta_pipeline)
        return cfg

    return load


@pytest.fixture(scope='session')
def narrow_classifier(config: Callable[[str], Config]) -> Callable[[str], Config]:
    """A function from a classifier's name in ``configs/`` to its config, narrow and for images of 32×32."""

    def load(name: str) -> Config:
        cfg = config(name)
        cfg.model.backbone.arch = _narrow_arch(cfg.model.backbone.arch.startswith('pp'))
        cfg.model.head.in_channels = WIDTHS[-1]
        for loader in LOADERS:
            cfg[loader].update(num_workers=0, persistent_workers=False, batch_size=4)
        pipelines = [cfg.tta_pipeline, *(cfg[loader].dataset.pipeline for loader in LOADERS)]
        for _, step in dicts_in(pipelines):
            for key in {'scale', 'crop_size'} & step.keys():
                step[key] = 32
        return cfg

    return load


def _narrow_segmentor(model: ConfigDict) -> None:
    model.backbone.arch = _narrow_arch(model.backbone.arch.startswith('pp'))
    model.data_preprocessor.size = (512 // SMALLER, 512 // SMALLER)
    if 'pixel_decoder' in model.decode_head:  # Mask2Former
        model.decode_head.in_channels = WIDTHS
        _shrink(model.decode_head)
        return
    model.decode_head.channels = WIDTH
    if 'neck' in model:
        model.neck.update(in_channels=WIDTHS, out_channels=WIDTH)
        model.decode_head.in_channels = [WIDTH] * 4
    else:
        model.decode_head.in_channels = WIDTHS
    if 'auxiliary_head' in model:
        model.auxiliary_head.update(in_channels=WIDTHS[2], channels=WIDTH)


def _shrink_images(step: list | dict) -> None:
    if isinstance(step, list):
        for part in step:
            _shrink_images(part)
        return
    for key in ('scale', 'crop_size'):
        if key in step:
            step[key] = tuple(side // SMALLER for side in step[key])
    if 'scales' in step:
        step['scales'] = [side // SMALLER for side in step['scales']]
    _shrink_images(step.get('transforms', []))


def groups_of(cfg: Config) -> tuple[list[int], list[int], str]:
    """G and I of each stage, and the layout, of the backbone that a config builds."""
    settings = {name: value for name, value in cfg.model.backbone.items() if name != 'type'}
    with torch.device('meta'):
        rules = [stage.blocks[0].attn.groups for stage in CrossFormer(**settings).layers]
    (layout,) = {rule.layout for rule in rules}
    return [rule.group_size for rule in rules], [rule.interval for rule in rules], layout


def narrow_model(model: dict[str, Any]) -> None:
    """Keep a model's structure, its cooling layers included, and shrink every width and count in it."""
    acl = str(model['backbone']['arch']).startswith('pp')
    model['backbone']['arch'] = _narrow_arch(acl)
    widths = [WIDTHS[stage] for stage in model['backbone'].get('out_indices', range(4))]
    model['neck' if 'neck' in model else 'panoptic_head']['in_channels'] = widths
    if 'encoder' in model:
        model['bbox_head']['embed_dims'] = WIDTH
    for padding in model['data_preprocessor'].get('batch_augments') or []:
        padding['size'] = (96, 96)
    _shrink(model)


def _narrow_arch(acl: bool) -> dict[str, Any]:
    return {'embed_dims': 32, 'depths': (1, 1, 4, 1), 'num_heads': (1, 2, 4, 8), 'acl': acl}


def _shrink(part: Any) -> None:
    smaller = {128: WIDTH // 2, 256: WIDTH, 1024: 32, 2048: 32}
    counts = {'nms_pre': 50, 'max_per_img': 20, 'num': 16}  # of boxes that are proposed and sampled
    counts |= {'num_layers': 2, 'num_queries': 20, 'max_per_image': 20, 'num_dn_queries': 5}
    counts |= {'num_points': 4, 'num_groups': 4}
    if isinstance(part, dict):
        for key, value in part.items():
            if key.endswith(('channels', 'embed_dims', 'num_feats')) and isinstance(value, int):
                part[key] = smaller.get(value, value)
            elif key in counts and isinstance(value, int):
                part[key] = counts[key]
            else:
                _shrink(value)
    elif isinstance(part, list):
        for value in part:
            _shrink(value)
