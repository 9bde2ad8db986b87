"""`soundcrafter generate`: files and their names, prompt files, seeds, pipes, silent ends."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from soundcrafter.audio import sound_end, trim_silence
from soundcrafter.diffusion.config import MAX_SEED
from soundcrafter.filenames import slug
from soundcrafter.pipeline import SoundCrafter

SHORT = ("--seconds", "0.2", "--steps", "1", "--candidates", "1")


Run = Callable[..., Any]  # the conftest's `run`


@pytest.fixture
def generate(run: Run, tiny_model: Path) -> Run:
    return lambda *arguments: run("generate", *arguments, "--model", tiny_model)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def read(file: Path) -> np.ndarray:
    return soundfile.read(file, dtype="float32")[0]


# --- names ---


def test_a_taken_name_in_a_folder_gets_a_number(generate: Run, tmp_path: Path) -> None:
    for prompt, seed in (("rain", 0), ("Rain!", 0), ("rain", 1), ("RAIN", 0)):
        assert generate(prompt, "-o", tmp_path, "--seed", seed, *SHORT).code == 0
    assert names(tmp_path) == ["rain-0-2.wav", "rain-0-3.wav", "rain-0.wav", "rain-1.wav"]


def test_a_folder_can_be_overwritten(generate: Run, tmp_path: Path) -> None:
    generate("rain", "-o", tmp_path, *SHORT)
    before = (tmp_path / "rain-0.wav").read_bytes()
    longer = ("--seconds", 0.3, "--steps", 1)
    generate("wind", "-o", tmp_path, "--name", "rain-{seed}", "--overwrite", *longer)
    assert names(tmp_path) == ["rain-0.wav"]
    assert (tmp_path / "rain-0.wav").read_bytes() != before


def test_existing_sounds_are_skipped(generate: Run, tmp_path: Path) -> None:
    call = ("rain", "-o", tmp_path, "--count", "3", "--skip-existing", "--json", *SHORT)
    assert len(json.loads(generate(*call).out)) == 3
    before = read(tmp_path / "rain-1.wav")
    (tmp_path / "rain-1.wav").unlink()
    (made,) = json.loads(generate(*call).out)
    assert made["seed"] == 1
    assert len(names(tmp_path)) == 3
    assert len(read(tmp_path / "rain-1.wav")) == len(before)
    assert json.loads(generate(*call).out) == []


def test_names_keep_the_letters_of_any_script(generate: Run, tmp_path: Path) -> None:
    for prompt in ("雨の音", "дождь идёт", "बारिश", "🔥"):
        assert generate(prompt, "-o", tmp_path, *SHORT).code == 0
    assert names(tmp_path) == sorted(
        ["雨の音-0.wav", "дождь-идёт-0.wav", "बारिश-0.wav", "sound-0.wav"]
    )
    assert len(slug("雨" * 300).encode()) <= 180


def test_a_template_of_names(generate: Run, tmp_path: Path) -> None:
    template = "{index:03}_{slug}_{take}_{seed}"
    generate("a dog", "-o", tmp_path, "--count", 2, "--seed", 7, "--name", template, *SHORT)
    assert names(tmp_path) == ["001_a-dog_1_7.wav", "002_a-dog_2_8.wav"]


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{word}", "unknown field {word}; allowed fields: {index}"),
        ("{slug.__class__}", "unknown field"),
        ("{slug", "name: got '{slug'"),
        ("../{slug}", "allowed: no folders"),
        ("{index:999999999}", "a width of 999999999; at most 999"),
        ("{seed:>300}", "at most 236 bytes"),
        (".", "allowed: no folders"),
    ],
)
def test_templates_that_are_refused(
    generate: Run, tmp_path: Path, template: str, fault: str
) -> None:
    assert fault in generate("dog", "-o", tmp_path, "--name", template, *SHORT).refused()
    assert names(tmp_path) == []


def test_options_that_do_not_go_together(generate: Run, tmp_path: Path) -> None:
    both = generate("dog", "-o", tmp_path, "--overwrite", "--skip-existing", *SHORT)
    assert "cannot be combined" in both.refused()
    named = generate("dog", "-o", tmp_path / "dog.wav", "--name", "{slug}", *SHORT)
    assert "--name needs a folder" in named.refused()
    (tmp_path / "dog.png").mkdir()
    blocked = generate("dog", "-o", tmp_path / "dog.wav", "--plot", *SHORT)
    assert "dog.png: cannot write: it exists and is not a file" in blocked.refused()
    assert names(tmp_path) == ["dog.png"]


def test_what_stands_beside_a_sound_is_not_overwritten(generate: Run, tmp_path: Path) -> None:
    (tmp_path / "rain-0.png").write_text("mine")
    (tmp_path / "wind-0.wav").symlink_to(tmp_path / "nowhere.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    assert generate("rain", "-o", tmp_path, "--plot", *SHORT).code == 0
    assert generate("wind", "-o", tmp_path, *SHORT).code == 0
    assert (tmp_path / "rain-0.png").read_text() == "mine"
    assert (tmp_path / "wind-0.wav").is_symlink()
    made = ["rain-0-2.png", "rain-0-2.wav", "wind-0-2.wav"]
    assert [name for name in names(tmp_path) if "-2" in name] == made
    into_pipe = generate("rain", "-o", tmp_path / "pipe.wav", *SHORT)
    assert "pipe.wav: cannot write: it exists and is not a file" in into_pipe.refused()
    too_long = generate("rain", "-o", tmp_path / f"{'b' * 250}.wav", *SHORT)
    assert "the name has more than 240 bytes" in too_long.refused()


# --- prompt files ---


def test_a_table_of_prompts_with_options(generate: Run, tmp_path: Path) -> None:
    table = tmp_path / "prompts.csv"
    rows = [
        ("prompt", "name", "seed", "seconds", "count", "negative"),
        ("a dog barks, far away", "dog", "5", "", "", ""),
        ("rain", "", "", "0.4", "2", "wind"),
        ("wind", "dog", "", "", "", ""),
    ]
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    out = tmp_path / "out"
    done = generate("--prompts", table, "-o", out, "--guidance", 3, "--json", *SHORT)
    made = json.loads(done.out)
    files = ["dog.wav", "2-rain-0.wav", "2-rain-1.wav", "dog-2.wav"]
    assert [Path(each["file"]).name for each in made] == files
    assert [each["seed"] for each in made] == [5, 0, 1, 0]
    assert [len(read(out / file)) / 16000 for file in files] == [0.2, 0.4, 0.4, 0.2]
    generate("wind", "-o", tmp_path / "w.wav", "--guidance", 3, *SHORT)
    np.testing.assert_allclose(read(tmp_path / "w.wav"), read(out / "dog-2.wav"), atol=1e-3)


def test_rows_of_jsonl_and_comments_in_text(generate: Run, tmp_path: Path) -> None:
    lines = [{"prompt": "rain", "seed": 3, "seconds": 0.3}, {"prompt": "wind", "name": "w"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "p.txt").write_text("# two sounds\nrain\n\n  # and\nwind\n")
    generate("--prompts", tmp_path / "p.jsonl", "-o", tmp_path / "a", *SHORT)
    generate("--prompts", tmp_path / "p.txt", "-o", tmp_path / "b", *SHORT)
    assert names(tmp_path / "a") == ["1-rain-3.wav", "w.wav"]
    assert names(tmp_path / "b") == ["1-rain-0.wav", "2-wind-0.wav"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("prompt,second\nrain,5\n", "second: unknown column; did you mean seconds?"),
        ("prompt,seconds\nrain,long\n", "row 1: seconds: got 'long'; expected a number"),
        ("prompt,seed\nrain,1\nwind,1.5\n", "row 2: seed: got '1.5'; expected a whole number"),
        ("prompt,seconds\nrain,nan\n", "row 1: seconds: got 'nan'"),
        ("prompt,seconds\nrain,1\nwind,1000\n", "prompt 2: seconds: got 1000; allowed"),
        ("prompt,seed\nrain,1\n,2\n", "row 2: the prompt is empty"),
        ("prompt,name\nrain,a/b\n", "allowed: no folders"),
        ("prompt\n", "contains no prompts"),
        ("prompt,prompt\nrain,wind\n", "two columns are called 'prompt'"),
    ],
)
def test_prompt_files_that_are_refused(
    generate: Run, tmp_path: Path, text: str, fault: str
) -> None:
    (tmp_path / "p.csv").write_text(text)
    message = generate(
        "--prompts", tmp_path / "p.csv", "-o", tmp_path / "out", "--steps", 1
    ).refused()
    assert fault in message
    assert names(tmp_path) == ["p.csv"]


# --- seeds and numbers ---


def test_a_random_seed_is_told_and_repeats_the_sound(generate: Run, tmp_path: Path) -> None:
    call = ("rain", "-o", tmp_path, "--json", *SHORT)
    drawn = [json.loads(generate(*call, "--seed", -1).out)[0] for _ in range(2)]
    assert drawn[0]["seed"] != drawn[1]["seed"]
    again = tmp_path / "again.wav"
    generate("rain", "-o", again, "--seed", drawn[0]["seed"], *SHORT)
    assert again.read_bytes() == Path(drawn[0]["file"]).read_bytes()


def test_every_seed_of_64_bits_works(generate: Run, tmp_path: Path) -> None:
    assert generate("rain", "-o", tmp_path, "--seed", MAX_SEED, *SHORT).code == 0
    assert names(tmp_path) == [f"rain-{2**64 - 1}.wav"]
    too_large = generate("rain", "-o", tmp_path, "--seed", MAX_SEED, "--count", 2, *SHORT).refused()
    assert (
        f"seed: got {MAX_SEED}; allowed: 0 to {MAX_SEED - 1}, or -1 for a random one" in too_large
    )


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (("--count", 2**63), "count: got 9223372036854775808; allowed: 1 to 10000"),
        (("--batch-size", 10**6), "batch_size: got 1000000; allowed: 1 to 1024"),
        (("--candidates", 10**6), "candidates: got 1000000; allowed: 1 to 100"),
        (("--guidance", 1e300), "guidance: got 1e+300; allowed: 0 to 1000"),
        (("--steps", 5000), "steps: got 5000; allowed: 1 to 1000"),
    ],
)
def test_numbers_out_of_range(
    generate: Run, tmp_path: Path, options: tuple[object, ...], fault: str
) -> None:
    assert fault in generate("rain", "-o", tmp_path, "--seconds", 0.2, *options).refused()
    assert names(tmp_path) == []


# --- text ---


@pytest.mark.parametrize("prompt", ["caf\udce9 door", "a\x1b[31m dog", "bell\a", "nul\x00"])
def test_a_prompt_that_is_no_text(generate: Run, tmp_path: Path, prompt: str) -> None:
    message = generate(prompt, "-o", tmp_path, *SHORT).refused()
    assert "which is not allowed; use UTF-8" in message
    assert (
        "which is not allowed"
        in generate("rain", "--negative", prompt, "-o", tmp_path, *SHORT).refused()
    )


def test_bytes_that_are_not_utf_8_in_a_process(tiny_model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "soundcrafter", "generate", b"caf\xe9 door"]
    done = subprocess.run([*command, "--model", tiny_model], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: prompt: contains U+DCE9")


def test_a_terminal_that_cannot_show_a_prompt(
    launch: Run, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("雨の音\nrain ± wind\n", encoding="utf-8")
    call = ("generate", "--prompts", "p.txt", "-o", "out", "--model", tiny_model, *SHORT)
    done = launch(*call, folder=tmp_path, PYTHONIOENCODING="cp1252").finish()
    assert done.code == 0, done.err
    assert [line.partition("  ")[0] for line in done.out.splitlines()] == [
        "out/1-???-0.wav",
        "out/2-rain-wind-0.wav",
    ]
    assert names(tmp_path / "out") == ["1-雨の音-0.wav", "2-rain-wind-0.wav"]


def test_a_prompt_that_begins_with_a_dash(
    generate: Run, run: Run, tiny_model: Path, tmp_path: Path
) -> None:
    assert "needs -- before it" in generate("- rain", "-o", tmp_path, *SHORT).refused()
    done = run("generate", "--model", tiny_model, "-o", tmp_path, *SHORT, "--", "- rain")
    assert done.code == 0


def test_ctrl_c_says_so(launch: Run, tiny_model: Path, tmp_path: Path) -> None:
    call = ("generate", "rain", "--count", 2000, "--model", tiny_model, "-o", tmp_path / "out")
    process = launch(*call, *SHORT, "--batch-size", 4)
    while not list(tmp_path.glob("out/*.wav")):
        assert process.poll() is None, process.errors()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    done = process.finish()
    assert (done.code, done.err) == (130, "interrupted\n")
    assert len(names(tmp_path / "out")) < 2000
    assert all(len(read(tmp_path / "out" / name)) == 3200 for name in names(tmp_path / "out"))


# --- pipes ---


def test_a_pipe_gets_the_same_bytes_as_a_file(
    generate: Run, launch: Run, tiny_model: Path, tmp_path: Path
) -> None:
    generate("rain", "-o", tmp_path / "rain.wav", *SHORT)
    call = ("generate", "rain", "-o", "-", "--model", tiny_model, *SHORT)
    process = launch(*call, folder=tmp_path)
    piped = process.stdout.buffer.read()
    assert process.wait() == 0, process.errors()
    assert piped == (tmp_path / "rain.wav").read_bytes()
    assert len(soundfile.read(io.BytesIO(piped))[0]) == 3200
    assert names(tmp_path) == ["rain.wav"]


@pytest.mark.parametrize(
    "options", [("--count", "2"), ("--plot",), ("--json",), ("--sidecar",), ("--skip-existing",)]
)
def test_what_a_pipe_cannot_take(generate: Run, options: tuple[str, ...]) -> None:
    assert "output: '-' " in generate("rain", "-o", "-", *options, *SHORT).refused()


# --- ends ---


def test_a_silent_end_is_cut_with_a_fade() -> None:
    rate = 8000
    rng = np.random.default_rng(0)
    wave = np.zeros(5 * rate, np.float32)
    wave[:rate] = rng.uniform(-0.5, 0.5, rate)
    wave[rate:] = 1e-5 * rng.standard_normal(4 * rate)
    assert sound_end(wave) == pytest.approx(rate, abs=20)
    cut = trim_silence(wave, rate)
    assert len(cut) == pytest.approx(1.02 * rate, abs=20)
    assert np.array_equal(cut[: rate - 20], wave[: rate - 20])
    assert cut[-1] == 0
    assert trim_silence(cut[:rate], rate).shape == (rate,)
    for silent in (np.zeros(rate, np.float32), np.zeros(0, np.float32)):
        assert len(trim_silence(silent, rate)) == len(silent)
    click = np.zeros(rate, np.float32)
    click[0] = 1.0
    assert len(trim_silence(click, rate)) == round(0.2 * rate)


def test_silence_before_a_sound_is_cut_with_a_fade() -> None:
    rate = 8000
    wave = np.zeros(2 * rate, np.float32)
    wave[rate : rate + 4000] = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)
    wave[:rate] = 1e-5
    cut = trim_silence(wave, rate)
    assert len(cut) == pytest.approx(4000 + 0.025 * rate, abs=20)
    assert cut[0] == 0
    assert np.array_equal(cut[40:4000], wave[rate : rate + 3960])
    late = np.zeros(rate, np.float32)
    late[-1] = 1.0
    assert len(trim_silence(late, rate)) == round(0.2 * rate)


@pytest.fixture
def ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocoder that falls silent after 0.3 s."""
    vocode = SoundCrafter.vocode

    def quiet(self: SoundCrafter, mel: object) -> object:
        wave = vocode(self, mel)  # type: ignore[arg-type]
        wave[:, 4800:] = 0.0
        return wave

    monkeypatch.setattr(SoundCrafter, "vocode", quiet)


@pytest.mark.usefixtures("ends_early")
def test_without_a_length_the_silent_end_is_cut(generate: Run, tmp_path: Path) -> None:
    file = tmp_path / "dog.wav"
    done = generate("dog", "-o", file, "--steps", 1)
    assert done.err == ""
    assert len(read(file)) == pytest.approx(0.32 * 16000, abs=80)
    generate("dog", "-o", file, "--steps", 1, "--no-trim")
    assert len(read(file)) == 16000


@pytest.mark.usefixtures("ends_early")
def test_with_a_length_a_silent_end_is_told(generate: Run, tmp_path: Path) -> None:
    file = tmp_path / "dog.wav"
    done = generate("dog", "-o", file, "--steps", 1, "--seconds", 1.5)
    assert done.err == (
        f"warning: {file}: the sound ends at 0.3 s of 1.5 s; silence follows "
        "(--fill repeats the sound)\n"
    )
    assert len(read(file)) == 24000
    assert generate("dog", "-o", file, "--steps", 1, "--seconds", 0.7).err == ""


# --- Python ---


def test_a_seed_for_each_prompt(tiny_model: Path) -> None:
    model = SoundCrafter.from_pretrained(tiny_model, "cpu")
    options = {"seconds": 0.3, "steps": 1, "candidates": 1, "batch_size": 1}
    several = model.generate(["rain", "wind"], seed=[5, -1], count=2, **options)  # type: ignore[arg-type]
    assert [sound.seed for sound in several[:2]] == [5, 6]
    assert several[3].seed == several[2].seed + 1
    (alone,) = model.generate("wind", seed=several[3].seed, **options)  # type: ignore[arg-type]
    assert np.array_equal(alone.wave, several[3].wave)
    with pytest.raises(ValueError, match="seed: got 3 for 2 prompts"):
        model.generate(["rain", "wind"], seed=[1, 2, 3])


def test_values_of_numpy_and_torch_and_what_is_no_noise(tiny_model: Path) -> None:
    model = SoundCrafter.from_pretrained(tiny_model, "cpu")
    options = {"seconds": 0.2, "steps": 1, "candidates": 1}
    for seed in (np.array(3), torch.tensor(3), np.array([3]), (s for s in [3])):
        assert model.generate("rain", seed=seed, **options)[0].seed == 3  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed: expected int, got b'5'"):
        model.generate("rain", seed=b"5")
    noise = model.noise(0, 0.2)
    wrong = ("x", [1], noise > 0, torch.full_like(noise, torch.nan))
    for each in wrong:
        with pytest.raises(ValueError, match="noise: "):
            model.generate("rain", noise=each, **options)  # type: ignore[arg-type]
    for seed, seconds in ((-1, 1.0), (2**64, 1.0), (0, 0.0), (0, 1e12), (0, float("nan"))):
        with pytest.raises(ValueError, match="allowed: 0"):
            model.noise(seed, seconds)


FORK = """
import multiprocessing, sys
import torch
from soundcrafter import SoundCrafter
torch.set_num_threads(2)  # with one nothing can be waited for
model = SoundCrafter.from_pretrained(sys.argv[1], "cpu")
def make(seed):
    assert len(model.generate("rain", seconds=0.5, seed=seed)[0].wave) == 8000
make(0)
forked = multiprocessing.get_context("fork").Process(target=make, args=(1,))
forked.start()
forked.join(60)
assert forked.exitcode == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_model_works_in_a_forked_process(fork: Run, tiny_model: Path) -> None:
    process = fork(FORK, [str(tiny_model)])
    process.join(120)
    assert process.exitcode == 0


# --- Parquet and Ray ---


def test_prompts_from_parquet(
    generate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install .[ray]")
    pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: pip install .[ray]")
    rows = [{"prompt": "rain", "seed": 3, "seconds": 0.3}, {"prompt": "wind", "seconds": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    out = tmp_path / "out"
    assert generate("--prompts", tmp_path / "p.parquet", "-o", out, *SHORT).code == 0
    assert names(out) == ["1-rain-3.wav", "2-wind-0.wav"]
    assert len(read(out / "1-rain-3.wav")) == round(1.5 * len(read(out / "2-wind-0.wav")))
    (tmp_path / "bad.parquet").write_text("no table")
    refused = generate("--prompts", tmp_path / "bad.parquet", "-o", out).refused()
    assert "bad.parquet: not a Parquet table" in refused
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused = generate("--prompts", tmp_path / "p.parquet", "-o", out).refused()
    assert "Parquet needs pyarrow; install it with: pip install 'soundcrafter[ray]'" in refused


def test_without_ray_its_option_says_what_to_install(
    generate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "soundcrafter.cluster.connection", raising=False)
    (tmp_path / "p.txt").write_text("rain\n")
    refused = generate("--prompts", tmp_path / "p.txt", "-o", tmp_path / "out", "--ray").refused()
    assert "--ray: needs ray; install it with: pip install 'soundcrafter[ray]'" in refused
