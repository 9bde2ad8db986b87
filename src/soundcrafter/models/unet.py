"""The U-Net: every block is conditioned on the time step and the CLAP vector."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from soundcrafter.models.attention import Transformer
from soundcrafter.models.layers import (
    Block,
    Conditioning,
    Downsample,
    ResBlock,
    Stride,
    Upsample,
    check_divisible,
    check_levels,
    checkpointed,
    norm_silu,
    resample_time,
    timestep_embedding,
    total_stride,
)
from soundcrafter.settings import check_at_least

EPS = 1e-5  # of the group norms outside attention, as in the published checkpoints


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The size and layout of a U-Net; the defaults are the paper's model."""

    in_channels: int = 8  # latent channels, in and out
    channels: int = 128  # width of the first level
    multipliers: tuple[int, ...] = (1, 2, 3, 5)  # width of each level over `channels`
    strides: tuple[tuple[int, int], ...] = ((1, 1), (2, 2), (2, 2), (2, 2))  # on entering a level
    res_blocks: int = 2  # residual blocks per level (one more on the way up)
    attention: tuple[bool, ...] = (
        False,
        True,
        True,
        True,
    )  # levels with attention; so has the middle
    heads: tuple[int, ...] = (8, 8, 8, 8)  # attention heads of each level; the middle has the last
    dropout: float = 0.1  # in the residual blocks
    conditioning: Conditioning = "film"  # "film": scale and shift; "shift": AudioLDM's sum
    time_dim: int = 256  # width of the time part of the conditioning vector
    cond_dim: int = 256  # width of the CLAP part of the conditioning vector
    embed_dim: int = 512  # width of the CLAP vector itself
    norm_groups: int = 32  # groups of every group norm
    timelines: bool = False  # trained on timelines, in which silence has its own condition

    def __post_init__(self) -> None:
        check_levels(
            self.channels, self.multipliers, self.strides, self.res_blocks, self.norm_groups
        )
        levels = len(self.multipliers)
        for name in ("attention", "heads"):
            if len(getattr(self, name)) != levels:
                raise ValueError(
                    f"{name}: got {len(getattr(self, name))} values; allowed: one for each level"
                )
        for level, (multiplier, heads) in enumerate(zip(self.multipliers, self.heads, strict=True)):
            attends = self.attention[level] or level == levels - 1
            if attends and (heads < 1 or self.channels * multiplier % heads):
                raise ValueError(
                    f"heads: got {heads} at level {level}; "
                    f"allowed: a divisor of its {self.channels * multiplier} channels"
                )
        check_at_least(self, 1, "in_channels", "time_dim", "cond_dim", "embed_dim")
        if self.channels % 2:
            raise ValueError(f"channels: got {self.channels}; allowed: an even number")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: got {self.dropout}; allowed: 0 to below 1")

    @property
    def stride(self) -> Stride:
        """Downsampling from the latent to the deepest level: (time, frequency)."""
        return total_stride(self.strides)


@dataclass(frozen=True, kw_only=True)
class FastUNetConfig:
    """A U-Net that was distilled to sample in a few steps, without guidance."""

    unet: UNetConfig
    steps: int  # that it was distilled for
    guidance: float  # of its teacher, which is built in

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps")
        check_at_least(self, 0, "guidance")


class UNet(nn.Module):
    """Predicts the diffusion target from a noisy latent, the time step and the condition.

    With conditioning "shift", every parameter has a counterpart of the same shape in the published
    AudioLDM U-Net. `checkpointing` saves the memory of activations by computing them twice.
    """

    null_cond: Tensor

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        self.time_in = nn.Linear(config.channels, config.time_dim)
        self.time_out = nn.Linear(config.time_dim, config.time_dim)
        self.cond_proj = nn.Linear(config.embed_dim, config.cond_dim)
        self.register_buffer("null_cond", torch.zeros(config.embed_dim))
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        skips = [widths[0]]
        for level in range(len(widths)):
            self.down.append(_DownLevel(config, level, skips))
        last = len(widths) - 1
        self.middle = nn.ModuleList(
            [
                _block(config, widths[-1], last, attends=True),
                _block(config, widths[-1], last, attends=False),
            ]
        )
        for level in reversed(range(len(widths))):
            self.up.append(_UpLevel(config, level, skips))
        assert not skips, "every skip is used once"
        self.norm_out = nn.GroupNorm(config.norm_groups, widths[0], eps=EPS)
        self.conv_out = nn.Conv2d(widths[0], config.in_channels, 3, padding=1)
        self._init_weights()

    def forward(self, latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """latent [B, C, T, F], t [B] in training steps, cond [B, E] or [B, T', E] -> prediction.

        The prediction (of noise, v or velocity, depending on the schedule's objective) has the
        latent's shape and dtype. T and F are arbitrary. Raises ValueError for a condition of
        another width.
        """
        return self.predict(latent, self.embed(t, cond))[0]

    def embed(self, t: Tensor, cond: Tensor) -> Tensor:
        """t [B], cond [B, E] or [B, T', E] -> emb [B, D] or [B, T', D], D = time_dim + cond_dim.

        The paper's conditioning vector: the embeddings of time step and CLAP vector, concatenated,
        after their SiLU.
        """
        if cond.ndim not in (2, 3) or cond.shape[-1] != self.config.embed_dim:
            raise ValueError(
                f"cond: got the shape {tuple(cond.shape)}; allowed: "
                f"[batch, width] or [batch, time, width] of width {self.config.embed_dim}"
            )
        dtype = self.time_in.weight.dtype
        time = self.time_in(timestep_embedding(t, self.config.channels).to(dtype))
        time = self.time_out(nn.functional.silu(time))
        vector = self.cond_proj(cond.to(dtype))
        if vector.ndim == 3:
            time = time[:, None].expand(-1, vector.shape[1], -1)
        return nn.functional.silu(torch.cat([time, vector], dim=-1))

    def predict(
        self, latent: Tensor, emb: Tensor, inner: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """latent [B, C, T, F], `embed`'s emb -> prediction [B, C, T, F], inner features.

        The inner features [B, C', T, F] are the input of the last level. If those of another time
        step are given, only the outermost level is computed.
        """
        check_divisible(latent, (1, 1), "latent")
        embs, frames = [], latent.shape[2]
        for time_stride, _ in self.config.strides:
            frames = math.ceil(frames / time_stride)
            embs.append(resample_time(emb, frames))
        x = self.conv_in(latent.to(self.conv_in.weight.dtype))
        skips, below = [x], len(embs) if inner is None else 1
        for level, level_emb in zip(self.down[:below], embs, strict=False):
            x = level(x, level_emb, skips, self.checkpointing)
        if inner is None:
            for block in self.middle:
                x = checkpointed(block, self.checkpointing, x, embs[-1])
            for level, level_emb in zip(self.up[:-1], reversed(embs), strict=False):
                x = level(x, level_emb, skips, self.checkpointing)
            inner = x
        elif len(embs) > 1:
            skips.pop()  # the input of the second level, which is not computed
        x = self.up[-1](inner, embs[0], skips, self.checkpointing)
        return self.conv_out(norm_silu(self.norm_out, x)).to(latent.dtype), inner

    def _init_weights(self) -> None:
        # Residual branches and the output start at zero (Dhariwal & Nichol 2021).
        for module in self.modules():
            if isinstance(module, ResBlock):
                _zero(module.conv2)
            elif isinstance(module, Transformer):
                _zero(module.proj_out)
        _zero(self.conv_out)
        if self.config.conditioning == "film":
            # Unit-norm CLAP vectors then give features of variance 1, not 1 / (3 E).
            nn.init.normal_(self.cond_proj.weight)


def silence_cond(config: UNetConfig, like: Tensor) -> Tensor:
    """The condition [E] of frames where no event of a timeline sounds.

    It is a constant of unit length, in the dtype and on the device of `like`, that `cond_proj`
    learns to read.
    """
    return like.new_full((config.embed_dim,), config.embed_dim**-0.5)


class ReusingUNet:
    """A U-Net that computes its inner levels only at every `every`-th time step.

    In between it reuses their features, which change slowly (DeepCache: Ma et al., 2023). It is
    called like the U-Net, in the same order at each time step. Use a new one for each sampler run.
    """

    def __init__(self, unet: UNet, every: int) -> None:
        """Raises ValueError for `every` below 1."""
        if every < 1:
            raise ValueError(f"reuse: got {every}; allowed: 1 or more")
        self.unet, self.every = unet, every
        self._time: float | None = None
        self._step = -1
        self._call = 0
        self._cache: dict[int, Tensor] = {}  # inner features of each call at a time step

    def __call__(self, latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """latent [B, C, T, F], t [B] all equal, cond [B, E] or [B, T', E] -> [B, C, T, F]."""
        time = float(t[0])
        if time != self._time:
            self._time, self._step, self._call = time, self._step + 1, 0
        inner = None if self._step % self.every == 0 else self._cache.get(self._call)
        if inner is not None and len(inner) != len(latent):
            inner = None  # the batch size changes where guidance begins or ends
        emb = self.unet.embed(t, cond)
        prediction, self._cache[self._call] = self.unet.predict(latent, emb, inner)
        self._call += 1
        return prediction


class _DownLevel(nn.Module):
    """Blocks that append their outputs to `skips`, then downsampling to the next level."""

    def __init__(self, config: UNetConfig, level: int, skips: list[int]) -> None:
        super().__init__()
        width = config.channels * config.multipliers[level]
        self.stages = nn.ModuleList()
        for _ in range(config.res_blocks):
            self.stages.append(_block(config, skips[-1], level, attends=config.attention[level]))
            skips.append(width)
        self.downsample: Downsample | None = None
        if level + 1 < len(config.strides):
            self.downsample = Downsample(width, config.strides[level + 1], asymmetric=False)
            skips.append(width)

    def forward(self, x: Tensor, emb: Tensor, skips: list[Tensor], checkpointing: bool) -> Tensor:
        for block in self.stages:
            x = checkpointed(block, checkpointing, x, emb)
            skips.append(x)
        if self.downsample is not None:
            x = self.downsample(x)
            skips.append(x)
        return x


class _UpLevel(nn.Module):
    """Blocks that each consume the last of `skips`, then upsampling to the previous level."""

    def __init__(self, config: UNetConfig, level: int, skips: list[int]) -> None:
        super().__init__()
        width = config.channels * config.multipliers[level]
        below = min(level + 1, len(config.multipliers) - 1)
        inputs = config.channels * config.multipliers[below]
        self.stages = nn.ModuleList()
        for _ in range(config.res_blocks + 1):
            inputs += skips.pop()
            self.stages.append(_block(config, inputs, level, attends=config.attention[level]))
            inputs = width
        self.upsample = Upsample(width, config.strides[level]) if level > 0 else None

    def forward(self, x: Tensor, emb: Tensor, skips: list[Tensor], checkpointing: bool) -> Tensor:
        for block in self.stages:
            x = checkpointed(block, checkpointing, torch.cat([x, skips.pop()], dim=1), emb)
        if self.upsample is None:
            return x
        above = skips[-1].shape  # of the previous level
        return self.upsample(x, (above[2], above[3]))


def _block(config: UNetConfig, inputs: int, level: int, *, attends: bool) -> Block:
    width = config.channels * config.multipliers[level]
    res = ResBlock(
        inputs,
        width,
        norm_groups=config.norm_groups,
        eps=EPS,
        conditioning=config.conditioning,
        emb_dim=config.time_dim + config.cond_dim,
        dropout=config.dropout,
    )
    if not attends:
        return Block(res)
    return Block(res, Transformer(width, config.heads[level], norm_groups=config.norm_groups))


def _zero(conv: nn.Conv2d) -> None:
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
