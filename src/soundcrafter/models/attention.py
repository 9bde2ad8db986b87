"""Self-attention over the positions of a feature map, for the U-Net and the VAE."""

import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens [B, N, C]."""

    def __init__(self, channels: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        assert channels % heads == 0, "heads must divide the channels"
        self.heads = heads
        self.query = nn.Linear(channels, channels, bias=bias)
        self.key = nn.Linear(channels, channels, bias=bias)
        self.value = nn.Linear(channels, channels, bias=bias)
        self.out = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, N, C] -> [B, N, C]."""
        q, k, v = (
            projection(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        return self.out(self.attend(q, k, v).transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax of q k^T / sqrt(D), times v; all [B, H, N, D]."""
        return F.scaled_dot_product_attention(q, k, v)


class TransformerLayer(nn.Module):
    """Two self-attentions and a GEGLU feed-forward on tokens [B, N, C].

    The second self-attention replaces the cross-attention of latent diffusion: AudioLDM attends
    to the tokens themselves there.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention1 = SelfAttention(channels, heads, bias=False)
        self.norm2 = nn.LayerNorm(channels)
        self.attention2 = SelfAttention(channels, heads, bias=False)
        self.norm3 = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 8 * channels)
        self.contract = nn.Linear(4 * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention1(self.norm1(tokens))
        tokens = tokens + self.attention2(self.norm2(tokens))
        value, gate = self.expand(self.norm3(tokens)).chunk(2, dim=-1)
        return tokens + self.contract(value * F.gelu(gate))


class Transformer(nn.Module):
    """A transformer layer on the positions of a feature map, between two 1x1 convolutions."""

    def __init__(self, channels: int, heads: int, *, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.layer = TransformerLayer(channels, heads)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T, F] -> [B, C, T, F]."""
        tokens = self.layer(to_tokens(self.proj_in(self.norm(x))))
        return x + self.proj_out(to_map(tokens, x))


class AttentionBlock(nn.Module):
    """Single-head self-attention on the positions of a feature map, for the VAE."""

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
    """[B, T * F, C] -> [B, C, T, F] with T and F of `like`, without a copy."""
    return tokens.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)
