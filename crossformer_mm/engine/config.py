"""Find a config file, read it, and merge settings from the command line into it."""

import argparse
import difflib
import inspect
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from ..plugins import TOOLBOXES, register_toolbox
from ..utils.errors import UserError

_PACKAGE = Path(__file__).parents[1]
# Settings that MMEngine reads from the config besides the arguments of its Runner.
_RUNNER_EXTRAS = (
    *('activation_checkpointing', 'backend_args', 'compile', 'custom_imports'),
    *('efficient_conv_bn_eval', 'find_unused_parameters', 'model_wrapper_cfg', 'sync_bn'),
)


def config_folder() -> Path:
    """The folder of this project's configs: the packaged copy in a wheel, ``configs/`` in a clone."""
    packaged = _PACKAGE / '.mim' / 'configs'
    return packaged if packaged.is_dir() else _PACKAGE.parent / 'configs'


def own_config(name: str | Path) -> Path:
    """Find one of this project's own configs by its name, with or without ``.py``.

    Raises:
        UserError: There is no config of that name.
    """
    files = {path.stem: path for path in config_folder().glob('*.py')}
    stem = str(name).removesuffix('.py')
    if stem not in files:
        last = Path(stem).name
        close = [last] if last in files else difflib.get_close_matches(last, files)
        hint = f'did you mean {" or ".join(close)}?' if close else '"crossformer configs" lists them'
        raise UserError(f'{name}: no such config file; {hint}')
    return files[stem]


def find_config(name: str | Path) -> Path:
    """Find a config: an existing file of this path, or else one of this project's own of this name.

    Raises:
        UserError: Neither exists.
    """
    return Path(name) if Path(name).is_file() else own_config(name)


def load_config(path: str | Path, cfg_options: Sequence[str] = ()) -> Config:
    """Read a config file and merge settings into it.

    Args:
        path: A config file, or the name of one of this project's own.
        cfg_options: Settings as ``KEY=VALUE``, in mmengine's notation: ``a.b.0.c=(1,2)``.

    Returns:
        The config; its model has the ``data_preprocessor`` that some configs set beside it.

    Raises:
        UserError: The file is missing or does not parse, or a setting does not fit the config.
    """
    path = find_config(path)
    try:
        with quiet_imports():
            cfg = Config.fromfile(path)
            if cfg.get('default_scope') in TOOLBOXES:
                register_toolbox(cfg.default_scope)
    except Exception as error:  # a config is a program and can raise anything
        raise UserError(f'{path}: cannot load this config: {_one_line(error)}') from error
    settings: dict[str, Any] = {}
    for option in cfg_options:
        settings.update(_parse_setting(cfg, option))
    try:
        cfg.merge_from_dict(settings)
    except (KeyError, TypeError, IndexError, AssertionError) as error:
        words = ' '.join(cfg_options)
        raise UserError(f'--cfg-options {words}: does not fit the config: {_one_line(error)}') from error
    if cfg.get('data_preprocessor') and isinstance(cfg.get('model'), dict):  # as MMEngine's Runner does
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return cfg


def check_has_model(cfg: Config) -> None:
    """Raise a :class:`UserError` if a config has no model with a backbone."""
    if not isinstance(cfg.get('model'), dict) or 'backbone' not in cfg.model:
        raise UserError(
            f'{cfg.filename} has no model with a backbone; "crossformer configs" lists complete configs'
        )


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Silence the toolboxes' notices about optional packages that this project does not use."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()) as output:
        warnings.filterwarnings('ignore', message='faster_coco_eval is not installed')
        yield
    for line in output.getvalue().splitlines():
        if not line.startswith('Could not import OneDL'):
            print(line)


def _one_line(error: Exception) -> str:
    text = str(error).strip().partition('\n')[0]
    return f'{type(error).__name__}: {text}'


def _parse_setting(cfg: Config, option: str) -> dict[str, Any]:
    """Parse one ``KEY=VALUE``; the first name in KEY must be a setting that a run reads."""
    parsed = argparse.Namespace()
    try:
        DictAction([], 'settings')(None, parsed, [option])
    except (ValueError, AssertionError, RecursionError) as error:
        raise UserError(
            f'--cfg-options {option}: not KEY=VALUE with balanced brackets, such as train_cfg.max_epochs=24;'
            ' set the values of a dict one by one'
        ) from error
    name = option.partition('=')[0].partition('.')[0]
    known = {*inspect.signature(Runner).parameters, *_RUNNER_EXTRAS}
    if name in known:
        return parsed.settings
    if name in cfg:
        raise UserError(
            f'--cfg-options {option}: {name} is a variable of the config file; changing it here would have'
            ' no effect: change the settings that use it (train_dataloader.…)'
        )
    close = difflib.get_close_matches(name, known, n=1)
    hint = f'did you mean {close[0]}?' if close else f'{cfg.filename} does not have it'
    raise UserError(f'--cfg-options {option}: unknown setting {name}; {hint}')
