"""What is not COCO is converted once, and again when the data have changed."""

import base64
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from format_files import image, labelme, shape, write, xml

from crossformer_mm.data.coco import read_coco
from crossformer_mm.data.formats import cache
from crossformer_mm.data.formats.cache import cache_folder, convert, file_of
from crossformer_mm.data.formats.recognise import recognise
from crossformer_mm.utils.errors import UserError
from crossformer_mm.utils.files import files_in
from crossformer_mm.utils.locks import NAME, locked

DIFFICULT = '<difficult>1</difficult>'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """VOC data of two splits, with an object in each of two images."""
    root = tmp_path / 'cells'
    for split, name in (('train', 'a'), ('val', 'b')):
        write(root / 'Annotations' / f'{name}.xml', xml(f'{name}.jpg', ('cell', (1, 2, 30, 40))))
        write(root / 'ImageSets' / 'Main' / f'{split}.txt', f'{name}\n')
        image(root / 'JPEGImages' / f'{name}.jpg')
    return root


def converted(root: Path, *splits: str, ignore_exif: bool = False) -> Path:
    """The folder of converted files beside a work folder."""
    layout = recognise(root, 'detection')
    folder = cache_folder(layout, root.parent / 'work_dirs' / 'run', ignore_exif)
    convert(layout, splits or tuple(layout.splits), folder, ignore_exif)
    return folder


def listing(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files_in(folder)}


def test_conversion_is_done_once_and_names_its_origin(root: Path) -> None:
    data = listing(root)
    folder = converted(root)
    before = listing(folder)
    assert [path.name for path in before] == ['about.json', 'train.json', 'val.json']
    file = read_coco(folder / 'val.json', masks=False, folder=root / 'JPEGImages')
    assert file.image_names == ('b.jpg',)
    assert file.annotations[0]['bbox'] == [0, 1, 30, 39]
    assert file.name == f'{root} (Pascal VOC, val)'
    assert file.notes == [
        "coordinates of VOC's boxes, read as numbers of pixels from 1: 1 (VOC's definition; no coordinate is"
        ' below 1, and most are whole numbers)'
    ]
    assert converted(root) == folder
    assert listing(folder) == before
    assert listing(root) == data


def test_only_the_needed_splits_are_converted(root: Path) -> None:
    write(root / 'Annotations' / 'a.xml', '<annotation>\n<object>')
    folder = converted(root, 'val')
    assert not file_of(folder, 'train').exists()
    with pytest.raises(UserError, match=r'a\.xml, line 2: .*; correct the file, or remove it$'):
        converted(root)


def test_refused_data_leave_nothing(root: Path) -> None:
    write(root / 'Annotations' / 'b.xml', '<annotation>\n<object>')
    with pytest.raises(UserError, match=r'b\.xml, line 2'):
        converted(root)
    assert not (root.parent / 'work_dirs' / 'converted').exists()


def edit_box(root: Path) -> None:
    path = root / 'Annotations' / 'a.xml'
    status = path.stat()
    path.write_text(path.read_text().replace('30', '31'))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # only the content tells


def replace_image(root: Path) -> None:
    image(root / 'JPEGImages' / 'a.jpg', orientation=3)


def add_image(root: Path) -> None:
    image(root / 'JPEGImages' / 'c.jpg')


def name_classes(root: Path) -> None:
    write(root / 'classes.txt', 'cell\nother\n')


def change_list(root: Path) -> None:
    write(root / 'ImageSets' / 'Main' / 'val.txt', 'a\nb\n')


@pytest.mark.parametrize('change', [edit_box, replace_image, add_image, name_classes, change_list])
def test_changed_data_are_converted_again(root: Path, change: Callable[[Path], None]) -> None:
    first = converted(root)
    change(root)
    second = converted(root)
    assert first != second
    assert not first.exists()
    assert len(files_in(second)) == 3


@pytest.mark.parametrize('changed', ['labels/a.txt', 'images/a.jpg'])
def test_listed_images_elsewhere_and_their_labels_are_read_again(tmp_path: Path, changed: str) -> None:
    store, project = tmp_path / 'store', tmp_path / 'project'
    listed = image(store / 'images' / 'a.jpg')
    write(store / 'labels' / 'a.txt', '0 0.5 0.5 0.2 0.1\n')
    write(project / 'train.txt', f'{listed}\n')
    write(project / 'data.yaml', 'train: train.txt\nnames: [cell]\n')
    first = converted(project)
    os.utime(store / changed, (1, 1))
    assert (converted(project) == first) == changed.endswith('.txt')  # whose content is the same
    write(store / 'labels' / 'a.txt', '0 0.5 0.5 0.3 0.1\n')
    assert converted(project) != first


def test_images_without_a_suffix_are_in_the_key(root: Path) -> None:
    first = converted(root)
    image(root / 'JPEGImages' / 'c.png').rename(root / 'JPEGImages' / 'c')
    assert converted(root) != first


@pytest.mark.parametrize('place', ['.', 'work_dirs'])
def test_outputs_in_the_folder_of_the_data_are_no_data(root: Path, place: str) -> None:
    layout, work_dir = recognise(root, 'detection'), root / place / 'run'
    folder = cache_folder(layout, work_dir)
    convert(layout, tuple(layout.splits), folder)
    write(work_dir / 'last.json', '{}')
    image(work_dir / 'pictures.png')
    assert cache_folder(layout, work_dir) == folder
    edit_box(root)
    assert cache_folder(layout, work_dir) != folder


def test_other_settings_and_roots_have_files_of_their_own(root: Path) -> None:
    folders = {converted(root), converted(root, ignore_exif=True)}
    root.rename(root.with_name('moved'))
    folders.add(converted(root.with_name('moved')))
    assert len(folders) == 3
    assert all(folder.exists() for folder in folders)


def test_another_version_of_the_readers_converts_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = converted(root)
    monkeypatch.setattr(cache, 'VERSION', cache.VERSION + 1)
    assert converted(root) != first
    assert not first.exists()


@pytest.mark.parametrize('keep', ['own file', 'edited', 'running'])
def test_files_of_others_are_not_removed(root: Path, keep: str) -> None:
    first = converted(root)
    if keep == 'own file':
        write(first / 'notes.txt', 'mine')
    elif keep == 'edited':
        write(first / 'about.json', 'mine')
    else:  # a training, which may not have read its validation set yet
        write(first.parents[1] / 'run' / NAME, 'process 1 on other since today')
    before = listing(first)
    edit_box(root)
    assert converted(root) != first
    assert listing(first) == before


def test_a_damaged_file_is_written_again(root: Path) -> None:
    folder = converted(root)
    whole = (folder / 'val.json').read_bytes()
    (folder / 'val.json').unlink()
    assert converted(root) == folder
    assert (folder / 'val.json').read_bytes() == whole


def test_a_second_process_waits(root: Path) -> None:
    folder = root.parent / 'work_dirs' / 'converted'
    child = os.fork()
    if not child:
        with locked(folder, '--work-dir'):
            (root.parent / 'ready').touch()
            time.sleep(0.5)
            os._exit(0)
    try:
        while not (root.parent / 'ready').exists():
            time.sleep(0.01)
        start = time.monotonic()
        assert len(files_in(converted(root))) == 3
        assert time.monotonic() - start > 0.3
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_difficult_objects_are_ignored_and_noted(root: Path) -> None:
    boxes = ('cell', (1, 2, 30, 40)), ('cell', (5, 6, 50, 60))
    write(root / 'Annotations' / 'a.xml', xml('a.jpg', *boxes, extra=DIFFICULT))
    content = json.loads(file_of(converted(root), 'train').read_text())
    assert [(a['difficult'], a['iscrowd']) for a in content['annotations']] == [(1, 1), (1, 1)]
    notes = content['converted_from']['notes']
    assert 'difficult objects, which training and evaluation ignore (iscrowd): 2 (a.jpg)' in notes


def test_images_inside_label_files_are_written_beside(tmp_path: Path) -> None:
    data = base64.b64encode(image(tmp_path / 'x.jpg').read_bytes()).decode()
    root = tmp_path / 'shapes'
    write(
        root / 'a.json',
        labelme('a.jpg', shape('cell', 'rectangle', [[1, 2], [30, 40]]), imageData=data),
    )
    folder = converted(root)
    file = read_coco(folder / 'train.json', folder=root)
    (image_name,) = file.image_names
    assert Path(image_name).parent == folder.with_name('shapes-images')
    assert Path(image_name).is_file()
    assert [path.name for path in files_in(root)] == ['a.json']


@pytest.mark.slow
def test_five_thousand_files_take_seconds(tmp_path: Path) -> None:
    root = tmp_path / 'many'
    source = image(root / 'JPEGImages' / '0.jpg').read_bytes()
    for i in range(5000):
        (root / 'JPEGImages' / f'{i}.jpg').write_bytes(source)
        write(root / 'Annotations' / f'{i}.xml', xml(f'{i}.jpg', *[('cell', (1, 2, 30, 40))] * 5))
    for split, numbers in (('train', range(4000)), ('val', range(4000, 5000))):
        write(root / 'ImageSets' / 'Main' / f'{split}.txt', ''.join(f'{i}\n' for i in numbers))
    start = time.monotonic()
    folder = converted(root)
    assert time.monotonic() - start < 20
    start = time.monotonic()
    assert converted(root) == folder
    assert time.monotonic() - start < 5
