"""Worker processes deliver their batches although shared memory is full."""

import resource
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from crossformer_mm.engine.shared_memory import copy_if_shared_memory_is_full, shared_memory_is_full


class Large(Dataset):
    """Tensors of 2 MB."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Tensor:
        return torch.arange(1 << 19, dtype=torch.int32) + index


def fill_shared_memory(worker: int) -> None:
    """Allow this process only small files, as which shared memory counts."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def small_batches(**settings: Any) -> list[Any]:
    """The batches of a loader whose worker has not enough shared memory."""
    copy_if_shared_memory_is_full()
    settings = {'num_workers': 1, 'worker_init_fn': fill_shared_memory, 'timeout': 60, **settings}
    return list(DataLoader(Large(), batch_size=2, **settings))


def test_batches_arrive_when_shared_memory_is_full() -> None:
    first, second = small_batches(collate_fn=list)  # not stacked, as in MMEngine
    assert [len(first), len(second)] == [2, 1]
    for index, found in enumerate([*first, *second]):
        assert torch.equal(found, Large()[index])


def test_a_batch_that_must_be_in_shared_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        small_batches()
    assert shared_memory_is_full(raised.value)
    assert not shared_memory_is_full(RuntimeError('something else'))
