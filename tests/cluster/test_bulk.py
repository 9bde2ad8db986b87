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

Run = Callable[..., Any]  # the conftest's `run`
SHORT = ("--steps", 2, "--candidates", 1, "--precision", "fp32", "--device", "cpu")
LONG = ("--steps", 12, "--candidates", 1, "--precision", "fp32", "--device", "cpu")


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


def test_sounds_are_those_without_ray_and_failures_are_listed(nodes, run, tiny_model, tmp_path):
    shared = ("--model", tiny_model, *SHORT)
    prompts = prompt_file(tmp_path / "prompts.jsonl", 300)
    plain = run("generate", "--prompts", prompts, "-o", tmp_path / "plain", *shared)
    assert plain.code == 0
    bad = {"too long": {"seconds": 1000}, "too many steps": {"steps": 9999}}
    prompt_file(prompts, 300, **bad)
    out = tmp_path / "out"
    call = ("generate", "--prompts", prompts, "-o", out.as_uri(), "--ray", nodes.address, *shared)
    ended = run(*call)
    assert ended.code == 1
    assert "300 sounds" in ended.out
    assert "2 of 302 sounds failed" in ended.err
    check_same(out, tmp_path / "plain")
    rows = manifest(out)
    assert [row["id"] for row in rows] == [f"{number}-1" for number in range(1, 303)]
    assert "seconds" in rows[300]["error"]
    assert "steps" in rows[301]["error"]
    first = rows[0]
    assert (first["prompt"], first["seed"], first["seconds"]) == ("rain 0", 0, 0.2)
    assert first["time_taken"] > 0
    assert -1 <= first["score"] <= 1
    check_another_job_is_refused(run, call, prompts, out)


def check_another_job_is_refused(run: Run, call: tuple[Any, ...], prompts: Path, out: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    prompt_file(prompts, 300)
    refused = run(*call, "--guidance", 2).refused()
    assert "contains 300 sounds of other prompts, options or another model" in refused
    assert {file.name: file.stat().st_mtime_ns for file in out.glob("*.wav")} == {
        name: when for name, when in before.items() if name.endswith(".wav")
    }


def test_a_node_that_is_killed_loses_nothing(nodes, run, tiny_model, tmp_path):
    prompts = prompt_file(tmp_path / "prompts.jsonl", 60)
    call = ("generate", "--prompts", prompts, "--model", tiny_model, *LONG)
    assert run(*call, "-o", tmp_path / "plain").code == 0
    out = tmp_path / "out"

    def kill() -> None:
        wait_for(8, out)
        nodes.kill_second()

    killer = threading.Thread(target=kill)
    killer.start()
    ended = run(*call, "-o", out, "--ray", nodes.address)
    killer.join()
    assert ended.code == 0
    check_same(out, tmp_path / "plain")


def test_a_driver_that_is_killed_goes_on(nodes, run, tiny_model, tmp_path):
    prompts = prompt_file(tmp_path / "prompts.jsonl", 60)
    call = ("generate", "--prompts", prompts, "--model", tiny_model, *LONG)
    assert run(*call, "-o", tmp_path / "plain").code == 0
    out = tmp_path / "out"
    call = (*call, "-o", out, "--ray", nodes.address)
    driver = subprocess.Popen([sys.executable, "-m", "soundcrafter", *map(str, call)])
    wait_for(8, out)
    driver.send_signal(signal.SIGKILL)
    driver.wait(10)
    records = list((out / "records").iterdir())
    kept = [json.loads(file.read_text()) for file in records if not file.name.startswith(".")]
    whole = [out / row["file"] for rows in kept for row in rows]
    before = {file: file.stat().st_mtime_ns for file in whole}
    assert 0 < len(before) < 60
    assert run(*call).code == 0
    check_same(out, tmp_path / "plain")
    assert {file: file.stat().st_mtime_ns for file in whole} == before  # not made again


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
