"""The demos: make a small data set, train on it, evaluate, and show in pictures what came out."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from ..data.datasets import palette
from ..data.shapes import CLASSES, UNLABELLED, write_ade20k, write_coco
from ..evaluation.objects import SMALL_PANEL, ResultPictures, read_picture
from ..evaluation.segments import SegmentedImage, save_pairs
from ..utils.errors import UserError

SHEET = 8  # images on predictions.png


@dataclass(frozen=True)
class Recipe:
    """How much a demo does, and what it must reach.

    Attributes:
        images: Training images.
        length: Passes over them, or iterations, as the demo's config counts.
        val_images: Images held out, which the scores are about.
        least: The lowest score, of 1, that counts as success.
    """

    images: int
    length: int
    val_images: int
    least: float


@dataclass(frozen=True)
class Demo:
    """What differs between the demos.

    Attributes:
        config: The config file, from the project's root.
        write: Writes the data set, of so many images to train and to validate on, into a folder.
        data_options: Options of the tools that say what the data are, given its folder.
        length: The settings that the length of a recipe goes to.
        checkpoint: The name of the last checkpoint, given the length.
        out: What ``tools/test.py --out`` gets, in its work folder.
        draw: Draws ``predictions.png`` and ``predictions/``, given the demo's folder.
        scores: Names of the scores, by their names in the log.
        unit: What the log has for a perfect score.
        full: The demo itself.
        short: Less of it: that it runs, not what it reaches.
    """

    config: str
    write: Callable[[Path, int, int], None]
    data_options: Callable[[Path], list[str]]
    length: tuple[str, ...]
    checkpoint: str
    out: str
    draw: Callable[[Path], None]
    scores: Mapping[str, str]
    unit: float
    full: Recipe
    short: Recipe


def run_demo(demo: Demo, recipe: Recipe, project: Path, folder: Path) -> dict[str, float]:
    """Run a demo through the command lines that users have.

    Args:
        demo: Which.
        recipe: How much to do.
        project: The project's root, where ``configs`` and ``tools`` are.
        folder: Where all of it goes: ``data``, the checkpoint and the log, ``curves.png``,
            ``predictions.png`` and a picture an image in ``predictions``. What was there goes.

    Returns:
        The scores on the validation images, 0 to 1, by name.

    Raises:
        UserError: A command failed, or a score is below ``recipe.least``.
    """
    if folder.exists():
        shutil.rmtree(folder)
    data = folder / 'data'
    print(f'Drawing {recipe.images} + {recipe.val_images} images into {data}', flush=True)
    demo.write(data, recipe.images, recipe.val_images)
    shared = (demo.config, '--data-root', data, *demo.data_options(data))
    schedule = [f'{key}={recipe.length}' for key in demo.length]
    _call(project, 'train', *shared, '--work-dir', folder, '--cfg-options', *schedule)
    checkpoint = folder / demo.checkpoint.format(recipe.length)
    test = folder / 'test'
    _call(project, 'test', *shared, checkpoint, '--work-dir', test, '--out', test / demo.out)
    demo.draw(folder)
    scores = read_scores(demo, test)
    _report(folder, checkpoint, scores)
    missed = [name for name, score in scores.items() if score < recipe.least]
    if missed:
        names = ' and '.join(missed)
        raise UserError(f'{names} below {recipe.least:.2f}; {folder}/curves.png shows how it went')
    return scores


def read_scores(demo: Demo, work_dir: Path) -> dict[str, float]:
    """Read the demo's scores, 0 to 1, from what ``tools/test.py`` logged last in its work folder."""
    log = max(work_dir.glob('*/*.json'))  # mmengine names both after the time
    logged = json.loads(log.read_text(encoding='utf-8'))
    return {name: logged[key] / demo.unit for key, name in demo.scores.items()}


def _call(project: Path, tool: str, *words: str | Path) -> None:
    """Run one of the project's tools; its output is the demo's output."""
    command = [sys.executable, project / 'tools' / f'{tool}.py', *words]
    print(f'\n$ {" ".join(map(str, command))}', flush=True)
    status = subprocess.run(command, cwd=project, check=False).returncode
    if status:
        raise UserError(f'tools/{tool}.py ended with status {status}; its last lines say why')


def _report(folder: Path, checkpoint: Path, scores: dict[str, float]) -> None:
    """Print the scores, and where everything is."""
    log = max(folder.glob('*/*.log'))
    print(f"""
{', '.join(f'{name} {score:.3f}' for name, score in scores.items())} on the validation images
  checkpoint  {checkpoint}
  log         {log}
  curves      {folder / 'curves.png'}
  pictures    {folder / 'predictions.png'}, each image in {folder / 'predictions'}""")


def _draw_objects(folder: Path) -> None:
    pictures = ResultPictures(
        folder / 'data' / 'annotations' / 'instances_val2017.json',
        folder / 'test' / 'results.segm.json',
        folder / 'data' / 'val2017',
    )
    pictures.save_sheet(folder / 'predictions.png', SHEET)
    pictures.save_each(folder / 'predictions')


def _draw_segments(folder: Path) -> None:
    classes = ('ground', *CLASSES)
    colours = palette(len(classes))
    pictures = folder / 'predictions'
    pictures.mkdir()
    images = {}
    for path in sorted((folder / 'data' / 'images' / 'validation').iterdir()):
        name = f'{path.stem}.png'
        truth = _read_labels(folder / 'data' / 'annotations' / 'validation' / name)
        predicted = _read_labels(folder / 'test' / 'maps' / name)
        images[name] = SegmentedImage(read_picture(path), truth, predicted)
        save_pairs(pictures / name, [images[name]], classes, colours)
    sheet = list(images.values())[:SHEET]
    save_pairs(folder / 'predictions.png', sheet, classes, colours, pairs=2, panel=SMALL_PANEL, dpi=100)


def _read_labels(path: Path) -> np.ndarray:
    """A label map of the generated set, from 0, with 255 for what is unlabelled."""
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return np.where(labels == UNLABELLED, 255, labels - 1)


DEMOS = {
    'mask_rcnn': Demo(
        config='configs/demo_mask_rcnn.py',
        write=write_coco,
        data_options=lambda data: [],
        length=('train_cfg.max_epochs', 'param_scheduler.1.T_max'),
        checkpoint='epoch_{}.pth',
        out='results.json',
        draw=_draw_objects,
        scores={'coco/bbox_mAP': 'box mAP', 'coco/segm_mAP': 'mask mAP'},
        unit=1,
        full=Recipe(images=120, length=12, val_images=32, least=0.70),
        short=Recipe(images=64, length=8, val_images=16, least=0.05),
    ),
    'semantic_fpn': Demo(
        config='configs/demo_semantic_fpn.py',
        write=partial(write_ade20k, size=128),
        data_options=lambda data: ['--classes', str(data / 'classes.txt'), '--reduce-zero-label'],
        length=('train_cfg.max_iters', 'param_scheduler.1.T_max', 'default_hooks.checkpoint.interval'),
        checkpoint='iter_{}.pth',
        out='maps',
        draw=_draw_segments,
        scores={'mIoU': 'mIoU'},
        unit=100,
        full=Recipe(images=480, length=1500, val_images=32, least=0.80),
        short=Recipe(images=64, length=320, val_images=16, least=0.28),
    ),
}
