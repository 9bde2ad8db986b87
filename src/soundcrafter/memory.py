"""How large blocks of memory are got and given back."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM, _MAP = -1, -3  # glibc's names for the settings: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
_LARGE = 4 * 2**20  # bytes
_MOST = 32 * 2**20  # where glibc's own setting ends up after a few large blocks


@contextmanager
def returned_at_once() -> Iterator[None]:
    """Within, large blocks that are freed go back to the system, and so does what was freed before.

    glibc keeps freed blocks for others of their size; the maps of a decoder have a size for each
    level, and what all of them leave adds up to far more than is ever in use. To get every block
    anew takes time, so this is not for the U-Net. Does nothing but on Linux with glibc.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.malloc_trim(0)
    libc.mallopt(_MAP, _LARGE)
    try:
        yield
    finally:
        libc.mallopt(_MAP, _MOST)
        libc.mallopt(_TRIM, 2 * _MOST)  # else a heap is given back and got again at every step


def return_freed() -> None:
    """Give what was freed back to the system, where glibc has kept it."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "malloc_trim") else None
