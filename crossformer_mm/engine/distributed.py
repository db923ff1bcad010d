"""Distributed runs: launchers, the process group, and work that only the first process does."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, init_dist, is_main_process
from mmengine.utils.dl_utils import set_multi_processing

from ..data.datasets import dicts_in, replace_sync_bn
from ..utils.errors import UserError
from ..utils.files import check_folder

# For each launcher: the environment variable with the rank, and the program that starts the processes.
LAUNCHERS = {
    'pytorch': ('RANK', 'torchrun, as tools/dist_train.sh does'),
    'slurm': ('SLURM_PROCID', 'srun'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun'),
}
# How long a process waits for others, such as for the first while it evaluates; NCCL's own is 10 minutes.
PATIENCE = timedelta(hours=4)
LOST = 'another process ended'
EXCHANGE = '.dist_test'  # in the working directory, of MMEngine's results of several processes
Result = TypeVar('Result')


def set_launcher(cfg: Config, launcher: str, local_rank: int) -> None:
    """Prepare a config for a distributed run, on GPUs or on CPUs.

    Args:
        cfg: The config, changed in place.
        launcher: ``'none'`` for a single process, or one of ``LAUNCHERS``.
        local_rank: The process's rank on its machine, for launchers that pass it as an option.

    Raises:
        UserError: The process was not started by the launcher, or the launcher needs GPUs.
    """
    cfg.launcher = launcher
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    if launcher == 'none':
        return
    variable, program = LAUNCHERS[launcher]
    if variable not in os.environ:
        raise UserError(f'--launcher {launcher}: this is a single process; start it with {program}')
    if not torch.cuda.is_available():
        _distribute_on_cpus(cfg)
        return
    processes, gpus = int(os.environ.get('LOCAL_WORLD_SIZE', 1)), torch.cuda.device_count()  # by torchrun
    if processes > gpus:
        raise UserError(f'{processes} processes on a machine with {gpus} GPUs; start at most one per GPU')


def _distribute_on_cpus(cfg: Config) -> None:
    """MMEngine supports other launchers, its default model wrapper and SyncBN only on GPUs."""
    if cfg.launcher != 'pytorch':
        raise UserError(f'--launcher {cfg.launcher} needs GPUs; on CPUs use --launcher pytorch')
    if not cfg.get('model_wrapper_cfg'):
        cfg.model_wrapper_cfg = {
            'type': 'MMDistributedDataParallel',
            'device_ids': None,
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
        }


def sync_bn_warnings(cfg: Config) -> list[str]:
    """Fall back from SyncBN to BN if several processes run on CPUs; MMEngine does so for a single process.

    Args:
        cfg: The config, changed in place.

    Returns:
        Lines for the log.
    """
    if cfg.launcher == 'none' or torch.cuda.is_available() or not replace_sync_bn(cfg.model):
        return []
    return ['SyncBN needs GPUs and is replaced by BN: batch statistics are per process']


@contextmanager
def process_group(cfg: Config) -> Iterator[None]:
    """Join the other processes of a run, if there are any.

    Args:
        cfg: The config, with its ``launcher``.

    Raises:
        UserError: Another process ended.
    """
    if cfg.launcher == 'none':
        yield
        return
    # A process that waits for others is inside C++ code, where Terminated cannot be raised.
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    on_cpus = not torch.cuda.is_available()
    try:
        if on_cpus:
            torch.distributed.init_process_group('gloo', timeout=PATIENCE)
        else:
            env_cfg = cfg.get('env_cfg', {})
            set_multi_processing(**env_cfg.get('mp_cfg', {}), distributed=True)  # as the Runner does, before
            init_dist(cfg.launcher, **{'timeout': PATIENCE.total_seconds(), **env_cfg.get('dist_cfg', {})})
        on_first_process(lambda: _check_exchange(cfg))
        yield
        # Only without an error, which must be printed before the others lose their connections.
        if on_cpus:
            # The launcher ends all when one fails, even at its exit, while another still writes a checkpoint.
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
    except RuntimeError as error:
        if not lost_process(error):
            raise
        raise UserError(f'stopped because {LOST}; see its error') from error
    finally:
        signal.signal(signal.SIGTERM, handler)


def _check_exchange(cfg: Config) -> None:
    """Check, before an epoch of training, that the evaluation after it can write."""
    settings = [cfg.get(f'{split}_evaluator') for split in ('val', 'test')]
    metrics = [metric for _, metric in dicts_in(settings) if 'type' in metric]
    if not any(
        metric.get('collect_device', 'cpu') == 'cpu' and not metric.get('collect_dir') for metric in metrics
    ):
        return
    try:
        check_folder('the working directory:', Path(EXCHANGE).absolute())
    except UserError as error:
        raise UserError(
            f"several processes exchange results in {EXCHANGE}, or where an evaluator's collect_dir says;"
            f' {error}'
        ) from error


@contextmanager
def alone() -> Iterator[None]:
    """Let the code in the block, such as losses that are averaged over processes, see this process alone."""
    initialized = torch.distributed.is_initialized
    torch.distributed.is_initialized = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_initialized = initialized


def lost_process(error: RuntimeError) -> bool:
    """Whether an error is gloo's report that another process is gone."""
    return 'gloo' in str(error) and 'Connection' in str(error)


def on_first_process(function: Callable[[], Result]) -> Result:
    """Call a function in the first process of a run, and return its result in all of them.

    Args:
        function: Reads what all processes need; its result is pickled.

    Returns:
        The function's result.

    Raises:
        UserError: Raised by ``function`` in the first process, and then by the others too.
    """
    message: list = [None]
    error = None
    if is_main_process():
        try:
            message = [(function(),)]
        except UserError as refusal:
            error = refusal
    broadcast_object_list(message)
    if error:
        raise error
    if message[0] is None:
        raise UserError('the first process has stopped; see its error')
    return message[0][0]
