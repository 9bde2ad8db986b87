"""Multistep consistency distillation (Heek, Hoogeboom and Salimans, 2024).

The way from noise to the latent is cut into segments. From any point of a segment, the student
jumps to the segment's end in one step, so that it samples in as many steps as there are segments.
With one segment it is a consistency model (Song et al., 2023).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from soundcrafter.diffusion.guidance import Predict
from soundcrafter.diffusion.schedule import Schedule

CLEAN = -1.0  # the time after the last one: no noise


class Segments:
    """The segments of a schedule, which are those of its sampling times."""

    def __init__(self, schedule: Schedule, count: int) -> None:
        """Raises ValueError for more segments than the schedule has steps."""
        self.schedule = schedule
        self._starts = schedule.sampling_times(count).float()
        last = torch.tensor([0.0 if schedule.is_flow else CLEAN])
        self._ends = torch.cat([self._starts[1:], last])

    def draw_times(self, u: Tensor) -> Tensor:
        """Times from u [B], uniform in [0, 1), none of them without noise."""
        times = self.schedule.draw_times(u)
        # flow has no noise at time 0; elsewhere time 0 is the first noisy step
        return (self.schedule.config.steps - times).clamp(min=1) if self.schedule.is_flow else times

    def ends(self, t: Tensor) -> Tensor:
        """The end of the segment of each time t [B], float32; CLEAN after the last."""
        index = (self._starts.to(t.device) >= t[:, None]).sum(1) - 1
        return self._ends.to(t.device)[index]

    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma), each [B, 1, ...] for `like` [B, ...], at times t [B] or CLEAN."""
        clean = t < 0
        alpha, sigma = self.schedule.coefficients(self.times(t))
        shape = (-1, *[1] * (like.ndim - 1))
        alpha, sigma = torch.where(clean, 1.0, alpha), torch.where(clean, 0.0, sigma)
        return alpha.view(shape), sigma.view(shape)

    def is_last(self, t: Tensor) -> Tensor:
        """Whether each time t [B] is in the segment that ends without noise."""
        return t <= self._starts[-1].to(t.device)

    def times(self, t: Tensor) -> Tensor:
        """Times as the network takes them; CLEAN becomes the first one."""
        return t if self.schedule.is_flow else t.clamp(min=0).long()


def consistency_loss(
    student: Callable[[Tensor, Tensor], Tensor],
    teacher: Predict,
    segments: Segments,
    x0: Tensor,
    noise: Tensor,
    t: Tensor,
    skip: float,
) -> tuple[Tensor, Tensor]:
    """The distance between two jumps to the end of a segment, one value per sample: [B] float32;
    and the latents [B, C, T, F] that the student jumps towards.

    The student jumps from x_t, and from where the (guided) teacher's DDIM step of `skip` training
    steps leads; the second jump has no gradient. The distance is that of the estimated latents,
    divided by sigma: that of v, or of flow's velocity, for every objective.

    student and teacher map x [B, C, T, F] and t [B] to predictions; x0 and noise [B, C, T, F];
    t [B] from `Segments.draw_times`.
    """
    schedule = segments.schedule
    x, end = schedule.add_noise(x0, noise, t), segments.ends(t)
    with torch.no_grad():
        target = _target(student, teacher, segments, x, t, end, skip)
    found, _ = schedule.denoised(student(x, t).float(), x, t)
    _, sigma = segments.levels(t.float(), x)
    return ((found - target) / sigma).square().flatten(1).mean(dim=1), found


def _target(
    student: Callable[[Tensor, Tensor], Tensor],
    teacher: Predict,
    segments: Segments,
    x: Tensor,
    t: Tensor,
    end: Tensor,
    skip: float,
) -> Tensor:
    """The latent [B, C, T, F] towards which a step from x at t leads to the segment's end."""
    schedule, here = segments.schedule, segments.levels(t.float(), x)
    there = torch.maximum(t.float() - skip, end)
    near = _move(schedule.denoised(teacher(x, t).float(), x, t), segments.levels(there, x))
    times = segments.times(there)
    jumped = schedule.denoised(student(near, times).float(), near, times)
    arrived = (there == end).view(-1, *[1] * (x.ndim - 1))
    final = torch.where(arrived, near, _move(jumped, segments.levels(end, x)))
    # the DDIM step x -> final, solved for its x0
    alpha, sigma = segments.levels(end, x)
    ratio = sigma / here[1]
    return (final - ratio * x) / (alpha - ratio * here[0])


def _move(estimate: tuple[Tensor, Tensor], level: tuple[Tensor, Tensor]) -> Tensor:
    """(x0, eps) and (alpha, sigma) -> x at that level."""
    (x0, eps), (alpha, sigma) = estimate, level
    return alpha * x0 + sigma * eps
