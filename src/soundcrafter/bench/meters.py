"""Measuring a call: its time, its floating point operations and its memory."""

import gc
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from soundcrafter.cpu.memory import trim_heap

K = TypeVar("K")
T = TypeVar("T")
Work = Callable[[], object]


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def timed(work: Work, device: torch.device) -> float:
    """Return the seconds that a call takes, including the work that it starts on the device."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def interleaved(jobs: Mapping[K, Callable[[], T]], repeats: int) -> dict[K, list[T]]:
    """Run all jobs one after another, `repeats` times, and return the results of each.

    The jobs are interleaved so that a change in the machine's speed affects all of them.
    """
    found: dict[K, list[T]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            found[name].append(job())
    return found


def count_flops(work: Work) -> int:
    """Return the floating point operations of the matrix products, convolutions and attention in a
    call. A multiplication and an addition count as two."""

    def of_attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)

    # torch's table lacks attention on a CPU
    more = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: of_attention}
    with FlopCounterMode(display=False, custom_mapping=more) as counter:
        work()
    return int(counter.get_total_flops())


def memory_rise(modules: Iterable[nn.Module], work: Work, device: torch.device) -> float:
    """Return the peak memory in MB (10^6 bytes) of a call, beyond that of the loaded modules.

    On CUDA it is the memory allocated by torch; otherwise the resident memory of this process,
    which should do nothing else at the same time.
    """
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.sum()  # a page that was never accessed is not resident yet
    synchronize(device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    trim_heap()  # memory freed after loading must not count as resident
    before = _resident()
    peak = _peak_by_kernel(work) if _reset_kernel_peak() else _peak_by_sampling(work)
    return max(0, peak - before) / 1e6


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _reset_kernel_peak() -> bool:
    """Reset the peak resident size that Linux records; False on other systems."""
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
    """The highest resident size, sampled every 2 ms."""
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
