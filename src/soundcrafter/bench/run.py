"""How fast a model is on this machine, part by part, and how much memory it takes; the same of a
peer; and how both grow with the sound's length, the batch and the steps."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from soundcrafter.bench.meter import (
    COUNTED,
    GUIDANCE,
    PROMPT,
    OnStep,
    Request,
    Say,
    Subject,
    count_flops,
    in_own_process,
    in_turns,
    machine_facts,
    machine_peak,
    memory_rise,
    synchronize,
    timed,
)
from soundcrafter.bench.peer import (
    AudioLDMConfigs,
    Peer,
    check_peer,
    configs_like,
    peer_dtypes,
)
from soundcrafter.bench.scaling import check_scaling, measure_scaling, plot_scaling
from soundcrafter.diffusion.guidance import guided
from soundcrafter.files import make_folder, write_csv, write_json
from soundcrafter.pipeline import SoundCrafter, choose_device
from soundcrafter.precision import DTYPES

Model = str | os.PathLike[str] | None
_MEMORY_STEPS = 3  # of the sampling whose memory is measured: later steps need no more


class Ours:
    """Our model as a subject: one candidate, guided at every step, nothing reused."""

    def __init__(self, model: Model, request: Request) -> None:
        self.crafter = SoundCrafter.from_pretrained(
            model, request.device, precision=request.precision
        )
        crafter = self.crafter
        self.shipped = crafter.sampling
        # every step the same work, whatever the model would choose
        crafter.sampling = replace(
            crafter.sampling,
            guidance_from=0.0,
            guidance_until=1.0,
            reuse=1,
            negative="",
            candidates=1,
        )
        self.request, self.device = request, crafter.device
        self.modules: tuple[nn.Module, ...] = (
            *(crafter.clap, crafter.unet, crafter.vae, crafter.vocoder),
        )

    def make(self, on_step: OnStep, *, seconds: float, steps: int, batch: int = 1) -> object:
        """`batch` sounds by `generate`; `on_step` is called after each sampling step."""
        return self.crafter.generate(
            [PROMPT] * batch,
            seconds=seconds,
            steps=steps,
            seed=self.request.seed,
            guidance=GUIDANCE,
            batch_size=batch,
            progress=lambda done, total: on_step(),
        )

    def make_as_shipped(self) -> object:
        """A sound by the model's own steps, guidance and candidates."""
        measured, self.crafter.sampling = self.crafter.sampling, self.shipped
        try:
            return self.crafter.generate(
                PROMPT, seconds=self.request.seconds, seed=self.request.seed
            )
        finally:
            self.crafter.sampling = measured

    @torch.inference_mode()
    def parts(self) -> Mapping[str, Callable[[], object]]:
        """Each part as a call, on tensors of the sizes that it gets within `make`.

        The U-Net's step is one of at most a window's length (`sampling.window`).
        """
        crafter, seconds, seed = self.crafter, self.request.seconds, self.request.seed
        latent = crafter.noise(seed, seconds).to(self.device)
        window = crafter.noise(seed, min(seconds, crafter.sampling.window)).to(self.device)
        cond = crafter.clap.embed_text([PROMPT])
        step = guided(crafter.unet, cond, crafter.unet.null_cond, GUIDANCE)
        t = crafter.schedule.sampling_times(1, crafter.sampling.spacing).to(self.device)
        mel = crafter.decode(latent)
        parts: dict[str, Callable[[], object]] = {
            "text": lambda: crafter.clap.embed_text([PROMPT]),
            "unet_step": lambda: step(window, t),
            "vae_decode": lambda: crafter.decode(latent),
            "vocoder": lambda: crafter.vocode(mel),
        }
        if crafter.clap.has_audio:
            length = round(seconds * crafter.sample_rate)
            samples = crafter.vocode(mel)[0, :length].float().cpu().numpy()
            parts["clap_score"] = lambda: crafter.clap.embed_audio(samples, crafter.sample_rate)
        return parts


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

    Seconds are medians of `request.repeats` after a warm-up, memory is MB (10^6 bytes), a GFLOP is
    10^9 operations. `peer` ("diffusers") is measured in turns with the model, in `peer_configs`'
    sizes, by default the model's own where it is an AudioLDM, else AudioLDM-S. `cold`: also by
    the model's own steps, guidance and candidates, in this process ("as_shipped") and in a fresh
    one of the command line ("cold"). `scaling` maps "seconds", "batch" and "steps" to the values
    that each takes while the others stay (SCALING). `out`: a folder for bench.json, and for
    scaling.csv and scaling.png. `say` hears what is done. ValueError for what cannot be measured.
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
    subjects: dict[str, Subject] = {"ours": ours}
    configs = peer_configs or configs_like(ours.crafter)
    dtypes = {} if peer is None else peer_dtypes(ours.device)
    for name, peer_dtype in dtypes.items():
        subjects[f"{peer} {name}"] = Peer(configs, peer_dtype, request, ours.device)
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
    figures = _measure(subjects, request, say)
    best = max(report["peak_gflops"].values())
    figures["ours"]["share_of_peak"] = {
        part: rate / best for part, rate in figures["ours"]["gflops"].items()
    }
    say("memory, in processes of their own")
    figures["ours"]["peak_memory_mb"] = in_own_process(our_memory, model, request)
    for name, peer_dtype in dtypes.items():
        figures[f"{peer} {name}"]["peak_memory_mb"] = in_own_process(
            peer_memory, configs, peer_dtype, request
        )
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
    subjects: Mapping[str, Subject], request: Request, say: Say
) -> dict[str, dict[str, Any]]:
    """Seconds and operations of each subject, all of them in turns."""
    say("warming up")
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    each = {name: subject.parts() for name, subject in subjects.items()}
    for part in {part: None for parts in each.values() for part in parts}:
        calls |= {(name, part): each[name][part] for name in subjects if part in each[name]}
    with torch.inference_mode():
        flops = {key: count_flops(call) for key, call in calls.items() if key[1] in COUNTED}
        for (name, _), call in calls.items():
            timed(call, subjects[name].device)
        for subject in subjects.values():
            subject.make(lambda: None, seconds=request.seconds, steps=1)
        say("parts")
        jobs = {key: partial(timed, call, subjects[key[0]].device) for key, call in calls.items()}
        seconds = in_turns(jobs, request.repeats)
    say("end to end")
    whole = in_turns(
        {name: partial(_time_whole, subject, request) for name, subject in subjects.items()},
        request.repeats,
    )
    return {
        name: _figures(
            {part: seconds[key] for key in seconds for part in [key[1]] if key[0] == name},
            whole[name],
            {part: flops[name, part] for part in COUNTED},
            request,
        )
        for name in subjects
    }


def _time_whole(subject: Subject, request: Request) -> tuple[float, float]:
    """Seconds of one sound, and of it until the last sampling step is done."""
    ticks = []

    def on_step() -> None:
        synchronize(subject.device)
        ticks.append(time.perf_counter())

    began = time.perf_counter()
    whole = timed(
        lambda: subject.make(on_step, seconds=request.seconds, steps=request.steps),
        subject.device,
    )
    return whole, ticks[-1] - began


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
