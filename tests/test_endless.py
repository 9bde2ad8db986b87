"""Sounds without an end: chunks that join, in flat memory."""

import itertools

import numpy as np
import pytest
import torch

from soundcrafter.blend import Blend
from soundcrafter.codec import Codec, vocode_stream
from soundcrafter.models.melgan import MelGAN, MelGANConfig
from soundcrafter.models.spectral import SpectralConfig, SpectralVocoder
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.timeline import Timeline

FAST = {"steps": 2, "window": 4.0}


@pytest.fixture(scope="module")
def model() -> SoundCrafter:
    return SoundCrafter.from_pretrained(device="cpu")


def chunks(model: SoundCrafter, count: int, prompt="rain", **options) -> list[np.ndarray]:
    return list(itertools.islice(model.endless(prompt, **(FAST | options)), count))


def test_chunks_follow_each_other_and_depend_on_the_seed_alone(model):
    first = chunks(model, 3, seed=4)
    for one, other in zip(first[:2], chunks(model, 2, seed=4), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[0], chunks(model, 1, seed=5)[0])
    lengths = [len(chunk) / model.sample_rate for chunk in first]
    assert lengths[1] == lengths[2] == pytest.approx(3.4, abs=0.1)  # 3/4 of a window
    assert all(chunk.dtype == np.float32 and np.abs(chunk).max() <= 1 for chunk in first)


def test_a_sound_goes_on_where_the_last_window_ended(model):
    """At the joint, neighbouring samples differ no more than elsewhere."""
    wave = np.concatenate(chunks(model, 4))
    steps = np.abs(np.diff(wave))
    joints = np.cumsum([len(chunk) for chunk in chunks(model, 3)]) - 1
    assert steps[joints].max() < np.quantile(steps, 0.999)


def test_a_sound_that_has_ended_begins_anew(model):
    loud = [float(np.abs(chunk).max()) for chunk in chunks(model, 6, "a dog barks", steps=6)]
    assert max(loud[2:]) > 0.1 * loud[0]


def test_a_blend_and_options_are_taken(model):
    (mixed,) = chunks(model, 1, Blend((("rain", 1.0), ("wind", 1.0))), guidance=3.0, more="bright")
    assert mixed.std() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1.0}, "window: got 1 s; allowed with this model: at least 2"),
        ({"window": 601.0}, "seconds: got 601"),
        ({"prompt": ""}, "prompt: must not be empty"),
        ({"prompt": Timeline.morph("rain", "wind", 3)}, "a timeline has an end"),
        ({"steps": 0}, "steps: got 0"),
        ({"steer": 0.5}, "steer: requires descriptions"),
    ],
)
def test_bad_options_are_refused_before_the_first_chunk(model, options, message):
    prompt = options.pop("prompt", "rain")
    with pytest.raises(ValueError, match=message):
        model.endless(prompt, **(FAST | options))


@pytest.mark.parametrize("kind", ["spectral", "melgan"])
def test_mels_vocoded_as_they_come_give_the_wave_of_the_whole(kind):
    if kind == "spectral":
        vocoder = SpectralVocoder(SpectralConfig(width=8, blocks=1, iterations=2)).eval()
    else:
        vocoder = MelGAN(MelGANConfig(channels=16)).eval()
    torch.manual_seed(0)
    mel = torch.randn(1, 1, 600, vocoder.config.mel.num_mels) - 5
    whole = vocoder(mel).detach()
    pieces = list(vocode_stream(vocoder, mel.split([150, 200, 250], 2)))
    joined = torch.cat(pieces, 1)
    hop, context = vocoder.config.mel.hop, vocoder.config.context
    assert joined.shape[1] == (600 - context) * hop
    torch.testing.assert_close(joined, whole[:, : joined.shape[1]], atol=1e-4, rtol=1e-3)


def test_overlapping_mels_are_blended(model):
    codec: Codec = model.codec
    mel = model.decode(model.noise(0, 8.0))
    count, overlap = mel.shape[2], 80
    windows = [mel[:, :, :400], mel[:, :, 320:]]  # of one mel, so that blending changes nothing
    joined = np.concatenate(list(codec.stream(windows, overlap)))
    whole = model.vocode(mel[:, :, : count - overlap])[0].numpy()
    length = min(len(joined), len(whole)) - 16_000
    np.testing.assert_allclose(joined[:length], whole[:length], atol=2e-3)
