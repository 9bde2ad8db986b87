"""The scripts of benchmarks/ that need a GPU, bf16 or minutes run small on any machine."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from soundcrafter.bench.meter import Request

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_gpu_script_runs_on_a_cpu(tiny_model):
    request = Request(seconds=0.5, steps=2, repeats=1, device="cpu", precision="fp32")
    found = script("gpu").measure(str(tiny_model), request, [1, 2], with_peer=False)
    assert list(found) == [1, 2]
    for ways in found.values():
        assert list(ways) == ["ours"]
        assert ways["ours"] > 0


def test_its_main_prints_a_line_a_way(tiny_model, monkeypatch, capsys):
    arguments = [str(tiny_model), "--seconds", "0.5", "--steps", "1", "--batch", "2"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments, "--repeats", "1", "--device", "cpu"])
    script("gpu").main()
    *_, line = capsys.readouterr().out.splitlines()
    assert line.startswith("batch   2  ours")
    assert line.endswith("1.00")


def test_the_precision_script_compares_bf16_with_fp32(tiny_model):
    found = script("precision_quality").measure(str(tiny_model), "bf16", 2, 0, "cpu")
    assert found["n"] == 2
    assert found["apart"] > 0
    assert found["apart_by_seed"] > 0
    assert 0 <= found["same"] <= 2
    assert found["fp32"]["hits"] <= 2
