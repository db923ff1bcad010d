"""Write checkpoints atomically, and remove old ones only when the new one is complete."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from torch import Tensor

from ...checkpoint.load import not_finite, notes_on
from ...checkpoint.meta import NOTES, notes_of
from ...checkpoint.resume import LAST, NONE_YET, RUNS, missing_parts, runs_of
from ...utils.errors import UserError
from ...utils.files import remove_parts
from ...utils.outputs import is_output, write_output
from ...utils.text import shorten
from ..changes import CHANGED, compare_facts, run_facts
from ..runner import network_of
from .finite_loss import RESTART_HINT

NO_OBJECTS = -1  # an average over nothing, as pycocotools writes it
BACKEND = 'crossformer_mm.atomic'  # mmengine's name for it


class AtomicFileBackend(LocalBackend):
    """mmengine's backend for local files, with atomic writes."""

    def __init__(self) -> None:
        self._postponed: dict[Path, int] | None = None  # postponed removals: files and their inodes

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes; an existing file is replaced only when the new one is completely on disk.

        Raises:
            UserError: The file cannot be written; the existing one stays.
        """
        try:
            write_output(Path(filepath), lambda part: part.write_bytes(obj))
        except UserError as error:
            raise UserError(f'{error}; earlier checkpoints are intact: continue with --resume') from error

    def remove(self, filepath: str | Path) -> None:
        """Remove a file that this project wrote; inside :meth:`removals_last`, the removal is postponed."""
        path = Path(filepath)
        if not is_output(path):
            return
        if self._postponed is None:
            super().remove(filepath)
        else:
            self._postponed[path] = path.stat().st_ino

    @contextmanager
    def removals_last(self) -> Iterator[None]:
        """Postpone removals until the end of the block; after an error, nothing is removed."""
        self._postponed = postponed = {}
        try:
            yield
        finally:
            self._postponed = None
        for path, inode in postponed.items():
            if path.stat().st_ino == inode:  # not replaced since
                path.unlink()


register_backend(BACKEND, AtomicFileBackend, force=True)


class AtomicCheckpointHook(CheckpointHook):
    """``CheckpointHook`` that writes atomically, removes old files last, and saves no NaN.

    With gradient accumulation, a run that stops between two updates resumes with the gradients accumulated so
    far.

    Args:
        backend_args: Of mmengine's file backend, for storage other than local disks.
        kwargs: As for ``CheckpointHook``.
    """

    rule_map: ClassVar = {
        **CheckpointHook.rule_map,
        'greater': lambda score, best: score > best and score != NO_OBJECTS,
    }

    def __init__(self, *args: Any, backend_args: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, backend_args=backend_args or {'backend': BACKEND}, **kwargs)
        self._gradients: dict[str, Tensor] = {}
        self._runs: list[list] = []
        self._notes: Mapping[str, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Remove partial files of a killed run, restore the gradients of a resumed one, and note the run."""
        super().before_train(runner)
        if self.save_best is not None:
            if len(self.key_indicators) == 1:
                self.best_ckpt_path = self._own(runner, self.best_ckpt_path)
            else:
                best = self.best_ckpt_path_dict
                self.best_ckpt_path_dict = {key: self._own(runner, path) for key, path in best.items()}
        if is_main_process() and isinstance(self.file_backend, AtomicFileBackend):
            remove_parts(Path(self.out_dir))
        gradients, self._gradients = self._gradients, {}
        if runner.iter:  # resumed; otherwise only the weights were loaded
            for name, parameter in network_of(runner).named_parameters():
                if name in gradients:
                    parameter.grad = gradients[name].to(parameter.device)
            if changes := compare_facts(run_facts(runner), self._notes):
                runner.logger.warning(f'{CHANGED}: {", ".join(changes)}')
        if is_main_process():
            self._name_last(runner)
        runs = self._runs if runner.iter else []
        runner.message_hub.update_info(RUNS, [*runs, [runner.experiment_name, runner.iter]])

    def _name_last(self, runner: Runner) -> None:
        """Let ``last_checkpoint``, which named a checkpoint of an earlier run, name the one resumed from."""
        last = Path(runner.work_dir, LAST)
        if last.is_file():
            name = Path(runner._load_from).name if self._resumed_here(runner) else NONE_YET
            last.write_text(f'{self.out_dir}/{name}')

    def _resumed_here(self, runner: Runner) -> bool:
        """Whether a run resumed from a checkpoint in its own folders."""
        folders = [Path(folder).resolve() for folder in (self.out_dir, runner.work_dir)]
        start = runner._load_from if runner.iter else None
        return bool(start) and Path(start).resolve().parent in folders

    def _own(self, runner: Runner, path: object) -> str | None:
        """The best checkpoint so far, which a better one replaces; None if it is in another run's folder.

        A resumed checkpoint names it, where it was before the folder was moved, and could name any file. The
        backend removes only files that this project wrote, but MMEngine lets it remove folders.
        """
        own = self.file_backend.join_path(self.out_dir, Path(str(path)).name)
        moved = self._resumed_here(runner) and not self.file_backend.exists(str(path))
        return own if (str(path) == own or moved) and self.file_backend.isfile(own) else None

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        """Save, if it is time."""
        with self._removals_last():
            super().after_train_iter(*args, **kwargs)

    def after_train_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Save, if it is time."""
        with self._removals_last():
            super().after_train_epoch(*args, **kwargs)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Save the best checkpoint, if this is it.

        Args:
            runner: The run.
            metrics: The scores, by name.

        Raises:
            UserError: The score that decides is not among them.
        """
        wanted = self.key_indicators if self.save_best and metrics else ()
        if unknown := [name for name in wanted if name not in metrics and name != 'auto']:
            raise UserError(
                f'default_hooks.checkpoint.save_best={unknown[0]}: the validation has no such score, only'
                f' {shorten(list(metrics))}'
            )
        with self._removals_last():
            super().after_val_epoch(runner, metrics)

    def save_now(self, runner: Runner) -> None:
        """Save after an epoch or iteration that is not one of the interval.

        Args:
            runner: The run, between two epochs or iterations.
        """
        step = runner.epoch if self.by_epoch else runner.iter
        last = runner.message_hub.get_info('last_ckpt', '')  # also that of a resume
        if step and Path(str(last)).name != self.filename_tmpl.format(step):
            with self._removals_last():
                meta = {'epoch': runner.epoch, 'iter': runner.iter}
                self._save_checkpoint_with_step(runner, step, meta)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that are not finite; add notes about the training, and accumulated gradients.

        Args:
            runner: The run.
            checkpoint: The content to save, changed in place.

        Raises:
            UserError: Weights are NaN or infinite.
        """
        if bad := not_finite(checkpoint['state_dict']):
            raise UserError(
                f'iteration {runner.iter + 1}: weights have become NaN or infinite: {shorten(bad)}; stopped'
                f' without changing the checkpoints: {RESTART_HINT}'
            )
        checkpoint['meta'][NOTES] = {**notes_on(network_of(runner)), **run_facts(runner)}
        if 'optimizer' in checkpoint:
            gradients = {
                name: parameter.grad.cpu()
                for name, parameter in network_of(runner).named_parameters()
                if parameter.grad is not None  # the optimizer drops them with each update
            }
            if gradients:
                checkpoint['gradients'] = gradients

    def after_load_checkpoint(self, runner: Runner, checkpoint: Mapping[str, Any]) -> None:
        """Keep what a resumed run needs until it is clear whether this run resumes.

        Args:
            runner: The run.
            checkpoint: The loaded checkpoint.
        """
        gradients = checkpoint.get('gradients')
        self._gradients = gradients if isinstance(gradients, dict) else {}
        if not missing_parts(checkpoint):
            self._runs, self._notes = runs_of(checkpoint), notes_of(checkpoint)

    def _removals_last(self) -> AbstractContextManager:
        is_ours = isinstance(self.file_backend, AtomicFileBackend)
        return self.file_backend.removals_last() if is_ours else nullcontext()
