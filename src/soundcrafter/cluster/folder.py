"""An output folder on this machine, or in any storage that fsspec knows."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from soundcrafter.files import make_folder, replacing

# A file of these appears only when it has been written to its end.
_WHOLE = {
    "memory",
    "s3",
    "s3a",
    "gs",
    "gcs",
    "az",
    "abfs",
    "abfss",
    "adl",
    "oss",
    "oci",
    "r2",
    "hf",
}


@dataclass(frozen=True)
class OutputFolder:
    """A folder whose files are either whole or absent."""

    url: str  # a path, or a URL such as s3://bucket/folder

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """The file system, and the path in it. ValueError for an unknown one."""
        from fsspec.core import url_to_fs

        try:
            system, path = url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{self.url}: {error}") from None
        return system, str(path).rstrip("/")

    @property
    def local(self) -> Path | None:
        """Its path on this machine, if it is there."""
        system, path = self._place
        return Path(path) if "file" in _protocols(system) else None

    def names(self, below: str = "") -> set[str]:
        """The names of the files in it, or in a folder below it."""
        system, path = self._place
        system.invalidate_cache()
        try:
            found = system.ls(f"{path}/{below}".rstrip("/"), detail=True)
        except FileNotFoundError:
            return set()
        files = (str(one["name"]) for one in found if one["type"] == "file")
        names = {file.rpartition("/")[2] for file in files}
        return {name for name in names if not name.startswith(".")}  # not those half written

    def read(self, name: str) -> bytes:
        system, path = self._place
        return bytes(system.cat_file(f"{path}/{name}"))

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whose folder may not exist yet, atomically."""
        if self.local is not None:
            file = self.local / name
            make_folder(file.parent)
            with replacing(file) as temporary:
                temporary.write_bytes(data)
            return
        system, path = self._place
        file_path = f"{path}/{name}"
        parent, _, last = file_path.rpartition("/")
        system.makedirs(parent, exist_ok=True)
        if _protocols(system) & _WHOLE:
            system.pipe_file(file_path, data)
            return
        temporary_path = f"{parent}/.{last}.{os.getpid()}.tmp"
        system.pipe_file(temporary_path, data)
        system.mv(temporary_path, file_path)

    def remove(self, name: str) -> None:
        system, path = self._place
        system.rm_file(f"{path}/{name}")


def _protocols(system: Any) -> set[str]:
    found = system.protocol
    return {found} if isinstance(found, str) else set(found)
