"""Keep a page in the work folder that shows how a training goes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...data.label_check import LabelReport
from ...page.image_scores import Extremes
from ...utils.errors import UserError
from ...utils.outputs import is_output, write_output
from ...utils.text import printable
from ..distributed import LOST, lost_process
from ..training_report import FINISHED, RUNNING, STOPPED, TrainingReport

REPORT = 'report.html'
_SHOWN = 6  # best and worst images


@contextmanager
def reported(runner: Runner, options: Sequence[str], labels: Sequence[LabelReport]) -> Iterator[None]:
    """Keep a page on the training inside the block, also if it stops with an error.

    Args:
        runner: The runner of the training.
        options: The options that the user gave, as words of the command.
        labels: What label maps contain.
    """
    hook = ReportHook(options, labels)
    runner.register_hook(hook)
    try:
        yield
    except BaseException as error:
        hook.stop(runner, error)
        raise


class ReportHook(Hook):
    """Writes ``report.html`` at the start, after each validation, and at the end.

    In a training without validation, it does so after each checkpoint.

    Neither random numbers nor the order of the data change. A page that cannot be written, and images that
    cannot be read, do not stop the training; a file of the user is not replaced.

    Args:
        options: The options that the user gave, as words of the command.
        labels: What label maps contain.
    """

    priority = 'LOWEST'  # after the hooks that save checkpoints and write the log

    def __init__(self, options: Sequence[str], labels: Sequence[LabelReport]) -> None:
        self.options = options
        self.labels = labels
        self._report: TrainingReport | None = None
        self._extremes = Extremes(_SHOWN)
        self._saved: str | None = None  # the last checkpoint that the page knows
        self._complaint = ''  # why the page could not be written

    def before_train(self, runner: Runner) -> None:
        """Describe settings and data, and write the first page."""
        if self._report or not is_main_process():
            return
        self._saved = runner.message_hub.get_info('last_ckpt')
        self._report = report = TrainingReport(runner, self.options)
        with report.timed():
            report.describe_data(runner, self.labels)
        if self._write(runner, RUNNING):
            runner.logger.info(f'report: {printable(str(Path(runner.work_dir, REPORT)))}')

    def before_val_epoch(self, runner: Runner) -> None:
        """Forget the images of the last validation, and let CocoReport keep what it finds for each class.

        Another hook may validate a resumed training before this one is told that it begins.
        """
        self.before_train(runner)
        self._extremes = Extremes(_SHOWN)
        for metric in runner.val_evaluator.metrics:
            if hasattr(metric, 'detailed'):
                metric.detailed = True

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Score the images of a batch."""
        with self._report.timed() if self._report else nullcontext():
            loader, rank, processes = runner.val_dataloader, get_rank(), get_world_size()
            first = batch_idx * (loader.batch_size or 1)
            for index, sample in enumerate(outputs or (), first):
                if rank + processes * index < len(loader.dataset):  # the others repeat the first ones
                    self._extremes.add(sample)

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        """Collect the images of all processes, and write the page."""
        first, *others = all_gather_object(self._extremes)
        if self._report:
            with self._report.timed():
                for extremes in others:
                    first.merge(extremes)
                self._report.keep_validation(runner, first)
            self._write(runner, RUNNING)

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Write the page of a training without validation after a checkpoint, with its iteration counted."""
        saved = runner.message_hub.runtime_info.get('last_ckpt')
        if self._report and runner.val_loop is None and saved != self._saved:
            self._saved = saved
            self._write(runner, RUNNING)

    def after_train_epoch(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Write the page of a training without validation after a checkpoint."""
        self.before_train_iter(runner)

    def after_train(self, runner: Runner) -> None:
        """Write the page of the complete training, or of one that has stopped early."""
        self._write(runner, STOPPED if runner.train_loop.stop_training else FINISHED)

    def stop(self, runner: Runner, error: BaseException) -> None:
        """Write the page of a training that has begun and stopped.

        Args:
            runner: The runner.
            error: What stopped it.
        """
        stopped = isinstance(error, KeyboardInterrupt)  # Ctrl-C, or a signal to terminate
        lost = isinstance(error, RuntimeError) and lost_process(error)
        reason = LOST if lost else str(error) if isinstance(error, UserError) else type(error).__name__
        self._write(runner, 'interrupted' if stopped else f'stopped: {reason}')

    def _write(self, runner: Runner, state: str) -> bool:
        """Write the page in the main process, if that is possible; returns whether it was."""
        path = Path(runner.work_dir, REPORT)
        if not self._report:
            return False
        try:
            if path.exists() and not is_output(path):
                raise UserError(f'{path}: was not written by this project or has changed since; move it')
            with self._report.timed():
                page = self._report.page(runner, state).encode('utf-8')
                write_output(path, lambda part: part.write_bytes(page))
        except (UserError, OSError) as error:
            if str(error) != self._complaint:
                runner.logger.warning(f'no report is written: {printable(str(error))}')
            self._complaint = str(error)
            return False
        return True
