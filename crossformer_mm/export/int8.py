"""Quantise an exported model to integers of 8 bits, in the ranges that its values have on real images."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from ..data.images import NoImageError, read_image
from ..deploy.prepare import prepare
from ..utils.errors import UserError
from ..utils.progress import progress_bar

_PRODUCTS = ('Conv', 'Gemm', 'MatMul')
_COLOURS = 3  # channels of an image
_PREPROCESSED = {'onnx.quant.pre_process': 'onnxruntime.quant'}  # without it, onnxruntime logs an advice


def quantise(
    proto: onnx.ModelProto, files: Sequence[Path], preprocessing: Mapping[str, Any]
) -> onnx.ModelProto:
    """Quantise the products of values with weights: convolutions and linear layers.

    Weights have 7 bits and a scale for each output channel: where processors add pairs of products in 16 bits
    (x86 without VNNI), those of 8 bits would overflow. Values have 8 bits and no offset: otherwise, OpenVINO
    does not open the file. Other steps, such as norms, softmax, attention's own products, encodings of
    position and the choice of boxes, are computed in float32 as before, and so is the first embedding: its
    errors would be in all that follows.

    Args:
        proto: An exported model in float32.
        files: Images like those that the model will be used on, from which the ranges are taken.
        preprocessing: How they are prepared.

    Returns:
        The model, with operators of the same version of ONNX.

    Raises:
        UserError: An image cannot be read.
    """
    source = onnx.ModelProto()
    source.CopyFrom(proto)
    onnx.helper.set_model_props(source, _PREPROCESSED)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'int8.onnx')
        quantize_static(
            source,
            path,
            _Images(proto, files, preprocessing),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(_PRODUCTS),
            nodes_to_quantize=_weighted(proto.graph),
            extra_options={'ActivationSymmetric': True},
        )
        return onnx.load(path)


def _weighted(graph: onnx.GraphProto) -> list[str]:
    """The names of the nodes that multiply what depends on the image with weights.

    The encodings of position do not depend on it, and are computed once, when a file is opened.
    """
    weights = {weight.name: weight.dims for weight in graph.initializer}
    seen = {graph.input[0].name}
    names = []
    for node in graph.node:  # in an order in which they can be computed
        if seen.isdisjoint(node.input):
            continue
        seen.update(node.output)
        if node.op_type in _PRODUCTS and node.input[1] in weights:
            of_image = node.op_type == 'Conv' and weights[node.input[1]][1] == _COLOURS
            names += [] if of_image else [node.name]
    return names


class _Images(CalibrationDataReader):
    """Prepares images one by one, with a progress bar.

    Args:
        proto: The model.
        files: The images.
        preprocessing: How they are prepared.
    """

    def __init__(
        self, proto: onnx.ModelProto, files: Sequence[Path], preprocessing: Mapping[str, Any]
    ) -> None:
        self.names = [item.name for item in proto.graph.input]
        batch, *self.size, _ = (axis.dim_value for axis in proto.graph.input[0].type.tensor_type.shape.dim)
        self.batch = batch or 1  # 0 is a batch of any size
        self.files, self.preprocessing = files, preprocessing
        self.inputs = self._prepare()

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The inputs of the model for the next image, repeated to fill the batch; None after the last."""
        return next(self.inputs, None)

    def _prepare(self) -> Iterator[dict[str, np.ndarray]]:
        with progress_bar() as progress:
            for file in progress.track(self.files, description='calibrate on images'):
                try:
                    image = read_image(file, self.preprocessing['ignore_exif'])
                except NoImageError as error:
                    raise UserError(f'--int8 {file}: {error}') from error
                pixels, size = prepare(image, tuple(self.size), self.preprocessing)
                inputs = {'image': pixels, 'size': np.array(size)}
                yield {name: np.repeat(inputs[name][None], self.batch, 0) for name in self.names}
