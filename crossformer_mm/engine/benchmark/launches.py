"""What the blocks of a backbone launch on a GPU: operators and the bytes that they read and write.

Counted on the ``meta`` device, where nothing is computed, so no GPU is needed. Views launch nothing.
Attention counts as PyTorch's memory-efficient kernel, which reads its inputs and the bias once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.backbones.swin import SwinTransformer
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...models.crossformer import CrossFormer

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Launches:
    """A mean over the blocks of a network.

    Attributes:
        operators: How many a block launches.
        megabytes: How many they read and write, in 10⁶ bytes.
    """

    operators: float
    megabytes: float


NO_KERNEL = ('empty', 'new_empty', 'detach', '_unsafe_view')  # what these operators' names begin with


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operators = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        returned = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if returned and not func.is_view and not func.__name__.startswith(NO_KERNEL):
            read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            self.operators += 1
            self.bytes += sum(_size(t) for t in [*read, *returned])
        return out


class _FusedAttention(TorchFunctionMode):
    """Calls the memory-efficient kernel, which ``meta`` tensors would not get."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        q, k, v = args
        bias = kwargs['attn_mask'].expand(len(q), -1, -1, -1)
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, q.requires_grad)[0]


def _size(tensor: Tensor) -> int:
    """Bytes of the numbers that ``tensor`` shows; those that it shows again and again count once."""
    count = tensor.element_size()
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count


def count_launches(network: str, height: int, width: int, batch: int = 1, train: bool = False) -> Launches:
    """Count what the blocks of a network launch, after the first call at a size.

    Args:
        network: ``'map'`` or ``'window'``, CrossFormer-S in that layout; or ``'swin_t'``, which has as many
            blocks of the same widths and heads.
        height: Of the image, in pixels, a multiple of 32.
        width: The same.
        batch: Images.
        train: A forward and a backward pass, not a forward pass alone.
    """
    counter, blocks = _Counter(), 0
    with _FusedAttention(), torch.set_grad_enabled(train):
        for run, shape in _blocks(network, height, width, batch):
            x = torch.empty(shape, device='meta', requires_grad=train)
            run(x)  # what is kept for a size is made here
            with counter:
                out = run(x)
                if train:
                    out.backward(torch.empty_like(out))
            blocks += 1
    return Launches(counter.operators / blocks, counter.bytes / blocks / 1e6)


def _blocks(network: str, height: int, width: int, batch: int) -> Iterator[tuple[Run, tuple[int, ...]]]:
    """Each block, as a function of its input, and the shape of that."""
    if network == 'swin_t':
        stages = SwinTransformer(drop_path_rate=0.0).to('meta').stages
    else:
        stages = CrossFormer('s', long_distance=network, drop_path_rate=0.0).to('meta').layers
    for s, stage in enumerate(stages):
        H, W, C = height // 2 ** (s + 2), width // 2 ** (s + 2), 96 * 2**s
        for block in stage.blocks:
            if network == 'swin_t':
                yield lambda x, block=block, size=(H, W): block(x, size), (batch, H * W, C)
            else:
                yield block, (batch, H, W, C)


def table(height: int = 800, width: int = 1344, batch: int = 1) -> str:
    """The counts of both layouts and of Swin-T, as Markdown."""
    lines = ['| a block of | operators | MB | operators, training | MB, training |', '|---|---|---|---|---|']
    for network in ('map', 'window', 'swin_t'):
        cells = [count_launches(network, height, width, batch, train) for train in (False, True)]
        figures = ' | '.join(f'{c.operators:.1f} | {c.megabytes:.0f}' for c in cells)
        lines.append(f'| {network} | {figures} |')
    return '\n'.join(lines)
