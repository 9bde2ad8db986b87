"""The scripts of benchmarks/ that need a GPU, bf16 or minutes run small on any machine."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from soundcrafter.bench.workload import Workload
from soundcrafter.hub import find_model

BUNDLED = find_model(None)
FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_gpu_script_runs_on_a_cpu(tiny_model):
    request = Workload(seconds=0.5, steps=2, repeats=1, device="cpu", precision="fp32")
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


@pytest.fixture
def scored_clips(clips, tmp_path):
    """Two clips of the repository under names of scored families."""
    rows = ["file,caption,family,split,kind"]
    for name, family, kind in (("adafruit_0003", "rain", "a"), ("dsurround_0028", "thunder", "b")):
        shutil.copy(clips / "audio" / f"{name}.ogg", tmp_path)
        rows.append(f"{name}.ogg,A sound,{family},dev,{kind}")
    (tmp_path / "sounds.csv").write_text("\n".join(rows))
    return tmp_path


def test_models_of_different_mels_are_compared_and_drawn(
    tiny_model, scored_clips, monkeypatch, tmp_path_factory, capsys
):
    out = tmp_path_factory.mktemp("decoders")
    arguments = [str(tiny_model), str(BUNDLED), "--data", str(scored_clips), "--show", "thunder"]
    files = ["--out", str(out / "figures.json"), "--pictures", str(out / "pairs.png")]
    monkeypatch.setattr(sys, "argv", ["decoders.py", *arguments, *files])
    script("decoders").main()
    found = json.loads((out / "figures.json").read_text())
    assert found["real"] == {"accuracy": found["real"]["accuracy"]}
    ours, better = found["model: vae + vocoder"], found["mini: vae + vocoder"]
    assert better["log_mel"] < ours["log_mel"]  # of no training against the bundled one
    assert (out / "pairs.png").stat().st_size > 10_000
    assert "dev, N 2" in capsys.readouterr().out


def test_mels_are_turned_back_for_an_outside_judge(scored_clips, monkeypatch, tmp_path_factory):
    out = tmp_path_factory.mktemp("mels")
    arguments = ["16000:1024:160:64", "--data", str(scored_clips), "--where", "kind=a"]
    monkeypatch.setattr(sys, "argv", ["mels.py", *arguments, "--out", str(out)])
    script("mels").main()
    files = sorted(str(file.relative_to(out)) for file in out.rglob("*.wav"))
    assert files == ["16000-1024-160-64/rain/adafruit_0003.wav", "real/rain/adafruit_0003.wav"]
