"""Samplers: pure functions from noise to a latent, all with one contract.

    sample_xxx(denoise, x, times, schedule, *, ..., callback=None) -> x0

denoise(x [B, ...], t scalar tensor) -> (x0, eps), each [B, ...]; x is noise of unit variance;
times [S] descend (`Schedule.sampling_times`). Nothing couples the samples of a batch. No gradient
mode is set and no random number drawn here: both are the caller's. callback is called with (steps
done, all steps) after each step.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.progress import Progress

Denoise = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Noise = Callable[[int], Tensor]  # step index from 0 -> standard normal noise of x's shape
Level = tuple[float, float]  # (alpha, sigma): how much signal and how much noise x holds


def sample_ddim(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    eta: float = 0.0,
    noise: Noise | None = None,
    final_alpha_bar: float = 1.0,
    callback: Progress | None = None,
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
    for step, t, here, there in _steps(times, x.device, schedule, callback, final_alpha_bar):
        next_alpha, next_sigma = there
        x0, eps = denoise(x, t)
        std = eta * _posterior_std(here, there)
        x = next_alpha * x0 + max(next_sigma**2 - std**2, 0.0) ** 0.5 * eps
        if std > 0:
            assert noise is not None
            x = x + std * noise(step)
    return x


def sample_ddpm(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    noise: Noise | None = None,
    callback: Progress | None = None,
) -> Tensor:
    """Ancestral sampling (Ho et al., 2020, algorithm 2), for every objective; returns [B, ...].

    Elsewhere known as Euler ancestral (euler_a).

    Each step draws from q(x_next | x_t, x0), eq. 7, the smaller of the paper's two variances. Only
    the noise levels of both ends enter, so the times may leave any out, and flow has one too. That
    draw is DDIM's with eta 1 (Song et al., 2021, eq. 16). noise(step) is asked for at every step
    but the last, which ends without noise. ValueError without noise, or for bad times.
    """
    if noise is None:
        raise ValueError("noise: ddpm adds noise at each step; pass noise(step) -> tensor")
    return sample_ddim(denoise, x, times, schedule, eta=1.0, noise=noise, callback=callback)


def sample_euler(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    callback: Progress | None = None,
) -> Tensor:
    """Euler steps along the probability-flow ODE; returns [B, ...].

    flow: dx / dsigma = eps - x0, the velocity. Variance preserving: dx' / dsigma' = eps for
    x' = x / alpha and sigma' = sigma / alpha (Karras et al., 2022; k-diffusion), which is DDIM with
    eta 0 written another way. ValueError for bad times.
    """
    for _, t, here, there in _steps(times, x.device, schedule, callback):
        (alpha, sigma), (next_alpha, next_sigma) = here, there
        x0, eps = denoise(x, t)
        if schedule.is_flow:
            x = x + (next_sigma - sigma) * (eps - x0)
        else:
            x = next_alpha * (x / alpha + (next_sigma / next_alpha - sigma / alpha) * eps)
    return x


def sample_heun(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    callback: Progress | None = None,
) -> Tensor:
    """Heun steps along `sample_euler`'s ODE (Karras et al., 2022, algorithm 1); returns [B, ...].

    Second order from two evaluations a step: of the slope here, and of the slope where an Euler
    step arrives. The last step is that Euler step, so N steps call denoise 2 N - 1 times; the
    callback counts steps, not evaluations. ValueError for bad times.
    """
    times = times.to(x.device)
    for step, t, here, there in _steps(times, x.device, schedule, callback):
        (alpha, sigma), (next_alpha, next_sigma) = here, there
        x0, eps = denoise(x, t)
        x = next_alpha * x0 + next_sigma * eps
        if next_sigma > 0:
            next_x0, next_eps = denoise(x, times[step + 1])
            # half of what the Euler step would have moved by the change in slope
            if schedule.is_flow:
                x = x + (next_sigma - sigma) / 2 * (next_eps - next_x0 - (eps - x0))
            else:
                x = x + (next_sigma - next_alpha * sigma / alpha) / 2 * (next_eps - eps)
    return x


def sample_dpmpp(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    callback: Progress | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al., 2022, algorithm 2), for every objective; returns [B, ...].

    Second order from one evaluation a step: it remembers the x0 before. The first and the last
    step are of first order (nothing is remembered yet; the end has no noise, where the logarithm
    of its signal-to-noise ratio is infinite). ValueError for bad times.
    """
    before: tuple[Tensor, float] | None = None  # x0 of the step before, and that step's h
    for _, t, here, there in _steps(times, x.device, schedule, callback):
        (alpha, sigma), (next_alpha, next_sigma) = here, there
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
    return x


def sample_lcm(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    *,
    noise: Noise | None = None,
    timestep_scaling: float | None = 10.0,
    callback: Progress | None = None,
) -> Tensor:
    """Multistep consistency sampling (Song et al., 2023, algorithm 1), for every objective.

    Returns [B, ...]. Each step jumps to x0 and adds fresh noise up to the next level; the last one
    stays at x0. It is for networks distilled to jump in a few steps: an ordinary network's x0 is a
    mean, and what it makes here varies too little. noise(step) is asked for at every step but the
    last.

    timestep_scaling s is that of latent consistency models (Luo et al., 2023), whose x0 is a blend
    c_skip x + c_out x0 that keeps x as it is at t = 0: c_skip = d^2 / ((s t)^2 + d^2) and
    c_out = s t / sqrt((s t)^2 + d^2), d = 0.5. None takes denoise's x0 itself. ValueError without
    noise, for a timestep_scaling of 0 or below, or for bad times.
    """
    if noise is None:
        raise ValueError("noise: lcm adds noise after each step; pass noise(step) -> tensor")
    if timestep_scaling is not None and not timestep_scaling > 0:
        raise ValueError(f"timestep_scaling: got {timestep_scaling}; allowed: above 0, or None")
    numbers = times.tolist()  # here, for no device to be waited for in the loop
    for step, t, _, (next_alpha, next_sigma) in _steps(times, x.device, schedule, callback):
        x0, _ = denoise(x, t)
        if timestep_scaling is not None:
            c_skip, c_out = _boundary(numbers[step] * timestep_scaling)
            x0 = c_skip * x + c_out * x0
        x = next_alpha * x0 + next_sigma * noise(step) if next_sigma > 0 else x0
    return x


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddim": sample_ddim,
    "ddpm": sample_ddpm,
    "euler": sample_euler,
    "heun": sample_heun,
    "dpmpp": sample_dpmpp,
    "lcm": sample_lcm,
}
STOCHASTIC = frozenset({"ddpm", "lcm"})  # those that always need noise (ddim does with eta)


def _steps(
    times: Tensor,
    device: torch.device,
    schedule: Schedule,
    callback: Progress | None,
    final_alpha_bar: float = 1.0,
) -> Iterator[tuple[int, Tensor, Level, Level]]:
    """(step from 0, t on the device, level at t, level after the step); calls back between."""
    levels = _levels(times, schedule, final_alpha_bar)
    for step, t in enumerate(times.to(device)):
        yield step, t, levels[step], levels[step + 1]
        if callback is not None:
            callback(step + 1, len(times))


def _levels(times: Tensor, schedule: Schedule, final_alpha_bar: float) -> list[Level]:
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


def _posterior_std(here: Level, there: Level) -> float:
    """Standard deviation of q(x_there | x_here, x0): eq. 3's, between any two noise levels."""
    (alpha, sigma), (next_alpha, next_sigma) = here, there
    added = sigma**2 - (alpha / next_alpha * next_sigma) ** 2  # by the way back from there to here
    return next_sigma / sigma * max(added, 0.0) ** 0.5


def _boundary(scaled_time: float) -> tuple[float, float]:
    """(c_skip, c_out) of a consistency model: (1, 0) at time 0, (0, 1) far from it."""
    data_std = 0.5
    total = scaled_time**2 + data_std**2
    return data_std**2 / total, scaled_time / total**0.5
