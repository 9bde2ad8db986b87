"""Self-attention over the positions of a feature map, as the U-Net and the VAE have it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.models.packed import GEGLU, Conv1x1, Linear
from soundcrafter.precision import cpu_has_bf16

_SCORES = 2**20  # that are computed at once, which fit a CPU's cache


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax of q k^T / sqrt(D), times v; all [B, H, N, D].

    In bf16 on a CPU by torch's matrix products, some rows of a few heads after others: its fused
    attention, which keeps the scores in float32, takes longer (benchmarks/switches.py).
    """
    in_bf16 = q.dtype == torch.bfloat16 and q.device.type == "cpu" and cpu_has_bf16()
    if not in_bf16 or torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v)
    batch, heads, count, width = q.shape
    q, k, v = (part.reshape(-1, count, width) for part in (q * width**-0.5, k, v))
    out = torch.empty_like(q)
    rows = min(count, max(1, _SCORES // count))
    group = max(1, _SCORES // (rows * count))
    for start in range(0, count, rows):
        some = slice(start, start + rows)
        for first in range(0, len(q), group):
            few = slice(first, first + group)
            scores = torch.bmm(q[few, some], k[few].mT)
            weights = torch.softmax(scores, dim=-1, out=scores)
            torch.bmm(weights, v[few], out=out[few, some])
    return out.view(batch, heads, count, width)


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens [B, N, C]."""

    def __init__(self, channels: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        assert channels % heads == 0, "heads must divide the channels"
        self.heads = heads
        self.query = Linear(channels, channels, bias=bias)
        self.key = Linear(channels, channels, bias=bias)
        self.value = Linear(channels, channels, bias=bias)
        self.out = Linear(channels, channels)

    def forward(self, tokens: Tensor, plus: Tensor | None = None) -> Tensor:
        """tokens [B, N, C], and a `plus` to add to the result -> [B, N, C]."""
        q, k, v = (
            projection(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        return self.out(attend(q, k, v).transpose(1, 2).flatten(2), plus)


class TransformerLayer(nn.Module):
    """Two self-attentions and a GEGLU feed-forward on tokens [B, N, C].

    The second self-attention stands where latent diffusion has its cross-attention, which
    AudioLDM feeds with the tokens themselves.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention1 = SelfAttention(channels, heads, bias=False)
        self.norm2 = nn.LayerNorm(channels)
        self.attention2 = SelfAttention(channels, heads, bias=False)
        self.norm3 = nn.LayerNorm(channels)
        self.expand = GEGLU(channels, 8 * channels)
        self.contract = Linear(4 * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.attention1(self.norm1(tokens), tokens)
        tokens = self.attention2(self.norm2(tokens), tokens)
        return self.contract(self.expand(self.norm3(tokens)), tokens)


class Transformer(nn.Module):
    """A transformer layer on the positions of a feature map, between two 1x1 convolutions."""

    def __init__(self, channels: int, heads: int, *, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = Conv1x1(channels, channels)
        self.layer = TransformerLayer(channels, heads)
        self.proj_out = Conv1x1(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T, F] -> [B, C, T, F]."""
        tokens = self.layer(to_tokens(self.proj_in(self.norm(x))))
        return self.proj_out(to_map(tokens, x), x)


class AttentionBlock(nn.Module):
    """One single-head self-attention on the positions of a feature map (the VAE's)."""

    def __init__(self, channels: int, *, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.attention = SelfAttention(channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T, F] -> [B, C, T, F]."""
        return x + to_map(self.attention(to_tokens(self.norm(x))), x)


def to_tokens(x: Tensor) -> Tensor:
    """[B, C, T, F] -> [B, T * F, C]; no copy where x is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_map(tokens: Tensor, like: Tensor) -> Tensor:
    """[B, T * F, C] -> [B, C, T, F] with the sides of `like`, without a copy."""
    return tokens.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)
