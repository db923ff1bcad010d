"""Exporting a graph to ONNX and running it in onnxruntime."""

import io
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn


class Exported:
    """A graph in onnxruntime, for batches of any size.

    Args:
        graph: In evaluation mode.
        outputs: Names of its outputs.
        inputs: Examples of its inputs, by name.
    """

    def __init__(self, graph: nn.Module, outputs: Sequence[str], **inputs: Tensor) -> None:
        names, file = [*inputs], io.BytesIO()
        torch.onnx.export(
            graph,
            tuple(inputs.values()),
            file,
            dynamo=False,
            opset_version=17,
            input_names=names,
            output_names=list(outputs),
            dynamic_axes={name: {0: 'batch'} for name in (*names, *outputs)},
        )
        self.proto = onnx.load_from_string(file.getvalue())
        self.session = onnxruntime.InferenceSession(file.getvalue())

    def __call__(self, **inputs: Tensor) -> list[Tensor]:
        """Run it."""
        arrays: dict[str, np.ndarray] = {name: value.numpy() for name, value in inputs.items()}
        return [torch.from_numpy(output) for output in self.session.run(None, arrays)]
