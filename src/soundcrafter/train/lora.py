"""The training of an adapter (LoRA): the U-Net's loss through a frozen U-Net."""

from os import PathLike
from pathlib import Path
from typing import Any, cast

from torch import nn

from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.models.lora import Adapter, AdapterConfig
from soundcrafter.models.unet import UNet
from soundcrafter.store import open_folder, save_part
from soundcrafter.train.diffusion import DiffusionBatch, DiffusionStage, denoising
from soundcrafter.train.recipe import Recipe
from soundcrafter.train.stage import (
    Batch,
    ExternalModule,
    Losses,
    LossModule,
    refuse_other_settings,
)


class AdapterLoss(LossModule[Adapter, DiffusionBatch]):
    """The denoising loss of a frozen U-Net with an adapter attached. Only the adapter is trained,
    averaged and saved; the U-Net is in evaluation mode, without dropout."""

    def __init__(self, adapter: Adapter, unet: UNet, schedule: Schedule) -> None:
        super().__init__(adapter)
        adapter.attach(unet)
        self.base, self.schedule = ExternalModule(unet), schedule

    def forward(self, batch: DiffusionBatch, step: int) -> tuple[Losses, Batch]:
        unet = self.base.module.to(batch["latent"].device)
        return denoising(unet, self.schedule, batch), {}


class AdapterStage(DiffusionStage):
    """Trains the part `adapter`, for the U-Net of the model folder `folder`."""

    name = "lora"
    section = "diffusion"
    parts = ("adapter",)

    def __init__(self, recipe: Recipe, data: str | PathLike[str], folder: Path, rank: int) -> None:
        self.adapter_config = AdapterConfig(unet=recipe.model.unet, rank=rank)
        self.base_id = open_folder(folder).parts["unet"].training_id
        super().__init__(recipe, data, folder)

    def make_loss_modules(self) -> dict[str, LossModule[Any, DiffusionBatch]]:
        """The adapter, which has no effect yet, attached to the frozen U-Net."""
        unet = self._load_unet().requires_grad_(False)
        unet.checkpointing = self.config.checkpointing
        adapter = Adapter(self.adapter_config)
        return {"adapter": AdapterLoss(adapter, unet, self.schedule)}

    def identity(self) -> dict[str, Any]:
        beside = {"unet": self.base_id, "rank": self.adapter_config.rank}
        return {**super().identity(), "adapter": beside}

    def uses(self) -> list[tuple[Path, str]]:
        return [(self.folder, "unet"), *super().uses()]

    def export(self, network: nn.Module, folder: Path) -> None:
        save_part(
            folder,
            "adapter",
            network,
            self.adapter_config,
            trained_against={"unet": self.base_id},
            diffusion=self.model_config.diffusion,
            sampling=self.model_config.sampling,
        )

    def averaged_unet(self, network: nn.Module) -> UNet:
        # merge into a copy: training goes on with the network
        unet = self._load_unet().to(next(network.parameters()).device)
        cast(Adapter, network).merge(unet)
        return unet

    def _load_unet(self) -> UNet:
        parts = open_folder(self.folder)
        there = {"unet": parts.parts["unet"].config, "diffusion": parts.diffusion}
        for name, config in there.items():
            refuse_other_settings(self.folder, name, config, getattr(self.model_config, name))
        return cast(UNet, parts.load("unet"))
