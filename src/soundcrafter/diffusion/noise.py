"""The noise that a sampler adds at each step, of a sample's own seed alone, whatever its batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from soundcrafter.diffusion.samplers import Noise

MAX_SEED = 2**63 - 1


def step_noise(seeds: Sequence[int], like: Tensor) -> Noise:
    """What a sampler adds at each step, as `like` [B, ...]: of a sample's seed and step alone."""

    def noise(step: int) -> Tensor:
        rows = []
        for seed in seeds:
            # any odd constant spreads neighbouring seeds and steps; this is the golden ratio's
            generator = torch.Generator().manual_seed((seed * 0x9E3779B9 + step + 1) % MAX_SEED)
            rows.append(torch.randn(like.shape[1:], generator=generator))
        return torch.stack(rows).to(like.device)

    return noise
