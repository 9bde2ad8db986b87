"""The package where torch is not installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "onnx_install.py"
# runs commands where importing any of these packages fails; prints what became of each
COMMANDS = """
import contextlib, io, json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
from soundcrafter.cli import main
results = []
for command in json.loads(sys.argv[2]):
    sys.argv = ["soundcrafter", *command]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""
OF_TORCH = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "accelerate",
    "psutil",
)
OF_PLOTS = ("matplotlib", "PIL")


def commands(missing, *given):
    """The exit status, stdout and stderr of each command."""
    lists = [json.dumps([*missing]), json.dumps([[*map(str, each)] for each in given])]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *lists], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_what_needs_torch_says_how_to_get_it(tmp_path):
    given = (
        ("generate", "rain"),
        ("demo", tmp_path / "demo"),
        ("edit", "x.wav", "-o", "y.wav"),
        ("info",),
        ("info", "mini"),
        ("train", "vae", "--recipe", "mini", "--data", "x", "--out", "y"),
        ("scene", "x.toml"),
        ("bench",),
        ("ship", "x", "--out", "y"),
        ("import", "x", "--out", "y"),
    )
    for command, (code, out, err) in zip(given, commands(OF_TORCH, *given), strict=True):
        wanted = "error: this needs torch: pip install 'soundcrafter[torch]'\n"
        assert (code, out, err) == (2, "", wanted), command


def test_what_needs_no_torch(exported, tmp_path):
    rain, picture = tmp_path / "rain.wav", tmp_path / "rain.png"
    make = ("generate", "rain", "--seconds", "1", "--model", exported, "-o", rain)
    help_, facts, table, made = commands(
        OF_TORCH, ("--help",), ("info", exported, "--json"), ("info", exported), (*make, "--plot")
    )
    assert help_[0] == facts[0] == table[0] == made[0] == 0, (table, made)
    found, settings = json.loads(facts[1]), json.loads((exported / "settings.json").read_text())
    assert found["bytes"]["unet"] == (exported / "unet.onnx").stat().st_size
    assert found["sampling"] == settings["sampling"]
    assert found["training_ids"]["unet"] == settings["parts"]["unet"]["training_id"]
    assert "unet" in table[1]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_plots_are_refused_before_a_sound_is_made(exported, tmp_path):
    rain = tmp_path / "rain.wav"
    make = ("generate", "rain", "--seconds", "1", "--model", exported, "-o", rain)
    plotted, made = commands((*OF_TORCH, *OF_PLOTS), (*make, "--plot"), make)
    wanted = "error: plots need matplotlib: pip install 'soundcrafter[plot]'\n"
    assert plotted == [2, "", wanted]
    assert made[0] == 0
    assert rain.is_file()


def test_info_of_an_export_has_no_operations(run, exported):
    assert "not possible with an exported model" in run("info", exported, "--flops").refused()


@pytest.mark.slow
def test_an_installation(tmp_path):
    """Needs a package index; takes minutes."""
    from soundcrafter.onnx.export import export_onnx

    export_onnx(None, tmp_path / "bundled")
    command = [sys.executable, BENCHMARK, tmp_path / "bundled", "--json", "--runs", "1"]
    figures = json.loads(subprocess.check_output(command))
    assert not {*OF_TORCH, *OF_PLOTS, "onnx", "onnxscript", "fastapi"} & {*figures["packages"]}
    assert figures["megabytes"] < 260
    assert figures["peak"] < 300
