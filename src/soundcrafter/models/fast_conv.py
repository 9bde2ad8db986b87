"""Convolutions on a CPU that take less time than torch's own, where no gradient is needed.

By fewer products than their taps ask for: a filter of r taps gives m outputs by P products for each
pair of channels, where the plain way takes m * r: y = C [(W g) * (E d)], with matrices that depend
on m and r alone (Winograd 1980; for networks Lavin and Gray, arXiv 1509.09308, eq. 5 and 8). What
is left is P matrix products, as fast as the machine makes them. In float32 results differ from the
plain way's by some 1e-6 of the largest; in bfloat16 their error is three times the plain way's.

And maps of one or two bands by one matrix product over columns: the kernels of oneDNN take several
neighbouring bands at once, and idle where there are none.
"""

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from operator import mul
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from soundcrafter.precision import cpu_has_bf16


class _Costs(NamedTuple):
    """What things cost, in products of a large matrix product."""

    small: float  # a multiplication by E or C
    copy: float  # a number copied, read or written
    filter: float  # a number of the transformed filters
    call: float
    plain: float  # a product of the plain way


# Fits to timings on two cores of each kind (benchmarks/fast_conv.py --fit).
_COSTS = {
    "AVX2": _Costs(1.9, 28.0, 66.0, 1e7, 0.85),
    "AVX512": _Costs(2.0, 5.7, 45.0, 1.4e8, 0.66),
    "bf16": _Costs(0.42, 34.0, 280.0, 7e6, 0.92),
}
_GAIN = 0.9  # of the plain way's cost, at most: else the plain way it is
NARROW = 2  # bands of a map, at most, that is convolved by columns, or packed
_SLAB = 2**20  # numbers in the largest tensor of what is worked through at once


@dataclass(frozen=True, eq=False)
class Tile:
    """How one tile of outputs is computed, along one axis or along both as one."""

    spread: np.ndarray  # E [P, N]: the N inputs that the tile sees -> factors
    weigh: np.ndarray  # W [P, taps]: the filter -> factors
    combine: np.ndarray  # C [m, P]: products -> the tile's m outputs

    @property
    def products(self) -> int:
        return len(self.spread)

    @property
    def inputs(self) -> int:
        return self.spread.shape[1]

    @property
    def outputs(self) -> int:
        return len(self.combine)


def toom_cook(outputs: int, taps: int) -> Tile:
    """The fewest products, outputs + taps - 1: a product of polynomials by their values at as many
    points (Toom and Cook), transposed. With more than 8 points digits are lost."""
    size = outputs + taps - 1
    assert size <= 8, "no more points are there"
    points = np.array([0, 1, -1, 0.5, -2, 2, -0.5][: size - 1])

    def values(degree: int) -> np.ndarray:
        at_infinity = np.eye(degree)[-1:]  # the leading coefficient
        return np.concatenate([points[:, None] ** np.arange(degree), at_infinity])

    return Tile(np.linalg.inv(values(size)).T, values(taps), values(outputs).T)


def fourier(size: int, taps: int) -> Tile:
    """By a discrete Fourier transform of an even `size` of inputs, which loses no digits.

    A complex product (a + ib)(c + id) takes three real ones: c (a + b), a (d - c), b (c + d).
    """
    outputs = size - taps + 1
    spread, weigh, combine = [], [], []
    for k in range(size // 2 + 1):
        angles = 2 * math.pi * k * np.arange(size) / size
        real, imaginary = np.cos(angles), -np.sin(angles)
        # the filter is laid over the inputs, not convolved: the conjugate of its transform
        over, under = real[:taps], -imaginary[:taps]
        alone = k in (0, size // 2)  # real, where other bins stand for their mirror image too
        share = (1 if alone else 2) / size
        back, turned = share * real[:outputs], share * imaginary[:outputs]
        if alone:
            spread.append(real)
            weigh.append(over)
            combine.append(back)
        else:
            spread += [real + imaginary, real, imaginary]
            weigh += [over, under - over, over + under]
            combine += [back + turned, turned, -back]
    return Tile(np.array(spread), np.array(weigh), np.array(combine).T)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: tuple[int, int] = (0, 0),
) -> Tensor:
    """F.conv2d with stride 1: x [B, C, T, F], weight [C', C, k, l] -> [B, C', T', F']."""
    fast = fast_conv(weight, bias, x, padding)
    if fast is not None:
        return fast(x)
    bands = x.shape[3] + 2 * padding[1] - weight.shape[3] + 1
    if bands <= NARROW and x.device.type == "cpu" and not torch.is_grad_enabled():
        return _by_columns(x, weight, bias, padding)
    return F.conv2d(x, weight, bias, padding=padding)


def fast_conv(
    weight: Tensor,
    bias: Tensor | None,
    like: Tensor,
    padding: tuple[int, int] = (0, 0),
    dilation: int = 1,
) -> "FastConv | None":
    """The convolution weight [C', C, k, l] for maps such as `like` [B, C, T, F], with zero padding
    and a dilation of the time axis; None where the plain way is as fast, or the only one."""
    if like.device.type != "cpu" or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return None
    kind = _kind(like.dtype)
    if kind is None or weight.dtype != like.dtype:
        return None
    frames = like.shape[2] + 2 * padding[0] - dilation * (weight.shape[2] - 1)
    bands = like.shape[3] + 2 * padding[1] - weight.shape[3] + 1
    tiles = _choose(kind, len(like), frames, bands, tuple(weight.shape), dilation)
    return None if tiles is None else FastConv(weight, bias, padding, dilation, tiles)


def _by_columns(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """The plain way, as a matrix product of all that each output sees and the filters."""
    frames_in, bands_in = padding
    x = F.pad(x, (bands_in, bands_in, frames_in, frames_in)).permute(0, 2, 3, 1).contiguous()
    time, frequency = weight.shape[2:]
    batch, frames, bands, channels = x.shape
    outer = (batch, frames - time + 1, bands - frequency + 1)
    of_batch, of_frame, of_band, _ = x.stride()
    columns = x.as_strided(
        (*outer, time, frequency, channels), (of_batch, of_frame, of_band, of_frame, of_band, 1)
    )
    rows = weight.permute(0, 2, 3, 1).flatten(1)  # no copy where the weight is channels_last
    return F.linear(columns.flatten(3), rows, bias).permute(0, 3, 1, 2)


@cache
def _kind(dtype: torch.dtype) -> str | None:
    """Under what name _COSTS has what this machine computes in that dtype: what has no AVX-512
    counts as AVX2."""
    if dtype == torch.float32:
        return "AVX512" if torch.backends.cpu.get_cpu_capability() == "AVX512" else "AVX2"
    return "bf16" if dtype == torch.bfloat16 and cpu_has_bf16() else None


@cache
def _tiles(taps: int, kind: str) -> list[Tile]:
    """Those worth trying along an axis."""
    if taps == 1:
        return [toom_cook(1, 1)]
    if taps <= 4 and kind == "bf16":
        return [toom_cook(2, taps)]  # larger ones lose digits, of which there are few
    if taps <= 4:
        return [toom_cook(outputs, taps) for outputs in (2, 4, 9 - taps)]
    return [fourier(size, taps) for size in (16, 24, 32) if size >= 2 * (taps - 1)]


@cache
def _matrices(time: Tile, frequency: Tile, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """E, W and C of a tile of two axes."""
    spread, weigh, combine = (
        torch.from_numpy(np.kron(*of_axes)).to(dtype)
        for of_axes in (
            (time.spread, frequency.spread),
            (time.weigh, frequency.weigh),
            (time.combine, frequency.combine),
        )
    )
    return spread, weigh, combine


@lru_cache(maxsize=1024)
def _choose(
    kind: str, batch: int, frames: int, bands: int, shape: tuple[int, ...], dilation: int
) -> tuple[Tile, Tile] | None:
    """The tiles (time, frequency) by which a convolution costs least, if they gain anything."""
    *costs, plain = _COSTS[kind]
    least, best = _GAIN * plain * math.prod(shape) * batch * frames * bands, None
    for tiles in product(_tiles(shape[2], kind), _tiles(shape[3], kind)):
        found = amounts(batch, frames, bands, shape, dilation, tiles)
        cost = sum(map(mul, found, (1.0, *costs)))
        if cost < least:
            least, best = cost, tiles
    return best


def amounts(
    batch: int,
    frames: int,
    bands: int,
    shape: tuple[int, ...],
    dilation: int,
    tiles: tuple[Tile, Tile],
) -> tuple[int, int, int, int, int]:
    """What a convolution of `shape` [C', C, k, l] takes that makes so many frames and bands:
    products of channels, multiplications by E and C, copied numbers, numbers of the transformed
    filters, calls."""
    time, frequency = tiles
    outputs, inputs = shape[:2]
    products = time.products * frequency.products
    seen, made = time.inputs * frequency.inputs, time.outputs * frequency.outputs
    rows = math.ceil(frames / dilation / time.outputs) * dilation
    count = batch * rows * math.ceil(bands / frequency.outputs)
    filters = products * inputs * outputs
    small = products * (seen * inputs + made * outputs)
    copied = seen * inputs + products * (inputs + outputs) + 2 * made * outputs
    return count * filters, count * small, count * copied, filters, 1


class FastConv:
    """A convolution ready to be used on maps of about one size."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        padding: tuple[int, int],
        dilation: int,
        tiles: tuple[Tile, Tile],
    ) -> None:
        """The arguments are as for `fast_conv`, and the tiles of each axis."""
        self.bias, self.padding, self.dilation = bias, padding, dilation
        self.time, self.frequency = tiles
        self.spread, weigh, self.combine = _matrices(*tiles, weight.dtype)
        outputs, inputs = weight.shape[:2]
        self.reach = (dilation * (weight.shape[2] - 1), weight.shape[3] - 1)
        of_taps = weight.permute(2, 3, 0, 1).reshape(-1, outputs * inputs)
        self.filters = (weigh @ of_taps).view(-1, outputs, inputs).mT  # [P, C, C']

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, C, T, F] -> [B, C', T', F'] in channels-last order."""
        x = x.permute(0, 2, 3, 1).contiguous()  # no copy where it is in that order
        frames, bands = (
            side + 2 * pad - reach
            for side, pad, reach in zip(x.shape[1:3], self.padding, self.reach, strict=True)
        )
        step = self.time.outputs * self.dilation  # frames that a row of tiles makes
        count = math.ceil(frames / step)
        across = math.ceil(bands / self.frequency.outputs)
        products, inputs, outputs = self.filters.shape
        out = x.new_empty(len(x), frames, bands, outputs)
        row = len(x) * self.dilation * across * products * max(inputs, outputs)
        pieces = math.ceil(count / max(1, _SLAB // row))
        rows = math.ceil(count / pieces)
        buffers = x.new_empty(2, rows * row)
        for piece in range(pieces):
            # all of one size, some rows twice: oneDNN keeps memory for each size that it met
            first = min(piece * rows, count - rows)
            begin, end = first * step, (first + rows) * step
            place = out[:, begin:end]
            whole = (len(x), end - begin, across * self.frequency.outputs, outputs)
            if place.shape == whole:
                self._rows(x, first, place, buffers)
            else:  # tiles that reach beyond the map
                made = x.new_empty(whole)
                self._rows(x, first, made, buffers)
                place.copy_(made[:, : frames - begin, :bands])
        return out.permute(0, 3, 1, 2)

    def _rows(self, x: Tensor, first: int, out: Tensor, buffers: Tensor) -> None:
        """Some rows of tiles, from `first` on, of x [B, T, F, C] into their `out` [B, T', F', C'].

        Each of the two buffers holds what is computed from the other.
        """
        time, frequency, dilation = self.time, self.frequency, self.dilation
        products, inputs, outputs = self.filters.shape
        batch, step = len(x), time.outputs * dilation
        rows, across = out.shape[1] // step, out.shape[2] // frequency.outputs
        seen = _window(
            x,
            first * step - self.padding[0],
            ((rows - 1) * time.outputs + time.inputs) * dilation,
            self.padding[1],
            (across - 1) * frequency.outputs + frequency.inputs,
        )
        of_batch, of_frame, of_band, _ = seen.stride()
        inner = (batch, rows, dilation, across)
        cut = seen.as_strided(
            (time.inputs, frequency.inputs, *inner, inputs),
            (
                *(dilation * of_frame, of_band),
                *(of_batch, step * of_frame, of_frame, frequency.outputs * of_band, 1),
            ),
        )
        tiles = math.prod(inner)
        flat = _part(buffers[0], *cut.shape).copy_(cut).view(self.spread.shape[1], -1)
        factors = _part(buffers[1], products, tiles, inputs)
        torch.mm(self.spread, flat, out=factors.view(products, -1))
        multiplied = _part(buffers[0], products, tiles, outputs)
        torch.bmm(factors, self.filters, out=multiplied)
        made = _part(buffers[1], len(self.combine), tiles * outputs)
        torch.mm(self.combine, multiplied.view(products, -1), out=made)
        if self.bias is not None:
            made.view(-1, outputs).add_(self.bias)
        made = made.view(time.outputs, frequency.outputs, *inner, outputs)
        place = out.unflatten(2, (across, -1)).unflatten(1, (rows, -1, dilation))
        place.copy_(made.permute(2, 3, 0, 4, 5, 1, 6))


def _window(x: Tensor, start: int, frames: int, before: int, bands: int) -> Tensor:
    """`frames` of x [B, T, F, C] from `start` on, and `bands` from `before` the first on; what
    lies outside of x is zero."""
    low, high = max(start, 0), min(start + frames, x.shape[1])
    seen = x[:, low:high]
    ends = (0, 0, before, bands - before - x.shape[2], low - start, start + frames - high)
    return F.pad(seen, ends) if any(ends) else seen


def _part(buffer: Tensor, *shape: int) -> Tensor:
    """The first numbers of a buffer, in that shape."""
    return buffer[: math.prod(shape)].view(shape)
