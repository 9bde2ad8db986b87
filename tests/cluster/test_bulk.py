"""Bulk generation on two nodes: the sounds of the run without Ray, whatever is killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

pytestmark = pytest.mark.long

Run = Callable[..., Any]  # the conftest's `run`
SHORT = ("--steps", 2, "--candidates", 1, "--precision", "fp32", "--device", "cpu")
COUNT = 300


def prompt_file(path: Path, count: int, **others: Any) -> Path:
    """Prompts of two lengths, and rows for `others`: prompt -> options."""
    rows: list[dict[str, Any]] = [
        {"prompt": f"rain {number}", "seed": number, "seconds": 0.3 if number % 3 else 0.2}
        for number in range(count)
    ]
    rows += [{"prompt": prompt, **options} for prompt, options in others.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sounds(folder: Path) -> dict[str, np.ndarray]:
    return {file.name: soundfile.read(file)[0] for file in sorted(folder.glob("*.wav"))}


def manifest(folder: Path) -> list[dict[str, Any]]:
    """The rows of the manifest, which its csv has too."""
    rows = pq.read_table(folder / "manifest.parquet").to_pylist()
    with open(folder / "manifest.csv", newline="") as stream:
        assert [row["id"] for row in csv.DictReader(stream)] == [row["id"] for row in rows]
    return rows


def check_same(folder: Path, expected: Path) -> None:
    """The same files, each once in the manifest, with the same samples."""
    wanted, found = sounds(expected), sounds(folder)
    assert list(found) == list(wanted)
    assert sorted(row["file"] for row in manifest(folder) if row["file"]) == list(wanted)
    for name, wave in wanted.items():
        assert found[name].shape == wave.shape
        assert np.abs(found[name] - wave).max() <= 1e-3 * np.abs(wave).max(), name
    assert not list((folder / "records").iterdir())


def wait_for(count: int, folder: Path, seconds: float = 100) -> None:
    """Wait until so many sounds are there."""
    deadline = time.monotonic() + seconds
    while len(list(folder.glob("*.wav"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_kills_lose_nothing_and_change_nothing(nodes, run, tiny_model, tmp_path):
    prompts = prompt_file(tmp_path / "prompts.jsonl", COUNT)
    call = ("generate", "--prompts", prompts, "--model", tiny_model, *SHORT)
    plain = tmp_path / "plain"
    assert run(*call, "-o", plain).code == 0
    assert len(sounds(plain)) == COUNT
    bad = {"too long": {"seconds": 1000}, "too many steps": {"steps": 9999}}
    prompt_file(prompts, COUNT, **bad)
    call += ("--ray", nodes.address)
    check_killed_node(nodes, run, (*call, "-o", (tmp_path / "node").as_uri()), plain)
    check_failures_are_listed(manifest(tmp_path / "node"))
    check_killed_driver(run, (*call, "-o", tmp_path / "driver"), plain)
    prompt_file(prompts, COUNT)
    other = (*call, "--guidance", 2, "-o", tmp_path / "driver")
    refused = run(*other).refused()
    assert f"contains {COUNT} sounds of other prompts, options or another model" in refused
    check_same(tmp_path / "driver", plain)


def check_killed_node(nodes: Any, run: Run, call: tuple[Any, ...], plain: Path) -> None:
    out = plain.with_name("node")

    def kill() -> None:
        wait_for(8, out)
        nodes.kill_second()

    killer = threading.Thread(target=kill)
    killer.start()
    ended = run(*call)
    killer.join()
    assert ended.code == 1
    assert f"{COUNT} sounds" in ended.out
    assert f"2 of {COUNT + 2} sounds failed" in ended.err
    check_same(out, plain)
    nodes.revive()


def check_failures_are_listed(rows: list[dict[str, Any]]) -> None:
    assert [row["id"] for row in rows] == [f"{number}-1" for number in range(1, COUNT + 3)]
    assert "seconds" in rows[COUNT]["error"]  # found before
    assert "steps" in rows[COUNT + 1]["error"]  # found by the model
    first = rows[0]
    assert (first["prompt"], first["seed"], first["seconds"]) == ("rain 0", 0, 0.2)
    assert first["time_taken"] > 0
    assert -1 <= first["score"] <= 1


def check_killed_driver(run: Run, call: tuple[Any, ...], plain: Path) -> None:
    out = plain.with_name("driver")
    driver = subprocess.Popen([sys.executable, "-m", "soundcrafter", *map(str, call)])
    wait_for(8, out)
    driver.send_signal(signal.SIGKILL)
    driver.wait(10)
    records = [file for file in (out / "records").iterdir() if not file.name.startswith(".")]
    rows = [row for file in records for row in json.loads(file.read_text())]
    before = {out / row["file"]: (out / row["file"]).stat().st_mtime_ns for row in rows}
    assert 0 < len(before) < COUNT
    assert run(*call).code == 1
    check_same(out, plain)
    assert {file: file.stat().st_mtime_ns for file in before} == before  # not made again


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["rain", "--ray"], "prompt cannot be combined with --ray"),
        (["--ray"], "--ray requires --prompts FILE"),
        (["--prompts", "p.txt", "--ray"], "--ray requires a folder or a URL"),
        (["--prompts", "p.txt", "-o", "a.wav", "--ray"], "--ray requires a folder or a URL"),
        (["--prompts", "p.txt", "-o", "-", "--ray"], "--ray requires a folder or a URL"),
        (["--prompts", "p.txt", "-o", "a", "--ray", "--plot"], "--plot cannot be combined"),
        (["--prompts", "p.txt", "-o", "a", "--ray", "--seed", "-1"], "seed: got -1"),
        (["--prompts", "p.txt", "-o", "a", "--ray", "--name", "{x}"], "unknown field {x}"),
        (["rain", "--workers", "2"], "--workers and --worker-cpus require --ray"),
        (["--prompts", "p.txt", "-o", "a", "--ray", "--worker-cpus", "0"], "worker-cpus: got 0"),
        (["--prompts", "p.txt", "-o", "a", "--ray", "--worker-cpus", "64"], "has 64 CPUs"),
        (["--prompts", "p.txt", "-o", "nowhere://a", "--ray"], "nowhere"),
    ],
)
def test_options_that_ray_does_not_go_with(nodes, run, tmp_path, monkeypatch, options, fault):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("rain\n")
    assert fault in run("generate", *options).refused()
    assert os.listdir(tmp_path) == ["p.txt"]
