"""Let mmengine read local checkpoints safely, and find the checkpoint to resume from."""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.model import PretrainedInit

from ..utils.errors import UserError
from ..utils.text import shorten
from .load import CrossFormerPretrained, load_state_dict
from .reader import Checkpoint, open_checkpoint, opened_checkpoint, read_checkpoint

RESUMABLE = ('optimizer', 'message_hub')  # parts of a training state, which files with only weights lack
RUNS = 'runs'  # entry of the message hub, which checkpoints contain: see `runs_of`
LAST = 'last_checkpoint'  # mmengine's file with the path of the checkpoint that was written last
NONE_YET = 'iter_0.pth'  # what it names until a new run in the folder of an earlier one has a checkpoint
LONGEST_NAME = 255  # bytes of a file's name


def install_reader() -> None:
    """Let ``load_from``, ``resume``, ``init_cfg`` and the toolboxes' inferencers load safely and strictly.

    mmengine's own loader fails on its own checkpoints with torch ≥ 2.6 (open-mmlab), or falls back
    to full unpickling (onedl); it downloads files, and loads what happens to fit. This affects the whole
    process; repeated calls have no further effect.
    """
    from mmengine.runner import CheckpointLoader, checkpoint  # needs OpenCV, which the backbone does not

    CheckpointLoader.load_checkpoint = staticmethod(load_from_local)  # instead of a loader per scheme
    checkpoint.load_state_dict = load_state_dict
    PretrainedInit.__call__ = CrossFormerPretrained.__call__


def load_from_local(filename: str, map_location: Any = None, logger: Any = None) -> dict[str, Any]:
    """Read a checkpoint for mmengine, or copy an open one (see :func:`~.reader.open_checkpoint`).

    The old toolboxes' ``meta['config']``, a config in Python, is removed: mmengine would execute it when
    resuming.

    Args:
        filename: The file; addresses are refused.
        map_location: As for ``torch.load``.
        logger: Not used.

    Raises:
        UserError: As :func:`~.reader.read_checkpoint`.
    """
    opened = opened_checkpoint(filename)
    checkpoint = read_checkpoint(filename, map_location) if opened is None else copy.deepcopy(opened)
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return dict(checkpoint)


class _State(NamedTuple):
    """A checkpoint with a training state, without its content, which contains the log."""

    time: str
    iter: int
    epoch: int
    runs: list[list]
    path: Path


def latest_intact(folders: Iterable[str | Path]) -> tuple[Checkpoint | None, list[str]]:
    """Find the checkpoint to resume from: the latest intact one of the training that wrote last.

    That training is the one of the file that ``last_checkpoint`` names; what was saved later is left out.
    Without that file, it is the one with the latest time in its checkpoints.

    Args:
        folders: The folders with a training's checkpoints; they need not exist. The first one has
            ``last_checkpoint``.

    Returns:
        The open checkpoint, or None if there are no checkpoints; and a line for each file that is damaged,
        and for those of other runs.

    Raises:
        UserError: There are checkpoints, but no intact one of that training.
    """
    folders = [Path(folder) for folder in folders]
    last = _last_written(folders[0])
    paths = {path for folder in folders for path in (*folder.glob('*.pth'), folder / last) if path.is_file()}
    complaints: list[str] = []
    found: list[_State] = []
    for path in sorted(paths):
        try:
            checkpoint = open_checkpoint(path, verify=False)  # of many, only one is used
        except UserError as error:
            complaints.append(str(error))
        else:
            if not missing_parts(checkpoint):
                found.append(_state_of(checkpoint))
    states = _of_one_training(found, last)
    if others := sorted({state.path for state in found} - {state.path for state in states}):
        complaints.append(f'{shorten(map(str, others))}: of another run')
    for state in states:
        try:
            return open_checkpoint(state.path), complaints
        except UserError as error:
            complaints.append(str(error))
    if complaints:
        raise UserError(
            f'the last run has no intact checkpoint: {"; ".join(complaints)}; give another file with --resume'
            ' FILE, or start a new training in another work folder'
        )
    return None, []


def _last_written(folder: Path) -> str:
    """The name of the file that ``last_checkpoint`` names, in whichever folder it was then; or nothing."""
    try:
        name = Path((folder / LAST).read_text(errors='replace').strip()).name
    except OSError:  # there is none
        return ''
    return name if len(name.encode()) <= LONGEST_NAME else ''


def _state_of(checkpoint: Checkpoint) -> _State:
    meta = checkpoint['meta']
    return _State(
        str(meta.get('time', '')), meta['iter'], meta['epoch'], runs_of(checkpoint), checkpoint.path
    )


def _of_one_training(found: Sequence[_State], last: str) -> list[_State]:
    """The states that led to the last one, this one first."""
    ends = [state for state in found if state.path.name == last]
    if not ends:  # it is unknown, damaged or gone
        if number := re.fullmatch(r'(epoch|iter)_(\d+)\.pth', last):
            found = [state for state in found if getattr(state, number[1]) < int(number[2])]
        ends = [one for one in found if not any(_led_to(one, it) and one.iter < it.iter for it in found)]
    if not ends:
        return []
    end = max(ends)
    earlier = [state for state in found if state is not end and _led_to(state, end)]
    return [end, *sorted(earlier, key=lambda state: (state.iter, state.path), reverse=True)]


def _led_to(one: _State, other: _State) -> bool:
    """Whether a training went on from the one state to the other."""
    count = len(one.runs)
    until = other.runs[count][1] if len(other.runs) > count else other.iter
    return other.runs[:count] == one.runs and one.iter <= until


def runs_of(checkpoint: Checkpoint) -> list[list]:
    """The runs of a checkpoint's training, each of which resumed the one before.

    Returns:
        For each run, its name and the iteration at which it started.
    """
    info = checkpoint['message_hub'].get('runtime_info')
    runs = info.get(RUNS) if isinstance(info, Mapping) else None
    if isinstance(runs, list) and all(map(_is_run, runs)):
        return runs
    return [[str(checkpoint['meta'].get('experiment_name')), 0]]  # of a run without the hooks of this package


def _is_run(run: Any) -> bool:
    return isinstance(run, list) and [*map(type, run)] == [str, int]


def missing_parts(checkpoint: Checkpoint) -> list[str]:
    """The parts of a training state that a checkpoint lacks."""
    missing = [part for part in RESUMABLE if not isinstance(checkpoint.get(part), Mapping)]
    meta = checkpoint.get('meta')
    numbers = [meta.get(unit) if isinstance(meta, Mapping) else None for unit in ('epoch', 'iter')]
    counted = all(isinstance(number, int) and number >= 0 for number in numbers)
    return missing if counted else [*missing, 'epoch and iter']
