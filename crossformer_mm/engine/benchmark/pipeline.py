"""The input pipeline: how many images a second worker processes load, and whether steps wait for them."""

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from ...data.classes import read_classes, set_classes
from ...data.options import DataOptions, set_data_paths
from ...data.shapes import write_coco
from ...utils.errors import UserError
from ...utils.progress import progress_bar
from .subjects import read_config

HEIGHT, WIDTH = 480, 640  # COCO's most frequent size
SCENES = 20  # drawn; the others are copies, which cost as much to read
STEP_SLOWER = 1.25  # a step's time over a batch's: the loader is quicker, so that no step should wait


def write_images(root: Path, count: int) -> None:
    """Write a data set in COCO's layout with images of COCO's size.

    Args:
        root: The folder, made where missing.
        count: Training images.
    """
    write_coco(root, train=min(SCENES, count), val=1, size=HEIGHT)
    path = root / 'annotations' / 'instances_train2017.json'
    drawn = json.loads(path.read_text(encoding='utf-8'))
    files = {image['id']: _widened(root / 'train2017' / image['file_name']) for image in drawn['images']}
    images, annotations = [], []
    for i in range(count):
        scene = drawn['images'][i % len(files)]
        image = {'id': i + 1, 'file_name': f'{i + 1:012}.jpg', 'height': HEIGHT, 'width': WIDTH}
        (root / 'train2017' / image['file_name']).write_bytes(files[scene['id']])
        images.append(image)
        for record in drawn['annotations']:
            if record['image_id'] == scene['id']:
                annotations.append({**record, 'id': len(annotations) + 1, 'image_id': image['id']})
    content = {**drawn, 'images': images, 'annotations': annotations}
    path.write_text(json.dumps(content), encoding='utf-8')


def _widened(path: Path) -> bytes:
    """A square image mirrored at its right edge to the full width, as JPEG."""
    image = cv2.imread(str(path))
    wide = cv2.copyMakeBorder(image, 0, 0, 0, WIDTH - image.shape[1], cv2.BORDER_REFLECT)
    return cv2.imencode('.jpg', wide)[1].tobytes()


def measure_pipeline(names: Sequence[str], workers: Sequence[int], images: int) -> list[dict[str, Any]]:
    """Measure the training pipelines of configs on generated images.

    Args:
        names: The configs, of COCO-format data.
        workers: Numbers of worker processes to try; 0 loads in the training process.
        images: How many images to load at each.

    Returns:
        A record a config, as plain data: ``config``, ``batch``, and by number of ``workers`` the
        ``images_per_second`` and, for a training whose steps take a quarter longer than loading does,
        ``step_seconds`` and ``seconds``, the time of each step with what it waited.

    Raises:
        UserError: A config does not work, or reads no COCO-format data.
    """
    records = []
    with tempfile.TemporaryDirectory() as folder, progress_bar() as bar:
        write_images(Path(folder), images)
        task = bar.add_task('loading', total=len(names) * len(workers))
        for name in names:
            cfg = _config(name, folder)
            record: dict[str, Any] = {'config': Path(name).stem, 'workers': {}}
            for count in workers:
                record['workers'][str(count)] = measure_loader(cfg, count)
                bar.advance(task)
            records.append({**record, 'batch': cfg.train_dataloader.batch_size})
    return records


def _config(name: str, data_root: str) -> Config:
    cfg = read_config(name)
    if not cfg.get('train_dataloader') or not cfg.get('model'):
        raise UserError(
            f'{name}: has no training data to load; give a config such as "crossformer configs" lists'
        )
    set_data_paths(cfg, DataOptions(data_root=data_root))
    set_classes(cfg, read_classes(cfg, ['train_dataloader']))
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    return cfg


def measure_loader(cfg: Config, workers: int) -> dict[str, Any]:
    """Measure one config's training loader with a number of worker processes.

    Args:
        cfg: The config, with data that are there.
        workers: The processes.

    Returns:
        What :func:`measure_pipeline` describes.
    """
    settings = cfg.train_dataloader
    settings.update(num_workers=workers, persistent_workers=False, sampler=dict(type='DefaultSampler'))
    with contextlib.redirect_stdout(sys.stderr):  # pycocotools tells that it reads annotations
        loader = Runner.build_dataloader(settings, seed=0)
    start = time.perf_counter()
    loaded = sum(len(data['inputs']) for data in loader)
    rate = loaded / (time.perf_counter() - start)
    pause = STEP_SLOWER * settings.batch_size / rate
    seconds = step_times(loader, pause)
    # At the first step of each worker nothing is ready yet.
    return {'images_per_second': rate, 'step_seconds': pause, 'seconds': seconds[workers + 1 :]}


def step_times(batches: Iterable[Any], pause: float) -> list[float]:
    """The time of steps that wait for a batch and then take ``pause`` seconds, without using a CPU."""
    times = []
    start = time.perf_counter()
    for _ in batches:
        time.sleep(pause)
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
    return times


def stall_ratio(seconds: Sequence[float]) -> float:
    """How much longer the slow steps take: the 95th percentile over the median. 1 is an even pace."""
    median, slow = np.percentile(seconds, [50, 95])
    return float(slow / median)
