import json
import shutil
import sys

import numpy as np
import pytest

from soundcrafter.audio import read_audio, write_audio
from soundcrafter.cli import main
from soundcrafter.data.manifest import read_manifest
from soundcrafter.evaluate.compare import compare_markdown
from soundcrafter.evaluate.embedders import open_embedder
from soundcrafter.evaluate.embedding import Embedding
from soundcrafter.evaluate.generate import generate_prompts
from soundcrafter.evaluate.prompt_sets import Prompt, caption_prompts
from soundcrafter.evaluate.run import evaluate_folders
from soundcrafter.evaluate.sound_files import find_sounds
from soundcrafter.pipeline import SoundCrafter


class Statistics:
    """A stand-in that hears level and brightness."""

    name, sample_rate, sha256, classes = "statistics", 16_000, "0" * 64, ("low", "high")

    def __call__(self, wave, sample_rate):
        spectrum = np.abs(np.fft.rfft(wave[:4000]))
        bright = float(spectrum[400:].sum() / spectrum.sum())
        return Embedding(
            np.array([[wave.std(), bright]], np.float32), np.array([1 - bright, bright], np.float32)
        )


def fill(folder, count, seed=0, rate=16_000):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        wave = rng.standard_normal(8000).cumsum() * 0.002 * number + rng.standard_normal(8000) * 0.1
        write_audio(folder / f"{number:02d}.wav", (wave * 0.1).astype(np.float32), rate)
    return folder


@pytest.fixture
def sides(tmp_path):
    return fill(tmp_path / "made", 12, 1), fill(tmp_path / "real", 14, 2)


@pytest.fixture
def run(tmp_path):
    def call(sides, **options):
        sounds = [find_sounds(side) for side in sides]
        return evaluate_folders(*sounds, [Statistics()], tmp_path / "report", **options)

    return call


def test_the_report_says_what_was_measured(run, sides):
    (sides[0] / "bad.wav").write_bytes(b"RIFF")
    report = run(sides, splits=4)
    assert (report["generated"], report["reference"], report["pairs"]) == (12, 14, 12)
    assert list(report["skipped"]["generated"]) == ["bad.wav"]
    found = report["embedders"][0]
    assert found["floor"]["n"] == 7
    assert found["is"]["splits"] == 4
    assert found["is"]["n_over_splits"] == 3
    assert 0 <= found["fd"] < 1
    table = compare_markdown(report)
    for word in ("statistics", "000000000000", "16000", "soxr HQ", "seed 0", "(7)"):
        assert word in table


def test_values_that_are_missing_are_a_dash_and_rates_may_be_mixed(run, tmp_path):
    sides = fill(tmp_path / "one", 1), fill(tmp_path / "real", 6)
    report = run(sides)
    report["sample_rates"]["reference"] = None
    report["embedders"][0].pop("is")
    table = compare_markdown(report)
    assert "generated 1 (16000 Hz), reference 6 (mixed rates)" in table
    cells = [cell.strip() for cell in table.splitlines()[-1][1:-1].split("|")]
    assert cells[3:8] == ["-"] * 5


def test_equal_folders_and_a_shuffle_of_names(run, tmp_path):
    real = fill(tmp_path / "real", 10)
    same = run((real, real))["embedders"][0]
    assert same["fd"] == pytest.approx(0.0, abs=1e-9)
    assert same["kl"] == {"mean": 0.0, "pairs": 10}
    shuffled = tmp_path / "shuffled"
    shuffled.mkdir()
    for number in range(10):
        shutil.copy(real / f"{number:02d}.wav", shuffled / f"{(number + 5) % 10:02d}.wav")
    other = run((shuffled, real))["embedders"][0]
    assert other["fd"] == pytest.approx(same["fd"], abs=1e-9)
    assert other["kl"]["mean"] > 1e-3


def test_names_without_partner(run, sides):
    with pytest.raises(ValueError, match=r"sounds without a partner: 2, the first: 12"):
        run(sides, paired=True)
    with pytest.raises(ValueError, match="splits: got 0; at least 1"):
        run(sides, splits=0)
    with pytest.raises(ValueError, match="seeds, seed: got 1, -1"):
        run(sides, seed=-1)
    for file in sides[0].glob("*.wav"):
        file.rename(file.with_name(f"x{file.name}"))
    assert "kl" not in run(sides)["embedders"][0]


def test_one_sound_has_no_distance(run, tmp_path):
    sides = fill(tmp_path / "one", 1), fill(tmp_path / "real", 6)
    found = run(sides)["embedders"][0]
    assert found["fd"] is None
    assert "two sounds" in found["reason"]


def test_a_file_that_cannot_be_decoded_is_skipped(run, sides):
    file = sides[0] / "03.wav"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("soundcrafter.evaluate.embedding.read_audio", fail_on(file))
        report = run(sides)
    assert report["generated"] == report["pairs"] == 11
    assert list(report["skipped"]["generated"]) == ["03.wav"]


def fail_on(broken):
    """`read_audio`, but one file is corrupt."""

    def read(file, rate):
        if file == broken:
            raise ValueError(f"{file}: cannot be decoded")
        return read_audio(file, rate)

    return read


def test_folders_that_cannot_be_read(sides, tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        find_sounds(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no readable sound"):
        find_sounds(tmp_path / "empty")
    write_audio(sides[0] / "other.wav", np.ones(9000, np.float32), 22_050)
    with pytest.raises(ValueError, match=r"mixed sample rates: 16000 Hz .*, 22050 Hz"):
        find_sounds(sides[0])
    assert find_sounds(sides[0], mixed_rates=True).sample_rate is None


def test_noise_moves_the_distance_of_the_shipped_tagger(data_dir):
    """Fixed halves A and B of equal N: the more noise in B, the farther."""
    from soundcrafter.audio import read_audio
    from soundcrafter.data.manifest import read_manifest
    from soundcrafter.evaluate.metrics import frechet_distance, kl_divergence

    tagger = open_embedder("tagger")
    recordings = read_manifest(data_dir, split="test").recordings
    order = np.random.default_rng(0).permutation(len(recordings))[:160]
    waves = [read_audio(recordings[place].file, 16_000, seconds=2.56) for place in order]
    half = len(waves) // 2
    first = [tagger(wave, 16_000) for wave in waves[:half]]
    real, distances = np.concatenate([embedding.features for embedding in first]), []
    for snr in (np.inf, 10, 0):
        noisy = []
        for wave in waves[half : 2 * half]:
            noise = np.random.default_rng(1).standard_normal(len(wave)).astype(np.float32)
            level = np.sqrt(np.square(wave).mean()) * 10 ** (-snr / 20)
            noisy.append(tagger(wave + noise * level, 16_000).features)
        distances.append(frechet_distance(real, np.concatenate(noisy)))
    assert distances == sorted(distances)
    probabilities = np.stack([embedding.probabilities for embedding in first])
    shuffled = np.roll(probabilities, 1, axis=0)
    assert kl_divergence(probabilities, probabilities) == pytest.approx(0.0, abs=1e-6)
    assert kl_divergence(probabilities, shuffled) > 1.0
    assert frechet_distance(real, real[::-1]) == pytest.approx(0.0, abs=1e-6)


def test_a_shuffle_of_captions_lowers_the_clap_score(data_dir):
    from soundcrafter.audio import read_audio
    from soundcrafter.data.manifest import read_manifest
    from soundcrafter.evaluate.metrics import clap_score

    clap = open_embedder("clap")
    recordings = read_manifest(data_dir, split="dev").recordings[::4]
    texts = clap.embed_text([recording.caption for recording in recordings])
    waves = [read_audio(recording.file, 16_000, seconds=5.0) for recording in recordings]
    audio = np.concatenate([clap(wave, 16_000).features for wave in waves])
    assert clap_score(texts, audio) > clap_score(np.roll(texts, 7, axis=0), audio) + 0.1


class TestGenerate:
    def test_a_sound_that_is_there_is_kept(self, tiny_model, tmp_path):
        model = SoundCrafter.from_pretrained(tiny_model, "cpu")
        prompts = [Prompt(text, "") for text in ("rain", "a dog barks", "wind")]
        stems = generate_prompts(model, prompts, tmp_path, seeds=2)
        files = sorted(tmp_path.glob("*.wav"))
        assert [file.stem for file in files] == sorted(stems)
        before = {file: file.read_bytes() for file in files}
        files[1].unlink()
        generate_prompts(model, prompts, tmp_path, seeds=2)
        assert {file: file.read_bytes() for file in files} == before
        with pytest.raises(ValueError, match="differ in prompts"):
            generate_prompts(model, prompts[:2], tmp_path)


def call(monkeypatch, capsys, *words) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["soundcrafter", "evaluate", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


class TestCommand:
    def test_two_folders(self, sides, tmp_path, monkeypatch, capsys, tiny_model):
        words = ["folders", sides[0], "--reference", sides[1], "--out", tmp_path / "out"]
        words += ["--checkpoint", f"clap={tiny_model}", "--splits", 3, "--json"]
        words += ["--embedder", "tagger", "--embedder", "clap"]
        code, out, _ = call(monkeypatch, capsys, *words)
        assert code == 0
        report = json.loads(out)
        assert report == json.loads((tmp_path / "out" / "report.json").read_text())
        assert [found["embedder"] for found in report["embedders"]] == ["tagger", "clap"]
        assert "tagger" in (tmp_path / "out" / "report.md").read_text()

    def test_a_model_on_prompts(self, sides, tmp_path, monkeypatch, capsys, tiny_model):
        (tmp_path / "prompts.csv").write_text("prompt,family\nit pours,rain\nwoof,dog bark\n")
        words = ["prompts", tmp_path / "prompts.csv", tiny_model, "--reference", sides[1]]
        words += ["--out", tmp_path / "out", "--json"]
        code, out, _ = call(monkeypatch, capsys, *words)
        assert code == 0
        report = json.loads(out)
        assert report["recognised"]["n"] == 2
        assert report["embedders"][1]["clap"]["n"] == 2
        assert len(list((tmp_path / "out" / "generated").glob("*.wav"))) == 2

    def test_captions_of_a_split_are_paired(self, clips, tmp_path, monkeypatch, capsys, tiny_model):
        words = ["captions", tiny_model, "--data", clips, "--split", "train"]
        code, out, _ = call(monkeypatch, capsys, *words, "--out", tmp_path / "out", "--json")
        assert code == 0
        report = json.loads(out)
        assert report["pairs"] == report["generated"] == 6
        assert report["embedders"][0]["kl"]["pairs"] == 6

    def test_names_stay_below_the_folder_and_each_clip_has_one_prompt(self, clips, tmp_path):
        inside = tmp_path / "in"
        inside.mkdir()
        rows = ["file,caption,split", "a.wav,first,test", "a.wav,second,test", "../b.wav,out,train"]
        (inside / "sounds.csv").write_text("\n".join(rows) + "\n")
        clip = next((clips / "audio").iterdir())
        shutil.copy(clip, inside / "a.wav")
        shutil.copy(clip, tmp_path / "b.wav")
        assert caption_prompts(inside, "test") == (Prompt("first", "", "a"),)
        drawn = [caption_prompts(inside, "test", random_seed=seed)[0] for seed in range(20)]
        assert {prompt.text for prompt in drawn} == {"first", "second"}
        assert caption_prompts(inside, "test", random_seed=7)[0] == drawn[7]
        (outside,) = caption_prompts(inside, "train")  # named after its whole path
        assert outside.name == (tmp_path / "b").as_posix().lstrip("/")

    def test_families_are_measured_for_variety_and_copies(
        self, data_dir, tmp_path, monkeypatch, capsys, tiny_model
    ):
        recordings = read_manifest(data_dir, label_column="family").recordings
        rain = [r for r in recordings if r.label == "rain" and r.seconds < 6]
        rows = ["file,family,split,seconds"]
        rows += [
            f"{r.file.resolve()},rain,{split},{r.seconds}"
            for split, some in (("train", rain[:4]), ("test", rain[4:8]))
            for r in some
        ]
        (tmp_path / "sounds.csv").write_text("\n".join(rows) + "\n")
        (tmp_path / "prompts.csv").write_text("prompt,family\nit pours,rain\na shower,rain\n")
        words = ["prompts", tmp_path / "prompts.csv", tiny_model, "--data", tmp_path]
        code, out, _ = call(monkeypatch, capsys, *words, "--out", tmp_path / "out")
        assert code == 0
        assert "Mean CLAP distance within a family" in out
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["copies"]["n"] == 2
        assert list(report["variety"]["families"]) == ["rain"]

    def test_a_split_as_reference(self, sides, clips, tmp_path, monkeypatch, capsys):
        words = ["folders", sides[0], "--data", clips, "--split", "train", "--json"]
        code, out, err = call(
            monkeypatch, capsys, *words, "--embedder", "tagger", "--out", tmp_path
        )
        assert (code, err) == (0, "")
        assert json.loads(out)["reference"] == 6

    @pytest.mark.parametrize(
        ("words", "fault"),
        [
            ([], "Missing command"),
            (["chain"], "Missing option '--data'"),
            (["composition"], "Missing option '--data'"),
            (["folders"], "Missing argument"),
            (["folders", "x"], "--reference DIR or --data"),
            (["folders", "x", "--reference", "y", "--data", "z"], "--reference DIR or --data"),
            (["folders", "x", "--reference", "y", "--split", "dev"], "--split requires --data"),
            (["families", "--data", "y", "--mixed-rates"], "--mixed-rates requires --reference"),
            (["captions", "--data", "x", "--reference", "y"], "No such option"),
            (["captions", "--data", "x", "--keep", "y"], "No such option"),
            (["chain", "--data", "x", "--reference", "y"], "No such option"),
            (["chain", "--data", "x", "--limit", "3"], "No such option"),
            (["folders", "x", "--reference", "y", "--processes", "2"], "No such option"),
            (["folders", "x", "--reference", "y", "--keep", "z"], "No such option"),
            (["free", "--data", "x", "--where", "a=b"], "No such option"),
            (["free", "--reference", "real", "--limit", "0"], "limit: got 0"),
            (["free", "--reference", "real", "--splits", "0"], "splits: got 0"),
            (["free", "--reference", "real", "--seeds", "0"], "seeds, seed: got 0"),
            (["listen", "x"], "Missing option '--system'"),
            (["listen", "x", "--system", "a"], "expected NAME=VALUE"),
            (["listen", "x", "--system", "a=b", "--system", "a=c"], "got a twice"),
            (["listen", "x", "--system", "a=b", "--system", "c=d"], "no such folder"),
            (["listen", "x", "--system", "a=b", "--kind", "ab"], "'pairs', 'mos'"),
            (["listen-results", "x", "gone.csv"], "key.csv"),
            (["prompts", "gone.csv", "--reference", "x"], "gone.csv"),
            (["folders", "x", "--reference", "y"], "no such folder"),
            (["folders", "x", "--reference", "real", "--embedder", "ear"], "allowed: tagger"),
            (["folders", "x", "--reference", "y", "--sha256", "tagger"], "NAME=VALUE"),
            (["folders", "x", "--reference", "real", "--sha256", "tagger=00"], "sha256 is"),
            (["folders", "x", "--reference", "y", "--checkpoint", "vggish=z"], "no --embedder"),
            (["folders", "x", "--reference", "real", "--device", "toaster"], "device: 'toaster'"),
            (["--chain", "--data", "x"], "soundcrafter evaluate chain [MODEL]"),
            (["model", "--prompts", "captions", "--data", "x"], "evaluate captions [MODEL]"),
            (["--prompts", "free", "--data", "x"], "--prompts free is now a command"),
            (["--prompts="], "soundcrafter evaluate prompts FILE [MODEL]"),
            (["--prompts=own.csv"], "soundcrafter evaluate prompts FILE [MODEL]"),
            (["--generated", "x", "--reference", "y"], "soundcrafter evaluate folders DIR"),
            (["--listen", "x", "--system", "a=b"], "soundcrafter evaluate listen DIR"),
            (["--listen", "x", "--ratings", "y.csv"], "listen-results DIR FILE..."),
            (["model", "--retrieval"], "soundcrafter evaluate retrieval [MODEL]"),
            (["--composition"], "soundcrafter evaluate composition [MODEL]"),
            (["runs/mine"], "No such command 'runs/mine'"),
        ],
    )
    def test_bad_input(self, words, fault, monkeypatch, capsys, tmp_path):
        monkeypatch.chdir(tmp_path)
        fill(tmp_path / "real", 2)
        code, out, err = call(monkeypatch, capsys, *words)
        assert (code, out) == (2, "")
        assert fault in err
        assert err.count("\n") == 1
        assert [entry.name for entry in tmp_path.iterdir()] == ["real"]
