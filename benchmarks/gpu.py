"""How fast a model is on a GPU: as it is, with its U-Net's steps as a CUDA graph, and diffusers.

    python benchmarks/random_model.py --layout paper --out paper
    python benchmarks/gpu.py paper --batch 1 64 --peer

Seconds of a whole call, prompt to samples (median of --repeats, all ways in turns), sounds a
second, and ratios to the first way. Every step is guided, nothing is reused, one candidate. On a
CPU there are no graphs, and it runs all the same. The graph's way has not been run yet.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from soundcrafter.bench.diffusers_model import DiffusersModel, configs_like, peer_dtypes
from soundcrafter.bench.machine import machine_facts
from soundcrafter.bench.meters import interleaved, timed
from soundcrafter.bench.own_model import OwnModel
from soundcrafter.bench.workload import Subject, Workload
from soundcrafter.device import choose_device
from soundcrafter.diffusion.guidance import Model


class Graphed:
    """A U-Net whose kernels are launched as one CUDA graph, captured for each shape at its first
    call. The next call overwrites what it returned."""

    def __init__(self, unet: Model) -> None:
        self.unet = unet
        self._captured: dict[tuple[torch.Size, torch.Size], _Capture] = {}

    def __call__(self, latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        key = latent.shape, cond.shape
        if key not in self._captured:
            self._captured[key] = _Capture(self.unet, (latent, t, cond))
        return self._captured[key](latent, t, cond)


class _Capture:
    def __init__(self, unet: Model, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        latent, t, cond = self.inputs = tuple(tensor.clone() for tensor in inputs)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries choose their kernels before the capture
            for _ in range(3):
                unet(latent, t, cond)
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = unet(latent, t, cond)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.output


def with_graph(ours: OwnModel, call: Callable[[], float]) -> Callable[[], float]:
    """The call with the U-Net graphed for as long as it lasts; captured once, as a server would."""
    unet = ours.crafter.unet
    graphed = Graphed(unet.forward)

    def run() -> float:
        unet.forward = graphed  # type: ignore[method-assign]
        try:
            return call()
        finally:
            del unet.forward

    return run


def measure(
    model: str | None, request: Workload, batches: Sequence[int], *, with_peer: bool
) -> dict[int, dict[str, float]]:
    """Batch -> way -> seconds of a call."""
    ours = OwnModel(model, request)
    subjects: dict[str, Subject] = {"ours": ours}
    if with_peer:
        for name, dtype in peer_dtypes(ours.device).items():
            peer = DiffusersModel(configs_like(ours.crafter), dtype, request, ours.device)
            subjects[f"diffusers {name}"] = peer
    found = {}
    for batch in batches:
        jobs = {name: _call(subject, request, batch) for name, subject in subjects.items()}
        if ours.device.type == "cuda":
            jobs["ours, CUDA graph"] = with_graph(ours, jobs["ours"])
        for job in jobs.values():
            job()  # to warm up
        runs = interleaved(jobs, request.repeats)
        found[batch] = {name: statistics.median(seconds) for name, seconds in runs.items()}
    return found


def _call(subject: Subject, request: Workload, batch: int) -> Callable[[], float]:
    def work() -> object:
        return subject.make(lambda: None, seconds=request.seconds, steps=request.steps, batch=batch)

    return lambda: timed(work, subject.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--seconds", type=float, default=10.24)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--peer", action="store_true", help="diffusers' AudioLDM beside it")
    options = parser.parse_args()
    request = Workload(
        seconds=options.seconds,
        steps=options.steps,
        repeats=options.repeats,
        device=options.device,
        precision=options.precision,
    )
    found = measure(options.model, request, options.batch, with_peer=options.peer)
    facts = machine_facts(choose_device(options.device))
    print(f"{facts['gpu'] or facts['cpu']}, torch {facts['torch']}, precision {options.precision}")
    print(f"{request.seconds:g} s, {request.steps} steps, N {request.repeats} (median), seed 0")
    for batch, ways in found.items():
        first = next(iter(ways.values()))
        for name, seconds in ways.items():
            rate, ratio = batch / seconds, seconds / first
            print(f"batch {batch:3}  {name:20} {seconds:8.3f} s {rate:8.2f} sounds/s {ratio:6.2f}")


if __name__ == "__main__":
    main()
