"""The schedule's tables, eq. 2 and eq. 3, the objectives and the sampling times."""

import diffusers
import pytest
import torch

from soundcrafter.diffusion.config import DiffusionConfig
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.settings import from_dict, to_dict

OBJECTIVES = ("epsilon", "v", "flow")


def schedule(**settings) -> Schedule:
    return Schedule(DiffusionConfig(**settings))


def times_for(schedule: Schedule) -> torch.Tensor:
    times = torch.tensor([1, 400, 999])
    return times.float() if schedule.is_flow else times


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_last_alpha_bar_of_both_beta_schedules():
    assert schedule(betas="scaled_linear").alpha_bar[-1].item() == pytest.approx(1.4e-4, rel=0.03)
    assert schedule(betas="linear").alpha_bar[-1].item() == pytest.approx(2.6e-5, rel=0.03)


@pytest.mark.parametrize("betas", ["linear", "scaled_linear"])
def test_tables_are_float64_and_equal_diffusers(betas):
    ours = schedule(betas=betas)
    theirs = diffusers.DDIMScheduler(1000, 0.0015, 0.0195, betas)
    assert ours.alpha_bar.dtype == ours.betas.dtype == torch.float64
    torch.testing.assert_close(ours.alpha_bar.float(), theirs.alphas_cumprod, rtol=2e-5, atol=0)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_coefficients_are_float32_of_ts_shape(objective):
    ours = schedule(objective=objective)
    alpha, sigma = ours.coefficients(times_for(ours))
    assert alpha.dtype == sigma.dtype == torch.float32
    assert alpha.shape == (3,)
    total = alpha + sigma if ours.is_flow else alpha**2 + sigma**2
    torch.testing.assert_close(total, torch.ones(3))
    assert ours.coefficients(times_for(ours)[0])[0].shape == ()


def test_eq_2_step_by_step_equals_the_closed_form():
    ours = schedule(steps=30, beta_start=0.01, beta_end=0.2)
    x0 = randn(2, 3, 4, 5).double()
    mean, variance = x0, torch.zeros(2, 1, 1, 1, dtype=torch.float64)
    zero, one = torch.zeros_like(x0), torch.ones_like(x0)
    for n in range(30):
        t = torch.full((2,), n)
        beta = ours.betas[n]  # one step is N(sqrt(1 - beta) z, beta I)
        mean = (1 - beta).sqrt() * mean
        variance = (1 - beta) * variance + beta
    t = torch.full((2,), 29)
    torch.testing.assert_close(mean, ours.add_noise(x0, zero, t))
    expected = ours.add_noise(zero, one, t)[:, :1, :1, :1] ** 2
    torch.testing.assert_close(variance, expected)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_denoised_inverts_add_noise_given_the_target(objective):
    ours = schedule(objective=objective)
    x0, noise, t = randn(3, 8, 4, 4), randn(3, 8, 4, 4, seed=1), times_for(ours)
    x_t = ours.add_noise(x0, noise, t)
    got_x0, got_eps = ours.denoised(ours.target(x0, noise, t), x_t, t)
    torch.testing.assert_close(got_x0, x0, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(got_eps, noise, rtol=1e-3, atol=1e-4)


def test_targets_equal_diffusers():
    x0, noise, t = randn(3, 8, 4, 4), randn(3, 8, 4, 4, seed=1), torch.tensor([1, 400, 999])
    theirs = diffusers.DDPMScheduler(1000, 0.0015, 0.0195, "linear")
    v = theirs.get_velocity(x0, noise, t)
    torch.testing.assert_close(schedule(objective="v").target(x0, noise, t), v)
    torch.testing.assert_close(
        schedule().add_noise(x0, noise, t), theirs.add_noise(x0, noise, t), rtol=1e-4, atol=1e-5
    )
    flow = schedule(objective="flow")
    early, late = (flow.add_noise(x0, noise, torch.tensor(at)) for at in (300.0, 301.0))
    slope = (late - early) * flow.config.steps
    torch.testing.assert_close(flow.target(x0, noise, t.float()), slope, rtol=1e-2, atol=1e-3)


def test_low_precision_latents_are_noised_in_float32():
    assert schedule().add_noise(*[randn(2, 1, 4, 4).bfloat16()] * 2, torch.tensor(3)).dtype == (
        torch.float32
    )


def test_draw_times_covers_every_step_evenly_and_never_overruns():
    ours = schedule(steps=10)
    u = torch.arange(1000, dtype=torch.float64) / 1000
    assert torch.bincount(ours.draw_times(u)).tolist() == [100] * 10
    below_one = torch.tensor([1 - 2**-24])
    assert schedule(steps=1000).draw_times(below_one).item() == 999
    t = schedule(objective="flow").draw_times(torch.tensor([0.0, 0.25]))
    assert t.tolist() == [0.0, 250.0]


@pytest.mark.parametrize("num_steps", [1, 7, 10, 25, 200, 500, 600])
def test_sampling_times_equal_diffusers(num_steps):
    for spacing in ("leading", "trailing", "linspace"):
        if (spacing, num_steps) == ("linspace", 1):
            continue  # theirs starts a single step at t = 0, where no noise is left to remove
        theirs = diffusers.DDIMScheduler(1000, timestep_spacing=spacing, steps_offset=1)
        theirs.set_timesteps(num_steps)
        ours = schedule().sampling_times(num_steps, spacing)
        assert ours.dtype == torch.int64
        assert ours.tolist() == theirs.timesteps.tolist(), spacing


def test_sampling_times_at_the_limits():
    every = list(range(999, -1, -1))
    for spacing in ("leading", "trailing", "linspace"):
        assert schedule().sampling_times(1000, spacing).tolist() == every
    assert schedule().sampling_times(1, "linspace").tolist() == [999]
    flow = schedule(objective="flow").sampling_times(4)
    assert flow.tolist() == [1000.0, 750.0, 500.0, 250.0]


def test_copies_made_in_inference_mode_serve_training():
    ours, t = schedule(objective="v"), torch.tensor(5)
    with torch.inference_mode():
        ours.coefficients(t)
    prediction = torch.ones(1, 1, 2, 2, requires_grad=True)
    ours.denoised(prediction, torch.ones(1, 1, 2, 2), t)[0].sum().backward()
    assert prediction.grad is not None


def test_config_round_trips_and_names_what_is_wrong():
    config = DiffusionConfig(objective="v", steps=50)
    assert from_dict(DiffusionConfig, to_dict(config)) == config
    wrong = ({"steps": 0}, {"beta_start": 0.5}, {"beta_end": 1.0}, {"betas": "x"})
    for settings in (*wrong, {"objective": "x"}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            from_dict(DiffusionConfig, settings)


def test_user_errors_are_value_errors():
    vp, flow, x = schedule(), schedule(objective="flow"), randn(2, 1, 4, 4)
    for bad in (torch.tensor([0.5]), torch.tensor([1000]), torch.tensor([-1])):
        with pytest.raises(ValueError, match=r"^t:"):
            vp.coefficients(bad)
    with pytest.raises(ValueError, match=r"^t:"):
        flow.coefficients(torch.tensor([1000.5]))
    with pytest.raises(ValueError, match="one per sample"):
        vp.add_noise(x, x, torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match="steps: got 1001"):
        vp.sampling_times(1001)
    with pytest.raises(ValueError, match="spacing"):
        flow.sampling_times(10, "leading")
