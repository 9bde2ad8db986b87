import itertools
import json
import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from soundcrafter import cli
from soundcrafter.audio import read_audio, resample, write_audio
from soundcrafter.data.captions import normalize_caption
from soundcrafter.data.manifest import read_manifest
from soundcrafter.evaluate.metrics import retrieval
from soundcrafter.evaluate.retrieval import (
    embed_clips,
    evaluate_retrieval,
    read_clips,
    retrieval_both_ways,
)
from soundcrafter.hub import find_model
from soundcrafter.models.clap import Clap
from soundcrafter.models.clap_audio import ClapAudio, ClapAudioConfig
from soundcrafter.store import open_folder, save_part


def values(similarity, relevant) -> dict[str, float]:
    found = retrieval(np.array(similarity), np.array(relevant, dtype=bool))
    return {name: value for name, (value, _) in found.items()}


def chance(similarity, relevant) -> dict[str, float]:
    found = retrieval(np.array(similarity), np.array(relevant, dtype=bool))
    return {name: by_chance for name, (_, by_chance) in found.items()}


def drawn(queries: int, candidates: int, seed: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct positive scores, and 1 to `most` hits a query."""
    rng = np.random.default_rng(seed)
    similarity = rng.permutation(queries * candidates).reshape(queries, candidates) + 1.0
    relevant = np.zeros(similarity.shape, dtype=bool)
    for row in relevant:
        row[rng.choice(candidates, rng.integers(1, most + 1), replace=False)] = True
    return similarity / similarity.max(), relevant


class TestFigures:
    def test_by_hand(self):
        # the first hits stand at 1, 3 and 6
        similarity = [
            [0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
            [0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
            [0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
        ]
        relevant = [[1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]]
        found = values(similarity, relevant)
        assert found["r1"] == pytest.approx(1 / 3)
        assert found["r5"] == pytest.approx(2 / 3)
        assert found["r10"] == 1.0
        assert found["median_rank"] == 3.0
        assert found["map10"] == pytest.approx((1 + (1 / 3 + 2 / 4) / 2 + 1 / 6) / 3)

    def test_more_hits_than_ten(self):
        # of 12 hits the first 10 places hold 9: place 2 is wrong
        relevant = np.ones((1, 13), dtype=bool)
        relevant[0, 1] = False
        precision = [1.0, *((k - 1) / k for k in range(3, 11))]
        found = values(-np.arange(13.0)[None], relevant)
        assert found["map10"] == pytest.approx(sum(precision) / 10)

    def test_a_tie_is_no_hit_by_luck(self):
        # one score for all: the hit comes last, wherever it stands
        for place in range(12):
            relevant = np.arange(12)[None] == place
            found = values(np.zeros((1, 12)), relevant)
            assert (found["r10"], found["map10"], found["median_rank"]) == (0.0, 0.0, 12.0)
        # behind the wrong ones of its own score only; hits of one score stand one after another
        scores = [[0.9, 0.5, 0.5, 0.5, 0.1]]
        assert values(scores, [[0, 1, 0, 0, 0]])["median_rank"] == 4.0
        assert values(scores, [[0, 1, 1, 0, 0]])["median_rank"] == 3.0
        assert values(scores, [[0, 1, 1, 0, 0]])["map10"] == pytest.approx((1 / 3 + 2 / 4) / 2)

    @given(st.integers(1, 6), st.integers(1, 15), st.integers(0, 99))
    def test_hits_equal_torchmetrics(self, queries, candidates, seed):
        from torchmetrics.retrieval import RetrievalHitRate

        similarity, relevant = drawn(queries, candidates, seed, candidates)
        flat = [torch.from_numpy(part.reshape(-1)) for part in (similarity, relevant)]
        index = torch.arange(queries).repeat_interleave(candidates)
        found = values(similarity, relevant)
        for k in (1, 5, 10):
            trusted = RetrievalHitRate(top_k=k)(*flat, indexes=index)
            assert found[f"r{k}"] == pytest.approx(float(trusted))

    @pytest.mark.parametrize(("candidates", "most"), [(30, 1), (10, 10), (4, 4)])
    def test_average_precision_equals_torchmetrics(self, candidates, most):
        # where they mean the same: with hits beyond the first 10, torchmetrics divides by those
        # within alone, which calls one hit of many in the first place perfect
        from torchmetrics.retrieval import RetrievalMAP

        similarity, relevant = drawn(20, candidates, 0, most)
        flat = [torch.from_numpy(part.reshape(-1)) for part in (similarity, relevant)]
        index = torch.arange(20).repeat_interleave(candidates)
        trusted = RetrievalMAP(top_k=10)(*flat, indexes=index)
        assert values(similarity, relevant)["map10"] == pytest.approx(float(trusted))

    @pytest.mark.parametrize(
        ("similarity", "relevant", "words"),
        [
            (np.ones((2, 3)), np.ones((3, 2), dtype=bool), "expected bool"),
            (np.ones((2, 3)), np.ones((2, 3)), "expected bool"),
            (np.ones((2, 3)), np.arange(6).reshape(2, 3) < 3, "query 1 has no hit"),
            (np.full((2, 3), np.nan), np.ones((2, 3), dtype=bool), "NaN"),
            (np.ones((0, 3)), np.ones((0, 3), dtype=bool), "expected"),
        ],
    )
    def test_what_cannot_be_measured(self, similarity, relevant, words):
        with pytest.raises(ValueError, match=words):
            retrieval(similarity, relevant)


class TestChance:
    @pytest.mark.parametrize("hits", [(1,), (3,), (1, 1, 4), (6,)])
    def test_is_the_mean_of_every_order(self, hits):
        relevant = np.array([np.arange(6) < count for count in hits])
        orders = np.array(list(itertools.permutations(range(6))), dtype=float)
        all_figures = values(np.tile(orders, (len(hits), 1)), relevant.repeat(len(orders), axis=0))
        found = chance(np.zeros(relevant.shape), relevant)
        for name in ("r1", "r5", "r10", "map10"):
            assert found[name] == pytest.approx(all_figures[name]), name
        # the median of all orders, where it lies between two ranks the lower one
        assert 0 <= all_figures["median_rank"] - found["median_rank"] < 1

    def test_is_what_random_scores_come_to(self):
        _, relevant = drawn(40, 50, 0, 15)
        rng = np.random.default_rng(0)
        many = values(rng.standard_normal((40 * 500, 50)), np.tile(relevant, (500, 1)))
        for name, expected in chance(np.zeros((40, 50)), relevant).items():
            assert many[name] == pytest.approx(expected, rel=0.03), name

    def test_one_hit_by_hand(self):
        found = chance(np.zeros((7, 100)), np.arange(100)[None].repeat(7, 0) == 3)
        assert [found[name] for name in ("r1", "r5", "r10")] == pytest.approx([0.01, 0.05, 0.1])
        assert found["map10"] == pytest.approx(sum(1 / k for k in range(1, 11)) / 100)
        assert found["median_rank"] == 50.0

    def test_one_candidate(self):
        assert set(chance([[0.3]], [[1]]).values()) == {1.0}


def test_a_model_that_says_one_thing_finds_nothing():
    rng = np.random.default_rng(0)
    one = rng.standard_normal(512)
    # equal but for the rounding of float32
    rows = np.tile(one / np.linalg.norm(one), (30, 1)) + rng.uniform(-1, 1, (30, 512)) * 1e-9
    found = retrieval_both_ways(rows.astype(np.float32), rows.astype(np.float32), np.eye(30) > 0)
    for direction in found.values():
        assert direction["r10"]["value"] == 0.0
        assert direction["median_rank"] == {"value": 30.0, "chance": 15.0}


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory):
    """The bundled model's CLAP and nothing else, as after `soundcrafter train clap`."""
    bundled = open_folder(find_model(None))
    folder = tmp_path_factory.mktemp("clap") / "model"
    audio, text = bundled.parts["clap_audio"], bundled.parts["clap_text"]
    audio_id = save_part(folder, "clap_audio", bundled.load("clap_audio"), audio.config)
    save_part(
        folder,
        "clap_text",
        bundled.load("clap_text"),
        text.config,
        trained_against={"clap_audio": audio_id},
        tokenizer=bundled.load_tokenizer(),
    )
    return folder


@pytest.fixture
def table(clips, tmp_path):
    """Writes a manifest of rows (file, caption) beside the six clips, and gives its folder."""
    folder = tmp_path / "data"
    shutil.copytree(clips, folder)

    def write(rows):
        lines = ["file,caption,split", *(f"{file},{caption},dev" for file, caption in rows)]
        (folder / "sounds.csv").write_text("\n".join(lines) + "\n")
        return folder

    return write


BELL, HORSE, DOG, ROTOR = (
    f"audio/{name}.ogg"
    for name in (
        "adafruit_0017",
        "antum_mod_sounds_0005",
        "antum_mod_sounds_0090",
        "antum_mod_sounds_0136",
    )
)


def test_clips_and_captions(table):
    data = table(
        [
            (DOG, "A dog barks"),
            (DOG, "the dog barks!"),  # the same caption
            (DOG, "woof woof"),
            (HORSE, "a horse"),
            (HORSE, ""),
            (HORSE, "It is"),
            ("absent.wav", "rain"),
        ]
    )
    found, skipped = read_clips(data, "dev")
    assert [(clip.name, clip.captions) for clip in found] == [
        (DOG, {"woof woof": "woof woof", "dog barks": "A dog barks"}),
        (HORSE, {"horse": "a horse"}),
    ]
    assert skipped == {
        HORSE: "its caption contains only stop words",
        "absent.wav": f"{data / 'absent.wav'}: no such file",
    }


def test_repeated_captions_and_several_of_a_clip(table, clap_folder, tmp_path):
    data = table(
        [
            (DOG, "A dog barks"),
            (DOG, "Woof woof"),
            (HORSE, "A horse whinnies"),
            (BELL, "A bell rings"),
            (ROTOR, "the bell rings."),  # said of two clips
            ("bad.wav", "silence"),
        ]
    )
    (data / "bad.wav").write_bytes(b"RIFF")
    calls = []
    report = evaluate_retrieval(
        open_folder(clap_folder),
        data,
        tmp_path / "out",
        split="dev",
        device="cpu",
        progress=lambda *done: calls.append(done),
    )
    assert (report["clips"], report["captions"], report["pairs"]) == (4, 4, 5)
    assert list(report["skipped"]) == ["bad.wav"]
    assert calls == [(k, 4) for k in range(1, 5)]
    asked, heard = report["text_to_audio"], report["audio_to_text"]
    assert (asked["queries"], asked["candidates"]) == (4, 4)
    # by chance 3 captions have one clip of 4, one has two; 3 clips have one caption, one has two
    assert asked["r1"]["chance"] == heard["r1"]["chance"] == pytest.approx(5 / 16)
    assert asked["r5"]["value"] == heard["r5"]["value"] == 1.0
    assert asked["r1"]["value"] >= 0.75
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert "| text to audio | 4 | 4 | R@1 | " in (tmp_path / "out" / "report.md").read_text()


def test_sounds_that_cannot_be_read_to_the_end_take_their_captions_along(
    table, clap_folder, tmp_path
):
    data = table([(DOG, "A dog barks"), (HORSE, "A horse"), ("nan.wav", "A gong")])
    soundfile.write(data / "nan.wav", np.full(8000, np.nan), 8000, subtype="FLOAT")
    folder = open_folder(clap_folder)
    report = evaluate_retrieval(folder, data, tmp_path / "out", split="dev", device="cpu")
    assert (report["clips"], report["captions"]) == (2, 2)
    assert "NaN" in report["skipped"]["nan.wav"]
    table([("nan.wav", "A gong")])
    with pytest.raises(ValueError, match=r"no readable recording with a caption \(1 skipped\)"):
        evaluate_retrieval(folder, data, tmp_path / "out", split="dev", device="cpu")


def test_rates_levels_and_stretches(table, clap_folder, tmp_path):
    """One sound at another rate, at another level, and as a stretch of a longer file."""
    data = table([])
    dog, horse = (read_audio(data / file, 32_000) for file in (DOG, HORSE))
    write_audio(data / "slow.wav", resample(dog, 32_000, 44_100) * 0.2, 44_100)
    write_audio(data / "both.wav", np.concatenate([horse, dog]), 32_000)
    start = len(horse) / 32_000
    rows = ["file,caption,split,start,seconds", f"{DOG},dog one,dev,,", "slow.wav,dog two,dev,,"]
    rows += [f"both.wav,dog three,dev,{start},", f"both.wav,horse,dev,0,{start}"]
    (data / "sounds.csv").write_text("\n".join(rows) + "\n")
    folder = open_folder(clap_folder)
    clap = Clap(folder.load("clap_audio"), folder.load("clap_text"), folder.load_tokenizer())
    audio, kept, skipped = embed_clips(clap, read_clips(data, "dev")[0])
    assert len(kept) == 4
    assert not skipped
    cosines = audio @ audio.T
    assert cosines[:3, :3].min() > 0.98
    assert cosines[:3, 3].max() < 0.9


class TestCommand:
    @pytest.fixture
    def run(self, monkeypatch, capfd):
        def call(*words):
            monkeypatch.setattr(sys, "argv", ["soundcrafter", "evaluate", *map(str, words)])
            capfd.readouterr()
            with pytest.raises(SystemExit) as stop:
                cli.main()
            return (stop.value.code, *capfd.readouterr())

        return call

    def test_a_folder_with_clap_alone(self, run, clips, clap_folder, tmp_path):
        out = tmp_path / "out"
        words = ("retrieval", clap_folder, "--data", clips, "--split", "train", "--out", out)
        code, printed, _ = run(*words, "--json")
        assert code == 0
        report = json.loads(printed)
        assert report == json.loads((out / "report.json").read_text())
        assert sorted(file.name for file in out.iterdir()) == ["report.json", "report.md"]
        assert report["clips"] == report["captions"] == 6
        # the bundled model learned these six clips
        assert report["text_to_audio"]["r1"]["value"] >= 0.8
        assert report["model"] == {
            name: entry.training_id for name, entry in open_folder(clap_folder).parts.items()
        }
        code, printed, _ = run(*words)
        assert code == 0
        assert printed.strip() == (out / "report.md").read_text().strip()

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ([], "Missing option '--data'"),
            (["--data", "CLIPS", "--reference", "x"], "No such option"),
            (["--data", "CLIPS", "--seed", "1"], "No such option"),
            (["absent", "--data", "CLIPS"], "absent: no such model folder"),
            (["MODEL", "--data", "absent"], "absent: no such file or folder"),
            (["MODEL", "--data", "CLIPS"], "no split 'test'; it has: train (6)"),
            (["MODEL", "--data", "CLIPS/audio"], "captions need one"),
        ],
    )
    def test_refusals(self, run, clips, clap_folder, tmp_path, words, said):
        names = {"CLIPS": str(clips), "MODEL": str(clap_folder)}
        for name, path in names.items():
            words = [word.replace(name, path) for word in words]
        code, out, err = run("retrieval", *words, "--out", tmp_path / "out")
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1
        assert said in err
        assert not (tmp_path / "out").exists()

    def test_a_folder_without_clap(self, run, clips, tmp_path):
        config = ClapAudioConfig(width=8, depths=(1,), embed_dim=8)
        save_part(tmp_path / "model", "clap_audio", ClapAudio(config), config)
        words = ("retrieval", tmp_path / "model", "--data", clips, "--split", "train")
        code, _, err = run(*words)
        assert code == 2
        assert "this model has no clap_text yet (it has: clap_audio)" in err


def test_the_whole_data_holds_repeated_captions(data_dir):
    found, skipped = read_clips(data_dir, "dev")
    assert not skipped
    assert len(found) == len(read_manifest(data_dir, split="dev").recordings)
    distinct = {normalize_caption(clip.recording.caption) for clip in found}
    assert len(distinct) == len({caption for clip in found for caption in clip.captions})
    assert len(distinct) < len(found)
