"""mmengine's training loops, which go on after a resume as if they had never stopped."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ..compat import end_workers
from ..utils.errors import UserError
from .replay import ReplayedLoader, seed_step

BATCHES_DONE = 'batches_done'  # of the epoch, in the message hub, which checkpoints hold


def replayed_loader(runner: Runner, loader: DataLoader | dict[str, Any]) -> ReplayedLoader:
    """Build the training data loader of a run.

    Args:
        runner: The run.
        loader: The loader or its config.

    Raises:
        UserError: There is nothing to train on.
    """
    if isinstance(loader, dict):
        different = runner._randomness_cfg.get('diff_rank_seed', False)
        loader = runner.build_dataloader(loader, seed=runner.seed, diff_rank_seed=different)
    if not len(loader):
        raise UserError(
            'no batch to train on: no image is left once those without objects are filtered out, or fewer'
            ' than a batch; check the annotations, or lower --batch-size'
        )
    return ReplayedLoader(loader, runner.seed)


@contextmanager
def workers_ended(runner: Runner) -> Iterator[None]:
    """End the worker processes of the data loaders after the block, whether or not it raised an error."""
    try:
        yield
    finally:
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None:
                end_workers(loop.dataloader)


class ResumableEpochLoop(EpochBasedTrainLoop):
    """``EpochBasedTrainLoop`` that resumes in the middle of an epoch too, to the same weights.

    Args:
        runner: The run.
        dataloader: The training data, or its config.
        kwargs: As for ``EpochBasedTrainLoop``.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, **kwargs: Any) -> None:
        super().__init__(runner, replayed_loader(runner, dataloader), **kwargs)

    def run(self) -> nn.Module:
        """Train to the last epoch."""
        with workers_ended(self.runner):
            return super().run()

    def run_epoch(self) -> None:
        """One epoch, or what a checkpoint from the middle of it has left."""
        runner = self.runner
        done = runner.message_hub.get_info(BATCHES_DONE, 0)
        runner.call_hook('before_train_epoch')
        runner.model.train()
        self.dataloader.batch_sampler.start(self._iter, skipped=done)
        for batch_idx, batch in enumerate(self.dataloader, done):
            self.run_iter(batch_idx, batch)
        runner.message_hub.update_info(BATCHES_DONE, 0)
        runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """One step.

        Args:
            idx: The batch's number in the epoch.
            data_batch: The batch.
        """
        seed_step(self.runner.seed, self._iter)
        self.runner.message_hub.update_info(BATCHES_DONE, idx + 1)
        super().run_iter(idx, data_batch)


class ResumableIterLoop(IterBasedTrainLoop):
    """``IterBasedTrainLoop`` that resumes to the same weights, without loading what it leaves out.

    Args:
        runner: The run.
        dataloader: The training data, or its config.
        kwargs: As for ``IterBasedTrainLoop``.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, **kwargs: Any) -> None:
        super().__init__(runner, replayed_loader(runner, dataloader), **kwargs)

    def run(self) -> nn.Module:
        """Train to the last iteration: mmengine's own loop, but for how it goes on after a resume.

        open-mmlab's mmengine loads every batch again that the run has had, onedl's can leave them out for
        one kind of sampler.
        """
        runner = self.runner
        runner.call_hook('before_train')
        runner.call_hook('before_train_epoch')
        batches = self.dataloader.endless(self._iter)
        with workers_ended(runner):
            while self._iter < self._max_iters and not self.stop_training:
                runner.model.train()
                self.run_iter(next(batches))
                self._decide_current_val_interval()
                if self._validates():
                    runner.val_loop.run()
        runner.call_hook('after_train_epoch')
        runner.call_hook('after_train')
        return runner.model

    def run_iter(self, data_batch: Sequence[dict]) -> None:
        """One step.

        Args:
            data_batch: The batch.
        """
        seed_step(self.runner.seed, self._iter)
        super().run_iter(data_batch)

    def _validates(self) -> bool:
        if self.runner.val_loop is None or self._iter < self.val_begin:
            return False
        return self._iter % self.val_interval == 0 or self._iter == self._max_iters
