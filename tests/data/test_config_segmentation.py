"""Setting a segmentor's images and label maps: classes, heads and the ignored value are adapted."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image

from crossformer_mm.data.classes import classes_of, read_data, set_classes
from crossformer_mm.data.datasets import LOADERS, replace_sync_bn
from crossformer_mm.data.label_folders import check_labels, label_folder
from crossformer_mm.data.options import DataOptions, parse_classes, set_data_paths
from crossformer_mm.utils.errors import UserError

TRAINING = ('train_dataloader', 'val_dataloader')
NAMES = ('sky', 'road', 'car')


@pytest.fixture
def cfg(narrow_segmentor: Callable[[str], Config]) -> Config:
    return narrow_segmentor('upernet_crossformer_s')


@pytest.fixture
def names(tmp_path: Path) -> str:
    path = tmp_path / 'names.txt'
    path.write_text('\n'.join(NAMES) + '\n')
    return str(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Data in ADE20K's layout, of the values 0, 1, 2 and 7; the images are PNG files of odd sizes."""
    root = tmp_path / 'data'
    for split in ('training', 'validation'):
        for i, size in enumerate([(37, 51), (64, 45)]):
            values = np.random.default_rng(i).choice(np.array([0, 1, 2, 7], np.uint8), size)
            save(root / 'annotations' / split / f'{i}.png', values)
            save(root / 'images' / split / f'{i}.png', np.repeat(values[..., None], 3, axis=2))
    return root


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def test_without_options_the_config_stays(cfg: Config) -> None:
    before = copy.deepcopy(cfg)
    set_data_paths(cfg, DataOptions())
    assert cfg.to_dict() == before.to_dict()
    assert classes_of(cfg)[:2] == ('wall', 'building')
    assert len(classes_of(cfg)) == 150


def test_classes_are_given_once(cfg: Config, root: Path, names: str) -> None:
    cfg.model.auxiliary_head = [cfg.model.auxiliary_head]
    set_data_paths(cfg, DataOptions(data_root=str(root), classes=names))
    set_classes(cfg, read_data(cfg, LOADERS).classes)
    assert classes_of(cfg) == NAMES
    for loader in LOADERS:
        dataset = cfg[loader].dataset
        assert (dataset.type, dataset.data_root) == ('LabelMapDataset', str(root))
        assert dataset.metainfo.classes == NAMES
        assert len(set(dataset.metainfo.palette)) == 3
        assert dataset.reduce_zero_label is False
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head[0].num_classes == 3


def test_a_loss_that_weighs_another_number_of_classes(cfg: Config, root: Path, names: str) -> None:
    set_data_paths(cfg, DataOptions(data_root=str(root), classes=names))
    loss = cfg.model.decode_head.loss_decode
    loss.class_weight = [1.0, 2.0, 0.5]
    set_classes(cfg, read_data(cfg, LOADERS).classes)
    cfg.model.decode_head.loss_decode = [loss, {**loss, 'class_weight': [1.0, 2.0]}]
    with pytest.raises(UserError, match='class_weight of CrossEntropyLoss: 2 numbers for 3 classes'):
        set_classes(cfg, read_data(cfg, LOADERS).classes)


def test_zero_is_a_class_of_own_data_and_not_of_ade20k(cfg: Config, names: str) -> None:
    for options, reduce in (
        ({'classes': names, 'reduce_zero_label': True}, True),
        ({'classes': names}, False),
        ({'ignore_label': 7}, False),  # as it was set last
    ):
        set_data_paths(cfg, DataOptions(**options))
        assert [cfg[loader].dataset.reduce_zero_label for loader in LOADERS] == [reduce] * 3


@pytest.mark.parametrize(
    ('option', 'reduce'), [({'ignore_label': 7}, True), ({'reduce_zero_label': False}, False)]
)
def test_ade20k_keeps_its_names_and_colours(cfg: Config, option: dict, reduce: bool) -> None:
    set_data_paths(cfg, DataOptions(**option))
    dataset = cfg.test_dataloader.dataset
    assert dataset.reduce_zero_label == reduce
    assert dataset.metainfo.classes[:2] == ('wall', 'building')
    assert dataset.metainfo.palette[0] == [120, 120, 120]


def test_other_layouts(cfg: Config, root: Path, names: str) -> None:
    options = DataOptions(
        data_root=str(root),
        train_images='photos',
        train_ann='maps',
        val_images=str(root / 'images' / 'validation'),
        val_ann='annotations/training',
        classes=names,
    )
    (root / 'images' / 'training').rename(root / 'photos')
    (root / 'annotations' / 'validation').rename(root / 'maps')
    set_data_paths(cfg, options)
    assert read_data(cfg, LOADERS).classes == NAMES
    assert cfg.train_dataloader.dataset.data_prefix == {'img_path': 'photos', 'seg_map_path': 'maps'}
    for loader in ('val_dataloader', 'test_dataloader'):
        assert cfg[loader].dataset.data_prefix.seg_map_path == 'annotations/training'


def test_datasets_in_wrappers(cfg: Config, root: Path, names: str) -> None:
    cfg.train_dataloader.dataset = {
        'type': 'RepeatDataset',
        'times': 2,
        'dataset': cfg.train_dataloader.dataset,
    }
    set_data_paths(cfg, DataOptions(data_root=str(root), classes=names, ignore_label=7))
    assert cfg.train_dataloader.dataset.dataset.metainfo.classes == NAMES
    assert [report.maps for report in check_labels(cfg, TRAINING)] == [2, 2]


def test_pipelines_that_repeat_what_the_dataset_says_follow_it(cfg: Config, names: str) -> None:
    cfg.tta_pipeline.append({'type': 'LoadAnnotations', 'reduce_zero_label': True})
    set_data_paths(cfg, DataOptions(classes=names))
    assert cfg.tta_pipeline[-1]['reduce_zero_label'] is False


@pytest.mark.parametrize(
    'setting',
    [
        'model.decode_head.ignore_index',
        'model.auxiliary_head.loss_decode.0.ignore_index',
        'model.data_preprocessor.seg_pad_val',
        'train_dataloader.dataset.pipeline.3.ignore_index',
        'val_evaluator.ignore_index',
    ],
)
def test_another_value_for_unlabelled_pixels_is_refused(cfg: Config, names: str, setting: str) -> None:
    cfg.model.auxiliary_head.loss_decode = [{'type': 'DiceLoss', 'ignore_index': 255}]
    cfg.merge_from_dict({setting: 0})
    set_data_paths(cfg, DataOptions(data_root='elsewhere'))  # no option for label maps: the setting stands
    with pytest.raises(UserError, match=f'^{setting}=0: .* with --ignore-label$'):
        set_data_paths(cfg, DataOptions(classes=names))


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'ignore_label': 7}, {0: 0, 1: 1, 2: 2, 7: 255}),
        ({'ignore_label': 7, 'reduce_zero_label': True}, {0: 255, 1: 0, 2: 1, 7: 255}),
        ({'ignore_label': 0}, {0: 255, 1: 1, 2: 2, 7: 7}),
        ({'ignore_label': 0, 'reduce_zero_label': True}, {0: 255, 1: 0, 2: 1, 7: 6}),
        ({'ignore_label': 255}, {0: 0, 1: 1, 2: 2, 7: 7}),
    ],
)
def test_what_is_ignored_in_the_files_is_255_once_loaded(
    cfg: Config, root: Path, names: str, options: dict, expected: dict[int, int]
) -> None:
    set_data_paths(cfg, DataOptions(data_root=str(root), classes=names, **options))
    init_default_scope('mmseg')
    cfg.test_dataloader.dataset.pipeline = [{'type': 'LoadAnnotations'}]
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    for sample in dataset:
        values = np.asarray(Image.open(sample['seg_map_path']))
        assert {int(value): set(sample['gt_seg_map'][values == value]) for value in expected} == {
            value: {label} for value, label in expected.items()
        }


def test_losses_see_classes_and_255_alone_padding_included(cfg: Config, root: Path, names: str) -> None:
    set_data_paths(cfg, DataOptions(data_root=str(root), classes=names, ignore_label=7))
    set_classes(cfg, read_data(cfg, TRAINING).classes)
    init_default_scope('mmseg')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    cfg.model.data_preprocessor.size = (128, 128)
    replace_sync_bn(cfg.model)
    model = MODELS.build(cfg.model)
    data = model.data_preprocessor(pseudo_collate([dataset[0], dataset[1]]), training=True)
    labels = {int(value) for sample in data['data_samples'] for value in sample.gt_sem_seg.data.unique()}
    assert labels == {0, 1, 2, 255}
    losses = model(**data, mode='loss')
    assert {'decode.loss_ce', 'aux.loss_ce'} <= set(losses)
    assert all(loss.isfinite().all() for loss in losses.values())


@pytest.mark.parametrize(
    ('change', 'kind'),
    [
        ({'type': 'CityscapesDataset'}, 'CityscapesDataset'),
        ({'ann_file': 'train.txt'}, 'ADE20KDataset'),
    ],
)
def test_datasets_with_a_numbering_of_their_own(cfg: Config, names: str, change: dict, kind: str) -> None:
    cfg.val_dataloader.dataset.update(change)
    set_data_paths(cfg, DataOptions(data_root='elsewhere'))
    with pytest.raises(UserError, match=f'two folders of images and label maps; {kind} has a fixed layout'):
        set_data_paths(cfg, DataOptions(classes=names))


@pytest.mark.parametrize('label', [-1, 256])
def test_labels_that_no_map_can_hold(cfg: Config, label: int) -> None:
    with pytest.raises(UserError, match=f'--ignore-label {label}: label maps hold values from 0 to 255'):
        set_data_paths(cfg, DataOptions(ignore_label=label))


def test_missing_folders_and_the_ways_out(cfg: Config, root: Path, names: str) -> None:
    set_data_paths(cfg, DataOptions(data_root=str(root), val_images='gone', classes=names))
    assert read_data(cfg, ['train_dataloader']).classes == NAMES
    with pytest.raises(UserError) as raised:
        set_classes(cfg, read_data(cfg, TRAINING).classes)
    message = str(raised.value)
    assert '\n' not in message
    assert message.startswith(
        f'no data at {root}/gone; put the data there, or set other paths with --data-root'
    )
    assert 'annotations/validation' in message


@pytest.mark.parametrize(('classes', 'reduced'), [(NAMES, True), (('tree', 'house'), False)])
def test_a_test_set_has_the_values_of_the_training(
    cfg: Config, tmp_path: Path, classes: tuple[str, ...], reduced: bool
) -> None:
    for folder in [f'{kind}/{split}' for kind in ('images', 'masks') for split in ('train', 'val', 'test')]:
        save(tmp_path / folder / '0.png', np.ones((8, 8), np.uint8))
    (tmp_path / 'classes.txt').write_text('\n'.join(NAMES))
    options = DataOptions(data_root=str(tmp_path), reduce_zero_label=True, ignore_label=9)
    set_data_paths(cfg, options, TRAINING)
    (tmp_path / 'classes.txt').write_text('\n'.join(classes))
    set_data_paths(cfg, DataOptions(data_root=str(tmp_path)), ['test_dataloader'], 'test')
    dataset = cfg.test_dataloader.dataset
    assert dataset.data_prefix.seg_map_path == 'masks/test'
    assert dataset.metainfo.classes == classes
    assert (dataset.reduce_zero_label, dataset.ignore_label) == (reduced, 9)


def test_a_dataset_without_names(cfg: Config, root: Path) -> None:
    cfg.train_dataloader.dataset.type = 'BaseSegDataset'
    set_data_paths(cfg, DataOptions(data_root=str(root)))
    with pytest.raises(UserError, match='BaseSegDataset has no class names; name them with --classes FILE'):
        set_classes(cfg, read_data(cfg, TRAINING).classes)


def test_own_images_under_the_name_of_ade20k(cfg: Config, root: Path) -> None:
    set_data_paths(cfg, DataOptions(data_root=str(root)))
    with pytest.raises(UserError, match=r'no images ending in \.jpg, as ADE20KDataset reads .* --classes'):
        check_labels(cfg, TRAINING)


def test_labels_of_a_dataset_of_the_toolbox_are_checked_too(cfg: Config, root: Path) -> None:
    cfg.train_dataloader.dataset.update(img_suffix='.png')
    set_data_paths(cfg, DataOptions(data_root=str(root)))
    (report,) = check_labels(cfg, ['train_dataloader'])
    assert report.rule.reduce_zero_label
    assert [report.rule.name_of(value) for value in report.pixels] == ['ignored', 'wall', 'building', 'road']
    save(root / 'annotations' / 'training' / '0.png', np.full((37, 51), 151, np.uint8))
    with pytest.raises(UserError, match=r'0\.png contains the value 151, .* 150 classes \(1 to 150\)'):
        check_labels(cfg, ['train_dataloader'])


def test_the_first_problem_stops_a_run_and_the_others_are_counted(
    cfg: Config, root: Path, names: str
) -> None:
    set_data_paths(cfg, DataOptions(data_root=str(root), classes=names))
    with pytest.raises(UserError, match=r'training/0\.png contains the value 7.* \(and 1 more problem'):
        check_labels(cfg, TRAINING)
    for i in range(2):
        save(root / 'images' / 'training' / f'{i}.png', np.zeros((5, 6), np.uint8))
    with pytest.raises(
        UserError, match=r'0\.png has 6×5 pixels and .* \(and 3 more problems in these folders\)'
    ):
        check_labels(cfg, TRAINING)
    (root / 'images' / 'training' / '0.png').unlink()
    with pytest.raises(UserError, match=r'annotations/training/0\.png has no image of the same name$'):
        check_labels(cfg, TRAINING)


def test_names_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / '3'
    path.write_bytes('\ufeffsky\r\ntraffic light \r\nStraße\r\n\r\n'.encode())
    assert parse_classes(str(path)) == ('sky', 'traffic light', 'Straße')


def test_a_count() -> None:
    assert parse_classes('2') == ('class 0', 'class 1')
    assert len(parse_classes('255')) == 255


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'a\n\nb\n', 'line 2 is empty; each line must be the name of one class'),
        (b'a\nb\na\n', 'line 3 repeats "a"'),
        (b'\xff\xfe\x00', 'neither a text file with one class name per line nor a number'),
        (b'', 'give 2 to 255 classes, including the background'),
        (b'only\n', 'give 2 to 255 classes'),
        ('\n'.join(map(str, range(256))).encode(), 'give 2 to 255 classes'),
    ],
)
def test_files_that_do_not_name_classes(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / 'names.txt').write_bytes(content)
    with pytest.raises(UserError, match=rf'--classes .*names\.txt: {message}'):
        parse_classes(str(tmp_path / 'names.txt'))


@pytest.mark.parametrize('word', ['gone.txt', '-3', '0', '1', '256', '1000000000000'])
def test_words_that_mean_no_classes(word: str) -> None:
    with pytest.raises(UserError, match=f'^--classes {word}: '):
        parse_classes(word)


def test_sync_bn_becomes_bn_wherever_it_is(cfg: Config) -> None:
    assert replace_sync_bn(cfg.model) == 2
    assert cfg.model.decode_head.norm_cfg == {'type': 'BN', 'requires_grad': True}
    assert replace_sync_bn({'heads': [{'norm_cfg': {'type': 'MMSyncBN'}}, {'norm_cfg': None}]}) == 1
    assert replace_sync_bn(cfg.model) == 0


def test_folders_that_only_the_toolbox_walks_into_are_named(cfg: Config, root: Path) -> None:
    """LabelMapDataset leaves them out."""
    images = root / 'images' / 'training'
    for path in root.glob('images/*/*.png'):
        path.rename(path.with_suffix('.jpg'))
    set_data_paths(cfg, DataOptions(data_root=str(root)))
    before = label_folder(cfg, cfg.train_dataloader.dataset).pairs
    assert len(before) == 2
    (images / '.git').mkdir()
    (images / 'street').mkdir()
    assert label_folder(cfg, cfg.train_dataloader.dataset).pairs == before
    shutil.copytree(root / 'images' / 'validation', images / 'street' / '.ipynb_checkpoints')
    with pytest.raises(UserError, match=r'street/\.ipynb_checkpoints: is in a hidden folder, .* remove it'):
        label_folder(cfg, cfg.train_dataloader.dataset)
    shutil.rmtree(images / 'street' / '.ipynb_checkpoints')
    (images / 'street' / 'loop').symlink_to(images)
    with pytest.raises(UserError, match='street/loop: links to a folder around it'):
        label_folder(cfg, cfg.train_dataloader.dataset)
