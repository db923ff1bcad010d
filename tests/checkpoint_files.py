"""Generated checkpoint files in the released formats: published names, weights by the reference rule."""

import contextlib
import io
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference import fill_by_rule, reference_tensor
from safetensors.torch import save_file
from torch import Tensor

from crossformer_mm import CrossFormer

NARROW = {'embed_dims': 32, 'depths': (1, 1, 4, 2), 'num_heads': (1, 2, 4, 8)}
NARROW_NAME = 'dict(embed_dims=32, depths=(1, 1, 4, 2), num_heads=(1, 2, 4, 8))'
CLASSES = 10


class CfgNode(dict):
    """A stand-in for a yacs config in pickles: a dict with attributes."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        vars(self).update(__immutable__=True, __deprecated_keys__=set(), __renamed_keys__={})


CfgNode.__module__ = 'yacs.config'


@contextlib.contextmanager
def yacs() -> Iterator[None]:
    """A fake yacs module, which exists while a file is written, but not while it is read."""
    module = types.ModuleType('yacs.config')
    module.CfgNode = CfgNode
    modules = {'yacs': types.ModuleType('yacs'), 'yacs.config': module}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def backbone(arch: str | Mapping[str, Any] = NARROW, **options: Any) -> CrossFormer:
    """A backbone with the rule's weights, in evaluation mode."""
    return fill_by_rule(CrossFormer(arch, **options)).eval()


def classifier_state(model: CrossFormer, classes: int = CLASSES) -> dict[str, Tensor]:
    """The tensors of a classifier: the backbone's, and a head by the rule."""
    width = model.out_channels[-1]
    shapes = {
        'norm.weight': (width,),
        'norm.bias': (width,),
        'head.weight': (classes, width),
        'head.bias': (classes,),
    }
    head = {name: reference_tensor(name, shape) for name, shape in shapes.items()}
    return OrderedDict(**model.state_dict(), **head)


def with_derived_buffers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as in the oldest releases, with two derived buffers per block."""
    state = OrderedDict(state)
    for name in [name for name in state if name.endswith('attn.qkv.weight')]:
        attention = name.removesuffix('qkv.weight')
        state[f'{attention}biases'] = torch.zeros(169, 2)
        state[f'{attention}relative_position_index'] = torch.zeros(49, 49, dtype=torch.long)
    return state


def prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors with a prefix added to their names."""
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


def save_classifier(path: Path, state: Mapping[str, Tensor], zipped: bool = True, **more: Any) -> Path:
    """A released classification file."""
    checkpoint = {
        'model': state,
        'optimizer': {'state': {0: {'exp_avg': torch.ones(3)}}, 'param_groups': [{'lr': 1e-3}]},
        'lr_scheduler': {'base_values': [1e-3], 'noise_range_t': None},
        'max_accuracy': np.float64(82.5),
        'epoch': 299,
        'config': CfgNode(DATA=CfgNode(IMG_SIZE=224), MODEL=CfgNode(DEPTHS=[2, 2, 6, 2])),
        **more,
    }
    with yacs():
        torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    return path


def save_old_toolbox(path: Path, state: Mapping[str, Tensor], **meta: Any) -> Path:
    """A file of MMDetection 2.x or MMSegmentation 0.x."""
    meta = {'env_info': 'sys.platform: linux', 'config': 'model = dict()', 'epoch': 12, 'iter': 87960} | meta
    optimizer = {'state': {}, 'param_groups': [{'lr': 1e-4, 'params': [0, 1]}]}
    torch.save({'meta': meta, 'state_dict': OrderedDict(state), 'optimizer': optimizer}, path)
    return path


def save_every_kind(folder: Path, model: CrossFormer) -> dict[str, Path]:
    """Write a file of each kind that contains a backbone."""
    state, classifier = model.state_dict(), classifier_state(model)
    detector = prefixed(state, 'backbone.') | {
        'bbox_head.fc.weight': torch.ones(2, 2),
        'neck.a': torch.ones(2),
    }
    segmentor = prefixed(state, 'backbone.') | {'decode_head.conv_seg.weight': torch.ones(2, 2)}
    writers = {
        'released': lambda path: save_classifier(path, classifier),
        'legacy format': lambda path: save_classifier(path, classifier, zipped=False),
        'oldest classifier': lambda path: save_classifier(path, with_derived_buffers(classifier)),
        'distributed': lambda path: save_classifier(path, prefixed(classifier, 'module.')),
        'detector': lambda path: save_old_toolbox(path, detector),
        'distributed detector': lambda path: save_old_toolbox(path, prefixed(detector, 'module.')),
        'oldest segmentor': lambda path: save_old_toolbox(path, with_derived_buffers(segmentor)),
        'bare tensors': lambda path: torch.save(state, path),
        'half': lambda path: torch.save({n: t.half() for n, t in state.items()}, path),
        'safetensors': lambda path: save_file(state, path),
    }
    paths = {kind: folder / f'{kind}.pth' for kind in writers}
    for kind, write in writers.items():
        write(paths[kind])
    return paths


def zip_of_pickle(path: Path, pickled: bytes) -> Path:
    """A checkpoint of torch's zip format around a hand-written pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('archive/data.pkl', pickled)
        archive.writestr('archive/version', '3\n')
    path.write_bytes(buffer.getvalue())
    return path
