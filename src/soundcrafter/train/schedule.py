"""The learning rate as a pure function of the step or of elapsed time."""

import math

from soundcrafter.train.recipe import StageConfig


def learning_rate(step: int, config: StageConfig) -> float:
    """Linear warm-up over `warmup_steps`, then one cosine to `final_learning_rate` of the peak.

    Step 0 is the first update, `steps - 1` the last.
    """
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return cosine_rate(step, progress, config)


def cosine_rate(step: int, progress: float, config: StageConfig) -> float:
    """The same for a given position on the cosine, `progress` from 0 to 1."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    floor = config.final_learning_rate
    return config.learning_rate * (floor + (1 - floor) * cosine)
