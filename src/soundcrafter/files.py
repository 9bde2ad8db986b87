"""Reading and writing files: atomic replacement, locks, JSON, JSON Lines, csv, hashes, cache."""

import csv
import errno
import filecmp
import hashlib
import io
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from textwrap import shorten
from typing import Any, BinaryIO, TextIO

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"  # in a folder that a process has locked, see `locked`


def one_line(error: object, width: int = 300) -> str:
    """Format an error as one line, truncated to `width`; its class name if it has no message."""
    text = shorten(str(error), width, placeholder=" ...")
    return text or type(error).__name__


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, says that no space is left."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


@dataclass(frozen=True)
class FilePart:
    """A part of a file that is read as a file of its own, such as a member of a tar archive."""

    file: Path
    offset: int  # bytes
    size: int  # bytes
    name: str  # of the part

    def __str__(self) -> str:
        return f"{self.file}/{self.name}"

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    def open(self) -> BinaryIO:
        """Open it for reading; nothing else of the file can be read. Raises ValueError."""
        try:
            return io.BufferedReader(_Window(self))
        except OSError as error:
            raise ValueError(f"{self}: {error.strerror or error}") from None

    def read(self, limit: int) -> bytes:
        """Read all of it. Raises ValueError if it has more than `limit` bytes, or fewer than its
        size."""
        if self.size > limit:
            raise ValueError(f"{self}: too large: {self.size:,} bytes; allowed: {limit:,}")
        with self.open() as stream:
            content = stream.read()
        if len(content) < self.size:
            raise ValueError(f"{self}: truncated: {len(content):,} of {self.size:,} bytes")
        return content


class _Window(io.RawIOBase):
    """The bytes of a part of a file."""

    def __init__(self, part: FilePart) -> None:
        self._file = open(part.file, "rb", buffering=0)  # noqa: SIM115  # closed with the window
        self._offset, self._size, self._place = part.offset, part.size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(start + offset, 0)
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(self._size - self._place, 0)]
        self._file.seek(self._offset + self._place)
        count = self._file.readinto(view) or 0
        self._place += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file beside `path` that replaces `path` at the end, atomically.

    If anything fails, the temporary file is removed and an old file at `path` is kept. An OSError
    becomes a ValueError that names `path`; a folder that cannot be written is detected at once.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors creates files that only their owner can read
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"{path}: cannot write: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # usually it has been renamed, or was never created
            temporary.unlink()


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create a folder and its parents if they do not exist. Raises ValueError if that fails."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path}: cannot create the folder: {error.strerror}") from None
    return path


@contextmanager
def locked(folder: str | os.PathLike[str], *, wait: bool = False) -> Iterator[Path]:
    """Lock a folder (created if needed) so that only this process writes to it.

    The lock is released when the process exits, even if it is killed. If another process holds it:
    wait if `wait`, else raise ValueError with its id and start time. On release the lock file is
    removed, and the folder too if it was created here and is empty.
    """
    folder = Path(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    file = make_folder(folder) / LOCK
    try:
        stream = _open_locked(file, wait)
        if stream is None:
            raise ValueError(
                f"{folder}: {_holder(file)} is writing to it; wait until it ends, or choose a "
                "different output folder"
            )
        with stream:
            began = datetime.now().astimezone().isoformat(" ", "seconds")
            stream.truncate(0)
            stream.write(f"process {os.getpid()} (since {began})")
            stream.flush()
            try:
                yield folder
            finally:
                file.unlink(missing_ok=True)
    finally:
        for place in made:
            with suppress(OSError):  # there is something in it
                place.rmdir()


def try_lock(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file or folder until it is closed; returns False if another process holds it.

    On systems without locks (Windows, some network disks) every process succeeds.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _open_locked(file: Path, wait: bool) -> TextIO | None:
    """Open and lock a file; returns None if another process holds it."""
    while True:
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(file).st_mode):  # opening a pipe would wait for a reader
                raise ValueError(f"{file}: cannot write: it exists and is not a file")
        try:
            stream = open(file, "a", encoding="utf-8")  # noqa: SIM115  # open as long as locked
        except OSError as error:
            raise ValueError(f"{file}: cannot write: {error.strerror}") from None
        if not try_lock(stream.fileno(), wait=wait):
            stream.close()
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), os.stat(file)):
                return stream
        stream.close()  # its holder ended and removed it before it was locked here


def _holder(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8") or "another process"
    except OSError:  # it ended meanwhile
        return "another process"


def cache_folder() -> Path:
    """Return the folder for downloaded and converted models, which may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "soundcrafter"


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically. Raises ValueError if it cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write JSON in the format of `to_json`, atomically."""
    write_text(path, to_json(data))


def write_csv(
    path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Write a csv table with a header row of `columns`, atomically."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, stream.getvalue())


def to_json(data: Any) -> str:
    """Format as JSON, indented, in the order of the keys."""
    return json.dumps(data, indent=2) + "\n"


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file. Raises ValueError naming the file if it is missing or malformed."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None


def read_json_lines(path: str | os.PathLike[str]) -> list[Any]:
    """Read the entries of a JSON Lines file; none if the file does not exist.

    A last line without a line end was cut short by an interruption and is skipped. Raises
    ValueError if any other line is not JSON.
    """
    path = Path(path)
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        entries = [json.loads(line) for line in lines if line.endswith("\n")]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON Lines: {error}") from None
    if not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path}: not JSON Lines: every line must be an object")
    return entries


def append_json_line(path: str | os.PathLike[str], entry: Any) -> None:
    """Append an entry to a JSON Lines file, creating the file if it does not exist.

    Raises ValueError if it cannot be written.
    """
    try:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise ValueError(f"{path}: cannot write: {error.strerror or error}") from None


def same_file(one: str, other: str) -> bool:
    """Whether two paths, perhaps on different machines, mean the same file or folder.

    They do if they are equal, or if their last parts and, if both exist, their contents are equal.
    """
    first, second = Path(one), Path(other)
    if one == other or first.name != second.name or not (first.exists() and second.exists()):
        return first.name == second.name
    if first.is_file() and second.is_file():
        return filecmp.cmp(first, second, shallow=False)
    return first.samefile(second)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
