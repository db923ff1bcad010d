"""The demo: make a small data set, train on it, evaluate, and show in pictures what came out."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError
from .pictures import ResultPictures
from .shapes import write_coco

CONFIG = 'configs/demo_mask_rcnn.py'
SCORES = {'coco/bbox_mAP': 'box mAP', 'coco/segm_mAP': 'mask mAP'}


@dataclass(frozen=True)
class Recipe:
    """How much a demo does, and what it must reach.

    Attributes:
        images: Training images.
        epochs: Passes over them.
        val_images: Images held out, which the scores are about.
        least: The lowest mAP, of boxes and of masks, that counts as success.
    """

    images: int
    epochs: int
    val_images: int
    least: float


FULL = Recipe(images=120, epochs=12, val_images=32, least=0.70)
SHORT = Recipe(images=64, epochs=8, val_images=16, least=0.05)


def run_demo(recipe: Recipe, project: Path, folder: Path) -> dict[str, float]:
    """Run the demo through the command lines that users have.

    Args:
        recipe: How much to do.
        project: The project's root, where ``configs`` and ``tools`` are.
        folder: Where all of it goes: ``data``, the checkpoint and the log, ``curves.png``,
            ``predictions.png`` and a picture an image in ``predictions``. What was there goes.

    Returns:
        Box and mask mAP on the validation images, by name.

    Raises:
        UserError: A command failed, or a score is below ``recipe.least``.
    """
    if folder.exists():
        shutil.rmtree(folder)
    data = folder / 'data'
    print(f'Drawing {recipe.images} + {recipe.val_images} images into {data}', flush=True)
    write_coco(data, recipe.images, recipe.val_images)
    shared = (CONFIG, '--data-root', data)
    _call(project, 'train', *shared, '--work-dir', folder, '--cfg-options', *_schedule(recipe))
    checkpoint = folder / f'epoch_{recipe.epochs}.pth'
    test = folder / 'test'
    _call(project, 'test', *shared, checkpoint, '--work-dir', test, '--out', test / 'results.json')
    pictures = ResultPictures(
        data / 'annotations' / 'instances_val2017.json',
        test / 'results.segm.json',
        data / 'val2017',
    )
    pictures.save_sheet(folder / 'predictions.png')
    pictures.save_each(folder / 'predictions')
    scores = read_scores(test)
    _report(folder, checkpoint, scores)
    missed = [name for name, score in scores.items() if score < recipe.least]
    if missed:
        names = ' and '.join(missed)
        raise UserError(f'{names} below {recipe.least:.2f}; {folder}/curves.png shows how it went')
    return scores


def read_scores(work_dir: Path) -> dict[str, float]:
    """Read box and mask mAP from what ``tools/test.py`` logged last in its work folder."""
    log = max(work_dir.glob('*/*.json'))  # mmengine names both after the time
    logged = json.loads(log.read_text(encoding='utf-8'))
    return {name: logged[key] for key, name in SCORES.items()}


def _schedule(recipe: Recipe) -> list[str]:
    """The recipe's length as settings of the demo's config."""
    epochs = recipe.epochs
    return [f'train_cfg.max_epochs={epochs}', f'param_scheduler.1.T_max={epochs}']


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
