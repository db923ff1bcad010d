"""Read the JSON of an annotation file in any Unicode encoding, and write a repaired copy."""

import gc
import json
import locale
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..utils.errors import UserError
from ..utils.files import save_text

Content = dict[str, Any]
CONVERTED_FROM = 'converted_from'  # key of what converted annotation files are made from, and of notes


def load_json(path: Path) -> tuple[Content, bool]:
    """Read an annotation file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Args:
        path: The file.

    Returns:
        Its content, and whether pycocotools reads the same: it decodes files as the machine's locale says.

    Raises:
        UserError: The file cannot be read, or is not a JSON object.
    """
    try:
        written = path.read_bytes()
        encoding = json.detect_encoding(written)
        content = json.loads(written.decode(encoding))
    except FileNotFoundError:
        raise UserError(f'{path}: no such annotation file') from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; COCO's format has one JSON file for all images") from None
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from error
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is not valid JSON ({error}); save it as UTF-8') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path} is not valid JSON ({error}); is the file complete?') from error
    if not isinstance(content, dict):
        raise UserError(
            f'{path} is not a valid COCO annotation file:'
            f' its top level is a {type(content).__name__} instead of an object with images, annotations, …'
        )
    local = locale.getpreferredencoding(False).lower().replace('-', '')
    return content, encoding == 'utf-8' and (local == 'utf8' or written.isascii())


@contextmanager
def uncollected() -> Iterator[None]:
    """A context without the garbage collector, which would go through millions of records again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def save_copy(content: Content, folder: Path, name: str) -> Path:
    """Write a repaired annotation file, in plain ASCII.

    Its name ends with a digest of its content, so that it replaces no other file.

    Args:
        content: The JSON object.
        folder: The folder, made if it is missing.
        name: The beginning of the file's name.

    Returns:
        The file's absolute path.

    Raises:
        UserError: The file cannot be written.
    """
    return save_text(json.dumps(content), folder / f'{name[:60]}.json')  # at most 254 bytes with the digest
