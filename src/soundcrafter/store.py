"""The model folder: `config.json` and one safetensors file per part. Loading is strict."""

import hashlib
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from soundcrafter.config import PARTS, check_compatible
from soundcrafter.diffusion.config import DiffusionConfig, SamplingConfig
from soundcrafter.files import file_sha256, make_folder, one_line, read_json, replacing, to_json
from soundcrafter.settings import from_dict, to_dict
from soundcrafter.text import Tokenizer

FORMAT = 1
TOKENIZER = "tokenizer.json"
MOST_PARAMETERS = 10**11  # of a part: more than any model in this field has
MOST_TENSORS = 20_000  # of a part: the paper's have some hundreds


@dataclass(frozen=True)
class PartEntry:
    """The entry of a part in `config.json`."""

    config: Any  # the part's settings
    sha256: str  # of the part's file
    training_id: str  # of the weights, whatever dtype they are stored in
    trained_against: Mapping[str, str]  # part -> training id, "" if unknown


@dataclass(frozen=True)
class ModelFolder:
    """A validated model folder. Weights are loaded one part at a time."""

    path: Path
    parts: Mapping[str, PartEntry]
    diffusion: DiffusionConfig
    sampling: SamplingConfig
    tokenizer_sha256: str | None

    def require(self, *names: str) -> None:
        """Raise ValueError if one of these parts is missing."""
        missing = [name for name in names if name not in self.parts]
        if missing:
            raise ValueError(
                f"{self.path}: this model has no {', '.join(missing)} yet "
                f"(it has: {', '.join(self.parts) or 'nothing'})"
            )

    def load(self, name: str) -> nn.Module:
        """Load a part in fp32 on the CPU. Raises ValueError for missing or damaged weights."""
        self.require(name)
        entry = self.parts[name]
        file = self.path / f"{name}.safetensors"
        _verify(file, entry.sha256)
        try:
            state = load_file(file)
            module = _build(name, entry.config, most=sum(x.numel() for x in state.values()))
            module.load_state_dict(state, strict=True)
        except (RuntimeError, SafetensorError, ValueError) as error:
            reason = one_line(error)
            raise ValueError(f"{file}: does not match its config: {reason}") from None
        return module.eval()

    def load_tokenizer(self) -> Tokenizer:
        """Load the tokenizer. Raises ValueError if it is missing or damaged."""
        file = self.path / TOKENIZER
        if self.tokenizer_sha256 is None:
            raise ValueError(f"{self.path}: this model has no {TOKENIZER}")
        _verify(file, self.tokenizer_sha256)
        return Tokenizer.load(file)

    def check_against(self, name: str, trained_against: Mapping[str, str]) -> None:
        """Raise ValueError if `name` was trained against parts different from this folder's."""
        for other, wanted in trained_against.items():
            if other in self.parts and self.parts[other].training_id != wanted:
                found = self.parts[other].training_id
                raise ValueError(
                    f"{self.path}: {name} was trained against {other} {wanted}, "
                    f"but this folder contains {other} {found}"
                )


def open_folder(path: str | os.PathLike[str], *, allow_mismatch: bool = False) -> ModelFolder:
    """Read `config.json` of a model folder and check that its files and parts belong together.

    Weights are not read. `allow_mismatch` permits parts that were not trained against each other,
    as an interrupted training leaves them. Raises ValueError for a missing folder, config or file,
    an unknown key, and parts of different models.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path}: no such model folder")
    if not (path / "config.json").is_file():
        raise ValueError(f"{path}: not a model folder: no config.json")
    folder = _parse(path, read_json(path / "config.json"))
    for name in folder.parts:
        if not (path / f"{name}.safetensors").is_file():
            raise ValueError(f"{path}: {name}.safetensors is missing")
    if folder.tokenizer_sha256 is not None and not (path / TOKENIZER).is_file():
        raise ValueError(f"{path}: {TOKENIZER} is missing")
    check_compatible({name: entry.config for name, entry in folder.parts.items()})
    if not allow_mismatch:
        for name, entry in folder.parts.items():
            folder.check_against(name, entry.trained_against)
    return folder


def read_parts(path: str | os.PathLike[str]) -> Mapping[str, PartEntry]:
    """Read the entries of `config.json`; none if there is no such file.

    Unlike `open_folder`, this does not check that the parts belong together.
    """
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
    """Write a part into a model folder, which may be new, and return the part's training id.

    All files are written before the first one is renamed, so a failure leaves the folder unchanged.

    Args:
        path: the model folder.
        name: a key of PARTS.
        module: the network.
        config: its settings.
        trained_against: training ids of the parts in `PARTS[name].depends_on`.
        training_id: needed if the weights were only cast; by default the hash of the fp32 weights.
        tokenizer: also write this tokenizer.
        diffusion: also write these settings.
        sampling: also write these settings.
        dtype: of the stored weights.
        adopt: set this part's id in all entries that were trained against an unknown one.

    Raises ValueError if the folder cannot be written or its config cannot be read.
    """
    assert set(trained_against or ()) == set(PARTS[name].depends_on), "one id for each part"
    path = make_folder(path)
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    training_id = training_id or fingerprint(state)
    with ExitStack() as files:
        new_config = files.enter_context(replacing(path / "config.json"))  # renamed last
        weights = files.enter_context(replacing(path / f"{name}.safetensors"))
        try:
            save_file({key: _cast(value, dtype) for key, value in state.items()}, weights)
        except SafetensorError as error:  # such as a full disk; report the final name
            raise ValueError(f"{path / name}.safetensors: cannot write: {error}") from None
        data = _read_or_create(path)
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
    """Copy parts of a model, with tokenizer and settings, into a new model folder.

    The config is written last, so a failure leaves no model folder. Raises ValueError if the folder
    cannot be written or a file's hash does not match the config.
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


def count_parameters(name: str, config: Any, most: int = MOST_PARAMETERS) -> int:
    """Count the parameters of a part with these settings, without allocating them.

    Raises ValueError as soon as the count exceeds `most`, and for settings that torch cannot build.
    """
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in _build(name, config, most).parameters())


def _build(name: str, config: Any, most: int) -> nn.Module:
    """Build the network of a part, counting its parameters.

    Raises ValueError as soon as there are more than `most`, before their memory is touched.
    """
    counted, tensors, thread = 0, 0, threading.get_ident()
    on_meta = torch.get_default_device().type == "meta"
    most_counted = 3 * most  # weight normalisation replaces a parameter by two

    def count(module: nn.Module, key: str, parameter: nn.Parameter | None) -> None:
        nonlocal counted, tensors
        if parameter is None or threading.get_ident() != thread:
            return
        tensors += 1
        if not parameter.is_meta or on_meta:  # an adapter looks at its U-Net on meta
            counted += parameter.numel()
        if counted > most_counted:
            raise ValueError(f"{name}: its settings would create more than {most:,} parameters")
        if tensors > MOST_TENSORS:
            raise ValueError(
                f"{name}: its settings would create more than {MOST_TENSORS:,} tensors"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        return PARTS[name].build(config)
    except (RuntimeError, TypeError, OverflowError, ZeroDivisionError, MemoryError) as error:
        reason = one_line(error)
        raise ValueError(f"{name}: cannot build a network from these settings: {reason}") from None
    finally:
        hook.remove()


def fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    """Compute the training id: 16 hex digits of a hash of the weights' names, shapes and values.

    The values are hashed in fp32, so the stored dtype does not matter.
    """
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().float().contiguous()
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:16]


def _verify(file: Path, sha256: str) -> None:
    if not file.is_file():
        raise ValueError(f"{file}: the file is missing")
    if file_sha256(file) != sha256:
        raise ValueError(
            f"{file}: its sha256 does not match config.json; the file is damaged or was replaced"
        )


def _cast(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def _read_or_create(path: Path) -> dict[str, Any]:
    if not (path / "config.json").exists():
        return {
            "format": FORMAT,
            "parts": {},
            "diffusion": to_dict(DiffusionConfig()),
            "sampling": to_dict(SamplingConfig()),
            "tokenizer_sha256": None,
        }
    data: dict[str, Any] = read_json(path / "config.json")
    _parse(path, data)  # never extend a config that cannot be read
    return data


def _parse(path: Path, data: Any) -> ModelFolder:
    where = str(path / "config.json")
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"{where}: unsupported format; this version reads format {FORMAT}")
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
