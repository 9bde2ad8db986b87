"""The distillation loss, on a distribution whose path from noise to sound is known exactly."""

import pytest
import torch

from soundcrafter.diffusion.config import DiffusionConfig
from soundcrafter.diffusion.consistency import CLEAN, Segments, consistency_loss
from soundcrafter.diffusion.samplers import sample_ddim
from soundcrafter.diffusion.schedule import Schedule

OBJECTIVES = ("epsilon", "v", "flow")
STD = 0.5  # of the latents, which are normal, so that the best denoiser is linear


def prediction(schedule: Schedule, x, t, x0):
    """What a network predicts that estimates x0."""
    alpha, sigma = (value.view(-1, 1, 1, 1) for value in schedule.coefficients(t))
    return schedule.target(x0, (x - alpha * x0) / sigma, t)


def ideal(schedule: Schedule):
    """The best denoiser: the posterior mean of normal latents."""

    def predict(x, t):
        alpha, sigma = (value.view(-1, 1, 1, 1) for value in schedule.coefficients(t))
        return prediction(schedule, x, t, x * alpha * STD**2 / (alpha**2 * STD**2 + sigma**2))

    return predict


def exact(schedule: Schedule, segments: Segments):
    """The student without an error: the path's end, which for normal latents is a scaling."""

    def predict(x, t):
        (a, s), (b, r) = (segments.levels(at, x) for at in (t.float(), segments.ends(t.float())))
        final = x * ((b**2 * STD**2 + r**2) / (a**2 * STD**2 + s**2)).sqrt()
        ratio = r / s
        return prediction(schedule, x, t, (final - ratio * x) / (b - ratio * a))

    return predict


def batch(segments: Segments, count: int = 512):
    generator = torch.Generator().manual_seed(0)
    x0 = STD * torch.randn(count, 1, 2, 2, generator=generator)
    noise = torch.randn(count, 1, 2, 2, generator=generator)
    return x0, noise, segments.draw_times(torch.arange(count) / count)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_segments_are_those_of_the_sampling_times(objective):
    schedule = Schedule(DiffusionConfig(objective=objective))
    segments = Segments(schedule, 4)
    starts, last = schedule.sampling_times(4).float(), 0.0 if objective == "flow" else CLEAN
    torch.testing.assert_close(segments.ends(starts), torch.tensor([*starts[1:].tolist(), last]))
    times = segments.draw_times(torch.rand(1000))
    ends = segments.ends(times.float())
    assert bool((ends < times).all())
    assert set(ends.tolist()) == {*starts[1:].tolist(), last}


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_student_without_an_error_has_almost_no_loss(objective, count):
    schedule = Schedule(DiffusionConfig(objective=objective))
    segments = Segments(schedule, count)
    teacher, student = ideal(schedule), exact(schedule, segments)
    x0, noise, t = batch(segments)
    # with little noise left, the error of the teacher's own step outweighs all else
    noisy = t >= 100
    given = (x0[noisy], noise[noisy], t[noisy])
    small, found = consistency_loss(student, teacher, segments, *given, skip=20.0)
    untrained, _ = consistency_loss(teacher, teacher, segments, *given, skip=20.0)
    assert found.shape == given[0].shape
    assert small.shape == (int(noisy.sum()),)
    assert float(small.mean()) < 0.05 * float(untrained.mean())


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_that_student_samples_the_distribution_in_as_many_steps(objective, count):
    schedule = Schedule(DiffusionConfig(objective=objective))
    student = exact(schedule, Segments(schedule, count))
    noise = torch.randn(20_000, 1, 1, 1, generator=torch.Generator().manual_seed(0))

    def denoise(x, t):
        times = t.expand(len(x))
        return schedule.denoised(student(x, times), x, times)

    found = sample_ddim(denoise, noise, schedule.sampling_times(count), schedule)
    assert float(found.std()) == pytest.approx(STD, rel=0.02)


def test_only_the_first_jump_has_a_gradient():
    schedule = Schedule(DiffusionConfig(objective="v"))
    segments, weight = Segments(schedule, 1), torch.tensor(1.1, requires_grad=True)
    calls = []

    def student(x, t):
        calls.append(torch.is_grad_enabled())
        return weight * x

    given = batch(segments, 8)
    consistency_loss(student, ideal(schedule), segments, *given, skip=20.0)[0].sum().backward()
    assert sorted(calls) == [False, True]
    assert weight.grad is not None


def test_more_segments_than_steps_are_refused():
    with pytest.raises(ValueError, match="steps: got 11; allowed: 1 to 10"):
        Segments(Schedule(DiffusionConfig(steps=10)), 11)
