"""LoRA: a small adapter beside a frozen U-Net (Hu et al., arXiv 2106.09685)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from soundcrafter.models.unet import UNet, UNetConfig
from soundcrafter.settings import check_at_least

_NOT_ADAPTED = ("time_in", "time_out", "cond_proj")  # the layers before the blocks


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The size of an adapter, and the U-Net that it is for; by default the paper's."""

    unet: UNetConfig = field(default_factory=UNetConfig)  # of the adapted U-Net
    rank: int = 4  # of every weight update
    scale: float = 1.0  # of every weight update

    def __post_init__(self) -> None:
        check_at_least(self, 1, "rank")
        if not math.isfinite(self.scale):
            raise ValueError(f"scale: got {self.scale}; allowed: finite numbers")


class LowRank(nn.Module):
    """Low-rank update of a weight: W + scale B A, eq. 3 of the LoRA paper. B starts at zero."""

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
    """Low-rank updates of every linear layer in a U-Net's blocks.

    These are the attentions, the feed-forwards, and the projections of the conditioning vector.
    """

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
        """Let the U-Net compute with the updated weights, for training an adapter.

        Raises ValueError for a U-Net with other settings.
        """
        for path, layer in self._targets(unet).items():
            register_parametrization(layer, "weight", self.changes[_key(path)])

    @torch.no_grad()
    def merge(self, unet: UNet, weight: float = 1.0) -> None:
        """Add the updates, `weight` times, to the U-Net's weights; several adapters add up.

        Raises ValueError for a U-Net with other settings.
        """
        for path, layer in self._targets(unet).items():
            change = self.changes[_key(path)]
            assert isinstance(change, LowRank)
            alpha = weight * change.scale
            # in float32, because the U-Net may be in bf16
            changed = torch.addmm(
                layer.weight.float(), change.up.float(), change.down.float(), alpha=alpha
            )
            layer.weight.copy_(changed)

    def _targets(self, unet: UNet) -> Mapping[str, nn.Linear]:
        if unet.config != self.config.unet:
            raise ValueError("adapter: it is for a U-Net with other settings")
        return _linears(unet)


def _linears(unet: UNet) -> dict[str, nn.Linear]:
    return {
        path: module
        for path, module in unet.named_modules()
        if isinstance(module, nn.Linear) and path not in _NOT_ADAPTED
    }


def _key(path: str) -> str:
    return path.replace(".", "/")  # module names must not contain dots
