"""Sounds made of several recordings: when each sounds, how loud, and what is encoded of it."""

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from soundcrafter.audio import write_audio
from soundcrafter.data.bank import LatentBank
from soundcrafter.data.dataset import DataConfig, Sounds
from soundcrafter.data.events import MAX_EVENTS, event_rows, place_events
from soundcrafter.data.latent_writer import encode_latents
from soundcrafter.data.latents import Latents
from soundcrafter.data.manifest import Manifest, Recording

RATE, SECONDS = 1000, 4


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    """Six recordings of three labels: tones between silences, two of each frequency."""
    recordings = []
    for i in range(6):
        time = np.arange(RATE * (1 + i // 2)) / RATE
        tone = 0.3 * np.sin(2 * np.pi * (40 + 90 * (i // 2)) * time)
        wave = np.concatenate([np.zeros(200), tone, np.zeros(300)]).astype(np.float32)
        file = tmp_path / f"{i}.wav"
        write_audio(file, wave, RATE)
        label = "abc"[i // 2]
        recordings.append(
            Recording(file=file, caption=f"Tone {label}", label=label, seconds=len(wave) / RATE)
        )
    return Manifest(root=tmp_path, recordings=tuple(recordings))


def sounds(manifest: Manifest, **config) -> Sounds:
    config = {"timeline_probability": 1.0, **config}
    return Sounds(
        manifest, DataConfig(**config), sample_rate=RATE, num_samples=RATE * SECONDS, seed=0
    )


def test_events_sound_in_their_spans_alone(manifest):
    source, kinds = sounds(manifest), set()
    for index in range(60):
        draw = source.draw(index)
        assert 1 <= len(draw.events) <= MAX_EVENTS
        labels = [event.caption for event in draw.events]
        assert len(set(labels)) == len(labels), "a timeline has one sound of a kind"
        assert draw.label is None
        assert sorted(event.file for event in draw.events) == sorted(draw.files)
        inside = np.zeros(len(draw.wave), bool)
        for event in draw.events:
            assert 0 <= event.start < event.end <= 1
            start, end = (round(place * len(draw.wave)) for place in (event.start, event.end))
            inside[start:end] = True
            assert abs(event.wave[0]) > 0  # its own wave begins with the sound
            assert np.any(event.wave[: end - start])
            assert not event.wave[end - start :].any()
            if end - start >= 100:  # enough to tell the tones apart
                pair = np.corrcoef(draw.wave[start:end], event.wave[: end - start])
                assert pair[0, 1] > 0.2
        assert not draw.wave[~inside].any()
        assert np.abs(draw.wave).max() == pytest.approx(0.5, abs=1e-3)
        starts = sorted((event.start, event.end) for event in draw.events)
        apart = all(one[1] <= other[0] for one, other in pairwise(starts))
        kinds.add((len(draw.events), apart))
    assert {(2, True), (2, False), (3, True), (3, False)} <= kinds  # in order, and at once


def test_levels_follow_the_pressure_rule():
    rng = np.random.default_rng(0)
    loud = rng.standard_normal(4000).astype(np.float32)
    quiet = (0.01 * rng.standard_normal(4000)).astype(np.float32)
    differences = []
    for seed in range(200):
        mixed, events = place_events(
            [loud, quiet], ["a", "b"], ["a", "b"], 4000, (-6.0, 6.0), np.random.default_rng(seed)
        )
        assert mixed.dtype == np.float32
        levels = []
        for event in events:
            heard = event.wave[event.wave != 0]
            levels.append(10 * np.log10(np.mean(heard**2)))
        # as recorded 40 dB apart; what is drawn lies on top of equal pressure
        differences.append(20 * np.log10(events[0].amplitude / events[1].amplitude))
        if events[0].end <= events[1].start or events[1].end <= events[0].start:
            parts = [
                mixed[round(e.start * 4000) : round(e.end * 4000)][: np.count_nonzero(e.wave)]
                for e in events
            ]
            powers = [10 * np.log10(np.mean(part[20:-20].astype(float) ** 2)) for part in parts]
            assert powers[0] - powers[1] == pytest.approx(differences[-1], abs=1.0)
    assert min(differences) >= -6
    assert max(differences) <= 6
    assert np.abs(differences).mean() == pytest.approx(2.0, abs=0.4)


def test_a_plain_sound_is_one_event_that_always_sounds(manifest):
    source = sounds(manifest, timeline_probability=0.5)
    batch = source.batch(range(8))
    rows = event_rows(batch.wave, batch.captions, batch.events, 10)
    plain = [i for i, events in enumerate(batch.events) if not events]
    assert plain
    assert len(plain) < 8
    for i in plain:
        assert rows.levels[i].tolist() == [[1.0] * 10, [0.0] * 10, [0.0] * 10]
        row = rows.places.index((i, 0))
        assert torch.equal(rows.wave[row], batch.wave[i])
        assert rows.captions[row] == batch.captions[i]
    embedded = rows.embed(lambda wave: wave[:, 300:305])
    assert embedded.shape == (8, MAX_EVENTS, 5)
    for row, (sound, event) in enumerate(rows.places):
        assert torch.equal(embedded[sound, event], rows.wave[row, 300:305])
    assert torch.equal((rows.levels > 0).any(2), embedded.abs().sum(2) > 0)


def test_without_timelines_draws_are_as_before(manifest):
    plain = sounds(manifest, timeline_probability=0.0, mix_probability=0.5)
    for index in range(10):
        assert plain.draw(index).events == ()
    with pytest.raises(ValueError, match="timeline_probability"):
        DataConfig(timeline_probability=1.5)


def test_encoded_timelines_equal_what_is_drawn(manifest, tmp_path):
    source = sounds(manifest, variants=2, timeline_probability=0.7)

    def posterior(wave):
        mean = wave.reshape(len(wave), 1, 40, 100)
        return mean, -mean.abs()

    def embed_text(captions):
        return torch.tensor([[float(len(text)), ord(text[-1])] for text in captions])

    encode_latents(
        source,
        tmp_path / "out",
        posterior=posterior,
        embed_audio=lambda wave: wave[:, :8],
        embed_text=embed_text,
        metadata={},
        batch_size=4,
    )
    latents = Latents(tmp_path / "out", seed=0)
    batch, drawn = latents.batch(range(20)), source.batch(range(20))
    rows = event_rows(drawn.wave, drawn.captions, drawn.events, 40)
    assert torch.equal(batch.audio_embedding, rows.embed(lambda wave: wave[:, :8]))
    assert torch.equal(batch.text_embedding, rows.embed_captions(embed_text))
    assert torch.equal(batch.levels, rows.levels)
    assert batch.files == drawn.files
    bank = LatentBank(latents, torch.device("cpu")).draw(5)
    assert bank["levels"].shape == (5, MAX_EVENTS, 40)
    assert bank["text_embedding"].shape == (5, MAX_EVENTS, 2)


def test_a_silent_recording_becomes_no_timeline(tmp_path):
    file: Path = tmp_path / "silent.wav"
    write_audio(file, np.zeros(RATE, np.float32), RATE)
    recording = Recording(file=file, caption="Nothing", label="a", seconds=1.0)
    silent = Manifest(root=tmp_path, recordings=(recording,))
    draw = sounds(dataclasses.replace(silent)).draw(0)
    assert draw.events == ()
    assert not draw.wave.any()
