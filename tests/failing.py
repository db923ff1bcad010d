"""A hook that ends one of several processes, for runs that import this file by its name."""

import os
import signal
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from crossformer_mm.utils.errors import UserError


@HOOKS.register_module()
class FailingHook(Hook):
    """Ends the second process before the second iteration.

    Args:
        how: ``'killed'``, ``'bug'``, or ``'mistake'`` for an error that a user can fix.
    """

    def __init__(self, how: str) -> None:
        self.how = how

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if get_rank() != 1 or runner.iter != 1:
            return
        if self.how == 'killed':
            os.kill(os.getpid(), signal.SIGKILL)
        raise {'bug': ZeroDivisionError, 'mistake': UserError}[self.how]('in the second process')
