"""From noise to a latent: what the settings do, given latents, and masks."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from soundcrafter.diffusion.config import DiffusionConfig, SamplingConfig
from soundcrafter.diffusion.guidance import guided, prediction_to_denoiser
from soundcrafter.diffusion.sample import sample, step_noise
from soundcrafter.diffusion.samplers import SAMPLERS, sample_ddim
from soundcrafter.diffusion.schedule import Schedule

OBJECTIVES = ("epsilon", "v", "flow")
SEEDS = (5, 6)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


NOISE, START, COND, UNCOND = (
    randn(2, 3, 16, 4),
    randn(2, 3, 16, 4, seed=1),
    randn(2, 6, seed=2),
    randn(6, seed=3),
)


def toy(latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    """A smooth stand-in for a U-Net in which neighbouring frames interact."""
    if cond.ndim == 3:
        shift = torch.nn.functional.interpolate(cond.mT, latent.shape[2], mode="linear").mean(1)
        shift = shift[:, None, :, None]
    else:
        shift = cond.mean(1).reshape(-1, 1, 1, 1)
    return torch.tanh(latent + 0.2 * latent.roll(1, 2) + shift) + 0.1 * torch.sin(t / 100).reshape(
        -1, 1, 1, 1
    )


def make(objective: str = "v", noise: Tensor = NOISE, cond: Tensor = COND, **options) -> Tensor:
    settings = {
        name: options.pop(name)
        for name in [field.name for field in dataclasses.fields(SamplingConfig)]
        if name in options and name != "window"
    }
    config = SamplingConfig(**{"steps": 6, "guidance": 2.0, **settings})
    given = {"uncond": UNCOND, "seeds": SEEDS, **options}
    schedule = Schedule(DiffusionConfig(objective=objective))
    return sample(given.pop("model", toy), schedule, config, noise, cond, **given)


def test_it_is_the_sampler_over_a_guided_model():
    schedule = Schedule(DiffusionConfig(objective="v"))
    predict = guided(toy, COND, UNCOND, 2.0)
    times = schedule.sampling_times(6, "leading")
    want = sample_ddim(prediction_to_denoiser(predict, schedule), NOISE, times, schedule)
    assert torch.equal(make(spacing="leading"), want)
    end = float(schedule.alpha_bar[0])
    want = sample_ddim(
        prediction_to_denoiser(predict, schedule), NOISE, times, schedule, final_alpha_bar=end
    )
    assert torch.equal(make(spacing="leading", end="first_step"), want)


def test_guidance_keeps_to_its_interval():
    rows = []

    def model(latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        rows.append(len(latent))
        return toy(latent, t, cond)

    make(model=model, steps=10, guidance_from=0.25, guidance_until=0.75)
    assert rows == [2, 2, 2, 4, 4, 4, 4, 4, 2, 2]  # times 999, 899, ..., 99


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_sample_does_not_depend_on_its_batch(sampler):
    together = make(sampler=sampler)
    for i in range(2):
        one = slice(i, i + 1)
        alone = make(sampler=sampler, noise=NOISE[one], cond=COND[one], seeds=SEEDS[one])
        torch.testing.assert_close(alone, together[one], rtol=1e-5, atol=1e-5)
    parts = make(sampler=sampler, batch_limit=1)
    torch.testing.assert_close(parts, together, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddpm", "lcm"])
def test_seeds_choose_the_noise_that_is_added(sampler):
    assert not torch.allclose(make(sampler=sampler), make(sampler=sampler, seeds=(5, 7)))
    with pytest.raises(ValueError, match="seeds: got 0 for 2 samples; expected one per sample"):
        make(sampler=sampler, seeds=())


def test_step_noise_is_a_function_of_seed_and_step():
    noise = step_noise([3, 4], NOISE)
    assert torch.equal(noise(1)[1:], step_noise([4], NOISE[:1])(1))
    assert not torch.equal(noise(0), noise(1))


def test_a_constant_timeline_is_its_vector():
    timeline = COND[:, None].expand(2, 5, 6)
    for window in (None, 8):
        want, got = make(window=window), make(cond=timeline, window=window)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    ramp = torch.stack([COND, -COND], 1)
    assert not torch.allclose(make(cond=ramp), make(), atol=0.1)


def test_long_latents_are_denoised_in_windows():
    frames = []

    def model(latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        frames.append(latent.shape[2])
        return toy(latent, t, cond)

    got = make(model=model, window=8)
    assert set(frames) == {8}
    assert got.shape == NOISE.shape
    assert not torch.equal(got, make())
    assert torch.equal(make(window=16), make())


def test_the_callback_counts_the_steps_that_are_taken():
    calls = []
    make(callback=lambda *call: calls.append(call))
    assert calls == [(i, 6) for i in range(1, 7)]
    calls.clear()
    make(start=START, strength=0.5, callback=lambda *call: calls.append(call))
    assert calls == [(i, 3) for i in range(1, 4)]


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_mask_of_ones_changes_nothing(objective, sampler):
    plain = make(objective, sampler=sampler)
    whole = make(objective, sampler=sampler, start=START, mask=torch.ones(1, 1, 16, 1))
    torch.testing.assert_close(whole, plain, rtol=0, atol=0)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_where_the_mask_is_zero_the_given_latent_stays(objective, sampler):
    mask = torch.zeros(1, 1, 16, 1, dtype=torch.bool)
    mask[:, :, 6:11] = True
    got = make(objective, sampler=sampler, start=START, mask=mask)
    assert torch.equal(got[:, :, :6], START[:, :, :6])
    assert torch.equal(got[:, :, 11:], START[:, :, 11:])
    assert not torch.allclose(got[:, :, 6:11], START[:, :, 6:11], atol=0.1)
    # what is made anew sees what is kept
    other = make(objective, sampler=sampler, start=START + 1, mask=mask)
    assert not torch.allclose(got[:, :, 6:11], other[:, :, 6:11], atol=1e-3)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_is_kept_has_the_noise_of_each_step(objective, sampler):
    schedule, seen = Schedule(DiffusionConfig(objective=objective)), []

    def model(latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        alpha, sigma = schedule.coefficients(t[0])
        seen.append(((latent[:2] - alpha * START) / sigma)[:, :, :8])
        return toy(latent, t, cond)

    make(objective, sampler=sampler, model=model, start=START, mask=torch.arange(16)[:, None] >= 8)
    for eps in seen:
        assert eps.std().item() == pytest.approx(1, abs=0.2)
        if not SAMPLERS[sampler].adds_noise:  # they keep their initial noise
            torch.testing.assert_close(eps, NOISE[:, :, :8], rtol=1e-2, atol=1e-2)


def test_a_soft_mask_lies_between():
    mask = torch.linspace(0, 1, 16)[:, None]
    got = make(start=START, mask=mask)
    assert torch.equal(got[:, :, 0], START[:, :, 0])
    assert torch.isfinite(got).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_strength_goes_from_the_start_to_noise(objective):
    given = {"start": START, "steps": 20}
    assert torch.equal(make(objective, strength=0.0, **given), START)
    assert torch.equal(make(objective, strength=1.0, **given), make(objective, steps=20))
    away = [
        (make(objective, strength=strength, **given) - START).norm().item()
        for strength in (0.05, 0.3, 0.9)
    ]
    assert 0 < away[0] < away[1] < away[2]


def test_strength_begins_at_the_noised_start():
    schedule, seen = Schedule(DiffusionConfig(objective="v")), []

    def model(latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        seen.append((latent[:2], t[0]))
        return toy(latent, t, cond)

    make(model=model, start=START, strength=0.5)
    latent, t = seen[0]
    assert t == schedule.sampling_times(6)[3]
    assert torch.equal(latent, schedule.add_noise(START, NOISE, t))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 1.5, "start": START}, "strength: got 1.5; allowed: 0 to 1"),
        ({"strength": math.nan, "start": START}, "strength: got nan"),
        ({"strength": 0.5}, "start: required"),
        ({"mask": torch.ones(1)}, "start: required"),
        ({"steps": 1001}, "steps: got 1001"),
    ],
)
def test_what_does_not_fit_is_a_value_error(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
