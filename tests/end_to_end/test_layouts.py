"""The same data in every layout: recognised, checked, trained on, and tested with the same numbers."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config
from PIL import Image

from crossformer_mm.data.classes import read_data
from crossformer_mm.data.coco import CocoFile, read_coco
from crossformer_mm.data.datasets import annotation_path, coco_datasets, image_folder
from crossformer_mm.data.formats import voc, yolo
from crossformer_mm.data.options import DataOptions, set_data_paths
from crossformer_mm.data.shapes import CLASSES, write_ade20k
from crossformer_mm.engine import cli
from crossformer_mm.engine import test as test_command
from crossformer_mm.engine import train as train_command
from crossformer_mm.engine.check import check_dataset, check_parser
from crossformer_mm.utils.errors import UserError
from crossformer_mm.utils.files import files_in

LOADERS = ('train_dataloader', 'val_dataloader')
SPLITS = ('train', 'val')


def split_of(coco: Path, split: str) -> tuple[dict, Path]:
    """The content of a split of the original data, and its images."""
    return json.loads((coco / f'annotations/instances_{split}2017.json').read_text()), coco / f'{split}2017'


def to_coco_2017(coco: Path, root: Path) -> None:
    shutil.copytree(coco, root)


def to_roboflow(coco: Path, root: Path) -> None:
    for split, folder in (('train', 'train'), ('val', 'valid')):
        shutil.copytree(coco / f'{split}2017', root / folder)
        shutil.copy(
            coco / f'annotations/instances_{split}2017.json', root / folder / '_annotations.coco.json'
        )


def to_two_files(coco: Path, root: Path) -> None:
    for split in SPLITS:
        content, images = split_of(coco, split)
        for image in content['images']:
            name = f'{split}_{image["file_name"]}'
            (root / 'images').mkdir(parents=True, exist_ok=True)
            shutil.copy(images / image['file_name'], root / 'images' / name)
            image['file_name'] = name
        (root / f'{split}.json').write_text(json.dumps(content))


def to_yolo(coco: Path, root: Path) -> None:
    for split in SPLITS:
        yolo.write(*split_of(coco, split), root, split, [].append)


def to_voc(coco: Path, root: Path) -> None:
    for split in SPLITS:
        voc.write(*split_of(coco, split), root, split, [].append)


def to_labelme(coco: Path, root: Path) -> None:
    for split in SPLITS:
        content, images = split_of(coco, split)
        shutil.copytree(images, root / split)
        names = {category['id']: category['name'] for category in content['categories']}
        for image in content['images']:
            shapes = [
                {
                    'label': names[a['category_id']],
                    'shape_type': 'polygon',
                    'points': [list(point) for point in zip(part[::2], part[1::2], strict=True)],
                }
                for a in content['annotations']
                if a['image_id'] == image['id']
                for part in a['segmentation']
            ]
            record = {'shapes': shapes, 'imagePath': image['file_name'], 'imageData': None}
            path = (root / split / image['file_name']).with_suffix('.json')
            path.write_text(json.dumps(record, indent=1))


Builder = Callable[[Path, Path], None]
LAYOUTS = {
    'COCO 2017': to_coco_2017,
    "Roboflow's COCO export": to_roboflow,
    'COCO annotations (train.json, val.json)': to_two_files,
    'YOLO (data.yaml)': to_yolo,
    'Pascal VOC': to_voc,
    'LabelMe': to_labelme,
}


@pytest.fixture
def cfg(flat_config: Path, tmp_path: Path) -> Config:
    cfg = Config.fromfile(flat_config)
    cfg.work_dir = str(tmp_path / 'work_dirs' / 'run')
    return cfg


def objects(file: CocoFile) -> list[list[tuple[str, list[float]]]]:
    """The class and box of the objects of each image, in the order of images."""
    names = {category['id']: category['name'] for category in file.categories}
    return [
        sorted((names[a['category_id']], a['bbox']) for a in file.annotations if a['image_id'] == image['id'])
        for image in file.images
    ]


@pytest.mark.parametrize(('title', 'build'), LAYOUTS.items())
def test_every_layout_has_the_same_objects(
    coco_root: Path, cfg: Config, tmp_path: Path, title: str, build: Builder
) -> None:
    root = tmp_path / 'data'
    build(coco_root, root)
    before = {path: path.read_bytes() for path in files_in(root)}
    if title == 'Pascal VOC':  # the format has no masks
        del cfg.model.roi_head['mask_head']
    source = set_data_paths(cfg, DataOptions(data_root=str(root)), LOADERS)
    assert str(source.layout) == f'{root}: {title}, train, val'
    source.convert(LOADERS)
    assert read_data(cfg, LOADERS).classes == CLASSES
    for loader, split in zip(LOADERS, SPLITS, strict=True):
        (dataset,) = coco_datasets(cfg, loader)
        found = read_coco(annotation_path(dataset), masks=False, folder=image_folder(dataset))
        truth = read_coco(coco_root / f'annotations/instances_{split}2017.json')
        for ours, theirs in zip(objects(found), objects(truth), strict=True):
            assert [name for name, _ in ours] == [name for name, _ in theirs]
            for (_, box), (_, other) in zip(ours, theirs, strict=True):
                assert box == pytest.approx(other, abs=1e-3)
    assert {path: path.read_bytes() for path in files_in(root)} == before


def check(*words: object) -> int:
    return cli.run(check_parser(), check_dataset, list(map(str, words)))


def test_check_names_broken_files_by_line_even_if_the_data_were_converted(
    coco_root: Path, flat_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / 'data'
    to_yolo(coco_root, root)
    assert check(flat_config, '--data-root', root) == 0
    said = capsys.readouterr().out
    assert said.startswith(f'{root}: YOLO (data.yaml), train, val\n')
    assert '6 images, 0 of them without objects' in said
    for number, line in (
        (1, '0 0.5 0.5 0.1'),
        (2, '9 0.5 0.5 0.1 0.1'),
        (3, '0 0.5 0.5 0.501 0.5 0.501 0.501'),
    ):
        path = root / 'labels' / 'val' / f'00000000000{number}.txt'
        path.write_text(f'{line}\n{path.read_text()}')
    assert check(flat_config, '--data-root', root, '--out', tmp_path / 'out') == 1
    said = capsys.readouterr().out
    for number in (1, 2, 3):
        assert f'00000000000{number}.txt, line 1' in said
    assert said.endswith('2 errors\n')
    assert 'warning: objects that training leaves out: 1\n' in said
    assert len(files_in(tmp_path / 'out')) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ['data', 'out']


def test_errors_are_one_line_and_nothing_is_written(
    coco_root: Path, flat_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / 'data'
    to_voc(coco_root, root)

    def refusal(*words: object, **more: object) -> str:
        options = [flat_config, '--data-root', root, '--work-dir', tmp_path / 'work' / 'run', *words]
        status = cli.run(train_command.training_parser(), train_command.train, list(map(str, options)))
        said = capsys.readouterr().err.splitlines()
        assert status == 1
        assert not (tmp_path / 'work').exists()
        (line,) = [line for line in said if line.startswith('error: ')]
        return line

    file = root / 'Annotations' / '000000000001.xml'
    whole = file.read_text()
    file.write_text(whole.replace('<name>', '<nome>', 1))
    assert re.search(r'000000000001\.xml, line \d+: ', refusal())
    file.write_text(whole)
    inside = root / 'JPEGImages' / 'runs' / 'first'
    assert 'contains the data; choose another place' in refusal('--work-dir', inside)
    assert not inside.parent.exists()
    assert 'no data that this config reads in the format yolo' in refusal('--format', 'yolo')
    assert 'needs --data-root DIR' in refusal('--format', 'voc', '--val-ann', 'x.json')
    (root / 'ImageSets' / 'Main' / 'val.txt').unlink()
    assert 'there is no validation set; draw one with --val-fraction 0.2, or train with --no-val' in refusal()


def test_masks_are_needed_or_not(
    coco_root: Path, flat_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to_voc(coco_root, tmp_path / 'data')
    assert check(flat_config, '--data-root', tmp_path / 'data') == 1
    assert f'{tmp_path / "data"} (Pascal VOC, train): ' in (said := capsys.readouterr().out)
    assert 'objects are boxes without a mask, but this config trains masks' in said
    assert '0 images' not in said


def test_the_config_of_a_training_reads_data_that_have_changed_since(
    coco_root: Path, cfg: Config, tmp_path: Path
) -> None:
    to_yolo(coco_root, tmp_path / 'data')
    options = DataOptions(data_root=str(tmp_path / 'data'))
    first = set_data_paths(cfg, options)
    first.convert(LOADERS)
    (tmp_path / 'data' / 'labels' / 'val' / '000000000001.txt').write_text('')
    for again in (DataOptions(), options):
        second = set_data_paths(cfg, again)
        assert second.converted != first.converted
        assert Path(cfg.val_dataloader.dataset.ann_file).parent == second.converted


def test_the_config_of_a_training_reads_data_whose_conversion_is_gone(
    coco_root: Path, cfg: Config, tmp_path: Path
) -> None:
    to_yolo(coco_root, tmp_path / 'data')
    shutil.copytree(coco_root / 'annotations', tmp_path / 'data' / 'annotations')
    first = set_data_paths(cfg, DataOptions(data_root=str(tmp_path / 'data'), format='yolo'))
    first.convert(LOADERS)
    assert set_data_paths(cfg, DataOptions()) == first
    shutil.rmtree(first.converted)
    assert set_data_paths(cfg, DataOptions(format='yolo')) == first
    with pytest.raises(UserError, match='choose with --format coco or --format yolo'):
        set_data_paths(cfg, DataOptions())
    assert set_data_paths(cfg, DataOptions(val_ann='val.json')) is None


def test_a_set_that_is_not_split(coco_root: Path, cfg: Config, tmp_path: Path) -> None:
    to_yolo(coco_root, tmp_path / 'data')
    shutil.rmtree(tmp_path / 'data' / 'images' / 'val')
    (tmp_path / 'data' / 'data.yaml').write_text(
        'train: images/train\nnames: [circle, rectangle, triangle]\n'
    )
    options = DataOptions(data_root=str(tmp_path / 'data'))
    source = set_data_paths(cfg, options, LOADERS[:1])
    assert dict(source.splits) == {'train_dataloader': 'train'}
    source = set_data_paths(cfg, options, ['test_dataloader'])
    assert source.splits['test_dataloader'] == 'train'
    assert source.warnings == [
        f'{tmp_path / "data"} is not split: testing on all images, those that were trained on too'
    ]


def test_label_maps_without_a_validation_set(config: Callable[[str], Config], tmp_path: Path) -> None:
    for folder in ('images', 'masks'):
        (tmp_path / folder).mkdir()
        Image.new('L', (8, 8)).save(tmp_path / folder / 'a.png')
    options = DataOptions(data_root=str(tmp_path), classes='2')
    with pytest.raises(UserError, match='no validation set; draw one with --val-fraction'):
        set_data_paths(config('fpn_crossformer_s'), options, LOADERS)


def test_the_split_to_test_on_is_chosen(coco_root: Path, cfg: Config, tmp_path: Path) -> None:
    to_roboflow(coco_root, tmp_path / 'data')
    shutil.copytree(tmp_path / 'data' / 'valid', tmp_path / 'data' / 'test')
    options, loaders = DataOptions(data_root=str(tmp_path / 'data')), ['test_dataloader']
    for split, folder in ((None, 'valid'), ('test', 'test')):
        set_data_paths(cfg, options, loaders, split)
        assert cfg.test_dataloader.dataset.ann_file == f'{folder}/_annotations.coco.json'


@pytest.mark.slow
def test_a_converted_set_has_the_numbers_of_the_original(
    coco_root: Path, narrow_config: Callable[[str], Config], tmp_path: Path
) -> None:
    cfg = narrow_config('retinanet_crossformer_s')
    cfg.train_cfg.max_epochs = 1
    cfg.model.test_cfg.update(score_thr=0.0, nms_pre=1000, max_per_img=100)
    cfg.dump(tmp_path / 'narrow.py')
    to_voc(coco_root, tmp_path / 'voc')
    to_yolo(coco_root, tmp_path / 'yolo')

    def words(name: str, root: Path, *more: object) -> list[str]:
        options = [tmp_path / 'narrow.py', *more, '--data-root', root]
        return list(map(str, [*options, '--work-dir', tmp_path / 'work_dirs' / name]))

    logs = {}
    for name, root in (('coco', coco_root), ('voc', tmp_path / 'voc'), ('yolo', tmp_path / 'yolo')):
        seed = ('--cfg-options', 'randomness.seed=0')
        train_command.train(train_command.training_parser().parse_args([*words(name, root), *seed]))
        (log,) = (tmp_path / 'work_dirs' / name).glob('*/*.log')
        logs[name] = re.findall(r'loss: ([\d.]+)', log.read_text())
    assert logs['coco']
    assert logs['coco'] == logs['voc'] == logs['yolo']
    checkpoint = tmp_path / 'work_dirs' / 'coco' / 'epoch_1.pth'
    numbers = [
        test_command.evaluate(
            test_command.evaluation_parser().parse_args(words(f'test_{root.name}', root, checkpoint))
        )
        for root in (coco_root, tmp_path / 'voc', tmp_path / 'yolo')
    ]
    assert max(numbers[0].values()) > 0
    assert numbers[1] == pytest.approx(numbers[0], abs=1e-6)
    assert numbers[2] == pytest.approx(numbers[0], abs=1e-6)
    assert {path.name.partition('-')[0] for path in (tmp_path / 'work_dirs' / 'converted').iterdir()} == {
        'voc',
        'yolo',
    }


def to_cityscapes(ade: Path, root: Path) -> None:
    for split, folder in (('train', 'training'), ('val', 'validation')):
        for path in files_in(ade / 'images' / folder):
            name = f'ulm_{path.stem}'
            images, maps = root / 'leftImg8bit' / split / 'ulm', root / 'gtFine' / split / 'ulm'
            for place in (images, maps):
                place.mkdir(parents=True, exist_ok=True)
            Image.open(path).save(images / f'{name}_leftImg8bit.png')
            label_map = Image.open(ade / 'annotations' / folder / f'{path.stem}.png')
            label_map.save(maps / f'{name}_gtFine_labelTrainIds.png')
            label_map.convert('RGB').save(maps / f'{name}_gtFine_color.png')


def to_voc_maps(ade: Path, root: Path) -> None:
    for folder in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
        (root / folder).mkdir(parents=True)
    for split, folder in (('train', 'training'), ('val', 'validation')):
        files = files_in(ade / 'images' / folder)
        stems = [f'{split}{path.stem}' for path in files]
        for stem, path in zip(stems, files, strict=True):
            shutil.copy(path, root / 'JPEGImages' / f'{stem}.jpg')
            label_map = Image.open(ade / 'annotations' / folder / f'{path.stem}.png')
            label_map.putpalette(range(30))
            label_map.save(root / 'SegmentationClass' / f'{stem}.png')
        (root / f'ImageSets/Segmentation/{split}.txt').write_text('\n'.join(stems) + '\n')
    shutil.copy(root / 'JPEGImages' / f'{stems[0]}.jpg', root / 'JPEGImages' / 'not_labelled.jpg')


def to_camvid(ade: Path, root: Path) -> None:
    for split, folder in (('train', 'training'), ('val', 'validation')):
        shutil.copytree(ade / 'images' / folder, root / split)
        shutil.copytree(ade / 'annotations' / folder, root / f'{split}annot')


@pytest.fixture(scope='module')
def ade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('ade')
    write_ade20k(root, train=3, val=2, size=48)
    return root


@pytest.mark.parametrize(
    ('build', 'title'),
    [
        (to_cityscapes, 'Cityscapes'),
        (to_voc_maps, 'Pascal VOC segmentation'),
        (to_camvid, 'images and label maps (train and trainannot)'),
    ],
)
def test_layouts_of_label_maps(
    ade: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    narrow_segmentor: Callable[[str], Config],
    build: Builder,
    title: str,
) -> None:
    narrow_segmentor('upernet_crossformer_s').dump(tmp_path / 'narrow.py')
    root = tmp_path / 'data'
    build(ade, root)
    words = [tmp_path / 'narrow.py', '--classes', ade / 'classes.txt', '--reduce-zero-label', '--data-root']
    assert check(*words, ade) == 0
    original = capsys.readouterr().out
    assert check(*words, root) == 0
    said = capsys.readouterr().out
    assert said.startswith(f'{root}: {title}, train, val\n')
    shares = re.findall(r'[\d.]+% .*', original)
    assert shares
    assert re.findall(r'[\d.]+% .*', said) == shares


def test_label_maps_without_class_names(
    ade: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], narrow_segmentor: Callable[[str], Config]
) -> None:
    narrow_segmentor('upernet_crossformer_s').dump(tmp_path / 'narrow.py')
    to_camvid(ade, tmp_path / 'maps')
    assert check(tmp_path / 'narrow.py', '--data-root', tmp_path / 'maps') == 1
    assert 'name the classes with --classes FILE' in capsys.readouterr().err
    to_cityscapes(ade, tmp_path / 'city')
    assert check(tmp_path / 'narrow.py', '--data-root', tmp_path / 'city') == 0
    assert 'road' in capsys.readouterr().out
    for path in files_in(tmp_path / 'city' / 'gtFine'):
        if 'labelTrainIds' in path.name:
            path.rename(path.with_name(path.name.replace('labelTrainIds', 'labelIds')))
    assert check(tmp_path / 'narrow.py', '--data-root', tmp_path / 'city') == 1
    assert 'csCreateTrainIdLabelImgs' in capsys.readouterr().err
    to_voc_maps(ade, tmp_path / 'voc')
    (tmp_path / 'voc/ImageSets/Segmentation/val.txt').write_text('gone\n')
    assert check(tmp_path / 'narrow.py', '--data-root', tmp_path / 'voc') == 1
    assert 'val.txt, line 1: ' in capsys.readouterr().out


def test_a_dataset_in_a_wrapper_is_found_too(coco_root: Path, cfg: Config, tmp_path: Path) -> None:
    to_roboflow(coco_root, tmp_path / 'data')
    plain = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = {'type': 'RepeatDataset', 'times': 2, 'dataset': plain}
    set_data_paths(cfg, DataOptions(data_root=str(tmp_path / 'data')), LOADERS)
    assert cfg.train_dataloader.dataset.dataset.ann_file == 'train/_annotations.coco.json'
