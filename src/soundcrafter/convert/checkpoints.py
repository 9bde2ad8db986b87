"""Published weights of embedders: found, fetched once, checked, read without running code."""

import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from soundcrafter.files import cache_folder, file_sha256, make_folder, replacing


@dataclass(frozen=True)
class Published:
    """Where a checkpoint is published."""

    url: str
    sha256: str = ""  # its hash or the beginning of it; "" where none was published


def find_checkpoint(published: Published, given: Path | None, sha256: str | None) -> Path:
    """The file given, or the published one, fetched into the cache where it is not there yet.

    `sha256` (or a beginning of it) is checked where it is known. Raises ValueError for a missing
    file, another hash, and where the address cannot be reached.
    """
    path = given or cache_folder() / published.url.rpartition("/")[2].replace("%3D", "=")
    if given is None and not path.is_file():
        make_folder(path.parent)
        try:
            with replacing(path) as temporary:
                urllib.request.urlretrieve(published.url, temporary)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{published.url}: cannot be fetched ({error}); fetch it elsewhere and name the "
                "file with --checkpoint"
            ) from None
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    wanted = sha256 or ("" if given else published.sha256)
    found = file_sha256(path)
    if not found.startswith(wanted.lower()):
        raise ValueError(f"{path}: its sha256 is {found}, expected {wanted}")
    return path


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, or of a torch file (bare, or under "state_dict" or "model");
    no code of the file runs. ValueError where it cannot be read so."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle trips torch up in any way
        found = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        reason = f"it would call {found[1]}" if found else " ".join(str(error).split())[:120]
        raise ValueError(
            f"{path}: not a checkpoint of tensors alone, or cut short: {reason}"
        ) from None
    state = None
    if isinstance(data, dict):
        state = data.get("state_dict", data.get("model", data))
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path}: not a state dict of tensors")
    return state


def load_strict(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load a state dict; ValueError naming the first keys or shapes that do not fit."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: not this embedder's layout: {reason}") from None
