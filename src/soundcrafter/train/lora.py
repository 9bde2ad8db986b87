"""The training of an adapter (LoRA): the U-Net's loss, through a U-Net that stays as it is."""

from pathlib import Path
from typing import Any, cast

from torch import nn

from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.models.lora import Adapter, AdapterConfig
from soundcrafter.models.unet import UNet
from soundcrafter.store import open_folder, save_part
from soundcrafter.train.diffusion import DiffusionStage, denoising
from soundcrafter.train.recipe import Recipe
from soundcrafter.train.stage import Batch, Player, Terms, Unregistered


class AdapterPlayer(Player):
    """The denoising loss of a frozen U-Net with an adapter attached. The adapter alone is trained,
    averaged and saved; the U-Net is in evaluation mode, without dropout."""

    def __init__(self, adapter: Adapter, unet: UNet, schedule: Schedule) -> None:
        super().__init__(adapter)
        adapter.attach(unet)
        self.base, self.schedule = Unregistered(unet), schedule

    def forward(self, batch: Batch, step: int) -> tuple[Terms, Batch]:
        unet = cast(UNet, self.base.module.to(batch["latent"].device))
        return denoising(unet, self.schedule, batch), {}


class AdapterStage(DiffusionStage):
    """Trains the part `adapter`, beside the U-Net of the model folder `base`."""

    name = "lora"
    parts = ("adapter",)

    def __init__(self, recipe: Recipe, data: Path, base: Path, rank: int) -> None:
        self.adapter_config = AdapterConfig(unet=recipe.model.unet, rank=rank)
        self.base_id = open_folder(base).parts["unet"].training_id
        super().__init__(recipe, data, base)

    def make_players(self) -> dict[str, Player]:
        """The adapter, which changes nothing yet, beside the frozen U-Net."""
        unet = self._load_unet().requires_grad_(False)
        unet.checkpointing = self.config.checkpointing
        adapter = Adapter(self.adapter_config)
        return {"adapter": AdapterPlayer(adapter, unet, self.schedule)}

    def identity(self) -> dict[str, Any]:
        beside = {"unet": self.base_id, "rank": self.adapter_config.rank}
        return {**super().identity(), "adapter": beside}

    def export(self, network: nn.Module, folder: Path) -> None:
        against = {"unet": self.base_id}
        save_part(folder, "adapter", network, self.adapter_config, trained_against=against)

    def averaged_unet(self, network: nn.Module) -> UNet:
        unet = self._load_unet()
        cast(Adapter, network).to("cpu").merge(unet)
        return unet

    def _load_unet(self) -> UNet:
        parts = open_folder(self.folder)
        if parts.parts["unet"].config != self.model_config.unet:
            raise ValueError(f"{self.folder}: its unet has other settings than the recipe's")
        return cast(UNet, parts.load("unet"))
