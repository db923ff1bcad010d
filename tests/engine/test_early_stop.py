"""A training that stops early does so at the same validation, however often it was interrupted before."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.runner import Runner
from small_runs import Noisy, StopHook, Stopped, assert_same_state, small_run
from torch.utils.data import DataLoader

from crossformer_mm.engine.backends import finished_iterations
from crossformer_mm.engine.early_stop import set_early_stop
from crossformer_mm.engine.train import make_resumable
from crossformer_mm.utils.errors import UserError

# Scores of the validations, each after four iterations. With a patience of 3, the fifth is the last one.
SCORES = {4: 0.1, 8: 0.3, 12: 0.2, 16: 0.3, 20: 0.25, 24: 0.2, 28: 0.5, 32: 0.1}
LAST = 20
LAST_NAME = {'Epoch': 'epoch_5.pth', 'Iter': 'iter_20.pth'}
BEST_NAME = {'Epoch': 'best_coco_bbox_mAP_epoch_2.pth', 'Iter': 'best_coco_bbox_mAP_iter_8.pth'}


class Scripted(BaseMetric):
    """A score that depends on the iteration of a run; one validation may be killed."""

    default_prefix = 'coco'

    def __init__(self, killed: int | None) -> None:
        super().__init__()
        self.killed = killed
        self.seen: list[int] = []

    def process(self, data_batch: Any, data_samples: Sequence) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict[str, float]:
        if self.run.iter == self.killed:
            raise Stopped
        assert finished_iterations() == self.run.iter, 'where services see the scores'
        self.seen.append(self.run.iter)
        return {'bbox_mAP': SCORES[self.run.iter]}


def validated_run(
    folder: Path,
    kind: str,
    patience: int = 3,
    killed: int | None = None,
    checkpoint: dict | None = None,
    **more: Any,
) -> tuple[Runner, Scripted]:
    """A training of at most 32 iterations with 8 validations, and its metric."""
    metric = Scripted(killed)
    unit = {'Epoch': {'max_epochs': 8, 'val_interval': 1}, 'Iter': {'max_iters': 32, 'val_interval': 4}}[kind]
    stop = {'type': 'EarlyStopHook', 'patience': patience}
    data = Noisy()
    run = small_run(
        folder,
        kind,
        loop=unit,
        val_dataloader=DataLoader(data, sampler=DefaultSampler(data, shuffle=False)),
        val_cfg={'type': 'ValLoop'},
        val_evaluator=Evaluator([metric]),
        custom_hooks=[stop, *more.pop('hooks', ())],
        checkpoint={
            'by_epoch': kind == 'Epoch',
            'save_best': 'coco/bbox_mAP',
            'rule': 'greater',
            **(checkpoint or {}),
        },
        **more,
    )
    metric.run = run
    return run, metric


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of uninterrupted runs by epochs and iterations."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ('Epoch', 'Iter')}
    for kind, folder in folders.items():
        run, metric = validated_run(folder, kind)
        run.train()
        assert (run.iter, metric.seen) == (LAST, [4, 8, 12, 16, 20])
    return folders


@pytest.mark.parametrize(
    ('kind', 'killed', 'stop'),
    [('Epoch', 12, None), ('Epoch', 20, None), ('Epoch', None, 18), ('Iter', 12, None), ('Iter', None, 15)],
)
def test_resumed_training_stops_at_the_same_validation(
    whole: dict[str, Path], tmp_path: Path, kind: str, killed: int | None, stop: int | None
) -> None:
    """Killed in a validation, which a checkpoint precedes, or before an iteration."""
    first, _ = validated_run(tmp_path, kind, killed=killed, hooks=[StopHook(stop)] if stop else [])
    with pytest.raises(Stopped):
        first.train()
    run, metric = validated_run(tmp_path, kind, resume=True)
    run.train()
    assert run.iter == LAST
    assert metric.seen[0] > 4  # it did not begin again
    assert_same_state(whole[kind], tmp_path, LAST_NAME[kind])
    for folder in (whole[kind], tmp_path):
        assert [path.name for path in folder.glob('best*')] == [BEST_NAME[kind]]


@pytest.mark.parametrize('kind', ['Epoch', 'Iter'])
def test_resume_of_a_training_that_has_stopped(tmp_path: Path, kind: str) -> None:
    """With the same patience it validates once more and stops; with more patience it goes on."""
    validated_run(tmp_path, kind)[0].train()
    resumed = {'resume': True, 'load_from': str(tmp_path / LAST_NAME[kind])}
    run, metric = validated_run(tmp_path, kind, **resumed)
    run.train()
    assert (run.iter, metric.seen) == (LAST, [LAST])
    run, metric = validated_run(tmp_path, kind, patience=5, **resumed)
    run.train()
    assert (run.iter, metric.seen) == (32, [20, 24, 28, 32])


def test_what_the_log_says(tmp_path: Path) -> None:
    run, _ = validated_run(tmp_path, 'Epoch')
    lines = []
    run.logger.info = lines.append
    run.train()
    assert (
        'stopped after the validation at epoch 5: 3 in a row without a better coco/bbox_mAP than 0.3000 at'
        ' epoch 2; to train on, resume with a greater --early-stop, or without it'
    ) in lines


@pytest.mark.parametrize('kind', ['Epoch', 'Iter'])
def test_the_last_checkpoint_is_written_at_the_stop(tmp_path: Path, kind: str) -> None:
    folders = {interval: tmp_path / str(interval) for interval in (1, 100)}
    for interval, folder in folders.items():
        validated_run(folder, kind, checkpoint={'interval': interval, 'save_best': None})[0].train()
    assert [path.name for path in folders[100].glob('*.pth')] == [LAST_NAME[kind]]
    assert (folders[100] / 'last_checkpoint').read_text().endswith(LAST_NAME[kind])
    assert_same_state(folders[1], folders[100], LAST_NAME[kind])
    run, _ = validated_run(folders[100], kind, patience=4, resume=True)
    run.train()
    assert run.iter == LAST + 4  # the validation before the resume was not counted twice


def test_scores_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN, and the -1 of pycocotools for an average over nothing, are no scores."""
    for score in (float('nan'), -1):
        monkeypatch.setattr('test_early_stop.SCORES', dict.fromkeys(SCORES, score))
        run, metric = validated_run(tmp_path / str(score), 'Epoch')
        run.train()
        assert metric.seen == [4, 8, 12]


def test_an_unknown_score(tmp_path: Path) -> None:
    run, _ = validated_run(tmp_path, 'Epoch', checkpoint={'save_best': 'mIoU'})
    with pytest.raises(
        UserError, match='save_best=mIoU: the validation has no such score, only coco/bbox_mAP'
    ):
        run.train()
    run, _ = validated_run(tmp_path / 'no_best', 'Epoch', checkpoint={'save_best': None})
    monitor = next(hook for hook in run.hooks if type(hook).__name__ == 'EarlyStopHook')
    monitor.score = 'loss'
    with pytest.raises(UserError, match='--early-stop: the validation has no score loss, only coco/bbox_mAP'):
        run.train()


@pytest.fixture
def resumable(config: Callable[[str], Config]) -> Callable[[str], Config]:
    """A function from a config's name to the config as a training has it."""

    def load(name: str = 'mask_rcnn_crossformer_s') -> Config:
        cfg = config(name)
        make_resumable(cfg)
        return cfg

    return load


def test_the_score_is_the_one_of_the_best_checkpoint(resumable: Callable[[str], Config]) -> None:
    found = []
    for name in ('mask2former_crossformer_s_coco', 'fpn_crossformer_s', 'demo_mask_rcnn'):
        cfg = resumable(name)
        set_early_stop(cfg, 4)
        found.append({**cfg.custom_hooks[-1]})
    hook = {'type': 'EarlyStopHook', 'patience': 4}
    assert found == [
        {**hook, 'score': 'coco/segm_mAP', 'rule': 'greater'},
        {**hook, 'score': 'mIoU', 'rule': 'greater'},
        hook,
    ]


@pytest.mark.parametrize(
    ('checkpoint', 'decided'),
    [
        ({'save_best': ['coco/bbox_mAP', 'val_loss']}, ('coco/bbox_mAP', 'greater')),
        ({'save_best': ['val_loss', 'coco/bbox_mAP']}, ('val_loss', 'less')),
        ({'save_best': 'error', 'less_keys': ['error']}, ('error', 'less')),
        ({'save_best': 'gloss', 'greater_keys': ['gloss']}, ('gloss', 'greater')),
        ({'save_best': ['a', 'b'], 'rule': ['less', 'greater']}, ('a', 'less')),
        ({'save_best': 'auto'}, ('auto', 'greater')),
    ],
)
def test_the_rule_is_the_one_of_the_best_checkpoint(
    resumable: Callable[[], Config], checkpoint: dict[str, Any], decided: tuple[str, str]
) -> None:
    cfg = resumable()
    cfg.default_hooks.checkpoint = {'type': 'AtomicCheckpointHook', **checkpoint}
    set_early_stop(cfg, 4)
    assert (cfg.custom_hooks[-1].score, cfg.custom_hooks[-1].rule) == decided


def test_refused(resumable: Callable[[], Config]) -> None:
    cfg = resumable()
    for number in (0, -3):
        with pytest.raises(UserError, match=f'--early-stop {number}: must be at least 1'):
            set_early_stop(cfg, number)
    set_early_stop(cfg, 2)
    with pytest.raises(UserError, match='the config stops early already'):
        set_early_stop(cfg, 2)
    cfg = resumable()
    cfg.val_dataloader = None
    with pytest.raises(UserError, match='--early-stop 2: needs a validation set; leave out --no-val'):
        set_early_stop(cfg, 2)
    cfg = resumable()
    cfg.default_hooks.checkpoint.update(save_best='error', rule=None)
    with pytest.raises(UserError, match='save_best=error with rule=None does not say'):
        set_early_stop(cfg, 2)
    cfg = resumable()
    cfg.train_cfg.type = 'Own'
    with pytest.raises(UserError, match='its own training loop, Own'):
        set_early_stop(cfg, 2)
