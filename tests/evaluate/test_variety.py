import numpy as np
import pytest

from soundcrafter.audio import write_audio
from soundcrafter.evaluate.variety import (
    Fingerprints,
    copies,
    fingerprints,
    variety,
    variety_report,
)
from soundcrafter.store import open_folder


def unit(*rows):
    found = np.array(rows, dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_variety_by_hand():
    clap = unit([1, 0], [0, 1], [1, 0], [1, 0], [1, 1])
    found = variety(clap, ["rain", "rain", "wind", "wind", "lonely"])
    assert found == pytest.approx({"rain": 1.0, "wind": 0.0}, abs=1e-6)


def test_a_copy_is_near_in_both():
    rng = np.random.default_rng(0)

    def random(count):
        mel = rng.standard_normal((count, 50)).astype(np.float32)
        return Fingerprints(unit(*rng.standard_normal((count, 16))), mel)

    train, test = random(200), random(100)
    fresh = random(100)
    assert copies(fresh, test, train)["share"] <= 0.05
    copied = Fingerprints(
        np.concatenate([fresh.clap[:60], train.clap[:40]]),
        np.concatenate([fresh.mel[:60], train.mel[:20] + 0.01, fresh.mel[60:80]]),
    )
    found = copies(copied, test, train)  # 20 copied in both, 20 in CLAP alone
    assert found["share"] == pytest.approx(0.2, abs=0.02)
    assert found["below"]["clap"] == pytest.approx(0.4, abs=0.05)


def test_fingerprints_forget_the_level_and_what_comes_late(tiny_model):
    audio = open_folder(tiny_model).load("clap_audio").eval()
    rng = np.random.default_rng(0)
    wave = rng.standard_normal(16_000).astype(np.float32) * 0.1
    wave -= wave.mean()  # levelling takes a constant part away
    late = np.concatenate([wave, np.zeros(80_000, np.float32)])
    found = fingerprints(audio, [wave, wave * 0.3, late])
    np.testing.assert_allclose(found.clap[1], found.clap[0], atol=1e-4)
    np.testing.assert_allclose(found.mel[2], found.mel[0], atol=1e-3)


def test_a_model_that_plays_its_training_back_is_caught(tiny_model, tmp_path):
    audio = open_folder(tiny_model).load("clap_audio").eval()
    rng = np.random.default_rng(1)
    rows = ["file,family,split,seconds"]
    for number in range(20):
        wave = rng.standard_normal(8_000) * np.exp(-np.arange(8_000) / rng.uniform(500, 9_000))
        write_audio(tmp_path / f"{number}.wav", wave.astype(np.float32) * 0.2, 16_000)
        rows.append(f"{number}.wav,rain,{'train' if number < 10 else 'test'},.5")
    (tmp_path / "sounds.csv").write_text("\n".join(rows) + "\n")
    played = [tmp_path / f"{number}.wav" for number in range(5)]
    report = variety_report(audio, played, ["rain"] * 5, tmp_path, "test")
    assert report["copies"]["share"] == 1.0
    assert report["variety"]["generated"] > 0
    assert variety_report(audio, played, ["wind"] * 5, tmp_path, "test") == {}
