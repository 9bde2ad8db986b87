"""What a benchmark measures, and its meters: time, arithmetic and memory of a call, and what the
machine can do at most."""

import gc
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from soundcrafter.cpu.memory import trim_heap
from soundcrafter.device import choose_device
from soundcrafter.diffusion.sample import SamplingConfig
from soundcrafter.precision import choose_precision
from soundcrafter.request import resolve

K = TypeVar("K")
T = TypeVar("T")
Work = Callable[[], object]
OnStep = Callable[[], None]
Say = Callable[[str], None]  # hears what is being done

PROMPT = "a dog barks twice while rain falls on a tin roof"
GUIDANCE = 2.5  # any but 1: each step then sees the prompt and no prompt, a batch of 2
PARTS = {  # name -> words
    "text": "text embedding",
    "unet_step": "guided U-Net step",
    "sampling": "sampling",
    "vae_decode": "VAE decoder",
    "vocoder": "vocoder",
    "clap_score": "CLAP score",
    "end_to_end": "end to end",
}
COUNTED = ("unet_step", "vae_decode", "vocoder")  # parts whose operations are counted

_PEAK_SECONDS = 0.3  # given to each calculation of `machine_peak`, beside its warm-up
# Small to large, for a slow machine stops early: sides of square matrices;
# (batch, channels, height, width) of maps, of the sizes that U-Net and VAE have.
_MATMULS = {"cpu": (512, 1024, 2048), "gpu": (2048, 4096, 8192)}
_CONVS = {
    "cpu": ((2, 128, 64, 16), (2, 256, 128, 16), (1, 256, 256, 32)),
    "gpu": ((2, 256, 256, 32), (8, 512, 64, 64), (16, 512, 128, 128)),
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is measured: one sound. ValueError for what cannot be made."""

    seconds: float = 10.24  # of sound
    steps: int = 25  # of sampling, each guided
    repeats: int = 3  # of which the median counts
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"  # of our model: auto, fp32, bf16, fp16

    def __post_init__(self) -> None:
        resolve(SamplingConfig(), PROMPT, seconds=self.seconds, seed=self.seed, steps=self.steps)
        if self.repeats < 1:
            raise ValueError(f"repeats: got {self.repeats}; at least 1")
        choose_precision(self.precision, choose_device(self.device))


class Subject(Protocol):
    """What can be measured: our model, or a peer."""

    device: torch.device
    modules: tuple[nn.Module, ...]  # all that has weights

    def make(self, on_step: OnStep, *, seconds: float, steps: int, batch: int = 1) -> object:
        """`batch` sounds, prompt to samples; `on_step` is called after each sampling step."""

    def parts(self) -> Mapping[str, Callable[[], object]]:
        """Some of PARTS as calls, on tensors of the sizes that they get within `make`."""


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def timed(work: Work, device: torch.device) -> float:
    """Seconds that a call takes, with all that it starts on the device."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def in_turns(jobs: Mapping[K, Callable[[], T]], repeats: int) -> dict[K, list[T]]:
    """What each job returns, `repeats` times: the jobs take turns, so that a machine that slows
    down is fair to all."""
    found: dict[K, list[T]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            found[name].append(job())
    return found


def count_flops(work: Work) -> int:
    """Floating point operations of the matrix products, convolutions and attention of a call; a
    multiplication and an addition are two."""

    def of_attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)

    # torch's own table lacks a CPU's attention
    more = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: of_attention}
    with FlopCounterMode(display=False, custom_mapping=more) as counter:
        work()
    return int(counter.get_total_flops())


@torch.inference_mode()
def machine_peak(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """GFLOP/s of the fastest of a few large matrix products ("matmul") and 3x3 convolutions in
    channels_last ("conv") in that dtype on that device. No draw matters: the numbers are ones."""
    kind = "cpu" if device.type == "cpu" else "gpu"
    matmuls, convs = [], []
    for side in _MATMULS[kind]:
        left = torch.ones(side, side, device=device, dtype=dtype)
        matmuls.append((2 * side**3, lambda left=left: left @ left))
    for batch, channels, height, width in _CONVS[kind]:
        x = torch.ones(batch, channels, height, width, device=device, dtype=dtype)
        conv = nn.Conv2d(channels, channels, 3, padding=1).to(device, dtype)
        x = x.to(memory_format=torch.channels_last)
        conv = conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        flops = 2 * 9 * channels**2 * batch * height * width
        convs.append((flops, lambda x=x, conv=conv: conv(x)))
    return {"matmul": _fastest(matmuls, device), "conv": _fastest(convs, device)}


def _fastest(works: Iterable[tuple[int, Work]], device: torch.device) -> float:
    """GFLOP/s of the fastest call of works (operations, call), given from small to large."""
    best = 0.0
    for flops, work in works:
        if best and flops / (best * 1e9) > _PEAK_SECONDS:
            break
        timed(work, device)
        until = time.perf_counter() + _PEAK_SECONDS
        while True:
            best = max(best, flops / timed(work, device) / 1e9)
            if time.perf_counter() > until:
                break
    return best


def memory_rise(modules: Iterable[nn.Module], work: Work, device: torch.device) -> float:
    """MB (10^6 bytes) that a call needs at its peak above what the loaded modules take.

    On CUDA what torch allocates there; elsewhere the resident memory of this process, which should
    do nothing else.
    """
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.sum()  # a page that was never touched is not resident yet
    synchronize(device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    trim_heap()  # what loading has freed would count as the model's
    before = _resident()
    peak = _peak_by_kernel(work) if _reset_kernel_peak() else _peak_by_sampling(work)
    return max(0, peak - before) / 1e6


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _reset_kernel_peak() -> bool:
    """Let Linux count this process's peak anew; False where there is no such thing."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak_by_kernel(work: Work) -> int:
    work()
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def _peak_by_sampling(work: Work) -> int:
    """The highest resident size seen, every 2 ms."""
    peak, done = _resident(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return peak


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What figures were measured on: processor, cores, torch, threads."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return {
        "cpu": _cpu_name(),
        "cores": len(cores) or os.cpu_count(),
        "gpu": gpu,
        "platform": platform.platform(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "device": str(device),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
