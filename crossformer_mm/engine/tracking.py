"""``--log``: also send a training to TensorBoard, Weights & Biases or MLflow."""

import argparse
from collections.abc import Sequence
from importlib.util import find_spec

from mmengine.config import Config

from ..utils.errors import UserError
from .backends import SERVICES


def add_log_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--log``."""
    parser.add_argument(
        '--log',
        nargs='+',
        choices=SERVICES,
        default=(),
        metavar='SERVICE',
        help='also send losses, scores, learning rates and pictures of predictions to these services:'
        f' {", ".join(SERVICES)}',
    )


def set_services(cfg: Config, names: Sequence[str]) -> None:
    """Let a training send its numbers and pictures to services.

    Args:
        cfg: The config, changed in place.
        names: Of :data:`SERVICES`.

    Raises:
        UserError: A package is missing.
    """
    if not names:
        return
    kinds = [SERVICES[name] for name in dict.fromkeys(names)]
    if missing := [kind.package for kind in kinds if find_spec(kind.package) is None]:
        packages = ' '.join(missing)
        raise UserError(f'--log {packages}: not installed; pip install {packages}')
    cfg.setdefault('visualizer', {'type': 'Visualizer', 'vis_backends': [{'type': 'LocalVisBackend'}]})
    others = [
        backend
        for backend in cfg.visualizer.get('vis_backends') or ()
        if not any(backend['type'] in (kind.__name__, kind.replaced) for kind in kinds)
    ]
    cfg.visualizer.vis_backends = [*others, *({'type': kind.__name__} for kind in kinds)]
    hooks = [hook for hook in cfg.get('custom_hooks') or () if hook.get('type') != 'TrackingHook']
    cfg.custom_hooks = [*hooks, {'type': 'TrackingHook'}]


def check_services(names: Sequence[str]) -> None:
    """Check that a training can use services, which may ask for a login or create a database.

    Args:
        names: Of :data:`SERVICES`.

    Raises:
        UserError: A service refuses.
    """
    for name in dict.fromkeys(names):
        SERVICES[name].check()
