"""Shards: tar archives of samples in the conventions of WebDataset, local or fetched from a URL.

Members whose names agree up to the first dot are one sample. A shard is indexed once, and its
members are read by offset from then on: nothing is ever unpacked.
"""

import hashlib
import io
import logging
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from os import PathLike
from pathlib import Path, PurePosixPath

from soundcrafter.files import FilePart, cache_folder, locked, make_folder, one_line, replacing

_log = logging.getLogger(__name__)

SETTINGS = "__soundcrafter__"  # the name of a member that webdataset's reader passes over
MAX_SHARDS = 1_000_000
FETCH_THREADS = 4
_MAX_HEADER = 2**20  # bytes of a tar header, long names and attributes included
_BLOCK = 512  # bytes
_SHARDS = re.compile(r"\.tar(\?.*)?$", re.IGNORECASE)
_SAMPLE = re.compile(r"(?P<key>(?:.*/)?[^./]+)\.(?P<extension>[^/]+)")  # as webdataset splits names

Skipped = list[tuple[str, str]]  # (name, reason)


@dataclass(frozen=True)
class Sample:
    """The members of a shard that share a key."""

    key: str
    members: dict[str, FilePart] = field(default_factory=dict)  # by extension, in lower case


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The samples of a shard, in its order, and what was left out of it."""

    name: str  # relative to the folder or URL that all shards share
    samples: tuple[Sample, ...]
    settings: FilePart | None = None  # the member that describes all samples
    skipped: tuple[tuple[str, str], ...] = ()


def is_shards(data: str | PathLike[str]) -> bool:
    """Whether data is named as shards are: DIR/{000000..000009}.tar, or a URL of that kind."""
    return _SHARDS.search(os.fspath(data)) is not None


def open_shards(data: str | PathLike[str]) -> tuple[Path, list[Shard], Skipped]:
    """Index shards: the folder that their names are relative to, the shards, and those left out.

    Braces are expanded as by a shell. What has a URL is first fetched into the cache, once.
    Missing, truncated and damaged shards are left out, with a warning each. Raises ValueError for
    wrong braces, if a shard cannot be fetched, and if none is left.
    """
    root, names = _local_files(os.fspath(data))
    return root, *index_shards(root, names, os.fspath(data))


def first_shard(data: str | PathLike[str]) -> Shard | None:
    """The first shard that can be read, to see what the shards contain."""
    root, names = _local_files(os.fspath(data))
    for name in names:
        with suppress(ValueError):
            return index_shard(root / name, name)
    return None


def index_shards(root: Path, names: Sequence[str], data: str) -> tuple[list[Shard], Skipped]:
    """Index the shards of these names in a folder, as `open_shards` does; `data` is for errors."""
    shards: list[Shard] = []
    skipped: Skipped = []
    for name in names:
        try:
            shards.append(index_shard(root / name, name))
        except ValueError as error:
            skipped.append((name, str(error)))
    if not shards:
        first, reason = skipped[0] if skipped else (data, "it names none")
        raise ValueError(f"{data}: none of {len(names)} shards can be read; {first}: {reason}")
    warn_of_skipped(root, skipped)
    return shards, skipped


def warn_of_skipped(root: Path, skipped: Skipped) -> Skipped:
    """Log a warning for each shard that is left out; returns them."""
    for name, reason in skipped:
        _log.warning("warning: %s: skipped: %s", root / name, reason)
    return skipped


def expand_braces(pattern: str) -> list[str]:
    """Expand {000..009} and {a,b} as a shell does. Raises ValueError for unbalanced braces."""
    if "{" not in pattern:
        return [pattern]
    try:
        from braceexpand import braceexpand
    except ImportError:
        raise ValueError(
            f"{pattern}: braces need braceexpand: pip install 'soundcrafter[data]'"
        ) from None
    try:
        found = list(islice(braceexpand(pattern), MAX_SHARDS + 1))
    except ValueError as error:
        raise ValueError(f"{pattern}: {error}") from None
    if len(found) > MAX_SHARDS:
        raise ValueError(f"{pattern}: more than {MAX_SHARDS:,} shards")
    return found


def _local_files(pattern: str) -> tuple[Path, list[str]]:
    """The folder of the shards of a pattern, and their names relative to it; URLs are fetched."""
    places = expand_braces(pattern)
    bare = [place.partition("?")[0] if "://" in place else place for place in places]
    shared = os.path.commonprefix(bare)  # noqa: RUF071  # cut to a folder in the next line
    shared = shared[: shared.rfind("/") + 1]
    names = [place[len(shared) :] for place in bare]
    if "://" not in pattern:
        return Path(shared or "."), names
    paths = [PurePosixPath(name) for name in names]
    if "://" not in shared or any(".." in path.parts or path.is_absolute() for path in paths):
        raise ValueError(f"{pattern}: shards must share the beginning of their URL, without ..")
    folder = cache_folder() / "shards" / hashlib.sha256(shared.encode()).hexdigest()[:16]
    with (
        locked(folder, wait=True),  # other processes of this machine want the same shards
        ThreadPoolExecutor(FETCH_THREADS) as threads,
    ):
        if missing := sum(not (folder / name).is_file() for name in names):
            _log.warning("%s: fetching %d shards into %s", pattern, missing, folder)
        list(threads.map(lambda url, name: _fetch(url, folder / name), places, names))
    return folder, names


class _NothingThereError(Exception):
    """A URL leads nowhere."""


def _fetch(url: str, file: Path) -> None:
    """Copy what a URL leads to into a file, unless that exists; without anything, no file."""
    if file.is_file():
        return
    make_folder(file.parent)
    with suppress(_NothingThereError), replacing(file) as temporary:
        try:
            from fsspec.core import url_to_fs

            files, path = url_to_fs(url)
            files.get_file(path, str(temporary))
        except FileNotFoundError:
            raise _NothingThereError from None
        except ImportError as error:
            raise ValueError(
                f"{url}: {one_line(error)} (pip install 'soundcrafter[data]' for http)"
            ) from None
        except Exception as error:  # each kind of storage raises its own
            raise ValueError(f"{url}: cannot fetch: {one_line(error)}") from None


def index_shard(file: Path, name: str) -> Shard:
    """The samples of a shard. Raises ValueError if it is missing, truncated or damaged."""
    samples: dict[str, Sample] = {}
    settings: FilePart | None = None
    skipped: Skipped = []
    for member in _members(file):
        path = PurePosixPath(member.name)
        if member.isdir():
            continue
        if path.is_absolute() or ".." in path.parts:
            skipped.append((f"{name}/{member.name}", "its name leads out of the shard"))
            continue
        if not member.isreg() or member.issparse():
            skipped.append((f"{name}/{member.name}", "is not a plain file"))
            continue
        part = FilePart(file, member.offset_data, member.size, path.as_posix())
        if part.name == SETTINGS:
            settings = part
        elif split := _SAMPLE.fullmatch(part.name):
            sample = samples.setdefault(split["key"], Sample(split["key"]))
            sample.members.setdefault(split["extension"].lower(), part)
    return Shard(
        name=name, samples=tuple(samples.values()), settings=settings, skipped=tuple(skipped)
    )


def _members(file: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a complete tar archive. Raises ValueError for another one."""
    try:
        with _Headers(file) as stream:
            end = os.fstat(stream.fileno()).st_size
            with tarfile.open(fileobj=stream, mode="r:", errors="replace") as archive:
                read = 0
                for member in archive:
                    if member.size < 0 or member.offset < read:
                        raise ValueError(f"damaged at byte {read:,}")
                    read = member.offset_data + member.size
                    if read > end:
                        raise ValueError(
                            f"truncated: {member.name} ends at byte {read:,} of {end:,}"
                        )
                    yield member
                # tarfile takes the first unreadable header for the end of the archive
                stream.seek(archive.offset)
                if stream.read(_BLOCK) != bytes(_BLOCK):
                    cut = archive.offset + _BLOCK > end
                    what = "truncated: it has no end mark" if cut else "damaged"
                    raise ValueError(f"{what} at byte {archive.offset:,}")
    except FileNotFoundError:
        raise ValueError("no such file") from None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    except (tarfile.TarError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"truncated or not a tar archive: {one_line(error)}") from None


class _Headers(io.FileIO):
    """A tar archive of which only headers are read, none of them of an absurd length."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MAX_HEADER:
            raise ValueError(f"damaged: a header of {size:,} bytes at byte {self.tell():,}")
        return super().read(size) or b""
