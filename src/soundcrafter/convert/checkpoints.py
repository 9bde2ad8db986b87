"""Find, download, verify and read published weights, without running code."""

import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from soundcrafter.files import cache_folder, file_sha256, make_folder, one_line, replacing


@dataclass(frozen=True)
class Published:
    """Where a checkpoint is published."""

    url: str
    sha256: str = ""  # its hash or a prefix of it; "" if none was published


def find_checkpoint(published: Published, given: Path | None, sha256: str | None) -> Path:
    """The given file, or the published one, which is downloaded into the cache once.

    Its hash is compared with `sha256` (or a prefix) or, for the published file, with the published
    hash. Raises ValueError for a missing file, another hash, and a download that fails.
    """
    path = given or cache_folder() / published.url.rpartition("/")[2].replace("%3D", "=")
    if given is None and not path.is_file():
        make_folder(path.parent)
        try:
            with replacing(path) as temporary:
                urllib.request.urlretrieve(published.url, temporary)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{published.url}: cannot download ({error}); download it elsewhere and name the "
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
    """The tensors of a .safetensors file or a torch file.

    In a torch file they may be under "state_dict" or "model". No code of the file runs. Raises
    ValueError if it cannot be read this way.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        found = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        reason = f"it would call {found[1]}" if found else one_line(error, 120)
        raise ValueError(f"{path}: contains more than tensors, or is truncated: {reason}") from None
    state = None
    if isinstance(data, dict):
        state = data.get("state_dict", data.get("model", data))
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path}: not a state dict of tensors")
    return state


def load_strict(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load a state dict. Raises ValueError naming the first keys or shapes that do not match."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = one_line(error)
        raise ValueError(f"{path}: another layout than expected: {reason}") from None
