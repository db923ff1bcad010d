"""Find the images of an annotation file in their folder, and compare their sizes with the annotated ones."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ..utils.errors import UserError
from ..utils.files import files_in
from ..utils.progress import map_in_threads
from .coco_values import Record, has_size, is_box, is_key, is_text, records_of
from .images import (
    SUFFIXES,
    ImageHeader,
    NoImageError,
    image_header,
    quiet_decoders,
    spread,
    turning_advice,
)
from .label_files import name_form
from .problems import Repairs

Parts = tuple[str, ...]

SIZES_READ = 500  # images of each set whose headers a run reads
_JPEG = ('.jpg', '.jpeg', '.jpe', '.jfif')
_IMAGE_SUFFIXES = (*SUFFIXES, '.jp2', '.ppm', '.pgm', '.pbm', '.gif', '.avif')


def missing_images(names: Iterable[str], folder: str | Path) -> list[str]:
    """Find missing images by listing folders, not by opening files.

    Args:
        names: Paths relative to the folder.
        folder: The folder.

    Returns:
        The names of missing images, in order.

    Raises:
        UserError: A folder cannot be listed.
    """
    split = [(name, *name.rpartition('/')[::2]) for name in names]
    present = {parent: _list_folder(Path(folder, parent)) for parent in {parent for _, parent, _ in split}}
    return [name for name, parent, own in split if own not in present[parent]]


def _list_folder(folder: Path) -> set[str]:
    if not os.path.isdir(folder):  # noqa: PTH112 # accepts any name, unlike Path.is_dir
        return set()
    try:
        return set(os.listdir(folder))  # noqa: PTH208 # faster than Path objects for many files
    except OSError as error:
        raise UserError(f'{folder} cannot be listed: {error.strerror}') from error


def repair_names(content: Record, folder: str | Path, note: Repairs) -> None:
    """Find images under a similar name: other case, Unicode form, slashes, folders or suffix.

    A name is replaced only if a single file can be meant, and only by this name.

    Args:
        content: The JSON object, changed in place.
        folder: The folder that the names are relative to.
        note: Called with each repair.
    """
    images = [i for i in records_of(content, 'images') if is_text(i.get('file_name'))]
    names = {image['file_name'] for image in images}
    missing = missing_images(sorted(names), folder)
    if not missing:
        return
    taken = {os.path.normpath(name) for name in names.difference(missing)}
    files = similar_files(missing, folder)
    found = {name: files[name][0] for name in missing if len(files[name]) == 1}
    meant = defaultdict(list)
    for name, file in found.items():
        meant[file].append(name)
    for image in images:
        name = image['file_name']
        file = found.get(name)
        if file and file not in taken and len(meant[file]) == 1:
            image['file_name'] = file
            note('file names that differ from those in the folder, found', f'"{name:.80}" → "{file:.80}"')


def similar_files(names: Sequence[str], folder: str | Path) -> dict[str, list[str]]:
    """The files that names can mean, relative to the folder.

    The folders in the name and those in the folder may differ at the beginning: one path must end with the
    other. Only suffixes of JPEG files may differ: an image of another format may be a mask.

    Args:
        names: Names of images that do not exist.
        folder: The folder.

    Returns:
        The files of each name.
    """
    by_name, by_stem = defaultdict(list), defaultdict(list)
    for path in files_in(folder):
        file = path.relative_to(folder).as_posix()
        if is_text(file) and (parts := _parts(file)):
            by_name[parts[-1]].append((parts, file))
            if parts[-1].endswith(_IMAGE_SUFFIXES):
                by_stem[_stem(parts[-1])].append((parts, file))
    similar = {}
    for name in names:
        parts = _parts(name)
        own = parts[-1] if parts else ''
        renamed = by_stem[_stem(own)] if own.endswith(_JPEG) else []
        candidates = by_name[own] or by_stem[own] or [f for f in renamed if f[0][-1].endswith(_JPEG)]
        similar[name] = [file for other, file in candidates if _ends_alike(parts[:-1], other[:-1])]
    return similar


def _parts(name: str) -> Parts:
    """A path's folders and name, without what differs between systems."""
    text = name_form(name).replace('\\', '/')
    return tuple(part.strip() for part in text.split('/') if part.strip() not in ('', '.', '..'))


def _stem(name: str) -> str:
    return PurePosixPath(name).stem if name.endswith(_IMAGE_SUFFIXES) else name


def _ends_alike(one: Parts, other: Parts) -> bool:
    length = min(len(one), len(other))
    return one[len(one) - length :] == other[len(other) - length :]


def repair_image_sizes(
    content: Record,
    folder: str | Path,
    note: Repairs,
    most: int | None = SIZES_READ,
    ignore_exif: bool = False,
) -> None:
    """Read missing sizes from the files, and exchange heights and widths that are the wrong way round.

    Args:
        content: The JSON object with repaired ids, changed in place.
        folder: The folder of the images.
        note: Called with each repair.
        most: How many images' headers are read, evenly spread; the others follow if some of these are
            wrong. None for all.
        ignore_exif: Whether the run loads the stored pixels, without turning them.
    """
    images = [i for i in records_of(content, 'images') if is_text(i.get('file_name'))]
    for image, (height, width, _) in headers_of([i for i in images if not has_size(i)], folder, ignore_exif):
        image.update(height=height, width=width)
        note('images without a size, read from their files', f'"{image["file_name"]:.80}": {width}×{height}')
    swapped = _swapped(spread(images, most), folder, ignore_exif)
    if swapped and most is not None:
        swapped = _swapped(images, folder, ignore_exif)
    if not swapped:
        return
    reach = _reach(content)
    ends = [(image['height'], image['width'], *reach.get(image.get('id'), (0, 0))) for image in swapped]
    as_annotated = sum(right <= width and low <= height for height, width, right, low in ends)
    as_in_files = sum(right <= height and low <= width for height, width, right, low in ends)
    for image in swapped if as_in_files >= as_annotated else ():
        image['height'], image['width'] = image['width'], image['height']
        what = f'"{image["file_name"]:.80}" has {image["width"]}×{image["height"]} pixels'
        note('height and width that are the wrong way round, exchanged', what)


def _swapped(images: Sequence[Record], folder: str | Path, ignore_exif: bool) -> list[Record]:
    """Images that are not square, whose file has the annotated height and width the wrong way round."""
    found = []
    for image, header in headers_of(images, folder, ignore_exif):
        annotated = image.get('height'), image.get('width')
        if header[:2] != annotated == (header.width, header.height):
            other = _header(Path(folder, image['file_name']), not ignore_exif)
            if other is None or other[:2] != annotated:  # it is not EXIF data that turns it
                found.append(image)
    return found


def _reach(content: Record) -> Mapping[int | str, tuple[float, float]]:
    """How far right and down the objects of each image reach."""
    reach: dict[int | str, tuple[float, float]] = {}
    for annotation in records_of(content, 'annotations'):
        key, box = annotation.get('image_id'), annotation.get('bbox')
        if is_key(key) and is_box(box):
            right, low = reach.get(key, (0, 0))
            reach[key] = max(right, box[0] + box[2]), max(low, box[1] + box[3])
    return reach


def headers_of(
    images: Sequence[Record], folder: str | Path, ignore_exif: bool = False
) -> Iterator[tuple[Record, ImageHeader]]:
    """Read the headers of images; those that cannot be read are left out.

    Args:
        images: Records with a ``file_name``.
        folder: The folder of the images.
        ignore_exif: Whether the run loads the stored pixels, without turning them.

    Yields:
        The record, and the size as the run loads the image.
    """
    paths = [Path(folder, image['file_name']) for image in images]
    with quiet_decoders():
        headers = list(map_in_threads(_header, paths, [ignore_exif] * len(paths), description='read sizes'))
    yield from ((image, header) for image, header in zip(images, headers, strict=True) if header)


def _header(path: Path, ignore_exif: bool) -> ImageHeader | None:
    try:
        return image_header(path, ignore_exif)
    except NoImageError:
        return None


def size_fault(image: Record, folder: str | Path, header: ImageHeader) -> str | None:
    """Describe why an image does not have the annotated size; None if it has.

    Args:
        image: A valid record.
        folder: The folder of the images.
        header: From :func:`headers_of`.
    """
    annotated = image['height'], image['width']
    if header[:2] == annotated:
        return None
    path = Path(folder, image['file_name'])
    why = turning_advice(header, annotated) or '; its objects would be in wrong places'
    sizes = f'{header.width}×{header.height} pixels, its annotations say {annotated[1]}×{annotated[0]}'
    return f'{path} has {sizes}{why}'
