"""Convert published checkpoints to model folders."""

import os
import re
import shutil
from pathlib import Path
from typing import Literal

from soundcrafter.convert import CHECKPOINTS
from soundcrafter.convert.diffusers import read_diffusers
from soundcrafter.convert.imported_model import ImportedModel
from soundcrafter.convert.laion_clap import read_clap, read_tokenizer
from soundcrafter.convert.original import read_original
from soundcrafter.files import make_folder, read_json, write_text
from soundcrafter.models.clap_text import ClapText
from soundcrafter.store import TOKENIZER, fingerprint, open_folder, save_part

Source = Literal["soundcrafter", "diffusers", "clap", "original"]

ALLOWED = (
    "allowed: AudioLDM in diffusers' layout, AudioLDM's own .ckpt, "
    "a CLAP in transformers' layout, a model folder"
)


def detect_source(path: Path) -> Source:
    """The kind of model in a file or folder, from its file names and settings.

    Weights are not read. Raises ValueError, with the reason, if the model cannot be imported.
    """
    if path.is_file():
        if path.suffix not in CHECKPOINTS:
            raise ValueError(f"{path}: not a checkpoint; {ALLOWED}")
        if not _is_checkpoint(path):
            raise ValueError(f"{path}: neither a torch file nor safetensors, or damaged; {ALLOWED}")
        return "original"
    if not path.is_dir():
        raise ValueError(f"{path}: no such file or folder")
    if (path / "model_index.json").is_file():
        return _pipeline_layout(path / "model_index.json")
    if not (path / "config.json").is_file():
        raise ValueError(f"{path}: no config.json or model_index.json; {ALLOWED}")
    data = read_json(path / "config.json")
    if isinstance(data, dict) and "format" in data and "parts" in data:
        return "soundcrafter"
    kind = data.get("model_type") if isinstance(data, dict) else None
    if kind != "clap":
        raise ValueError(f"{path}: got model_type {kind}; {ALLOWED}")
    return "clap"


def _is_checkpoint(path: Path) -> bool:
    """Whether a file begins as a torch file (a zip, or a pickle before 1.6) or safetensors does."""
    with open(path, "rb") as file:
        start = file.read(9)
    header = int.from_bytes(start[:8], "little")
    is_safetensors = start[8:] == b"{" and header < path.stat().st_size
    return start.startswith((b"PK", b"\x80\x02")) or is_safetensors


def import_model(source: Path, out: Path, *, tokenizer: Path | None = None) -> ImportedModel:
    """Convert a published model to a new model folder `out`, atomically.

    AudioLDM's own checkpoint needs `tokenizer`, a folder with RoBERTa's. If `source` is a CLAP and
    `out` an imported AudioLDM, which has no audio tower, the audio tower is added to it; it must be
    the CLAP that this AudioLDM was trained with. Raises ValueError for other models, damaged files,
    and an `out` that exists.
    """
    kind = detect_source(source)
    adds = kind == "clap" and (out / "config.json").is_file()
    if out.exists() and not adds and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"{out}: already exists; name a new folder")
    if kind == "soundcrafter":
        raise ValueError(f"{source}: is already a model folder; it needs no import")
    if kind == "original":
        if tokenizer is None:
            raise ValueError(f"{source}: needs roberta-base's tokenizer; name its folder")
        imported = read_original(source, read_tokenizer(tokenizer))
    else:
        imported = read_diffusers(source) if kind == "diffusers" else read_clap(source)
    if adds:
        _add_audio_tower(out, imported)
    else:
        _save(imported, out, source)
    return imported


def licence_of(folder: Path) -> str:
    """The licence in the front matter of a model's README.md, or ""."""
    card = folder / "README.md"
    if not card.is_file():
        return ""
    found = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.S)
    stated = re.search(r"^license:\s*(\S+)", found[1], re.M) if found else None
    return stated[1].strip("\"'") if stated else ""


def _pipeline_layout(index: Path) -> Source:
    data = read_json(index)
    name = data.get("_class_name") if isinstance(data, dict) else None
    if name != "AudioLDMPipeline":
        raise ValueError(f"{index.parent}: contains a {name}; {ALLOWED}")
    return "diffusers"


def _save(imported: ImportedModel, out: Path, source: Path) -> None:
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        imported.save(make_folder(temporary))
        write_text(temporary / "README.md", _card(imported, source))
        if out.exists():
            out.rmdir()  # it is empty
        os.replace(temporary, out)
    except OSError as error:
        raise ValueError(f"{out}: cannot write: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _add_audio_tower(out: Path, clap: ImportedModel) -> None:
    """Add the audio tower that a model's text tower was trained with."""
    folder = open_folder(out)
    folder.require("clap_text")
    if "clap_audio" in folder.parts:
        raise ValueError(f"{out}: already has a clap_audio")
    own, config = folder.load("clap_text"), folder.parts["clap_text"].config
    text, text_config = clap.parts["clap_text"]
    assert isinstance(own, ClapText)
    assert isinstance(text, ClapText)
    same = fingerprint(own.tower.state_dict()) == fingerprint(text.tower.state_dict())
    if config != text_config or not same:
        raise ValueError(
            f"{out}: its clap_text is not the text tower of this CLAP, so the audio tower would "
            "not share its embedding space; choose a different output folder"
        )
    audio, audio_config = clap.parts["clap_audio"]
    save_part(out, "clap_audio", audio, audio_config, adopt=True)


def _card(imported: ImportedModel, source: Path) -> str:
    licence = licence_of(source) if source.is_dir() else ""
    parts = ", ".join(f"`{name}.safetensors`" for name in imported.parts)
    return (
        f"# {source.name}\n\n"
        f"Imported from {imported.kind} by SoundCrafter: {parts}, `{TOKENIZER}`.\n\n"
        f"Licence of the weights: {licence or 'not stated by their source'}.\n"
    )
