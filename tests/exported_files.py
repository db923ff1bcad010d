"""Small exported files of every kind, with inputs, outputs and metadata of real ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = ['circle', 'rectangle', 'triangle']
PALETTE = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
MASK = 28
BOXES = np.array(
    [[0.1, 0.2, 0.55, 0.7], [0.4, 0.3, 1.0, 1.0], [0.5, 0.1, 0.7, 0.35], [0, 0, 0, 0]], np.float32
)
LABELS = np.array([2, 0, 1, -1])
SCORES = np.array([0.9, 0.6, 0.2, 0], np.float32)
MASKS = np.random.default_rng(0).random((len(BOXES), MASK, MASK), np.float32)

FIT = {'resize': 'fit', 'interpolation': 'bilinear', 'library': 'opencv', 'ignore_exif': False}
STRETCH = {**FIT, 'resize': 'stretch'}
EDGE = {**FIT, 'resize': 'edge', 'edge': 40, 'interpolation': 'bicubic', 'library': 'pillow'}


def write_detector(
    path: Path,
    size: tuple[int, int],
    batch: int | str = 1,
    masks: bool = True,
    ignore_exif: bool = False,
) -> Path:
    """A detector of three objects at fixed places, with scores in proportion to the image's brightness."""
    constants = {
        'fractions': BOXES[None],
        'certain': SCORES[None],
        'known': LABELS[None],
        'shapes': MASKS[None],
        'sides': np.array([1, 0, 1, 0]),
        'first': np.array([1]),
        'inner': np.array([1, 2, 3]),
        'white': np.float32(3 * 255),
    }
    steps = [
        helper.make_node('Cast', ['size'], ['sizes'], to=TensorProto.FLOAT),
        helper.make_node('Gather', ['sizes', 'sides'], ['corners'], axis=1),
        helper.make_node('Unsqueeze', ['corners', 'first'], ['scales']),
        helper.make_node('Mul', ['fractions', 'scales'], ['boxes']),
        helper.make_node('Cast', ['image'], ['pixels'], to=TensorProto.FLOAT),
        helper.make_node('ReduceSum', ['pixels', 'inner'], ['sums'], keepdims=0),
        helper.make_node('ReduceProd', ['sizes'], ['areas'], axes=[1], keepdims=0),
        helper.make_node('Div', ['sums', 'areas'], ['means']),
        helper.make_node('Div', ['means', 'white'], ['brightness']),
        helper.make_node('Unsqueeze', ['brightness', 'first'], ['factors']),
        helper.make_node('Mul', ['certain', 'factors'], ['scores']),
        helper.make_node('Shape', ['image'], ['count'], start=0, end=1),
        *_repeated('known', 'labels', [len(LABELS)]),
    ]
    outputs = {'boxes': ('float32', [len(BOXES), 4]), 'scores': ('float32', [len(BOXES)])}
    outputs['labels'] = ('int64', [len(BOXES)])
    if masks:
        steps += _repeated('shapes', 'masks', MASKS.shape)
        outputs['masks'] = ('float32', [len(BOXES), MASK, MASK])
    task = 'instance segmentation' if masks else 'detection'
    preprocessing = {**FIT, 'ignore_exif': ignore_exif}
    return _write(path, task, steps, constants, outputs, size, batch, preprocessing)


def write_segmentor(
    path: Path, size: tuple[int, int], batch: int | str = 1, preprocessing: dict[str, Any] = FIT
) -> Path:
    """A segmentor of which a pixel's label is its red value, modulo the number of classes."""
    constants = {'red': np.int64(0), 'many': np.int32(len(CLASSES))}
    steps = [
        helper.make_node('Gather', ['image', 'red'], ['reds'], axis=3),
        helper.make_node('Cast', ['reds'], ['numbers'], to=TensorProto.INT32),
        helper.make_node('Mod', ['numbers', 'many'], ['remainders']),
        helper.make_node('Cast', ['remainders'], ['labels'], to=TensorProto.UINT8),
    ]
    outputs = {'labels': ('uint8', list(size))}
    return _write(path, 'semantic segmentation', steps, constants, outputs, size, batch, preprocessing)


def write_glutton(path: Path, size: tuple[int, int], batch: int | str) -> Path:
    """A segmentor that needs more memory than there is for several images at a time."""
    constants = {'petabytes': np.array([1 << 50]), 'first': np.array([1]), 'none': np.int64(0)}
    steps = [
        helper.make_node('Shape', ['image'], ['count'], start=0, end=1),
        helper.make_node('Sub', ['count', 'first'], ['more']),
        helper.make_node('Mul', ['more', 'petabytes'], ['length']),
        helper.make_node('ConstantOfShape', ['length'], ['zeros']),
        helper.make_node('ReduceSum', ['zeros'], ['sum'], keepdims=0),
        helper.make_node('Cast', ['sum'], ['zero'], to=TensorProto.INT32),
        helper.make_node('Gather', ['image', 'none'], ['reds'], axis=3),
        helper.make_node('Cast', ['reds'], ['numbers'], to=TensorProto.INT32),
        helper.make_node('Mul', ['numbers', 'zero'], ['labels_32']),
        helper.make_node('Cast', ['labels_32'], ['labels'], to=TensorProto.UINT8),
    ]
    outputs = {'labels': ('uint8', list(size))}
    return _write(path, 'semantic segmentation', steps, constants, outputs, size, batch, FIT)


def write_backbone(path: Path, size: tuple[int, int], batch: int | str = 1) -> Path:
    """A backbone of which the map of features is the image."""
    steps = [helper.make_node('Cast', ['image'], ['stage1'], to=TensorProto.FLOAT)]
    return _write(path, 'features', steps, {}, {'stage1': ('float32', [*size, 3])}, size, batch, FIT)


def write_classifier(path: Path, size: tuple[int, int], batch: int | str = 1) -> Path:
    """A classifier of which a class's score is the share of red, green or blue."""
    steps = [
        helper.make_node('Cast', ['image'], ['pixels'], to=TensorProto.FLOAT),
        helper.make_node('ReduceMean', ['pixels'], ['means'], axes=[1, 2], keepdims=0),
        helper.make_node('ReduceSum', ['means', 'last'], ['sums']),
        helper.make_node('Div', ['means', 'sums'], ['scores']),
    ]
    outputs = {'scores': ('float32', [len(CLASSES)])}
    return _write(path, 'classification', steps, {'last': np.array([1])}, outputs, size, batch, EDGE)


def _repeated(name: str, output: str, shape: Sequence[int]) -> list[onnx.NodeProto]:
    """Nodes that repeat a constant for each image of a batch."""
    inner = numpy_helper.from_array(np.array(shape), f'{output}_inner')
    return [
        helper.make_node('Constant', [], [f'{output}_inner'], value=inner),
        helper.make_node('Concat', ['count', f'{output}_inner'], [f'{output}_shape'], axis=0),
        helper.make_node('Expand', [name, f'{output}_shape'], [output]),
    ]


def _write(
    path: Path,
    task: str,
    steps: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    outputs: dict[str, tuple[str, list[int]]],
    size: tuple[int, int],
    batch: int | str,
    preprocessing: dict[str, Any],
) -> Path:
    inputs = [helper.make_tensor_value_info('image', TensorProto.UINT8, [batch, *size, 3])]
    if task != 'classification':
        inputs.append(helper.make_tensor_value_info('size', TensorProto.INT64, [batch, 2]))
    results = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [batch, *shape])
        for name, (dtype, shape) in outputs.items()
    ]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(steps, task.replace(' ', '_'), inputs, results, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    metadata = {
        'task': task,
        'classes': CLASSES,
        'palette': PALETTE,
        'preprocessing': preprocessing,
        'origin': {
            'config': 'narrow.py',
            'checkpoint': 'three.pth',
            'sha256': '0' * 64,
            'precision': 'float32',
        },
    }
    helper.set_model_props(model, {name: json.dumps(value) for name, value in metadata.items()})
    onnx.save(model, path)
    return path
