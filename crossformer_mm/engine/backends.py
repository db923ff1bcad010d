"""MMEngine's visualisation backends for TensorBoard, Weights & Biases and MLflow, made to work in a training.

MMEngine's own classes of these services are not used:

- They count validations in epochs where losses count iterations, or count calls (Weights & Biases).
- They begin a new run at each resume, and one for a training that then cannot start.
- Weights & Biases gets all Python files below the current folder; MLflow the annotations in the work folder.
- MLflow's stores runs in files, which current versions refuse, and loses all scores of a validation if the
  name of one class has a bracket.
"""

import logging
import os
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mmengine.config import Config
from mmengine.logging import MessageHub, print_log
from mmengine.runner import Runner
from mmengine.visualization.vis_backend import BaseVisBackend

from ..checkpoint.resume import RUNS
from ..utils.errors import UserError
from ..utils.text import printable
from .changes import settings_in

PROJECT = 'crossformer'  # the name of what holds the runs, unless the service's own variable names it
LONGEST_PARAMETER = 500  # characters of a setting in MLflow
_TRIES = 'MLFLOW_HTTP_REQUEST_MAX_RETRIES'
_REFUSED = re.compile(r'[^\w\-. :/]')  # characters that MLflow does not take in a name


class TrainingBackend(BaseVisBackend):
    """A service that gets the numbers and pictures of a training; until :meth:`start`, it gets nothing."""

    experiment: Any = None
    package: ClassVar[str]
    replaced: ClassVar[str]
    """MMEngine's class for the service."""

    @classmethod
    def check(cls) -> None:
        """Check, before anything is written, that the service can be used.

        Raises:
            UserError: It refuses.
        """

    def _init_env(self) -> None:
        """Nothing: building a runner starts no run."""

    def start(self, runner: Runner) -> None:
        """Begin a run of the service, or continue the one of the training that resumes.

        Args:
            runner: The training, with its checkpoint loaded.

        Raises:
            UserError: The service refuses.
        """
        raise NotImplementedError

    def add_scalars(self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **_: Any) -> None:
        """Send numbers; MMEngine's ``step`` counts epochs in some calls, and is not used."""
        if self.experiment is not None:
            self.send({name: float(value) for name, value in scalar_dict.items()}, finished_iterations())

    def send(self, numbers: dict[str, float], step: int) -> None:
        """Send numbers.

        Args:
            numbers: The numbers by name.
            step: The iterations so far.
        """
        raise NotImplementedError


def finished_iterations() -> int:
    """The iterations of the training so far, with the one that is being logged."""
    return MessageHub.get_current_instance().get_info('iter', -1) + 1


def first_name(runner: Runner) -> str:
    """The name of the first run of a training, which has the time when it began."""
    runs = runner.message_hub.get_info(RUNS, []) if runner.iter else []
    return runs[0][0] if runs else runner.experiment_name


class TensorBoardBackend(TrainingBackend):
    """Writes event files into ``tensorboard/RUN`` in the work folder, where a resumed training goes on.

    Args:
        save_dir: MMEngine's log folder, in a folder of the work folder that is named after the time.
    """

    package, replaced = 'tensorboard', 'TensorboardVisBackend'

    def start(self, runner: Runner) -> None:
        """Open an event file, from which TensorBoard ignores later steps of the earlier ones."""
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(runner.work_dir, 'tensorboard', Path(first_name(runner)).name)
        self.experiment = SummaryWriter(str(folder), purge_step=runner.iter + 1 if runner.iter else None)
        self.experiment.add_text('config', f'```\n{runner.cfg.pretty_text}\n```', runner.iter + 1)
        self.experiment.flush()
        runner.logger.info(f'TensorBoard: tensorboard --logdir {folder.parent}')

    def send(self, numbers: dict[str, float], step: int) -> None:
        """Write numbers to the disk."""
        for name, value in numbers.items():
            self.experiment.add_scalar(name, value, step)
        self.experiment.flush()

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **_: Any) -> None:
        """Write a picture, RGB, ``(H, W, 3)``, uint8."""
        self.experiment.add_image(name, image, step, dataformats='HWC')

    def close(self) -> None:
        """Close the file."""
        if self.experiment is not None:
            self.experiment.close()


class WandbBackend(TrainingBackend):
    """Sends to Weights & Biases; what is kept on this machine is in ``wandb/`` in the work folder."""

    package, replaced = 'wandb', 'WandbVisBackend'

    @classmethod
    def check(cls) -> None:
        """Check that someone is logged in, unless the run is not sent."""
        import wandb

        if wandb.setup().settings.mode not in ('offline', 'disabled'):
            try:
                wandb.login()
            except wandb.errors.Error as error:
                raise UserError(
                    f'--log wandb: {error} Or keep the run on this machine: WANDB_MODE=offline'
                ) from error

    def start(self, runner: Runner) -> None:
        """Begin a run, or continue that of the checkpoint."""
        import wandb

        try:
            self.experiment = wandb.init(
                project=os.environ.get('WANDB_PROJECT', PROJECT),
                name=first_name(runner),
                dir=runner.work_dir,
                config=runner.cfg.to_dict(),
                id=runner.message_hub.get_info('wandb_run') if runner.iter else None,
                resume='allow',
                allow_val_change=True,
            )
        except wandb.errors.Error as error:
            raise UserError(f'--log wandb: {error}') from error
        runner.message_hub.update_info('wandb_run', self.experiment.id)
        self.experiment.define_metric('iter')
        self.experiment.define_metric('*', step_metric='iter')

    def send(self, numbers: dict[str, float], step: int) -> None:
        """Send numbers."""
        self.experiment.log({**numbers, 'iter': step})

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **_: Any) -> None:
        """Send a picture, RGB, ``(H, W, 3)``, uint8."""
        import wandb

        self.experiment.log({name: wandb.Image(image), 'iter': step})

    def close(self) -> None:
        """Finish the run."""
        if self.experiment is not None:
            self.experiment.finish()


class MLflowBackend(TrainingBackend):
    """Sends to the server or store that ``MLFLOW_TRACKING_URI`` names, or to the work folder."""

    package, replaced = 'mlflow', 'MLflowVisBackend'

    @classmethod
    def check(cls) -> None:
        """Check that the server or store answers, if one is named."""
        if not os.environ.get('MLFLOW_TRACKING_URI'):
            return
        import mlflow

        tries = os.environ.get(_TRIES)
        os.environ[_TRIES] = '1'  # not for minutes, as later, when a server may be away for a while
        try:
            mlflow.MlflowClient().search_experiments(max_results=1)
        except mlflow.MlflowException as error:  # an address may contain a password
            raise UserError(f'--log mlflow: the MLFLOW_TRACKING_URI in the environment: {error}') from error
        finally:
            del os.environ[_TRIES]
            if tries:
                os.environ[_TRIES] = tries

    def start(self, runner: Runner) -> None:
        """Begin a run, or continue that of the checkpoint if the store has it."""
        import mlflow

        named = os.environ.get('MLFLOW_TRACKING_URI')
        folder = Path(runner.work_dir).absolute()
        store = named or f'sqlite:///{folder / "mlflow.db"}'
        mlflow.set_tracking_uri(store)  # which sets the variable, too
        experiment = os.environ.get('MLFLOW_EXPERIMENT_NAME', PROJECT)
        known = runner.message_hub.get_info('mlflow_run') if runner.iter else None
        try:
            if not named and mlflow.get_experiment_by_name(experiment) is None:
                mlflow.create_experiment(experiment, str(folder / 'mlruns'))
            mlflow.set_experiment(experiment)
            run = self._continued(mlflow, known) or mlflow.start_run(run_name=first_name(runner))
            runner.message_hub.update_info('mlflow_run', run.info.run_id)
            if run.info.run_id != known:
                mlflow.log_params(_parameters(runner.cfg))
                mlflow.log_text(runner.cfg.pretty_text, 'config.py')
        except mlflow.MlflowException as error:
            raise UserError(f'--log mlflow: {error}') from error
        self.experiment = mlflow
        if not named:
            runner.logger.info(f'MLflow: mlflow ui --backend-store-uri {store}')

    def _continued(self, mlflow: Any, run: str | None) -> Any:
        try:
            return mlflow.start_run(run_id=run) if run else None
        except mlflow.MlflowException:  # of another store, or deleted
            return None

    def send(self, numbers: dict[str, float], step: int) -> None:
        """Send numbers; a server that fails does not end the training."""
        try:
            self.experiment.log_metrics({_REFUSED.sub('_', name): numbers[name] for name in numbers}, step)
        except self.experiment.MlflowException as error:
            print_log(f'MLflow: {printable(str(error))}', 'current', logging.WARNING)

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **_: Any) -> None:
        """Send a picture, RGB, ``(H, W, 3)``, uint8."""
        try:
            self.experiment.log_image(image, key=name, step=step)
        except self.experiment.MlflowException as error:
            print_log(f'MLflow: {printable(str(error))}', 'current', logging.WARNING)

    def close(self) -> None:
        """Finish the run."""
        if self.experiment is not None:
            self.experiment.end_run()


def _parameters(cfg: Config) -> dict[str, str]:
    """The settings of a config, by names that MLflow takes."""
    settings = settings_in(cfg.pretty_text)
    return {_REFUSED.sub('_', name): value[:LONGEST_PARAMETER] for name, value in settings.items()}


SERVICES = {kind.package: kind for kind in (TensorBoardBackend, WandbBackend, MLflowBackend)}
