"""Sampling in NumPy does what it does in torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from soundcrafter.diffusion.config import DiffusionConfig, SamplingConfig
from soundcrafter.diffusion.sample import sample as torch_sample
from soundcrafter.diffusion.samplers import SAMPLERS
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.onnx.sampling import ArraySchedule, sample

NOISE = np.random.default_rng(0).standard_normal((2, 4, 24, 4), np.float32)
COND = np.random.default_rng(1).standard_normal((2, 4), np.float32)
UNCOND = -COND[::-1].copy()


def torch_model(latent, t, cond):
    """A function of everything that a U-Net sees, with context along time."""
    near = torch.nn.functional.avg_pool1d(latent.flatten(1, 1).mean(3), 5, 1, 2)[..., None]
    return torch.tanh(latent * 0.3 + near + cond[:, :, None, None] + t[:, None, None, None] / 500)


def array_model(latent, t, cond):
    return torch_model(*(torch.from_numpy(np.asarray(x)) for x in (latent, t, cond))).numpy()


def both(diffusion: DiffusionConfig, settings: SamplingConfig, window: int, limit: int):
    seeds, schedule = (3, 2**40), Schedule(diffusion)
    noise, cond, uncond = (torch.from_numpy(x) for x in (NOISE, COND, UNCOND))
    wanted = torch_sample(
        lambda x, t, c: torch_model(x, t.float(), c),
        schedule,
        settings,
        noise,
        cond,
        uncond=uncond,
        seeds=seeds,
        window=window,
        batch_limit=limit,
    )
    found = sample(
        array_model,
        ArraySchedule(diffusion),
        settings,
        NOISE,
        COND,
        UNCOND,
        seeds=seeds,
        window=window,
        batch_limit=limit,
    )
    return found, wanted.numpy()


@pytest.mark.parametrize("objective", ["epsilon", "v", "flow"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler(sampler, objective):
    settings = SamplingConfig(sampler=sampler, steps=5, guidance=3.0)
    found, wanted = both(DiffusionConfig(objective=objective), settings, 64, 8)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "changes",
    [
        {"spacing": "leading"},
        {"spacing": "linspace"},
        {"end": "first_step"},
        {"guidance": 1.0},
        {"guidance_from": 0.3, "guidance_until": 0.7},
    ],
    ids=str,
)
def test_settings(changes):
    settings = replace(SamplingConfig(steps=6), **changes)
    found, wanted = both(DiffusionConfig(betas="scaled_linear"), settings, 64, 8)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_long_latents_in_windows_and_large_batches_in_parts():
    found, wanted = both(DiffusionConfig(), SamplingConfig(steps=3), 10, 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_more_steps_than_the_schedule_has_are_refused():
    with pytest.raises(ValueError, match="steps: got 11; allowed: 1 to 10"):
        ArraySchedule(DiffusionConfig(steps=10)).sampling_times(11, "trailing")
