"""Every config of a head of the toolboxes builds with Swin's recipe, trains a step and predicts."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmseg
import pytest
import torch
from conftest import CONFIGS, groups_of
from detection_batch import batch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import METRICS, MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from crossformer_mm.checkpoint import load_model
from crossformer_mm.checkpoint.names import model_kind
from crossformer_mm.data.datasets import dicts_in, set_num_classes, trains_masks
from crossformer_mm.engine.inferencer import open_inferencer
from crossformer_mm.engine.test import evaluate, evaluation_parser
from crossformer_mm.engine.train import train, training_parser

DINO = [f'dino_crossformer_{arch}' for arch in 'sbl']
INSTANCES = [f'mask2former_crossformer_{arch}_coco' for arch in 'sbl']
SEMANTIC = [f'mask2former_crossformer_{arch}_ade20k' for arch in 'sbl']
DEFORMABLE, RTMDET, SEGFORMER = (
    f'{kind}_crossformer_s' for kind in ('deformable_detr', 'rtmdet_ins', 'segformer')
)
DETECTORS = [DINO[0], DEFORMABLE, INSTANCES[0], RTMDET]
SEGMENTORS = [SEMANTIC[0], SEGFORMER]
MILLIONS = {
    **dict(zip(DINO, (50.69, 72.00, 112.45), strict=True)),
    **dict(zip(INSTANCES, (49.79, 71.10, 110.97), strict=True)),
    **dict(zip(SEMANTIC, (49.81, 71.12, 110.99), strict=True)),
    DEFORMABLE: 42.98,
    RTMDET: 51.52,
    SEGFORMER: 30.56,
}
WIDTHS = {'s': [96, 192, 384, 768], 'b': [96, 192, 384, 768], 'l': [128, 256, 512, 1024]}
TOOLBOX = Path(mmseg.__file__).parent / '.mim' / 'configs'
STANDARD = ([7, 7, 7, 7], [8, 4, 2, 1], 'map')


def build(cfg: Config) -> nn.Module:
    init_default_scope(cfg.default_scope)
    return revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))  # DINO changes it


def test_the_folder_holds_what_is_tested() -> None:
    others = re.compile('(mask_rcnn|cascade_mask_rcnn|retinanet|fpn|upernet|crossformer|demo)_')
    assert {path.stem for path in CONFIGS.glob('*.py') if not others.match(path.stem)} == set(MILLIONS)


@pytest.mark.parametrize('name', MILLIONS)
def test_file_opens_with_what_it_trains_and_the_command(name: str) -> None:
    text = (CONFIGS / f'{name}.py').read_text()
    assert ' Not trained here. ' in text
    assert f'\n    crossformer train {name} --pretrained FILE\n"""' in text


@pytest.mark.parametrize('name', MILLIONS)
def test_full_size_model(name: str, config: Callable[[str], Config]) -> None:
    cfg = config(name)
    arch = cfg.model.backbone.arch
    with torch.device('meta'):
        model = build(cfg)
    part = next(part for part in ('neck', 'panoptic_head', 'decode_head') if part in cfg.model)
    used = WIDTHS[arch][1:] if part == 'neck' else WIDTHS[arch]
    assert f'_crossformer_{arch}' in name
    assert cfg.model[part].in_channels == list(model.backbone.out_channels) == used
    assert groups_of(cfg) == STANDARD
    if 'mask2former' in name:
        deepest = max(len(stage.blocks) for stage in model.backbone.layers)
        assert f'blocks.{deepest - 1}.norm' in cfg.optim_wrapper.paramwise_cfg.custom_keys
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters / 1e6 == pytest.approx(MILLIONS[name], abs=0.006)


@pytest.mark.parametrize('name', [*DETECTORS, *SEGMENTORS])
def test_rates_and_decays_of_swin(
    name: str, narrow_config: Callable[[str], Config], narrow_segmentor: Callable[[str], Config]
) -> None:
    """The rates are relative to the config's; the backbone is one with cooling layers."""
    cfg = (narrow_segmentor if name in SEGMENTORS else narrow_config)(name)
    cfg.model.backbone.arch.acl = True
    model = build(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group['params']}
    rate, decay = (cfg.optim_wrapper.optimizer[key] for key in ('lr', 'weight_decay'))
    slow = 1.0 if name in (RTMDET, SEGFORMER) else 0.1
    no_decay = {DINO[0]: '$^', DEFORMABLE: '$^', RTMDET: r'norm|ex_ln|attn\.pos\.|bias$'}
    for parameter_name, parameter in model.backbone.named_parameters():
        group = groups[id(parameter)]
        assert group['lr'] == pytest.approx(slow * rate), parameter_name
        plain = bool(re.search(no_decay.get(name, r'norm|ex_ln|attn\.pos\.'), parameter_name))
        assert group['weight_decay'] == (0.0 if plain else decay), parameter_name
    assert max(group['lr'] for group in groups.values()) == pytest.approx(
        rate * (10 if name == SEGFORMER else 1)
    )


@pytest.mark.parametrize(
    ('name', 'theirs'),
    [
        (SEMANTIC[0], 'mask2former/mask2former_swin-t_8xb2-160k_ade20k-512x512.py'),
        (SEMANTIC[2], 'mask2former/mask2former_swin-b-in1k-384x384-pre_8xb2-160k_ade20k-640x640.py'),
        (SEGFORMER, 'segformer/segformer_mit-b2_8xb2-160k_ade20k-512x512.py'),
    ],
)
def test_heads_and_recipes_are_those_of_mmsegmentation(
    name: str, theirs: str, config: Callable[[str], Config]
) -> None:
    """They are written here because MMSegmentation's configs cannot be inherited in both families."""
    ours, theirs = config(name), Config.fromfile(TOOLBOX / theirs)
    theirs.model.decode_head.in_channels = ours.model.decode_head.in_channels
    assert recipe(ours) == recipe(theirs)
    settings = [cfg.optim_wrapper.paramwise_cfg.custom_keys for cfg in (ours, theirs)]
    if name != SEGFORMER:
        queries = [
            {key: keys[key].decay_mult for key in keys if re.search('quer|level', key)} for keys in settings
        ]
        assert queries[0] == queries[1] == dict.fromkeys(('query_embed', 'query_feat', 'level_embed'), 0.0)


def recipe(cfg: Config) -> dict[str, Any]:
    """What decides a training but the backbone and the settings of single parameters."""
    init_default_scope('mmseg')
    head = MODELS.build(cfg.model.decode_head)
    losses = [part for key, part in head.named_children() if key.startswith('loss')]
    return {
        'head': str(head),
        'losses': [{key: value for key, value in vars(loss).items() if key[0] != '_'} for loss in losses],
        'train_cfg': cfg.model.decode_head.get('train_cfg'),
        'preprocessor': {**cfg.model.data_preprocessor, 'test_cfg': None},
        'optimizer': {'eps': 1e-8, 'betas': (0.9, 0.999), **cfg.optim_wrapper.optimizer},
        'clip_grad': cfg.optim_wrapper.get('clip_grad'),
        'schedule': [dict(scheduler) for scheduler in cfg.param_scheduler],
        'iterations': cfg.train_cfg.max_iters,
        'batch': cfg.train_dataloader.batch_size,
        'pipelines': [
            [{key: value for key, value in step.items() if key != 'reduce_zero_label'} for step in steps]
            for steps in (cfg.train_dataloader.dataset.pipeline, cfg.test_dataloader.dataset.pipeline)
        ],
    }


@pytest.mark.parametrize('name', [*DETECTORS, *SEGMENTORS])
def test_heads_adapt_to_the_classes(
    name: str,
    narrow_config: Callable[[str], Config],
    narrow_segmentor: Callable[[str], Config],
    tmp_path: Path,
) -> None:
    """A trained model of other classes gives all its other weights, and the loss knows the new classes."""
    cfg = (narrow_segmentor if name in SEGMENTORS else narrow_config)(name)
    source = build(cfg).state_dict()
    assert model_kind(source) == ('segmentor' if name in SEGMENTORS else 'detector')
    torch.save({'state_dict': source}, tmp_path / 'other.pth')
    set_num_classes(cfg.model, 4)
    model = build(cfg)
    load_model(model, tmp_path / 'other.pth', other_classes=True)
    anew = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, source[key])}
    assert anew and all(re.search('cls|conv_seg|label_embedding', key) for key in anew)
    data = labelled((64, 64)) if name in SEGMENTORS else batch((2, 0))
    if name in SEGMENTORS:
        assert model.decode_head.num_classes == 4
    check_gradients(model, data)


def test_things_are_the_classes_of_a_checkpoint_without_names(
    narrow_config: Callable[[str], Config], tmp_path: Path
) -> None:
    cfg = narrow_config(INSTANCES[0])
    cfg.dump(tmp_path / 'mine.py')
    torch.save({'state_dict': build(cfg).state_dict()}, tmp_path / 'mine.pth')
    inferencer = open_inferencer(tmp_path / 'mine.py', tmp_path / 'mine.pth', 'cpu')
    assert inferencer.model.panoptic_head.num_things_classes == 80
    assert inferencer.model.dataset_meta['classes'][:2] == ('person', 'bicycle')


@pytest.mark.parametrize('name', [*DETECTORS, *SEGMENTORS])
def test_evaluators(name: str, config: Callable[[str], Config]) -> None:
    cfg = config(name)
    init_default_scope(cfg.default_scope)
    kind = 'SegmentationReport' if name in SEGMENTORS else 'CocoReport'
    assert METRICS.build(cfg.test_evaluator).classwise
    assert cfg.val_evaluator.type == cfg.test_evaluator.type == kind
    assert trains_masks(cfg) == (name in (INSTANCES[0], RTMDET, SEMANTIC[0]))


@pytest.mark.parametrize('name', DETECTORS)
def test_detector_learns_and_predicts(name: str, narrow_config: Callable[[str], Config]) -> None:
    torch.manual_seed(0)
    model = build(narrow_config(name))
    check_gradients(model, batch((2, 0)))
    with torch.no_grad():
        results = model.eval().test_step(batch((1, 0)))
    assert len(results) == 2
    for result in results:
        found = result.pred_instances
        assert found.bboxes.shape == (len(found), 4)
        assert torch.isfinite(found.bboxes).all()
        if name in (INSTANCES[0], RTMDET):
            assert found.masks.shape == (len(found), 64, 80)
        if name != RTMDET:  # which omits low scores
            assert len(found) == 20


@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentor_learns_and_predicts(name: str, narrow_segmentor: Callable[[str], Config]) -> None:
    torch.manual_seed(0)
    model = build(narrow_segmentor(name))
    check_gradients(model, labelled((64, 64), (47, 61)))
    with torch.no_grad():
        (result,) = model.eval().test_step(labelled((45, 71)))
    assert result.pred_sem_seg.data.shape == (1, 89, 141)


def check_gradients(model: nn.Module, data: dict) -> None:
    """Train a step, and check that the loss depends on every parameter."""
    data = model.train().data_preprocessor(data, training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def labelled(*sizes: tuple[int, int]) -> dict:
    """Images of these heights and widths, in the format of MMSegmentation's pipelines."""
    samples = []
    for height, width in sizes:
        labels = torch.arange(width).expand(1, height, width) // 16
        meta = {'img_shape': (height, width), 'ori_shape': (2 * height - 1, 2 * width - 1)}
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=meta))
    images = [torch.randint(0, 255, (3, *size), dtype=torch.uint8) for size in sizes]
    return {'inputs': images, 'data_samples': samples}


@pytest.mark.slow
@pytest.mark.parametrize('name', DETECTORS)
def test_training_and_evaluation_with_the_own_pipeline(
    name: str, narrow_config: Callable[[str], Config], coco_root: Path, tmp_path: Path
) -> None:
    """On images an eighth as large; RTMDet's pipeline changes after the first of two epochs."""
    cfg = narrow_config(name)
    for _, step in dicts_in([cfg.train_dataloader, cfg.test_dataloader, cfg.custom_hooks]):
        if step.get('type') != 'Resize':  # which is narrow already
            for key in {'scale', 'scales', 'crop_size', 'size', 'img_scale'} & step.keys():
                step[key] = smaller(step[key])
        if 'switch_epoch' in step:
            step.switch_epoch = 1
    cfg.train_dataloader.batch_size = 2
    length = (
        {'max_iters': 6, 'val_interval': 6} if name == INSTANCES[0] else {'max_epochs': 2, 'val_interval': 2}
    )
    cfg.train_cfg.update(**length, dynamic_intervals=None)
    cfg.dump(tmp_path / 'mine.py')
    config, work_dir = str(tmp_path / 'mine.py'), str(tmp_path / 'run')
    data = ['--work-dir', work_dir, '--data-root', str(coco_root)]
    train(training_parser().parse_args([config, *data]))
    (last,) = (tmp_path / 'run').glob('best*.pth')
    scores = evaluate(evaluation_parser().parse_args([config, str(last), *data]))
    kinds = {'bbox', 'segm'} if name in (INSTANCES[0], RTMDET) else {'bbox'}
    assert {f'coco/{kind}_mAP/circle' for kind in kinds} <= set(scores)


def smaller(size: Any) -> Any:
    """A size or a list of sizes in pixels, an eighth as large."""
    return max(size // 8, 1) if isinstance(size, int) else type(size)(map(smaller, size))
