"""Convolutions on a CPU that are faster than torch's own, for use without gradients.

Most use fewer multiplications than the plain convolution (Winograd 1980; for networks Lavin and
Gray, arXiv 1509.09308, eq. 5 and 8): a filter of r taps makes a tile of m outputs from P products
for each pair of channels instead of m * r, as y = C [(W g) * (E d)], where the matrices E, W and C
depend on m and r alone. What remains is P matrix products, at the machine's full speed. Results
differ from the plain ones by about 1e-6 of the largest in float32; in bfloat16 the rounding error
is three times the plain one's.

Maps of one or two bands become one matrix product: oneDNN's kernels process several neighbouring
bands at a time and are slow where there are none.
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
    """The cost of each part, in multiply-adds of a large matrix product."""

    small: float  # a multiply-add with E or C
    copy: float  # an element copied, read or written
    filter: float  # an element of the transformed filters
    call: float  # a call
    plain: float  # a multiply-add of torch's convolution


# Fitted to timings on two cores of each kind (benchmarks/fast_conv.py --fit).
_COSTS = {
    "AVX2": _Costs(1.9, 28.0, 66.0, 1e7, 0.85),
    "AVX512": _Costs(2.0, 5.7, 45.0, 1.4e8, 0.66),
    "bf16": _Costs(0.42, 34.0, 280.0, 7e6, 0.92),
}
_GAIN = 0.9  # use tiles if they cost at most this share of torch's convolution
_NARROW = 2  # maps of at most this many bands become one matrix product
_SLAB = 2**20  # elements of the largest tensor that is processed at a time


@dataclass(frozen=True, eq=False)
class Tile:
    """How a tile of outputs is computed along one axis."""

    spread: np.ndarray  # E [P, N]: the N inputs of the tile -> factors
    weigh: np.ndarray  # W [P, taps]: the filter -> factors
    combine: np.ndarray  # C [m, P]: products -> the m outputs of the tile

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
    """A tile with the fewest products, outputs + taps - 1: the product of two polynomials from
    their values at that many points (Toom and Cook), transposed. More than 8 points would lose
    precision."""
    size = outputs + taps - 1
    assert size <= 8, "there are no more points"
    points = np.array([0, 1, -1, 0.5, -2, 2, -0.5][: size - 1])

    def values(degree: int) -> np.ndarray:
        at_infinity = np.eye(degree)[-1:]  # the leading coefficient
        return np.concatenate([points[:, None] ** np.arange(degree), at_infinity])

    return Tile(np.linalg.inv(values(size)).T, values(taps), values(outputs).T)


def fourier(size: int, taps: int) -> Tile:
    """A tile by a discrete Fourier transform of `size` inputs, an even number; precise at any size.

    A complex product (a + ib)(c + id) takes three real ones: c (a + b), a (d - c), b (c + d).
    """
    outputs = size - taps + 1
    spread, weigh, combine = [], [], []
    for k in range(size // 2 + 1):
        angles = 2 * math.pi * k * np.arange(size) / size
        real, imaginary = np.cos(angles), -np.sin(angles)
        # a correlation, not a convolution: the conjugate of the filter's transform
        over, under = real[:taps], -imaginary[:taps]
        alone = k in (0, size // 2)  # real bins; the others also stand for their mirror image
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
    if bands <= _NARROW and not torch.is_grad_enabled():
        return _by_columns(x, weight, bias, padding)
    return F.conv2d(x, weight, bias, padding=padding)


def fast_conv(
    weight: Tensor,
    bias: Tensor | None,
    like: Tensor,
    padding: tuple[int, int] = (0, 0),
    dilation: int = 1,
) -> "FastConv | None":
    """The convolution weight [C', C, k, l] with zero padding and a dilation of the time axis, for
    maps of the shape of `like` [B, C, T, F]; None where torch's own is as fast, or the only one."""
    kind = None if torch.is_grad_enabled() else _kind(like.dtype)
    if kind is None or weight.dtype != like.dtype:
        return None
    frames = like.shape[2] + 2 * padding[0] - dilation * (weight.shape[2] - 1)
    bands = like.shape[3] + 2 * padding[1] - weight.shape[3] + 1
    tiles = _choose(kind, len(like), frames, bands, tuple(weight.shape), dilation)
    return None if tiles is None else FastConv(weight, bias, padding, dilation, tiles)


def _by_columns(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """The convolution as one matrix product of the inputs that each output sees and the filters."""
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
    """The key in _COSTS of this machine and dtype, AVX2 for all without AVX-512; None if there is
    no fast way."""
    if dtype == torch.float32:
        return "AVX512" if torch.backends.cpu.get_cpu_capability() == "AVX512" else "AVX2"
    return "bf16" if dtype == torch.bfloat16 and cpu_has_bf16() else None


@cache
def _tiles(taps: int, kind: str) -> list[Tile]:
    """The tiles worth trying along an axis."""
    if taps == 1:
        return [toom_cook(1, 1)]
    if taps <= 4 and kind == "bf16":
        return [toom_cook(2, taps)]  # larger ones are too imprecise
    if taps <= 4:
        return [toom_cook(outputs, taps) for outputs in (2, 4, 9 - taps)]
    return [fourier(size, taps) for size in (16, 24, 32) if size >= 2 * (taps - 1)]


@cache
def _matrices(time: Tile, frequency: Tile, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """E, W and C of a tile of both axes."""
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
    """The cheapest tiles (time, frequency) for a convolution; None if torch's own is cheaper."""
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
    """How much of each part (see _Costs) `frames` x `bands` outputs take with a weight of `shape`
    [C', C, k, l]: multiply-adds of channels, multiply-adds with E and C, elements copied, elements
    of the transformed filters, calls."""
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
    """A convolution with its filters transformed, for maps of about one size."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        padding: tuple[int, int],
        dilation: int,
        tiles: tuple[Tile, Tile],
    ) -> None:
        """The arguments of `fast_conv`, and the tiles (time, frequency)."""
        self.bias, self.padding, self.dilation = bias, padding, dilation
        self.time, self.frequency = tiles
        self.spread, weigh, self.combine = _matrices(*tiles, weight.dtype)
        outputs, inputs = weight.shape[:2]
        self.reach = (dilation * (weight.shape[2] - 1), weight.shape[3] - 1)
        of_taps = weight.permute(2, 3, 0, 1).reshape(-1, outputs * inputs)
        self.filters = (weigh @ of_taps).view(-1, outputs, inputs).mT  # [P, C, C']

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, C, T, F] -> [B, C', T', F'] in channels-last order."""
        x = x.permute(0, 2, 3, 1).contiguous()  # no copy where x is channels_last
        frames, bands = (
            side + 2 * pad - reach
            for side, pad, reach in zip(x.shape[1:3], self.padding, self.reach, strict=True)
        )
        step = self.time.outputs * self.dilation  # frames made by a row of tiles
        count = math.ceil(frames / step)
        across = math.ceil(bands / self.frequency.outputs)
        products, inputs, outputs = self.filters.shape
        out = x.new_empty(len(x), frames, bands, outputs)
        row = len(x) * self.dilation * across * products * max(inputs, outputs)
        pieces = math.ceil(count / max(1, _SLAB // row))
        rows = math.ceil(count / pieces)
        buffers = x.new_empty(2, rows * row)
        for piece in range(pieces):
            # pieces of one size, which may overlap: oneDNN keeps memory for each size it has seen
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
        """Compute the rows of tiles from `first` on: x [B, T, F, C] -> `out` [B, T', F', C'].

        The steps write to the two buffers in turn.
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
    """x [B, T, F, C] -> `frames` frames from `start` on and `bands` bands from -`before` on, with
    zeros outside of x."""
    low, high = max(start, 0), min(start + frames, x.shape[1])
    seen = x[:, low:high]
    ends = (0, 0, before, bands - before - x.shape[2], low - start, start + frames - high)
    return F.pad(seen, ends) if any(ends) else seen


def _part(buffer: Tensor, *shape: int) -> Tensor:
    """The start of a buffer as a tensor of that shape."""
    return buffer[: math.prod(shape)].view(shape)
