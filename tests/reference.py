"""The reference file's rule: reproducible weights and inputs, and comparisons with reference values.

``data/crossformer_reference.json`` has results of the authors' published code, computed in float32 on a
CPU, in evaluation mode, with every weight generated from its name. See :func:`reference_tensor`.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

REFERENCE = json.loads((Path(__file__).parent / 'data' / 'crossformer_reference.json').read_text())


def reference_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """The weight called ``name`` by the rule: drawn with the name's CRC-32 as the seed."""
    a = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) == 1:
        a = 0.1 * a + (1 if name.endswith('weight') else 0)
    else:
        a = a / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(a).float()


def fill_by_rule(module: nn.Module) -> nn.Module:
    """Give every tensor of ``module``'s state dict its value by the rule; returns the module."""
    state = {
        name: reference_tensor(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()
    }
    module.load_state_dict(state)
    return module


def reference_images(batch: int, size: tuple[int, int]) -> Tensor:
    """The rule's input, (batch, 3, H, W)."""
    images = np.random.RandomState(0).standard_normal((batch, 3, *size))
    return torch.from_numpy(images).float()


def assert_record(tensor: Tensor, record: dict, tolerance: float) -> None:
    """Compare a tensor with its record; ``tolerance`` is relative to the record's largest value."""
    assert list(tensor.shape) == record['shape']
    flat = tensor.detach().double().flatten()
    count = len(record['values'])
    positions = np.random.RandomState(1).randint(0, flat.numel(), count)
    limit = tolerance * record['absmax']
    expected = torch.tensor(record['values'], dtype=torch.float64)
    torch.testing.assert_close(flat[torch.from_numpy(positions)], expected, rtol=0, atol=limit)
    assert abs(flat.abs().max().item() - record['absmax']) <= limit
    assert abs(flat.mean().item() - record['mean']) <= limit
    assert abs(flat.std().item() - record['std']) <= limit
