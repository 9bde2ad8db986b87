"""The training loss of the diffusion model."""

from collections.abc import Callable

from torch import Tensor

from soundcrafter.diffusion.schedule import Schedule


def diffusion_loss(
    model: Callable[[Tensor, Tensor, Tensor], Tensor],
    schedule: Schedule,
    x0: Tensor,
    noise: Tensor,
    t: Tensor,
    cond: Tensor,
) -> Tensor:
    """Mean squared error of the prediction at x_t, one value per sample: [B] float32.

    x0 and noise [B, C, T, F], t [B] (`Schedule.draw_times`), cond [B, E] or [B, T', E]. The
    prediction is compared with `Schedule.target`, without a weight; the caller weights and averages
    the samples. The error is computed in float32 whatever the model's precision.
    """
    prediction = model(schedule.add_noise(x0, noise, t), t, cond)
    error = prediction.float() - schedule.target(x0, noise, t).float()
    return error.square().flatten(1).mean(dim=1)
