"""benchmarks/training_speed.py runs, small, and its tables and JSON hold what they should."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def run(_fork_server, monkeypatch, capsys, tiny_recipe, clips, tmp_path):
    """run(*options): what the benchmark prints, and its stages."""

    def call(*options: str) -> tuple[str, dict[str, Any]]:
        monkeypatch.syspath_prepend(BENCHMARKS)
        import training_speed

        out = tmp_path / "out.json"
        command = ["training_speed.py", "--device", "cpu", "--warmup", "0", "--steps", "1"]
        command += ["--repeats", "1", "--recipe", str(tiny_recipe), "--data", str(clips)]
        monkeypatch.setattr(sys, "argv", [*command, "--out", str(out), *options])
        # the tests' server has imported more
        monkeypatch.setattr(training_speed, "CHILDREN", _fork_server)
        training_speed.main()
        return capsys.readouterr().out, json.loads(out.read_text(encoding="utf-8"))["stages"]

    return call


@pytest.mark.slow
def test_each_setting_takes_its_turn(run):
    printed, stages = run("--stages", "diffusion", "--bf16")
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


def test_too_little_memory_is_said(run):
    printed, stages = run("--stages", "vocoder", "--limit-gb", "0.2")
    assert "over 0.2 GB" in printed
    assert set(stages["vocoder"]["ratios"].values()) == {None}
