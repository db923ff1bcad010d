"""The network with tracers, exporters, compilers, transforms and other devices."""

import copy
import io
import subprocess
import sys
import warnings
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from conftest import assert_outputs_close, narrow_network, plain_path
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from crossformer_mm import CrossFormer

LAYOUTS = ['map', 'window']
SETTINGS = [
    dict(long_distance='map'),
    dict(long_distance='window'),
    dict(long_distance='window', adaptive_intervals=True),
]
SHALLOW = dict(embed_dims=32, depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 8))
COOLED = {**SHALLOW, 'depths': (2, 4, 1, 1), 'acl': True}


@pytest.fixture(params=LAYOUTS)
def model(request: pytest.FixtureRequest) -> CrossFormer:
    return narrow_network(long_distance=request.param).eval()


def outputs_without_grad(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return model(images)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore::DeprecationWarning')
@pytest.mark.parametrize(
    'settings',
    [SETTINGS[0], *(pytest.param(settings, marks=pytest.mark.slow) for settings in SETTINGS[1:])],
    ids=str,
)
def test_a_trace_is_saved_and_loaded_and_takes_batches_of_any_size(settings: dict) -> None:
    model, file = CrossFormer(COOLED, out_indices=(0, 1), **settings).eval(), io.BytesIO()
    torch.jit.save(torch.jit.trace(model, torch.randn(2, 3, 100, 130)), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for batch in (1, 3):
        images = torch.randn(batch, 3, 100, 130)
        assert_outputs_close(loaded(images), outputs_without_grad(model, images))
    for size in [(96, 130), (100, 129), (130, 100), (1, 1), (1, 130), (100, 1)]:
        with pytest.raises(RuntimeError, match=r"Provided sizes \[1[03]0\] don't multiply up"):
            loaded(torch.randn(1, 3, *size))


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore::DeprecationWarning')
def test_a_trace_runs_without_this_package(tmp_path: Path) -> None:
    model, images = CrossFormer(SHALLOW, out_indices=(0,)).eval(), torch.randn(1, 3, 64, 90)
    torch.jit.save(torch.jit.trace(model, images), tmp_path / 'trace.pt')
    torch.save((images, outputs_without_grad(model, images)), tmp_path / 'values.pt')
    program = (
        'import sys, torch; images, (expected,) = torch.load("values.pt");'
        ' torch.testing.assert_close(torch.jit.load("trace.pt")(images)[0], expected, rtol=0, atol=1e-4);'
        ' assert "crossformer_mm" not in sys.modules'
    )
    subprocess.run([sys.executable, '-c', program], cwd=tmp_path, check=True)


def export_onnx(model: nn.Module, images: Tensor, path: Path) -> None:
    """Write a file for batches of any size, from a trace."""
    names = ['images', *(f'stage{i}' for i in model.out_indices)]
    axes = {name: {0: 'batch'} for name in names}
    options = dict(input_names=names[:1], output_names=names[1:], dynamic_axes=axes)
    torch.onnx.export(model, (images,), path, opset_version=17, dynamo=False, **options)


def run_onnx(path: Path, images: Tensor) -> tuple[Tensor, ...]:
    session = onnxruntime.InferenceSession(path)
    return tuple(map(torch.from_numpy, session.run(None, {session.get_inputs()[0].name: images.numpy()})))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('settings', SETTINGS, ids=str)
def test_onnx_with_batches_of_any_size(settings: dict, tmp_path: Path) -> None:
    model = CrossFormer(SHALLOW, out_indices=(0, 1), **settings).eval()
    path = tmp_path / 'model.onnx'
    export_onnx(model, torch.randn(2, 3, 100, 130), path)
    for batch in (1, 2, 3):
        images = torch.randn(batch, 3, 100, 130)
        assert_outputs_close(run_onnx(path, images), outputs_without_grad(model, images))


@pytest.mark.filterwarnings('ignore')
def test_onnx_has_few_operators_and_does_not_store_the_biases_of_pairs(tmp_path: Path) -> None:
    model, path = (
        CrossFormer(SHALLOW, intervals=(1, 1, 1, 1), out_indices=(0,)).eval(),
        tmp_path / 'model.onnx',
    )
    export_onnx(model, torch.randn(1, 3, 64, 80), path)  # stage 1 has a group of 16×20 tokens
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    assert parameters < path.stat().st_size < parameters + 4 * (16 * 20) ** 2 / 2
    operators = [node for node in onnx.load(path).graph.node if node.op_type not in ('Constant', 'Identity')]
    assert len(operators) < 90 * len(model.layers[0].blocks)
    assert not any('/pos/' in node.name for node in operators)  # the small network is not in the file
    assert {entry.domain for entry in onnx.load(path).opset_import} == {''}


@pytest.mark.filterwarnings('ignore')
def test_onnx_of_half_precision_runs_on_cpus(tmp_path: Path) -> None:
    model, path = narrow_network(out_indices=(0, 1)).eval(), tmp_path / 'model.onnx'
    images = torch.randn(1, 3, 66, 90)
    expected = outputs_without_grad(model, images)
    export_onnx(model.half(), images.half(), path)
    ours = run_onnx(path, images.half())
    assert {output.dtype for output in ours} == {torch.float16}
    assert_outputs_close(tuple(output.float() for output in ours), expected, 5e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('layout', LAYOUTS)
def test_onnx_from_an_exported_program(layout: str, tmp_path: Path) -> None:
    model = narrow_network(long_distance=layout, out_indices=(0, 1)).eval()
    images = torch.randn(1, 3, 100, 130)
    path = tmp_path / 'model.onnx'
    torch.onnx.export(model, (images,), path, opset_version=18, dynamo=True)
    assert_outputs_close(run_onnx(path, images), outputs_without_grad(model, images))


def test_checkpointing_gives_way_to_transforms() -> None:
    images, gradients = torch.randn(1, 3, 64, 90), []
    for with_cp in (False, True):
        model = narrow_network(with_cp=with_cp, drop_path_rate=0.0)
        gradients.append(grad(lambda x, model=model: model(x)[-1].sum())(images))
    torch.testing.assert_close(*gradients)


def test_functional_calls_and_gradients(model: CrossFormer) -> None:
    images = torch.randn(2, 3, 64, 90)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict, images: Tensor) -> Tensor:
        return sum(output.square().mean() for output in functional_call(model, parameters, (images,)))

    ours = grad(loss)(parameters, images)
    sum(output.square().mean() for output in model(images)).backward()
    for name, parameter in model.named_parameters():
        scale = parameter.grad.abs().max().item()
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-4 * scale + 1e-7)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of batching rules that torch lacks
        each = vmap(grad(loss), in_dims=(None, 0))(parameters, images[:, None])
    for i in range(2):
        alone = grad(loss)(parameters, images[i : i + 1])
        for name in ('layers.0.blocks.1.attn.qkv.weight', 'layers.2.blocks.1.attn.pos.pos3.2.weight'):
            scale = alone[name].abs().max().item()
            torch.testing.assert_close(each[name][i], alone[name], rtol=1e-3, atol=1e-4 * scale)


def test_forward_mode(model: CrossFormer) -> None:
    model = model.double()
    images, tangent = torch.randn(2, 1, 3, 64, 90, dtype=torch.double)
    _, derivative = jvp(lambda x: model(x)[-1], (images,), (tangent,))
    step = 1e-6
    with torch.no_grad():
        difference = (model(images + step * tangent)[-1] - model(images - step * tangent)[-1]) / (2 * step)
    torch.testing.assert_close(derivative, difference, rtol=1e-4, atol=1e-6)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(images, tangent)
        unpacked = torch.autograd.forward_ad.unpack_dual(model(dual)[-1])
    torch.testing.assert_close(unpacked.tangent, derivative)


@pytest.mark.parametrize('plain', [False, True])
def test_gradients_of_gradients(model: CrossFormer, plain: bool) -> None:
    """Hessian-vector products are the same in forward-over-reverse and reverse-over-reverse mode."""
    model = model.double()
    images, vector = torch.randn(2, 1, 3, 64, 90, dtype=torch.double)
    images.requires_grad_()
    parameter = model.layers[0].blocks[1].attn.pos.pos1[2].weight

    def run() -> tuple[Tensor, Tensor]:
        loss = sum(output.square().sum() for output in model(images))
        (first,) = torch.autograd.grad(loss, images, create_graph=True)
        return torch.autograd.grad((first * vector).sum(), (images, parameter))

    if plain:
        with plain_path():
            ours = run()
    else:
        ours = run()

    def slope(x: Tensor) -> Tensor:
        return grad(lambda x: sum(output.square().sum() for output in model(x)))(x)

    expected = jvp(slope, (images.detach(),), (vector,))[1]
    torch.testing.assert_close(ours[0], expected, rtol=1e-6, atol=1e-8 * expected.abs().max().item())
    assert ours[1].abs().max() > 0


@pytest.mark.slow
@pytest.mark.parametrize('plain', [False, True])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_compiled_equals_eager_at_changing_sizes(layout: str, plain: bool) -> None:
    torch.manual_seed(0)
    torch.compiler.reset()
    model = CrossFormer(SHALLOW, long_distance=layout, out_indices=(0,), drop_path_rate=0.0)
    if plain:
        for module in model.modules():
            if isinstance(module, nn.GELU):
                module.forward = lambda x: nn.functional.gelu(x)
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True, dynamic=True)
    for size in [(257, 333), (300, 290)]:
        images = torch.randn(2, 3, *size)
        ours, theirs = compiled(images), model(images)
        assert_outputs_close(ours, theirs)
        parameters = list(model.parameters())
        for a, b in zip(
            torch.autograd.grad(sum(o.square().mean() for o in ours), parameters),
            torch.autograd.grad(sum(o.square().mean() for o in theirs), parameters),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('settings', SETTINGS, ids=str)
def test_export_keeps_height_and_width_symbolic(settings: dict) -> None:
    torch.manual_seed(0)
    model = CrossFormer(COOLED, **settings).eval()
    sides = {
        2: torch.export.Dim('height', min=225, max=2048),
        3: torch.export.Dim('width', min=225, max=2048),
    }
    program = torch.export.export(model, (torch.randn(1, 3, 256, 320),), dynamic_shapes=(sides,))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for size in [(256, 320), (300, 226)]:
        images = torch.randn(1, 3, *size)
        assert_outputs_close(loaded(images), outputs_without_grad(model, images))


class Transfers(TorchDispatchMode):
    """The operators that copy a tensor to another device, or read one from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        if len({t.device for t in tensors}) > 1 or func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
        ):
            self.seen.append(str(func))
        if any(t.device.type != 'meta' for t in tensors):
            self.seen.append(f'{func} on {[t.device.type for t in tensors]}')
        return out


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('with_cp', [False, True])
def test_a_step_moves_nothing_between_host_and_device(layout: str, with_cp: bool) -> None:
    model = narrow_network(long_distance=layout, with_cp=with_cp, drop_path_rate=0.2).to('meta')
    with Transfers() as transfers:
        outputs = model(torch.empty(2, 3, 100, 130, device='meta'))
        sum(output.square().mean() for output in outputs).backward()
    assert transfers.seen == []
    assert all(p.grad is not None and p.grad.device.type == 'meta' for p in model.parameters())


@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::FutureWarning', 'ignore::UserWarning')
def test_quantised_layers(model: CrossFormer) -> None:
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, torch.qint8)
    images = torch.randn(1, 3, 100, 130)
    ours, exact = outputs_without_grad(quantised, images), outputs_without_grad(model, images)
    for a, b in zip(ours, exact, strict=True):
        assert 0 < (a - b).abs().max() < 0.2 * b.abs().max()


def test_caches_survive_copies_pickles_and_modes(model: CrossFormer) -> None:
    images = torch.randn(1, 3, 77, 91)
    with torch.inference_mode():
        first = model(images)
    copied = copy.deepcopy(model)
    assert all(map(torch.equal, outputs_without_grad(copied, images), first))
    model.train()(images)[-1].sum().backward()
    grad(lambda x: model(x)[-1].sum())(torch.randn(1, 3, 83, 97))
    model(torch.randn(1, 3, 83, 97))[-1].sum().backward()  # nothing of the transform is left in a cache
    assert not list(model.named_buffers())


def test_sizes_first_seen_under_a_mode_are_kept_for_others(model: CrossFormer) -> None:
    shapes = torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True)
    with shapes, torch.no_grad():
        model(torch.empty(1, 3, 71, 93))
    with plain_path():
        model(torch.randn(1, 3, 73, 95))
    for size in [(71, 93), (73, 95)]:
        outputs = outputs_without_grad(model, torch.randn(1, 3, *size))
        assert all(type(output) is Tensor for output in outputs)
