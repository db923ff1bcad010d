"""What keeps a training going: loops that replay, checkpoints written whole, and stops that say why.

Rooms, from leaf to root: ``workers`` (processes that load), ``replay`` (what is random, from the iteration
alone), ``loops``, ``finite`` (losses), ``processes`` (what several of them agree on), ``checkpoints``,
``memory`` (what to do when it runs out). Importing this registers the loops and hooks with mmengine.
"""

from .checkpoints import WholeCheckpointHook
from .finite import FiniteLossHook
from .loops import ResumableEpochLoop, ResumableIterLoop
from .processes import AgreementHook

__all__ = [
    'AgreementHook',
    'FiniteLossHook',
    'ResumableEpochLoop',
    'ResumableIterLoop',
    'WholeCheckpointHook',
]
