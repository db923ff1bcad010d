"""The page on a training: how far it is, its settings, data, curves, classes and pictures."""

import datetime
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..checkpoint.resume import RUNS
from ..data.datasets import palette
from ..data.exif import ignores_exif
from ..data.label_check import LabelReport
from ..data.summary import contents_of
from ..page.chart import Line, line_chart
from ..page.class_sections import class_sections
from ..page.data_section import describe_contents, describe_labels
from ..page.html import Child, Html, element, facts, join, page, section
from ..page.image_scores import Extremes
from ..page.pictures import Album
from .early_stop import best_score
from .hooks.curves import LINES, PERCENT, Row, loss_parts, read_scalars, scores_of
from .machine import describe_machine, resident_bytes
from .runner import config_to_test
from .training_settings import settings_of, task_of

RUNNING, STOPPED, FINISHED = 'running', 'stopped early', 'finished'
_SAMPLES = 8  # pictures of the training data
_LAST = 10  # logged steps whose times say how fast the training is
_GB = 2**30


class TrainingReport:
    """The page on a training.

    Args:
        runner: The runner, before it trains.
        options: The options that the user gave, as words of the command.
    """

    def __init__(self, runner: Runner, options: Sequence[str]) -> None:
        cfg = runner.cfg
        self._seconds = 0.0
        self._start = time.time()
        self._command = shlex.join(['crossformer', 'train', str(cfg.filename), *options])
        meta = getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}
        self._classes = tuple(meta.get('classes') or ())
        self._colours = meta.get('palette') or palette(len(self._classes))
        self._machine = describe_machine('cuda' if torch.cuda.is_available() else 'cpu')
        self._settings = join(
            [
                facts([*settings_of(runner), ('options', element('code', shlex.join(options) or 'none'))]),
                element(
                    'details', element('summary', 'The complete config'), element('pre', cfg.pretty_text)
                ),
            ]
        )
        self._data = self._validation = Html()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of the block as the page's."""
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start

    def describe_data(self, runner: Runner, labels: Sequence[LabelReport]) -> None:
        """Describe the data sets, and show some images for training.

        Args:
            runner: The runner.
            labels: What label maps contain.
        """
        parts, samples = [], []
        for split, loop in (('train', runner.train_loop), ('val', runner.val_loop)):
            exif = loop and ignores_exif(runner.cfg.get(f'{split}_dataloader') or {})
            contents = loop and contents_of(loop.dataloader.dataset, _SAMPLES, exif)
            if contents:
                name = {'train': 'Training set', 'val': 'Validation set'}[split]
                parts.append(describe_contents(name, contents, self._classes))
                if split == 'train':
                    album = Album(self._classes, self._colours, exif)
                    samples = [album.sample(info) for info in contents.samples]
        parts += map(describe_labels, labels)
        if samples:
            parts += [
                element('h3', 'Images of the training set'),
                element('div', *samples, class_='pictures small'),
            ]
        self._data = join(parts)

    def keep_validation(self, runner: Runner, extremes: Extremes) -> None:
        """Describe the classes and the best and the worst images of a validation.

        Args:
            runner: The runner.
            extremes: The images.
        """
        album = Album(self._classes, self._colours, ignores_exif(runner.cfg.get('val_dataloader') or {}))
        parts = [class_sections(metric, self._classes) for metric in runner.val_evaluator.metrics]
        pictures = []
        for name, images in (('Worst images', extremes.worst()), ('Best images', extremes.best())):
            if images:
                size = 'pictures small' if isinstance(images[0].truth, int) else 'pictures'
                shown = map(album.compared, images)
                pictures += [element('h3', name), element('div', *shown, class_=size)]
        if pictures:
            note = f'The score of an image is {extremes.meaning()}. {extremes.images:,} images have one.'
            pictures.insert(0, element('p', note, class_='faint'))
        step = _progress(runner)
        self._validation = join(
            [
                section(f'Classes ({step})', *filter(None, parts)),
                section(f'Images of the validation ({step})', *pictures),
            ]
        )

    def page(self, runner: Runner, state: str) -> str:
        """The page.

        Args:
            runner: The runner.
            state: :data:`RUNNING`, :data:`STOPPED`, :data:`FINISHED`, or why the training has stopped.
        """
        train, val = read_scalars(runner.work_dir, runner.message_hub.get_info(RUNS, []))
        name = Path(runner.cfg.filename).stem
        return page(
            f'{name}: {state}',
            element('h1', name),
            *self._head(runner, state, train, val),
            section('Curves', *_curves(train, val)),
            self._validation,
            section('Settings', self._settings),
            section('Data', self._data),
            section('Machine and time', facts(self._machine_facts(runner, train))),
        )

    def _head(self, runner: Runner, state: str, train: list[Row], val: list[Row]) -> Iterable[Html]:
        cfg = runner.cfg
        now = datetime.datetime.now().astimezone().isoformat(timespec='seconds')
        written = element('time', now.replace('T', ' '), datetime=now)
        bad = None if state in (RUNNING, STOPPED, FINISHED) else 'state bad'
        yield element('p', f'{task_of(cfg)} in {cfg.work_dir}; written ', written, class_='faint')
        yield element('p', element('span', state, class_=bad or 'state'), f': {_progress(runner)}')
        cards = [_card('done', f'{runner.iter / runner.max_iters:.0%}')]
        if state == RUNNING and train:
            left = (runner.max_iters - runner.iter) * _mean(train[-_LAST:], 'time')
            cards.append(_card('to go, without validations', _duration(left)))
        if train:
            cards.append(_card('loss', f'{train[-1]["loss"]:.4g}'))
        best = _best(runner, val)
        if best:
            cards.append(_card(f'best {best[0]}', best[1]))
        yield element('div', *cards, class_='cards')
        hub = runner.message_hub.runtime_info
        tested = [hub.get('best_ckpt'), hub.get('last_ckpt')]
        saved = next((path for path in tested if path and Path(path).is_file()), None)
        commands = []
        if saved:
            words = ['crossformer', 'test', str(config_to_test(cfg)), saved]
            commands.append(('evaluate', element('code', shlex.join(words))))
        if state != FINISHED:
            how = f', in {count} processes as before' if (count := get_world_size()) > 1 else ''
            commands.append(('continue', join([element('code', f'{self._command} --resume'), Html(how)])))
        yield facts([('best checkpoint', hub.get('best_ckpt') or ''), *commands])

    def _machine_facts(self, runner: Runner, train: list[Row]) -> Iterable[tuple[str, Child]]:
        machine, last = self._machine, train[-_LAST:]
        total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / _GB
        yield 'CPU', f'{machine["cpu"]}: {machine["cores"]} cores, {machine["threads"]} threads of torch'
        yield 'memory', f'{total:.1f} GB; this process at most {resident_bytes("VmHWM") / _GB:.1f} GB'
        if 'gpu' in machine:
            most = torch.cuda.max_memory_allocated() / _GB
            yield 'GPU', f'{machine["gpu"]}, CUDA {machine["cuda"]}; at most {most:.1f} GB allocated'
        yield 'software', ', '.join(f'{name} {version}' for name, version in machine['versions'].items())
        if last:
            data = (
                f', of which {_mean(last, "data_time"):.3g} s wait for data'
                if 'data_time' in last[-1]
                else ''
            )
            yield 'iteration', f'{_mean(last, "time"):.3g} s{data} (mean of the last {len(last)} in the log)'
        runs = runner.message_hub.get_info(RUNS, [])
        started = datetime.datetime.fromtimestamp(self._start).astimezone().isoformat(' ', 'seconds')
        resumed = [f'{iteration:,}' for _, iteration in runs[1:]]
        yield 'start', started + (f' (resumed at iteration {", ".join(resumed)})' if resumed else '')
        yield 'duration', _duration(time.time() - self._start) + (' since it was resumed' if resumed else '')
        yield 'this page', f'has taken {self._seconds:.1f} s so far'


def _progress(runner: Runner) -> str:
    """How far a training is."""
    text = f'iteration {runner.iter:,} of {runner.max_iters:,}'
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        text = f'epoch {runner.iter * runner.max_epochs // runner.max_iters} of {runner.max_epochs}, {text}'
    return text


def _card(name: str, value: str) -> Html:
    return element('div', element('b', value), name, class_='card')


def _duration(seconds: float) -> str:
    if seconds != seconds:
        return '–'
    minutes = round(seconds / 60)
    if minutes < 2:
        return f'{seconds:.0f} s'
    return f'{minutes} min' if minutes < 120 else f'{minutes // 60} h {minutes % 60:02} min'


def _mean(rows: Sequence[Row], key: str) -> float:
    values = [row[key] for row in rows if key in row]
    return sum(values) / len(values) if values else float('nan')


def _best(runner: Runner, val: list[Row]) -> tuple[str, str] | None:
    """The main score's name with the epoch or iteration of its best value, and this value."""
    checkpoint = (runner.cfg.get('default_hooks') or {}).get('checkpoint') or {}
    chosen, rule = best_score(checkpoint) if checkpoint.get('save_best') else ('auto', 'greater')
    keys = [] if chosen == 'auto' else [chosen]
    keys += [key for key in (val[-1] if val else ()) if scores_of({key: 0.0})]
    for key in keys:
        rows = [row for row in val if row.get(key, float('nan')) == row.get(key)]
        if rows:
            best = (min if rule == 'less' else max)(rows, key=lambda row: row[key])
            unit = 'epoch' if isinstance(runner.train_loop, EpochBasedTrainLoop) else 'iteration'
            score = next(iter(scores_of({key: 0.0})), None)  # its name without a prefix
            name = LINES[score][0] if score else key
            return f'{name}, {unit} {best["step"]}', f'{best[key]:.4g}{" %" if score in PERCENT else ""}'
    return None


def _curves(train: list[Row], val: list[Row]) -> Iterable[Html]:
    charts = []
    if train:
        parts = loss_parts(train[0]) if len(loss_parts(train[0])) > 1 else {}
        lines = [Line(label, _points(train, key), index) for index, (key, label) in enumerate(parts.items())]
        lines.append(Line('sum' if parts else 'loss', _points(train, 'loss'), 7 if parts else 0))
        charts.append(line_chart('Training loss', 'iteration', lines, (0, None)))
    scores = [{'step': row['step'], **scores_of(row)} for row in val]
    lines = [
        Line(label, _points(scores, key), int(style[1]), style[2:] == ':', dots=True)
        for key, (label, style) in LINES.items()
        if any(key in row for row in scores)
    ]
    if train or lines:
        unit = 'epoch' if train and 'epoch' in train[0] else 'iteration'
        charts.append(line_chart('Scores of the validations', unit, lines))
    # lr is that of the first parameters, the lowest.
    rate = 'base_lr' if any('base_lr' in row for row in train) else 'lr'
    for title, key in (('Learning rate', rate), ('Norm of the gradients', 'grad_norm')):
        if any(key in row for row in train):
            charts.append(line_chart(title, 'iteration', [Line('', _points(train, key))], (0, None)))
    if charts:
        yield element('div', *charts, class_='charts')


def _points(rows: Sequence[Row], key: str) -> list[tuple[float, float]]:
    return [(row['step'], row[key]) for row in rows if isinstance(row.get(key), int | float)]
