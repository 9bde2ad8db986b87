"""A compact convolutional encoder: log-mel of any length to one vector, fast on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GROUP = 8  # channels per group of the normalisation


class ConvBlock(nn.Module):
    """Pre-activation residual block (arXiv 1603.05027) of two 3x3 convolutions, GroupNorm, SiLU.

    With BatchNorm an embedding would depend on its batch and on the number of processes.
    """

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(channels // _GROUP, channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1)
        self.norm2 = nn.GroupNorm(out_channels // _GROUP, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        # the last convolution starts at zero, so each block starts as its shortcut
        nn.init.zeros_(self.conv2.weight)
        self.shortcut = (
            nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()
        )
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T, F] -> [B, C', T / stride, F / stride], rounded up."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        return self.shortcut(x) + hidden


class ConvTower(nn.Module):
    """Strided stem, residual stages of doubling width, mean and max over time and frequency."""

    def __init__(self, num_mels: int, width: int, depths: tuple[int, ...], embed_dim: int) -> None:
        """`width`: channels of the first stage, a multiple of 8; `depths`: blocks of each stage."""
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1)
        # convolutions are blind to absolute frequency, so each band has a learned offset
        self.frequency = nn.Parameter(torch.randn(1, width, 1, (num_mels + 1) // 2) * 0.02)
        blocks, channels = [], width
        for stage, depth in enumerate(depths):
            out_channels = width * 2**stage
            for block in range(depth):
                stride = 2 if stage and not block else 1
                blocks.append(ConvBlock(channels, out_channels, stride))
                channels = out_channels
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.GroupNorm(channels // _GROUP, channels)
        self.projection = nn.Linear(2 * channels, embed_dim)

    def pool(self, mel: Tensor) -> Tensor:
        """Normalised mel [B, 1, T, F] of any length -> input of the projection [B, 2 C]."""
        x = self.stem(mel) + self.frequency
        for block in self.blocks:  # unlike `maps`, this keeps only the last map
            x = block(x)
        x = F.silu(self.norm(x))
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)

    def maps(self, mel: Tensor) -> list[Tensor]:
        """Normalised mel [B, 1, T, F] -> outputs of the stem and of each block, [B, C, T', F']."""
        maps = [self.stem(mel) + self.frequency]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps

    def forward(self, mel: Tensor) -> Tensor:
        """Normalised mel [B, 1, T, F] of any length -> [B, E]."""
        return self.projection(self.pool(mel))
