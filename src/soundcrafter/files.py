"""Files that are whole or not there: written to a temporary name and renamed; hashes; JSON, csv."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path`, renamed to it at the end: never half a file.

    Whatever goes wrong, the temporary file is removed and an old file at `path` stays. OSError
    becomes a ValueError that names `path`, at once where its folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # as every new file: safetensors writes what only its owner can read
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"{path}: cannot write: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # most often it was renamed; where its folder is none, never made
            temporary.unlink()


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and those above it where they are not there. ValueError where that fails."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path}: cannot make the folder: {error.strerror}") from None
    return path


def cache_folder() -> Path:
    """Where what was fetched or converted once is kept: XDG's cache folder. Not made here."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "soundcrafter"


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text, whole or not at all. ValueError where it cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write JSON as `to_json` words it, whole or not at all."""
    write_text(path, to_json(data))


def write_csv(
    path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Write a csv table with a head of `columns`, whole or not at all."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, stream.getvalue())


def to_json(data: Any) -> str:
    """JSON for people and machines: indented, key order kept."""
    return json.dumps(data, indent=2) + "\n"


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file. Raises ValueError naming the file where it is missing or malformed."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None


def read_json_lines(path: str | os.PathLike[str]) -> list[Any]:
    """The entries of a JSON Lines file; none where there is no file.

    A last line without its line end, which an interruption cut short, is left out. Raises
    ValueError where another line is not JSON.
    """
    path = Path(path)
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise ValueError(f"{path}: not JSON Lines: {error}") from None


def append_json_line(path: str | os.PathLike[str], entry: Any) -> None:
    """Append an entry to a JSON Lines file, which is created where it does not exist."""
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry) + "\n")


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
