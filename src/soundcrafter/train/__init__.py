"""Training: a stage for each part, one loop for all stages, one engine that knows the hardware."""

from soundcrafter.train.loop import RunOptions
from soundcrafter.train.recipe import Recipe, read_recipe
from soundcrafter.train.signals import TrainingInterrupted
from soundcrafter.train.stages import (
    GENERATOR_STAGES,
    STAGES,
    build_stage,
    settings_base,
    train,
)

__all__ = [
    "GENERATOR_STAGES",
    "STAGES",
    "Recipe",
    "RunOptions",
    "TrainingInterrupted",
    "build_stage",
    "read_recipe",
    "settings_base",
    "train",
]
