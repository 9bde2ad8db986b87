"""The training of a U-Net that samples in a few steps, from one that needs many."""

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, cast

from torch import nn

from soundcrafter.config import fast_sampling
from soundcrafter.diffusion.config import SamplingConfig
from soundcrafter.diffusion.consistency import Segments, consistency_loss
from soundcrafter.diffusion.guidance import guided
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.models.unet import FastUNetConfig, UNet
from soundcrafter.store import open_folder, save_part
from soundcrafter.train.diffusion import DiffusionBatch, DiffusionStage, dropped
from soundcrafter.train.recipe import DistillStageConfig, Recipe
from soundcrafter.train.stage import (
    Batch,
    ExternalModule,
    Losses,
    LossModule,
    refuse_other_settings,
)


class DistillLoss(LossModule[UNet, DiffusionBatch]):
    """The consistency loss of a student beside its teacher, which is guided and frozen."""

    def __init__(
        self, student: UNet, teacher: UNet, schedule: Schedule, config: DistillStageConfig
    ) -> None:
        super().__init__(student)
        self.teacher, self.config = ExternalModule(teacher), config
        self.segments = Segments(schedule, config.segments)

    def forward(self, batch: DiffusionBatch, step: int) -> tuple[Losses, Batch]:
        teacher = self.teacher.module.to(batch["latent"].device)
        cond = dropped(batch, self.network.null_cond)
        loss = consistency_loss(
            lambda x, t: self.network(x, t, cond),
            guided(teacher, dropped(batch, teacher.null_cond), teacher.null_cond, self._guidance),
            self.segments,
            batch["latent"],
            batch["noise"],
            self.segments.draw_times(batch["u"]),
            self.config.skip,
        )
        return {"consistency": loss.mean()}, {}

    @property
    def _guidance(self) -> float:
        assert self.config.guidance is not None, "the stage fills it in"
        return self.config.guidance


class DistillStage(DiffusionStage):
    """Trains the part `unet_fast` from the `unet` of the model folder `folder`."""

    name = "distill"
    parts = ("unet_fast",)
    config: DistillStageConfig

    def __init__(self, recipe: Recipe, data: str | PathLike[str], folder: Path) -> None:
        parts = open_folder(folder)
        parts.require("unet")
        self.teacher_id = parts.parts["unet"].training_id
        there = {"unet": parts.parts["unet"].config, "diffusion": parts.diffusion}
        for name, config in there.items():
            refuse_other_settings(folder, name, config, getattr(recipe.model, name))
        super().__init__(recipe, data, folder)

    def make_loss_modules(self) -> dict[str, LossModule[Any, DiffusionBatch]]:
        """The student, which begins as a copy of its teacher."""
        parts = open_folder(self.folder)
        student, teacher = (cast(UNet, parts.load("unet")) for _ in range(2))
        student.train().checkpointing = self.config.checkpointing
        teacher.requires_grad_(False)
        return {"unet_fast": DistillLoss(student, teacher, self.schedule, self.config)}

    def initialise(self, folder: Path) -> None:
        """Nothing to do: the student begins as its teacher."""

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "teacher": self.teacher_id}

    def uses(self) -> list[tuple[Path, str]]:
        return [(self.folder, "unet"), *super().uses()]

    def export(self, network: nn.Module, folder: Path) -> None:
        save_part(
            folder,
            "unet_fast",
            network,
            self.part_config,
            trained_against={"unet": self.teacher_id},
        )

    @classmethod
    def stage_config(cls, recipe: Recipe) -> DistillStageConfig:
        """The stage's settings, with the model's guidance if they name none."""
        config = recipe.distill
        if config.guidance is None:
            return replace(config, guidance=recipe.model.sampling.guidance)
        return config

    @property
    def sampling(self) -> SamplingConfig:
        return fast_sampling(self.model_config.sampling, self.part_config)

    @property
    def part_config(self) -> FastUNetConfig:
        """The settings of the part."""
        guidance = self.config.guidance
        assert guidance is not None, "filled in by the constructor"
        return FastUNetConfig(
            unet=self.model_config.unet, steps=self.config.segments, guidance=guidance
        )
