"""The random numbers of torch's CPU generator, in NumPy: the same seed is the same sound."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BLOCK = 16  # values that torch makes normal together
_BITS = 24  # of a uniform float32


class TorchGenerator:
    """`torch.Generator().manual_seed(seed)`, for float32 tensors.

    Uniform numbers are equal bit for bit, normal ones up to rounding: torch has its own logarithm
    and sine.
    """

    def __init__(self, seed: int) -> None:
        # torch seeds its Mersenne Twister with the lower 32 bits, as NumPy's legacy seeding does
        self._twister = np.random.RandomState(seed & 0xFFFFFFFF)._bit_generator

    def rand(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """`torch.rand`: uniform in [0, 1)."""
        return self._uniform(math.prod(shape)).reshape(shape)

    def randn(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """`torch.randn`: normal, by Box and Muller in blocks, for 16 values or more.

        Raises ValueError for fewer, which torch draws in another way.
        """
        count = math.prod(shape)
        if count < _BLOCK:
            raise ValueError(f"shape: got {tuple(shape)}; allowed: {_BLOCK} values or more")
        uniform, whole = self._uniform(count), count - count % _BLOCK
        out = np.empty(count, np.float32)
        out[:whole] = _normal(uniform[:whole])
        if whole < count:  # the last block overlaps the one before it
            out[-_BLOCK:] = _normal(self._uniform(_BLOCK))
        return out.reshape(shape)

    def _uniform(self, count: int) -> NDArray[np.float32]:
        bits = self._twister.random_raw(count) & (2**_BITS - 1)
        return bits.astype(np.float32) * np.float32(2.0**-_BITS)


def _normal(uniform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Box and Muller: the first half of each block gives radii, the second angles."""
    blocks = uniform.reshape(-1, 2, _BLOCK // 2).astype(np.float64)
    radius = np.sqrt(-2 * np.log(1 - blocks[:, 0]))
    angle = 2 * np.pi * blocks[:, 1]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return pairs.astype(np.float32).reshape(-1)
