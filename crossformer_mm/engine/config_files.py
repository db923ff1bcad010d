"""This project's own configs by their names, in a clone and in an installed package alike."""

import difflib
from pathlib import Path

from ..utils.errors import UserError

CONFIG_HELP = 'a config file, or the name of one of those that "crossformer configs" lists'
_PACKAGE = Path(__file__).parents[1]


def config_folder() -> Path:
    """The folder of the configs: in a wheel the package's copy of them, in a clone ``configs/``."""
    inside = _PACKAGE / '.mim' / 'configs'
    return inside if inside.is_dir() else _PACKAGE.parent / 'configs'


def own_config(name: str | Path) -> Path:
    """Find one of this project's own configs.

    Args:
        name: Its file's name, the suffix may be missing.

    Returns:
        The file.

    Raises:
        UserError: There is none of that name.
    """
    files = {path.stem: path for path in config_folder().glob('*.py')}
    stem = str(name).removesuffix('.py')
    if stem not in files:
        last = Path(stem).name
        close = [last] if last in files else difflib.get_close_matches(last, files)
        hint = f'did you mean {" or ".join(close)}?' if close else '"crossformer configs" lists what there is'
        raise UserError(f'{name}: no such config file; {hint}')
    return files[stem]


def find_config(name: str | Path) -> Path:
    """Find a config by its path, or one of this project's own by its name.

    Args:
        name: A file, which comes first, or a name.

    Returns:
        The file.

    Raises:
        UserError: There is neither.
    """
    return Path(name) if Path(name).is_file() else own_config(name)
