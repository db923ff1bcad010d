"""Setting a config's data: paths, classes and heads are adapted, and contradictions are reported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from crossformer_mm.data.classes import read_data, set_classes
from crossformer_mm.data.datasets import LOADERS, annotation_path, coco_datasets, palette, set_num_classes
from crossformer_mm.data.options import DataOptions, set_data_paths
from crossformer_mm.utils.errors import UserError

TRAINING = ('train_dataloader', 'val_dataloader')
CLASSES = ('circle', 'rectangle', 'triangle')


@pytest.fixture
def cfg(flat_config: Path) -> Config:
    return Config.fromfile(flat_config)


@pytest.fixture
def own_root(coco_root: Path, tmp_path: Path) -> Path:
    """A copy of the data that a test may damage."""
    return Path(shutil.copytree(coco_root, tmp_path / 'own'))


def edit(path: Path, change: Callable[[dict], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_one_root_is_enough_for_the_layout_of_coco(cfg: Config, coco_root: Path) -> None:
    set_data_paths(cfg, DataOptions(data_root=str(coco_root)))
    untouched = cfg.to_dict()
    assert read_data(cfg, TRAINING).classes == CLASSES
    assert cfg.to_dict() == untouched
    set_classes(cfg, CLASSES)
    for loader in LOADERS:
        meta = cfg[loader].dataset.metainfo
        assert meta.classes == CLASSES
        assert len(meta.palette) == 3
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert evaluator.ann_file == str(coco_root / 'annotations' / 'instances_val2017.json')
    heads = cfg.model.roi_head
    assert heads.bbox_head.num_classes == heads.mask_head.num_classes == 3


def test_other_layouts(cfg: Config, coco_root: Path, tmp_path: Path) -> None:
    shutil.copytree(coco_root / 'train2017', tmp_path / 'photos')
    shutil.copy(coco_root / 'annotations' / 'instances_train2017.json', tmp_path / 'train.json')
    elsewhere = coco_root / 'val2017'
    options = DataOptions(
        data_root=str(tmp_path),
        train_ann='train.json',
        train_images='photos',
        val_ann=str(coco_root / 'annotations' / 'instances_val2017.json'),
        val_images=str(elsewhere),
    )
    set_data_paths(cfg, options)
    assert read_data(cfg, LOADERS).classes == CLASSES
    assert annotation_path(cfg.train_dataloader.dataset) == str(tmp_path / 'train.json')
    assert cfg.test_dataloader.dataset.data_prefix.img == str(elsewhere)


def test_wrapped_datasets_are_found(cfg: Config, coco_root: Path) -> None:
    plain = cfg.train_dataloader.dataset
    both = {'type': 'ConcatDataset', 'datasets': [plain, {**plain, 'type': 'mmdet.CocoDataset'}]}
    cfg.train_dataloader.dataset = {'type': 'RepeatDataset', 'times': 2, 'dataset': both}
    set_data_paths(cfg, DataOptions(data_root=str(coco_root)))
    set_classes(cfg, read_data(cfg, TRAINING).classes)
    found = list(coco_datasets(cfg, 'train_dataloader'))
    assert [dataset.metainfo.classes for dataset in found] == [CLASSES, CLASSES]


def test_heads_in_lists_and_evaluators_in_lists(cfg: Config, coco_root: Path) -> None:
    cfg.model.roi_head.bbox_head = [dict(cfg.model.roi_head.bbox_head) for _ in range(3)]
    cfg.val_evaluator = [cfg.val_evaluator, {'type': 'DumpResults'}]
    set_data_paths(cfg, DataOptions(data_root=str(coco_root)))
    set_classes(cfg, read_data(cfg, TRAINING).classes)
    assert [head.num_classes for head in cfg.model.roi_head.bbox_head] == [3, 3, 3]
    assert cfg.val_evaluator[0].ann_file == annotation_path(cfg.val_dataloader.dataset)
    assert 'ann_file' not in cfg.val_evaluator[1]


def test_other_annotations_of_an_evaluator_are_not_dropped_in_silence(cfg: Config, coco_root: Path) -> None:
    set_data_paths(cfg, DataOptions(data_root=str(coco_root)))
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = annotation_path(cfg.train_dataloader.dataset)
    path = annotation_path(cfg.val_dataloader.dataset)
    note = f'val_evaluator reads the annotations of its dataset, {path}, instead of {coco_root}/annotations/'
    assert [n.startswith(note) for n in read_data(cfg, TRAINING).notes if 'evaluator' in n] == [True]
    set_classes(cfg, CLASSES)
    assert not any('evaluator' in n for n in read_data(cfg, TRAINING).notes)


def test_one_stage_heads_get_the_number_and_a_proposal_head_keeps_its_own() -> None:
    model = ConfigDict(bbox_head={'num_classes': 80}, rpn_head={'num_classes': 1})
    set_num_classes(model, 5)
    assert (model.bbox_head.num_classes, model.rpn_head.num_classes) == (5, 1)


@pytest.mark.parametrize(('things', 'stuff', 'expected'), [(80, 0, (5, 0)), (80, 53, (5, 0)), (2, 3, (2, 3))])
def test_mask2former_gets_things_and_a_weight_for_each(
    things: int, stuff: int, expected: tuple[int, int]
) -> None:
    """A panoptic model keeps its own division of as many classes."""
    counts = {'num_things_classes': things, 'num_stuff_classes': stuff}
    loss = {'type': 'CrossEntropyLoss', 'class_weight': [1.0] * (things + stuff) + [0.1]}
    model = ConfigDict(panoptic_head={**counts, 'loss_cls': loss}, panoptic_fusion_head=counts)
    set_num_classes(model, 5)
    for head in (model.panoptic_head, model.panoptic_fusion_head):
        assert (head.num_things_classes, head.num_stuff_classes) == expected
    assert model.panoptic_head.loss_cls.class_weight == [1.0] * 5 + [0.1]


def test_weights_of_single_classes_are_not_guessed() -> None:
    loss = {'type': 'CrossEntropyLoss', 'class_weight': [1.0, 2.0, 0.1]}
    model = ConfigDict(decode_head={'num_classes': 2, 'loss_cls': loss})
    set_num_classes(model, 2)
    assert model.decode_head.loss_cls.class_weight == [1.0, 2.0, 0.1]
    with pytest.raises(UserError, match=r'CrossEntropyLoss: 3 numbers for 3 classes and the background'):
        set_num_classes(model, 3)


def test_training_without_validation(cfg: Config, coco_root: Path) -> None:
    cfg.val_dataloader = cfg.val_evaluator = None
    set_data_paths(cfg, DataOptions(data_root=str(coco_root)))
    assert read_data(cfg, TRAINING).classes == CLASSES


def test_data_of_other_kinds_is_left_alone(cfg: Config) -> None:
    for loader in LOADERS:
        cfg[loader].dataset = {'type': 'ADE20KDataset'}
    assert read_data(cfg, TRAINING).classes is None
    assert cfg.model.roi_head.bbox_head.num_classes == 80


def other_kind(folder: Path) -> Config:
    """A config with data that is neither COCO-format nor label maps nor class folders."""
    dataset = {'type': 'VideoDataset', 'data_root': str(folder), 'data_prefix': {'video': 'clips'}}
    return Config({'model': {}, 'train_dataloader': {'dataset': dataset}})


def test_folders_of_other_kinds_of_data_are_there(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        read_data(other_kind(tmp_path), TRAINING)
    message = str(raised.value)
    assert '\n' not in message
    assert message.startswith(f'no data at {tmp_path}/clips; put the data there')
    assert '--cfg-options train_dataloader.dataset.data_root=DIR' in message
    (tmp_path / 'clips').mkdir()
    assert read_data(other_kind(tmp_path), TRAINING).classes is None


def test_options_do_not_go_unread(cfg: Config, tmp_path: Path) -> None:
    set_data_paths(other_kind(tmp_path), DataOptions())
    with pytest.raises(
        UserError, match=r'COCO-format data, label maps and class folders; .* reads none of these; '
    ):
        set_data_paths(other_kind(tmp_path), DataOptions(data_root='elsewhere'))
    for option in ({'classes': '3'}, {'ignore_label': 0}, {'reduce_zero_label': False}):
        with pytest.raises(UserError, match="for label maps; this config reads COCO's annotations"):
            set_data_paths(cfg, DataOptions(**option))


def test_no_data_names_the_files_and_the_ways_out(cfg: Config) -> None:
    with pytest.raises(UserError) as raised:
        set_classes(cfg, read_data(cfg, TRAINING).classes)
    message = str(raised.value)
    assert '\n' not in message
    for part in (
        *('data/coco/annotations/instances_train2017.json', 'data/coco/val2017/'),
        *('--data-root', '--train-ann', '--val-ann', '--train-images', '--val-images'),
    ):
        assert part in message


def test_missing_validation_images_are_named(cfg: Config, own_root: Path) -> None:
    lost = own_root / 'val2017' / '000000000002.jpg'
    lost.unlink()
    set_data_paths(cfg, DataOptions(data_root=str(own_root)))
    with pytest.raises(UserError, match=f'{lost} is listed'):
        set_classes(cfg, read_data(cfg, TRAINING).classes)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda d: d['categories'][0].update(name='disc'), 'only one of them has "circle"'),
        (lambda d: d['categories'].reverse(), 'their order differs'),
        (lambda d: d['categories'].append({'id': 9, 'name': 'star'}), 'only one of them has "star"'),
    ],
    ids=['renamed', 'reordered', 'more'],
)
def test_validation_with_other_classes(
    cfg: Config, own_root: Path, change: Callable[[dict], None], message: str
) -> None:
    edit(own_root / 'annotations' / 'instances_val2017.json', change)
    set_data_paths(cfg, DataOptions(data_root=str(own_root)))
    with pytest.raises(UserError, match=message):
        set_classes(cfg, read_data(cfg, TRAINING).classes)


@pytest.fixture
def chooser(cfg: Config, coco_root: Path) -> Callable[..., Config]:
    """A function that returns the config with the generated data and a ``metainfo`` for the training set."""

    def choose(**meta: object) -> Config:
        set_data_paths(cfg, DataOptions(data_root=str(coco_root)))
        cfg.train_dataloader.dataset.metainfo = meta
        return cfg

    return choose


def test_classes_that_a_config_selects(chooser: Callable[..., Config]) -> None:
    chosen = ('circle', 'triangle')
    cfg = chooser(classes=list(chosen), palette=[(1, 2, 3), (4, 5, 6)])
    set_classes(cfg, read_data(cfg, TRAINING).classes)
    assert [cfg[loader].dataset.metainfo.classes for loader in LOADERS] == [chosen] * 3
    assert cfg.train_dataloader.dataset.metainfo.palette == [(1, 2, 3), (4, 5, 6)]
    assert cfg.model.roi_head.bbox_head.num_classes == cfg.model.roi_head.mask_head.num_classes == 2
    assert read_data(cfg, LOADERS).classes == chosen, 'also when read again, as from a dumped config'
    init_default_scope('mmdet')
    dataset = DATASETS.build({**cfg.val_dataloader.dataset, 'pipeline': []})
    assert dataset.metainfo['classes'] == chosen
    labels = [instance['bbox_label'] for sample in dataset for instance in sample['instances']]
    assert set(labels) <= {0, 1}
    categories = [
        record['category_id']
        for record in json.loads(Path(cfg.val_evaluator.ann_file).read_text())['annotations']
    ]
    assert labels.count(0) == categories.count(1)
    assert labels.count(1) == categories.count(3)


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        (('nut',), r'instances_train2017\.json has no category "nut"'),
        (('triangle', 'circle'), r"classes in the order of .*; write \('circle', 'triangle'\)"),
        ('circle', r"give a tuple of names, such as \('circle',\)"),
    ],
)
def test_classes_that_a_config_cannot_select(
    chooser: Callable[..., Config], classes: object, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_data(chooser(classes=classes), TRAINING)


def test_chosen_classes_without_objects(chooser: Callable[..., Config], own_root: Path) -> None:
    def drop_circles(data: dict) -> None:
        data['annotations'] = [a for a in data['annotations'] if a['category_id'] != 1]

    edit(own_root / 'annotations' / 'instances_train2017.json', drop_circles)
    cfg = chooser(classes=('circle',))
    set_data_paths(cfg, DataOptions(data_root=str(own_root)))
    with pytest.raises(UserError, match='has no objects of the classes'):
        read_data(cfg, TRAINING)


def test_datasets_of_a_config_that_choose_different_classes(chooser: Callable[..., Config]) -> None:
    cfg = chooser(classes=('circle',))
    cfg.val_dataloader.dataset.metainfo = {'classes': ('triangle',)}
    with pytest.raises(UserError, match='the datasets of the config select different classes'):
        read_data(cfg, TRAINING)


@DATASETS.register_module(force=True)
class Circles(CocoDataset):
    """COCO data with its own classes, defined as in MMDetection's documentation."""

    METAINFO = {'classes': ('circle',), 'palette': [(9, 9, 9)]}  # noqa: RUF012


@DATASETS.register_module(force=True)
class OtherFormat(CocoDataset):
    """A subclass that reads another format."""

    def parse_data_info(self, raw: dict) -> dict:
        raise NotImplementedError


def test_a_subclass_of_coco_dataset_is_coco(cfg: Config, coco_root: Path) -> None:
    for loader in LOADERS:
        cfg[loader].dataset.type = 'Circles'
    set_data_paths(cfg, DataOptions(data_root=str(coco_root)))
    set_classes(cfg, read_data(cfg, TRAINING).classes)
    assert cfg.train_dataloader.dataset.metainfo == {'classes': ('circle',), 'palette': [(9, 9, 9)]}
    assert cfg.model.roi_head.bbox_head.num_classes == 1


@pytest.mark.parametrize('kind', ['OtherFormat', 'LVISV1Dataset', 'CocoPanopticDataset', 'NoSuchDataset'])
def test_subclasses_of_coco_dataset_that_read_other_formats(cfg: Config, kind: str) -> None:
    cfg.train_dataloader.dataset.type = kind
    assert not list(coco_datasets(cfg, 'train_dataloader'))


def test_datasets_of_their_own_folders_are_not_pointed_to_one(cfg: Config, tmp_path: Path) -> None:
    plain = cfg.train_dataloader.dataset
    other = {**plain, 'ann_file': 'more.json', 'data_prefix': {'img': 'more'}}
    cfg.train_dataloader.dataset = {'type': 'ConcatDataset', 'datasets': [plain, other]}
    set_data_paths(cfg, DataOptions(data_root=str(tmp_path)))  # one root of both
    assert [annotation_path(data) for data in coco_datasets(cfg, 'train_dataloader')] == [
        str(tmp_path / 'annotations' / 'instances_train2017.json'),
        str(tmp_path / 'more.json'),
    ]
    other.update(data_root='elsewhere', ann_file=plain.ann_file, data_prefix=plain.data_prefix)
    cfg.train_dataloader.dataset = {'type': 'ConcatDataset', 'datasets': [plain, other]}
    with pytest.raises(UserError, match='train_dataloader combines 2 datasets, and --data-root, '):
        set_data_paths(cfg, DataOptions(data_root=str(tmp_path)))


def test_palette_tells_neighbours_apart_and_does_not_move() -> None:
    colours = palette(200)
    assert colours[:3] == palette(3)
    assert all(0 <= channel <= 255 for colour in colours for channel in colour)
    assert len(set(colours[:40])) == 40
