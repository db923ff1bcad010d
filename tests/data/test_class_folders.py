"""Class folders: their images, labels and classes in a config, and a line for all that is wrong with them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from crossformer_mm.data.class_folders import ClassFolderDataset
from crossformer_mm.data.classes import classes_of, read_data, set_classes
from crossformer_mm.data.datasets import LOADERS, image_folder, input_paths
from crossformer_mm.data.options import DataOptions, set_data_paths
from crossformer_mm.utils.errors import UserError

TRAINING, TEST = LOADERS[:2], LOADERS[2:]
CLASSES = ('bird', 'cat', 'dog')
COUNTS = {'train': (3, 2, 2), 'val': (2, 1, 1)}


@pytest.fixture
def cfg(narrow_classifier: Callable[[str], Config]) -> Config:
    return narrow_classifier('crossformer_s_in1k')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Tiny images of three classes; those of birds are in folders of two levels."""
    for split, counts in COUNTS.items():
        for name, count in zip(CLASSES, counts, strict=True):
            for i in range(count):
                folder = tmp_path / split / name / (f'n{i}' if name == 'bird' else '')
                folder.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / f'{i}.png'), np.full((3, 3, 3), 50 * i, np.uint8))
    return tmp_path


def read(cfg: Config, root: Path, *, trained: tuple[str, ...] | None = None, no_val: bool = False):
    """The data of a training, or of the test of a checkpoint with these classes."""
    set_data_paths(cfg, DataOptions(data_root=str(root)))
    loaders = TEST if trained is not None else TRAINING[:1] if no_val else TRAINING
    return read_data(cfg, loaders, trained=trained)


def choose(cfg: Config, classes: object) -> None:
    for loader in LOADERS:
        cfg[loader].dataset.metainfo = {'classes': classes}


def labels(root: Path, split: str, **options: object) -> dict[str, list[str]]:
    """The images that the dataset lists for each label, by the name of the class."""
    dataset = ClassFolderDataset(str(root), {'img_path': split}, **options)
    found = {name: [] for name in dataset.metainfo['classes']}
    for record in map(dataset.get_data_info, range(len(dataset))):
        path = Path(record['img_path']).relative_to(root / split)
        found[dataset.metainfo['classes'][record['gt_label']]].append(str(path))
    return found


def test_labels_are_those_of_the_folder(root: Path) -> None:
    assert list(labels(root, 'train')) == list(CLASSES)
    assert labels(root, 'train')['bird'] == ['bird/n0/0.png', 'bird/n1/1.png', 'bird/n2/2.png']
    shutil.rmtree(root / 'val' / 'bird')
    found = labels(root, 'val', metainfo={'classes': ('dog', 'bird', 'cat')})
    assert found == {'dog': ['dog/0.png'], 'bird': [], 'cat': ['cat/0.png']}


def test_only_images_count(root: Path, cfg: Config) -> None:
    folder = root / 'train' / 'dog'
    (folder / '0.png').rename(folder / 'A.JPEG')
    for name in ('notes.txt', '.hidden.png', 'archive.tar'):
        (folder / name).touch()
    for name in ('.thumbnails', '.git'):
        (root / 'train' / name).mkdir()
        shutil.copy(folder / 'A.JPEG', root / 'train' / name / '0.png')
    (root / 'elsewhere').mkdir()
    shutil.copy(folder / 'A.JPEG', root / 'elsewhere' / 'bare')
    (folder / 'linked').symlink_to(root / 'elsewhere')
    (root / 'train' / 'README.md').touch()
    assert labels(root, 'train')['dog'] == ['dog/1.png', 'dog/A.JPEG', 'dog/linked/bare']
    assert list(labels(root, 'train')) == list(CLASSES)
    assert read(cfg, root).notes[0] == f'{root}/train: 8 images of 3 classes'


def test_a_list_selects_images(cfg: Config, root: Path, tmp_path: Path) -> None:
    listed = tmp_path / 'list.txt'
    listed.write_text('dog/1.png\nbird/n0/0.png\n')
    assert labels(root, 'train', ann_file=str(listed)) == {
        'bird': ['bird/n0/0.png'],
        'cat': [],
        'dog': ['dog/1.png'],
    }
    for loader in LOADERS[1:]:
        cfg[loader].dataset.update(data_prefix={'img_path': 'train'}, ann_file=str(listed))
    data = read(cfg, root)
    assert data.notes[1] == f'{root}/train ({listed}): 2 images of 2 classes'
    listed.write_text('dog/9.png\n')
    with pytest.raises(UserError, match=r'list.txt: .*/train/dog/9.png is no image in a class folder'):
        read(cfg, root)
    set_data_paths(cfg, DataOptions(val_images='val'))
    assert read_data(cfg, TRAINING).notes[1] == f'{root}/val: 4 images of 3 classes'


def test_classes_are_set_everywhere(cfg: Config, root: Path) -> None:
    cfg.model.head.update(topk=[1, 5], cal_acc=True)
    cfg.model.head.loss.num_classes = 1000
    cfg.val_evaluator = [dict(type='Accuracy', topk=(2, 3, 4)), dict(type='Accuracy', topk=5)]
    untouched = cfg.to_dict()
    data = read(cfg, root)
    assert cfg.to_dict() == {**untouched, **{loader: cfg[loader].to_dict() for loader in LOADERS}}
    assert data.classes == CLASSES
    assert data.notes == [f'{root}/train: 7 images of 3 classes', f'{root}/val: 4 images of 3 classes']
    assert data.warnings == []
    set_classes(cfg, data.classes)
    assert classes_of(cfg) == CLASSES
    assert [cfg[loader].dataset.metainfo.classes for loader in LOADERS] == [CLASSES] * 3
    model = cfg.model
    assert [part.num_classes for part in (model.data_preprocessor, model.head, model.head.loss)] == [3] * 3
    assert model.head.topk == (1,)
    assert [evaluator.topk for evaluator in cfg.val_evaluator] == [(2, 3), (1,)]
    assert cfg.test_evaluator.topk == (1,)


def test_the_config_selects_classes_in_its_order(cfg: Config, root: Path) -> None:
    choose(cfg, ['dog', 'bird'])
    data = read(cfg, root)
    assert data.classes == ('dog', 'bird')
    assert data.notes == [f'{root}/train: 5 images of 2 classes', f'{root}/val: 3 images of 2 classes']
    assert data.warnings == [
        'class folders that are left out: 2'
        f' ({root}/train has folders that are no classes of metainfo.classes: cat)'
    ]
    choose(cfg, ('dog', 'fish'))
    other = r'metainfo.classes: fish.*; change metainfo.classes, or use a config without it'
    with pytest.raises(UserError, match=f'train has no folders for these classes of {other}'):
        read(cfg, root)
    choose(cfg, ('fish', 'cow'))
    with pytest.raises(UserError, match=f'val has no images in its class folders of {other}'):
        read(cfg, root, trained=('fish', 'cow'))
    choose(cfg, 'dog')
    with pytest.raises(UserError, match=r"metainfo.classes='dog': give a tuple of names"):
        read(cfg, root)


def test_paths(cfg: Config, root: Path, tmp_path: Path) -> None:
    (root / 'train').rename(root / 'a')
    cfg.train_dataloader.dataset.data_prefix = 'train'  # MMPretrain's short form
    options = DataOptions(
        data_root=str(root), train_images='a', val_images=str(root / 'val'), ignore_exif=True
    )
    set_data_paths(cfg, options)
    assert [image_folder(cfg[loader].dataset) for loader in LOADERS] == [
        f'{root}/a',
        *[f'{root}/val'] * 2,
    ]
    assert input_paths(cfg) == [f'{root}/a', f'{root}/val']
    assert read_data(cfg, TRAINING).classes == CLASSES
    loads = [cfg[loader].dataset.pipeline[0] for loader in LOADERS]
    assert [load.color_type for load in loads] == ['color_ignore_orientation'] * 3


@pytest.mark.parametrize('option', [{'classes': '3'}, {'ignore_label': 0}, {'reduce_zero_label': True}])
def test_options_of_label_maps(cfg: Config, option: dict) -> None:
    with pytest.raises(UserError, match='are for label maps; this config reads class folders'):
        set_data_paths(cfg, DataOptions(**option))


@pytest.mark.parametrize('option', ['train_ann', 'val_ann'])
def test_options_of_annotations(cfg: Config, option: str) -> None:
    with pytest.raises(UserError, match='are for annotations; this config reads class folders'):
        set_data_paths(cfg, DataOptions(**{option: 'x'}))


def test_joined_datasets(cfg: Config, root: Path) -> None:
    """The classes of joined folders are those of all of them."""
    move(root, ('train/dog', 'other/dog'))
    parts = [
        {**cfg.train_dataloader.dataset, 'data_root': str(root), 'data_prefix': p} for p in ('train', 'other')
    ]
    cfg.train_dataloader.dataset = {'type': 'ConcatDataset', 'datasets': parts}
    cfg.val_dataloader.dataset.data_root = str(root)
    data = read_data(cfg, TRAINING)
    assert data.classes == CLASSES
    assert data.notes[:2] == [f'{root}/train: 5 images of 2 classes', f'{root}/other: 2 images of 1 class']
    with pytest.raises(UserError, match='combines 2 datasets'):
        set_data_paths(cfg, DataOptions(data_root=str(root), train_images='train'))


def move(root: Path, *pairs: tuple[str, str]) -> None:
    for old, new in pairs:
        (root / new).parent.mkdir(exist_ok=True)
        (root / old).rename(root / new)


def remove(root: Path, *folders: str) -> None:
    for folder in folders:
        shutil.rmtree(root / folder)


def empty(root: Path, *folders: str) -> None:
    for folder in folders:
        for path in (root / folder).rglob('*.png'):
            path.unlink()


OTHERS = 'val has folders that are no classes of .*/train: '
GAPS = 'no folders for these classes of .*/train: '
WRONG = {
    'no data': (remove, ['train', 'val'], r'no data at .*/train, .*/val; .* contains no folders; .*--no-val'),
    'no val': (
        remove,
        ['val'],
        r'no data at .*/val; .* contains train/; .* a validation set: --val-fraction 0.2 .*, or --no-val',
    ),
    'other name': (move, [('val', 'Valid')], r'contains Valid/, train/: give --val-images Valid;'),
    'both names': (
        move,
        [('train', 'training'), ('val', 'test')],
        'contains test/, training/: give --train-images training --val-images test;',
    ),
    'layout of COCO': (
        move,
        [('train', 'train2017'), ('val', 'val2017'), ('train2017/cat', 'annotations')],
        'contains annotations/, train2017/, val2017/, as data of a detector or segmentor;',
    ),
    'one split': (
        lambda root, *names: (move(root, *((f'train/{n}', n) for n in names)), remove(root, 'train', 'val')),
        CLASSES,
        r'contains bird/, cat/, dog/, which look like the classes of one split: move them into .*/train;',
    ),
    'in val alone': (remove, ['train/cat'], OTHERS + 'cat; every split needs the same folders'),
    'in train alone': (remove, ['val/cat', 'val/dog'], 'val has ' + GAPS + 'cat, dog; every split'),
    'renamed': (move, [('val/cat', 'val/tiger')], OTHERS + 'tiger, and ' + GAPS + 'cat; every split'),
    'case': (
        move,
        [('val/cat', 'val/Cat')],
        r'the folder Cat in .*/val and the class cat of .*/train differ only in case .*; give both',
    ),
    'one class': (
        remove,
        [f'{split}/{name}' for split in COUNTS for name in ('bird', 'cat')],
        r'train has only one class, dog; a classifier needs two or more \(and 1 more problem',
    ),
    'a folder too deep': (
        move,
        [(split, f'all/{split}') for split in COUNTS] + [('all', 'train'), ('train/val', 'val')],
        r'train has only one class, train; .*; if the folders in .*/train/train are the classes,',
    ),
    'empty class': (empty, ['train/bird'], r'train/bird has no images; add images \(.png, .*\), or remove'),
    'empty split': (empty, ['val'], 'val has no images in its class folders'),
    'loose image': (
        move,
        [('train/dog/1.png', 'train/1.png')],
        r'train/1.png is in no class folder; move it into the folder of its class',
    ),
    'no class folder to train': (
        remove,
        [f'train/{name}' for name in CLASSES],
        r'train has no class folders; put the .* each class into a folder there, named after the class$',
    ),
    'only loose images': (
        lambda root: (
            move(root, ('val/dog/0.png', 'val/0.png')),
            remove(root, *(f'val/{n}' for n in CLASSES)),
        ),
        [],
        'val has no class folders; put the images of each class into a folder',
    ),
}


@pytest.mark.parametrize('case', WRONG)
def test_what_is_wrong_is_named_in_one_line(cfg: Config, root: Path, case: str) -> None:
    damage, arguments, message = WRONG[case]
    damage(root, *arguments)
    with pytest.raises(UserError, match=message) as raised:
        read(cfg, root)
    assert '\n' not in str(raised.value)


def test_without_validation_the_other_split_is_not_read(cfg: Config, root: Path) -> None:
    remove(root, 'val')
    assert read(cfg, root, no_val=True).classes == CLASSES


def test_a_class_without_images_to_validate(cfg: Config, root: Path) -> None:
    empty(root, 'val/bird')
    data = read(cfg, root)
    assert data.classes == CLASSES
    assert data.warnings == [f'class folders without images: 1 ({root}/val/bird has no images)']


def test_the_folder_of_a_split_is_not_the_root(cfg: Config, root: Path) -> None:
    """A single folder with images is none of a class: it is the images of another kind of data."""
    (root / 'train' / 'bird').rename(root / 'train' / 'images')
    shutil.move(root / 'train' / 'images' / 'n0' / '0.png', root / 'train' / 'images')
    with pytest.raises(UserError, match=f'look like the classes of one split: give --data-root {root};'):
        read(cfg, root / 'train')
    for name in ('cat', 'dog'):
        shutil.rmtree(root / 'train' / name)
    with pytest.raises(UserError, match='train contains images/; put the data there'):
        read(cfg, root / 'train')


def test_unbalanced_classes(cfg: Config, root: Path) -> None:
    for i in range(2, 21):
        shutil.copy(root / 'train' / 'cat' / '0.png', root / 'train' / 'cat' / f'{i}.png')
    (warning,) = read(cfg, root).warnings
    assert warning == f'unbalanced classes: 1 ({root}/train has 21 images of cat, but 2 of dog)'
    (root / 'train' / 'cat' / '20.png').unlink()
    assert read(cfg, root).warnings == []


def test_a_test_has_the_labels_of_the_checkpoint(cfg: Config, root: Path) -> None:
    remove(root, 'val/bird')
    data = read(cfg, root, trained=('dog', 'bird', 'cat'))
    assert data.classes == ('dog', 'bird', 'cat')
    assert data.warnings == [
        f'classes of one split only: 1 ({root}/val has no folders for these classes of the checkpoint: bird)'
    ]
    with pytest.raises(
        UserError, match='val has folders that are no classes of the checkpoint: cat, and no folders'
    ):
        read(cfg, root, trained=('bird', 'dog'))
    with pytest.raises(UserError, match='of the checkpoint: dog; give the data that it was trained for'):
        read(cfg, root, trained=('cat',))
    with pytest.raises(UserError, match=r'the folder cat in .* and the class CAT of the checkpoint differ'):
        read(cfg, root, trained=('bird', 'CAT', 'dog'))
    data = read(cfg, root, trained=())
    assert data.classes == ('cat', 'dog')
    assert data.notes[-1].startswith('the checkpoint names no classes: they are those of the data')


def test_weights_of_another_number_of_classes(cfg: Config, root: Path) -> None:
    cfg.model.head.loss = dict(type='CrossEntropyLoss', class_weight=[1.0, 2.0])
    with pytest.raises(UserError, match='class_weight of CrossEntropyLoss: 2 numbers for 3 classes'):
        read(cfg, root)
