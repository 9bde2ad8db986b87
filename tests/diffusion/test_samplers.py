"""Samplers against diffusers, against eq. 3, and against Gaussians whose denoiser is known."""

import diffusers
import pytest
import torch
from torch import Tensor

from soundcrafter.diffusion.guidance import prediction_to_denoiser
from soundcrafter.diffusion.samplers import SAMPLERS, sample_ddim, sample_dpmpp, sample_euler
from soundcrafter.diffusion.schedule import DiffusionConfig, Schedule

OBJECTIVES = ("epsilon", "v", "flow")
PREDICTION_TYPES = {"epsilon": "epsilon", "v": "v_prediction"}


def schedule(**settings) -> Schedule:
    return Schedule(DiffusionConfig(**settings))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


def test_ddim_with_eta_1_over_all_steps_is_eq_3():
    ours = schedule(steps=40, beta_start=0.01, beta_end=0.2)
    denoise = prediction_to_denoiser(toy, ours)
    noises = [randn(2, 1, 4, 4, seed=100 + i).double() for i in range(40)]
    x = x_start = randn(2, 1, 4, 4).double()
    times = ours.sampling_times(40)
    for i, t in enumerate(times):
        mean, variance = ours.posterior(denoise(x, t)[0], x, t)
        x = mean + variance.sqrt() * noises[i]
    got = sample_ddim(denoise, x_start, times, ours, eta=1.0, noise=lambda step: noises[step])
    torch.testing.assert_close(got, x, rtol=1e-9, atol=1e-9)


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


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_dpmpp_is_of_second_order_on_a_known_gaussian(objective):
    """Between two times away from both ends, where the logarithms are finite and smooth."""
    ours, mean, std = schedule(objective=objective), 0.7, 0.4
    denoise = prediction_to_denoiser(gaussian_predict(ours, mean, std), ours)
    x = randn(1, 1, 8, 8).double()
    errors = {}
    for sampler in (sample_euler, sample_dpmpp):
        ends = []
        for num_steps in (50, 100, 400):
            stops: list[Tensor] = []

            def watched(x, t, stops=stops):
                stops.append(x)
                return denoise(x, t)

            times = torch.linspace(800, 200, num_steps + 1).round()
            sampler(watched, x, times if ours.is_flow else times.long(), ours)
            ends.append(stops[-1])  # at time 200, before the step to the end
        errors[sampler] = [(end - ends[-1]).abs().max().item() for end in ends[:2]]
    assert errors[sample_dpmpp][1] < 0.4 * errors[sample_dpmpp][0]
    assert errors[sample_dpmpp][1] < 0.2 * errors[sample_euler][1]


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
        alpha, sigma = ours.coefficients(times[:1], torch.float64)
        exact = mean + std * (x - alpha * mean) / (alpha**2 * std**2 + sigma**2).sqrt()
        got = sample_euler(denoise, x, times, ours)
        errors.append((got - exact).abs().max().item())
    assert errors[0] < 0.15
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_samples_of_a_known_gaussian_have_its_mean_and_std(objective, eta):
    ours, mean, std = schedule(objective=objective), -1.3, 0.5
    denoise = prediction_to_denoiser(gaussian_predict(ours, mean, std), ours)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 1, 50, 20, generator=generator)
    got = sample_ddim(
        denoise,
        x,
        ours.sampling_times(1000),
        ours,
        eta=eta,
        noise=lambda step: torch.randn(x.shape, generator=generator),
    )
    assert got.mean().item() == pytest.approx(mean, abs=0.02)
    assert got.std().item() == pytest.approx(std, rel=0.03)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_samples_do_not_depend_on_their_batch(name):
    ours = schedule(objective="v")
    denoise, times = prediction_to_denoiser(toy, ours), ours.sampling_times(5)
    x = randn(3, 2, 4, 4)
    together = SAMPLERS[name](denoise, x, times, ours)
    alone = torch.cat([SAMPLERS[name](denoise, x[i : i + 1], times, ours) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_callback_counts_every_step_and_the_input_is_kept(name):
    ours, x = schedule(), randn(1, 1, 2, 2)
    before, calls = x.clone(), []
    denoise = prediction_to_denoiser(toy, ours)
    SAMPLERS[name](
        denoise, x, ours.sampling_times(3), ours, callback=lambda *call: calls.append(call)
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(x, before)


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


def test_bad_times_and_bad_ends_are_value_errors():
    ours, flow, x = schedule(), schedule(objective="flow"), randn(1, 1, 2, 2)
    denoise = prediction_to_denoiser(toy, ours)
    for times in (torch.tensor([1, 5]), torch.tensor([], dtype=torch.int64), torch.tensor(5)):
        with pytest.raises(ValueError, match="times"):
            sample_euler(denoise, x, times, ours)
    with pytest.raises(ValueError, match="times"):
        sample_ddim(prediction_to_denoiser(toy, flow), x, torch.tensor([500.0, 0.0]), flow)
    with pytest.raises(ValueError, match="final_alpha_bar"):
        sample_ddim(denoise, x, torch.tensor([5]), ours, final_alpha_bar=0.0)
    with pytest.raises(ValueError, match="final_alpha_bar"):
        sample_ddim(denoise, x, torch.tensor([5.0]), flow, final_alpha_bar=0.9)
