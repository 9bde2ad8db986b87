"""The diffusion loss: one float32 value per sample, zero for a perfect model, and it trains."""

import pytest
import torch
from torch import Tensor

from soundcrafter.diffusion.config import DiffusionConfig
from soundcrafter.diffusion.loss import diffusion_loss
from soundcrafter.diffusion.schedule import Schedule

OBJECTIVES = ("epsilon", "v", "flow")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_off_by_a_constant_gives_its_square_for_that_sample_only(objective):
    schedule = Schedule(DiffusionConfig(objective=objective))
    x0, noise = randn(3, 2, 4, 4), randn(3, 2, 4, 4, seed=1)
    t = schedule.draw_times(torch.tensor([0.1, 0.5, 0.9]))
    off = torch.tensor([0.0, 2.0, 3.0]).reshape(3, 1, 1, 1)

    def model(x: Tensor, at: Tensor, cond: Tensor) -> Tensor:
        torch.testing.assert_close(x, schedule.add_noise(x0, noise, t))
        assert at is t
        return schedule.target(x0, noise, t) + off

    loss = diffusion_loss(model, schedule, x0, noise, t, randn(3, 5))
    torch.testing.assert_close(loss, torch.tensor([0.0, 4.0, 9.0]))


def test_low_precision_predictions_are_reduced_in_float32():
    schedule, t = Schedule(DiffusionConfig()), torch.tensor([5])
    x0 = torch.zeros(1, 1, 64, 64)
    noise = torch.full_like(x0, 300.0)  # its square overflows float16
    loss = diffusion_loss(lambda x, t, c: x.half() * 0, schedule, x0, noise, t, randn(1, 2))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor([90000.0]))


def test_gradients_reach_the_model():
    schedule = Schedule(DiffusionConfig(objective="v"))
    weight = torch.ones((), requires_grad=True)
    x0, noise, t = randn(2, 1, 4, 4), randn(2, 1, 4, 4, seed=1), torch.tensor([3, 700])
    diffusion_loss(
        lambda x, t, c: weight * x, schedule, x0, noise, t, randn(2, 2)
    ).mean().backward()
    assert weight.grad is not None
    assert weight.grad.abs() > 0
