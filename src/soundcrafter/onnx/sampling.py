"""`diffusion` in NumPy: the schedule, guidance and `sample`. The samplers are the same code."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundcrafter.diffusion.config import DiffusionConfig, SamplingConfig, Spacing
from soundcrafter.diffusion.samplers import SAMPLERS, NoiseLevel
from soundcrafter.onnx.noise import TorchGenerator
from soundcrafter.onnx.windows import Array, blend_windows
from soundcrafter.progress import Progress

Model = Callable[[Array, Array, Array], Array]  # latent [B, C, T, F], t [B], cond [B, E]


class ArraySchedule:
    """`diffusion.schedule.Schedule` for arrays."""

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        start, end = config.beta_start, config.beta_end
        betas: NDArray[np.floating[Any]]
        if config.betas == "linear":
            betas = np.linspace(start, end, config.steps)
        else:
            betas = np.linspace(start**0.5, end**0.5, config.steps) ** 2
        self.alpha_bar: NDArray[np.floating[Any]] = np.cumprod(1 - betas)

    @property
    def is_flow(self) -> bool:
        return self.config.objective == "flow"

    def sampling_times(self, num_steps: int, spacing: Spacing) -> NDArray[Any]:
        """Descending times [num_steps]: indices, or floats for flow.

        Raises ValueError for a count that the schedule does not have.
        """
        steps, index = self.config.steps, np.arange(num_steps, dtype=np.float64)
        if num_steps < 1 or (num_steps > steps and not self.is_flow):
            limit = "at least 1" if self.is_flow else f"1 to {steps}"
            raise ValueError(f"steps: got {num_steps}; allowed: {limit}")
        if self.is_flow:
            return (steps * (1 - index / num_steps)).astype(np.float32)
        if spacing == "trailing":
            times = np.round(steps - index * (steps / num_steps)) - 1
        elif spacing == "leading":
            stride = steps // num_steps
            offset = min(1, steps - 1 - (num_steps - 1) * stride)
            times = (num_steps - 1 - index) * stride + offset
        else:
            times = np.round(np.linspace(steps - 1, 0, num_steps))
        return times.astype(np.int64)

    def noise_levels(self, times: Any, final_alpha_bar: float = 1.0) -> list[NoiseLevel]:
        """(alpha, sigma) at each of the times and after the last."""
        alpha, sigma = self._coefficients(np.asarray(times))
        end = (final_alpha_bar**0.5, (1 - final_alpha_bar) ** 0.5)
        return [*zip(alpha.tolist(), sigma.tolist(), strict=True), end]

    def denoised(self, prediction: Array, x: Array, t: Any) -> tuple[Array, Array]:
        """(x0, eps): the signal and noise in x [B, ...] at time t, according to the prediction."""
        alpha, sigma = (value.astype(np.float32) for value in self._coefficients(np.asarray(t)))
        if self.config.objective == "epsilon":
            x0: Any = (x - sigma * prediction) / alpha
            return x0, prediction
        if self.is_flow:
            return x - sigma * prediction, x + alpha * prediction
        return alpha * x - sigma * prediction, sigma * x + alpha * prediction

    def _coefficients(self, t: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        if self.is_flow:
            sigma = t.astype(np.float64) / self.config.steps
            return 1 - sigma, sigma
        alpha_bar = self.alpha_bar[t]
        return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)


def sample(
    model: Model,
    schedule: ArraySchedule,
    settings: SamplingConfig,
    noise: Array,
    cond: Array,
    uncond: Array,
    *,
    seeds: Sequence[int],
    window: int,
    batch_limit: int,
    callback: Progress | None = None,
) -> Array:
    """Denoise noise [B, C, T, F], given cond and uncond [B, E]: a latent, see `diffusion.sample`.

    Raises ValueError for a number of steps that the schedule does not have.
    """
    predict = _guided(_in_pieces(model, window, batch_limit), schedule, settings, cond, uncond)

    def denoise(x: Array, t: Any) -> tuple[Array, Array]:
        return schedule.denoised(predict(x, t), x, t)

    sampler, extra = SAMPLERS[settings.sampler], dict[str, Any]()
    if sampler.adds_noise:
        extra["noise"] = _step_noise(seeds, noise.shape[1:])
    if settings.end == "first_step":
        extra["final_alpha_bar"] = float(schedule.alpha_bar[0])
    times = schedule.sampling_times(settings.steps, settings.spacing)
    latent: Any = sampler.function(denoise, noise, times, schedule, callback=callback, **extra)
    return np.asarray(latent, np.float32)


def _guided(
    model: Model, schedule: ArraySchedule, settings: SamplingConfig, cond: Array, uncond: Array
) -> Callable[[Array, Any], Array]:
    """Classifier-free guidance, see `diffusion.guidance.guided`."""
    steps, scale = schedule.config.steps, settings.guidance
    low, high = settings.guidance_from * steps, settings.guidance_until * steps
    always = (settings.guidance_from, settings.guidance_until) == (0.0, 1.0)
    both = np.concatenate([cond, uncond])

    def predict(x: Array, t: Any) -> Array:
        if scale == 1 or not (always or low <= float(t) <= high):
            return model(x, np.full(len(x), t, np.float32), cond)
        found = model(np.concatenate([x, x]), np.full(2 * len(x), t, np.float32), both)
        conditional, unconditional = np.split(found, 2)
        guided: Array = unconditional + scale * (conditional - unconditional)
        return guided

    return predict


def _in_pieces(model: Model, window: int, batch_limit: int) -> Model:
    """The model on long latents in overlapping windows, and on few samples at once."""

    def limited(latent: Array, t: Array, cond: Array) -> Array:
        spans = [slice(i, i + batch_limit) for i in range(0, len(latent), batch_limit)]
        return np.concatenate([model(latent[span], t[span], cond[span]) for span in spans])

    def windowed(latent: Array, t: Array, cond: Array) -> Array:
        frames = latent.shape[2]
        if frames <= window:
            return limited(latent, t, cond)
        return blend_windows(
            lambda span: limited(latent[:, :, span], t, cond), frames, window, window // 4
        )

    return windowed


def _step_noise(seeds: Sequence[int], shape: Sequence[int]) -> Callable[[int], Array]:
    """The noise that a sampler adds at each step, see `diffusion.sample.step_noise`."""

    def noise(step: int) -> Array:
        mixed = [(seed * 0x9E3779B9 + step + 1) % (2**63 - 1) for seed in seeds]
        return np.stack([TorchGenerator(each).randn(shape) for each in mixed])

    return noise
