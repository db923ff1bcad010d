"""Compare a training that resumes with the one that its checkpoint is from."""

import ast
import re
from collections.abc import Iterator, Mapping, Sized
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.runner import Runner

from ..checkpoint.meta import dataset_meta_of
from ..checkpoint.reader import Checkpoint
from ..data.datasets import dataset_meta, datasets_of, dicts_in, type_name
from ..utils.errors import UserError
from ..utils.text import shorten
from .runner import CLASSES_NAMED

_RESULT_DIFFERS = 'the result will not be that of an uninterrupted training'
CHANGED = f'the checkpoint was trained differently; {_RESULT_DIFFERS}'
# Settings that a training's result depends on. Those of the second group are restored from the checkpoint.
_RESULT = re.compile(r'(model|train_dataloader|train_cfg\.type|optim_wrapper|randomness\.diff_rank_seed)\b')
_RESTORED = re.compile(
    r'(optim_wrapper\.(optimizer|paramwise_cfg|constructor)|param_scheduler|auto_scale_lr)\b'
)
_NO_FIT = re.compile(
    r'(optim_wrapper\.optimizer|param_scheduler(\.\d+)?)\.type|optim_wrapper\.paramwise_cfg\.decay_rate'
)
_PART = re.compile(r'train_dataloader\..*\.type')
_OPTIONS = {'optim_wrapper.paramwise_cfg.decay_rate': '--layer-decay'}
# Settings that change no result: weights to start from, memory, speed, moved data, colours.
_NO_MATTER = re.compile(
    r'\b(init_cfg|pretrained|with_cp|test_cfg|num_workers|persistent_workers|prefetch_factor|pin_memory'
    r'|data_root|backend_args|palette)\b'
)
_LONGEST_TEXT = 1_000_000  # characters of a config
_LONGEST_VALUE = 60  # characters of a setting in a message
_LISTED = 6  # settings in a message


def check_trained_classes(cfg: Config, checkpoint: Checkpoint) -> None:
    """Check that a checkpoint was trained on the classes of the data, in their order.

    Args:
        cfg: The config of the run.
        checkpoint: Where it resumes; one without class names passes.

    Raises:
        UserError: The classes differ.
    """
    old = dataset_meta_of(checkpoint).get('classes')
    metas = [dataset_meta(cfg, dataset) for dataset in datasets_of(cfg, 'train_dataloader')]
    new = next((tuple(meta['classes']) for meta in metas if meta.get('classes')), None)
    if not old or not new or old == new:
        return
    differ = 'the same classes in another order'
    if sorted(old) != sorted(new):
        more, less = ([name for name in a if name not in b] for a, b in ((old, new), (new, old)))
        differ = f'other classes (with {shorten(more) or "none"}, without {shorten(less) or "none"})'
    raise UserError(
        f'--resume {checkpoint.path}: was trained on {differ} than the data has:'
        f' {shorten(old, CLASSES_NAMED)}, not {shorten(new, CLASSES_NAMED)}; resume with the data that it was'
        ' trained on, or start a new training'
    )


def compare_settings(cfg: Config, checkpoint: Checkpoint) -> list[str]:
    """Compare a config with the one that a checkpoint contains as text.

    Args:
        cfg: The config of the run that resumes.
        checkpoint: Where it resumes.

    Returns:
        Lines for the log: the settings that change the result, and those that have no effect.

    Raises:
        UserError: The checkpoint's optimizer or schedules are of another type.
    """
    text = checkpoint['meta'].get('cfg')
    if not isinstance(text, str):
        return []
    old = settings_in(text)
    if 'model.data_preprocessor.type' not in old:  # older files have it beside the model
        beside = [key for key in old if key.startswith('data_preprocessor.')]
        old |= {f'model.{key}': old.pop(key) for key in beside}
    new = settings_in(Config(cfg.to_dict(), format_python_code=False).pretty_text)
    keys = dict.fromkeys((*new, *old)) if old and new else ()
    changed = [key for key in keys if _compared(key, new.get(key)) != _compared(key, old.get(key))]
    changes = {
        key: f'{_OPTIONS.get(key, key)}={_shown(new.get(key))} (was {_shown(old.get(key))})'
        for key in changed
    }
    if no_fit := [change for key, change in changes.items() if _NO_FIT.fullmatch(key)]:
        raise UserError(
            f'--resume {checkpoint.path}: its optimizer and schedules do not fit: {shorten(no_fit, _LISTED)};'
            f' change these settings back, or start a new training from its weights: --load {checkpoint.path}'
        )
    changes = {key: change for key, change in changes.items() if not _NO_MATTER.search(key)}
    # Of another dataset or transform, the type says it all.
    parts = [key.removesuffix('type') for key in changes if _PART.fullmatch(key)]
    inside = {key for part in parts for key in changes if key.startswith(part) and key != f'{part}type'}
    changes = {key: change for key, change in changes.items() if key not in inside}
    restored = [change for key, change in changes.items() if _RESTORED.match(key)]
    others = [change for key, change in changes.items() if _RESULT.match(key) and not _RESTORED.match(key)]
    lines = []
    if others:
        lines.append(f'{CHANGED}: {shorten(others, _LISTED)}')
    if restored:
        lines.append(
            f'without effect, since optimizer and schedules continue from {checkpoint.path}:'
            f' {shorten(restored, _LISTED)}; to use them, start from its weights: --load {checkpoint.path}'
        )
    return lines


def state_warnings(cfg: Config) -> list[str]:
    """A line for the log if a resumed training cannot end like an uninterrupted one; otherwise none.

    Args:
        cfg: The config of the run that resumes.
    """
    parts = [*dicts_in(cfg.train_dataloader), *dicts_in(cfg.model.get('data_preprocessor'))]
    types = dict.fromkeys(type_name(part) for _, part in parts)
    kept = [name for name in types if name.startswith('Cached') or name == 'BatchSyncRandomResize']
    return [f'{_RESULT_DIFFERS}: no checkpoint has the state of {", ".join(kept)}'] if kept else []


def run_facts(runner: Runner) -> dict[str, int]:
    """What a training's result depends on, but no config states; checkpoints note it."""
    dataset = runner.train_dataloader.dataset
    return {'processes': get_world_size(), 'images': len(dataset) if isinstance(dataset, Sized) else 0}


def compare_facts(facts: Mapping[str, int], notes: Mapping[str, Any]) -> list[str]:
    """Compare a run with the notes in the checkpoint where it resumes, as :func:`compare_settings`.

    Args:
        facts: Of the run, from :func:`run_facts`.
        notes: Of the checkpoint; they may be from an earlier version.
    """
    return [
        f'{key}={facts[key]} (was {notes[key]})' for key in facts if notes.get(key) not in (None, facts[key])
    ]


def check_optimizer(runner: Runner, checkpoint: Checkpoint) -> None:
    """Build a run's optimizer, and check that a checkpoint has its groups of parameters, and schedules.

    Args:
        runner: The run, before it trains.
        checkpoint: Where it resumes.

    Raises:
        UserError: It does not.
    """
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    new, old = _group_sizes(runner.optim_wrapper.state_dict()), _group_sizes(checkpoint['optimizer'])
    reason = None
    if new != old:
        counts = [f'{sum(sizes)} parameters in groups: {len(sizes)}' for sizes in (old, new)]
        reason = f'its optimizer has {counts[0]}, the one of the config {counts[1]}'
    elif runner.cfg.get('param_scheduler') and not checkpoint.get('param_schedulers'):
        reason = 'it has no state of the schedules in param_scheduler'
    if reason:
        raise UserError(
            f'--resume {checkpoint.path}: does not fit the config: {reason}; change the config back, or start'
            f' a new training from its weights: --load {checkpoint.path}'
        )


def _group_sizes(state: Any) -> list[int]:
    """The numbers of tensors in the groups of one optimizer, or of several by name."""
    if not isinstance(state, Mapping):
        return []
    if isinstance(groups := state.get('param_groups'), list):
        return [len(group.get('params', ())) for group in groups if isinstance(group, Mapping)]
    return [size for part in state.values() for size in _group_sizes(part)]


def _compared(key: str, value: str | None) -> str | None:
    """A setting's value without the folder of an annotation file, which may have been moved."""
    return value.strip("'").rpartition('/')[2] if value and key.endswith('.ann_file') else value


def _shown(value: str | None) -> str:
    return 'not set' if value is None else value[:_LONGEST_VALUE]


def settings_in(text: str) -> dict[str, str]:
    """The settings in a config's text, which is not executed; empty if it is not such a text."""
    try:
        statements = ast.parse(text[:_LONGEST_TEXT]).body
        pairs = [
            pair
            for statement in statements
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
            for pair in _flatten(statement.targets[0].id, statement.value)
        ]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return {key: value for key, value in pairs if value != 'None'}


def _flatten(name: str, node: ast.expr) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Call) and not node.args:  # dict(…)
        parts = [(part.arg, part.value) for part in node.keywords]
    elif isinstance(node, ast.Dict):
        parts = [
            (getattr(key, 'value', '?'), value) for key, value in zip(node.keys, node.values, strict=True)
        ]
    elif isinstance(node, ast.List | ast.Tuple) and any(isinstance(part, ast.Call) for part in node.elts):
        parts = list(enumerate(node.elts))
    elif isinstance(node, ast.List | ast.Tuple):
        yield name, f'[{", ".join(map(ast.unparse, node.elts))}]'
        return
    else:
        yield name, ast.unparse(node)
        return
    for key, value in parts:
        yield from _flatten(f'{name}.{key}', value)
