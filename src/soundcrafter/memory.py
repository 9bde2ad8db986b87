"""How freed memory is given back."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

_TRIM, _MAP = -1, -3  # glibc's names for the settings: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
_LARGEST = 32 * 2**20  # bytes; the most that glibc allows for the second
_SLACK = 48 * 2**20
_STATM = Path("/proc/self/statm")


def keep_blocks() -> None:
    """Let this process keep freed blocks of the sizes that networks use: glibc learns to from what
    is freed, but until then gives maps back at every step, to get them again."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_MAP, _LARGEST)
        libc.mallopt(_TRIM, 2 * _LARGEST)


@contextmanager
def little_kept(network: nn.Module) -> Iterator[None]:
    """Within, what the network's modules free goes back to the system whenever some 48 MB of it
    have gathered.

    glibc keeps freed blocks for others of their size; the maps of a decoder have a size for each
    level, and what all of them leave adds up to far more than is ever in use. To give every block
    back at once takes time, for it must be got anew. Does nothing but on Linux with glibc.
    """
    libc = _glibc()
    if libc is None or not _STATM.exists():
        yield
        return
    libc.malloc_trim(0)
    least = _resident()

    def check(*_: object) -> None:
        nonlocal least
        now = _resident()
        if now - least > _SLACK:
            libc.malloc_trim(0)
            now = _resident()
            least = now
        least = min(least, now)

    hooks = [module.register_forward_hook(check) for module in network.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def return_freed() -> None:
    """Give what was freed back to the system, where glibc has kept it."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _resident() -> int:
    """Bytes of this process that are in memory, as Linux has them."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "malloc_trim") else None
