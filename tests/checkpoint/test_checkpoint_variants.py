"""Checkpoints as people have them: under any key, with any prefix, next to anything."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import prefixed
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from crossformer_mm import CrossFormer
from crossformer_mm.checkpoint import load_backbone, load_model, open_checkpoint, read_checkpoint
from crossformer_mm.checkpoint.convert import convert_checkpoint, plan_conversion
from crossformer_mm.checkpoint.meta import dataset_meta_of
from crossformer_mm.utils.errors import UserError

TINY = {'embed_dims': 16, 'depths': (1, 1, 1, 1), 'num_heads': (1, 1, 1, 1)}


class Segmentor(nn.Module):
    """A CrossFormer with one layer as its head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = CrossFormer(TINY)
        self.decode_head = nn.Conv2d(16, 3, 1)


MODEL = Segmentor()
STATE = MODEL.state_dict()
BACKBONE = MODEL.backbone.state_dict()
TARGET = Segmentor()
ZEROS = {name: torch.zeros_like(tensor) for name, tensor in STATE.items()}


def renamed(*parts: str) -> dict[str, Tensor]:
    """The tensors with a prefix of several parts."""
    return prefixed(STATE, ''.join(f'{part}.' for part in parts))


VARIANTS: dict[str, Callable[[], Mapping[str, Any]]] = {
    'bare': lambda: STATE,
    'compiled': lambda: renamed('_orig_mod'),
    'compiled backbone': lambda: {n.replace('backbone.', 'backbone._orig_mod.'): t for n, t in STATE.items()},
    'compiled, distributed': lambda: {'model': renamed('module', '_orig_mod')},
    'distributed, compiled': lambda: {'model': renamed('_orig_mod', 'module')},
    'averaged, distributed': lambda: {
        'model': {**renamed('module', 'module'), 'n_averaged': torch.tensor(3)}
    },
    'sharded': lambda: renamed('_fsdp_wrapped_module'),
    'lightning': lambda: {
        'state_dict': renamed('model') | {'criterion.weight': torch.ones(3)},
        'pytorch-lightning_version': '2.1',
        'hyper_parameters': {'lr': 1e-4},
        'callbacks': {},
    },
    'lightning, compiled': lambda: {'state_dict': renamed('model', '_orig_mod')},
    'lightning, distributed': lambda: {'state_dict': renamed('model', 'module')},
    'other prefixes': lambda: renamed('net', 'segmentor'),
    'lightning with an average': lambda: {
        'state_dict': renamed('model') | prefixed(ZEROS, 'ema_model.module.')
    },
    **{
        key: lambda key=key: {key: STATE, 'epoch': 3, 'rng_state': torch.get_rng_state()}
        for key in (
            *('model_state_dict', 'net', 'weights', 'params'),
            *('model_ema', 'ema_state_dict', 'teacher'),
        )
    },
    **{
        f'{plain} before {average}': lambda plain=plain, average=average: {average: ZEROS, plain: STATE}
        for plain, average in [
            ('model', 'model_ema'),
            ('state_dict', 'ema_state_dict'),
            ('student', 'teacher'),
        ]
    },
    'nested': lambda: {'checkpoint': {'model': {'module': STATE}}, 'meta': {'classes': 3}},
    'with its optimizer': lambda: {
        'model': STATE,
        'gradients': ZEROS,
        'optimizer': {'backbone.patch_embed.projs.0.weight': torch.ones(2)},
    },
    'other entries among tensors': lambda: {
        'model': {'n_averaged': 3, 'epoch': None, 5: 'five', (1, 2): [], **STATE, 'name': 'a'}
    },
    'bare with other entries': lambda: {**STATE, 'epoch': 3, 'EMA': ZEROS, 'meta': None, 7: torch.ones(1)},
    'parameters': lambda: dict(MODEL.named_parameters()) | dict(MODEL.named_buffers()),
    'tied': lambda: {'model': STATE | {'backbone.layers.0.blocks.0.norm2.bias': STATE[TIED]}},
}
TIED = 'backbone.layers.0.blocks.0.norm1.bias'  # zeros, as is the other one


def assert_loaded(model: nn.Module) -> None:
    """Check that a model, wrapped or not, has the tensors of MODEL."""
    for (name, tensor), expected in zip(model.named_parameters(), MODEL.parameters(), strict=True):
        assert torch.equal(tensor, expected), name


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_variant_is_read_converted_and_loaded(tmp_path: Path, variant: str) -> None:
    path = tmp_path / 'a.pth'
    torch.save(VARIANTS[variant](), path)
    checkpoint = open_checkpoint(path)
    TARGET.load_state_dict(ZEROS)
    load_model(TARGET, checkpoint)
    assert_loaded(TARGET)
    TARGET.backbone.load_state_dict({name: torch.zeros_like(t) for name, t in BACKBONE.items()})
    load_backbone(TARGET.backbone, checkpoint)
    assert_loaded(TARGET)
    conversion = plan_conversion(checkpoint)
    assert conversion.to == 'segmentor' and conversion.state.keys() == STATE.keys()
    assert all(torch.equal(conversion.state[name], tensor) for name, tensor in STATE.items())


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_converted_variants_are_written(tmp_path: Path, suffix: str) -> None:
    torch.save(VARIANTS['tied'](), tmp_path / 'a.pth')
    convert_checkpoint(tmp_path / 'a.pth', tmp_path / f'b{suffix}')
    read = read_checkpoint(tmp_path / f'b{suffix}')['state_dict']
    assert all(torch.equal(read[name], tensor) for name, tensor in STATE.items())
    if suffix == '.safetensors':
        save_file(prefixed(read, 'model.'), tmp_path / 'c.safetensors')
        load_model(Segmentor(), tmp_path / 'c.safetensors')


def test_the_report_says_what_is_not_taken() -> None:
    file = {'model': STATE | {'n_averaged': 3}, 'model_ema': ZEROS, 'epoch': 3}
    dropped = [line for line in plan_conversion(file).report if line.startswith('dropped')]
    assert dropped == [
        'dropped   1, other weights than those in model: model_ema',
        'dropped   2, not needed to load weights: epoch, n_averaged',
    ]


def test_several_models_are_named() -> None:
    with pytest.raises(UserError, match=r'several models, left\., right\.; choose one by prefix'):
        plan_conversion(prefixed(STATE, 'left.') | prefixed(STATE, 'right.'))
    with pytest.raises(UserError, match='two tensors of one name'):
        plan_conversion(STATE | renamed('module'))


@pytest.mark.parametrize(
    'wrap',
    [
        nn.DataParallel,
        AveragedModel,
        pytest.param(torch.compile, marks=pytest.mark.slow),
        pytest.param(lambda model: torch.compile(AveragedModel(model)), marks=pytest.mark.slow),
    ],
)
def test_wrapped_models_are_loaded_and_their_files_read(
    tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]
) -> None:
    torch.save(wrap(MODEL).state_dict(), tmp_path / 'a.pth')
    model, backbone = wrap(Segmentor()), wrap(CrossFormer(TINY))
    load_model(model, tmp_path / 'a.pth')
    assert_loaded(model)
    load_backbone(backbone, tmp_path / 'a.pth')
    assert torch.equal(next(backbone.parameters()), next(MODEL.parameters()))


@pytest.mark.slow
def test_a_model_with_a_compiled_backbone_is_loaded(tmp_path: Path) -> None:
    model = Segmentor()
    model.backbone = torch.compile(model.backbone)
    torch.save({'state_dict': STATE}, tmp_path / 'a.pth')
    load_model(model, tmp_path / 'a.pth')
    assert_loaded(model)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'a.pth')
    load_model(Segmentor(), tmp_path / 'a.pth')


ODD: dict[str, Callable[[Tensor], Tensor]] = {
    'float8_e4m3fn': lambda tensor: tensor.to(torch.float8_e4m3fn),
    'meta, without values': lambda tensor: tensor.to('meta'),
    'sparse_coo': lambda tensor: tensor.to_sparse(),
    'qint8': lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    'complex64': lambda tensor: tensor.to(torch.complex64),
    'int8': lambda tensor: tensor.to(torch.int8),
}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ODD)
def test_tensors_that_are_no_plain_numbers_are_named(tmp_path: Path, kind: str) -> None:
    name = 'backbone.layers.0.blocks.0.mlp.fc1.weight'
    torch.save({'state_dict': STATE | {name: ODD[kind](STATE[name])}}, tmp_path / 'a.pth')
    model = Segmentor()
    before = {n: tensor.clone() for n, tensor in model.state_dict().items()}
    message = rf'no plain numbers in (backbone\.)?layers\.0\.blocks\.0\.mlp\.fc1\.weight \({kind}\)'
    for use in (
        lambda path: load_model(model, path),
        lambda path: load_backbone(model.backbone, path),
        lambda path: convert_checkpoint(path, tmp_path / 'b.pth'),
    ):
        with pytest.raises(UserError, match=message):
            use(tmp_path / 'a.pth')
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())
    assert not (tmp_path / 'b.pth').exists()


@pytest.mark.parametrize('name', ['patch_embed.norm.weight', 'layers.0.blocks.0.attn.pos.pos3.2.weight'])
def test_single_numbers_in_place_of_tensors_are_named(name: str) -> None:
    with pytest.raises(UserError, match='single numbers'):
        plan_conversion(STATE | {f'backbone.{name}': torch.tensor(1.0)})


DAG: list[Any] = ['a']
for _ in range(40):
    DAG = [DAG, DAG]


@pytest.mark.parametrize(
    ('meta', 'expected'),
    [
        ({'classes': np.array(['a', 'b'])}, {'classes': ('a', 'b')}),
        ({'classes': {0: 'a', 1: 'b'}}, {'classes': ('a', 'b')}),
        ({'classes': [1, 2.5]}, {'classes': ('1', '2.5')}),
        ({'classes': {'a': 0, 'b': 1}}, {}),
        ({'classes': DAG}, {}),
        ({'classes': ['a', None]}, {}),
        ({'classes': 7}, {}),
        ({'dataset_meta': 5, 'classes': 'a'}, {'classes': ('a',)}),
        ({5: 'a', 'CLASSES': ('a',)}, {'classes': ('a',)}),
        (['a'], {}),
        ('a', {}),
        ({'palette': np.array([[1, 2, 3]])}, {'palette': [(1, 2, 3)]}),
        ({'palette': [[1.0, 2.0, 3.0]]}, {'palette': [(1, 2, 3)]}),
        ({'palette': [1, 2, 3]}, {}),
        ({'palette': 'random'}, {}),
        ({'palette': [(1, 2)]}, {}),
        ({'palette': [(1, 2, float('nan'))]}, {}),
        ({'palette': [(1, 2, 256)]}, {}),
        ({'palette': [('1', '2', '3')]}, {}),
        ({'palette': [None, {}, DAG]}, {}),
    ],
)
def test_class_names_and_colours_of_other_types(meta: Any, expected: dict[str, Any]) -> None:
    assert dataset_meta_of({'meta': meta}) == expected
    assert len('\n'.join(plan_conversion({'state_dict': STATE, 'meta': meta}).report)) < 2000


def test_long_names_and_odd_keys_do_not_fill_the_screen() -> None:
    deep: tuple[Any, ...] = ('a',)
    for _ in range(15):
        deep = (deep, deep)
    file = {'state_dict': OrderedDict(STATE), deep: 1, 'x' * 1_000_000: 2, 10**5000: 3}
    assert len('\n'.join(plan_conversion(file).report)) < 2000
    for state in (STATE | {'backbone.' + 'x' * 1_000_000: torch.ones(1)}, {'x' * 1_000_000: torch.ones(1)}):
        with pytest.raises(UserError) as error:
            plan_conversion(state)
        assert len(str(error.value)) < 1500
