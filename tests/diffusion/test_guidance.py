"""Classifier-free guidance on models worked by hand."""

import pytest
import torch
from torch import Tensor

from soundcrafter.diffusion.guidance import guided


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_guidance_by_hand_in_one_call(recorder):
    model, latent, t = recorder(), randn(2, 1, 4, 2), torch.tensor([3, 5])
    cond, uncond = torch.tensor([[1.0], [2.0]]), torch.tensor([0.5])
    got = guided(model, cond, uncond, 3.0)(latent, t)
    shift = torch.tensor([0.5 + 3 * 0.5, 0.5 + 3 * 1.5]).reshape(2, 1, 1, 1)
    torch.testing.assert_close(got, latent + t.reshape(2, 1, 1, 1) + shift)
    assert [call[0].shape[0] for call in model.calls] == [4]


def test_scale_1_is_one_pass_of_the_condition_alone(recorder):
    model, latent, t = recorder(), randn(2, 1, 4, 2), torch.tensor([3, 3])
    cond = randn(2, 6)
    got = guided(model, cond, torch.full((6,), float("nan")), 1.0)(latent, t)
    torch.testing.assert_close(got, recorder()(latent, t, cond))
    assert [call[0].shape[0] for call in model.calls] == [2]


def test_every_shape_of_one_constant_condition_means_the_same(recorder):
    latent, t = randn(2, 1, 4, 2), torch.tensor([3, 3])
    cond, uncond = randn(2, 6), randn(6, seed=1)
    want = guided(recorder(), cond, uncond, 2.0)(latent, t)
    conds = (cond, cond[:, None].expand(2, 4, 6))
    unconds = (uncond, uncond.expand(2, 6), uncond.expand(2, 4, 6))
    for a in conds:
        for b in unconds:
            torch.testing.assert_close(guided(recorder(), a, b, 2.0)(latent, t), want)


def test_guidance_is_added_up_in_float32():
    got = guided(lambda x, t, c: x.bfloat16(), randn(1, 2), randn(2), 2.0)(
        randn(1, 1, 2, 2), torch.tensor([0])
    )
    assert got.dtype == torch.float32


def test_conditions_that_do_not_fit_are_value_errors(recorder):
    model = recorder()
    for cond, uncond in ((randn(6), randn(6)), (randn(2, 6), randn(5)), (randn(2, 6), randn(3, 6))):
        with pytest.raises(ValueError, match="cond"):
            guided(model, cond, uncond, 2.0)
    with pytest.raises(ValueError, match="cond"):
        guided(model, randn(2, 3, 6), randn(2, 4, 6), 2.0)
    with pytest.raises(ValueError, match="latent"):
        guided(model, randn(2, 6), randn(6), 2.0)(randn(3, 1, 4, 2), torch.tensor([0, 0, 0]))


def test_outside_the_interval_the_condition_goes_alone(recorder):
    model, latent, cond = recorder(), randn(2, 1, 4, 2), torch.tensor([[1.0], [2.0]])
    predict = guided(model, cond, torch.tensor([0.5]), 3.0, interval=(200.0, 800.0))
    for t in (900, 800, 500, 200, 100):
        predict(latent, torch.tensor([t, t]))
    assert [len(call[0]) for call in model.calls] == [2, 4, 4, 4, 2]
    torch.testing.assert_close(model.calls[0][2], cond)
