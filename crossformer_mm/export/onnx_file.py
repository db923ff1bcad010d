"""Write a graph as an ONNX file of standard operators."""

import inspect
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from ..utils.errors import UserError

OPSET = 17
_DYNAMIC = 'batch'  # the name of the axis
_TRACED_BATCH = 2  # of a dynamic batch: a batch of one could become a constant
LARGEST = 2**31 - 1  # bytes of a file, a limit of its format


def trace(graph: nn.Module, size: tuple[int, int], batch: int | None = 1) -> onnx.ModelProto:
    """Convert a graph to ONNX.

    Args:
        graph: From :func:`~.graphs.graph_of`.
        size: Height and width of the images in pixels.
        batch: Images in a batch; None for any number.

    Raises:
        UserError: The result is too large for a file.
    """
    H, W = size
    N = batch or _TRACED_BATCH
    inputs = {
        'image': torch.zeros(N, H, W, 3, dtype=torch.uint8),
        'size': torch.tensor([[H, W]]).repeat(N, 1),
    }
    names = list(inspect.signature(graph.forward).parameters)
    axes = {name: {0: _DYNAMIC} for name in (*names, *graph.outputs)} if batch is None else None
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the sizes of the images are constants, as they should be
        try:
            torch.onnx.export(
                graph.eval(),
                tuple(inputs[name] for name in names),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=names,
                output_names=list(graph.outputs),
                dynamic_axes=axes,
            )
        except RuntimeError as error:
            if '2GiB' not in str(error):
                raise
            raise _too_large(size) from error
    if file.tell() > LARGEST:
        raise _too_large(size)
    return onnx.load_from_string(file.getvalue())


def _too_large(size: tuple[int, int]) -> UserError:
    H, W = size
    return UserError(
        f'--size {H} {W}: the model needs more than the 2 GB that an ONNX file can hold; give a smaller one'
    )


def write_onnx(proto: onnx.ModelProto, metadata: Mapping[str, Any], path: Path) -> None:
    """Check a model and write it to a file.

    Args:
        proto: The model.
        metadata: Plain values, which are stored as JSON.
        path: The file.
    """
    proto.producer_name = 'crossformer_mm'
    onnx.helper.set_model_props(proto, {name: json.dumps(value) for name, value in metadata.items()})
    onnx.checker.check_model(proto, full_check=True)
    check_standard(proto)
    path.write_bytes(proto.SerializeToString())


def check_standard(proto: onnx.ModelProto) -> None:
    """Check that a model has only operators of ONNX itself, of one version.

    Raises:
        ValueError: It does not.
    """
    used = {(opset.domain, opset.version) for opset in proto.opset_import}
    if used != {('', OPSET)} or proto.functions:
        raise ValueError(f'the exported model uses {used} and {len(proto.functions)} functions')
