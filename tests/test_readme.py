"""The README runs as it is written, but for names of folders and the size of a recipe."""

import re
import shlex
import subprocess
import sys
from functools import partialmethod
from pathlib import Path

import pytest
import soundfile

from soundcrafter import SoundCrafter, cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (\S.*)$", re.sub(r"\\\n\s+", "", README), re.MULTILINE)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(line: str, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0


def test_there_are_two_set_up_commands_and_make_knows_every_one():
    targets = [line.split()[1] for line in COMMANDS if line.startswith("make ")]
    assert targets == ["demo", "test"]
    for target in (*targets, "mini"):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == 0


def test_the_first_sound(tmp_path, monkeypatch):
    (line,) = (line for line in COMMANDS if line.startswith(".venv/bin/soundcrafter generate"))
    monkeypatch.chdir(tmp_path)
    run(line, monkeypatch)
    wave, rate = soundfile.read(tmp_path / "dog.wav")
    assert (len(wave), rate) == (80_000, 16_000)
    assert 0.01 < abs(wave).max() < 1.0


@pytest.fixture
def few_steps(monkeypatch):
    """The bundled model samples in four steps, without alternatives to choose from."""
    generate = SoundCrafter.generate
    quick = partialmethod(generate, steps=4, candidates=1)
    monkeypatch.setattr(SoundCrafter, "generate", quick)


def test_the_demo_makes_three_sounds_and_their_pictures(tmp_path, monkeypatch, few_steps):
    monkeypatch.chdir(tmp_path)
    run("soundcrafter demo", monkeypatch)
    names = sorted(file.name for file in (tmp_path / "demo").iterdir())
    assert sum(name.endswith(".wav") for name in names) == 3
    assert sum(name.endswith(".png") for name in names) == 4
    for file in (tmp_path / "demo").glob("*.wav"):
        wave, _ = soundfile.read(file)
        assert 0.01 < abs(wave).max() < 1.0


def test_the_python_example(tmp_path, monkeypatch, few_steps):
    monkeypatch.chdir(tmp_path)
    exec(compile(PYTHON[0], "README.md", "exec"), {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rain-0.wav", "rain-1.wav"]


def test_train_your_own(tmp_path, clips, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    tiny = (ROOT / "recipes" / "tiny.toml").read_text(encoding="utf-8")
    (tmp_path / "recipes" / "mini.toml").write_text(tiny, encoding="utf-8")
    (tmp_path / "sounds").symlink_to(clips)
    lines = [line for line in COMMANDS if line.startswith("soundcrafter train ")]
    lines = [line for line in lines if "--lora" not in line]
    assert [line.split()[2] for line in lines] == ["clap", "vae", "vocoder", "diffusion"]
    for line in lines:
        run(f"{line} --device cpu", monkeypatch)
    run("soundcrafter generate rain --model runs/mine --seconds 1 -o rain.wav", monkeypatch)
    encode = "soundcrafter data encode --recipe recipes/mini.toml --data sounds"
    run(f"{encode} --model runs/mine --out encoded", monkeypatch)
    code = PYTHON[1].replace('"cuda"', '"cpu"').replace("runs/mine", "runs/other")
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "runs" / "other" / "unet.safetensors").is_file()


def test_an_adapter_for_the_bundled_model(tmp_path, clips, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "sounds").symlink_to(clips)
    (line,) = (line for line in COMMANDS if "--lora" in line)
    short = "--set diffusion.steps=1 --set diffusion.seconds=0.64 --device cpu"
    run(f"{line} {short}", monkeypatch)
    (line,) = (line for line in COMMANDS if "--adapter" in line)
    run(f"{line} --seconds 1", monkeypatch)
    assert (tmp_path / "door.wav").is_file()
