"""The learning rate as a pure function of the step or of elapsed time."""

import math

from soundcrafter.train.recipe import StageConfig


def learning_rate(step: int, config: StageConfig) -> float:
    """Linear warm-up over `warmup_steps`, then the schedule to `final_learning_rate` of the peak.

    Step 0 is the first update, `steps - 1` the last.
    """
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return rate_at(step, progress, config)


def rate_at(step: int, progress: float, config: StageConfig) -> float:
    """The same for a given progress after the warm-up, from 0 to 1."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = min(1.0, progress)
    if config.schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * progress))
    else:  # a square root at the end is better than a line (Hägele et al., 2024)
        into = max(0.0, progress - (1 - config.decay))
        share = 1 - math.sqrt(into / config.decay) if into else 1.0
    floor = config.final_learning_rate
    return config.learning_rate * (floor + (1 - floor) * share)
