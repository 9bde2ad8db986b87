"""Training checkpoints: folders of safetensors and JSON, written atomically."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from soundcrafter.files import make_folder, read_json, try_lock, write_json

Tensors = Mapping[str, torch.Tensor]
IDENTITY = "identity.json"  # in a run's folder: what must be unchanged for it to resume


def run_folder(folder: Path, stage: str) -> Path:
    """Return the folder of a stage's checkpoints and logs, inside the model folder."""
    return folder / "training" / stage


def save_checkpoint(
    run: Path, step: int, tensors: Mapping[str, Tensors], state: Mapping[str, Any], keep: int
) -> Path:
    """Write `run/checkpoints/step-N` after N steps, and delete all but the newest `keep`.

    `tensors` maps a file's name to its tensors. The folder is written under a temporary name,
    synced and renamed, so that a kill at any moment leaves the last complete checkpoint. Raises
    ValueError if a file cannot be written.
    """
    target = run / "checkpoints" / f"step-{step:08d}"
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    for stale in target.parent.glob(".step-*.tmp"):
        with _try_lock_folder(stale) as free:
            if free:  # its process was killed
                shutil.rmtree(stale)
    try:
        make_folder(temporary)
        with _try_lock_folder(temporary):  # so others do not treat it as stale
            _write(temporary, tensors, {"step": step, **state})
            shutil.rmtree(target, ignore_errors=True)
            os.replace(temporary, target)
    except (
        ValueError,
        OSError,
    ) as error:  # a full disk, say
        # report the final name, not the temporary one
        raise ValueError(str(error).replace(str(temporary), str(target))) from None
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return target


def list_checkpoints(run: Path) -> list[Path]:
    """List the complete checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def checkpoint_step(path: Path) -> int:
    """Return the number of steps done in a checkpoint."""
    return int(path.name.removeprefix("step-"))


def load_checkpoint(
    path: Path, needed: Sequence[str] = ()
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Load the tensors by file and the state of a checkpoint.

    Raises ValueError if it is damaged or lacks one of the files `needed`.
    """
    tensors = {}
    file = path / "state.json"
    try:
        state = read_json(file)
        for file in sorted(path.glob("*.safetensors")):
            tensors[file.stem] = load_file(file)
        file = path / "state.json"
        if not isinstance(state, dict) or not isinstance(state.get("step"), int):
            raise ValueError("it names no step")
        for name in needed:
            file = path / f"{name}.safetensors"
            if name not in tensors:
                raise ValueError("missing")
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path}: damaged; delete it to resume from the previous checkpoint "
            f"({file.name}: {error})"
        ) from None
    return tensors, state


def _write(folder: Path, tensors: Mapping[str, Tensors], state: Mapping[str, Any]) -> None:
    """Write a checkpoint's files, to the disk. ValueError for one that cannot be written."""
    for name, group in tensors.items():
        file = folder / f"{name}.safetensors"
        plain = {key: value.detach().cpu().contiguous() for key, value in group.items()}
        try:
            save_file(plain, file)
            _sync(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file}: cannot write: {error}") from None
    write_json(folder / "state.json", state)
    _sync(folder / "state.json")


@contextmanager
def _try_lock_folder(folder: Path) -> Iterator[bool]:
    """Try to lock a folder that may already be gone; yields whether it was free."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # removed, or on Windows, which has no such locks
        yield True
        return
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


def _sync(file: Path) -> None:
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())
