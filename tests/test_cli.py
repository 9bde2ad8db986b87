"""The command line: what it writes and prints; one line, exit 2 and no trace for what is wrong."""

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from soundcrafter.audio import write_audio
from soundcrafter.config import GENERATOR_PARTS
from soundcrafter.store import open_folder, save_part
from soundcrafter.version import __version__

SHORT = ("--seconds", "0.2", "--steps", "1")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def process(*arguments: object, code: str | None = None, cwd: Path | None = None) -> Result:
    """The command line, or `code`, in a process of its own."""
    command = ["-c", code] if code else ["-m", "soundcrafter", *map(str, arguments)]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=cwd, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)


def one_line(result: Result) -> str:
    """The message of a command that was refused as it should be."""
    assert result.code == 2, result
    assert result.out == ""
    lines = [line for line in result.err.splitlines() if line.strip()]
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    return lines[0]


def listing(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() if file.is_file() else None
        for file in folder.rglob("*")
    }


# --- generate ---


def test_a_file(run, tiny_model, tmp_path):
    target = tmp_path / "dog.wav"
    done = run("generate", "a dog barks", "--model", tiny_model, "-o", target, "--seconds", "0.333")
    assert done.code == 0
    assert re.fullmatch(rf"{target}  0\.33 s  seed 0  score -?\d\.\d\d\n", done.out)
    info = soundfile.info(target)
    assert (info.frames, info.samplerate, info.subtype) == (5328, 16_000, "PCM_16")
    assert list(listing(tmp_path)) == ["dog.wav"]


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".WAV"])
def test_other_formats(run, tiny_model, tmp_path, suffix):
    target = tmp_path / f"dog{suffix}"
    assert run("generate", "dog", "--model", tiny_model, "-o", target, *SHORT).code == 0
    assert soundfile.info(target).format == suffix[1:].upper()


def test_several_files_by_seed(run, tiny_model, tmp_path):
    target = tmp_path / "dog.wav"
    common = ("generate", "dog", "--model", tiny_model, *SHORT)
    assert run(*common, "-o", target, "--count", 3, "--seed", 7).code == 0
    assert sorted(listing(tmp_path)) == ["dog-1.wav", "dog-2.wav", "dog-3.wav"]
    assert run(*common, "-o", target, "--seed", 7).code == 0
    # seed 7 alone, and as the first of three
    first, alone = (soundfile.read(tmp_path / name)[0] for name in ("dog-1.wav", "dog.wav"))
    assert abs(first - alone).max() <= 1e-3 * abs(alone).max()


def test_many_files_sort_as_they_come(run, tiny_model, tmp_path):
    run("generate", "dog", "--model", tiny_model, *SHORT, "-o", tmp_path / "d.wav", "--count", 10)
    assert sorted(listing(tmp_path)) == [f"d-{i:02d}.wav" for i in range(1, 11)]


def test_a_folder_is_made(run, tiny_model, tmp_path):
    folder = tmp_path / "new" / "sounds"
    command = ("generate", "A dog: barks!", "--model", tiny_model, "-o", folder, *SHORT)
    assert run(*command, "--count", 2, "--seed", 4).code == 0
    assert sorted(listing(folder)) == ["a-dog-barks-4.wav", "a-dog-barks-5.wav"]


def test_prompts_from_a_file(run, tiny_model, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_bytes("\ufeffrain on a roof\n\n  дождь, 雨  \r\n".encode())
    out = tmp_path / "out"
    out.mkdir()
    done = run("generate", "--prompts", prompts, "--model", tiny_model, "-o", out, *SHORT, "--json")
    assert [entry["prompt"] for entry in json.loads(done.out)] == ["rain on a roof", "дождь, 雨"]
    assert sorted(listing(out)) == ["1-rain-on-a-roof-0.wav", "2-дождь-雨-0.wav"]
    target = out / "weather.ogg"
    run("generate", "--prompts", prompts, "--model", tiny_model, "-o", target, *SHORT)
    assert {"weather-1.ogg", "weather-2.ogg"} < set(listing(out))
    table = tmp_path / "prompts.csv"
    table.write_text('prompt,family\n"hail, at night",rain\n', encoding="utf-8")
    run("generate", "--prompts", table, "--model", tiny_model, "-o", out / "hail.wav", *SHORT)
    assert "hail.wav" in listing(out)


def test_a_long_prompt_is_no_file_name(run, tiny_model, tmp_path):
    for letter in ("x", "𠀀"):  # one byte, four bytes
        done = run("generate", letter * 300, "--model", tiny_model, "-o", tmp_path, *SHORT)
        assert done.code == 0, done.err
    assert len(listing(tmp_path)) == 2


def test_json_is_all_that_is_printed(tiny_model, tmp_path):
    done = process(
        *("generate", "a dog barks", "--model", tiny_model, "-o", tmp_path / "dog.wav"),
        *(*SHORT, "--count", 2, "--seed", 3, "--json", "--device", "cpu"),
    )
    assert done.code == 0
    assert done.err == ""
    report = json.loads(done.out)
    for k, entry in enumerate(report):
        assert entry["file"] == str(tmp_path / f"dog-{k + 1}.wav")
        assert entry["prompt"] == "a dog barks"
        assert entry["seed"] == 3 + k
        assert entry["seconds"] == pytest.approx(0.2)
        assert -1 <= entry["score"] <= 1
    assert len(report) == 2


def test_the_same_command_writes_the_same_bytes(run, tiny_model, tmp_path):
    files = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for file in files:
        run("generate", "dog", "--model", tiny_model, "-o", file, *SHORT, "--seed", 5)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_every_option_reaches_the_model(run, tiny_model, tmp_path, monkeypatch):
    from soundcrafter.pipeline import SoundCrafter

    seen = {}
    stream = SoundCrafter.stream

    def spy(self, prompts, **options):
        seen.update(options, prompts=prompts, device=self.device.type)
        return stream(self, prompts, **options)

    monkeypatch.setattr(SoundCrafter, "stream", spy)
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 8000).astype(np.float32)
    write_audio(tmp_path / "like.wav", noise, 16_000)
    run(
        *("generate", "dog", "--model", tiny_model, "-o", tmp_path / "a.wav", "--seconds", ".25"),
        *("--count", 2, "--seed", 9, "--steps", 2, "--guidance", "1.5", "--negative", "rain"),
        *("--candidates", 3, "--sampler", "euler", "--reuse", 2, "--device", "cpu"),
        *("--no-trim", "--batch-size", 2, "--more", "bright", "--less", "echo", "--steer", "0.2"),
        *("--like", tmp_path / "like.wav", "--like-weight", "0.3"),
    )
    del seen["progress"]
    wanted = {"seconds": 0.25, "seed": [9, 10], "steps": 2, "guidance": 1.5}
    wanted |= {"candidates": 3, "sampler": "euler", "reuse": 2, "trim": False, "batch_size": 2}
    wanted |= {"more": ("bright",), "less": ("echo",), "steer": 0.2, "like_weight": 0.3}
    wanted |= {"like": tmp_path / "like.wav", "loop": False, "fast": None}
    wanted |= {"negative": ["rain"] * 2, "prompts": ["dog"] * 2, "device": "cpu"}
    assert seen == wanted
    seen.clear()
    run("generate", "dog", "--model", tiny_model, "-o", tmp_path / "b.wav")
    assert (seen["seconds"], seen["steps"], seen["guidance"]) == (None, None, None)


def test_plot(run, tiny_model, tmp_path):
    target = tmp_path / "dog.wav"
    assert run("generate", "dog", "--model", tiny_model, "-o", target, *SHORT, "--plot").code == 0
    assert sorted(listing(tmp_path)) == ["dog.png", "dog.wav"]
    assert (tmp_path / "dog.png").read_bytes().startswith(b"\x89PNG")


# --- info, data, train ---


def test_info_on_a_model(run, tiny_model, tmp_path):
    facts = json.loads(run("info", tiny_model, "--json").out)
    folder = open_folder(tiny_model)
    counted = {
        name: sum(parameter.numel() for parameter in folder.load(name).parameters())
        for name in GENERATOR_PARTS
    }
    assert facts["parameters"] == counted
    assert facts["total"] == sum(counted.values())
    assert set(counted) == {"clap_audio", "clap_text", "vae", "unet", "vocoder"}
    assert facts["sample_rate"] == 16_000
    table = run("info", tiny_model)
    assert table.code == 0
    assert f"{counted['unet']:,}" in table.out


def test_info_on_a_recipe(run, tiny_recipe, tiny_model):
    recipe = json.loads(run("info", tiny_recipe, "--json").out)
    model = json.loads(run("info", tiny_model, "--json").out)
    assert recipe["parameters"] == model["parameters"]
    assert (recipe["kind"], model["kind"]) == ("recipe", "model")
    wider = run("info", tiny_recipe, "--json", "--set", "model.unet.channels=16")
    assert json.loads(wider.out)["parameters"]["unet"] > 3 * recipe["parameters"]["unet"]


def test_info_on_a_model_that_is_not_finished(run, tiny_model, tmp_path):
    folder = open_folder(tiny_model)
    save_part(tmp_path / "new", "vae", folder.load("vae"), folder.parts["vae"].config)
    facts = json.loads(run("info", tmp_path / "new", "--json").out)
    assert list(facts["parameters"]) == ["vae"]


def test_data_check(run, clips, tmp_path):
    facts = json.loads(run("data", "check", clips, "--json").out)
    assert (facts["recordings"], facts["captions"], facts["labels"]) == (6, 6, 6)
    assert facts["splits"] == {"train": 6}
    assert facts["skipped"] == []
    assert facts["minutes"] == pytest.approx(11.174 / 60, abs=0.01)
    shutil.copytree(clips, tmp_path / "clips")
    broken = tmp_path / "clips" / "audio" / "adafruit_0003.ogg"
    broken.write_bytes(b"no sound")
    (tmp_path / "clips" / "audio" / "adafruit_0017.ogg").unlink()
    facts = json.loads(run("data", "check", tmp_path / "clips", "--decode", "--json").out)
    assert facts["recordings"] == 4
    assert sorted(name for name, _ in facts["skipped"]) == [
        "audio/adafruit_0003.ogg",
        "audio/adafruit_0017.ogg",
    ]
    text = run("data", "check", tmp_path / "clips", "--decode")
    assert text.code == 0
    assert "recordings: 4" in text.out
    assert "skipped: 2" in text.out
    assert "adafruit_0003.ogg" in text.out


def test_data_check_names_channels_that_cancel(run, tmp_path):
    wave = np.sin(np.arange(8000) * 0.1).astype(np.float32)
    soundfile.write(tmp_path / "wide.wav", np.stack([wave, -wave], 1), 8000)
    facts = json.loads(run("data", "check", tmp_path, "--decode", "--json").out)
    assert facts["recordings"] == 1
    assert facts["notes"] == [["wide.wav", "its channels cancel out; the loudest one is used"]]
    assert "wide.wav: its channels cancel" in run("data", "check", tmp_path, "--decode").out


def test_train_from_encoded_data(run, clips, tiny_recipe, tiny_model, tmp_path):
    encoded, out = tmp_path / "encoded", tmp_path / "model"
    common = ("--recipe", tiny_recipe, "--device", "cpu")
    done = run("data", "encode", *common, "--data", clips, "--model", tiny_model, "--out", encoded)
    assert done.code == 0, done.err
    assert done.out == f"{encoded / 'index.json'}  skipped recordings: 0\n"
    # where only the encoded data is: no audio, no other part
    train = ("train", "diffusion", *common, "--data", encoded, "--out", out)
    done = run(*train, "--set", "diffusion.steps=3", "--log-steps", 1)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line.split("  ")[0] for line in lines[:3]] == [f"diffusion {i}/3" for i in (1, 2, 3)]
    assert lines[-1] == f"diffusion: 3 of 3 steps done, in {out}"
    assert open_folder(out).parts["unet"].trained_against == {
        name: open_folder(tiny_model).parts[name].training_id for name in ("vae", "clap_audio")
    }


def test_sounds_are_saved_as_they_are_made(run, tiny_model, tmp_path, monkeypatch):
    from soundcrafter.pipeline import SoundCrafter

    cut, made = SoundCrafter._cut, []

    def fail_in_the_second_batch(*arguments):
        made.append(arguments)
        if len(made) == 6:
            raise ValueError("out of luck")
        return cut(*arguments)

    monkeypatch.setattr(SoundCrafter, "_cut", fail_in_the_second_batch)
    done = run(
        *("generate", "dog", "--count", 9, "-o", tmp_path / "out", *SHORT, "--device", "cpu"),
        *("--model", tiny_model),
    )
    assert done.code == 2
    assert len(list((tmp_path / "out").iterdir())) == 5  # nothing half-written


def test_train_prints_json_lines(run, clips, tiny_recipe, tmp_path):
    done = run(
        *("train", "vae", "--recipe", tiny_recipe, "--data", clips, "--out", tmp_path / "m"),
        *("--set", "vae.steps=2", "--log-steps", 1, "--device", "cpu", "--json"),
    )
    entries = [json.loads(line) for line in done.out.splitlines()]
    assert [entry["step"] for entry in entries] == [1, 2]
    assert all(entry["loss"] > 0 for entry in entries)


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([""], "prompt: must not be empty"),
        (["  \n "], "prompt: must not be empty"),
        ([], "prompt: give one prompt, or --prompts FILE"),
        (["dog", "--prompts", "prompts.txt"], "prompt: give one prompt"),
        (["--prompts", "none.txt"], "none.txt: cannot read"),
        (["--prompts", "blank.txt"], "blank.txt: contains no prompts"),
        (["--prompts", "latin.txt"], "latin.txt: cannot read"),
        (["dog", "--seconds", "0"], "seconds: got 0; allowed: 0.2 to 600"),
        (["dog", "--seconds", "-1"], "seconds: got -1"),
        (["dog", "--seconds", "nan"], "seconds: got nan"),
        (["dog", "--seconds", "inf"], "seconds: got inf"),
        (["dog", "--seconds", "100000"], "seconds: got 100000"),
        (["dog", "--seconds", "x"], "'--seconds'"),
        (["dog", "--count", "0"], "count: got 0; allowed: 1 to"),
        (["dog", "--count", "1.5"], "'--count'"),
        (["dog", "--steps", "0"], "steps: got 0; allowed: 1 to"),
        (["dog", "--steps", "1001"], "steps: got 1001"),
        (["dog", "--guidance", "nan"], "guidance: got nan"),
        (["dog", "--guidance", "-1"], "guidance: got -1"),
        (["dog", "--seed", "-2"], "seed: got -2"),
        (["dog", "--seed", str(2**70)], "seed: got"),
        (["dog", "--device", "toaster"], "device: 'toaster' is not available"),
        (["dog", "--device", "meta"], "device: 'meta' is not available"),
        (["dog", "--model", "nowhere"], "nowhere: no such model folder"),
        (["dog", "--model", "audio"], "not a model folder"),
        (["dog", "--model", "prompts.txt"], "no such model folder"),
        (["dog", "-o", "dog.aac"], "cannot write .aac; allowed: .wav, .flac, .ogg"),
        (["dog", "-o", "dog.xyz"], "cannot write .xyz"),
        (["dog", "-o", "no/such/dog.wav"], "no/such: the folder does not exist or is not writable"),
        (["dog", "-o", "prompts.txt/dog.wav"], "prompts.txt: the folder does not exist"),
        (["dog", "-o", "prompts.txt/sounds"], "the folder does not exist or is not writable"),
        (["dog", "-o", "new", "--model", "nowhere"], "nowhere: no such model folder"),
        (["dog", "--bogus"], "No such option: --bogus"),
        (["dog", "cat"], "unexpected extra argument"),
    ],
)
def test_generate_refuses(run, tiny_model, tmp_path, monkeypatch, arguments, fault):
    (tmp_path / "audio").mkdir()
    (tmp_path / "prompts.txt").write_text("rain\n")
    (tmp_path / "blank.txt").write_text("\n  \n")
    (tmp_path / "latin.txt").write_bytes("bäh".encode("latin-1"))
    before = listing(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = [] if "--model" in arguments else ["--model", tiny_model]
    output = [] if "-o" in arguments else ["-o", "dog.wav"]
    assert fault in one_line(run("generate", *arguments, *model, *output))
    assert listing(tmp_path) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there(run, tiny_model, clips, tiny_recipe, tmp_path):
    done = run("generate", "dog", "--model", tiny_model, "-o", tmp_path, "--device", "cuda")
    assert "device: 'cuda' is not available" in one_line(done)
    data = ("--recipe", tiny_recipe, "--data", clips, "--device", "cuda")
    done = run("train", "vae", *data, "--out", tmp_path / "model")
    assert "device: 'cuda' is not available" in one_line(done)
    done = run("data", "encode", *data, "--model", tiny_model, "--out", tmp_path / "encoded")
    assert "device: 'cuda' is not available" in one_line(done)
    assert listing(tmp_path) == {}


def _lose_a_file(folder: Path) -> str:
    (folder / "vocoder.safetensors").unlink()
    return "vocoder.safetensors is missing"


def _flip_a_byte(folder: Path) -> str:
    file = folder / "unet.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    return "unet.safetensors: its sha256 does not match config.json"


def _add_a_key(folder: Path) -> str:
    data = json.loads((folder / "config.json").read_text())
    data["parts"]["unet"]["config"]["colour"] = "blue"
    (folder / "config.json").write_text(json.dumps(data))
    return "unet.colour: unknown setting"


def _exchange_the_vae(folder: Path) -> str:
    parts = open_folder(folder)
    vae = parts.load("vae")
    with torch.no_grad():
        next(vae.parameters()).mul_(1.01)
    save_part(folder, "vae", vae, parts.parts["vae"].config)
    return "unet was trained against vae"


def _lose_the_config(folder: Path) -> str:
    (folder / "config.json").unlink()
    return "no config.json"


def _break_the_config(folder: Path) -> str:
    (folder / "config.json").write_text('{"format": 1,')
    return "config.json: not JSON"


DAMAGES = [
    _lose_a_file,
    _flip_a_byte,
    _add_a_key,
    _exchange_the_vae,
    _lose_the_config,
    _break_the_config,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_generate_refuses_a_damaged_model(run, model_copy, tmp_path, damage):
    fault, out = damage(model_copy), tmp_path / "out"
    out.mkdir()
    for target in (out, out / "dog.wav", out / "new"):
        done = run("generate", "dog", "--model", model_copy, "-o", target, *SHORT)
        assert fault in one_line(done)
    assert listing(out) == {}


@pytest.mark.parametrize("damage", [_add_a_key, _exchange_the_vae, _lose_the_config])
def test_info_refuses_a_damaged_model(run, model_copy, damage):
    fault = damage(model_copy)
    assert fault in one_line(run("info", model_copy, "--json"))


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--set", "vae.learning_rate=-1e-4"], "learning_rate: got -0.0001; must be above 0"),
        (["--set", "vae.learning_rate=nan"], "vae.learning_rate: got nan"),
        (["--set", "vae.learning_rat=1"], "did you mean learning_rate?"),
        (["--set", "flavour=1"], "flavour: unknown setting"),
        (["--set", "vae"], "expected section.name=value"),
        (["--set", "vae.steps=many"], "vae.steps: expected int, got 'many'"),
        (
            ["--recipe", "none.toml"],
            "none.toml: no such recipe; allowed: a TOML file, or ablation,",
        ),
        (["--recipe", "bad.toml"], "bad.toml: not TOML"),
        (["--data", "bare.csv"], "bare.csv: has columns caption, sound; needs file"),
        (["--data", "lost.csv"], "lost.csv: no readable recording (1 skipped"),
        (["--data", "empty"], "empty: no readable recording (0 skipped)"),
        (["--data", "nowhere"], "nowhere: no such file or folder"),
        (["--set", "data.split=test"], "no split 'test'; it has: train (6)"),
        (
            ["--device", "toaster"],
            "device: 'toaster' is not available; allowed: auto, cpu, cuda, mps",
        ),
        (["--init", "nowhere"], "nowhere: no such model folder"),
        (["--out", "bare.csv"], "cannot create the folder"),
        (["--log-steps", "0"], "log_steps: got 0"),
        (["--minutes", "-1"], "max_minutes: got -1"),
        (["--bogus"], "No such option: --bogus"),
    ],
)
def test_train_refuses(run, clips, tiny_recipe, tmp_path, monkeypatch, arguments, fault):
    (tmp_path / "bad.toml").write_text("steps = ")
    (tmp_path / "bare.csv").write_text("sound,caption\na.wav,A dog\n")
    (tmp_path / "lost.csv").write_text("file,caption\na.wav,A dog\n")
    (tmp_path / "empty").mkdir()
    before = listing(tmp_path)
    monkeypatch.chdir(tmp_path)
    good = {"--recipe": tiny_recipe, "--data": clips, "--out": "model", "--device": "cpu"}
    rest = [word for key, value in good.items() if key not in arguments for word in (key, value)]
    assert fault in one_line(run("train", "vae", *arguments, *rest))
    assert listing(tmp_path) == before


def test_train_clap_needs_captions(run, clips, tiny_recipe, tmp_path):
    with open(clips / "sounds.csv", newline="") as stream:
        files = [str(clips / row["file"]) for row in csv.DictReader(stream)]
    (tmp_path / "sounds.csv").write_text("\n".join(["file", *files]) + "\n")
    before = listing(tmp_path)
    common = ("--recipe", tiny_recipe, "--data", tmp_path / "sounds.csv", "--device", "cpu")
    done = run("train", "clap", *common, "--out", tmp_path / "model")
    assert "has columns file; needs file, caption" in one_line(done)
    assert listing(tmp_path) == before


def test_train_diffusion_needs_the_other_parts(run, clips, tiny_recipe, tmp_path):
    common = ("--recipe", tiny_recipe, "--data", clips, "--device", "cpu")
    done = run("train", "diffusion", *common, "--out", tmp_path / "model")
    assert "first run `soundcrafter train vae` and `soundcrafter train clap`" in one_line(done)
    assert listing(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["train", "everything"], "'everything' is not one of"),
        (["train"], "Missing argument"),
        (["train", "vae"], "Missing option"),
        (["compose"], "No such command 'compose'"),
        (["data"], "Missing command"),
        (["data", "check", "nowhere"], "nowhere: no such file or folder"),
        (["info", "nowhere"], "nowhere: no such model folder"),
        (["info", "."], "not a model folder"),
        (["--bogus"], "No such option: --bogus"),
    ],
)
def test_other_commands_refuse(run, tmp_path, monkeypatch, arguments, fault):
    monkeypatch.chdir(tmp_path)
    assert fault in one_line(run(*arguments))
    assert listing(tmp_path) == {}


def test_encode_refuses_a_recipe_without_variants(run, clips, tiny_recipe, tiny_model, tmp_path):
    common = ("--recipe", tiny_recipe, "--data", clips, "--model", tiny_model, "--device", "cpu")
    done = run("data", "encode", *common, "--out", tmp_path / "out", "--set", "data.variants=0")
    assert "variants: got 0" in one_line(done)
    done = run("data", "encode", *common, "--out", tmp_path / "out", "--dtype", "int4")
    assert "dtype: got 'int4'; allowed: float32, float16" in one_line(done)
    assert listing(tmp_path) == {}


def test_a_full_disk_is_one_line_too(run, tiny_model, tmp_path, monkeypatch):
    def full(*_args) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("soundcrafter.files.os.replace", full)
    done = run("generate", "dog", "--model", tiny_model, "-o", tmp_path / "dog.wav", *SHORT)
    assert "dog.wav: cannot write: No space left on device" in one_line(done)
    assert listing(tmp_path) == {}


# --- the process ---


def test_refusals_in_a_process_of_their_own(model_copy, tmp_path):
    """What a test runner might hide: warnings, tracebacks at exit, the exit code."""
    fault = _exchange_the_vae(model_copy)
    out = tmp_path / "dog.wav"
    assert fault in one_line(process("generate", "dog", "--model", model_copy, "-o", out))
    assert "No such option" in one_line(process("generate", "dog", "--bogus"))
    assert not out.exists()


def test_a_refused_training_in_a_process_of_its_own(launch, clips, tiny_recipe, tmp_path):
    done = launch(
        *("train", "vae", "--recipe", tiny_recipe, "--data", clips, "--out", tmp_path / "m"),
        *("--device", "toaster"),
    ).finish()
    assert "device: 'toaster' is not available" in one_line(done)
    assert listing(tmp_path) == {}


def test_help_and_version(run):
    assert run("--version").out == f"{__version__}\n"
    for arguments in ((), ("--help",)):
        done = run(*arguments)
        assert (done.code, done.err) == (0, "")
        for command in ("generate", "train", "data", "info"):
            assert command in done.out
    for command in (["generate"], ["train"], ["info"], ["data"], ["data", "check"]):
        assert run(*command, "--help").code == 0


def test_help_and_import_load_no_torch():
    heavy = "{'torch', 'transformers', 'numpy', 'matplotlib', 'ray', 'pyarrow'} & set(sys.modules)"
    done = process(code=f"import sys, soundcrafter; print({heavy})")
    assert done.out == "set()\n"
    done = process(
        code="import sys, atexit; from soundcrafter import cli; sys.argv[1:] = ['--help'];"
        f"atexit.register(lambda: print({heavy})); cli.main()"
    )
    assert done.code == 0
    assert "Usage" in done.out
    assert done.out.endswith("set()\n")


def test_the_lazy_names_are_the_real_ones():
    done = process(
        code="import sys; from soundcrafter import SoundCrafter, Sound, __version__, plots;"
        "print(SoundCrafter.__module__, Sound.__module__, plots.__name__);"
        "print({'torch', 'matplotlib'} & set(sys.modules))"
    )
    names = "soundcrafter.pipeline soundcrafter.sound soundcrafter.plots\n"
    assert done.out == names + "{'torch'}\n", done.err


def test_help_is_quick():
    began = time.perf_counter()
    assert process("--help").code == 0
    assert time.perf_counter() - began < 2  # .2 s on an idle machine


def test_train_scores_and_plot(run, tiny_model, clips, tiny_recipe, tmp_path):
    model = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    shutil.rmtree(model / "training" / "diffusion")
    common = ("--recipe", tiny_recipe, "--data", clips, "--out", model, "--device", "cpu")
    score = ("--score-steps", "1", "--score-split", "train", "--score-prompts", "2")
    one_line(run("train", "diffusion", *common, *score))
    done = run(
        *("train", "diffusion", *common, *score, "--score-data", clips),
        *("--set", "diffusion.steps=1"),
    )
    assert done.code == 0, done.err
    done = run("plot", model)
    assert done.code == 0, done.err
    assert "| diffusion | 1 | 1 |" in done.out
    facts = json.loads(run("plot", model, "--out", tmp_path / "p", "--json").out)
    assert len(facts["pictures"]) == 3
    assert set(listing(tmp_path / "p")) >= {"losses.png", "scores.png", "samples.png", "report.md"}
    assert "contains no training run" in one_line(run("plot", tmp_path / "p"))


def test_a_command_without_arguments_says_what_it_needs(run):
    assert "prompt: give one prompt" in run("generate").refused()
