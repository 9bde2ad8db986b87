"""Convolutions by fewer products against torch's own."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from soundcrafter.cpu import fast_conv as module
from soundcrafter.cpu.convolutions import FastConv1d, FastConv2d, FastConvTranspose1d
from soundcrafter.cpu.fast_conv import FastConv, Tile, conv2d, fast_conv, fourier, toom_cook
from soundcrafter.cpu.optimize import optimize
from soundcrafter.models.layers import ResBlock, Upsample
from soundcrafter.precision import cpu_has_bf16

TILES = [
    *(pytest.param(toom_cook(m, r), r, id=f"{m} of {r}") for m, r in [(1, 1), (2, 3), (4, 3)]),
    *(pytest.param(toom_cook(m, r), r, id=f"{m} of {r}") for m, r in [(6, 3), (7, 2), (5, 4)]),
    *(pytest.param(fourier(n, r), r, id=f"{n} for {r}") for n, r in [(16, 7), (24, 11), (32, 11)]),
]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Calls of the fast way so far, as the only element. It is taken wherever it can be: whether it
    gains depends on the machine."""
    count, plain = [0], FastConv.__call__

    def counted(self: FastConv, x: Tensor) -> Tensor:
        count[0] += 1
        return plain(self, x)

    monkeypatch.setattr(FastConv, "__call__", counted)
    monkeypatch.setattr(module, "_GAIN", math.inf)
    module._choose.cache_clear()
    yield count
    module._choose.cache_clear()


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 2e-5 * theirs.abs().max()


@pytest.mark.parametrize(("tile", "taps"), TILES)
def test_a_tile_is_the_filter_laid_over_its_inputs(tile: Tile, taps: int) -> None:
    generator = np.random.default_rng(0)
    inputs, taps_of = generator.normal(size=tile.inputs), generator.normal(size=taps)
    made = tile.of_products @ ((tile.of_filter @ taps_of) * (tile.of_inputs @ inputs))
    assert tile.outputs == tile.inputs - taps + 1
    np.testing.assert_allclose(made, np.correlate(inputs, taps_of, "valid"), atol=1e-12)


def test_products_of_the_known_cases() -> None:
    # Winograd's F(2, 3) and F(4, 3) take 4 and 6; 2 bins of 32 are real, 15 take three each
    assert toom_cook(2, 3).products == 4
    assert toom_cook(4, 3).products == 6
    assert fourier(32, 11).products == 2 + 3 * 15


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    frames=st.integers(12, 60),
    bands=st.integers(1, 9),
    taps=st.sampled_from([(3, 3), (2, 2), (1, 2), (4, 1), (7, 1), (11, 1)]),
    dilation=st.integers(1, 3),
    padded=st.booleans(),
    biased=st.booleans(),
    slab=st.sampled_from([1, 2**12, 2**20]),
    pick=st.integers(0, 8),
)
def test_any_map_is_convolved_as_torch_does(
    batch: int,
    frames: int,
    bands: int,
    taps: tuple[int, int],
    dilation: int,
    padded: bool,
    biased: bool,
    slab: int,
    pick: int,
) -> None:
    """Every tile, also on maps that are not a whole number of tiles."""
    bands = max(bands, taps[1])
    frames = max(frames, dilation * (taps[0] - 1) + 1)
    padding = (dilation * (taps[0] - 1) // 2, taps[1] // 2) if padded else (0, 0)
    x = noise(batch, 5, frames, bands)
    weight, bias = noise(4, 5, *taps, seed=1), noise(4, seed=2) if biased else None
    of_time, of_frequency = (module._tiles(count, "AVX2") for count in taps)
    tiles = (of_time[pick % len(of_time)], of_frequency[pick // 3 % len(of_frequency)])
    theirs = F.conv2d(x.double(), weight.double(), None, 1, padding, (dilation, 1))
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SLAB", slab)
        ours = FastConv(weight, bias, padding, dilation, tiles)(x)
    close(ours, theirs.float() + (0 if bias is None else bias[:, None, None]))


def test_pieces_have_one_size_and_none_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    ours = FastConv._rows

    def spy(self: FastConv, x: Tensor, first: int, out: Tensor, buffers: Tensor) -> None:
        calls.append((first, out.shape[1]))
        ours(self, x, first, out, buffers)

    monkeypatch.setattr(FastConv, "_rows", spy)
    x, weight = noise(1, 4, 44, 1), noise(4, 4, 3, 1)
    tiles = (toom_cook(2, 3), toom_cook(1, 1))  # 22 rows of 16 numbers
    monkeypatch.setattr(module, "_SLAB", 5 * 16)
    with torch.no_grad():
        close(FastConv(weight, None, (1, 0), 1, tiles)(x), F.conv2d(x, weight, padding=(1, 0)))
    assert calls == [(0, 10), (5, 10), (10, 10), (15, 10), (17, 10)]


def test_it_is_taken_where_it_gains_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._COSTS, "AVX512", module._COSTS["AVX2"])
    module._choose.cache_clear()
    wide, narrow = noise(256, 256, 3, 3), noise(8, 8, 3, 3)
    large, small = noise(2, 256, 128, 8), noise(2, 256, 4, 2)
    with torch.no_grad():
        assert fast_conv(wide, None, large, (1, 1)) is not None
        assert fast_conv(wide, None, small, (1, 1)) is None, "the filters cost more than the map"
        assert fast_conv(narrow, None, noise(2, 8, 128, 8), (1, 1)) is None
        assert fast_conv(wide.bfloat16(), None, large.bfloat16(), (1, 1)) is None
    assert fast_conv(wide, None, large, (1, 1)) is None, "with gradients"
    module._choose.cache_clear()


@pytest.mark.skipif(not cpu_has_bf16(), reason="no bf16 instructions here")
@pytest.mark.parametrize("kernel", [7, 11])
def test_bf16_is_three_times_as_rough(kernel: int, uses: list[int]) -> None:
    layer, x = FastConv1d(256, 256, kernel, padding=kernel // 2), noise(1, 256, 20_000).bfloat16()
    layer.bfloat16()
    with torch.no_grad():
        ours, plain = layer(x), torch.nn.Conv1d.forward(layer, x)
        exact = F.conv1d(x.float(), layer.weight.float(), layer.bias.float(), padding=kernel // 2)
    assert uses == [1]
    assert (ours - exact).std() < 4 * (plain - exact).std()


@settings(max_examples=30, deadline=None)
@given(
    frames=st.integers(2, 20),
    outputs=st.integers(1, 2),
    taps=st.sampled_from([(3, 3), (2, 2), (2, 1), (1, 1)]),
    padding=st.sampled_from([(0, 0), (1, 1)]),
    biased=st.booleans(),
    ordered=st.booleans(),
)
def test_narrow_maps_by_im2col(
    frames: int,
    outputs: int,
    taps: tuple[int, int],
    padding: tuple[int, int],
    biased: bool,
    ordered: bool,
) -> None:
    bands = max(1, outputs - 1 + taps[1] - 2 * padding[1])
    frames = max(frames, taps[0])
    x, weight, bias = noise(2, 5, frames, bands), noise(4, 5, *taps), noise(4) if biased else None
    if ordered:
        x = x.contiguous(memory_format=torch.channels_last)
    close(module._im2col_conv(x, weight, bias, padding), F.conv2d(x, weight, bias, 1, padding))


def test_im2col_is_used_for_narrow_maps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    ours = module._im2col_conv
    monkeypatch.setattr(module, "_im2col_conv", lambda x, *args: taken.append(x) or ours(x, *args))
    weight = noise(8, 8, 3, 3)
    for bands in (1, 2, 3, 8):
        with torch.no_grad():
            conv2d(noise(2, 8, 16, bands), weight, None, (1, 1))
        conv2d(noise(2, 8, 16, bands), weight, None, (1, 1))  # with gradients
    assert [x.shape[3] for x in taken] == [1, 2]


def test_gradients_are_torchs() -> None:
    layer = FastConv2d(256, 256, 3, padding=1)
    x = noise(2, 256, 64, 8)
    layer(x).square().mean().backward()
    theirs = layer.weight.detach().clone().requires_grad_()
    F.conv2d(x, theirs, layer.bias.detach(), padding=1).square().mean().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, theirs.grad)


@pytest.mark.parametrize("ordered", [True, False])
def test_the_result_is_channels_last_whatever_comes_in(ordered: bool, uses: list[int]) -> None:
    x, weight = noise(2, 128, 256, 16), noise(128, 128, 3, 3)
    if ordered:
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        ours = conv2d(x, weight, None, (1, 1))
    assert uses == [1]
    assert ours.is_contiguous(memory_format=torch.channels_last)
    close(ours, F.conv2d(x, weight, padding=1))


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (7, 3), (11, 5)])
def test_wide_1d_convolutions(
    kernel: int, dilation: int, padding_mode: str, uses: list[int]
) -> None:
    padding = dilation * (kernel - 1) // 2
    ours = FastConv1d(
        *(256, 256, kernel), dilation=dilation, padding=padding, padding_mode=padding_mode
    )
    x = noise(1, 256, 5000)
    with torch.no_grad():
        close(ours(x), torch.nn.Conv1d.forward(ours, x))
    assert uses == [1]


def test_wide_transposed_convolutions(uses: list[int]) -> None:
    layer = FastConvTranspose1d(256, 128, 16, stride=4, padding=6)
    x = noise(1, 256, 3000)
    with torch.no_grad():
        close(layer(x), torch.nn.ConvTranspose1d.forward(layer, x))
    assert uses == [1]


def test_a_wide_block_whole_and_in_slabs(monkeypatch: pytest.MonkeyPatch, uses: list[int]) -> None:
    block = ResBlock(256, 256, norm_groups=32, eps=1e-6).eval()
    for conv in (block.conv1, block.conv2):
        torch.nn.init.normal_(conv.weight, std=1 / math.sqrt(9 * 256))
    x = noise(1, 256, 256, 16)
    theirs = block(x).detach()
    optimize(block)
    with torch.no_grad():
        whole = block(x)
        monkeypatch.setattr("soundcrafter.cpu.slabs._SLABS_FROM", 1)
        monkeypatch.setattr("soundcrafter.cpu.slabs._SLAB", 2**19)
        slabs = block(x.clone())
    assert uses == [1 + 1 + 2 * 2], "each convolution whole, then twice in two slabs"
    close(whole, theirs)
    close(slabs, theirs)


def test_wide_upsampling_by_phases(uses: list[int]) -> None:
    layer = Upsample(512, (2, 2))
    x = noise(1, 512, 256, 16)
    theirs = layer(x).detach()
    with torch.no_grad():
        close(optimize(layer)(x), theirs)
    assert uses == [4], "one for each phase"
