"""How fast a model is on this machine, part by part, and how much memory it takes; the same of a
peer; and how both grow with the sound's length, the batch and the steps."""

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

from soundcrafter.bench.meter import (
    COUNTED,
    GUIDANCE,
    PARTS,
    PROMPT,
    Request,
    Say,
    Subject,
    in_turns,
    machine_facts,
    machine_peak,
    memory_rise,
    timed,
)
from soundcrafter.bench.ours import Model, Ours
from soundcrafter.bench.peer import (
    AudioLDMConfigs,
    Peer,
    check_peer,
    configs_like,
    peer_dtypes,
)
from soundcrafter.bench.runner import (
    LocalRunner,
    ProcessRunner,
    Runner,
    in_own_process,
    own_process,
)
from soundcrafter.bench.scaling import check_scaling, measure_scaling, plot_scaling
from soundcrafter.device import choose_device
from soundcrafter.files import make_folder, write_csv, write_json
from soundcrafter.precision import DTYPES

_MEMORY_STEPS = 3  # of the sampling whose memory is measured: later steps need no more


def bench(
    model: Model = None,
    request: Request | None = None,
    *,
    peer: str | None = None,
    peer_configs: AudioLDMConfigs | None = None,
    cold: bool = False,
    scaling: Mapping[str, Sequence[float]] | None = None,
    out: str | os.PathLike[str] | None = None,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Measure a model (a folder, a hub name, None for the bundled one); a report ready for JSON.

    Figures are medians of `request.repeats`: seconds after a warm-up, memory in MB (10^6 bytes) in
    a fresh process each time. A GFLOP is 10^9 operations. `peer` ("diffusers") is measured in turns
    with the model, in a process of its own, in `peer_configs`' sizes, by default the model's own
    where it is an AudioLDM, else AudioLDM-S. `cold`: also by the model's own steps, guidance and
    candidates, in this process ("as_shipped") and in a fresh one of the command line ("cold").
    `scaling` maps "seconds", "batch" and "steps" to the values that each takes while the others
    stay (SCALING). `out`: a folder for bench.json, and for scaling.csv and scaling.png. `say` hears
    what is done. ValueError for what cannot be measured.
    """
    request = request or Request()
    if peer is not None:
        check_peer(peer)
    if scaling:
        check_scaling(scaling, out)
    folder = None if out is None else make_folder(out)
    say("loading")
    ours = Ours(model, request)
    dtype = DTYPES[ours.crafter.precision]
    configs = peer_configs or configs_like(ours.crafter)
    dtypes = {} if peer is None else peer_dtypes(ours.device)
    report: dict[str, Any] = {
        "model": "bundled" if model is None else str(model),
        "machine": machine_facts(ours.device),
        "precision": ours.crafter.precision,
        "prompt": PROMPT,
        "guidance": GUIDANCE,
        "seconds": request.seconds,
        "steps": request.steps,
        "seed": request.seed,
        "repeats": request.repeats,
    }
    say("measuring the machine")
    report["peak_gflops"] = machine_peak(ours.device, dtype)
    with ExitStack() as processes:
        runners: dict[str, Runner] = {"ours": LocalRunner(ours, request)}
        for name, peer_dtype in dtypes.items():
            say(f"loading {peer} {name}")
            runners[f"{peer} {name}"] = ProcessRunner(
                processes.enter_context(own_process().open()),
                *(request, Peer, configs, peer_dtype, request, ours.device),
            )
        figures = _measure(runners, request, say)
    best = max(report["peak_gflops"].values())
    figures["ours"]["share_of_peak"] = {
        part: rate / best for part, rate in figures["ours"]["gflops"].items()
    }
    say("memory, in processes of their own")
    memory = {"ours": partial(in_own_process, our_memory, model, request)}
    for name, peer_dtype in dtypes.items():
        memory[f"{peer} {name}"] = partial(
            in_own_process, peer_memory, configs, peer_dtype, request
        )
    for name, runs in in_turns(memory, request.repeats).items():
        figures[name]["peak_memory_mb"] = statistics.median(runs)
        figures[name]["runs"]["peak_memory_mb"] = runs
    report["ours"] = figures.pop("ours")
    report["peers"] = {
        name: {**found, "ratios": ratios(found, report["ours"])} for name, found in figures.items()
    }
    if cold:
        say("as shipped")
        timed(ours.make_as_shipped, ours.device)
        runs = [timed(ours.make_as_shipped, ours.device) for _ in range(request.repeats)]
        report["as_shipped"] = statistics.median(runs)
        say("cold starts")
        report["cold"] = statistics.median(
            cold_seconds(model, request) for _ in range(request.repeats)
        )
    if scaling:
        report["scaling"] = measure_scaling(
            ours, request, scaling, partial(in_own_process, our_memory, model), say
        )
    if folder is not None:
        _write(report, folder)
    return report


def _measure(
    runners: Mapping[str, Runner], request: Request, say: Say
) -> dict[str, dict[str, Any]]:
    """Seconds and operations of each subject, all of them in turns."""
    say("warming up")
    has = {name: runner.parts() for name, runner in runners.items()}
    each = [(name, part) for part in PARTS for name, runner in runners.items() if part in has[name]]
    flops = {(name, part): runners[name].flops(part) for name, part in each if part in COUNTED}
    jobs = {(name, part): partial(runners[name].seconds, part) for name, part in each}
    in_turns(jobs, 1)
    for runner in runners.values():
        runner.whole(1)
    say("parts")
    seconds = in_turns(jobs, request.repeats)
    say("end to end")
    whole = in_turns({name: runner.whole for name, runner in runners.items()}, request.repeats)
    return {
        name: _figures(
            {part: seconds[name, part] for part in has[name]},
            whole[name],
            {part: flops[name, part] for part in COUNTED},
            request,
        )
        for name in runners
    }


def _figures(
    parts: Mapping[str, list[float]],
    whole: list[tuple[float, float]],
    flops: Mapping[str, int],
    request: Request,
) -> dict[str, Any]:
    """The figures of one subject, from all that was timed and counted."""
    text = statistics.median(parts["text"])
    runs = {
        **parts,
        # all until the last step, but for the text that comes before
        "sampling": [max(0.0, until - text) for _, until in whole],
        "end_to_end": [total for total, _ in whole],
    }
    seconds = {part: statistics.median(found) for part, found in runs.items()}
    gflop = {part: count / 1e9 for part, count in flops.items()}
    return {
        "seconds": seconds,
        "runs": runs,
        "real_time_factor": seconds["end_to_end"] / request.seconds,
        "gflop": gflop,
        "gflops": {part: count / seconds[part] for part, count in gflop.items()},
    }


def ratios(peer: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, float]:
    """Peer over ours: of the seconds of each part that both have, and of the peak memory. Above 1
    ours is the better one."""
    found = {
        part: seconds / ours["seconds"][part]
        for part, seconds in peer["seconds"].items()
        if ours["seconds"].get(part)
    }
    if ours["peak_memory_mb"] > 0:
        found["peak_memory"] = peer["peak_memory_mb"] / ours["peak_memory_mb"]
    return found


def our_memory(model: Model, request: Request) -> float:
    """MB that one sound takes above the loaded model; in this process, which should be new."""
    return _memory(Ours(model, request), request)


def peer_memory(configs: AudioLDMConfigs, dtype: torch.dtype, request: Request) -> float:
    """As `our_memory`, of the peer of those sizes."""
    return _memory(Peer(configs, dtype, request, choose_device(request.device)), request)


def _memory(subject: Subject, request: Request) -> float:
    steps = min(request.steps, _MEMORY_STEPS)
    return memory_rise(
        subject.modules,
        lambda: subject.make(lambda: None, seconds=request.seconds, steps=steps),
        subject.device,
    )


def cold_seconds(model: Model, request: Request) -> float:
    """Seconds of `soundcrafter generate` in a fresh process, from its start to the file; all but
    the sound's length as the model itself would have it."""
    with tempfile.TemporaryDirectory() as place:
        named = [] if model is None else ["--model", str(model)]
        command = [
            *(sys.executable, "-m", "soundcrafter", "generate", PROMPT, *named),
            *("--seconds", str(request.seconds), "--seed", str(request.seed)),
            *("--device", request.device, "--precision", request.precision),
            *("--output", str(Path(place) / "sound.wav")),
        ]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
    if done.returncode:
        raise ValueError(f"cold: generate failed: {done.stderr.strip()[-300:]}")
    return seconds


def _write(report: Mapping[str, Any], folder: Path) -> None:
    """bench.json, and where the scaling was measured scaling.csv and scaling.png."""
    rows = report.get("scaling", [])
    if rows:
        columns = list(rows[0])
        write_csv(folder / "scaling.csv", columns, [[row[c] for c in columns] for row in rows])
        plot_scaling(rows, folder / "scaling.png")
    write_json(folder / "bench.json", report)
