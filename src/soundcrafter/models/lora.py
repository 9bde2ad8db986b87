"""LoRA: a small adapter beside a frozen U-Net (Hu et al., arXiv 2106.09685)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from soundcrafter.models.unet import UNet, UNetConfig

_BEFORE_BLOCKS = ("time_in", "time_out", "cond_proj")  # these stay as they are


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What an adapter is beside; the defaults are the paper's U-Net."""

    unet: UNetConfig = field(default_factory=UNetConfig)  # of the U-Net that it changes
    rank: int = 4  # of every change
    scale: float = 1.0  # of every change

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank: got {self.rank}; at least 1")
        if not math.isfinite(self.scale):
            raise ValueError(f"scale: got {self.scale}; a finite number")


class LowRank(nn.Module):
    """A change of a weight: W + scale B A, eq. 3 of the LoRA paper; it starts at no change."""

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.down = nn.Parameter(torch.empty(rank, inputs))  # A
        self.up = nn.Parameter(torch.zeros(outputs, rank))  # B
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """weight [out, in] -> [out, in]."""
        return torch.addmm(weight, self.up, self.down, alpha=self.scale)


class Adapter(nn.Module):
    """Low-rank changes of every linear layer in a U-Net's blocks: its attentions, feed-forwards,
    and the projections by which time and CLAP vector act."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):
            targets = _linears(UNet(config.unet))
        self.changes = nn.ModuleDict(
            {
                _key(path): LowRank(
                    layer.in_features, layer.out_features, config.rank, config.scale
                )
                for path, layer in targets.items()
            }
        )

    def attach(self, unet: UNet) -> None:
        """From now on the U-Net computes with the changes: for training, through a frozen U-Net.

        Raises ValueError for a U-Net of other settings.
        """
        for path, layer in self._targets(unet).items():
            register_parametrization(layer, "weight", self.changes[_key(path)])

    @torch.no_grad()
    def merge(self, unet: UNet, weight: float = 1.0) -> None:
        """Add the changes, `weight` times, to the U-Net's weights: for use, at no cost. Adapters
        stack so. Raises ValueError for a U-Net of other settings."""
        for path, layer in self._targets(unet).items():
            change = self.changes[_key(path)]
            assert isinstance(change, LowRank)
            alpha = weight * change.scale
            # in float32, for the U-Net may be in bf16 already
            changed = torch.addmm(
                layer.weight.float(), change.up.float(), change.down.float(), alpha=alpha
            )
            layer.weight.copy_(changed)

    def _targets(self, unet: UNet) -> Mapping[str, nn.Linear]:
        if unet.config != self.config.unet:
            raise ValueError("adapter: made for a U-Net of other settings")
        return _linears(unet)


def _linears(unet: UNet) -> dict[str, nn.Linear]:
    return {
        path: module
        for path, module in unet.named_modules()
        if isinstance(module, nn.Linear) and path not in _BEFORE_BLOCKS
    }


def _key(path: str) -> str:
    return path.replace(".", "/")  # torch allows no dot in a module's name
