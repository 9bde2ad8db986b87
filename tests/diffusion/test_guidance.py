"""Classifier-free guidance and overlapping windows on models worked by hand."""

import pytest
import torch
from torch import Tensor, nn

from soundcrafter.diffusion.guidance import guided, in_parts, stretch_timeline, windowed


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Recorder:
    """latent + t + the condition's mean, frame by frame for a timeline; keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.calls.append((latent, t, cond))
        if cond.ndim == 3:
            shift = stretch_timeline(cond, latent.shape[2]).mean(2)[:, None, :, None]
        else:
            shift = cond.mean(1).reshape(-1, 1, 1, 1)
        return latent + t.reshape(-1, 1, 1, 1) + shift


def test_guidance_by_hand_in_one_call():
    model, latent, t = Recorder(), randn(2, 1, 4, 2), torch.tensor([3, 5])
    cond, uncond = torch.tensor([[1.0], [2.0]]), torch.tensor([0.5])
    got = guided(model, cond, uncond, 3.0)(latent, t)
    shift = torch.tensor([0.5 + 3 * 0.5, 0.5 + 3 * 1.5]).reshape(2, 1, 1, 1)
    torch.testing.assert_close(got, latent + t.reshape(2, 1, 1, 1) + shift)
    assert [call[0].shape[0] for call in model.calls] == [4]


def test_scale_1_is_one_pass_of_the_condition_alone():
    model, latent, t = Recorder(), randn(2, 1, 4, 2), torch.tensor([3, 3])
    cond = randn(2, 6)
    got = guided(model, cond, torch.full((6,), float("nan")), 1.0)(latent, t)
    torch.testing.assert_close(got, Recorder()(latent, t, cond))
    assert [call[0].shape[0] for call in model.calls] == [2]


def test_every_shape_of_one_constant_condition_means_the_same():
    latent, t = randn(2, 1, 4, 2), torch.tensor([3, 3])
    cond, uncond = randn(2, 6), randn(6, seed=1)
    want = guided(Recorder(), cond, uncond, 2.0)(latent, t)
    conds = (cond, cond[:, None].expand(2, 4, 6))
    unconds = (uncond, uncond.expand(2, 6), uncond.expand(2, 4, 6))
    for a in conds:
        for b in unconds:
            torch.testing.assert_close(guided(Recorder(), a, b, 2.0)(latent, t), want)


def test_guidance_is_added_up_in_float32():
    got = guided(lambda x, t, c: x.bfloat16(), randn(1, 2), randn(2), 2.0)(
        randn(1, 1, 2, 2), torch.tensor([0])
    )
    assert got.dtype == torch.float32


def test_conditions_that_do_not_fit_are_value_errors():
    model = Recorder()
    for cond, uncond in ((randn(6), randn(6)), (randn(2, 6), randn(5)), (randn(2, 6), randn(3, 6))):
        with pytest.raises(ValueError, match="cond"):
            guided(model, cond, uncond, 2.0)
    with pytest.raises(ValueError, match="cond"):
        guided(model, randn(2, 3, 6), randn(2, 4, 6), 2.0)
    with pytest.raises(ValueError, match="latent"):
        guided(model, randn(2, 6), randn(6), 2.0)(randn(3, 1, 4, 2), torch.tensor([0, 0, 0]))


@pytest.mark.parametrize("frames", [9, 16, 17, 23, 64])
@pytest.mark.parametrize("overlap", [0, 1, 4, 7])
def test_a_model_without_context_is_reproduced_exactly(frames, overlap):
    latent, t = randn(2, 3, frames, 2), torch.tensor([0, 0])
    got = windowed(lambda x, t, c: x, 8, overlap, batch=3)(latent, t, randn(2, 4))
    torch.testing.assert_close(got, latent, rtol=1e-6, atol=1e-6)


def test_windows_cover_the_latent_in_groups_and_the_last_ends_with_it():
    model = Recorder()
    latent = torch.arange(21.0).reshape(1, 1, 21, 1)
    windowed(model, 8, 3, batch=2)(latent, torch.tensor([0]), torch.zeros(1, 4))
    assert [call[0].shape[0] for call in model.calls] == [2, 2]
    starts = [row[0, 0, 0].item() for call in model.calls for row in call[0]]
    assert starts == [0, 5, 10, 13]


def test_the_result_does_not_depend_on_the_windows_in_flight():
    convolution = nn.Conv2d(2, 2, 5, padding=2).double()
    latent, t, cond = randn(2, 2, 40, 4).double(), torch.tensor([1, 2]), randn(2, 7, 3).double()

    def model(x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        return convolution(x) + Recorder()(x, t, c)

    with torch.no_grad():
        results = [windowed(model, 12, 5, batch=n)(latent, t, cond) for n in (1, 2, 3, 100)]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-12, atol=1e-12)


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
def test_each_window_gets_its_own_part_of_a_timeline(entries):
    latent, t, cond = randn(2, 1, 20, 2), torch.tensor([0, 1]), randn(2, entries, 3)
    whole = Recorder()(latent, t, cond)
    model = Recorder()
    got = windowed(model, 8, 3, batch=2)(latent, t, cond)
    torch.testing.assert_close(got, whole)
    assert {call[2].shape[1] for call in model.calls} == {8}


def test_a_timeline_is_stretched_linearly_between_the_centres_of_its_entries():
    got = stretch_timeline(torch.tensor([0.0, 1.0]).reshape(1, 2, 1), 4).flatten()
    torch.testing.assert_close(got, torch.tensor([0.0, 0.25, 0.75, 1.0]))


def test_a_short_latent_goes_to_the_model_untouched():
    model, latent, t, cond = Recorder(), randn(1, 1, 8, 2), torch.tensor([4]), randn(1, 3, 5)
    got = windowed(model, 8, 4)(latent, t, cond)
    assert model.calls[0][0] is latent
    assert model.calls[0][2] is cond
    torch.testing.assert_close(got, Recorder()(latent, t, cond))


@pytest.mark.parametrize("timeline", [False, True])
def test_guidance_over_windows(timeline):
    latent, t = randn(2, 1, 21, 2), torch.tensor([3, 5])
    cond = randn(2, 7, 6) if timeline else randn(2, 6)
    uncond = randn(6, seed=1)
    want = guided(Recorder(), cond, uncond, 2.5)(latent, t)
    got = guided(windowed(Recorder(), 8, 3, batch=2), cond, uncond, 2.5)(latent, t)
    torch.testing.assert_close(got, want)


def test_samples_do_not_depend_on_their_batch():
    latent, t, cond = randn(3, 1, 21, 2), torch.tensor([3, 3, 3]), randn(3, 6)
    model = windowed(Recorder(), 8, 3, batch=2)
    together = guided(model, cond, randn(6, seed=1), 2.5)(latent, t)
    for i in range(3):
        one = slice(i, i + 1)
        alone = guided(model, cond[one], randn(6, seed=1), 2.5)(latent[one], t[one])
        torch.testing.assert_close(together[one], alone, rtol=1e-6, atol=1e-6)


def test_window_settings_that_cannot_work_are_value_errors():
    for window, overlap, batch, name in (
        (8, 8, 1, "overlap"),
        (8, -1, 1, "overlap"),
        (8, 2, 0, "b"),
    ):
        with pytest.raises(ValueError, match=name):
            windowed(Recorder(), window, overlap, batch)


def test_outside_the_interval_the_condition_goes_alone():
    model, latent, cond = Recorder(), randn(2, 1, 4, 2), torch.tensor([[1.0], [2.0]])
    predict = guided(model, cond, torch.tensor([0.5]), 3.0, interval=(200.0, 800.0))
    for t in (900, 800, 500, 200, 100):
        predict(latent, torch.tensor([t, t]))
    assert [len(call[0]) for call in model.calls] == [2, 4, 4, 4, 2]
    torch.testing.assert_close(model.calls[0][2], cond)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_a_batch_in_parts_is_the_batch(rows):
    model, latent, t, cond = Recorder(), randn(5, 1, 4, 2), torch.arange(5), randn(5, 3, seed=1)
    whole = Recorder()(latent, t, cond)
    assert torch.equal(in_parts(model, rows)(latent, t, cond), whole)
    assert max(len(call[0]) for call in model.calls) == min(rows, 5)
    with pytest.raises(ValueError, match="rows: got 0"):
        in_parts(model, 0)
