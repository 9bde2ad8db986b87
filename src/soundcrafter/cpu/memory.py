"""Tune how glibc keeps freed memory and returns it to the system."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # options of mallopt
_MAX_MMAP_THRESHOLD = 32 * 2**20  # bytes; glibc's upper limit
_SLACK = 48 * 2**20  # bytes of freed memory that `limit_heap` tolerates
_STATM = Path("/proc/self/statm")


def tune_malloc() -> None:
    """Let this process keep freed blocks of the sizes of feature maps.

    glibc adapts its thresholds to the sizes that are freed, but until then it returns the memory of
    feature maps to the system and requests it again at every step. No effect without glibc.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _MAX_MMAP_THRESHOLD)


def trim_heap() -> None:
    """Return freed memory to the system. No effect without glibc."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@contextmanager
def limit_heap(network: nn.Module) -> Iterator[None]:
    """During the network's forward, trim the heap whenever 48 MB of freed memory accumulate.

    glibc keeps freed blocks to reuse them for allocations of similar size. The feature maps of a
    decoder have a different size at every level, so the freed blocks would add up to far more than
    is ever in use. Returning every block at once would be slow. No effect except on Linux with
    glibc.
    """
    if _glibc() is None or not _STATM.exists():
        yield
        return
    trim_heap()
    least = _resident()

    def check(*_: object) -> None:
        nonlocal least
        now = _resident()
        if now - least > _SLACK:
            trim_heap()
            now = least = _resident()
        least = min(least, now)

    hooks = [module.register_forward_hook(check) for module in network.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _resident() -> int:
    """The resident memory of this process in bytes."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "malloc_trim") else None
