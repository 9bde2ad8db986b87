"""torch's random numbers without torch."""

import numpy as np
import pytest
import torch

from soundcrafter.onnx.noise import TorchGenerator

SEEDS = (0, 1, 7, 123_456_789, 2**32 - 1, 2**32, 2**40 + 5, 2**63 + 11, 2**64 - 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(16,), (17,), (31,), (4, 25, 16), (32, 64, 8)])
def test_normal_numbers_are_those_of_torch(seed, shape):
    theirs, ours = torch.Generator().manual_seed(seed), TorchGenerator(seed)
    for _ in range(3):  # the state after a draw counts too
        wanted = torch.randn(shape, generator=theirs).numpy()
        np.testing.assert_allclose(ours.randn(shape), wanted, rtol=0, atol=5e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_uniform_numbers_are_those_of_torch_to_the_bit(seed):
    theirs, ours = torch.Generator().manual_seed(seed), TorchGenerator(seed)
    for shape in ((3, 5), (1, 40, 513)):
        np.testing.assert_array_equal(ours.rand(shape), torch.rand(shape, generator=theirs).numpy())


def test_a_draw_of_few_normal_numbers_is_refused():
    with pytest.raises(ValueError, match="16 values or more"):
        TorchGenerator(0).randn((3, 5))
