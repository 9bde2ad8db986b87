"""Published checkpoints into model folders: what a path holds, and its way into our format."""

import os
import re
import shutil
from pathlib import Path
from typing import Literal

from soundcrafter.convert.clap import read_clap, read_tokenizer
from soundcrafter.convert.diffusers import read_diffusers
from soundcrafter.convert.imported import Imported
from soundcrafter.convert.original import read_original
from soundcrafter.files import make_folder, read_json, write_text
from soundcrafter.models.clap_text import ClapText
from soundcrafter.store import TOKENIZER, fingerprint, open_folder, save_part

Layout = Literal["soundcrafter", "diffusers", "clap", "original"]

ALLOWED = (
    "allowed: AudioLDM in diffusers' layout, AudioLDM's own .ckpt, "
    "a CLAP in transformers' layout, a folder of SoundCrafter"
)
CHECKPOINTS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")


def layout_of(path: Path) -> Layout:
    """What a file or folder holds, by its names and settings; weights are not read.

    Raises ValueError with the reason where it is none of the layouts that can be read.
    """
    if path.is_file():
        if path.suffix not in CHECKPOINTS:
            raise ValueError(f"{path}: got a {path.suffix or 'file'}; {ALLOWED}")
        return "original"
    if not path.is_dir():
        raise ValueError(f"{path}: no such file or folder")
    if (path / "model_index.json").is_file():
        return _pipeline_layout(path / "model_index.json")
    if not (path / "config.json").is_file():
        raise ValueError(f"{path}: it has no config.json and no model_index.json; {ALLOWED}")
    data = read_json(path / "config.json")
    if isinstance(data, dict) and "format" in data and "parts" in data:
        return "soundcrafter"
    kind = data.get("model_type") if isinstance(data, dict) else None
    if kind != "clap":
        raise ValueError(f"{path}: a model of the type {kind}; {ALLOWED}")
    return "clap"


def import_model(source: Path, out: Path, *, tokenizer: Path | None = None) -> Imported:
    """Convert a published model into a model folder `out`, whole or not at all.

    `tokenizer`: a folder with RoBERTa's, for AudioLDM's own checkpoint, which has none. A CLAP is
    added to a folder that holds an AudioLDM without audio tower, if it is the CLAP that this one
    was trained with. Raises ValueError for what is not of this family, is damaged, and an `out`
    that is there already.
    """
    layout = layout_of(source)
    adds = layout == "clap" and (out / "config.json").is_file()
    if out.exists() and not adds and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"{out}: is there already; name a new folder")
    if layout == "soundcrafter":
        raise ValueError(f"{source}: is a model folder already; use it as it is")
    if layout == "original":
        if tokenizer is None:
            raise ValueError(f"{source}: needs a tokenizer, roberta-base's; name its folder")
        imported = read_original(source, read_tokenizer(tokenizer))
    else:
        imported = read_diffusers(source) if layout == "diffusers" else read_clap(source)
    if adds:
        _add_audio_tower(out, imported)
    else:
        _save(imported, out, source)
    return imported


def licence_of(folder: Path) -> str:
    """The licence that a published model's README.md states in its front matter; "" for none."""
    card = folder / "README.md"
    if not card.is_file():
        return ""
    found = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.S)
    stated = re.search(r"^license:\s*(\S+)", found[1], re.M) if found else None
    return stated[1].strip("\"'") if stated else ""


def _pipeline_layout(index: Path) -> Layout:
    data = read_json(index)
    name = data.get("_class_name") if isinstance(data, dict) else None
    if name != "AudioLDMPipeline":
        raise ValueError(f"{index.parent}: holds a {name}; {ALLOWED}")
    return "diffusers"


def _save(imported: Imported, out: Path, source: Path) -> None:
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        imported.save(make_folder(temporary))
        write_text(temporary / "README.md", _card(imported, source))
        if out.exists():
            out.rmdir()  # an empty one
        os.replace(temporary, out)
    except OSError as error:
        raise ValueError(f"{out}: cannot write: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _add_audio_tower(out: Path, clap: Imported) -> None:
    """Give a model the audio tower that its text tower was trained with."""
    folder = open_folder(out)
    folder.require("clap_text")
    if "clap_audio" in folder.parts:
        raise ValueError(f"{out}: has a clap_audio already")
    own, config = folder.load("clap_text"), folder.parts["clap_text"].config
    text, text_config = clap.parts["clap_text"]
    assert isinstance(own, ClapText)
    assert isinstance(text, ClapText)
    same = fingerprint(own.tower.state_dict()) == fingerprint(text.tower.state_dict())
    if config != text_config or not same:
        raise ValueError(
            f"{out}: its clap_text is not the text tower of this CLAP, so that the audio tower "
            "would hear in another space than the model speaks; use another --out"
        )
    audio, audio_config = clap.parts["clap_audio"]
    save_part(out, "clap_audio", audio, audio_config, adopt=True)


def _card(imported: Imported, source: Path) -> str:
    licence = licence_of(source) if source.is_dir() else ""
    parts = ", ".join(f"`{name}.safetensors`" for name in imported.parts)
    return (
        f"# {source.name}\n\n"
        f"Imported from {imported.kind} by SoundCrafter: {parts}, `{TOKENIZER}`.\n\n"
        f"Licence of the weights: {licence or 'not stated where they came from'}.\n"
    )
