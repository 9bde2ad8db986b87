"""The noise schedule: how much signal and how much noise a latent has at each training step."""

from collections.abc import Callable

import torch
from torch import Tensor

from soundcrafter.diffusion.config import DiffusionConfig, Spacing
from soundcrafter.diffusion.samplers import NoiseLevel


class Schedule:
    """x_t = alpha(t) x0 + sigma(t) eps, and what follows from it.

    The objectives epsilon and v are variance preserving: t is an integer index 0..steps-1 (the
    paper's n is t + 1), alpha = sqrt(alpha_bar[t]), sigma = sqrt(1 - alpha_bar[t]). The objective
    flow is the straight path: t is a float in [0, steps], alpha = 1 - t / steps, sigma = t / steps.

    In methods that take both x and t, t is [B] or a scalar, x is [B, ...] with any further
    dimensions, and the result is float32 (float64 if x is).
    """

    config: DiffusionConfig
    betas: Tensor  # float64 [steps], the variances of eq. 2; unused by flow
    alpha_bar: Tensor  # float64 [steps], the cumulative product of 1 - beta; unused by flow

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        self.betas = _beta_table(config)
        self.alpha_bar = torch.cumprod(1 - self.betas, dim=0)
        self._tables = {"alpha": self.alpha_bar.sqrt(), "sigma": (1 - self.alpha_bar).sqrt()}
        self._copies: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    @property
    def is_flow(self) -> bool:
        return self.config.objective == "flow"

    def coefficients(self, t: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """(alpha, sigma), each of t's shape and on t's device.

        Raises ValueError for a t out of range.
        """
        self._check_times(t)
        if self.is_flow:
            sigma = t.to(dtype) / self.config.steps
            return 1 - sigma, sigma
        return self._lookup("alpha", t, dtype), self._lookup("sigma", t, dtype)

    def noise_levels(self, times: Tensor, final_alpha_bar: float = 1.0) -> list[NoiseLevel]:
        """The levels at each of the sampling times [S] and after the last, S + 1 in all.

        They are Python floats, so that a sampler's loop never waits for a device. Raises ValueError
        for times that are no sampling times, and for final_alpha_bar outside (0, 1] (flow: other
        than 1).
        """
        if times.ndim != 1 or len(times) == 0 or not bool((times.diff() < 0).all()):
            raise ValueError(
                f"times: got shape {list(times.shape)}; allowed: 1-D, descending, not empty"
            )
        if not 0 < final_alpha_bar <= 1 or (self.is_flow and final_alpha_bar != 1):
            allowed = "1 (flow)" if self.is_flow else "above 0, up to 1"
            raise ValueError(f"final_alpha_bar: got {final_alpha_bar}; allowed: {allowed}")
        alpha, sigma = self.coefficients(times.cpu(), torch.float64)
        if not bool((sigma > 0).all()):
            raise ValueError("times: a time without noise (0 with flow) cannot be denoised")
        end = (final_alpha_bar**0.5, (1 - final_alpha_bar) ** 0.5)
        return [*zip(alpha.tolist(), sigma.tolist(), strict=True), end]

    def draw_times(self, u: Tensor) -> Tensor:
        """Training times from u [B], uniform in [0, 1): int64 indices, or floats for flow."""
        if self.is_flow:
            return u * self.config.steps
        # u * steps can round up to steps
        return (u * self.config.steps).long().clamp(max=self.config.steps - 1)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t [B, ...] from x0 and noise [B, ...]: eq. 2 applied t + 1 times, in closed form."""
        alpha, sigma = self._coefficients_like(t, x0)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The network's training target [B, ...].

        epsilon: the noise. v: alpha noise - sigma x0 (Salimans and Ho, 2022). flow: noise - x0,
        the velocity dx / d(t / steps) of the straight path (Lipman et al., 2023).
        """
        if self.config.objective == "epsilon":
            return noise
        if self.is_flow:
            return noise - x0
        alpha, sigma = self._coefficients_like(t, x0)
        return alpha * noise - sigma * x0

    def denoised(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, eps), each [B, ...]: the signal and noise in x_t according to the prediction."""
        alpha, sigma = self._coefficients_like(t, x_t)
        if self.config.objective == "epsilon":
            return (x_t - sigma * prediction) / alpha, prediction.to(alpha.dtype)
        if self.is_flow:
            return x_t - sigma * prediction, x_t + alpha * prediction
        return alpha * x_t - sigma * prediction, sigma * x_t + alpha * prediction

    def sampling_times(self, num_steps: int, spacing: Spacing = "trailing") -> Tensor:
        """Descending times [num_steps] on the CPU at which a sampler calls the network.

        int64 indices: "trailing" starts at the noisiest step and ends above 0; "leading" is
        diffusers' DDIMScheduler with steps_offset 1; "linspace" includes both ends. flow: float32
        steps * (1 - i / num_steps), which is "trailing", its only spacing. Raises ValueError for a
        count below 1, a count above `steps` (except flow), and an unknown spacing.
        """
        steps = self.config.steps
        if num_steps < 1 or (num_steps > steps and not self.is_flow):
            limit = "at least 1" if self.is_flow else f"1 to {steps}"
            raise ValueError(f"steps: got {num_steps}; allowed: {limit}")
        allowed = ["trailing"] if self.is_flow else list(_SPACINGS)
        if spacing not in allowed:
            raise ValueError(f"spacing: got {spacing!r}; allowed: {', '.join(allowed)}")
        index = torch.arange(num_steps, dtype=torch.float64)
        if self.is_flow:
            return (steps * (1 - index / num_steps)).float()
        return _SPACINGS[spacing](index, steps, num_steps).long()

    def _check_times(self, t: Tensor) -> None:
        if not self.is_flow and t.dtype.is_floating_point:
            raise ValueError(f"t: got {t.dtype}; {self.config.objective} takes integer indices")
        last = self.config.steps if self.is_flow else self.config.steps - 1
        # checking values on an accelerator would make the CPU wait for it at every step
        if t.device.type == "cpu" and t.numel() and (t.min() < 0 or t.max() > last):
            raise ValueError(f"t: got {t.min().item()} to {t.max().item()}; allowed: 0 to {last}")

    def _coefficients_like(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.coefficients(t, torch.promote_types(x.dtype, torch.float32))
        return _broadcast(alpha, x), _broadcast(sigma, x)

    def _lookup(self, name: str, t: Tensor, dtype: torch.dtype) -> Tensor:
        key = (name, t.device, dtype)
        if key not in self._copies:
            self._copies[key] = self._tables[name].to(dtype).to(t.device)
        # table[t] would copy a scalar t to the CPU and wait for it
        return self._copies[key].index_select(0, t.reshape(-1)).reshape(t.shape)


def _beta_table(config: DiffusionConfig) -> Tensor:
    start, end = config.beta_start, config.beta_end
    if config.betas == "linear":
        return torch.linspace(start, end, config.steps, dtype=torch.float64)
    return torch.linspace(start**0.5, end**0.5, config.steps, dtype=torch.float64) ** 2


def _broadcast(value: Tensor, x: Tensor) -> Tensor:
    """Reshape [B] or a scalar to [B, 1, ...] or [1, 1, ...], to broadcast over x [B, ...]."""
    if value.ndim > 1 or (value.ndim == 1 and value.shape[0] not in (1, x.shape[0])):
        raise ValueError(
            f"t: got shape {list(value.shape)}; allowed: a scalar or [{x.shape[0]}], one per sample"
        )
    return value.reshape(-1, *[1] * (x.ndim - 1))


def _trailing(index: Tensor, steps: int, num_steps: int) -> Tensor:
    return (steps - index * (steps / num_steps)).round() - 1


def _leading(index: Tensor, steps: int, num_steps: int) -> Tensor:
    stride = steps // num_steps
    # there is no room for the offset of 1 when every step is taken
    offset = min(1, steps - 1 - (num_steps - 1) * stride)
    return (num_steps - 1 - index) * stride + offset


def _linspace(index: Tensor, steps: int, num_steps: int) -> Tensor:
    return torch.linspace(steps - 1, 0, num_steps, dtype=torch.float64).round()


_SPACINGS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "trailing": _trailing,
    "leading": _leading,
    "linspace": _linspace,
}
