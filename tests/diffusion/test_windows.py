"""Long latents in overlapping windows and large batches in parts, on models worked by hand."""

import pytest
import torch
from torch import Tensor

from soundcrafter.diffusion.guidance import guided
from soundcrafter.diffusion.windows import (
    blend_windows,
    stretch_timeline,
    windowed,
    with_batch_limit,
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("frames", [9, 16, 17, 23, 64])
@pytest.mark.parametrize("overlap", [0, 1, 4, 7])
def test_a_model_without_context_is_reproduced_exactly(frames, overlap):
    latent, t = randn(2, 3, frames, 2), torch.tensor([0, 0])
    got = windowed(lambda x, t, c: x, 8, overlap)(latent, t, randn(2, 4))
    torch.testing.assert_close(got, latent, rtol=1e-6, atol=1e-6)


def test_windows_cover_the_latent_one_by_one_and_the_last_ends_with_it(recorder):
    model = recorder()
    latent = torch.arange(21.0).reshape(1, 1, 21, 1)
    windowed(model, 8, 3)(latent, torch.tensor([0]), torch.zeros(1, 4))
    assert [call[0].shape for call in model.calls] == [(1, 1, 8, 1)] * 4
    assert [call[0][0, 0, 0].item() for call in model.calls] == [0, 5, 10, 13]


def test_pieces_may_be_longer_than_their_windows():
    x = randn(2, 3, 21, 4)
    got = blend_windows(lambda span: x[:, :, span].repeat_interleave(2, 2), 21, 8, 2, scale=2)
    torch.testing.assert_close(got, x.repeat_interleave(2, 2), rtol=1e-6, atol=1e-6)
    low = blend_windows(lambda span: x[:, :, span].bfloat16(), 21, 8, 2)
    assert low.dtype == torch.float32


def test_the_blend_goes_evenly_from_one_window_to_the_next():
    seen: list[int] = []

    def numbered(x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        seen.append(len(seen))
        return torch.full_like(x, float(seen[-1]))

    got = windowed(numbered, 8, 4)(torch.zeros(1, 1, 12, 1), torch.tensor([0]), torch.zeros(1, 1))
    got = got.flatten()
    assert got[:4].tolist() == [0.0] * 4
    torch.testing.assert_close(got[4:8], torch.tensor([0.2, 0.4, 0.6, 0.8]))
    torch.testing.assert_close(got[8:], torch.ones(4))


@pytest.mark.parametrize("entries", [1, 2, 5, 20, 23])
def test_each_window_gets_its_own_part_of_a_timeline(recorder, entries):
    latent, t, cond = randn(2, 1, 20, 2), torch.tensor([0, 1]), randn(2, entries, 3)
    whole = recorder()(latent, t, cond)
    model = recorder()
    got = windowed(model, 8, 3)(latent, t, cond)
    torch.testing.assert_close(got, whole)
    assert {call[2].shape[1] for call in model.calls} == {8}


def test_a_timeline_is_stretched_linearly_between_the_centres_of_its_entries():
    got = stretch_timeline(torch.tensor([0.0, 1.0]).reshape(1, 2, 1), 4).flatten()
    torch.testing.assert_close(got, torch.tensor([0.0, 0.25, 0.75, 1.0]))


def test_a_short_latent_goes_to_the_model_untouched(recorder):
    model, latent, t, cond = recorder(), randn(1, 1, 8, 2), torch.tensor([4]), randn(1, 3, 5)
    got = windowed(model, 8, 4)(latent, t, cond)
    assert model.calls[0][0] is latent
    assert model.calls[0][2] is cond
    torch.testing.assert_close(got, recorder()(latent, t, cond))


@pytest.mark.parametrize("timeline", [False, True])
def test_guidance_over_windows(recorder, timeline):
    latent, t = randn(2, 1, 21, 2), torch.tensor([3, 5])
    cond = randn(2, 7, 6) if timeline else randn(2, 6)
    uncond = randn(6, seed=1)
    want = guided(recorder(), cond, uncond, 2.5)(latent, t)
    got = guided(windowed(recorder(), 8, 3), cond, uncond, 2.5)(latent, t)
    torch.testing.assert_close(got, want)


def test_samples_do_not_depend_on_their_batch(recorder):
    latent, t, cond = randn(3, 1, 21, 2), torch.tensor([3, 3, 3]), randn(3, 6)
    model = windowed(recorder(), 8, 3)
    together = guided(model, cond, randn(6, seed=1), 2.5)(latent, t)
    for i in range(3):
        one = slice(i, i + 1)
        alone = guided(model, cond[one], randn(6, seed=1), 2.5)(latent[one], t[one])
        torch.testing.assert_close(together[one], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("overlap", [8, -1])
def test_an_overlap_that_cannot_work_is_a_value_error(recorder, overlap):
    with pytest.raises(ValueError, match="overlap"):
        windowed(recorder(), 8, overlap)


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8])
def test_a_batch_limit_changes_nothing(recorder, limit):
    model, latent, t, cond = recorder(), randn(5, 1, 4, 2), torch.arange(5), randn(5, 3, seed=1)
    whole = recorder()(latent, t, cond)
    assert torch.equal(with_batch_limit(model, limit)(latent, t, cond), whole)
    assert max(len(call[0]) for call in model.calls) == min(limit, 5)
    with pytest.raises(ValueError, match="limit: got 0"):
        with_batch_limit(model, 0)
