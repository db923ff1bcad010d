"""Several processes of one run: who starts them, how they meet, and what the first one does for all."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, init_dist, is_main_process
from mmengine.utils.dl_utils import set_multi_processing

from ..data.datasets import replace_sync_bn
from ..utils.errors import UserError

# The variable by which a launcher numbers its processes, and the program that starts them.
LAUNCHERS = {
    'pytorch': ('RANK', 'torchrun, as tools/dist_train.sh does'),
    'slurm': ('SLURM_PROCID', 'srun'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun'),
}
Result = TypeVar('Result')


def set_launcher(cfg: Config, launcher: str, local_rank: int) -> None:
    """Prepare a config for a run of several processes, on GPUs or on CPUs.

    Args:
        cfg: The config, changed in place.
        launcher: ``'none'`` for a single process, or one of ``LAUNCHERS``.
        local_rank: The process's number on its machine, where the launcher passes it as an option.

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


def _distribute_on_cpus(cfg: Config) -> None:
    """MMEngine itself starts other launchers, wraps models and synchronises BN on GPUs alone."""
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
    """Fall back from SyncBN to BN where several processes run on CPUs; a single process does so by itself.

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
    # While it waits for the others, a process is not in Python, where Terminated would be raised.
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    on_cpus = not torch.cuda.is_available()
    try:
        if on_cpus:
            torch.distributed.init_process_group('gloo')
        else:
            env_cfg = cfg.get('env_cfg', {})
            set_multi_processing(**env_cfg.get('mp_cfg', {}), distributed=True)  # as the Runner does, before
            init_dist(cfg.launcher, **env_cfg.get('dist_cfg', {}))
        yield
        # Not after an error, which must be printed before the others lose their connections.
        if on_cpus:
            torch.distributed.destroy_process_group()
    except RuntimeError as error:
        if not lost_process(error):
            raise
        raise UserError('another process ended, and this one with it; see its error') from error
    finally:
        signal.signal(signal.SIGTERM, handler)


def lost_process(error: RuntimeError) -> bool:
    """Whether an error only says that another process is gone, in gloo's words."""
    return 'gloo' in str(error) and 'Connection' in str(error)


def on_first_process(function: Callable[[], Result]) -> Result:
    """Call a function in the first process of a run, and give its result to all.

    Args:
        function: Reads what all processes need; its result is pickled.

    Returns:
        What it returned.

    Raises:
        UserError: Raised by ``function`` in the first process; the others then stop too.
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
