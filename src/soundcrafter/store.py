"""The model folder: one `config.json`, one safetensors file a part; strict, hashed, no pickle."""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from soundcrafter.config import PARTS, check_together
from soundcrafter.diffusion.sample import SamplingConfig
from soundcrafter.diffusion.schedule import DiffusionConfig
from soundcrafter.files import (
    file_sha256,
    make_folder,
    read_json,
    replacing,
    to_json,
)
from soundcrafter.settings import from_dict, to_dict
from soundcrafter.text import Tokenizer

FORMAT = 1
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class PartEntry:
    """What `config.json` says of one part."""

    config: Any  # the part's settings
    sha256: str  # of its file
    training_id: str  # of its weights, whatever dtype they are stored in
    trained_against: Mapping[str, str]  # part -> training id; "": not known, it was not there


@dataclass(frozen=True)
class ModelFolder:
    """A model folder that was read and checked; weights are loaded part by part."""

    path: Path
    parts: Mapping[str, PartEntry]
    diffusion: DiffusionConfig
    sampling: SamplingConfig
    tokenizer_sha256: str | None

    def require(self, *names: str) -> None:
        """Raise ValueError where a named part is missing."""
        missing = [name for name in names if name not in self.parts]
        if missing:
            raise ValueError(
                f"{self.path}: this model has no {', '.join(missing)} yet "
                f"(it has: {', '.join(self.parts) or 'nothing'})"
            )

    def load(self, name: str) -> nn.Module:
        """The network of a part in fp32 on the CPU, its file's hash verified, loaded strictly."""
        self.require(name)
        entry = self.parts[name]
        file = self.path / f"{name}.safetensors"
        _verify(file, entry.sha256)
        module = PARTS[name].build(entry.config)
        try:
            module.load_state_dict(load_file(file), strict=True)
        except (RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{file}: does not fit its config: {reason[:300]}") from None
        return module.eval()

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer of the text tower, its file's hash verified."""
        file = self.path / TOKENIZER
        if self.tokenizer_sha256 is None:
            raise ValueError(f"{self.path}: this model has no {TOKENIZER}")
        _verify(file, self.tokenizer_sha256)
        return Tokenizer.load(file)

    def check_against(self, name: str, trained_against: Mapping[str, str]) -> None:
        """Raise ValueError where `name` was trained against other parts than those here."""
        for other, wanted in trained_against.items():
            if other in self.parts and self.parts[other].training_id != wanted:
                found = self.parts[other].training_id
                raise ValueError(
                    f"{self.path}: {name} was trained against {other} {wanted}, "
                    f"but this folder holds {other} {found}"
                )


def open_folder(path: str | os.PathLike[str], *, together: bool = True) -> ModelFolder:
    """Read `config.json` of a model folder and check that its files and parts belong together.

    Raises ValueError, naming what is wrong: no folder, no config, an unknown key, a missing file,
    parts of different models. Weights are not read here. `together` False allows parts that were
    not trained against each other: a kill between two of them leaves that.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path}: no such model folder")
    if not (path / "config.json").is_file():
        raise ValueError(f"{path}: not a model folder: it has no config.json")
    folder = _parse(path, read_json(path / "config.json"))
    for name in folder.parts:
        if not (path / f"{name}.safetensors").is_file():
            raise ValueError(f"{path}: {name}.safetensors is missing")
    if folder.tokenizer_sha256 is not None and not (path / TOKENIZER).is_file():
        raise ValueError(f"{path}: {TOKENIZER} is missing")
    check_together({name: entry.config for name, entry in folder.parts.items()})
    if together:
        for name, entry in folder.parts.items():
            folder.check_against(name, entry.trained_against)
    return folder


def read_parts(path: str | os.PathLike[str]) -> Mapping[str, PartEntry]:
    """What `config.json` says of each part; empty without one. Unlike `open_folder`, this also
    reads a folder whose parts do not belong together (a kill between two of them leaves that)."""
    file = Path(path) / "config.json"
    return _parse(Path(path), read_json(file)).parts if file.is_file() else {}


def save_part(
    path: str | os.PathLike[str],
    name: str,
    module: nn.Module,
    config: Any,
    *,
    trained_against: Mapping[str, str] | None = None,
    training_id: str | None = None,
    tokenizer: Tokenizer | None = None,
    diffusion: DiffusionConfig | None = None,
    sampling: SamplingConfig | None = None,
    dtype: torch.dtype = torch.float32,
    adopt: bool = False,
) -> str:
    """Write one part into a model folder, made if need be, and return its training id.

    The training id is a hash of the fp32 weights; pass it where weights are only stored anew in
    another dtype. `trained_against` names the ids of the parts that PARTS says it depends on.
    `adopt`: this is the part that others in the folder were trained against, not known till now.
    All files are written before the first is renamed: what fails leaves the folder as it was.
    Raises ValueError where the folder cannot be written or holds a config that cannot be read.
    """
    assert set(trained_against or ()) == set(PARTS[name].depends_on), "an id for each of these"
    path = make_folder(path)
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    training_id = training_id or fingerprint(state)
    with ExitStack() as files:
        new_config = files.enter_context(replacing(path / "config.json"))  # renamed last
        weights = files.enter_context(replacing(path / f"{name}.safetensors"))
        try:
            save_file({key: _cast(value, dtype) for key, value in state.items()}, weights)
        except SafetensorError as error:  # a full disk, say; users know the file's other name
            raise ValueError(f"{path / name}.safetensors: cannot write: {error}") from None
        data = _read_or_new(path)
        data["parts"][name] = {
            "config": to_dict(config),
            "sha256": file_sha256(weights),
            "training_id": training_id,
            "trained_against": dict(trained_against or {}),
        }
        if adopt:
            for entry in data["parts"].values():
                if entry["trained_against"].get(name) == "":
                    entry["trained_against"][name] = training_id
        if tokenizer is not None:
            new_tokenizer = files.enter_context(replacing(path / TOKENIZER))
            new_tokenizer.write_text(tokenizer.to_json(), encoding="utf-8")
            data["tokenizer_sha256"] = file_sha256(new_tokenizer)
        if diffusion is not None:
            data["diffusion"] = to_dict(diffusion)
        if sampling is not None:
            data["sampling"] = to_dict(sampling)
        new_config.write_text(to_json(data), encoding="utf-8")
    return training_id


def copy_parts(source: ModelFolder, path: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Copy parts of a model, with tokenizer and settings, into a new model folder, byte by byte.

    The config comes last: what fails leaves no model folder. ValueError where it cannot be written
    and for a file that is not the one in the model's config.
    """
    for name in names:
        _verify(source.path / f"{name}.safetensors", source.parts[name].sha256)
    path = make_folder(path)
    data = read_json(source.path / "config.json")
    data["parts"] = {name: data["parts"][name] for name in names}
    tokenizer = [TOKENIZER] if source.tokenizer_sha256 is not None else []
    with ExitStack() as files:
        new_config = files.enter_context(replacing(path / "config.json"))  # renamed last
        for name in [*(f"{part}.safetensors" for part in names), *tokenizer]:
            shutil.copyfile(source.path / name, files.enter_context(replacing(path / name)))
        new_config.write_text(to_json(data), encoding="utf-8")


def fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    """The training id of weights: 16 hex digits of a hash over names, shapes and fp32 values."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().float().contiguous()
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:16]


def _verify(file: Path, sha256: str) -> None:
    if not file.is_file():
        raise ValueError(f"{file}: is missing")
    if file_sha256(file) != sha256:
        raise ValueError(f"{file}: its sha256 is not the one in config.json: damaged or exchanged")


def _cast(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def _read_or_new(path: Path) -> dict[str, Any]:
    if not (path / "config.json").exists():
        return {
            "format": FORMAT,
            "parts": {},
            "diffusion": to_dict(DiffusionConfig()),
            "sampling": to_dict(SamplingConfig()),
            "tokenizer_sha256": None,
        }
    data: dict[str, Any] = read_json(path / "config.json")
    _parse(path, data)  # never write into a config that could not be read back
    return data


def _parse(path: Path, data: Any) -> ModelFolder:
    where = str(path / "config.json")
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"{where}: its format is not {FORMAT}, the one this version reads")
    _exact_keys(where, data, ("format", "parts", "diffusion", "sampling", "tokenizer_sha256"))
    parts = {}
    for name, entry in _table(f"{where}: parts", data["parts"]).items():
        if name not in PARTS:
            raise ValueError(f"{where}: unknown part {name}; allowed: {', '.join(PARTS)}")
        keys = ("config", "sha256", "training_id", "trained_against")
        _exact_keys(f"{where}: {name}", entry, keys)
        part, against = PARTS[name], entry["trained_against"]
        _exact_keys(f"{where}: {name}.trained_against", against, part.depends_on)
        config: Any = from_dict(part.config, entry["config"], f"{where}: {name}")
        parts[name] = PartEntry(config, *(entry[key] for key in keys[1:]))
    return ModelFolder(
        path,
        parts,
        from_dict(DiffusionConfig, data["diffusion"], f"{where}: diffusion"),
        from_dict(SamplingConfig, data["sampling"], f"{where}: sampling"),
        data["tokenizer_sha256"],
    )


def _table(where: str, data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a table, got {data!r}")
    return data


def _exact_keys(where: str, data: Any, keys: tuple[str, ...]) -> None:
    found = set(_table(where, data))
    if found != set(keys):
        difference = ", ".join(sorted(found.symmetric_difference(keys)))
        raise ValueError(f"{where}: missing or unknown keys: {difference}")
