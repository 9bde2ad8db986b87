"""Samplers: pure functions from noise to a latent, all with one contract.

    sample_xxx(denoise, x, times, schedule, *, ..., callback=None) -> x0

denoise(x [B, ...], t scalar) -> (x0, eps), each [B, ...]; x is noise of unit variance; times [S]
descend (`Schedule.sampling_times`) and are on x's device. The samples of a batch do not interact.
Gradient mode and random numbers are the caller's business. callback is called with (steps done, all
steps) after each step.

To add a sampler, write its function and add an entry to `SAMPLERS`. The arithmetic is that of
tensors and of NumPy's arrays, and this module does not import torch: the ONNX runtime samples
with the same code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from soundcrafter.progress import Progress

Denoise: TypeAlias = "Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]"
# step index from 0 -> standard normal noise of x's shape
Noise: TypeAlias = "Callable[[int], Tensor]"

NoiseLevel = tuple[float, float]  # (alpha, sigma): the scales of signal and noise

_TIMESTEP_SCALING = 10.0  # of latent consistency models
_DATA_STD = 0.5  # of latent consistency models


class NoiseLevels(Protocol):
    """What the samplers ask of a `Schedule`."""

    @property
    def is_flow(self) -> bool: ...

    def noise_levels(self, times: Tensor, final_alpha_bar: float = 1.0) -> list[NoiseLevel]: ...


def sample_ddim(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: NoiseLevels,
    *,
    eta: float = 0.0,
    noise: Noise | None = None,
    final_alpha_bar: float = 1.0,
    callback: Progress | None = None,
) -> Tensor:
    """DDIM (Song et al., 2021, eq. 12 and 16), for every objective; returns [B, ...].

    eta 0 is deterministic; eta 1 over all steps is the paper's reverse process, eq. 3. noise(step)
    is called for every step that adds noise. The last step ends at final_alpha_bar: 1 leaves no
    noise, alpha_bar[0] is diffusers' set_alpha_to_one=False. Raises ValueError for eta outside
    [0, 1], eta without noise, bad times, or final_alpha_bar outside (0, 1] (flow: other than 1).
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: got {eta}; allowed: 0 to 1")
    if eta > 0 and noise is None:
        raise ValueError("noise: eta above 0 adds noise at each step; pass noise(step) -> tensor")
    for step, t, here, there in _steps(times, schedule, callback, final_alpha_bar):
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
    schedule: NoiseLevels,
    *,
    noise: Noise | None = None,
    callback: Progress | None = None,
) -> Tensor:
    """Ancestral sampling (Ho et al., 2020, algorithm 2), for every objective; returns [B, ...].

    Also known as Euler ancestral (euler_a). Each step draws from q(x_next | x_t, x0), eq. 7, with
    the smaller of the paper's two variances. It depends only on the noise levels before and after
    the step, so times may be skipped, and flow works too. The draw is DDIM's with eta 1 (Song et
    al., 2021, eq. 16). noise(step) is called at every step but the last, which ends without noise.
    Raises ValueError without noise, and for bad times.
    """
    if noise is None:
        raise ValueError("noise: ddpm adds noise at each step; pass noise(step) -> tensor")
    return sample_ddim(denoise, x, times, schedule, eta=1.0, noise=noise, callback=callback)


def sample_euler(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: NoiseLevels,
    *,
    callback: Progress | None = None,
) -> Tensor:
    """Euler steps along the probability-flow ODE; returns [B, ...].

    flow: dx / dsigma = eps - x0, the velocity. Variance preserving: dx' / dsigma' = eps for
    x' = x / alpha and sigma' = sigma / alpha (Karras et al., 2022), which is DDIM with eta 0
    written another way. Raises ValueError for bad times.
    """
    for _, t, here, there in _steps(times, schedule, callback):
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
    schedule: NoiseLevels,
    *,
    callback: Progress | None = None,
) -> Tensor:
    """Heun steps along `sample_euler`'s ODE (Karras et al., 2022, algorithm 1); returns [B, ...].

    A second-order method that evaluates the slope twice a step: here, and where an Euler step
    arrives. The last step is a plain Euler step, so N steps call denoise 2 N - 1 times. The
    callback counts steps, not evaluations. Raises ValueError for bad times.
    """
    for step, t, here, there in _steps(times, schedule, callback):
        (alpha, sigma), (next_alpha, next_sigma) = here, there
        x0, eps = denoise(x, t)
        x = next_alpha * x0 + next_sigma * eps
        if next_sigma > 0:
            next_x0, next_eps = denoise(x, times[step + 1])
            # correct the Euler step by half of its length times the change in slope
            if schedule.is_flow:
                x = x + (next_sigma - sigma) / 2 * (next_eps - next_x0 - (eps - x0))
            else:
                x = x + (next_sigma - next_alpha * sigma / alpha) / 2 * (next_eps - eps)
    return x


def sample_dpmpp(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: NoiseLevels,
    *,
    callback: Progress | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al., 2022, algorithm 2), for every objective; returns [B, ...].

    A second-order multistep method: it reuses the previous x0, so it needs one evaluation a step.
    The first and the last step are of first order: there is no previous x0 yet, and at the end the
    log signal-to-noise ratio is infinite. Raises ValueError for bad times.
    """
    previous: tuple[Tensor, float] | None = None  # x0 and h of the previous step
    for _, t, here, there in _steps(times, schedule, callback):
        (alpha, sigma), (next_alpha, next_sigma) = here, there
        x0, _ = denoise(x, t)
        if next_sigma == 0:
            x = next_alpha * x0
        else:
            # a time without any signal (flow's first) is infinitely far away
            h = math.inf if alpha == 0 else math.log(next_alpha / next_sigma * sigma / alpha)
            target = x0
            if previous is not None and math.isfinite(previous[1]):
                target = x0 + h / (2 * previous[1]) * (x0 - previous[0])
            x = next_sigma / sigma * x + next_alpha * -math.expm1(-h) * target
            previous = x0, h
    return x


def sample_lcm(
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: NoiseLevels,
    *,
    noise: Noise | None = None,
    callback: Progress | None = None,
) -> Tensor:
    """Multistep consistency sampling (Song et al., 2023, algorithm 1), for every objective.

    Returns [B, ...]. Each step jumps to x0 and adds fresh noise up to the next level; the last step
    stays at x0. It is meant for networks distilled to sample in a few steps: the x0 of an ordinary
    network is a mean, so its samples vary too little here. noise(step) is called at every step but
    the last.

    As in latent consistency models (Luo et al., 2023), x0 is blended with x so that x is unchanged
    at t = 0: c_skip x + c_out x0, with c_skip = d^2 / ((s t)^2 + d^2) and
    c_out = s t / sqrt((s t)^2 + d^2), s = 10, d = 0.5. Raises ValueError without noise, and for bad
    times.
    """
    if noise is None:
        raise ValueError("noise: lcm adds noise after each step; pass noise(step) -> tensor")
    numbers = times.tolist()  # before the loop, so that no step waits for a device
    for step, t, _, (next_alpha, next_sigma) in _steps(times, schedule, callback):
        x0, _ = denoise(x, t)
        scaled = numbers[step] * _TIMESTEP_SCALING
        total = scaled**2 + _DATA_STD**2
        x0 = _DATA_STD**2 / total * x + scaled / total**0.5 * x0
        x = next_alpha * x0 + next_sigma * noise(step) if next_sigma > 0 else x0
    return x


class Sampler(NamedTuple):
    """A sampler and what `sample` has to know about it."""

    function: Callable[..., Tensor]
    adds_noise: bool = False  # at its steps, so it needs the argument `noise`
    evaluations: int = 1  # calls of denoise at each time


SAMPLERS = {
    "ddim": Sampler(sample_ddim),
    "ddpm": Sampler(sample_ddpm, adds_noise=True),
    "euler": Sampler(sample_euler),
    "heun": Sampler(sample_heun, evaluations=2),
    "dpmpp": Sampler(sample_dpmpp),
    "lcm": Sampler(sample_lcm, adds_noise=True),
}


def _steps(
    times: Tensor,
    schedule: NoiseLevels,
    callback: Progress | None,
    final_alpha_bar: float = 1.0,
) -> Iterator[tuple[int, Tensor, NoiseLevel, NoiseLevel]]:
    """Yield (step from 0, t, noise level at t, noise level after the step)."""
    levels = schedule.noise_levels(times, final_alpha_bar)
    for step, t in enumerate(times):
        yield step, t, levels[step], levels[step + 1]
        if callback is not None:
            callback(step + 1, len(times))


def _posterior_std(here: NoiseLevel, there: NoiseLevel) -> float:
    """Standard deviation of q(x_there | x_here, x0), the posterior of eq. 3, between two levels."""
    (alpha, sigma), (next_alpha, next_sigma) = here, there
    added = sigma**2 - (alpha / next_alpha * next_sigma) ** 2  # variance that is added going back
    return next_sigma / sigma * max(added, 0.0) ** 0.5
