"""mmengine's training loops with bit-exact resume."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain, repeat
from typing import Any

from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ..compat import end_workers
from ..utils.errors import UserError
from .replay import ReplayedLoader, seed_step

POSITION = 'position'  # entry of the message hub, which checkpoints contain: epoch, and its finished batches


def replayed_loader(runner: Runner, loader: DataLoader | dict[str, Any]) -> ReplayedLoader:
    """Build the training data loader of a run.

    Args:
        runner: The run.
        loader: The loader or its config.

    Raises:
        UserError: There are no batches to train on.
    """
    if isinstance(loader, dict):
        differ = runner.cfg.get('randomness', {}).get('diff_rank_seed', False)
        loader = runner.build_dataloader(loader, seed=runner.seed, diff_rank_seed=differ)
    if not len(loader):
        raise UserError(
            'no batch to train on: no image is left after filtering out those without objects, or fewer than'
            ' a batch; check the annotations, or use smaller batches'
        )
    return ReplayedLoader(loader, runner.seed)


@contextmanager
def workers_ended(runner: Runner) -> Iterator[None]:
    """End the worker processes of the data loaders after the block, whether or not it raised an error."""
    try:
        yield
    finally:
        for loop in (runner.train_loop, runner.val_loop):
            if isinstance(getattr(loop, 'dataloader', None), DataLoader):
                end_workers(loop.dataloader)


class ResumableEpochLoop(EpochBasedTrainLoop):
    """``EpochBasedTrainLoop`` that resumes bit-exactly, also in the middle of an epoch.

    Args:
        runner: The run.
        dataloader: The training data, or its config.
        kwargs: As for ``EpochBasedTrainLoop``.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, **kwargs: Any) -> None:
        super().__init__(runner, replayed_loader(runner, dataloader), **kwargs)
        self._skipped = 0  # batches of this epoch that were trained on before the resume

    def run(self) -> nn.Module:
        """Train to the last epoch."""
        with workers_ended(self.runner):
            return super().run()

    def is_validated(self) -> bool:
        """Whether a validation follows where the training is, which is between two epochs."""
        self._decide_current_val_interval()
        due = self.epoch % self.val_interval == 0 or self.epoch == self.max_epochs
        return due and self.epoch >= self.val_begin and self.iter == self.epoch * len(self.dataloader)

    def run_epoch(self) -> None:
        """Train for one epoch, or for the rest of one after a resume."""
        epoch, done = self.runner.message_hub.get_info(POSITION, (0, 0))
        self._skipped = done if epoch == self.epoch else 0
        self.dataloader.batch_sampler.start(self.iter, skipped=self._skipped)
        super().run_epoch()

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """One step.

        Args:
            idx: The batch's index among those that were not skipped.
            data_batch: The batch.
        """
        idx += self._skipped
        seed_step(self.runner.seed, self.iter)
        self.runner.message_hub.update_info(POSITION, [self.epoch, idx + 1])
        super().run_iter(idx, data_batch)


class ResumableIterLoop(IterBasedTrainLoop):
    """``IterBasedTrainLoop`` that resumes bit-exactly, without loading the batches before the checkpoint.

    Args:
        runner: The run.
        dataloader: The training data, or its config.
        kwargs: As for ``IterBasedTrainLoop``.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, **kwargs: Any) -> None:
        super().__init__(runner, replayed_loader(runner, dataloader), **kwargs)

    def run(self) -> nn.Module:
        """Train to the last iteration."""
        self.fast_forward_on_resume = False  # onedl's option not to skip batches; here, skipping is free
        batches = self.dataloader.endless(self.iter)
        self.dataloader_iterator = _Batches(batches, skipped=self.iter)
        with workers_ended(self.runner), closing(batches):
            return super().run()

    def is_validated(self) -> bool:
        """Whether a validation follows where the training is."""
        self._decide_current_val_interval()
        due = self.iter % self.val_interval == 0 or self.iter == self.max_iters
        return due and self.iter >= self.val_begin

    def run_iter(self, data_batch: Sequence[dict]) -> None:
        """One step.

        Args:
            data_batch: The batch.
        """
        seed_step(self.runner.seed, self.iter)
        super().run_iter(data_batch)


class _Batches:
    """The batches of a run; None for those before a resume, which mmengine's loop fetches and drops."""

    def __init__(self, batches: Iterator[Any], skipped: int) -> None:
        self.batches = chain(repeat(None, skipped), batches)

    def __next__(self) -> Any:
        return next(self.batches)

    def skip_iter(self, count: int) -> None:
        """Skip batches, in the way that onedl's loop does."""
        for _ in range(count):
            next(self.batches)
