"""Read and check a run's data and its classes, and set everything in the config that depends on them.

The classes of COCO data are those of the annotation file, unless the config or the dataset's class selects
some of them; those of label maps are given by an option or defined by the dataset's class.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from ..utils.errors import UserError
from .class_splits import ClassData, other_layout, read_split
from .coco import CocoFile, check_images, read_coco, refusing
from .coco_json import save_copy
from .coco_use import ImagesUsed, images_used, use_problems
from .datasets import (
    LOADERS,
    annotation_path,
    check_present,
    chosen_meta,
    class_datasets,
    coco_datasets,
    coco_evaluators,
    dataset_meta,
    datasets_of,
    dicts_in,
    folders_of,
    image_folder,
    join_data_root,
    map_datasets,
    palette,
    set_num_classes,
    trains_masks,
    type_name,
)
from .exif import ignores_exif
from .options import COCO_ELSEWHERE, FOLDERS_ELSEWHERE, MAPS_ELSEWHERE, OTHERS_ELSEWHERE
from .problems import Findings, refuse


@dataclass(frozen=True)
class RunData:
    """What is known of a run's data before it starts.

    Attributes:
        classes: The class names in the order of labels; None for other data than COCO files, label
            maps and class folders.
        copies: The repaired copy of an annotation file, by the file's path and the image folder.
        notes: Lines for the log.
        warnings: The same, for what is easily overlooked.
    """

    classes: tuple[str, ...] | None
    copies: dict[tuple[str, str], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_data(
    cfg: Config,
    loaders: Sequence[str],
    objects: bool = True,
    copies: Path | None = None,
    trained: tuple[str, ...] | None = None,
) -> RunData:
    """Check the data that a run reads, and find its classes; the config is not changed.

    Args:
        cfg: The config of the run.
        loaders: The data loaders that the run uses; their files must exist and be valid. The content of label
            maps is checked separately by ``check_labels``, which takes longer.
        objects: Whether the run needs annotations; a prediction for COCO's test server does not.
        copies: The folder for copies of annotation files that had to be repaired; without it, none are
            written.
        trained: For a test, the classes of the checkpoint, which number class folders; empty if it has none.

    Raises:
        UserError: Files or folders are missing or invalid, or the classes are not defined or contradictory.
    """
    if any(coco_datasets(cfg, *loaders)):
        return _read_coco(cfg, loaders, objects, copies)
    if any(map_datasets(cfg, *loaders)):
        return RunData(_read_map_classes(cfg, loaders, objects))
    if any(class_datasets(cfg, *loaders)):
        return _read_class_folders(cfg, loaders, trained)
    check_present(
        [f for dataset in datasets_of(cfg, *loaders) for f in folders_of(dataset)], OTHERS_ELSEWHERE
    )
    return RunData(None)


def set_copies(cfg: Config, copies: Mapping[tuple[str, str], str]) -> None:
    """Let COCO datasets read repaired copies of their annotation files.

    Args:
        cfg: The config, changed in place.
        copies: From :func:`read_data`.
    """
    for dataset in coco_datasets(cfg, *LOADERS):
        if copy := copies.get((annotation_path(dataset), image_folder(dataset))):
            dataset.ann_file = copy


def set_classes(cfg: Config, classes: tuple[str, ...] | None) -> None:
    """Set everything in a config that depends on the classes; no file is read.

    Args:
        cfg: The config, changed in place: COCO datasets get names and colours, class folders names,
            evaluators the annotation files of their datasets, and heads ``num_classes``. Classifiers are
            evaluated by their first k classes only if there are as many.
        classes: From :func:`read_data`; None changes nothing.
    """
    if classes is None:
        return
    set_num_classes(cfg.model, len(classes))
    for dataset in coco_datasets(cfg, *LOADERS):
        meta = chosen_meta(cfg, dataset)
        if len(meta.get('palette', ())) != len(classes):
            meta['palette'] = palette(len(classes))
        dataset.metainfo = {**meta, 'classes': classes}
    folders = list(class_datasets(cfg, *LOADERS))
    for dataset in folders:
        dataset.metainfo = {**(dataset.get('metainfo') or {}), 'classes': classes}
    if folders:
        _limit_topk(cfg, len(classes))
    for evaluator, path, _ in _evaluators(cfg):
        evaluator.ann_file = path


def _evaluators(cfg: Config) -> Iterator[tuple[ConfigDict, str, str]]:
    """The evaluators of a single COCO dataset, each with the dataset's annotation file and the split."""
    for split in ('val', 'test'):
        paths = [annotation_path(dataset) for dataset in coco_datasets(cfg, f'{split}_dataloader')]
        if len(paths) == 1:
            yield from ((evaluator, paths[0], split) for evaluator in coco_evaluators(cfg, split))


def _other_annotations(cfg: Config, loaders: Sequence[str]) -> Iterator[str]:
    """Say that an evaluator reads the file of its dataset instead of another one that it names."""
    for evaluator, path, split in _evaluators(cfg):
        own = Path(evaluator.ann_file or path)
        if f'{split}_dataloader' in loaders and own != Path(path) and own.exists():
            yield f'{split}_evaluator reads the annotations of its dataset, {path}, instead of {own}'


def _limit_topk(cfg: Config, count: int) -> None:
    for name in ('model', 'val_evaluator', 'test_evaluator'):
        for _, part in dicts_in(cfg.get(name), name):
            if 'topk' in part:
                given = part['topk'] if isinstance(part['topk'], list | tuple) else [part['topk']]
                part['topk'] = tuple(k for k in given if k <= count) or (1,)


def classes_of(cfg: Config) -> tuple[str, ...]:
    """The class names of a config after :func:`set_classes`; empty if it has none."""
    find = (coco_datasets, map_datasets, class_datasets)
    datasets = [dataset for datasets in find for dataset in datasets(cfg, *LOADERS)]
    return tuple(dataset_meta(cfg, datasets[0]).get('classes', ())) if datasets else ()


def _read_coco(cfg: Config, loaders: Sequence[str], objects: bool, copies: Path | None) -> RunData:
    datasets = {(annotation_path(d), image_folder(d)): d for d in coco_datasets(cfg, *loaders)}
    wanted = [path for paths in datasets for path in paths]
    check_present(wanted, _remedy(COCO_ELSEWHERE, loaders), Path.exists)
    files: dict[tuple[str, str], CocoFile] = {}
    warnings = []
    for paths, dataset in datasets.items():
        files[paths], found = read_coco_dataset(cfg, dataset, objects)
        warnings += found
    chosen = chosen_classes(cfg)
    for file in files.values() if chosen else ():
        check_chosen(file, chosen, objects)
    classes = chosen or _common_classes(list(files.values()))
    notes = [*_other_annotations(cfg, loaders)]
    for used in _check_use(cfg, loaders, files, classes) if objects else ():
        (warnings if used.left_out else notes).append(str(used))
    written = _write_copies(files, copies) if copies else {}
    notes += [f'{path}: this run reads the repaired copy {copy}' for (path, _), copy in written.items()]
    return RunData(classes, written, notes, warnings)


def class_data(cfg: Config, loaders: Sequence[str], trained: tuple[str, ...] | None = None) -> ClassData:
    """List the class folders that a run reads.

    Args:
        cfg: The config of the run.
        loaders: The data loaders that the run uses.
        trained: As for :func:`read_data`.

    Raises:
        UserError: Folders of splits are missing, or the datasets of the config select different classes.
    """
    datasets = {loader: list(class_datasets(cfg, loader)) for loader in loaders}
    roots = {
        image_folder(d): (loader, d.get('data_root') or '') for loader in datasets for d in datasets[loader]
    }

    def found(missing: list[str]) -> str:
        root = roots[missing[0]][1]
        return other_layout(
            Path(root), ['train' if roots[path][0] == 'train_dataloader' else 'val' for path in missing]
        )

    check_present(roots, _remedy(FOLDERS_ELSEWHERE, loaders), found=found)
    chosen = _chosen_classes(
        {'classes': d.get('classes'), **(d.get('metainfo') or {})} for d in class_datasets(cfg, *LOADERS)
    )
    splits = {
        loader: [
            read_split(image_folder(dataset), dataset.get('ann_file') and annotation_path(dataset))
            for dataset in datasets[loader]
        ]
        for loader in loaders
        if datasets[loader]
    }
    return ClassData(splits, chosen, trained)


def _read_class_folders(cfg: Config, loaders: Sequence[str], trained: tuple[str, ...] | None) -> RunData:
    data = class_data(cfg, loaders, trained)
    problems = [problem for loader in data.splits for problem in data.problems(loader)]
    refuse([problem for problem in problems if problem.fatal])
    findings = Findings(1)
    for problem in problems:
        findings.add(problem)
    notes = [split.summary(data.classes) for splits in data.splits.values() for split in splits]
    if trained == () and not data.chosen:
        notes.append(
            'the checkpoint names no classes: they are those of the data, numbered in alphabetical order'
        )
    _check_class_weights(cfg.model, len(data.classes))
    return RunData(data.classes, notes=notes, warnings=list(findings.summary()))


def read_coco_dataset(cfg: Config, dataset: ConfigDict, objects: bool = True) -> tuple[CocoFile, list[str]]:
    """Read and check the annotation file and the image names of a COCO dataset.

    Args:
        cfg: The config of the run.
        dataset: The dataset; its files exist.
        objects: As for :func:`read_data`.

    Returns:
        The repaired annotations; and warnings, among them what was repaired, as lines for the log.

    Raises:
        UserError: The file is invalid, or images are missing.
    """
    path, folder, findings = annotation_path(dataset), image_folder(dataset), Findings(1)
    report, exif = refusing(path, findings.add), ignores_exif(dataset)
    file = read_coco(path, trains_masks(cfg), objects, report, folder, ignore_exif=exif)
    check_images(file, folder, exif)
    return file, [f'{file.name}: {line}' for line in (*file.notes, *findings.summary())]


def _remedy(elsewhere: str, loaders: Sequence[str]) -> str:
    if 'val_dataloader' not in loaders:
        return elsewhere
    return f'{elsewhere}; without a validation set: --val-fraction 0.2 to draw one in training, or --no-val'


def _check_use(
    cfg: Config, loaders: Sequence[str], files: Mapping[tuple[str, str], CocoFile], classes: Sequence[str]
) -> Iterator[ImagesUsed]:
    """Check that there is something to learn from and to evaluate; yields the images of training sets."""
    for loader in loaders:
        for dataset in coco_datasets(cfg, loader):
            file = files[annotation_path(dataset), image_folder(dataset)]
            training = loader == 'train_dataloader'
            used = images_used(file, dataset.get('filter_cfg'), classes) if training else None
            for problem in use_problems(file, classes, used):
                if problem.fatal:
                    raise UserError(problem.what)
            if used:
                yield used


def _write_copies(files: Mapping[tuple[str, str], CocoFile], folder: Path) -> dict[tuple[str, str], str]:
    return {
        key: str(save_copy(file.content, folder, file.path.stem))
        for key, file in files.items()
        if file.repaired
    }


def chosen_classes(cfg: Config) -> tuple[str, ...] | None:
    """The classes that a config selects from those of COCO's annotations; None if it selects none.

    Raises:
        UserError: Its datasets select different classes, or not a tuple of names.
    """
    return _chosen_classes(chosen_meta(cfg, dataset) for dataset in coco_datasets(cfg, *LOADERS))


def _chosen_classes(metas: Iterable[dict[str, Any]]) -> tuple[str, ...] | None:
    """The classes that the datasets select, which must agree; None if no dataset selects any."""
    chosen = {
        meta['classes'] if isinstance(meta['classes'], str) else tuple(meta['classes'])
        for meta in metas
        if meta.get('classes')
    }
    for classes in chosen:
        if isinstance(classes, str):
            raise UserError(f"metainfo.classes='{classes}': give a tuple of names, such as ('{classes}',)")
    if len(chosen) > 1:
        raise UserError(
            'metainfo.classes: the datasets of the config select different classes,'
            f' {" and ".join(map(str, chosen))}'
        )
    return chosen.pop() if chosen else None


def check_chosen(file: CocoFile, chosen: tuple[str, ...], objects: bool) -> None:
    """Check that an annotation file has the classes that a config selects, in the order of labels.

    Args:
        file: The annotation file.
        chosen: From :func:`chosen_classes`.
        objects: Whether there must be objects of these classes.

    Raises:
        UserError: It does not.
    """
    for name in chosen:
        if name not in file.classes:
            raise UserError(
                f'{file.name} has no category "{name}", which metainfo.classes of the config selects;'
                ' name categories of the file, or omit metainfo to use all of them'
            )
    in_order = tuple(name for name in file.classes if name in chosen)
    if in_order != chosen:  # MMDetection would confuse the classes
        raise UserError(
            f'metainfo.classes={chosen}: MMDetection numbers classes in the order of {file.name};'
            f' write {in_order}'
        )
    if objects and not file.labelled & set(chosen):
        raise UserError(f'{file.name} has no objects of the classes in metainfo.classes: {chosen}')


def _common_classes(files: list[CocoFile]) -> tuple[str, ...]:
    """The classes in the order of labels; all files must list the same ones in the same order."""
    first = files[0]
    for other in files[1:]:
        if other.classes != first.classes:
            different = sorted(set(first.classes) ^ set(other.classes))
            how = f'only one of them has "{different[0]}"' if different else 'their order differs'
            raise UserError(
                f'{first.name} and {other.name} do not list the same categories: {how};'
                ' write the same "categories" into both'
            )
    return first.classes


def _read_map_classes(cfg: Config, loaders: Sequence[str], maps: bool) -> tuple[str, ...]:
    datasets = list(map_datasets(cfg, *loaders))
    folders = [
        folder
        for dataset in datasets
        for folder in (
            folders_of(dataset) if maps else [join_data_root(dataset, dataset.data_prefix.img_path)]
        )
    ]
    check_present(folders, _remedy(MAPS_ELSEWHERE, loaders))
    classes = dataset_meta(cfg, datasets[0]).get('classes')
    if not classes:
        raise UserError(f'{type_name(datasets[0])} has no class names; name them with --classes FILE')
    _check_class_weights(cfg.model, len(classes))
    return tuple(classes)


def _check_class_weights(model: ConfigDict, count: int) -> None:
    """Check ``class_weight`` of the losses: torch would raise an error only in the first training step."""
    heads = [head for name in ('decode_head', 'auxiliary_head', 'head') for head in _listed(model.get(name))]
    for head in heads:
        for loss in _listed(head.get('loss_decode') or head.get('loss')):
            # a list, or a file name; with sigmoids, not always one weight per class
            weights = loss.get('class_weight')
            if isinstance(weights, list | tuple) and len(weights) != count and not loss.get('use_sigmoid'):
                raise UserError(
                    f'class_weight of {loss.type}: {len(weights)} numbers for {count} classes;'
                    ' give one number per class, in the order of labels'
                )


def _listed(part: Any) -> list[Any]:
    return list(part) if isinstance(part, list | tuple) else [part] if part else []
