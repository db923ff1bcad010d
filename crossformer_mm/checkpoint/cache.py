"""Weights by name: files in a folder of this machine, each with its SHA-256 beside it.

Nothing is downloaded: the authors' files are on their page, and ``crossformer convert FILE --to-cache`` puts
one into the folder, under the name of its arch.
"""

import difflib
import os
import re
from pathlib import Path

from ..models.arch import ARCHS
from ..utils.errors import UserError
from ..utils.files import check_folder, check_free, sha256_of, write_atomically
from .names import model_kind, recognise_arch, tensors_of
from .reader import error_context, local_path, open_checkpoint

PAGE = 'https://github.com/cheerss/CrossFormer'
COMMAND = 'crossformer convert FILE --to-cache'
WEIGHTS, CONFIG = 'model.safetensors', 'config.json'  # in a folder, under Hugging Face's names


def cache_folder() -> Path:
    """``CROSSFORMER_HOME``; by default ``crossformer_mm`` in the user's folder of caches."""
    caches = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return local_path(os.environ.get('CROSSFORMER_HOME') or f'{caches}/crossformer_mm')


def find_weights(source: str | Path) -> Path:
    """Find the file that a user means.

    Args:
        source: A file, a folder with ``model.safetensors``, or an arch's name for the file in the cache. A
            file or folder wins over a name.

    Returns:
        The file. Only a file of the cache is sure to exist, and to have the noted SHA-256.

    Raises:
        UserError: It is an address, an unknown name, or a folder without weights; or the file of this name is
            not in the cache, or was changed there.
    """
    path = local_path(source)
    inside, is_folder = path / WEIGHTS, os.path.isdir(path)  # noqa: PTH112 # Path's own fails for long names
    if is_folder and inside.is_file():
        return inside
    if isinstance(source, str) and source in ARCHS and (is_folder or not path.exists()):
        return _cached(source)
    if is_folder:
        raise UserError(f'{path}: is a folder without {WEIGHTS}; give a file, or what save_pretrained wrote')
    if re.fullmatch(r'[\w+-]+', str(source)) and not os.path.exists(path):  # noqa: PTH110
        close = difflib.get_close_matches(str(source).lower(), ARCHS, n=1)
        hint = f' (did you mean {close[0]}?)' if close else ''
        raise UserError(f'{source}: no such file, folder or name{hint}; the names are {", ".join(ARCHS)}')
    return path


def _place(name: str) -> tuple[Path, Path]:
    """The file of a name, and the one with its SHA-256, in the format of ``sha256sum``."""
    path = cache_folder() / f'{name}.safetensors'
    return path, path.with_name(f'{path.name}.sha256')


def _cached(name: str) -> Path:
    path, noted = _place(name)
    if not path.is_file():
        model = f'CrossFormer{"++" if "_" in name else ""}-{name[-1].upper()}'
        raise UserError(
            f'{name}: {path} does not exist, and is on no server; download the classification weights of'
            f" {model} from the authors' page, {PAGE}, and run {COMMAND}"
        )
    try:
        is_intact = noted.read_text().split()[:1] == [sha256_of(path)]
    except (OSError, ValueError):
        is_intact = False
    if not is_intact:
        raise UserError(
            f'{path}: does not have the SHA-256 in {noted.name}; replace it: {COMMAND} --overwrite'
        )
    return path


def place_in_cache(source: str | Path, overwrite: bool) -> tuple[str, Path]:
    """Find where in the cache a file belongs, which is created if missing.

    Args:
        source: A classifier's or a backbone's file.
        overwrite: Whether there may be a file of this name.

    Returns:
        The name, and the file to write.

    Raises:
        UserError: It holds a detector or segmentor, its arch has no name, or the cache cannot be written to.
    """
    checkpoint = open_checkpoint(source)
    with error_context(checkpoint.path):
        state = tensors_of(checkpoint)
        name, kind = recognise_arch(state), model_kind(state)
        if kind not in ('classifier', 'backbone'):
            raise UserError(f'holds a {kind}, but the names are for ImageNet weights; give OUT')
        if name not in ARCHS:
            raise UserError(f'its arch, {name}, has no name; give OUT')
    path, noted = _place(name)
    check_free(path, overwrite)
    check_free(noted, overwrite)
    check_folder('--to-cache', path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    return name, path


def note_digest(name: str) -> None:
    """Note the SHA-256 of a file that was put into the cache."""
    path, noted = _place(name)
    line = f'{sha256_of(path)}  {path.name}\n'
    write_atomically(noted, lambda part: part.write_text(line), overwrite=True)
