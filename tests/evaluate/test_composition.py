import io
import json
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from soundcrafter.audio import fit_length, read_audio, write_audio
from soundcrafter.cli import main
from soundcrafter.data.manifest import read_manifest
from soundcrafter.evaluate.composition import evaluate_composition
from soundcrafter.evaluate.composition_report import composition_markdown, summarise
from soundcrafter.evaluate.mixing import GAP, at_once, in_order
from soundcrafter.evaluate.presence import (
    DECIBELS_PER_NAT,
    level_balance,
    level_rises,
    onset,
    presence_thresholds,
    source_onsets,
    source_scores,
)
from soundcrafter.evaluate.prompt_sets import composition_prompts
from soundcrafter.evaluate.tagger_embedder import TaggerEmbedder
from soundcrafter.files import write_csv
from soundcrafter.pipeline import SoundCrafter

RATE = 16_000


@pytest.fixture(scope="module")
def model(tiny_model):
    return SoundCrafter.from_pretrained(tiny_model, "cpu")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Noises that pass for the families of the first pairs, in test and in dev; one is corrupt."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    families = {f for s in (*_pair("overlap"), *_pair("order")) for f in (s.first, s.second)}
    rows = ["file,family,split,seconds"]
    for number, family in enumerate(sorted(families) * 9):
        name, split = f"{number}.wav", "test" if number < len(families) else "dev"
        write_audio(folder / name, noise(rng, 0.5), RATE)
        rows.append(f"{name},{family},{split},0.5")
    (folder / "bad.wav").write_bytes(b"RIFF")
    rows += [f"bad.wav,{family},test,1" for family in families]
    (folder / "sounds.csv").write_text("\n".join(rows) + "\n")
    return folder


def _pair(kind):
    return [scene for scene in composition_prompts() if scene.kind == kind][:1]


def noise(rng, seconds, level=0.1):
    return (rng.standard_normal(round(seconds * RATE)) * level).astype(np.float32)


def rms(wave):
    return float(np.sqrt(np.square(wave).mean()))


class TestMixing:
    def test_layers_at_once_are_equally_loud_and_last(self):
        rng = np.random.default_rng(0)
        first, second = at_once(noise(rng, 1.0, 0.01), noise(rng, 30.0, 0.3), RATE, 4.0)
        assert len(first) == len(second) == 4 * RATE
        assert rms(first) == pytest.approx(rms(second), rel=1e-3)
        np.testing.assert_array_equal(first[:RATE], first[RATE : 2 * RATE])  # it starts again

    def test_pauses_do_not_make_a_sound_louder(self):
        rng = np.random.default_rng(0)
        steady = noise(rng, 2.0)
        first, second = at_once(steady, fit_length(steady[:RATE], 2 * RATE), RATE, 2.0)
        assert rms(first) == pytest.approx(rms(second[:RATE]), rel=0.02)

    def test_events_in_order_begin_when_they_are_said_to(self):
        rng = np.random.default_rng(0)
        quiet = np.zeros(RATE, np.float32)
        event = np.concatenate([quiet, noise(rng, 1.0), quiet])
        first, second, starts = in_order(event, noise(rng, 9.0), RATE, 6.0)
        assert starts == pytest.approx((GAP, 2 * GAP + 1.0), abs=0.05)
        assert len(first) == len(second) == 6 * RATE
        for layer, start in zip((first, second), starts, strict=True):
            assert np.flatnonzero(layer)[0] == pytest.approx(start * RATE, abs=2)
        assert not (first * second).any()
        assert np.count_nonzero(second) <= (6.0 - 2 * GAP) / 2 * RATE  # at most half of the time

    def test_silence_stays_silent(self):
        silent = np.zeros(RATE, np.float32)
        assert not any(layer.any() for layer in at_once(silent, silent, RATE, 2.0))
        first, second, _ = in_order(silent, silent, RATE, 2.0)
        assert not first.any()
        assert not second.any()


class TestPresence:
    def test_a_twentieth_of_the_others_passes_a_threshold(self):
        rows = np.arange(200.0)
        scores = np.stack([rows, -rows], axis=1)
        classes = (rows < 100).astype(int)  # the first hundred are the second family's
        found = presence_thresholds(scores, classes)
        assert (scores[classes == 1, 0] > found[0]).sum() == 5
        assert (scores[classes == 0, 1] > found[1]).sum() == 5
        with pytest.raises(ValueError, match="got 19 recordings of other families; at least 20"):
            presence_thresholds(scores[81:], classes[81:])

    def test_balance(self):
        assert level_balance([2.0, -1.0]) == 3 * DECIBELS_PER_NAT
        assert level_balance([1.0, 1.0]) == 0

    def test_levels_rise_where_a_sound_begins(self):
        rng = np.random.default_rng(0)
        rises = level_rises(np.concatenate([noise(rng, 1.0, 0.001), noise(rng, 1.0)]), RATE)
        assert len(rises) == 200
        assert rises.argmax() == pytest.approx(95, abs=4)
        assert rises.max() == pytest.approx(40, abs=1.5)
        assert not level_rises(np.zeros(RATE), RATE).any()
        assert len(level_rises(np.ones(5), RATE)) == 1

    def test_an_onset_is_the_steepest_rise_of_the_first_window_that_hears_it(self):
        rises = np.zeros(1000)
        rises[[120, 300, 350, 700]] = 9.0, 5.0, 6.0, 20.0
        track = np.zeros(50)
        track[14:] = 0.1, *[0.5] * 35  # windows begin every .16 s: the one at 2.4 s hears it
        assert onset(track, rises) == pytest.approx(3.525)
        assert onset(np.zeros(50), rises) == pytest.approx(1.225)  # heard nowhere: the beginning
        assert onset(np.ones(3), np.zeros(2)) == pytest.approx(0.025)

    def test_windows_of_the_tagger(self):
        tagger = TaggerEmbedder.bundled()
        wave = noise(np.random.default_rng(0), 5.12)
        wave[40_960 - 20_480 :] *= 1e-3  # only the first window holds sound
        found = tagger.log_probabilities(wave, RATE)
        assert found.shape == (3, 53)
        np.testing.assert_allclose(np.exp(found).sum(1), [1, 0, 0], atol=1e-5)
        alone = tagger(wave[:40_960], RATE).probabilities
        np.testing.assert_allclose(np.exp(found[0]), alone, atol=1e-3)
        assert tagger.log_probabilities(wave, RATE, seconds=1.28, hop=0.64).shape == (7, 53)
        assert np.isfinite(source_scores(tagger, np.zeros(9), RATE)).all()
        for seconds, hop in ((0.0, 1.0), (3.0, 1.0), (1.0, 0.0)):
            with pytest.raises(ValueError, match="seconds, hop: got"):
                tagger.log_probabilities(wave, RATE, seconds=seconds, hop=hop)


class TestOnRecordings:
    """What the measures are worth on real recordings of dev, whose truth is known."""

    @pytest.fixture(scope="class")
    def pairs(self, data_dir):
        manifest = read_manifest(data_dir, split="dev", label_column="family")
        rng, waves = np.random.default_rng(0), {}
        for recording in manifest.recordings:
            waves.setdefault(recording.label, []).append(recording.file)

        def read(family):
            return read_audio(waves[family][rng.integers(len(waves[family]))], RATE, seconds=10.0)

        def draw(kind):
            scenes = [s for s in composition_prompts() if s.kind == kind]
            scenes = [s for s in scenes if {s.first, s.second} <= set(waves)]
            return [(s, read(s.first), read(s.second)) for s in scenes]

        return draw

    def test_balance_follows_the_levels_of_a_mix(self, pairs):
        tagger, truth, found = TaggerEmbedder.bundled(), [], []
        for number, (scene, *waves) in enumerate(pairs("overlap")):
            layers = at_once(*waves, RATE, 5.12)
            truth.append((-12, -6, 0, 6, 12)[number % 5])
            mix = layers[0] * 10 ** (truth[-1] / 20) + layers[1]
            scores = source_scores(tagger, mix, RATE)
            found.append(level_balance([scores[tagger.classes.index(f)] for f in _families(scene)]))
        assert np.corrcoef(truth, found)[0, 1] > 0.5
        assert np.abs(np.subtract(truth, found)).mean() < 9

    def test_onsets_say_the_order_of_a_sequence(self, pairs):
        tagger, right, errors = TaggerEmbedder.bundled(), [], []
        for scene, *waves in pairs("order")[::4]:
            first, second, starts = in_order(*waves, RATE, 10.0)
            places = [tagger.classes.index(family) for family in _families(scene)]
            found = source_onsets(tagger, first + second, RATE, places)
            right.append(found[0] < found[1])
            errors += np.abs(np.subtract(found, starts)).tolist()
        assert np.mean(right) > 0.75
        assert np.median(errors) < 0.1

    @pytest.mark.slow
    def test_the_first_pairs(self, model, data_dir, tmp_path):
        dev, test = (
            read_manifest(data_dir, split=split, label_column="family").recordings
            for split in ("dev", "test")
        )
        dev = dev[::3]  # the thresholds come from every recording of dev
        rows = [
            (r.file.resolve(), r.label, r.caption, split, r.seconds)
            for split, recordings in (("dev", dev), ("test", test))
            for r in recordings
        ]
        columns = ("file", "family", "caption", "split", "seconds")
        write_csv(tmp_path / "sounds.csv", columns, rows)
        report = evaluate_composition(model, tmp_path, tmp_path / "out", limit=2)
        families = TaggerEmbedder.bundled().classes[:-1]
        assert report["threshold_recordings"] == sum(r.label in families for r in dev)
        assert report["overlap"]["real"]["both"]["n"] == 2
        assert report["order"]["real"]["both"]["n"] == 4
        assert report["order"]["apart"]["both"]["share"] > 0.5


def _families(scene):
    return scene.first, scene.second


def command(recordings, out, split):
    words = ["evaluate", "composition", "--data", str(recordings), "--limit", "1", "--json"]
    return [*words, "--out", str(out), "--split", split]


@pytest.fixture(scope="module")
def measured(tiny_model, recordings, tmp_path_factory):
    """What the command prints of dev, and its folder."""
    out, printed = tmp_path_factory.mktemp("measured") / "out", io.StringIO()
    words = ["soundcrafter", *command(recordings, out, "dev"), str(tiny_model)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            main()
    assert end.value.code == 0
    return json.loads(printed.getvalue()), out


def test_the_suite_and_a_kill_loses_nothing(model, measured, recordings, tmp_path):
    report, measured_in = measured
    out, steps = Path(shutil.copytree(measured_in, tmp_path / "out")), []
    assert report["split"] == "dev"
    counts = {
        kind: {name: found["both"]["n"] for name, found in report[kind].items()}
        for kind in ("overlap", "order")
    }
    made = ("apart", "real", "singles", "composed", "timeline", "prompt")
    assert counts["overlap"] == dict.fromkeys(made, 1) | {"alone": 2}
    assert counts["order"] == dict.fromkeys(made, 2) | {"alone": 4, "reversed": 1}
    assert json.loads((out / "composition.json").read_text()) == report
    assert (out / "composition.md").read_text() == composition_markdown(report)
    files = sorted(file.relative_to(out).as_posix() for file in out.rglob("*.wav"))
    assert len(files) == 5 * 3 + 4
    assert "generated/0/prompt/order-01-reversed.wav" in files
    assert len(read_audio(out / files[0], model.sample_rate)) == 10 * model.sample_rate
    lines = (out / "composition.jsonl").read_text().splitlines()
    (out / "composition.jsonl").write_text("\n".join(lines[:14]) + '\n{"key": "pro')
    (out / "generated/0/prompt/order-01.wav").unlink()
    again = {"limit": 1, "split": "dev", "progress": lambda *step: steps.append(step)}
    assert evaluate_composition(model, recordings, out, **again) == report
    assert steps == [(n, 17) for n in range(1, 18)]
    with pytest.raises(ValueError, match="other settings"):
        evaluate_composition(model, recordings, out, **again, seed=1)


def test_a_scene_and_its_reversal_are_made_of_the_same_recordings(measured):
    rows = {row["key"]: row for row in measured[0]["sounds"]}
    starts = [rows[f"real/0/{name}"]["starts"] for name in ("order-01", "order-01-reversed")]
    assert starts[0][0] == starts[1][0]


def test_what_is_not_possible_is_said(model, recordings, tmp_path):
    with pytest.raises(ValueError, match="limit: got 0; at least 1"):
        evaluate_composition(model, recordings, tmp_path, limit=0)
    with pytest.raises(ValueError, match="seeds, seed: got 0, 0"):
        evaluate_composition(model, recordings, tmp_path, seeds=0)
    with pytest.raises(ValueError, match=r"no recording of .* in test"):
        evaluate_composition(model, recordings, tmp_path, limit=2)


def row(baseline, kind, name, margins, **more):
    head = {"key": f"{baseline}/0/{name}", "baseline": baseline, "kind": kind, "name": name}
    return {**head, "seed": 0, "margins": margins, **more}


def test_figures_by_hand():
    rows = [
        {"key": "thresholds", "values": [0.0], "n": 7},
        row("prompt", "overlap", "a", [1.0, 0.5]),
        row("prompt", "overlap", "b", [3.0, -1.0]),
        row("prompt", "overlap", "c", [-1.0, 1.0]),
        row("apart", "overlap", "a", [1.0, 1.0]),
        row("first alone", "overlap", "a", [1.0, -1.0]),
        row("second alone", "overlap", "a", [0.1, 1.0]),
        row("prompt", "order", "d", [1.0, 1.0], onsets=[1.0, 2.0]),
        row("prompt", "order", "d-reversed", [1.0, 1.0], onsets=[3.0, 0.5]),
        row("prompt", "order", "e", [1.0, -1.0], onsets=[1.0, 2.0]),
        row("real", "order", "d", [1.0, 2.0], onsets=[1.0, 2.0], starts=[0.9, 2.5]),
    ]
    report = summarise(rows)
    plain = report["overlap"]["prompt"]
    assert plain["both"]["share"] == pytest.approx(1 / 3)
    assert (plain["first"], plain["second"]) == pytest.approx((2 / 3, 2 / 3))
    assert plain["balance"] == pytest.approx(-2.0 * DECIBELS_PER_NAT)  # of .5, 4 and 2 nats
    assert "balance" not in report["overlap"]["apart"]
    assert report["overlap"]["alone"]["both"]["share"] == 0.5
    assert report["overlap"]["alone"]["both"]["n"] == 2
    order = report["order"]["prompt"]
    assert (order["order"]["share"], order["order"]["n"]) == (0.5, 2)
    assert order["both_in_order"]["share"] == pytest.approx(1 / 3)
    assert order["onsets"] == [2.0, 1.25]
    assert order["onset_error"] is None
    # of the reversed one the second source came first, as the plain prompt has it
    assert report["order"]["reversed"]["order"] == report["order"]["real"]["order"]
    assert report["order"]["real"]["onset_error"] == pytest.approx(0.3)
    assert report["threshold_recordings"] == 7
    assert report["sounds"][0]["margins"] == [3.0, -1.0]
    text = composition_markdown({"tagger": "f", "split": "test", "seed": 0, "seeds": 1, **report})
    assert "| the plain prompt | 0.333 | 0.061 to 0.792 | 3 | -5.0 |" in text
    assert "| 2.00 and 1.25 | - |" in text


def test_the_command_needs_a_split_that_is_there(run, tiny_model, recordings, tmp_path):
    refused = run(*command(recordings, tmp_path, "train"), tiny_model).refused()
    assert "no split 'train'; it has: test (" in refused
