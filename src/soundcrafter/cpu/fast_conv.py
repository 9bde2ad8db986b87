"""Convolutions that are faster than torch's own on a CPU, for inference.

Most use fewer multiplications than the direct convolution (Winograd 1980; for networks Lavin and
Gray, arXiv 1509.09308, eq. 5 and 8). A filter g of r taps computes a tile of m outputs y from its
inputs d with P products per pair of channels, instead of m * r: y = A [(G g) * (B d)], where the
transforms A, G and B depend only on m and r. The products form P large matrix products, which run
at full speed. Errors are about 1e-6 of the largest output in float32; in bfloat16 they are three
times those of the direct convolution.

Convolutions of maps with one or two bands become one matrix product, because oneDNN's kernels
process several neighbouring bands at a time.
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
    """Relative costs, in multiply-adds of a large matrix product."""

    transform: float  # a multiply-add with A or B
    copy: float  # an element that is copied, read or written
    filter: float  # an element of the transformed filters
    call: float  # a call
    direct: float  # a multiply-add of torch's convolution


# Fitted to timings on two cores of each kind (benchmarks/fast_conv.py --fit).
_COSTS = {
    "AVX2": _Costs(1.9, 28.0, 66.0, 1e7, 0.85),
    "AVX512": _Costs(2.0, 5.7, 45.0, 1.4e8, 0.66),
    "bf16": _Costs(0.42, 34.0, 280.0, 7e6, 0.92),
}
_GAIN = 0.9  # tiles are used if they cost at most this share of torch's convolution
_NARROW = 2  # maps of at most this many bands become one matrix product
_SLAB = 2**20  # larger tensors are processed in slabs of this many elements


@dataclass(frozen=True, eq=False)
class Tile:
    """The transforms for a tile of outputs along one axis."""

    of_inputs: np.ndarray  # B [P, N]: the N inputs of a tile -> factors
    of_filter: np.ndarray  # G [P, taps]: the filter -> factors
    of_products: np.ndarray  # A [m, P]: products -> the m outputs of a tile

    @property
    def products(self) -> int:
        return len(self.of_inputs)

    @property
    def inputs(self) -> int:
        return self.of_inputs.shape[1]

    @property
    def outputs(self) -> int:
        return len(self.of_products)


def toom_cook(outputs: int, taps: int) -> Tile:
    """A tile with the fewest products, outputs + taps - 1.

    It is the transpose of a polynomial product from values at that many points (Toom and Cook).
    More than 8 points would lose precision.
    """
    size = outputs + taps - 1
    assert size <= 8, "larger tiles are imprecise"
    points = np.array([0, 1, -1, 0.5, -2, 2, -0.5][: size - 1])

    def values(degree: int) -> np.ndarray:
        at_infinity = np.eye(degree)[-1:]  # the leading coefficient
        return np.concatenate([points[:, None] ** np.arange(degree), at_infinity])

    return Tile(np.linalg.inv(values(size)).T, values(taps), values(outputs).T)


def fourier(size: int, taps: int) -> Tile:
    """A tile from a discrete Fourier transform of `size` inputs (even); precise at any size.

    A complex product (a + ib)(c + id) needs three real products: c (a + b), a (d - c), b (c + d).
    """
    outputs = size - taps + 1
    inputs, filters, products = [], [], []
    for k in range(size // 2 + 1):
        angles = 2 * math.pi * k * np.arange(size) / size
        real, imaginary = np.cos(angles), -np.sin(angles)
        # conjugated, because this is a correlation, not a convolution
        over, under = real[:taps], -imaginary[:taps]
        alone = k in (0, size // 2)  # real bins; the others also represent their conjugates
        share = (1 if alone else 2) / size
        back, turned = share * real[:outputs], share * imaginary[:outputs]
        if alone:
            inputs.append(real)
            filters.append(over)
            products.append(back)
        else:
            inputs += [real + imaginary, real, imaginary]
            filters += [over, under - over, over + under]
            products += [back + turned, turned, -back]
    return Tile(np.array(inputs), np.array(filters), np.array(products).T)


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
        return _im2col_conv(x, weight, bias, padding)
    return F.conv2d(x, weight, bias, padding=padding)


def fast_conv(
    weight: Tensor,
    bias: Tensor | None,
    like: Tensor,
    padding: tuple[int, int] = (0, 0),
    dilation: int = 1,
) -> "FastConv | None":
    """A fast convolution for maps of the shape of `like` [B, C, T, F], or None.

    weight [C', C, k, l]; padding is by zeros, and `dilation` is along time. None means that torch's
    convolution is as fast, or that gradients are enabled.
    """
    kind = None if torch.is_grad_enabled() else _kind(like.dtype)
    if kind is None or weight.dtype != like.dtype:
        return None
    frames = like.shape[2] + 2 * padding[0] - dilation * (weight.shape[2] - 1)
    bands = like.shape[3] + 2 * padding[1] - weight.shape[3] + 1
    tiles = _choose(kind, len(like), frames, bands, tuple(weight.shape), dilation)
    return None if tiles is None else FastConv(weight, bias, padding, dilation, tiles)


def _im2col_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]
) -> Tensor:
    """The convolution as one matrix product, of the receptive field of each output (im2col)."""
    frames_in, bands_in = padding
    x = F.pad(x, (bands_in, bands_in, frames_in, frames_in)).permute(0, 2, 3, 1).contiguous()
    time, frequency = weight.shape[2:]
    columns = x.unfold(1, time, 1).unfold(2, frequency, 1).permute(0, 1, 2, 4, 5, 3)
    rows = weight.permute(0, 2, 3, 1).flatten(1)  # no copy if the weight is channels_last
    return F.linear(columns.flatten(3), rows, bias).permute(0, 3, 1, 2)


@cache
def _kind(dtype: torch.dtype) -> str | None:
    """The key in _COSTS for this machine and dtype; None if there are no fast convolutions."""
    if dtype == torch.float32:
        return "AVX512" if torch.backends.cpu.get_cpu_capability() == "AVX512" else "AVX2"
    return "bf16" if dtype == torch.bfloat16 and cpu_has_bf16() else None


@cache
def _tiles(taps: int, kind: str) -> list[Tile]:
    """The candidate tiles along an axis."""
    if taps == 1:
        return [toom_cook(1, 1)]
    if taps <= 4 and kind == "bf16":
        return [toom_cook(2, taps)]  # larger tiles are too imprecise
    if taps <= 4:
        return [toom_cook(outputs, taps) for outputs in (2, 4, 9 - taps)]
    return [fourier(size, taps) for size in (16, 24, 32) if size >= 2 * (taps - 1)]


@cache
def _matrices(time: Tile, frequency: Tile, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """B, G and A for tiles of both axes."""
    of_inputs, of_filter, of_products = (
        torch.from_numpy(np.kron(*transforms)).to(dtype)
        for transforms in (
            (time.of_inputs, frequency.of_inputs),
            (time.of_filter, frequency.of_filter),
            (time.of_products, frequency.of_products),
        )
    )
    return of_inputs, of_filter, of_products


@lru_cache(maxsize=1024)
def _choose(
    kind: str, batch: int, frames: int, bands: int, shape: tuple[int, ...], dilation: int
) -> tuple[Tile, Tile] | None:
    """The cheapest tiles (time, frequency); None if torch's convolution is cheaper."""
    *costs, direct = _COSTS[kind]
    least, best = _GAIN * direct * math.prod(shape) * batch * frames * bands, None
    for tiles in product(_tiles(shape[2], kind), _tiles(shape[3], kind)):
        counts = operation_counts(batch, frames, bands, shape, dilation, tiles)
        cost = sum(map(mul, counts, (1.0, *costs)))
        if cost < least:
            least, best = cost, tiles
    return best


def operation_counts(
    batch: int,
    frames: int,
    bands: int,
    shape: tuple[int, ...],
    dilation: int,
    tiles: tuple[Tile, Tile],
) -> tuple[int, int, int, int, int]:
    """The operations for `frames` x `bands` outputs with a weight of `shape` [C', C, k, l].

    They are multiply-adds of channels, multiply-adds with A and B, elements copied, elements of the
    transformed filters, and calls; see _Costs.
    """
    time, frequency = tiles
    outputs, inputs = shape[:2]
    products = time.products * frequency.products
    tile_in, tile_out = time.inputs * frequency.inputs, time.outputs * frequency.outputs
    rows = math.ceil(frames / dilation / time.outputs) * dilation
    count = batch * rows * math.ceil(bands / frequency.outputs)
    filters = products * inputs * outputs
    transform = products * (tile_in * inputs + tile_out * outputs)
    copied = tile_in * inputs + products * (inputs + outputs) + 2 * tile_out * outputs
    return count * filters, count * transform, count * copied, filters, 1


class FastConv:
    """A convolution with transformed filters, for maps of about the same size."""

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
        self.of_inputs, of_filter, self.of_products = _matrices(*tiles, weight.dtype)
        outputs, inputs = weight.shape[:2]
        self.reach = (dilation * (weight.shape[2] - 1), weight.shape[3] - 1)
        taps = weight.permute(2, 3, 0, 1).reshape(-1, outputs * inputs)
        self.filters = (of_filter @ taps).view(-1, outputs, inputs).mT  # [P, C, C']

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, C, T, F] -> [B, C', T', F'] in channels-last order."""
        x = x.permute(0, 2, 3, 1).contiguous()  # no copy if x is channels_last
        frames, bands = (
            size + 2 * pad - reach
            for size, pad, reach in zip(x.shape[1:3], self.padding, self.reach, strict=True)
        )
        step = self.time.outputs * self.dilation  # frames of a row of tiles
        count = math.ceil(frames / step)
        across = math.ceil(bands / self.frequency.outputs)
        products, inputs, outputs = self.filters.shape
        out = x.new_empty(len(x), frames, bands, outputs)
        row_size = len(x) * self.dilation * across * products * max(inputs, outputs)
        slabs = math.ceil(count / max(1, _SLAB // row_size))
        rows = math.ceil(count / slabs)
        buffers = x.new_empty(2, rows * row_size)
        for slab in range(slabs):
            # slabs have one size and may overlap, because oneDNN keeps memory for each size
            first = min(slab * rows, count - rows)
            begin, end = first * step, (first + rows) * step
            target = out[:, begin:end]
            shape = (len(x), end - begin, across * self.frequency.outputs, outputs)
            if target.shape == shape:
                self._rows(x, first, target, buffers)
            else:  # the tiles reach beyond the map
                whole = x.new_empty(shape)
                self._rows(x, first, whole, buffers)
                target.copy_(whole[:, : frames - begin, :bands])
        return out.permute(0, 3, 1, 2)

    def _rows(self, x: Tensor, first: int, out: Tensor, buffers: Tensor) -> None:
        """Compute rows of tiles, beginning with row `first`: x [B, T, F, C] -> out [B, T', F', C'].

        The steps write to the two buffers in turn.
        """
        time, frequency, dilation = self.time, self.frequency, self.dilation
        products, inputs, outputs = self.filters.shape
        batch, step = len(x), time.outputs * dilation
        rows, across = out.shape[1] // step, out.shape[2] // frequency.outputs
        window = _window(
            x,
            first * step - self.padding[0],
            ((rows - 1) * time.outputs + time.inputs) * dilation,
            self.padding[1],
            (across - 1) * frequency.outputs + frequency.inputs,
        )
        batch_stride, frame_stride, band_stride, _ = window.stride()
        grid = (batch, rows, dilation, across)
        tiles = window.as_strided(
            (time.inputs, frequency.inputs, *grid, inputs),
            (
                *(dilation * frame_stride, band_stride),
                *(batch_stride, step * frame_stride, frame_stride),
                *(frequency.outputs * band_stride, 1),
            ),
        )
        num_tiles = math.prod(grid)
        flat = _view(buffers[0], *tiles.shape).copy_(tiles).view(self.of_inputs.shape[1], -1)
        factors = _view(buffers[1], products, num_tiles, inputs)
        torch.mm(self.of_inputs, flat, out=factors.view(products, -1))
        multiplied = _view(buffers[0], products, num_tiles, outputs)
        torch.bmm(factors, self.filters, out=multiplied)
        combined = _view(buffers[1], len(self.of_products), num_tiles * outputs)
        torch.mm(self.of_products, multiplied.view(products, -1), out=combined)
        if self.bias is not None:
            combined.view(-1, outputs).add_(self.bias)
        combined = combined.view(time.outputs, frequency.outputs, *grid, outputs)
        target = out.unflatten(2, (across, -1)).unflatten(1, (rows, -1, dilation))
        target.copy_(combined.permute(2, 3, 0, 4, 5, 1, 6))


def _window(x: Tensor, start: int, frames: int, before: int, bands: int) -> Tensor:
    """Cut a window from x [B, T, F, C], with zeros outside of x.

    It has `frames` frames from `start` on and `bands` bands from -`before` on.
    """
    low, high = max(start, 0), min(start + frames, x.shape[1])
    window = x[:, low:high]
    ends = (0, 0, before, bands - before - x.shape[2], low - start, start + frames - high)
    return F.pad(window, ends) if any(ends) else window


def _view(buffer: Tensor, *shape: int) -> Tensor:
    """The beginning of a buffer, viewed in a shape."""
    return buffer[: math.prod(shape)].view(shape)
