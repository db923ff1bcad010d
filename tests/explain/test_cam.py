"""Class activation maps of models whose answer is known."""

import pytest
import torch
from conftest import narrow_network
from torch import nn

from crossformer_mm.explain.cam import grad_cam, local_cam, score_cam, watched_map


def test_grad_cam_of_a_linear_classifier_on_mean_features_is_its_cam() -> None:
    """Selvaraju et al., section 3.1: the weights of the class, up to the number of places."""
    torch.manual_seed(0)
    maps = torch.randn(1, 6, 3, 5, requires_grad=True)
    head = nn.Linear(6, 4)
    (gradient,) = torch.autograd.grad(head(maps.mean((2, 3)))[0, 2], maps)
    cam = (head.weight[2, :, None, None] * maps[0]).sum(0).relu()
    assert cam.max() > 0
    torch.testing.assert_close(grad_cam(maps[0], gradient[0]) * 15, cam)


def test_local_cam_is_where_the_score_depends_on_the_map() -> None:
    """Two places have the same features, which differ from the mean, and the score reads one of them."""
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, :, 0, 0] = maps[0, :, 3, 3] = torch.tensor([2.0, 1.0])
    maps.requires_grad_()
    (gradient,) = torch.autograd.grad(maps[0, 0, 3, 3], maps)
    everywhere, local = grad_cam(maps[0], gradient[0]), local_cam(maps[0], gradient[0])
    assert everywhere[0, 0] == everywhere[3, 3] > 0
    assert local.nonzero().tolist() == [[3, 3]]
    assert local[3, 3] == 2 - 2 * 2 / 16


@pytest.mark.parametrize('channels', [1, 64])
def test_score_cam_of_a_score_of_one_channel_is_where_it_is_large(channels: int) -> None:
    """The score is the sum of the pixels that channel 2 shows; channel 0 varies less than those chosen."""
    maps = torch.zeros(4, 4, 4)
    maps[0, 0, 0], maps[1, 0, 3], maps[2, 3, 0], maps[3, 3, 3] = 0.1, 2, 3, 1
    maps[0] += 5  # which is no variation
    maps[2] -= 9
    image = torch.ones(3, 16, 16)
    seen = []

    def score(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return 100 * images[:, :, 14:, :2].mean((1, 2, 3))

    found = score_cam(maps, image, score, channels, batch=3)
    torch.testing.assert_close(found, (maps[2] - maps[2].mean()).relu(), rtol=0, atol=1e-6)
    assert seen == ([1] if channels == 1 else [3, 1])


def test_score_cam_is_zero_where_every_score_is_minus_infinity() -> None:
    found = score_cam(torch.rand(4, 2, 2), torch.ones(3, 8, 8), lambda images: images[:, 0, 0, 0] - torch.inf)
    assert found.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize('stage', range(4))
def test_gradients_of_a_stage_count_the_stages_after_it(stage: int) -> None:
    """Along a direction, the gradient is the change of a score of all outputs, also if weights are frozen."""
    backbone = narrow_network().eval().requires_grad_(False).double()
    torch.manual_seed(1)
    image = torch.rand(1, 3, 70, 52, dtype=torch.float64)

    def score() -> torch.Tensor:
        return sum(output.sin().sum() for output in backbone(image))

    with watched_map(backbone, stage) as maps:
        value = score()
    (map_of_stage,) = maps
    (gradient,) = torch.autograd.grad(value, map_of_stage)
    direction = torch.randn_like(gradient)
    step = 1e-5 * direction.permute(0, 2, 3, 1)
    changed = []
    for sign in (-1, 1):
        handle = backbone.layers[stage].register_forward_hook(lambda *call, sign=sign: call[2] + sign * step)
        changed.append(score())
        handle.remove()
    expected = (changed[1] - changed[0]) / 2e-5
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-5, atol=0)


def test_maps_of_other_backbones_are_their_outputs() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return x[..., ::2], 3 * x

    backbone = Two()
    image = torch.rand(1, 3, 4, 4)
    with watched_map(backbone, 1) as maps:
        outputs = backbone(image)
    (gradient,) = torch.autograd.grad((outputs[1] ** 2).sum(), maps)
    torch.testing.assert_close(gradient, 6 * image)
