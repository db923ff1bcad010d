"""The backbone: the published figures, images of any size, training and arguments."""

import copy
import pickle
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from conftest import NARROW, assert_outputs_close, plain_path
from conftest import narrow_network as narrow
from reference import REFERENCE, assert_record, fill_by_rule, reference_images, reference_tensor
from torch import Tensor, nn

from crossformer_mm import CrossFormer
from crossformer_mm.models.crossformer import DropPath
from crossformer_mm.models.grouping import find_groups

BACKBONE = {case['name']: case for case in REFERENCE['backbone']}


def reference_network(case: dict, **settings: object) -> CrossFormer:
    settings.update(
        group_sizes=case['group_sizes'],
        intervals=case['intervals'],
        long_distance=case.get('long_distance', 'window'),
        adaptive_intervals=case.get('adaptive_interval', False),
    )
    network = CrossFormer(case['arch'], **settings)
    return fill_by_rule(network).eval()


@pytest.fixture(params=['kernels', 'plain'])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both implementations on a CPU; GPUs use the second."""
    with plain_path() if request.param == 'plain' else nullcontext():
        yield request.param


# The published network


@pytest.mark.parametrize(
    'name',
    [
        # the largest; their settings are those of the others
        pytest.param(
            name,
            marks=[pytest.mark.slow]
            * (max(case['size']) > 450 or case['params'] > 60e6 or name in ('b-224', 'pp_b-224')),
        )
        for name, case in BACKBONE.items()
    ],
)
def test_reference_outputs(name, path):
    case = BACKBONE[name]
    model = reference_network(case)
    assert sum(p.numel() for p in model.parameters()) == case['params']
    with torch.no_grad():
        outputs = model(reference_images(case['batch'], case['size']))
    assert tuple(output.shape[1] for output in outputs) == model.out_channels
    for output, record in zip(outputs, case['outputs'], strict=True):
        assert_record(output, record, tolerance=2e-5)


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('name', [name for name, case in BACKBONE.items() if 'grads' in case])
def test_reference_gradients(name, with_cp, path):
    case = BACKBONE[name]
    model = reference_network(case, with_cp=with_cp, drop_path_rate=0.0).train()
    outputs = model(reference_images(case['batch'], case['size']))
    loss = sum(output.square().mean() for output in outputs)
    loss.backward()
    assert loss.item() == pytest.approx(case['loss'], rel=1e-5)
    parameters = dict(model.named_parameters())
    for parameter, record in case['grads'].items():
        assert_record(parameters[parameter].grad, record, tolerance=2e-4)


@pytest.mark.parametrize('case', REFERENCE['classifier'], ids=lambda case: case['name'])
def test_reference_logits(case):
    model = reference_network(case)
    channels = model.out_channels[-1]
    norm, head = fill_by_rule(nn.ModuleDict({'norm': nn.LayerNorm(channels)})).norm, nn.Linear(channels, 1000)
    for parameter in ('weight', 'bias'):
        shape = tuple(getattr(head, parameter).shape)
        getattr(head, parameter).data = reference_tensor(f'head.{parameter}', shape)
    with torch.no_grad():
        tokens = model(reference_images(case['batch'], case['size']))[-1].flatten(2).mT
        logits = head(norm(tokens).mean(1))
    assert_record(logits, case['outputs'][0], tolerance=2e-5)


def test_old_buffers_and_unbuilt_stages_are_left_out_of_a_strict_load():
    whole = narrow()
    state = whole.state_dict()
    state['layers.0.blocks.0.attn.biases'] = torch.zeros(2, 2)
    state['layers.0.blocks.0.attn.relative_position_index'] = torch.zeros(2, 2)
    part = CrossFormer(NARROW, out_indices=(0, 1))
    part.load_state_dict(state)
    images = torch.randn(1, 3, 64, 64)
    assert_outputs_close(part.eval()(images), whole.eval()(images)[:2])
    assert 'layers.0.blocks.0.attn.biases' in state
    with pytest.raises(RuntimeError, match='surplus'):
        part.load_state_dict({**state, 'surplus': torch.zeros(1)})


# Any image


def test_padding_to_a_stride_is_zeros_at_the_bottom_and_right():
    embedding = narrow().patch_embed
    images = torch.randn(1, 3, 30, 41)
    padded = nn.functional.pad(images, (0, 3, 0, 2))
    torch.testing.assert_close(embedding(images), embedding(padded))
    downsample = narrow().layers[0].downsample
    x = torch.randn(1, 7, 9, 32)
    normed = nn.functional.pad(downsample.norm(x).permute(0, 3, 1, 2), (0, 1, 0, 1))
    assert torch.equal(downsample(x), downsample.reductions(normed))


def attention_pairs(height: int, width: int, layout: str, *groups: tuple[int, ...]) -> int:
    """The number of pairs of tokens that attend to each other in all blocks of S."""
    total = 0
    for s, stage in enumerate(CrossFormer('s', *groups, long_distance=layout).layers):
        H, W = -(-height // 2 ** (s + 2)), -(-width // 2 ** (s + 2))
        for block in stage.blocks:
            grouping = block.attn.groups(H, W)
            groups_ = find_groups(torch.empty(0), 1, H, W, grouping.span, grouping.interval)
            total += sum(b.count * b.tokens**2 for b in groups_.blocks)
    return total


@pytest.mark.parametrize('layout', ['map', 'window'])
def test_an_edge_costs_what_its_own_tokens_cost(layout: str) -> None:
    # The macro-windows divide 448. One more row of the last stage's patches must not cost another row of
    # windows: smaller groups cost less a token, never more. Groups of the map grow with it.
    grown = (480 / 448) ** 2 if layout == 'map' else 1
    pairs = attention_pairs(480, 480, layout) / 480**2
    assert pairs <= grown * attention_pairs(448, 448, layout) / 448**2


@pytest.mark.parametrize('shape', [(1, 3, 0, 5), (3, 20, 20), (1, 4, 20, 20)])
def test_what_is_no_batch_of_images_is_named(shape):
    with pytest.raises(ValueError, match=str(shape)[1:-1]):
        narrow()(torch.zeros(shape))


# Training


def test_checkpointing_equals_plain_training_with_dropout_active():
    settings = dict(drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.5)
    images = torch.randn(2, 3, 90, 120)
    results = []
    for with_cp in (False, True):
        model = narrow(with_cp=with_cp, **settings).train()
        torch.manual_seed(1)
        outputs = model(images)
        sum(output.square().mean() for output in outputs).backward()
        results.append((outputs, tuple(p.grad for p in model.parameters())))
    assert_outputs_close(results[1][0], results[0][0])
    for (name, _), ours, theirs in zip(model.named_parameters(), results[1][1], results[0][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)


def saved_numbers(**settings: object) -> int:
    """The number of values that a training step saves for the backward pass, besides the weights."""
    model = narrow(drop_path_rate=0.0, **settings)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model(torch.randn(2, 3, 256, 320))
    assert all(output.requires_grad for output in outputs)
    return sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in weights)


def test_kernels_and_checkpointing_keep_less_for_the_backward_pass() -> None:
    kernels, checkpointed = saved_numbers(), saved_numbers(with_cp=True)
    with plain_path():
        plain = saved_numbers()
    assert kernels < 0.7 * plain
    assert checkpointed < 0.2 * plain


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(4000, 3, 2)
    layer = DropPath(0.25).train()
    out = layer(x)
    assert set(out.flatten().tolist()) == {0, torch.tensor(1 / 0.75).item()}
    assert (out == out[:, :1, :1]).all()
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert layer.eval()(x) is x
    assert DropPath(1.0).train()(x).abs().sum() == 0


def test_drop_paths_rise_linearly_over_all_blocks():
    rates = [block.drop_path.rate for stage in CrossFormer('s').layers for block in stage.blocks]
    assert rates == pytest.approx([0.2 * i / 11 for i in range(12)])
    rates = [block.drop_path.rate for stage in narrow(drop_path_rate=0.9).layers for block in stage.blocks]
    assert rates == pytest.approx([0.1 * i for i in range(10)])


@pytest.mark.parametrize('frozen', range(-1, 5))
def test_frozen_stages_stay_frozen(frozen):
    model = narrow(frozen_stages=frozen, drop_rate=0.1)
    for _ in range(2):
        parts = [model.patch_embed, *model.layers]
        for i, part in enumerate(parts):
            still = i <= frozen
            assert all(p.requires_grad is not still for p in part.parameters())
            assert all(module.training is not still for module in part.modules())
        model.eval()
        model.train()
    before = copy.deepcopy(model.state_dict())
    if frozen < 4:
        model(torch.randn(1, 3, 64, 64))[-1].mean().backward()
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1).step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    fixed = ('patch_embed', *(f'layers.{s}.' for s in range(4)))[: frozen + 1]
    assert not [name for name in changed if name.startswith(fixed)]
    assert bool(changed) is (frozen < 4)


def test_initialisation():
    torch.manual_seed(0)
    for name, module in CrossFormer('t').named_modules():
        if isinstance(module, nn.Linear) and module.weight.numel() > 4000:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05), name
        if isinstance(module, nn.Linear | nn.LayerNorm):
            assert (module.bias == 0).all(), name
        if isinstance(module, nn.Conv2d):
            assert (module.bias != 0).all(), name
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all(), name


def test_first_gradient_of_a_padded_image():
    """Images of a batch are padded with zeros: their gradient is not larger than that of others."""
    norms = []
    for padded in (0, 64):
        torch.manual_seed(0)
        model = narrow().train()
        images = torch.randn(1, 3, 128, 128)
        images[:, :, 128 - padded :] = 0
        sum((output * torch.randn_like(output)).mean() for output in model(images)).backward()
        norms.append(torch.stack([p.grad.norm() for p in model.parameters()]).norm().item())
    assert norms[1] < 3 * norms[0]


# Precision, compilers, copies


def test_half_precision_weights():
    outputs = narrow().bfloat16().eval()(torch.randn(1, 3, 66, 130, dtype=torch.bfloat16))
    assert all(output.dtype == torch.bfloat16 and output.isfinite().all() for output in outputs)


def test_copies_and_pickles_compute_the_same():
    model = narrow().eval()
    images = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert all(map(torch.equal, twin(images), model(images)))


# Arguments


def test_outputs_are_the_stages_asked_for():
    model = narrow(out_indices=(1, 3)).eval()
    images = torch.randn(1, 3, 64, 64)
    assert model.out_channels == (64, 256)
    with torch.no_grad():
        assert_outputs_close(model(images), narrow().eval()(images)[1::2])


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (dict(arch='xl'), ("'xl'", 't, s, b, l, pp_s, pp_b, pp_l, pp_h')),
        (dict(arch=3), ('arch=3',)),
        (dict(arch=dict(embed_dims=32)), ('depths', 'num_heads')),
        (dict(arch={**NARROW, 'width': 3}), ("unknown: ['width']",)),
        (dict(arch={**NARROW, 'embed_dims': 40}), ('embed_dims=40', 'multiple of 16')),
        (dict(arch={**NARROW, 'depths': (1, 1)}), ('depths=(1, 1)', '4 ints')),
        (dict(arch={**NARROW, 'depths': (0, 1, 1, 1)}), ('depths=(0, 1, 1, 1)', 'at least 1')),
        (dict(arch={**NARROW, 'num_heads': (3, 2, 4, 8)}), ('3 heads do not divide the 32',)),
        (dict(arch={**NARROW, 'drop_path_rate': 2}), ('drop_path_rate=2',)),
        (dict(group_sizes=(7, 7, 7)), ('group_sizes=(7, 7, 7)', '4 ints')),
        (dict(group_sizes=()), ('group_sizes=()', '4 ints')),
        (dict(group_sizes=7), ('group_sizes=7',)),
        (dict(group_sizes=(7, 7, 0, 7)), ('group_sizes=(7, 7, 0, 7)', 'at least 1')),
        (dict(intervals=(8, 4, 2)), ('intervals=(8, 4, 2)',)),
        (dict(intervals=(8, 4, 2, 0.5)), ('intervals=(8, 4, 2, 0.5)',)),
        (dict(long_distance='maps'), ("long_distance='maps'", "'map', 'window'")),
        (dict(adaptive_intervals=True), ('adaptive_intervals=True', "long_distance='window'")),
        (dict(out_indices=(0, 4)), ('out_indices=(0, 4)', '0 to 3')),
        (dict(out_indices=(-1,)), ('out_indices=(-1,)',)),
        (dict(out_indices=()), ('out_indices=()',)),
        (dict(out_indices=(2, 1)), ('out_indices=(2, 1)', 'ascending')),
        (dict(out_indices=3), ('out_indices=3',)),
        (dict(frozen_stages=5), ('frozen_stages=5', '4')),
        (dict(drop_path_rate=1.5), ('drop_path_rate=1.5', '0 to 1')),
        (dict(drop_rate='a'), ("drop_rate='a'",)),
        (dict(attn_drop_rate=-0.1), ('attn_drop_rate=-0.1',)),
    ],
    ids=str,
)
def test_an_argument_that_is_not_allowed_is_named(arguments, words):
    with pytest.raises(ValueError) as caught:
        CrossFormer(**{'arch': NARROW, **arguments})
    for word in words:
        assert word in str(caught.value)
    assert '\n' not in str(caught.value)


def test_pretrained_is_the_older_way_to_give_init_cfg() -> None:
    pretrained = {'type': 'Pretrained', 'checkpoint': 'a.pth'}
    assert CrossFormer(NARROW, pretrained='a.pth').init_cfg == pretrained
    with pytest.raises(ValueError, match=r"pretrained='a\.pth' and init_cfg=.*: give one"):
        CrossFormer(NARROW, pretrained='a.pth', init_cfg=pretrained)
