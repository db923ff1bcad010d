"""The demos: generate a small dataset, train on it, evaluate, and draw the results."""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
from pycocotools.coco import COCO

from ..data.datasets import palette
from ..data.shapes import CLASSES, UNLABELLED, write_ade20k, write_class_folders, write_coco
from ..evaluation.class_pictures import save_sheet
from ..evaluation.coco_report import load_results
from ..evaluation.detection_pictures import coco_objects, save_objects
from ..evaluation.pictures import SHEET_DPI, SMALL_PANEL, read_picture
from ..evaluation.segmentation_pictures import SegmentedImage, save_segments
from ..utils.errors import UserError

PROJECT = Path(__file__).parents[2]
SHEET = 8  # images on predictions.png
TILES = 12  # the same, without ground truth beside each
SCORE_THR = 0.5  # lowest score of drawn objects


def demo_parser() -> argparse.ArgumentParser:
    """The options of ``tools/demo.py``."""
    parser = argparse.ArgumentParser(description='Train and evaluate a narrow network on generated shapes.')
    parser.add_argument(
        'model', nargs='?', choices=DEMOS, default='mask_rcnn', help='which demo (%(default)s)'
    )
    parser.add_argument('--short', action='store_true', help='a smoke test of about a minute')
    return parser


def demo(options: argparse.Namespace) -> None:
    """Run a demo in its folder under ``work_dirs``.

    Args:
        options: The options parsed by :func:`demo_parser`.

    Raises:
        UserError: A command failed, or a score is too low.
    """
    chosen = DEMOS[options.model]
    run_demo(chosen, chosen.short if options.short else chosen.full, PROJECT / 'work_dirs' / chosen.folder)


@dataclass(frozen=True)
class Recipe:
    """The size of a demo, and the scores that it must reach.

    Attributes:
        images: Number of training images.
        length: Epochs or iterations, whichever the demo's config counts.
        val_images: Number of validation images.
        least: The lowest score, from 0 to 1, that counts as success.
    """

    images: int
    length: int
    val_images: int
    least: float


@dataclass(frozen=True)
class Demo:
    """The settings in which the demos differ.

    Attributes:
        folder: Its work folder, in ``work_dirs``.
        config: The name of the config.
        write: Writes the dataset to a folder, given the numbers of training and validation images.
        data_options: Options that describe the data; ``{data}`` stands for its folder.
        length: The settings that a recipe's length replaces.
        out: Value of ``--out`` in the evaluation, relative to its work folder.
        draw: Draws ``predictions.png`` and ``predictions/``, given the demo's folder.
        scores: Name and perfect value of each score, by its name in the log.
        full: Recipe of the demo itself.
        short: Recipe of the smoke test.
    """

    folder: str
    config: str
    write: Callable[[Path, int, int], None]
    data_options: Sequence[str]
    length: Sequence[str]
    out: str
    draw: Callable[[Path], None]
    scores: Mapping[str, tuple[str, float]]
    full: Recipe
    short: Recipe


def run_demo(demo: Demo, recipe: Recipe, folder: Path) -> dict[str, float]:
    """Run a demo with the commands that users run.

    Args:
        demo: The demo.
        recipe: Its size.
        folder: Gets ``data``, the checkpoint and the log, ``curves.png``, ``test/plots``, ``predictions.png``
            and a picture of each validation image in ``predictions``; for the classifier, of the first of
            them. The content of an earlier demo is removed.

    Returns:
        The scores on the validation images, 0 to 1, by name.

    Raises:
        UserError: The folder has other content, a command failed, or a score is below ``recipe.least``.
    """
    mark = folder / '.demo'
    if folder.exists():
        if not mark.exists():
            raise UserError(f'{folder}: exists, and is not the folder of an earlier demo; move it')
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    mark.touch()
    data = folder / 'data'
    print(f'Drawing {recipe.images} + {recipe.val_images} images into {data}', flush=True)
    demo.write(data, recipe.images, recipe.val_images)
    shared = [demo.config, '--data-root', data, *(word.format(data=data) for word in demo.data_options)]
    schedule = [f'{key}={recipe.length}' for key in demo.length]
    _call('train', *shared, '--work-dir', folder, '--cfg-options', *schedule)
    checkpoint = Path((folder / 'last_checkpoint').read_text())
    test = folder / 'test'
    results = ('--out', test / demo.out, '--plots', test / 'plots')
    _call('test', *shared, checkpoint, '--work-dir', test, *results)
    demo.draw(folder)
    scores = read_scores(demo, test)
    print(f"""
{', '.join(f'{name} {score:.3f}' for name, score in scores.items())} on the validation images
  checkpoint  {checkpoint}
  log         {max(folder.glob('*/*.log'))}
  curves      {folder / 'curves.png'}
  plots       {test / 'plots'}
  pictures    {folder / 'predictions.png'}, each image in {folder / 'predictions'}""")
    missed = [name for name, score in scores.items() if score < recipe.least]
    if missed:
        names = ' and '.join(missed)
        raise UserError(f'{names} below {recipe.least:.2f}; see the training in {folder}/curves.png')
    return scores


def _call(command: str, *words: str | Path) -> None:
    """Run a command of this project; its output becomes part of the demo's."""
    print(f'\n$ crossformer {command} {" ".join(map(str, words))}', flush=True)
    program = [sys.executable, '-m', 'crossformer_mm_command', command, *words]
    status = subprocess.run(program, cwd=PROJECT, check=False).returncode
    if status:
        raise UserError(f'crossformer {command} ended with status {status}; see its last lines')


def read_scores(demo: Demo, work_dir: Path) -> dict[str, float]:
    """Read the demo's scores, 0 to 1, from the last log in the work folder of an evaluation."""
    log = max(work_dir.glob('*/*.json'))  # mmengine names both after the time
    logged = json.loads(log.read_text(encoding='utf-8'))
    return {name: logged[key] / perfect for key, (name, perfect) in demo.scores.items()}


def _draw_objects(folder: Path) -> None:
    images = folder / 'data' / 'val2017'
    results = json.loads((folder / 'test' / 'results.segm.json').read_text(encoding='utf-8'))
    with redirect_stdout(StringIO()):  # pycocotools prints its progress
        truth = COCO(folder / 'data' / 'annotations' / 'instances_val2017.json')
        found = load_results(truth, [result for result in results if result['score'] >= SCORE_THR])
    pairs = {}
    for key, image in truth.imgs.items():
        picture = read_picture(images / image['file_name'])
        pairs[image['file_name']] = [(picture, coco_objects(source, key)) for source in (truth, found)]
    draw = partial(save_objects, titles=['ground truth', f'prediction (score ≥ {SCORE_THR:g})'])
    (folder / 'predictions').mkdir()
    for name, pair in pairs.items():
        draw((folder / 'predictions' / name).with_suffix('.png'), pair, columns=2)
    sheet = [panel for pair in list(pairs.values())[:SHEET] for panel in pair]
    draw(folder / 'predictions.png', sheet, columns=4, panel=SMALL_PANEL, dpi=SHEET_DPI)


def _draw_segments(folder: Path) -> None:
    classes = ('ground', *CLASSES)
    draw = partial(save_segments, classes=classes, colours=palette(len(classes)))
    (folder / 'predictions').mkdir()
    images = []
    for path in sorted((folder / 'data' / 'images' / 'validation').iterdir()):
        name = f'{path.stem}.png'
        maps = (folder / 'data' / 'annotations' / 'validation' / name, folder / 'test' / 'maps' / name)
        images.append(SegmentedImage(read_picture(path), [_read_labels(path) for path in maps]))
        draw(folder / 'predictions' / name, images[-1:])
    draw(folder / 'predictions.png', images[:SHEET], columns=2, panel=SMALL_PANEL, dpi=SHEET_DPI)


def _draw_classes(folder: Path) -> None:
    files = sorted((folder / 'data' / 'val').glob('*/*'), key=lambda path: path.name)[:TILES]
    model = ('--config', 'demo_classifier', '--checkpoint', (folder / 'last_checkpoint').read_text())
    _call('infer', *files, *model, '--out', folder / 'predictions')
    results = json.loads((folder / 'predictions' / 'results.json').read_text(encoding='utf-8'))
    captions = [f'{Path(r["file"]).parent.name}\n→ {r["name"]} {r["score"]:.2f}' for r in results['images']]
    save_sheet(folder / 'predictions.png', map(read_picture, files), captions)


def _read_labels(path: Path) -> np.ndarray:
    """A label map of the generated dataset, with classes from 0 and 255 for unlabelled pixels."""
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return np.where(labels == UNLABELLED, 255, labels - 1)


DEMOS = {
    'mask_rcnn': Demo(
        folder='demo',
        config='demo_mask_rcnn',
        write=write_coco,
        data_options=(),
        length=('train_cfg.max_epochs', 'param_scheduler.1.T_max'),
        out='results.json',
        draw=_draw_objects,
        scores={'coco/bbox_mAP': ('box mAP', 1), 'coco/segm_mAP': ('mask mAP', 1)},
        full=Recipe(images=120, length=12, val_images=32, least=0.70),
        short=Recipe(images=64, length=8, val_images=16, least=0.05),
    ),
    'semantic_fpn': Demo(
        folder='demo-seg',
        config='demo_semantic_fpn',
        write=partial(write_ade20k, size=128),
        data_options=('--classes', '{data}/classes.txt', '--reduce-zero-label'),
        length=('train_cfg.max_iters', 'param_scheduler.1.T_max', 'default_hooks.checkpoint.interval'),
        out='maps',
        draw=_draw_segments,
        scores={'mIoU': ('mIoU', 100)},
        full=Recipe(images=480, length=1500, val_images=32, least=0.80),
        short=Recipe(images=64, length=320, val_images=16, least=0.28),
    ),
    'classifier': Demo(
        folder='demo-cls',
        config='demo_classifier',
        write=write_class_folders,
        data_options=(),
        length=('train_cfg.max_epochs', 'param_scheduler.1.T_max'),
        out='results.json',
        draw=_draw_classes,
        scores={'accuracy/top1': ('top-1', 100)},
        full=Recipe(images=6400, length=3, val_images=192, least=0.90),
        short=Recipe(images=1600, length=2, val_images=96, least=0.50),
    ),
}
