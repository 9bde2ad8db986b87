import json

import numpy as np
import pytest

from soundcrafter.audio import write_audio
from soundcrafter.evaluate import chain
from soundcrafter.evaluate.chain import evaluate_chain, resynthesise, summarise
from soundcrafter.evaluate.prompts import family_prompts
from soundcrafter.evaluate.tagger import Tagger
from soundcrafter.pipeline import SoundCrafter


@pytest.fixture(scope="module")
def model(tiny_model):
    return SoundCrafter.from_pretrained(tiny_model, "cpu")


@pytest.fixture
def recordings(tmp_path):
    """Three real-looking recordings of two families, one corrupt file, one unscored label."""
    rng = np.random.default_rng(0)
    rows = ["file,family,split,seconds"]
    for name, family, seconds in (
        ("a.wav", "rain", 1.0),
        ("b.wav", "rain", 0.05),
        ("c.wav", "dog bark", 0.5),
        ("d.wav", "kazoo", 0.5),
    ):
        wave = rng.standard_normal(int(16_000 * seconds)).astype(np.float32) * 0.1
        write_audio(tmp_path / name, wave, 16_000)
        rows.append(f"{name},{family},test,{seconds}")
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    (tmp_path / "sounds.csv").write_text("\n".join([*rows, "bad.wav,rain,test,1"]) + "\n")
    return tmp_path


def test_every_link_is_measured_and_a_kill_loses_nothing(model, recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(chain, "family_prompts", lambda: family_prompts()[:10])
    out = tmp_path / "out"
    report = evaluate_chain(model, recordings, out, seeds=1)
    counts = {link: found["n"] for link, found in report["links"].items()}
    assert counts == {"real": 3, "vocoder": 3, "griffin_lim": 3, "vae_vocoder": 3, "generated": 10}
    assert report["skipped"] == ["skipped/bad.wav@0"]
    assert report["tagger"] == Tagger.bundled().sha256
    assert (out / "chain.md").read_text().count("\n| ") > 50
    card = json.loads((out / "figures.json").read_text())
    assert card["taken for their family by the tagger, test, vae vocoder"] == {
        key: report["links"]["vae_vocoder"][key]
        for key in ("accuracy", "of_real", "n", "families_at_zero")
        if report["links"]["vae_vocoder"][key] is not None
    }
    lines = (out / "chain.jsonl").read_text().splitlines()
    (out / "chain.jsonl").write_text("\n".join(lines[:6]) + '\n{"key": "gener')
    assert evaluate_chain(model, recordings, out, seeds=1) == report
    assert json.loads((out / "chain.json").read_text()) == report
    with pytest.raises(ValueError, match="other settings"):
        evaluate_chain(model, recordings, out, seeds=2)


def test_data_without_scored_families(model, recordings, tmp_path):
    table = "file,family,split\nd.wav,kazoo,test\n"
    (recordings / "sounds.csv").write_text(table)
    with pytest.raises(ValueError, match="no recording of the tagger's 52 families"):
        evaluate_chain(model, recordings, tmp_path / "out")


@pytest.mark.parametrize("samples", [300, 1600, 16_001])
def test_resyntheses_keep_the_length(model, samples):
    wave = np.random.default_rng(0).standard_normal(samples).astype(np.float32) * 0.1
    found = resynthesise(model, wave)
    assert set(found) == {"vocoder", "griffin_lim", "vae_vocoder"}
    assert all(len(made) == samples and np.isfinite(made).all() for made in found.values())


def row(link, family, heard):
    return {"link": link, "key": f"{link}{family}{heard}", "family": family, "heard": heard}


def test_figures_by_hand():
    rows = [row("real", "a", "a"), row("real", "a", "b"), row("real", "b", "b")]
    rows += [row("generated", "a", "b"), row("generated", "b", "b"), row("real", "b", "b")]
    report = summarise(rows, ["b", "a"])
    assert report["links"]["real"]["accuracy"] == 0.75
    assert report["links"]["generated"]["of_real"] == pytest.approx(0.5 / 0.75)
    assert report["links"]["generated"]["families_at_zero"] == 1
    assert list(report["families"]) == ["a", "b"]  # the worst first
    assert report["families"]["a"]["real"] == [1, 2]


class TestTagger:
    def test_real_recordings_of_dev_are_recognised(self, data_dir):
        """As many as its card says, on a part of them."""
        from soundcrafter.audio import read_audio
        from soundcrafter.data.manifest import read_manifest

        tagger = Tagger.bundled()
        found = read_manifest(data_dir, split="dev", label_column="family").recordings
        found = [r for r in found if r.label in tagger.classes[:-1]][::3]
        hits = 0
        for recording in found:
            wave = read_audio(recording.file, 16_000, seconds=10.24)
            heard = tagger(wave, 16_000).probabilities.argmax()
            hits += tagger.classes[heard] == recording.label
        assert hits / len(found) > 0.65

    def test_level_and_padding_do_not_matter(self):
        tagger = Tagger.bundled()
        wave = np.random.default_rng(0).standard_normal(40_960).astype(np.float32) * 0.1
        wave -= wave.mean()
        found = tagger(wave, 16_000)
        assert found.features.shape[0] == 1
        assert found.probabilities.sum() == pytest.approx(1.0, abs=1e-5)
        quiet = tagger(wave * 0.01, 16_000).probabilities
        np.testing.assert_allclose(quiet, found.probabilities, atol=1e-3)
        padded = np.concatenate([wave, np.zeros(81_920, np.float32)])
        heard = [embedding.probabilities.argmax() for embedding in (found, tagger(padded, 16_000))]
        assert heard[0] == heard[1]

    def test_odd_input(self):
        tagger = Tagger.bundled()
        for wave in (np.zeros(5), np.ones(3), np.zeros(100_000)):
            assert np.isfinite(tagger(wave, 16_000).probabilities).all()
        for wave in (np.zeros(0), np.zeros((2, 9)), np.full(9, np.nan)):
            with pytest.raises(ValueError, match="expected finite samples"):
                tagger(wave, 16_000)

    def test_size_and_classes(self):
        from importlib import resources
        from pathlib import Path

        folder = Path(str(resources.files("soundcrafter"))) / "assets" / "tagger"
        assert sum(file.stat().st_size for file in folder.iterdir()) < 4e6
        assert len(Tagger.bundled().classes) == 53
        assert Tagger.bundled().sha256[:16] in (folder / "README.md").read_text()
