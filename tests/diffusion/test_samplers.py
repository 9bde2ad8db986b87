"""Samplers against diffusers, against eq. 3, and against Gaussians whose denoiser is known."""

import math

import diffusers
import pytest
import torch
from torch import Tensor

from soundcrafter.diffusion.config import DiffusionConfig
from soundcrafter.diffusion.guidance import prediction_to_denoiser
from soundcrafter.diffusion.samplers import (
    SAMPLERS,
    Noise,
    sample_ddim,
    sample_ddpm,
    sample_dpmpp,
    sample_euler,
    sample_heun,
    sample_lcm,
)
from soundcrafter.diffusion.schedule import Schedule

OBJECTIVES = ("epsilon", "v", "flow")
PREDICTION_TYPES = {"epsilon": "epsilon", "v": "v_prediction"}


def schedule(**settings) -> Schedule:
    return Schedule(DiffusionConfig(**settings))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draws(*shape: int, seed: int = 1) -> Noise:
    """A noise function that draws in turn from one generator, as a diffusers step does."""
    generator = torch.Generator().manual_seed(seed)
    return lambda step: torch.randn(*shape, generator=generator)


def toy(x: Tensor, t: Tensor) -> Tensor:
    """A smooth nonlinear stand-in for a network, in which neighbours in a sample interact."""
    t = t.reshape(-1, *[1] * (x.ndim - 1))
    return torch.tanh(0.9 * x + 0.3 * x.roll(1, -1)) + 0.1 * torch.sin(x * 2 + t / 100)


def gaussian_predict(schedule: Schedule, mean: float, std: float):
    """The best prediction where every value of x0 is N(mean, std^2)."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.coefficients(t.reshape(-1, *[1] * (x.ndim - 1)), x.dtype)
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        x0 = mean + gain * (x - alpha * mean)
        return schedule.target(x0, (x - alpha * x0) / sigma, t)

    return predict


def stochastic_options(name: str, x: Tensor) -> dict[str, Noise]:
    return {"noise": draws(*x.shape)} if SAMPLERS[name].adds_noise else {}


def gaussian_ode(
    schedule: Schedule, mean: float, std: float, x: Tensor, start: Tensor, end: Tensor | None = None
) -> Tensor:
    """Where that Gaussian's ODE takes x from time start to time end, or to x0: it keeps the
    number of standard deviations to the mean."""
    alpha, sigma = schedule.coefficients(start, x.dtype)
    deviations = (x - alpha * mean) / (alpha**2 * std**2 + sigma**2).sqrt()
    if end is None:
        return mean + std * deviations
    alpha, sigma = schedule.coefficients(end, x.dtype)
    return alpha * mean + (alpha**2 * std**2 + sigma**2).sqrt() * deviations


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("betas", ["linear", "scaled_linear"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("objective", ["epsilon", "v"])
def test_ddim_equals_diffusers_along_the_trajectory(objective, eta, betas):
    ours = schedule(objective=objective, betas=betas)
    theirs = diffusers.DDIMScheduler(
        1000,
        0.0015,
        0.0195,
        betas,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=PREDICTION_TYPES[objective],
    )
    theirs.set_timesteps(20)
    noises = [randn(2, 8, 6, 4, seed=100 + i) for i in range(20)]
    x = x_start = randn(2, 8, 6, 4)
    expected = [x]
    for i, t in enumerate(theirs.timesteps):
        step = theirs.step(toy(x, t), t, x, eta=eta, variance_noise=noises[i] if eta else None)
        x = step.prev_sample
        expected.append(x)

    seen: list[Tensor] = []
    denoise = prediction_to_denoiser(toy, ours)

    def watched(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(x)
        return denoise(x, t)

    times = ours.sampling_times(20, "leading")
    final = ours.alpha_bar[0].item()
    result = sample_ddim(
        watched,
        x_start,
        times,
        ours,
        eta=eta,
        noise=lambda step: noises[step],
        final_alpha_bar=final,
    )
    for got, want in zip([*seen, result], expected, strict=True):
        assert relative(got, want) < 1e-5


def test_ddim_with_eta_1_over_all_steps_is_the_posterior_of_eq_3():
    ours = schedule(steps=40, beta_start=0.01, beta_end=0.2)
    denoise = prediction_to_denoiser(toy, ours)
    noises = [randn(2, 1, 4, 4, seed=100 + i).double() for i in range(40)]
    x = x_start = randn(2, 1, 4, 4).double()
    times = ours.sampling_times(40)
    for i, t in enumerate(times):
        beta, left = ours.betas[t], 1 - ours.alpha_bar[t]
        before = ours.alpha_bar[t - 1] if t > 0 else torch.ones(())
        x0, _ = denoise(x, t)
        mean = (before.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - before) * x) / left
        x = mean + (beta * (1 - before) / left).sqrt() * noises[i]
    got = sample_ddim(denoise, x_start, times, ours, eta=1.0, noise=lambda step: noises[step])
    torch.testing.assert_close(got, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_steps", [1, 7, 50])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("objective", ["epsilon", "v"])
def test_ddpm_equals_diffusers(objective, spacing, num_steps):
    ours = schedule(objective=objective)
    theirs = diffusers.DDPMScheduler(
        1000,
        0.0015,
        0.0195,
        "linear",
        variance_type="fixed_small",
        clip_sample=False,
        prediction_type=PREDICTION_TYPES[objective],
        timestep_spacing=spacing,
        steps_offset=1,
    )
    theirs.set_timesteps(num_steps)
    times = ours.sampling_times(num_steps, spacing)
    assert theirs.timesteps.tolist() == times.tolist()
    x = x_start = randn(2, 8, 6, 4)
    generator = torch.Generator().manual_seed(1)
    for t in theirs.timesteps:
        x = theirs.step(toy(x, t), t, x, generator=generator).prev_sample
    denoise = prediction_to_denoiser(toy, ours)
    got = sample_ddpm(denoise, x_start, times, ours, noise=draws(2, 8, 6, 4, seed=1))
    assert relative(got, x) < 1e-5


def test_euler_equals_diffusers_flow_matching():
    ours = schedule(objective="flow")
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(1000)
    times = ours.sampling_times(20)
    theirs.set_timesteps(sigmas=(times / 1000).tolist())
    x = x_start = randn(2, 8, 6, 4)
    for t in theirs.timesteps:
        x = theirs.step(toy(x, t), t, x).prev_sample
    got = sample_euler(prediction_to_denoiser(toy, ours), x_start, times, ours)
    assert relative(got, x) < 1e-5


def test_euler_on_a_constant_velocity_is_exact():
    ours = schedule(objective="flow")
    denoise = prediction_to_denoiser(lambda x, t: torch.full_like(x, 2.5), ours)
    x = randn(2, 1, 4, 4)
    got = sample_euler(denoise, x, ours.sampling_times(7), ours)
    torch.testing.assert_close(got, x - 2.5)


def test_euler_equals_diffusers_euler_on_a_variance_preserving_schedule():
    ours = schedule(objective="v")
    theirs = diffusers.EulerDiscreteScheduler(
        1000, 0.0015, 0.0195, "linear", prediction_type="v_prediction", timestep_spacing="trailing"
    )
    theirs.set_timesteps(20)
    times = ours.sampling_times(20)
    assert theirs.timesteps.long().tolist() == times.tolist()
    x_start = randn(2, 8, 6, 4)
    # theirs holds x / alpha and shows the model x
    alpha, _ = ours.coefficients(times[0])
    x = x_start / alpha
    for t in theirs.timesteps:
        x = theirs.step(toy(theirs.scale_model_input(x, t), t), t, x).prev_sample
    got = sample_euler(prediction_to_denoiser(toy, ours), x_start, times, ours)
    assert relative(got, x) < 1e-4  # their tables are float32


def watched_toy(seen: list[float]):
    """`toy`, and the times it was asked about."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t.flatten()[0].item())
        return toy(x, t)

    return predict


@pytest.mark.parametrize("num_steps", [1, 5, 20, 50])
def test_heun_equals_diffusers_flow_matching(num_steps):
    ours, seen = schedule(objective="flow"), []
    theirs = diffusers.FlowMatchHeunDiscreteScheduler(1000)
    theirs.set_timesteps(num_steps)
    times = theirs.timesteps.unique().flip(0)  # theirs end at 1, where ours need not
    assert len(times) == num_steps
    x = x_start = randn(2, 8, 6, 4)
    for t in theirs.timesteps:
        x = theirs.step(toy(x, t), t, x).prev_sample
    got = sample_heun(prediction_to_denoiser(watched_toy(seen), ours), x_start, times, ours)
    assert seen == theirs.timesteps.tolist()
    assert relative(got, x) < 1e-5


@pytest.mark.parametrize("num_steps", [5, 20, 50])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("objective", ["epsilon", "v"])
def test_heun_equals_diffusers_on_a_variance_preserving_schedule(objective, spacing, num_steps):
    ours, seen = schedule(objective=objective), []
    theirs = diffusers.HeunDiscreteScheduler(
        1000,
        0.0015,
        0.0195,
        "linear",
        prediction_type=PREDICTION_TYPES[objective],
        timestep_spacing=spacing,
        steps_offset=1,
    )
    theirs.set_timesteps(num_steps)
    times = ours.sampling_times(num_steps, spacing)
    x_start = randn(2, 8, 6, 4)
    # theirs holds x / alpha and shows the model x
    alpha, _ = ours.coefficients(times[0])
    x = x_start / alpha
    for t in theirs.timesteps:
        x = theirs.step(toy(theirs.scale_model_input(x, t), t), t, x).prev_sample
    got = sample_heun(prediction_to_denoiser(watched_toy(seen), ours), x_start, times, ours)
    assert seen == theirs.timesteps.tolist()
    assert relative(got, x) < 1e-5


def test_dpmpp_equals_diffusers_on_a_variance_preserving_schedule():
    ours = schedule(objective="v")
    theirs = diffusers.DPMSolverMultistepScheduler(
        1000,
        0.0015,
        0.0195,
        "linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    theirs.set_timesteps(20)
    times = ours.sampling_times(20)
    assert theirs.timesteps.tolist() == times.tolist()
    x = x_start = randn(2, 8, 6, 4)
    for t in theirs.timesteps:
        x = theirs.step(toy(x, t), t, x).prev_sample
    got = sample_dpmpp(prediction_to_denoiser(toy, ours), x_start, times, ours)
    assert relative(got, x) < 1e-5


@pytest.mark.parametrize("num_steps", [1, 4, 8])
@pytest.mark.parametrize("objective", ["epsilon", "v"])
def test_lcm_equals_diffusers(objective, num_steps):
    ours = schedule(objective=objective)
    theirs = diffusers.LCMScheduler(
        1000, 0.0015, 0.0195, "linear", prediction_type=PREDICTION_TYPES[objective]
    )
    theirs.set_timesteps(num_steps)
    x = x_start = randn(2, 8, 6, 4)
    generator = torch.Generator().manual_seed(1)
    for t in theirs.timesteps:
        x = theirs.step(toy(x, t), t, x, generator=generator).prev_sample
    got = sample_lcm(
        prediction_to_denoiser(toy, ours),
        x_start,
        theirs.timesteps,
        ours,
        noise=draws(2, 8, 6, 4, seed=1),
    )
    assert relative(got, x) < 1e-5


@pytest.mark.parametrize("num_steps", [1, 4, 8])
def test_lcm_equals_diffusers_flow_matching(num_steps):
    ours = schedule(objective="flow")
    theirs = diffusers.FlowMatchLCMScheduler(1000)
    times = ours.sampling_times(num_steps)
    theirs.set_timesteps(timesteps=times.tolist())
    x = x_start = randn(2, 8, 6, 4)
    generator = torch.Generator().manual_seed(1)
    for t in theirs.timesteps:
        x = theirs.step(toy(x, t), t, x, generator=generator).prev_sample
    denoise = prediction_to_denoiser(toy, ours)
    # theirs has no boundary condition, which has no effect at these times
    got = sample_lcm(denoise, x_start, times, ours, noise=draws(2, 8, 6, 4, seed=1))
    assert relative(got, x) < 1e-5


def test_lcm_keeps_what_has_no_noise():
    ours, x, times = schedule(), randn(2, 1, 4, 4), torch.tensor([0])
    denoise = prediction_to_denoiser(toy, ours)
    assert torch.equal(sample_lcm(denoise, x, times, ours, noise=draws()), x)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpmpp", 2)])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_orders_of_convergence_on_a_known_gaussian(objective, name, order):
    """Between two times away from both ends, where the slopes are finite and smooth."""
    ours, mean, std = schedule(objective=objective), 0.7, 0.4
    denoise = prediction_to_denoiser(gaussian_predict(ours, mean, std), ours)
    x = randn(1, 1, 8, 8).double()
    counts, errors = (60, 120, 300), []
    for num_steps in counts:
        stops: list[Tensor] = []

        def watched(x, t, stops=stops):
            stops.append(x)
            return denoise(x, t)

        times = torch.arange(800, 199, -600 // num_steps)
        times = times.float() if ours.is_flow else times
        SAMPLERS[name].function(watched, x, times, ours)
        exact = gaussian_ode(ours, mean, std, x, times[0], times[-1])
        errors.append((stops[-1] - exact).abs().max().item())  # before the step to the end
    slopes = [
        math.log(errors[i] / errors[i + 1]) / math.log(counts[i + 1] / counts[i]) for i in range(2)
    ]
    # dpmpp's slope on flow comes down to 2 from above, for its first steps are long ones there
    assert all(order - 0.1 < slope < order + 0.5 for slope in slopes), slopes
    assert errors[-1] < (5e-3 if order == 1 else 2e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_euler_and_deterministic_ddim_are_one_method(objective):
    ours = schedule(objective=objective)
    denoise, times = prediction_to_denoiser(toy, ours), ours.sampling_times(15)
    x = randn(2, 1, 4, 4).double()
    torch.testing.assert_close(
        sample_ddim(denoise, x, times, ours), sample_euler(denoise, x, times, ours)
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_known_gaussian_is_recovered_value_by_value(objective):
    """The ODE of a Gaussian has a closed form, and Euler's error falls as one over the steps."""
    ours, mean, std = schedule(objective=objective), 0.7, 0.4
    denoise = prediction_to_denoiser(gaussian_predict(ours, mean, std), ours)
    x = randn(1, 1, 8, 8).double()
    errors = []
    for num_steps in (100, 200):
        times = ours.sampling_times(num_steps)
        exact = gaussian_ode(ours, mean, std, x, times[0])
        got = sample_euler(denoise, x, times, ours)
        errors.append((got - exact).abs().max().item())
    assert errors[0] < 0.15
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize(("name", "num_steps"), [("ddim", 1000), ("ddpm", 1000), ("heun", 200)])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_samples_of_a_known_gaussian_have_its_mean_and_std(objective, name, num_steps):
    ours, mean, std = schedule(objective=objective), -1.3, 0.5
    denoise = prediction_to_denoiser(gaussian_predict(ours, mean, std), ours)
    x, times = randn(20, 1, 50, 20), ours.sampling_times(num_steps)
    got = SAMPLERS[name].function(denoise, x, times, ours, **stochastic_options(name, x))
    assert got.mean().item() == pytest.approx(mean, abs=0.02)
    assert got.std().item() == pytest.approx(std, rel=0.03)


@pytest.mark.parametrize("num_steps", [1, 2, 8])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_lcm_samples_a_known_gaussian_where_the_network_is_consistent(objective, num_steps):
    """A perfect consistency model follows the ODE in one jump; the best denoiser is no such."""
    ours, mean, std = schedule(objective=objective), -1.3, 0.5
    x, times = randn(20, 1, 50, 20), ours.sampling_times(num_steps)

    def jump(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return gaussian_ode(ours, mean, std, x, t), torch.full_like(x, math.nan)

    got = sample_lcm(jump, x, times, ours, noise=draws(*x.shape))
    assert got.mean().item() == pytest.approx(mean, abs=0.02)
    assert got.std().item() == pytest.approx(std, rel=0.03)

    ordinary = prediction_to_denoiser(gaussian_predict(ours, mean, std), ours)
    got = sample_lcm(ordinary, x, times, ours, noise=draws(*x.shape))
    assert got.mean().item() == pytest.approx(mean, abs=0.02)
    assert got.std().item() < 0.8 * std


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_samples_do_not_depend_on_their_batch(name):
    ours = schedule(objective="v")
    denoise, times = prediction_to_denoiser(toy, ours), ours.sampling_times(5)
    x = randn(3, 2, 4, 4)

    def sample(part: slice) -> Tensor:
        noise = {"noise": lambda step: randn(3, 2, 4, 4, seed=9 + step)[part]}
        return SAMPLERS[name].function(
            denoise, x[part], times, ours, **noise if SAMPLERS[name].adds_noise else {}
        )

    together = sample(slice(3))
    alone = torch.cat([sample(slice(i, i + 1)) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_callback_counts_every_step_and_the_input_is_kept(name):
    ours, x = schedule(), randn(1, 1, 2, 2)
    before, calls = x.clone(), []
    denoise = prediction_to_denoiser(toy, ours)
    SAMPLERS[name].function(
        denoise,
        x,
        ours.sampling_times(3),
        ours,
        callback=lambda *call: calls.append(call),
        **stochastic_options(name, x),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_stochastic_samplers_are_those_that_need_noise_and_use_it(name):
    ours, x, asked = schedule(), randn(1, 1, 2, 2), []
    denoise, times = prediction_to_denoiser(toy, ours), ours.sampling_times(3)
    if not SAMPLERS[name].adds_noise:
        first, again = (SAMPLERS[name].function(denoise, x, times, ours) for _ in range(2))
        assert torch.equal(first, again)
        return

    def noise(step: int, seed: int) -> Tensor:
        asked.append(step)
        return randn(1, 1, 2, 2, seed=seed + step)

    first = SAMPLERS[name].function(denoise, x, times, ours, noise=lambda step: noise(step, 10))
    assert asked == [0, 1]  # the last step ends without noise
    other = SAMPLERS[name].function(denoise, x, times, ours, noise=lambda step: noise(step, 20))
    assert not torch.allclose(first, other)
    with pytest.raises(ValueError, match="noise"):
        SAMPLERS[name].function(denoise, x, times, ours)


def test_stochastic_ddim_needs_noise_and_asks_for_it_where_it_is_used():
    ours, x, asked = schedule(), randn(1, 1, 2, 2), []
    denoise, times = prediction_to_denoiser(toy, ours), ours.sampling_times(3)

    def noise(step: int) -> Tensor:
        asked.append(step)
        return randn(1, 1, 2, 2, seed=step)

    sample_ddim(denoise, x, times, ours, eta=0.5, noise=noise)
    assert asked == [0, 1]  # the last step ends without noise
    with pytest.raises(ValueError, match="noise"):
        sample_ddim(denoise, x, times, ours, eta=0.5)
    with pytest.raises(ValueError, match="eta"):
        sample_ddim(denoise, x, times, ours, eta=1.5, noise=noise)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_bad_times_are_value_errors(name):
    ours, flow, x = schedule(), schedule(objective="flow"), randn(1, 1, 2, 2)
    options = stochastic_options(name, x)
    for times in (torch.tensor([1, 5]), torch.tensor([], dtype=torch.int64), torch.tensor(5)):
        with pytest.raises(ValueError, match="times"):
            SAMPLERS[name].function(prediction_to_denoiser(toy, ours), x, times, ours, **options)
    ends = torch.tensor([500.0, 0.0])
    with pytest.raises(ValueError, match="times"):
        SAMPLERS[name].function(prediction_to_denoiser(toy, flow), x, ends, flow, **options)


def test_bad_ends_are_value_errors():
    ours, flow, x = schedule(), schedule(objective="flow"), randn(1, 1, 2, 2)
    denoise = prediction_to_denoiser(toy, ours)
    with pytest.raises(ValueError, match="final_alpha_bar"):
        sample_ddim(denoise, x, torch.tensor([5]), ours, final_alpha_bar=0.0)
    with pytest.raises(ValueError, match="final_alpha_bar"):
        sample_ddim(denoise, x, torch.tensor([5.0]), flow, final_alpha_bar=0.9)
