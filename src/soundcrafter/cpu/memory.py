"""How glibc keeps freed memory, and gives it back to the system."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # options of mallopt
_LARGEST = 32 * 2**20  # bytes; the most that glibc allows for M_MMAP_THRESHOLD
_SLACK = 48 * 2**20  # bytes that `limit_heap` lets gather
_STATM = Path("/proc/self/statm")


def tune_malloc() -> None:
    """Let this process keep freed blocks of the sizes that networks use.

    glibc adapts to the sizes it sees freed, but until then it returns and requests the memory of
    the maps at every step. Does nothing without glibc.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST)


def trim_heap() -> None:
    """Give freed memory back to the system. Does nothing without glibc."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@contextmanager
def limit_heap(network: nn.Module) -> Iterator[None]:
    """Trim the heap during the network's forward whenever 48 MB of freed memory have gathered.

    glibc keeps freed blocks for reuse at their size; the maps of a decoder have another size at
    every level, so what is kept adds up to far more than is ever in use. Giving every block back
    at once would be slow. Does nothing but on Linux with glibc.
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
