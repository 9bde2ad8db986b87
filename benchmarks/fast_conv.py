"""Convolutions by fewer products against torch's own, at the sizes in our networks.

    python benchmarks/fast_conv.py
    python benchmarks/fast_conv.py --fit
    python benchmarks/fast_conv.py --precision bf16 [--fit]

The first prints, for each size, torch's time over ours, whether ours is used there, and the largest
difference over the largest value. --fit times every tile at every size instead, and fits and prints
the `_COSTS` of `soundcrafter.cpu.fast_conv`.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from soundcrafter.bench.meters import interleaved, timed
from soundcrafter.cpu import fast_conv as fast
from soundcrafter.cpu.convolutions import FastConv1d
from soundcrafter.precision import DTYPES


class Size(NamedTuple):
    batch: int
    inputs: int
    frames: int
    bands: int  # 1: a 1D convolution
    outputs: int
    taps: int  # a side, along both where there are bands

    @property
    def kernel(self) -> tuple[int, int]:
        return self.taps, self.taps if self.bands > 1 else 1

    @property
    def padding(self) -> tuple[int, int]:
        return (self.kernel[0] - 1) // 2, (self.kernel[1] - 1) // 2


VOCODER = ((512, 5120), (256, 20480), (128, 40960), (64, 81920), (32, 163840))  # width, samples
SIZES = (
    *(Size(1, width, length, 1, width, k) for width, length in VOCODER for k in (3, 7, 11)),
    *(Size(2, 128, 256, 16, 128, 3), Size(2, 256, 256, 16, 128, 3)),  # the paper's U-Net
    *(Size(2, 256, 128, 8, 256, 3), Size(2, 640, 128, 8, 256, 3)),
    *(Size(2, 384, 64, 4, 384, 3), Size(2, 640, 32, 2, 640, 3)),
    *(Size(1, 512, 256, 16, 512, 3), Size(1, 256, 512, 32, 256, 3)),  # the VAE's decoder
    *(Size(1, 128, 1024, 64, 128, 3), Size(1, 512, 256, 16, 512, 2)),
    *(Size(2, 96, 128, 8, 96, 3), Size(8, 96, 128, 8, 96, 3)),  # the bundled model
    *(Size(8, 96, 64, 4, 96, 3), Size(8, 192, 16, 2, 192, 3), Size(1, 128, 128, 8, 128, 3)),
)


def tensors(size: Size, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Map, weight and bias."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        x = torch.randn(shape, generator=generator).to(dtype)
        return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x

    x = draw(size.batch, size.inputs, size.frames, size.bands)
    return x, draw(size.outputs, size.inputs, *size.kernel), draw(size.outputs)


@contextmanager
def gain(least: float) -> Iterator[None]:
    """Within, use tiles wherever they cost at most this share of torch's convolution; 0: never."""
    ours, fast._GAIN = fast._GAIN, least
    fast._choose.cache_clear()
    try:
        yield
    finally:
        fast._GAIN = ours
        fast._choose.cache_clear()


def median(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Seconds of each call, which take turns, after a warm-up."""
    jobs = {key: partial(timed, call, torch.device("cpu")) for key, call in enumerate(calls)}
    interleaved(jobs, 1)
    return [statistics.median(found) for found in interleaved(jobs, repeats).values()]


def plain(size: Size, x: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], Tensor]:
    """torch's convolution: for a 1D one the flat one of `FastConv1d`, which is faster."""
    if size.bands > 1:
        return lambda: F.conv2d(x, weight, bias, padding=size.padding)
    layer = FastConv1d(size.inputs, size.outputs, size.taps, padding=size.padding[0])
    layer.weight.data, layer.bias.data = weight[..., 0], bias

    def flat() -> Tensor:
        with gain(0.0):
            return layer(x[..., 0])[..., None]

    return flat


def compare(size: Size, dtype: torch.dtype, repeats: int) -> None:
    x, weight, bias = tensors(size, dtype)
    taken = fast.fast_conv(weight, bias, x, size.padding) is not None
    with gain(math.inf):
        kind = fast._kind(dtype)
        assert kind is not None, "asked in main"
        tiles = fast._choose(kind, size.batch, size.frames, size.bands, tuple(weight.shape), 1)
    assert tiles is not None

    def ours() -> Tensor:
        return fast.FastConv(weight, bias, size.padding, 1, tiles)(x)

    theirs = plain(size, x, weight, bias)
    wanted, got = theirs(), ours()
    difference = float((got - wanted[:, :, : got.shape[2], : got.shape[3]]).abs().max())
    before, after = median([theirs, ours], repeats)
    print(
        f"{size.batch} x {size.inputs} x {size.frames} x {size.bands} -> {size.outputs}, "
        f"{'x'.join(map(str, size.kernel))}".ljust(40),
        f"{before / after:5.2f}  {1e3 * before:7.1f} ms -> {1e3 * after:7.1f} ms",
        f"{'used' if taken else '-':6} {difference / float(wanted.abs().max()):.0e}",
        flush=True,
    )


def fit(dtype: torch.dtype, repeats: int) -> None:
    """Least squares, of relative errors, over all tiles and sizes."""
    from scipy.optimize import nnls

    rows, seconds, of_plain = [], [], []
    kind = fast._kind(dtype)
    assert kind is not None, "asked in main"
    for size in SIZES:
        x, weight, bias = tensors(size, dtype)
        way = plain(size, x, weight, bias)
        of_plain.append(median([way], repeats)[0] / (weight.numel() * way()[:, 0].numel()))
        for time_tile, frequency_tile in product(
            *(fast._tiles(taps, kind) for taps in size.kernel)
        ):
            tiles = (time_tile, frequency_tile)

            def ours(
                tiles: tuple[fast.Tile, fast.Tile] = tiles,
                size: Size = size,
                args: tuple[Tensor, Tensor, Tensor] = (x, weight, bias),
            ) -> Tensor:
                return fast.FastConv(args[1], args[2], size.padding, 1, tiles)(args[0])

            seconds += median([ours], repeats)
            frames, bands = ours().shape[2:]
            rows.append(
                fast.operation_counts(size.batch, frames, bands, tuple(weight.shape), 1, tiles)
            )
    amounts, measured = np.array(rows, dtype=float), np.array(seconds)
    scale = amounts.max(0)
    costs, _ = nnls(amounts / scale / measured[:, None], np.ones(len(measured)))
    predicted = amounts / scale @ costs
    costs /= scale
    print(f"{len(rows)} timings; a product takes {1e9 * costs[0]:.4f} ns; {kind}, in products:")
    for name, cost in zip(
        fast._Costs._fields, [*costs[1:], statistics.median(of_plain)], strict=True
    ):
        print(f"{name:8} {cost / costs[0]:.3g}")
    print(f"error: {np.abs(predicted / measured - 1).mean():.1%} in the mean")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    dtype = DTYPES[options.precision]
    if fast._kind(dtype) is None:
        parser.error("--precision: this CPU has no bf16 instructions")
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}", end="; ")
    print(f"N {options.repeats} (median), seed 0")
    with torch.inference_mode():
        if options.fit:
            fit(dtype, options.repeats)
            return
        for size in SIZES:
            compare(size, dtype, options.repeats)


if __name__ == "__main__":
    main()
