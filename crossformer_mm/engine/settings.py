"""The settings that MMEngine reads, tried before it makes the work folder.

Types and arguments are looked up where MMEngine will: in its registries and in the classes' signatures. What
is cheap to build and touches no file is built, which finds the values that do not work.
"""

import copy
import difflib
import inspect
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    FUNCTIONS,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    VISBACKENDS,
    VISUALIZERS,
    Registry,
)
from mmengine.runner import get_priority
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from ..utils.errors import UserError

# What Runner.build_dataloader takes out of a loader's settings before torch sees them.
_OF_LOADERS = (
    *('dataset', 'sampler', 'batch_sampler', 'collate_fn', 'worker_init_fn'),
    *('num_batch_per_epoch', 'disable_subprocess_warning'),
)
_OWN_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
_COUNTS = ('max_epochs', 'max_iters', 'val_interval')
_NAMED = 3  # near names in a message
_NOT_BUILT = (AssertionError, AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class _Part:
    """A part of a run that a registry builds.

    Attributes:
        where: The setting's name.
        settings: What the config says.
        registry: Where its type is looked up.
        given: Arguments that MMEngine adds, or takes out before it builds.
        default: The type, where the config may leave it out.
    """

    where: str
    settings: Any
    registry: Registry
    given: Sequence[str] = ()
    default: str | None = None


def check_groups(cfg: Config, splits: Sequence[str]) -> None:
    """Check that what belongs together is there, and the numbers that a loop divides by much later.

    Args:
        cfg: The config of a run.
        splits: Those of ``'train'``, ``'val'`` and ``'test'`` that the run uses; it may do without ``'val'``.

    Raises:
        UserError: A part is missing, or a number makes no sense.
    """
    for split in splits:
        last = 'optim_wrapper' if split == 'train' else f'{split}_evaluator'
        names = [f'{split}_dataloader', f'{split}_cfg', last]
        missing = [name for name in names if cfg.get(name) is None]
        if missing and (len(missing) < len(names) or split != 'val'):
            raise UserError(f'{missing[0]} is missing; {", ".join(names)} go together')
        if not missing and not isinstance(cfg[names[1]], dict):
            raise UserError(f'{names[1]}={cfg[names[1]]!r:.60}: give a dict')
    if 'train' in splits:
        _check_lengths(cfg.train_cfg)


def _check_lengths(loop: ConfigDict) -> None:
    if 'type' not in loop and 'by_epoch' not in loop:
        raise UserError('train_cfg has neither type nor by_epoch; give one, such as train_cfg.by_epoch=True')
    for key in _COUNTS:
        count = loop.get(key, 1)
        if not isinstance(count, int) or count < 1:
            raise UserError(f'train_cfg.{key}={count!r}: give a whole number above 0')


def check_settings(cfg: Config, splits: Sequence[str], model: nn.Module | None = None) -> None:
    """Check what MMEngine builds beside the model; the default scope is the caller's to set.

    Args:
        cfg: The config of a run.
        splits: Those of ``'train'``, ``'val'`` and ``'test'`` that the run uses.
        model: The config's model, for its optimizer; None where nothing is trained.

    Raises:
        UserError: A type or an argument is unknown, or a value does not work; the message names the setting.
    """
    for part in _parts(cfg, splits):
        _check_part(part)
    for name in (f'{split}_dataloader' for split in splits):
        _check_arguments(name, cfg.get(name) or (), DataLoader, _OF_LOADERS)
    level = cfg.get('log_level', 'INFO')
    _try('log_level', level, logging.Logger('').setLevel)
    with warnings.catch_warnings():  # the run builds all of it again, and warns then
        warnings.simplefilter('ignore')
        for where, settings, build in _builders(cfg, splits):
            _try(where, settings, build)
        if model is not None:
            _build_optimizer(cfg, model)


def _parts(cfg: Config, splits: Sequence[str]) -> Iterator[_Part]:
    if 'train' in splits:
        yield from _optimizer_parts(cfg)
        for where, scheduler in _schedulers(cfg):
            given = ('optimizer', 'epoch_length', 'convert_to_iter_based')
            yield _Part(where, scheduler, PARAM_SCHEDULERS, given)
    for where, hook in _hooks(cfg):
        yield _Part(where, hook, HOOKS, ('priority',))
    for split in splits:
        if cfg.get(f'{split}_dataloader'):
            yield from _loop_parts(cfg, split)
            yield from _loader_parts(f'{split}_dataloader', cfg[f'{split}_dataloader'])
    if visualizer := cfg.get('visualizer'):
        yield _Part('visualizer', visualizer, VISUALIZERS, ('name', 'save_dir'))
        for where, backend in _listed('visualizer.vis_backends', visualizer.get('vis_backends')):
            yield _Part(where, backend, VISBACKENDS, ('save_dir',))
    if processor := cfg.get('log_processor'):
        yield _Part('log_processor', processor, LOG_PROCESSORS, default='LogProcessor')


def _optimizer_parts(cfg: Config) -> Iterator[_Part]:
    wrapper = cfg.optim_wrapper
    if not isinstance(wrapper, dict) or 'optimizer' in wrapper:
        given = ('constructor', 'paramwise_cfg', 'optimizer')
        yield _Part('optim_wrapper', wrapper, OPTIM_WRAPPERS, given, 'OptimWrapper')
        yield _Part('optim_wrapper.optimizer', wrapper.optimizer, OPTIMIZERS, ('params',))
    if constructor := wrapper.get('constructor'):
        given, settings = ('optim_wrapper_cfg', 'paramwise_cfg'), {'type': constructor}
        yield _Part('optim_wrapper.constructor', settings, OPTIM_WRAPPER_CONSTRUCTORS, given)


def _schedulers(cfg: Config) -> Iterator[tuple[str, Any]]:
    schedulers = cfg.get('param_scheduler')
    several = isinstance(schedulers, dict) and 'type' not in schedulers  # a list an optimizer
    return iter(()) if several else _listed('param_scheduler', schedulers)


def _hooks(cfg: Config) -> Iterator[tuple[str, Any]]:
    for name, hook in (cfg.get('default_hooks') or {}).items():
        if hook is not None or name not in _OWN_HOOKS:
            yield f'default_hooks.{name}', hook
    yield from _listed('custom_hooks', cfg.get('custom_hooks'))


def _loop_parts(cfg: Config, split: str) -> Iterator[_Part]:
    loop = cfg[f'{split}_cfg']
    default = {'train': None, 'val': 'ValLoop', 'test': 'TestLoop'}[split]
    yield _Part(f'{split}_cfg', loop, LOOPS, ('runner', 'dataloader', 'evaluator'), default)
    if split == 'train':
        return
    for where, evaluator in _listed(f'{split}_evaluator', cfg[f'{split}_evaluator']):
        if isinstance(evaluator, dict) and 'metrics' in evaluator:
            yield _Part(where, evaluator, EVALUATOR, default='Evaluator')
            for place, metric in _listed(f'{where}.metrics', evaluator.metrics):
                yield _Part(place, metric, METRICS)
        else:
            yield _Part(where, evaluator, METRICS)


def _loader_parts(name: str, loader: ConfigDict) -> Iterator[_Part]:
    yield from _dataset_parts(f'{name}.dataset', loader.get('dataset'))
    yield _Part(f'{name}.sampler', loader.get('sampler'), DATA_SAMPLERS, ('dataset', 'seed'))
    if batches := loader.get('batch_sampler'):
        yield _Part(f'{name}.batch_sampler', batches, DATA_SAMPLERS, ('sampler', 'batch_size'))
    if collate := loader.get('collate_fn'):
        yield _Part(f'{name}.collate_fn', collate, FUNCTIONS, ('data_batch',))


def _dataset_parts(where: str, dataset: Any) -> Iterator[_Part]:
    yield _Part(where, dataset, DATASETS)
    for inner in ('dataset', 'datasets'):
        for place, wrapped in _listed(f'{where}.{inner}', dataset.get(inner)):
            yield from _dataset_parts(place, wrapped)
    yield from _transform_parts(f'{where}.pipeline', dataset.get('pipeline'))


def _transform_parts(where: str, steps: Any) -> Iterator[_Part]:
    """The steps of a pipeline; some hold others, which may be lists to choose from."""
    for place, step in _listed(where, steps):
        if isinstance(step, list | tuple):
            yield from _transform_parts(place, step)
            continue
        yield _Part(place, step, TRANSFORMS)
        if any(isinstance(inner, dict | list | tuple) for inner in _values(step.get('transforms'))):
            named = str(step.get('type')).rpartition('.')[2]
            if named != 'Albu':  # whose transforms are another library's
                yield from _transform_parts(f'{place}.transforms', step.transforms)


def _values(settings: Any) -> list[Any]:
    if settings is None:
        return []
    return list(settings) if isinstance(settings, list | tuple) else [settings]


def _listed(where: str, settings: Any) -> Iterator[tuple[str, Any]]:
    """The names and settings of parts that stand alone, in a list, or not at all."""
    if isinstance(settings, list | tuple):
        yield from ((f'{where}.{place}', part) for place, part in enumerate(settings))
    elif settings is not None:
        yield where, settings


def _check_part(part: _Part) -> None:
    """Look up a part's type, and its arguments in what that takes."""
    if not isinstance(part.settings, dict) or not part.settings.get('type', part.default):
        raise UserError(
            f'{part.where}={part.settings!r:.60}: give a dict with the type of what is to be built'
        )
    name = part.settings.get('type', part.default)
    kind = _look_up(part, name) if isinstance(name, str) else name
    if not callable(kind):
        what, near = part.registry.name.replace('_', ' '), _near(name, _names(part.registry))
        raise UserError(f'{part.where}.type={name}: no {what} has this name; the nearest: {near}')
    _check_arguments(part.where, part.settings.keys() - {'type', '_scope_'}, kind, part.given)


def _check_arguments(where: str, names: Iterable[str], kind: Callable, given: Sequence[str]) -> None:
    taken = _arguments(kind)
    if taken is None:
        return
    for name in sorted(set(names) - taken - set(given)):
        near = _near(name, taken - set(given)) or 'it takes none'
        raise UserError(f'{where}.{name}: {kind.__name__} has no such argument; the nearest: {near}')


def _look_up(part: _Part, name: str) -> Any:
    if part.registry is FUNCTIONS:  # MMEngine looks them up without a scope
        return FUNCTIONS.get(name)
    with part.registry.switch_scope_and_registry(part.settings.get('_scope_')) as registry:
        return registry.get(name)


def _names(registry: Registry) -> set[str]:
    with registry.switch_scope_and_registry(None) as registry:
        names = set(registry.module_dict)
        while registry := registry.parent:
            names |= registry.module_dict.keys()
    return names


def _near(word: Any, known: set[str]) -> str:
    """The names that are most like a word; case counts little."""
    by_case = {name.lower(): name for name in sorted(known)}
    close = difflib.get_close_matches(str(word).lower(), by_case, n=_NAMED, cutoff=0)
    return ', '.join(by_case[name] for name in close)


def _arguments(kind: Callable) -> set[str] | None:
    """What a class or a function takes by name; None if that cannot be told.

    ``**kwargs`` are taken to go on to the next class in the order of resolution, as they do in the toolboxes.
    """
    names: set[str] = set()
    makers = [kind]
    if inspect.isclass(kind):
        makers = [base.__init__ for base in kind.__mro__[:-1] if '__init__' in vars(base)]
    for maker in makers:
        more, open_end = _of_signature(maker)
        names |= more
        if not open_end:
            return names - {'self'}
    return None if makers else names


def _of_signature(function: Callable) -> tuple[set[str], bool]:
    """The names of arguments, and whether there may be others."""
    parameters = inspect.signature(function).parameters.values()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _builders(cfg: Config, splits: Sequence[str]) -> Iterator[tuple[str, Any, Callable[[dict], Any]]]:
    """What is built for trial, and how: it takes no time, reads nothing and writes nothing."""
    for where, hook in _hooks(cfg):
        yield where, hook, _build_hook
    if processor := cfg.get('log_processor'):
        yield 'log_processor', {'type': 'LogProcessor', **processor}, LOG_PROCESSORS.build
    for split in splits:
        name = f'{split}_dataloader'
        if loader := cfg.get(name):
            yield name, {key: loader[key] for key in loader.keys() - set(_OF_LOADERS)}, _build_loader
            for part in _dataset_parts(f'{name}.dataset', loader.dataset):
                build = TRANSFORMS.build if part.registry is TRANSFORMS else _build_dataset
                yield part.where, part.settings, build


def _build_hook(hook: dict) -> None:
    get_priority(hook.pop('priority', 'NORMAL'))
    with _some_visualizer():
        HOOKS.build(hook)


@contextmanager
def _some_visualizer() -> Iterator[None]:
    """Hooks ask for the run's visualiser when they are built, which is not there yet."""
    known = Visualizer._instance_dict
    name = 'of no run'
    if not known:
        Visualizer.get_instance(name)
    try:
        yield
    finally:
        known.pop(name, None)


def _build_loader(settings: dict) -> None:
    DataLoader(range(1), **settings)


def _build_dataset(settings: dict) -> None:
    """A dataset that can wait with its annotations does."""
    with DATASETS.switch_scope_and_registry(settings.get('_scope_')) as registry:
        kind = registry.get(settings['type']) if isinstance(settings['type'], str) else settings['type']
    if inspect.isclass(kind) and issubclass(kind, BaseDataset):
        DATASETS.build({**settings, 'pipeline': [], 'lazy_init': True})


def _build_optimizer(cfg: Config, model: nn.Module) -> None:
    wrapper = _try('optim_wrapper', cfg.optim_wrapper, partial(build_optim_wrapper, model))
    if not isinstance(wrapper, OptimWrapper):
        return
    given = {'optimizer': wrapper, 'epoch_length': 1}
    for where, scheduler in _schedulers(cfg):
        _try(where, scheduler, partial(PARAM_SCHEDULERS.build, default_args=given))


def _try(where: str, settings: Any, build: Callable[[Any], Any]) -> Any:
    """Build with a copy of settings, or say with which it cannot be done and why."""
    try:
        return build(copy.deepcopy(settings))
    except _NOT_BUILT as error:
        reason = str(error.args[0] if error.args else type(error).__name__).strip().partition('\n')[0]
        listed = ', '.join(_flat(settings)) if isinstance(settings, dict) else settings
        raise UserError(f'{where} cannot be used with {listed}: {" ".join(reason.split())}') from error


def _flat(settings: dict, before: str = '') -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f'{before}{key}.')
        else:
            yield f'{before}{key}={value!r:.40}'
