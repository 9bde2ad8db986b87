"""Samplers: pure functions from noise to a latent, all with one contract.

    sample_xxx(denoise, x, times, schedule, *, ..., callback=None) -> x0

denoise(x [B, ...], t scalar tensor) -> (x0, eps), each [B, ...]; x is noise of unit variance;
times [S] descend (`Schedule.sampling_times`). Nothing couples the samples of a batch. No gradient
mode is set and no random number drawn here: both are the caller's.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from soundcrafter.diffusion.schedule import Schedule

Denoise = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Noise = Callable[[int], Tensor]  # step index from 0 -> standard normal noise of x's shape
Callback = Callable[[int, int], None]  # (steps done, all steps), called after each step


def sample_ddim(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    eta: float = 0.0,
    noise: Noise | None = None,
    final_alpha_bar: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """DDIM (Song et al., 2021, eq. 12 and 16), for every objective; returns [B, ...].

    eta 0 is deterministic; eta 1 over all steps is the paper's reverse process, eq. 3
    (`Schedule.posterior`). noise(step) is asked for wherever a step adds noise. final_alpha_bar is
    where the last step ends: 1 is no noise left; alpha_bar[0] is diffusers'
    set_alpha_to_one=False. ValueError for eta outside [0, 1], eta without noise, bad
    times, or final_alpha_bar outside (0, 1] (flow: other than 1).
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: got {eta}; allowed: 0 to 1")
    if eta > 0 and noise is None:
        raise ValueError("noise: eta above 0 adds noise at each step; pass noise(step) -> tensor")
    levels = _levels(times, schedule, final_alpha_bar)
    for step, t in enumerate(times.to(x.device)):
        (alpha, sigma), (next_alpha, next_sigma) = levels[step], levels[step + 1]
        x0, eps = denoise(x, t)
        std = eta * _posterior_std(alpha, sigma, next_alpha, next_sigma)
        x = next_alpha * x0 + max(next_sigma**2 - std**2, 0.0) ** 0.5 * eps
        if std > 0:
            assert noise is not None
            x = x + std * noise(step)
        if callback is not None:
            callback(step + 1, len(times))
    return x


def sample_euler(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    callback: Callback | None = None,
) -> Tensor:
    """Euler steps along the probability-flow ODE; returns [B, ...].

    flow: dx / dsigma = eps - x0, the velocity. Variance preserving: dx' / dsigma' = eps for
    x' = x / alpha and sigma' = sigma / alpha (Karras et al., 2022; k-diffusion), which is DDIM with
    eta 0 written another way. ValueError for bad times.
    """
    levels = _levels(times, schedule, 1.0)
    for step, t in enumerate(times.to(x.device)):
        (alpha, sigma), (next_alpha, next_sigma) = levels[step], levels[step + 1]
        x0, eps = denoise(x, t)
        if schedule.is_flow:
            x = x + (next_sigma - sigma) * (eps - x0)
        else:
            x = next_alpha * (x / alpha + (next_sigma / next_alpha - sigma / alpha) * eps)
        if callback is not None:
            callback(step + 1, len(times))
    return x


def sample_dpmpp(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al., 2022, algorithm 2), for every objective; returns [B, ...].

    Second order from one evaluation a step: it remembers the x0 before. The first and the last
    step are of first order (nothing is remembered yet; the end has no noise, where the logarithm
    of its signal-to-noise ratio is infinite). ValueError for bad times.
    """
    levels = _levels(times, schedule, 1.0)
    before: tuple[Tensor, float] | None = None  # x0 of the step before, and that step's h
    for step, t in enumerate(times.to(x.device)):
        (alpha, sigma), (next_alpha, next_sigma) = levels[step], levels[step + 1]
        x0, _ = denoise(x, t)
        if next_sigma == 0:
            x = next_alpha * x0
        else:
            # a time that holds no signal at all (flow's first) is infinitely far away
            h = math.inf if alpha == 0 else math.log(next_alpha / next_sigma * sigma / alpha)
            target = x0
            if before is not None and math.isfinite(before[1]):
                target = x0 + h / (2 * before[1]) * (x0 - before[0])
            x = next_sigma / sigma * x + next_alpha * -math.expm1(-h) * target
            before = x0, h
        if callback is not None:
            callback(step + 1, len(times))
    return x


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddim": sample_ddim,
    "euler": sample_euler,
    "dpmpp": sample_dpmpp,
}


def _levels(times: Tensor, schedule: Schedule, final_alpha_bar: float) -> list[tuple[float, float]]:
    """(alpha, sigma) at each time and at the end, as float64 numbers: no device waits in a loop."""
    if times.ndim != 1 or len(times) == 0 or not bool((times.diff() < 0).all()):
        raise ValueError(
            f"times: got shape {list(times.shape)}; must be 1-D, descending, not empty"
        )
    if not 0 < final_alpha_bar <= 1 or (schedule.is_flow and final_alpha_bar != 1):
        allowed = "1 (flow)" if schedule.is_flow else "above 0, up to 1"
        raise ValueError(f"final_alpha_bar: got {final_alpha_bar}; allowed: {allowed}")
    alpha, sigma = schedule.coefficients(times.cpu(), torch.float64)
    if not bool((sigma > 0).all()):
        raise ValueError("times: got a time without noise (flow's 0); the end is not one of them")
    end = (final_alpha_bar**0.5, (1 - final_alpha_bar) ** 0.5)
    return [*zip(alpha.tolist(), sigma.tolist(), strict=True), end]


def _posterior_std(alpha: float, sigma: float, next_alpha: float, next_sigma: float) -> float:
    """Standard deviation of q(x_next | x_t, x0): eq. 3's, between any two noise levels."""
    added = sigma**2 - (alpha / next_alpha * next_sigma) ** 2  # by the way back from next to t
    return next_sigma / sigma * max(added, 0.0) ** 0.5
