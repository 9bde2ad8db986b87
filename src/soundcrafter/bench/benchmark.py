"""Benchmarks of a model on this machine: the speed of each part and the peak memory, compared with
a peer, and their growth with the length of the sound, the batch and the steps."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from soundcrafter.bench.diffusers_model import (
    AudioLDMConfigs,
    DiffusersModel,
    check_peer,
    configs_like,
    peer_dtypes,
)
from soundcrafter.bench.machine import machine_facts, machine_peak
from soundcrafter.bench.meters import interleaved, memory_rise, timed
from soundcrafter.bench.own_model import ModelName, OwnModel
from soundcrafter.bench.runners import (
    LocalRunner,
    ProcessRunner,
    Runner,
    in_own_process,
    own_process,
)
from soundcrafter.bench.scaling import check_scaling, measure_scaling, plot_scaling
from soundcrafter.bench.workload import (
    COUNTED,
    GUIDANCE,
    PARTS,
    PROMPT,
    OnStatus,
    Subject,
    Workload,
)
from soundcrafter.device import choose_device
from soundcrafter.files import make_folder, write_csv, write_json
from soundcrafter.precision import DTYPES

_MEMORY_STEPS = 3  # sampling steps when memory is measured; more steps need no more of it


def bench(
    model: ModelName = None,
    workload: Workload | None = None,
    *,
    peer: str | None = None,
    peer_configs: AudioLDMConfigs | None = None,
    cold: bool = False,
    scaling: Mapping[str, Sequence[float]] | None = None,
    out: str | os.PathLike[str] | None = None,
    on_status: OnStatus = lambda _: None,
) -> dict[str, Any]:
    """Measure a model and return a report, serialisable as JSON.

    Figures are medians of `workload.repeats`: seconds after a warm-up, memory in MB (10^6 bytes),
    each time in a fresh process. A GFLOP is 10^9 operations. `peer` ("diffusers") is measured in
    another process, interleaved with the model, with the sizes `peer_configs`: by default those of
    the model if it is an AudioLDM, else AudioLDM-S. `cold`: also measure the model with its own
    steps, guidance and candidates, in this process ("as_shipped") and in a fresh process of the
    command line ("cold"). `scaling` maps "seconds", "batch" and "steps" to values, one of which is
    varied at a time (SCALING). `out`: a folder for bench.json, scaling.csv and scaling.png. Raises
    ValueError for settings that are not allowed.
    """
    workload = workload or Workload()
    if peer is not None:
        check_peer(peer)
    if scaling:
        check_scaling(scaling, out)
    folder = None if out is None else make_folder(out)
    on_status("loading")
    ours = OwnModel(model, workload)
    dtype = DTYPES[ours.crafter.precision]
    configs = peer_configs or configs_like(ours.crafter)
    dtypes = {} if peer is None else peer_dtypes(ours.device)
    report: dict[str, Any] = {
        "model": "bundled" if model is None else str(model),
        "machine": machine_facts(ours.device),
        "precision": ours.crafter.precision,
        "prompt": PROMPT,
        "guidance": GUIDANCE,
        "seconds": workload.seconds,
        "steps": workload.steps,
        "seed": workload.seed,
        "repeats": workload.repeats,
    }
    on_status("measuring the machine")
    report["peak_gflops"] = machine_peak(ours.device, dtype)
    with ExitStack() as processes:
        runners: dict[str, Runner] = {"ours": LocalRunner(ours, workload)}
        for name, peer_dtype in dtypes.items():
            on_status(f"loading {peer} {name}")
            runners[f"{peer} {name}"] = ProcessRunner(
                processes.enter_context(own_process().open()),
                *(workload, DiffusersModel, configs, peer_dtype, workload, ours.device),
            )
        figures = _measure(runners, workload, on_status)
    best = max(report["peak_gflops"].values())
    figures["ours"]["share_of_peak"] = {
        part: rate / best for part, rate in figures["ours"]["gflops"].items()
    }
    on_status("measuring memory")
    memory = {"ours": partial(in_own_process, our_memory, model, workload)}
    for name, peer_dtype in dtypes.items():
        memory[f"{peer} {name}"] = partial(
            in_own_process, peer_memory, configs, peer_dtype, workload
        )
    for name, runs in interleaved(memory, workload.repeats).items():
        figures[name]["peak_memory_mb"] = statistics.median(runs)
        figures[name]["runs"]["peak_memory_mb"] = runs
    report["ours"] = figures.pop("ours")
    report["peers"] = {
        name: {**found, "ratios": ratios(found, report["ours"])} for name, found in figures.items()
    }
    if cold:
        on_status("measuring with the model's own settings")
        timed(ours.make_with_defaults, ours.device)
        runs = [timed(ours.make_with_defaults, ours.device) for _ in range(workload.repeats)]
        report["as_shipped"] = statistics.median(runs)
        on_status("measuring cold starts")
        report["cold"] = statistics.median(
            cold_seconds(model, workload) for _ in range(workload.repeats)
        )
    if scaling:
        report["scaling"] = measure_scaling(
            ours, workload, scaling, partial(in_own_process, our_memory, model), on_status
        )
    if folder is not None:
        _write(report, folder)
    return report


def _measure(
    runners: Mapping[str, Runner], workload: Workload, on_status: OnStatus
) -> dict[str, dict[str, Any]]:
    """Seconds and operations of each subject, measured interleaved."""
    on_status("warming up")
    has = {name: runner.parts() for name, runner in runners.items()}
    each = [(name, part) for part in PARTS for name, runner in runners.items() if part in has[name]]
    flops = {(name, part): runners[name].flops(part) for name, part in each if part in COUNTED}
    jobs = {(name, part): partial(runners[name].seconds, part) for name, part in each}
    interleaved(jobs, 1)
    for runner in runners.values():
        runner.end_to_end(1)
    on_status("measuring parts")
    seconds = interleaved(jobs, workload.repeats)
    on_status("measuring end to end")
    end_to_end = interleaved(
        {name: runner.end_to_end for name, runner in runners.items()}, workload.repeats
    )
    return {
        name: _figures(
            {part: seconds[name, part] for part in has[name]},
            end_to_end[name],
            {part: flops[name, part] for part in COUNTED},
            workload,
        )
        for name in runners
    }


def _figures(
    parts: Mapping[str, list[float]],
    end_to_end: list[tuple[float, float]],
    flops: Mapping[str, int],
    workload: Workload,
) -> dict[str, Any]:
    """The figures of one subject from its measurements."""
    text = statistics.median(parts["text"])
    runs = {
        **parts,
        # the time until the last step without the text embedding
        "sampling": [max(0.0, until - text) for _, until in end_to_end],
        "end_to_end": [total for total, _ in end_to_end],
    }
    seconds = {part: statistics.median(found) for part, found in runs.items()}
    gflop = {part: count / 1e9 for part, count in flops.items()}
    return {
        "seconds": seconds,
        "runs": runs,
        "real_time_factor": seconds["end_to_end"] / workload.seconds,
        "gflop": gflop,
        "gflops": {part: count / seconds[part] for part, count in gflop.items()},
    }


def ratios(peer: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, float]:
    """Return peer / ours, of the seconds of common parts and of the peak memory. Above 1 ours is
    better."""
    found = {
        part: seconds / ours["seconds"][part]
        for part, seconds in peer["seconds"].items()
        if ours["seconds"].get(part)
    }
    if ours["peak_memory_mb"] > 0:
        found["peak_memory"] = peer["peak_memory_mb"] / ours["peak_memory_mb"]
    return found


def our_memory(model: ModelName, workload: Workload) -> float:
    """Return the MB that a sound needs beyond the loaded model. Call it in a fresh process."""
    return _memory(OwnModel(model, workload), workload)


def peer_memory(configs: AudioLDMConfigs, dtype: torch.dtype, workload: Workload) -> float:
    """Return the same as `our_memory` for the peer."""
    return _memory(
        DiffusersModel(configs, dtype, workload, choose_device(workload.device)), workload
    )


def _memory(subject: Subject, workload: Workload) -> float:
    steps = min(workload.steps, _MEMORY_STEPS)
    return memory_rise(
        subject.modules,
        lambda: subject.make(lambda: None, seconds=workload.seconds, steps=steps),
        subject.device,
    )


def cold_seconds(model: ModelName, workload: Workload) -> float:
    """Return the seconds of `soundcrafter generate` in a fresh process, from its start to the file,
    with the model's own settings except for the length."""
    with tempfile.TemporaryDirectory() as place:
        named = [] if model is None else ["--model", str(model)]
        command = [
            *(sys.executable, "-m", "soundcrafter", "generate", PROMPT, *named),
            *("--seconds", str(workload.seconds), "--seed", str(workload.seed)),
            *("--device", workload.device, "--precision", workload.precision),
            *("--output", str(Path(place) / "sound.wav")),
        ]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
    if done.returncode:
        raise ValueError(f"cold: generate failed: {done.stderr.strip()[-300:]}")
    return seconds


def _write(report: Mapping[str, Any], folder: Path) -> None:
    """Write bench.json, and if scaling was measured also scaling.csv and scaling.png."""
    rows = report.get("scaling", [])
    if rows:
        columns = list(rows[0])
        write_csv(folder / "scaling.csv", columns, [[row[c] for c in columns] for row in rows])
        plot_scaling(rows, folder / "scaling.png")
    write_json(folder / "bench.json", report)
