"""Self-attention in bf16 on a CPU, computed in blocks."""

import torch
from torch import Tensor

from soundcrafter.models.attention import SelfAttention

_SCORES = 2**20  # scores computed at a time; they fit in a CPU's cache


class BlockedAttention(SelfAttention):
    """Self-attention by plain matrix products, one block of rows and heads at a time.

    torch's fused attention keeps the scores in float32 and is slower in bf16
    (benchmarks/switches.py).
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `SelfAttention.attend`."""
        return super().attend(q, k, v) if torch.is_grad_enabled() else attend_in_blocks(q, k, v)


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax of q k^T / sqrt(D), times v; all [B, H, N, D]."""
    batch, heads, count, width = q.shape
    q, k, v = (part.reshape(-1, count, width) for part in (q * width**-0.5, k, v))
    out = torch.empty_like(q)
    rows = min(count, max(1, _SCORES // count))
    group = max(1, _SCORES // (rows * count))
    for start in range(0, count, rows):
        queries = slice(start, start + rows)
        for first in range(0, len(q), group):
            maps = slice(first, first + group)
            scores = torch.bmm(q[maps, queries], k[maps].mT)
            weights = torch.softmax(scores, dim=-1, out=scores)
            torch.bmm(weights, v[maps], out=out[maps, queries])
    return out.view(batch, heads, count, width)
