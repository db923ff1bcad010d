"""Write a training's checkpoints whole or not at all, and never fewer than what is there."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ...checkpoint.load import not_finite
from ...utils.errors import UserError
from ...utils.files import remove_parts, write_atomically
from ...utils.text import shorten
from .finite_loss import LESS_STEEP

BACKEND = 'crossformer_mm.whole'  # mmengine's name for it


class AtomicFileBackend(LocalBackend):
    """mmengine's writing of local files, whole or not at all."""

    def __init__(self) -> None:
        self._held: dict[Path, int] | None = None  # what is to be removed later, with its inode

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes.

        Args:
            obj: The content.
            filepath: The file; one that is there is replaced when all of the new one is on disk.

        Raises:
            UserError: The disk refuses; what was there stays.
        """
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_atomically(path, lambda part: part.write_bytes(obj), overwrite=True)
        except UserError as error:
            raise UserError(
                f'{error}; the checkpoints before it are there: make room, and go on with --resume'
            ) from error

    def remove(self, filepath: str | Path) -> None:
        """Remove a file; inside :meth:`removals_last`, at its end."""
        if self._held is None:
            super().remove(filepath)
        else:
            self._held[Path(filepath)] = Path(filepath).stat().st_ino

    @contextmanager
    def removals_last(self) -> Iterator[None]:
        """Put removals off until all is written; after an error, nothing is removed."""
        self._held = held = {}
        try:
            yield
        finally:
            self._held = None
        for path, inode in held.items():
            if path.stat().st_ino == inode:  # not replaced since
                path.unlink()


register_backend(BACKEND, AtomicFileBackend, force=True)


class AtomicCheckpointHook(CheckpointHook):
    """``CheckpointHook`` that writes whole files, removes old ones last, and saves no NaN.

    A run that stops between two updates of ``--accumulate`` also goes on with the gradients that it had.

    Args:
        backend_args: mmengine's, for other places than local disks.
        kwargs: As for ``CheckpointHook``.
    """

    def __init__(self, *args: Any, backend_args: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, backend_args=backend_args or {'backend': BACKEND}, **kwargs)

    def before_train(self, runner: Runner) -> None:
        """Remove what a killed run left half written."""
        super().before_train(runner)
        if is_main_process() and isinstance(self.file_backend, AtomicFileBackend):
            remove_parts(Path(self.out_dir))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that are lost, and add gradients that wait for their update.

        Args:
            runner: The run.
            checkpoint: What is to be saved.

        Raises:
            UserError: Weights are NaN or infinite.
        """
        if bad := not_finite(checkpoint['state_dict']):
            raise UserError(
                f'iteration {runner.iter + 1}: weights have become NaN or infinite: {shorten(bad)}; stopped,'
                f' with the checkpoints as they were: {LESS_STEEP}'
            )
        if 'optimizer' not in checkpoint:
            return
        waiting = {
            name: parameter.grad.cpu()
            for name, parameter in _model(runner).named_parameters()
            if parameter.grad is not None  # the optimizer drops them with each update
        }
        if waiting:
            checkpoint['gradients'] = waiting

    def after_load_checkpoint(self, runner: Runner, checkpoint: Mapping[str, Any]) -> None:
        """Take up gradients that wait for their update.

        Args:
            runner: The run.
            checkpoint: What was loaded.
        """
        gradients = checkpoint.get('gradients', {}) if runner._resume else {}
        for name, parameter in _model(runner).named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter.device)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        """mmengine's own, which removes the oldest checkpoint before it writes the new one."""
        outdated = self._count_in(runner, step)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            last = Path(runner.work_dir, 'last_checkpoint')
            write_atomically(last, lambda part: part.write_text(self.last_ckpt), overwrite=True)
            if outdated is not None and self.file_backend.isfile(outdated):
                self.file_backend.remove(outdated)

    def _count_in(self, runner: Runner, step: int) -> str | None:
        """Note that there is a checkpoint of this step; returns the path of the one that is too many."""
        if self.max_keep_ckpts <= 0 or step in self.keep_ckpt_ids:
            return None
        outdated = None
        if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
            name = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
            outdated = self.file_backend.join_path(self.out_dir, name)
        self.keep_ckpt_ids.append(step)
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        return outdated

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        if not isinstance(self.file_backend, AtomicFileBackend):
            super()._save_best_checkpoint(runner, metrics)
            return
        with self.file_backend.removals_last():
            super()._save_best_checkpoint(runner, metrics)


def _model(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
