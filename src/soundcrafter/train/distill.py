"""The training of a U-Net that samples in a few steps, from one that needs many."""

from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from soundcrafter.diffusion.config import SamplingConfig, fast_sampling
from soundcrafter.diffusion.consistency import Segments, consistency_loss
from soundcrafter.diffusion.guidance import guided
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.models.clap_audio import ClapAudio
from soundcrafter.models.unet import FastUNetConfig, UNet
from soundcrafter.models.vae import VAE
from soundcrafter.store import ModelFolder, open_folder, save_part
from soundcrafter.train.diffusion import DiffusionBatch, DiffusionStage, dropped
from soundcrafter.train.recipe import DistillStageConfig, Recipe
from soundcrafter.train.stage import (
    Batch,
    ExternalModule,
    Losses,
    LossModule,
    refuse_other_settings,
)


@dataclass(frozen=True)
class ClapLoss:
    """How little a decoded latent sounds like its condition (Karchkhadze et al., 2024)."""

    vae: VAE
    audio: ClapAudio

    def __call__(self, latent: Tensor, cond: Tensor) -> Tensor:
        """1 - the CLAP similarity of latents [B, C, T, F] and conditions [B, E]: [B]."""
        found = self.audio.to(latent.device).embed_mel(self.vae.to(latent.device).decode(latent))
        return 1 - (found * cond).sum(-1)


class DistillLoss(LossModule[UNet, DiffusionBatch]):
    """The consistency loss of a student beside its teacher, which is guided and frozen."""

    def __init__(
        self,
        student: UNet,
        teacher: UNet,
        schedule: Schedule,
        config: DistillStageConfig,
        clap: ClapLoss | None,
    ) -> None:
        super().__init__(student)
        self.teacher, self.config, self.clap = ExternalModule(teacher), config, clap
        self.segments = Segments(schedule, config.segments)

    def forward(self, batch: DiffusionBatch, step: int) -> tuple[Losses, Batch]:
        assert self.config.guidance is not None, "filled in by the stage"
        teacher = self.teacher.module.to(batch["latent"].device)
        cond, t = dropped(batch, self.network.null_cond), self.segments.draw_times(batch["u"])
        loss, found = consistency_loss(
            lambda x, t: self.network(x, t, cond),
            guided(teacher, cond, teacher.null_cond, self.config.guidance),
            self.segments,
            batch["latent"],
            batch["noise"],
            t,
            self.config.skip,
        )
        losses = {"consistency": loss.mean()}
        if self.clap is not None:
            # what is heard is where the last segment leads to
            heard = self.segments.is_last(t) & ~batch["drop"]
            losses["clap"] = self.clap(found[heard], cond[heard]).sum() / len(t)
        return losses, {}


class DistillStage(DiffusionStage):
    """Trains the part `unet_fast` from the `unet` of the model folder `folder`."""

    name = "distill"
    parts = ("unet_fast",)
    config: DistillStageConfig

    def __init__(self, recipe: Recipe, data: str | PathLike[str], folder: Path) -> None:
        parts, config = open_folder(folder), recipe.distill
        parts.require("unet")
        self.teacher_id = parts.parts["unet"].training_id
        there = {"unet": parts.parts["unet"].config, "diffusion": parts.diffusion}
        for name, settings in there.items():
            refuse_other_settings(folder, name, settings, getattr(recipe.model, name))
        if config.guidance is None:
            config = replace(config, guidance=recipe.model.sampling.guidance)
        super().__init__(replace(recipe, diffusion=config), data, folder)

    def make_loss_modules(self) -> dict[str, LossModule[Any, DiffusionBatch]]:
        """The student, which begins as a copy of its teacher."""
        parts = open_folder(self.folder)
        student, teacher = (cast(UNet, parts.load("unet")) for _ in range(2))
        student.train().checkpointing = self.config.checkpointing
        teacher.requires_grad_(False)
        clap = self._clap_loss(parts) if self.config.clap_weight else None
        loss = DistillLoss(student, teacher, self.schedule, self.config, clap)
        return {"unet_fast": loss}

    def weights(self, step: int) -> dict[str, float]:
        return {"consistency": 1.0, "clap": self.config.clap_weight}

    def initialise(self, folder: Path) -> None:
        """Nothing to do: the student begins as its teacher."""

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "teacher": self.teacher_id}

    def uses(self) -> list[tuple[Path, str]]:
        return [(self.folder, "unet"), *super().uses()]

    def export(self, network: nn.Module, folder: Path) -> None:
        against = {"unet": self.teacher_id}
        save_part(folder, "unet_fast", network, self.part_config, trained_against=against)

    @property
    def sampling(self) -> SamplingConfig:
        return fast_sampling(self.model_config.sampling, self.config.segments)

    @property
    def part_config(self) -> FastUNetConfig:
        """The settings of the part."""
        assert self.config.guidance is not None, "filled in by the constructor"
        return FastUNetConfig(
            unet=self.model_config.unet,
            steps=self.config.segments,
            guidance=self.config.guidance,
        )

    def _clap_loss(self, parts: ModelFolder) -> ClapLoss:
        parts.require("vae", "clap_audio")
        parts.check_against("the data's encoding", self.trained_against)
        vae, audio = cast(VAE, parts.load("vae")), cast(ClapAudio, parts.load("clap_audio"))
        if audio.config.tower != "conv" or audio.config.mel != vae.config.mel:
            raise ValueError(
                f"{parts.path}: distill.clap_weight: its audio tower does not read the mels that "
                "its VAE makes; allowed: 0"
            )
        if self.model_config.unet.timelines:
            raise ValueError("distill.clap_weight: allowed for a U-Net with timelines: 0")
        for network in (vae, audio):
            network.requires_grad_(False)
        return ClapLoss(vae, audio)
