"""CLIP's text transformer, with the weight names of transformers but not its import time."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ClipText(nn.Module):
    """The text tower of CLIP (Radford et al., arXiv 2103.00020): causal, pre-norm, read at eos.

    The weights have the names, shapes, order and initial distributions of those of transformers'
    CLIPTextModelWithProjection.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        max_length: int,
        width: int,
        layers: int,
        heads: int,
        embed_dim: int,
        eos_id: int,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.eos_id = eos_id
        self.text_model = _TextModel(vocab_size, max_length, width, layers, heads, norm_eps)
        self.text_projection = nn.Linear(width, embed_dim, bias=False)
        nn.init.normal_(self.text_projection.weight, std=width**-0.5)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens [B, L], each row with an eos, mask [B, L] (1: a token) -> [B, E], not normalised.

        The state of a row's first eos is projected. L is at most `max_length`.
        """
        states = self.text_model(tokens, mask)
        ends = (tokens == self.eos_id).int().argmax(dim=1)  # the first of equal values
        return self.text_projection(states[torch.arange(len(states), device=ends.device), ends])


class _TextModel(nn.Module):
    def __init__(
        self, vocab_size: int, max_length: int, width: int, layers: int, heads: int, eps: float
    ) -> None:
        super().__init__()
        self.embeddings = _Embeddings(vocab_size, max_length, width)
        self.encoder = _Encoder(width, layers, heads, eps)
        self.final_layer_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens and mask [B, L] -> the state of each token [B, L, C]."""
        states = self.encoder(self.embeddings(tokens), _attention_mask(mask))
        return self.final_layer_norm(states)


class _Embeddings(nn.Module):
    """The sum of a learned vector for each token and one for each position."""

    def __init__(self, vocab_size: int, max_length: int, width: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(max_length, width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]


class _Encoder(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, eps: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Block(width, layers, heads, eps) for _ in range(layers))

    def forward(self, states: Tensor, attended: Tensor) -> Tensor:
        for block in self.layers:
            states = block(states, attended)
        return states


class _Block(nn.Module):
    """Pre-norm residual attention and feed-forward."""

    def __init__(self, width: int, layers: int, heads: int, eps: float) -> None:
        super().__init__()
        self.self_attn = _Attention(width, layers, heads)
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.mlp = _FeedForward(width, layers)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)

    def forward(self, states: Tensor, attended: Tensor) -> Tensor:
        states = states + self.self_attn(self.layer_norm1(states), attended)
        return states + self.mlp(self.layer_norm2(states))


class _Attention(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        std = width**-0.5 * (2 * layers) ** -0.5  # as transformers draws them
        self.k_proj = _linear(width, width, std)
        self.v_proj = _linear(width, width, std)
        self.q_proj = _linear(width, width, std)
        self.out_proj = _linear(width, width, width**-0.5)

    def forward(self, states: Tensor, attended: Tensor) -> Tensor:
        q, k, v = (
            projection(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        values = F.scaled_dot_product_attention(q, k, v, attn_mask=attended)
        return self.out_proj(values.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.fc1 = _linear(width, 4 * width, (2 * width) ** -0.5)
        self.fc2 = _linear(4 * width, width, width**-0.5 * (2 * layers) ** -0.5)

    def forward(self, states: Tensor) -> Tensor:
        hidden = self.fc1(states)
        return self.fc2(hidden * torch.sigmoid(1.702 * hidden))  # CLIP's approximation of GELU


def _linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer


def _attention_mask(mask: Tensor) -> Tensor:
    """mask [B, L] (1: a token) -> [B, 1, L, L], true where a position (row) attends to another.

    A position attends to the tokens up to itself. Padding attends to itself, because a softmax over
    nothing is NaN; this affects no token.
    """
    length = mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=mask.device)
    return ((causal & mask.bool()[:, None]) | itself)[:, None]
