"""The paper's ablations: other positions, embeddings and attention, and what they cost."""

import copy
import io
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import CONFIGS, NARROW, assert_outputs_close, narrow_network, plain_path
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from test_transforms import SHALLOW, export_onnx, run_onnx
from torch import Tensor, nn

from crossformer_mm import CrossFormer
from crossformer_mm.checkpoint import load_backbone, recognise_arch
from crossformer_mm.checkpoint.convert import plan_conversion
from crossformer_mm.checkpoint.meta import implied_layout
from crossformer_mm.engine.flops import flop_counter
from crossformer_mm.models.position import DynamicPositionBias, ResidualPositionBias, UncoveredGroups
from crossformer_mm.utils.errors import UserError

VARIANTS = {
    'single_scale': dict(cross_scale_stages=0),
    'cel_stage1': dict(cross_scale_stages=1),
    'dpb_residual': dict(position='dpb_residual'),
    'rpb': dict(position='rpb'),
    'ape': dict(position='ape'),
    'short_distance': dict(long_distance='none'),
}
SIZE = (66, 90)  # of images


@pytest.fixture(params=VARIANTS)
def settings(request: pytest.FixtureRequest) -> dict:
    return VARIANTS[request.param]


def shallow(**settings: object) -> CrossFormer:
    torch.manual_seed(0)
    return CrossFormer(SHALLOW, drop_path_rate=0.0, **settings)


def loss_and_gradients(model: CrossFormer, images: Tensor) -> tuple[Tensor, ...]:
    loss = sum(output.square().mean() for output in model(images))
    return loss, *torch.autograd.grad(loss, list(model.parameters()))


# Every variant


@pytest.mark.parametrize('settings', [*VARIANTS.values(), dict(position='ape', with_cp=True)], ids=str)
def test_a_step_uses_every_parameter_with_and_without_kernels(settings: dict) -> None:
    model, images = shallow(**settings), torch.randn(2, 3, *SIZE)
    loss, *gradients = loss_and_gradients(model, images)
    with plain_path():
        plain_loss, *plain_gradients = loss_and_gradients(model, images)
    torch.testing.assert_close(loss, plain_loss)
    for (name, parameter), ours, theirs in zip(
        model.named_parameters(), gradients, plain_gradients, strict=True
    ):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=name)
        # softmax does not depend on what is added to all logits
        assert scale > 0 or name.endswith('pos3.2.bias'), name
        parameter.data -= 1e-3 * ours
    assert sum(output.square().mean() for output in model(images)) < loss


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore::DeprecationWarning')
@pytest.mark.parametrize('variant', ['rpb', 'ape'])
def test_traces_copies_and_other_devices(variant: str) -> None:
    model = shallow(**VARIANTS[variant], out_indices=(0, 1)).eval()
    images, other = torch.randn(2, 1, 3, *SIZE)
    expected = model(other)
    assert_outputs_close(torch.jit.trace(model, images)(other), expected)
    assert_outputs_close(copy.deepcopy(model)(other), expected)
    watched = []
    model.layers[0].blocks[0].attn.register_forward_hook(lambda *_: watched.append(1))
    assert_outputs_close(model(other), expected)
    assert watched
    shapes = [output.shape for output in model.to('meta')(other.to('meta'))]
    assert shapes == [output.shape for output in expected]


@pytest.mark.filterwarnings('ignore')
def test_onnx_with_batches_of_any_size(settings: dict, tmp_path: Path) -> None:
    model, path = shallow(**settings, out_indices=(0, 1)).eval(), tmp_path / 'model.onnx'
    export_onnx(model, torch.randn(2, 3, *SIZE), path)
    for batch in (1, 2, 3):
        images = torch.randn(batch, 3, *SIZE)
        assert_outputs_close(run_onnx(path, images), model(images))


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_onnx_from_an_exported_program(settings: dict, tmp_path: Path) -> None:
    model = shallow(**settings, out_indices=(0, 1)).eval()
    images, path = torch.randn(1, 3, *SIZE), tmp_path / 'model.onnx'
    torch.onnx.export(model, (images,), path, opset_version=18, dynamo=True)
    assert_outputs_close(run_onnx(path, images), model(images))


@pytest.mark.slow
@pytest.mark.parametrize('variant', ['single_scale', 'rpb', 'ape'])  # the others run the same operations
def test_compiled_and_exported(variant: str) -> None:
    torch.compiler.reset()
    layout = 'window'  # with groups that a table covers at these sizes
    model = shallow(out_indices=(0, 1), long_distance=layout, **VARIANTS[variant])
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True, dynamic=True)
    for size in [(257, 333), (300, 290)]:
        images = torch.randn(1, 3, *size)
        ours, theirs = loss_and_gradients(compiled, images), loss_and_gradients(model, images)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item() + 1e-7)
    sides = {i: torch.export.Dim(f'side{i}', min=225, max=2048) for i in (2, 3)}
    symbolic = variant != 'ape'  # the plain layers' programs are for one size
    images = torch.randn(1, 3, 256, 320)
    program = torch.export.export(model.eval(), (images,), dynamic_shapes=(sides,) if symbolic else None)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    images = torch.randn(1, 3, 300, 226) if symbolic else images.flip(2)
    assert_outputs_close(torch.export.load(file).module()(images), model(images))


def test_a_checkpoint_loads_strictly_and_is_recognised(settings: dict, tmp_path: Path) -> None:
    model = narrow_network(**settings)
    checkpoint = {
        'state_dict': model.state_dict(),
        'meta': {'crossformer_mm': {'long_distance': model.long_distance}},
    }
    torch.save(checkpoint, tmp_path / 'a.pth')
    loaded = CrossFormer(NARROW, **settings)
    load_backbone(loaded, tmp_path / 'a.pth')
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    assert recognise_arch(model.state_dict()) == recognise_arch(narrow_network().state_dict())
    assert implied_layout(checkpoint).layouts == (model.long_distance,)
    in_config = {**checkpoint, 'meta': {'cfg': f"long_distance='{model.long_distance}'"}}
    assert implied_layout(in_config).layouts == (model.long_distance,)
    converted = plan_conversion(checkpoint).state
    assert converted.keys() == model.state_dict().keys()


def test_a_checkpoint_of_other_tensors_is_refused(tmp_path: Path) -> None:
    torch.save(narrow_network().state_dict(), tmp_path / 'dpb.pth')
    model = narrow_network(position='rpb')
    before = copy.deepcopy(model.state_dict())
    missing = 'does not fit the model: 10 missing: layers.0.blocks.0.attn.pos.relative_position_bias_table'
    with pytest.raises(UserError, match=missing) as error:
        load_backbone(model, tmp_path / 'dpb.pth')
    assert '\n' not in str(error.value)
    assert all(map(torch.equal, model.state_dict().values(), before.values()))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(position='x'), "position='x' must be one of 'dpb', 'dpb_residual', 'rpb', 'ape'"),
        (dict(long_distance='x'), "long_distance='x' must be one of 'map', 'window', 'none'"),
        (dict(cross_scale_stages=5), 'cross_scale_stages=5 must be 0 .* to 4'),
        (dict(cross_scale_stages=True), 'cross_scale_stages=True must be'),
    ],
)
def test_unknown_values(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrossFormer(**settings)


# Positions


def with_tables_of(model: CrossFormer, **settings: object) -> CrossFormer:
    """The network with the biases of ``model`` as learned tables."""
    other = narrow_network(position='rpb', **settings)
    other.load_state_dict(model.state_dict(), strict=False)
    for stage, source in zip(other.layers, model.layers, strict=True):
        for block, source_block in zip(stage.blocks, source.blocks, strict=True):
            pos = block.attn.pos
            pos.relative_position_bias_table.data = source_block.attn.pos(pos.size, pos.size)
    return other


@pytest.mark.parametrize('layout', ['map', 'window'])
@pytest.mark.parametrize('plain', [False, True])
def test_tables_with_the_values_of_dpb_equal_dpb(layout: str, plain: bool) -> None:
    groups = dict(group_sizes=[4, 4, 6, 7], intervals=[4, 2, 1, 1])
    model = narrow_network(long_distance=layout, **groups).eval()
    for parameter in model.layers.parameters():
        nn.init.normal_(parameter, std=0.2)  # biases that matter
    other = with_tables_of(model, long_distance=layout, **groups).eval()
    for size in [(97, 131), (30, 17)]:
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            if plain:
                with plain_path():
                    assert_outputs_close(other(images), model(images))
            else:
                assert_outputs_close(other(images), model(images))


@pytest.mark.parametrize('layout', ['map', 'window', 'none'])
@pytest.mark.parametrize(
    ('group_sizes', 'intervals'),
    [
        ([7, 7, 7, 7], [8, 4, 2, 1]),
        ([14, 14, 7, 7], [16, 8, 2, 1]),
        ([4, 4, 14, 7], [4, 2, 1, 1]),
        ([2, 3, 5, 4], [3, 5, 1, 1]),
    ],
)
def test_tables_cover_224_pixels(group_sizes: list, intervals: list, layout: str) -> None:
    groups = dict(group_sizes=group_sizes, intervals=intervals)
    model = shallow(position='rpb', long_distance=layout, **groups).to('meta')
    model(torch.empty(1, 3, 224, 224, device='meta'))
    first = model.layers[0].blocks[0].attn.pos
    assert first.relative_position_bias_table.shape == (1, *[2 * group_sizes[0] - 1] * 2)


@pytest.mark.parametrize(
    ('size', 'tokens', 'group', 'plain'),
    [((224, 400), '56×100', '7×13', False), ((300, 200), '75×50', '10×7', True)],
)
def test_maps_that_a_table_does_not_cover(size: tuple, tokens: str, group: str, plain: bool) -> None:
    message = (
        "position='rpb': a map of {} tokens has groups of {}, but the table covers at most 7×7: use"
        " smaller images, position='dpb' (any group), or long_distance='window' if it is 'map' now"
    )
    model, images = shallow(position='rpb'), torch.randn(1, 3, *size)
    with pytest.raises(UncoveredGroups) as error:
        if plain:
            with plain_path():
                model(images)
        else:
            model(images)
    assert str(error.value) == message.format(tokens, group)
    shallow(position='rpb', long_distance='window')(torch.randn(1, 3, 260, 400))


def test_residual_connections_in_the_dynamic_position_bias() -> None:
    torch.manual_seed(0)
    pos = ResidualPositionBias(64, 2)
    a, b = torch.tensor([2.0, -3.0])
    linear = pos.pos_proj(torch.stack([a, b]))
    hidden = linear + pos.pos1[2](torch.relu(pos.pos1[0](linear)))
    hidden = hidden + pos.pos2[2](torch.relu(pos.pos2[0](hidden)))
    expected = pos.pos3[2](torch.relu(pos.pos3[0](hidden)))
    torch.testing.assert_close(pos(4, 5)[:, 3 - 2, 4 + 3], expected)
    plain = DynamicPositionBias(64, 2)
    plain.load_state_dict(pos.state_dict())
    assert (plain(4, 5) - pos(4, 5)).abs().max() > 0.01


def test_absolute_position_embedding() -> None:
    model = shallow(position='ape').eval()
    embed, table = model.patch_embed, model.patch_embed.pos.absolute_pos_embed
    assert table.shape == (1, 32, 56, 56)
    assert 0.015 < table.std() < 0.025
    for size, expected in [
        ((224, 224), table),
        ((129, 300), F.interpolate(table, (33, 75), mode='bicubic', align_corners=False)),
    ]:
        images = torch.randn(2, 3, *size)
        without = embed.norm(embed.projs(images))
        torch.testing.assert_close(embed(images) - without, expected.permute(0, 2, 3, 1).expand_as(without))
    # Without biases, tokens of a group may change places.
    attn, x = model.layers[0].blocks[0].attn, torch.randn(1, 7, 7, 32)
    torch.testing.assert_close(attn(x.flip(1)), attn(x).flip(1))
    assert not any('attn.pos' in name for name in model.state_dict())


def test_frozen_and_unbuilt_stages(settings: dict) -> None:
    model = shallow(**settings, frozen_stages=1, out_indices=(1,))
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == [n for n, _ in model.named_parameters() if n.startswith(('patch_embed.', 'layers.0.'))]
    whole = shallow(**settings)
    model.load_state_dict(whole.state_dict())
    images = torch.randn(1, 3, *SIZE)
    assert_outputs_close(model.eval()(images), whole.eval()(images)[1:2])


@pytest.mark.parametrize('position', ['rpb', 'ape'])
def test_tables_have_no_weight_decay_on_imagenet(position: str) -> None:
    schedule = Config.fromfile(CONFIGS / '_base_/schedules/adamw_300e.py')
    model = shallow(position=position)
    groups = build_optim_wrapper(model, schedule.optim_wrapper).param_groups
    decays = {id(parameter): group['weight_decay'] for group in groups for parameter in group['params']}
    for name, parameter in model.named_parameters():
        is_table = name.endswith(('relative_position_bias_table', 'absolute_pos_embed'))
        assert decays[id(parameter)] == (0.05 if parameter.dim() > 1 and not is_table else 0), name


# Embeddings and attention


@pytest.mark.parametrize('cross_scale_stages', range(5))
def test_kernels_of_embeddings(cross_scale_stages: int) -> None:
    model = shallow(cross_scale_stages=cross_scale_stages)
    embeddings = [model.patch_embed.projs, *(stage.downsample.reductions for stage in model.layers[:3])]
    for s, convs in enumerate(embeddings):
        smallest, whole = ([4], [4, 8, 16, 32]) if s == 0 else ([2], [2, 4])
        kernels = whole if s < cross_scale_stages else smallest
        assert [conv.kernel_size for conv in convs] == [(kernel, kernel) for kernel in kernels]
        assert sum(conv.out_channels for conv in convs) == 32 * 2**s


def test_one_kernel_is_a_plain_convolution() -> None:
    model, images = shallow(cross_scale_stages=0), torch.randn(2, 3, 64, 96)
    conv = model.patch_embed.projs[0]
    plain = F.conv2d(images, conv.weight, conv.bias, stride=4).permute(0, 2, 3, 1)
    torch.testing.assert_close(model.patch_embed(images), model.patch_embed.norm(plain))
    down, x = model.layers[0].downsample, torch.randn(2, 6, 8, 32)
    conv = down.reductions[0]
    plain = F.conv2d(down.norm(x).permute(0, 3, 1, 2), conv.weight, conv.bias, stride=2)
    torch.testing.assert_close(down(x), plain.permute(0, 2, 3, 1))


def window_attention(attn: nn.Module, x: Tensor, G: int) -> Tensor:
    """Attention in windows, as Swin's: partition, attend, reverse the partition."""
    B, H, W, C = x.shape
    windows = x.view(B, H // G, G, W // G, G, C).transpose(2, 3).reshape(-1, G * G, C)
    q, k, v = attn.qkv(windows).view(len(windows), G * G, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    positions = torch.cartesian_prod(torch.arange(G), torch.arange(G))
    offsets = positions[:, None] - positions[None]
    bias = attn.pos(G, G)[:, G - 1 - offsets[..., 0], G - 1 - offsets[..., 1]] if attn.pos else 0
    weights = (q @ k.mT / (C // attn.num_heads) ** 0.5 + bias).softmax(-1)
    out = attn.proj((weights @ v).transpose(1, 2).reshape(-1, G * G, C))
    return out.view(B, H // G, W // G, G, G, C).transpose(2, 3).reshape(B, H, W, C)


@pytest.mark.parametrize(('position', 'plain'), [('dpb', False), ('dpb', True), ('ape', False)])
def test_short_distance_alone_equals_windows_without_shift(position: str, plain: bool) -> None:
    model = narrow_network(long_distance='none', position=position).eval()
    for parameter in model.layers.parameters():
        nn.init.normal_(parameter, std=0.2)
    for stage, dims in zip(model.layers, (32, 64, 128, 256), strict=True):
        for block in stage.blocks:
            x = torch.randn(2, 14, 21, dims)
            branch = x + window_attention(block.attn, block.norm1(x), 7)
            expected = block._cool(branch + block.mlp(block.norm2(branch)))
            if plain:
                with plain_path():
                    assert_outputs_close((block(x),), (expected,))
            else:
                assert_outputs_close((block(x),), (expected,))


# Costs

DIMS, DEPTHS, HEADS = (96, 192, 384, 768), (2, 2, 6, 2), (3, 6, 12, 24)  # of CrossFormer-S
NORMALISED = 3_725_568  # numbers that norms compute for an image of 224×224


def expected_costs(position: str = 'dpb', cross_scale_stages: int = 4, **_: object) -> tuple[int, int]:
    """The parameters and multiply-adds of the classifier of 1000 classes for an image of 224×224."""
    parameters, multiply_adds = 2 * 768 + 768 * 1000 + 1000, 768 * 1000
    inputs = (3, *DIMS[:3])
    for s, (D, depth, h) in enumerate(zip(DIMS, DEPTHS, HEADS, strict=True)):
        tokens = (56 >> s) ** 2
        kernels = [(4, 8, 16, 32), (2, 4)][s > 0] if s < cross_scale_stages else [4 if s == 0 else 2]
        shares = {1: [1], 2: [1 / 2, 1 / 2], 4: [1 / 2, 1 / 4, 1 / 8, 1 / 8]}[len(kernels)]
        weights = sum(int(D * share) * k**2 for k, share in zip(kernels, shares, strict=True)) * inputs[s]
        parameters += weights + D + 2 * (D if s == 0 else inputs[s])
        multiply_adds += tokens * weights
        parameters += depth * (12 * D**2 + 9 * D + 4 * D)
        multiply_adds += depth * tokens * (12 * D**2 + 2 * 49 * D)
        if position.startswith('dpb'):
            P = D // 16
            mlp = 2 * P + 2 * P**2 + P * h
            parameters += depth * (mlp + 3 * P + h + 6 * P)
            multiply_adds += depth * 13**2 * mlp
        if position == 'rpb':
            parameters += depth * 13**2 * h
    if position == 'ape':
        parameters += 56**2 * 96
    return parameters, multiply_adds


@pytest.mark.parametrize('variant', [None, *VARIANTS])
def test_costs(variant: str | None) -> None:
    cfg = Config.fromfile(CONFIGS / f'crossformer_s_in1k{f"_{variant}" if variant else ""}.py')
    settings = {key: value for key, value in cfg.model.backbone.items() if key != 'type'}
    assert {**settings, 'arch': 's', 'out_indices': (3,)} == settings | VARIANTS.get(variant, {})
    with torch.device('meta'), torch.no_grad(), flop_counter() as counter:
        model = nn.Sequential(CrossFormer(**settings), nn.LayerNorm(768), nn.Linear(768, 1000)).eval()
        model[2](model[1](model[0](torch.empty(1, 3, 224, 224))[0].mean((2, 3))))
    costs = sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // 2
    assert costs == expected_costs(**VARIANTS.get(variant, {}))


@pytest.mark.parametrize(
    ('position', 'millions', 'billions'),
    [('ape', 30.9342, 4.9061), ('dpb', 30.6573, 4.9098), ('dpb_residual', 30.6573, 4.9098)],
)
def test_costs_fit_those_of_the_paper(position: str, millions: float, billions: float) -> None:
    """Its table of positions fits if digits of parameters are cut, and each normalised number is counted.

    That these are its rules is inferred: the paper does not say.
    """
    parameters, multiply_adds = expected_costs(position)
    assert int(parameters / 100) / 1e4 == millions
    assert round((multiply_adds + NORMALISED) / 1e9, 4) == billions


def test_normalised_numbers() -> None:
    normalised = 0

    def add(module: nn.Module, _: tuple, output: Tensor) -> None:
        nonlocal normalised
        normalised += output.numel()

    with torch.device('meta'):
        model = CrossFormer('s', position='ape', out_indices=(3,)).eval()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(add)
    with torch.no_grad():
        model(torch.empty(1, 3, 224, 224, device='meta'))
    assert normalised + 49 * 768 == NORMALISED
