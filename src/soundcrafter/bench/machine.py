"""The machine that a benchmark runs on: its description, and its peak arithmetic performance."""

import os
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from soundcrafter.bench.meters import timed

Work = Callable[[], object]

_PEAK_SECONDS = 0.3  # for each calculation of `machine_peak`, besides its warm-up
# From small to large, so that a slow machine stops early: the sides of square matrices, and
# (batch, channels, height, width) of feature maps of U-Net and VAE.
_MATMULS = {"cpu": (512, 1024, 2048), "gpu": (2048, 4096, 8192)}
_CONVS = {
    "cpu": ((2, 128, 64, 16), (2, 256, 128, 16), (1, 256, 256, 32)),
    "gpu": ((2, 256, 256, 32), (8, 512, 64, 64), (16, 512, 128, 128)),
}


@torch.inference_mode()
def machine_peak(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Return the GFLOP/s of the fastest of several matrix products ("matmul") and 3x3 convolutions
    in channels_last ("conv") on a device. All numbers are ones, as values do not affect speed."""
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
    """The GFLOP/s of the fastest of several (operations, call), ordered from small to large."""
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


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Return a description of the machine: processor, cores, torch, threads."""
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
