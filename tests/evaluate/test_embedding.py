import numpy as np
import pytest

from soundcrafter.audio import write_audio
from soundcrafter.evaluate import embedding
from soundcrafter.evaluate.embedding import Embedding, collect, embed_files


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


def embed(embedder, files, **options):
    found, _ = embed_files([embedder], files, **options)
    return collect([embedder], found.values())[0]


@pytest.mark.parametrize("probabilities", [None, np.array([0.25, 0.75], np.float32)])
def test_a_sound_is_embedded_once(files, tmp_path, probabilities):
    embedder, kept = Counting(probabilities=probabilities), tmp_path / "kept"
    fresh = embed(embedder, files)
    first, again = (embed(embedder, files, cache=kept) for _ in range(2))
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
    embed(embedder, files, cache=kept)
    write_audio(files[1], np.full(800, 0.5, np.float32), 16_000)
    assert embed(embedder, files, cache=kept).rows[1][0, 0] == pytest.approx(0.0, abs=1e-6)
    assert embedder.calls == 4
    other = Counting("1" * 64)
    embed(other, files, cache=kept)
    assert other.calls == 3


def test_a_missing_file_is_named(tmp_path):
    gone = tmp_path / "gone.wav"
    found, unreadable = embed_files([Counting()], [gone], cache=tmp_path)
    assert (found, unreadable) == ({}, {gone: f"{gone}: no such file"})


def test_a_file_is_read_and_hashed_once_for_all_embedders(files, tmp_path, monkeypatch):
    calls = []
    for name in ("read_audio", "file_sha256"):
        whole = getattr(embedding, name)

        def count(*arguments, name=name, whole=whole):
            calls.append(name)
            return whole(*arguments)

        monkeypatch.setattr(embedding, name, count)
    embedders = [Counting(), Counting("1" * 64), Counting("2" * 64)]
    found, _ = embed_files(embedders, files, cache=tmp_path / "kept")
    assert [len(of_file) for of_file in found.values()] == [3, 3, 3]
    assert sorted(calls) == ["file_sha256"] * 3 + ["read_audio"] * 3
    embed_files(embedders, files, cache=tmp_path / "kept")
    assert calls.count("read_audio") == 3


def test_files_that_cannot_be_read_are_reported(files, tmp_path):
    files[1].write_bytes(b"RIFF")
    found, unreadable = embed_files([Counting()], files)
    assert (list(found), list(unreadable)) == ([files[0], files[2]], [files[1]])
