import numpy as np
import pytest

from soundcrafter.audio import write_audio
from soundcrafter.evaluate.embedding import Embedding
from soundcrafter.evaluate.embedding import embed


class Counting:
    """Hears the level, and counts how often it is asked."""

    name, sample_rate, classes = "counting", 16_000, ()

    def __init__(self, sha256="0" * 64, probabilities=None):
        self.sha256, self.probabilities, self.calls = sha256, probabilities, 0

    def __call__(self, wave, sample_rate):
        self.calls += 1
        return Embedding(np.array([[wave.std(), sample_rate]], np.float32), self.probabilities)


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    found = [tmp_path / f"{number}.wav" for number in range(3)]
    for file in found:
        write_audio(file, rng.standard_normal(800).astype(np.float32) * 0.1, 16_000)
    return found


@pytest.mark.parametrize("probabilities", [None, np.array([0.25, 0.75], np.float32)])
def test_a_sound_is_embedded_once(files, tmp_path, probabilities):
    embedder, kept = Counting(probabilities=probabilities), tmp_path / "kept"
    fresh = embed(embedder, files)
    first, again = (embed(embedder, files, kept=kept) for _ in range(2))
    assert embedder.calls == 6
    for found in (first, again):
        np.testing.assert_array_equal(found.features, fresh.features)
        assert found.features.dtype == np.float32
        if probabilities is None:
            assert found.probabilities is None
        else:
            np.testing.assert_array_equal(found.probabilities, [probabilities] * 3)


def test_other_content_and_other_weights_are_embedded_anew(files, tmp_path):
    embedder, kept = Counting(), tmp_path / "kept"
    embed(embedder, files, kept=kept)
    write_audio(files[1], np.full(800, 0.5, np.float32), 16_000)
    assert embed(embedder, files, kept=kept).rows[1][0, 0] == pytest.approx(0.0, abs=1e-6)
    assert embedder.calls == 4
    other = Counting("1" * 64)
    embed(other, files, kept=kept)
    assert other.calls == 3


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.wav: no such file"):
        embed(Counting(), [tmp_path / "gone.wav"], kept=tmp_path)
