"""Timelines: the condition of each frame, and masked composition of events."""

import pytest
import torch
from torch import Tensor

from soundcrafter.diffusion.config import DiffusionConfig, SamplingConfig
from soundcrafter.diffusion.events import event_levels, frame_conds, with_silence
from soundcrafter.diffusion.guidance import guided
from soundcrafter.diffusion.sample import sample
from soundcrafter.diffusion.schedule import Schedule

A, B = torch.eye(3)[0], torch.eye(3)[1]
SILENCE = torch.eye(3)[2]
EVENTS = torch.stack([A, B])[None]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_an_event_sounds_in_the_frames_whose_centres_are_in_its_span():
    levels = event_levels([(0.0, 0.5), (0.3, 1.0), (0.61, 0.62)], [1.0, 2.0, 0.5], 10)
    assert levels.tolist() == [
        [1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 2, 2, 2, 2, 2, 2, 2],
        [0, 0, 0, 0, 0, 0, 0.5, 0, 0, 0],  # too short to contain a centre
    ]


def test_each_frame_has_the_condition_of_what_sounds_there():
    levels = torch.tensor([[[1.0, 3.0, 0.0, 0.0], [0.0, 4.0, 2.0, 0.0]]])
    found = frame_conds(EVENTS, levels, SILENCE)
    both = torch.tensor([0.6, 0.8, 0.0])  # the mean weighted by level, of unit length
    torch.testing.assert_close(found[0], torch.stack([A, both, B, SILENCE]))


def test_one_event_that_always_sounds_is_its_own_condition():
    cond = torch.nn.functional.normalize(randn(2, 1, 6), dim=-1)
    found = frame_conds(cond, event_levels([(0, 1)], [1.0], 8).expand(2, 1, 8), torch.zeros(6))
    torch.testing.assert_close(found, cond.expand(2, 8, 6))


def test_silence_becomes_an_event_that_fills_the_pauses():
    events, levels = with_silence(EVENTS, torch.tensor([[[1.0, 0, 0], [1.0, 2.0, 0]]]), SILENCE)
    assert events.tolist() == [[A.tolist(), B.tolist(), SILENCE.tolist()]]
    assert levels.tolist() == [[[1, 0, 0], [1, 2, 0], [0, 0, 1]]]


def test_masked_composition_averages_the_guided_predictions_of_events(recorder):
    latent, t = randn(2, 1, 4, 2), torch.tensor([3, 3])
    conds, uncond = randn(2, 2, 6), randn(6, seed=1)
    levels = torch.tensor([[1.0, 3.0, 0.0, 2.0], [0.0, 1.0, 5.0, 2.0]]).expand(2, 2, 4)
    weights = torch.tensor([[1, 0.75, 0, 0.5], [0, 0.25, 1, 0.5]])[:, None, None, :, None]
    alone = [guided(recorder(), conds[:, k], uncond, 3.0)(latent, t) for k in range(2)]
    model = recorder()
    got = guided(model, conds, uncond, 3.0, levels=levels)(latent, t)
    torch.testing.assert_close(got, (weights * torch.stack(alone)).sum(0))
    assert [len(call[0]) for call in model.calls] == [6]  # one pass: two events each, and uncond
    scale_1 = guided(model, conds, uncond, 1.0, levels=levels)(latent, t)
    assert len(model.calls[-1][0]) == 4
    alone = [recorder()(latent, t, conds[:, k]) for k in range(2)]
    torch.testing.assert_close(scale_1, (weights * torch.stack(alone)).sum(0))


def test_masked_composition_of_one_event_is_plain_sampling(recorder):
    noise, cond, uncond = randn(2, 3, 8, 4), randn(2, 6), randn(2, 6, seed=1)
    schedule, settings = Schedule(DiffusionConfig(objective="v")), SamplingConfig(steps=4)
    plain = sample(recorder(), schedule, settings, noise, cond, uncond=uncond, window=4)
    composed = sample(
        recorder(),
        schedule,
        settings,
        noise,
        cond[:, None],
        uncond=uncond,
        window=4,
        levels=torch.ones(2, 1, 8),
    )
    torch.testing.assert_close(composed, plain)


def test_levels_that_do_not_fit_are_value_errors(recorder):
    conds, uncond = randn(2, 2, 6), randn(6)
    levels = torch.ones(2, 2, 4)
    for bad in (torch.ones(2, 3, 4), torch.ones(2, 4), -levels, torch.zeros(2, 2, 4)):
        with pytest.raises(ValueError, match="levels"):
            guided(recorder(), conds, uncond, 2.0, levels=bad)
    with pytest.raises(ValueError, match="cond"):
        guided(recorder(), conds[:, 0], uncond, 2.0, levels=levels)
