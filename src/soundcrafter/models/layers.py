"""Building blocks shared by the U-Net and the VAE. Feature maps are [B, C, T, F], time first."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Stride = tuple[int, int]
Conditioning = Literal["film", "shift"]

MAX_BLOCKS = 100  # residual blocks a level


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding: t [B] (training steps, int or float) -> [B, dim] float32.

    Cosines, then sines, at dim / 2 frequencies 10000^(-i / (dim / 2)) (Ho et al. 2020, in the order
    of latent diffusion). Always float32: bfloat16 cannot tell step 999 from step 1000.
    """
    half = dim // 2
    positions = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(-math.log(10000.0) / half * positions)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def resample_time(emb: Tensor, length: int) -> Tensor:
    """Linear resampling along time: emb [B, T', D] -> [B, length, D]; [B, D] is returned as is."""
    if emb.ndim == 2 or emb.shape[1] == length:
        return emb
    return F.interpolate(emb.transpose(1, 2), size=length, mode="linear").transpose(1, 2)


def check_divisible(x: Tensor, stride: Stride, name: str) -> None:
    """Raise ValueError unless T and F of x [B, C, T, F] are multiples of `stride`."""
    if x.ndim != 4 or any(n == 0 or n % s for n, s in zip(x.shape[2:], stride, strict=True)):
        raise ValueError(
            f"{name}: got the shape {tuple(x.shape)}; allowed: [batch, channels, time, frequency] "
            f"with time a multiple of {stride[0]} and frequency a multiple of {stride[1]}"
        )


def check_levels(
    channels: int,
    multipliers: tuple[int, ...],
    strides: tuple[Stride, ...],
    res_blocks: int,
    norm_groups: int,
) -> None:
    """Raise ValueError unless these settings, which the U-Net and the VAE share, are valid."""
    if not multipliers or min(multipliers) < 1:
        raise ValueError(f"multipliers: got {multipliers}; allowed: one positive number per level")
    if len(strides) != len(multipliers):
        raise ValueError(
            f"strides: got {len(strides)} for {len(multipliers)} levels; allowed: one per level"
        )
    if strides[0] != (1, 1) or any(side not in (1, 2) for stride in strides for side in stride):
        raise ValueError(
            f"strides: got {strides}; allowed: (1, 1) for the first level, then 1 or 2 per axis"
        )
    if not 1 <= res_blocks <= MAX_BLOCKS:
        raise ValueError(f"res_blocks: got {res_blocks}; allowed: 1 to {MAX_BLOCKS}")
    widths = [channels * multiplier for multiplier in multipliers]
    if norm_groups < 1 or channels < 1 or any(width % norm_groups for width in widths):
        raise ValueError(
            f"norm_groups: got {norm_groups}; allowed: a divisor of every channel count {widths}"
        )


def total_stride(strides: tuple[Stride, ...]) -> Stride:
    """The product of the levels' (time, frequency) strides."""
    return math.prod(time for time, _ in strides), math.prod(freq for _, freq in strides)


def checkpointed(module: nn.Module, checkpointing: bool, *inputs: Tensor | None) -> Tensor:
    """Call `module`, with gradient checkpointing if `checkpointing` is set."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(module, *inputs, use_reentrant=False)
    return module(*inputs)


def checkpoint_calls(modules: Iterable[nn.Module]) -> None:
    """Wrap the modules' forward in gradient checkpointing.

    This is for networks of other libraries, which do not call `checkpointed`.
    """
    for module in modules:
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and restore its mode afterwards."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """silu(norm(x)), in place unless gradients are needed."""
    return F.silu(norm(x), inplace=not torch.is_grad_enabled())


class ResBlock(nn.Module):
    """Residual block: twice norm, SiLU and convolution, with optional conditioning in between.

    conditioning "film": norm(h) * (1 + scale) + shift after the second norm (Perez et al. 2017);
    "shift": the projected embedding is added before the second norm (AudioLDM); None: neither.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm_groups: int,
        eps: float,
        conditioning: Conditioning | None = None,
        emb_dim: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conditioning = conditioning
        self.norm1 = nn.GroupNorm(norm_groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if conditioning is not None:
            outputs = 2 * out_channels if conditioning == "film" else out_channels
            self.emb_proj = nn.Linear(emb_dim, outputs)
        self.norm2 = nn.GroupNorm(norm_groups, out_channels, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut: nn.Conv2d | None = None
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """x [B, C, T, F], emb [B, D] or [B, T, D] after its SiLU -> [B, C', T, F]."""
        h = self.conv1(norm_silu(self.norm1, x))
        if self.conditioning is None:
            h = norm_silu(self.norm2, h)
        else:
            assert emb is not None, "a conditioned block needs an embedding"
            h = self._condition(h, self.emb_proj(emb))
        h = self.conv2(self.dropout(h))
        return h + (x if self.shortcut is None else self.shortcut(x))

    def _condition(self, h: Tensor, vector: Tensor) -> Tensor:
        # [B, C] or [B, T, C] -> [B, C, 1, 1] or [B, C, T, 1]
        vector = (vector[:, None] if vector.ndim == 2 else vector).transpose(1, 2)[..., None]
        if self.conditioning == "shift":
            return norm_silu(self.norm2, h + vector)
        scale, shift = vector.chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return F.silu(h, inplace=not torch.is_grad_enabled())


class Block(nn.Module):
    """A residual block and optional attention: the unit of gradient checkpointing."""

    def __init__(self, res: ResBlock, attention: nn.Module | None = None) -> None:
        super().__init__()
        self.res = res
        self.attention = attention

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        x = self.res(x, emb)
        return x if self.attention is None else self.attention(x)


class Downsample(nn.Module):
    """3x3 convolution with a stride of 1 or 2 along each of (time, frequency).

    Zero padding is symmetric in the U-Net and `asymmetric` in the VAE, which pads strided axes at
    their end only.
    """

    def __init__(self, channels: int, stride: Stride, *, asymmetric: bool) -> None:
        super().__init__()
        shifted = [asymmetric and side == 2 for side in stride]
        self.end_pad = (0, int(shifted[1]), 0, int(shifted[0]))
        padding = (int(not shifted[0]), int(not shifted[1]))
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T, F] -> [B, C, T / time stride, F / frequency stride].

        Sizes are rounded up; with `asymmetric`, down.
        """
        return self.conv(F.pad(x, self.end_pad) if any(self.end_pad) else x)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by a (time, frequency) stride, then a 3x3 convolution."""

    def __init__(self, channels: int, stride: Stride) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """x [B, C, T, F] -> [B, C, T * time stride, F * frequency stride].

        `size` may ask for a (T', F') that is smaller by one, to undo a strided convolution of an
        odd size.
        """
        size = size or (x.shape[2] * self.stride[0], x.shape[3] * self.stride[1])
        if size != x.shape[2:]:
            x = F.interpolate(x, size=size, mode="nearest")
        return self.conv(x)
