"""benchmarks/training_speed.py runs, small, and its tables and JSON hold what they should."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "benchmarks/training_speed.py", "--device", "cpu", "--warmup", "0"]


def run(recipe: Path, data: Path, out: Path, *options: str) -> tuple[str, dict]:
    command = [*COMMAND, "--recipe", str(recipe), "--data", str(data), "--out", str(out), *options]
    command += ["--steps", "1", "--repeats", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text(encoding="utf-8"))["stages"]


@pytest.mark.slow
def test_each_setting_takes_its_turn(tiny_recipe, clips, tmp_path):
    options = ("--stages", "diffusion", "--bf16")
    printed, stages = run(tiny_recipe, clips, tmp_path / "out.json", *options)
    found = stages["diffusion"]
    assert "| diffusion | 4 |" in printed
    names = {"as trained / plain", "kept / decoded", "1 worker / none", "bf16 / fp32"}
    names |= {"2 workers / 1", "checkpointing / none"}
    assert names == set(found["ratios"])
    assert all(ratio > 0 for ratio in found["ratios"].values())
    settings = {setting["name"]: setting for setting in found["settings"]}
    assert "bf16, kept, workers 1" in settings
    assert "fp32, decoded, workers 1" in settings
    for setting in settings.values():
        (turn,) = setting["turns"]
        assert 0 < turn["samples_per_second"] <= turn["step_alone"]
        assert 0 <= turn["waiting"] < 1
        assert turn["loader_alone"] > 0


def test_too_little_memory_is_said(tiny_recipe, clips, tmp_path):
    options = ("--stages", "vocoder", "--limit-gb", "0.2")
    printed, stages = run(tiny_recipe, clips, tmp_path / "out.json", *options)
    assert "over 0.2 GB" in printed
    assert set(stages["vocoder"]["ratios"].values()) == {None}
