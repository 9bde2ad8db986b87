"""Models by name: a path, the bundled one, or the hub's, fetched and converted once."""

import logging
import os
import re
from collections.abc import Sequence
from functools import partial
from importlib import resources
from pathlib import Path

from soundcrafter.convert import CHECKPOINTS
from soundcrafter.files import cache_folder, one_line

BUNDLED = "bundled"
ROBERTA = "FacebookAI/roberta-base"  # whose tokenizer AudioLDM's own checkpoints need
_SETTINGS = ("*.json", "*.txt", "README.md")
_log = logging.getLogger(__name__)


def find_model(
    name: str | os.PathLike[str] | None, revision: str | None = None, *, download: bool = True
) -> Path:
    """The folder of a model: a path, a hub name (owner/name), or, for None or "bundled", the model
    that comes with the package. `revision`: branch, tag or commit of a hub model. `download`:
    whether a hub model that is not in the cache is fetched.

    A hub model in another layout of this family is converted once, into the cache, and used from
    there without the hub. Raises ValueError where there is no such model, where it is not of this
    family and where the hub cannot be reached.
    """
    if revision is not None and (name is None or not _is_hub_name(name)):
        raise ValueError(f"revision: got {revision!r}; allowed with a hub name (owner/name)")
    if name is None or (name == BUNDLED and not Path(BUNDLED).exists()):
        bundled = Path(str(resources.files("soundcrafter"))) / "assets" / "mini"
        if not bundled.is_dir():
            raise ValueError("this installation has no bundled model; name a model folder")
        return bundled
    path = Path(name)
    if not _is_hub_name(name):
        if path.suffix in CHECKPOINTS or (path / "model_index.json").is_file():
            raise ValueError(
                f"{path}: not a model folder; create one with "
                f"`soundcrafter import {path} --out DIR`"
            )
        return path
    at = "" if revision is None else f"--at--{revision}"
    # imported here, as torch below: folders need neither
    from soundcrafter.convert.importer import detect_source, import_model

    converted = cache_folder() / "models" / f"{name}{at}".replace("/", "--")
    if (converted / "config.json").is_file():
        return converted
    folder = fetch(str(name), revision, download=download)
    if detect_source(folder) == "soundcrafter":
        return folder
    try:
        import_model(folder, converted)
    except ValueError:
        if not (converted / "config.json").is_file():  # else another process was quicker
            raise
    _log_licence(str(name), folder)
    return converted


def import_named(
    source: str | os.PathLike[str], out: Path, tokenizer: str | os.PathLike[str] | None = None
) -> str:
    """`import_model` of a path or hub name into `out`; says what it was.

    `tokenizer`: folder or hub name of RoBERTa's, for AudioLDM's own checkpoint (by default the
    hub's). Raises ValueError as `import_model` and `find_model` do.
    """
    from soundcrafter.convert.importer import detect_source, import_model

    folder = fetch(str(source)) if _is_hub_name(source) else Path(source)
    words = None
    if detect_source(folder) == "original":
        named = tokenizer or ROBERTA
        words = (
            Path(named) if Path(named).is_dir() else fetch_files(str(named), ("*.json", "*.txt"))
        )
    imported = import_model(folder, out, tokenizer=words)
    if folder.is_dir():
        _log_licence(str(source), folder)
    return imported.kind


def fetch(name: str, revision: str | None = None, *, download: bool = True) -> Path:
    """A hub model's files, in its own layout: settings first, then the weights that they ask for.

    Raises ValueError where the hub cannot be reached, or `download` is false and the cache has no
    such model, and where the name is not of this family.
    """
    from soundcrafter.convert import diffusers, laion_clap
    from soundcrafter.convert.importer import detect_source

    get = partial(fetch_files, name, revision=revision, download=download)
    folder = get(_SETTINGS)
    try:
        layout = detect_source(folder)
    except ValueError as error:
        raise ValueError(str(error).replace(str(folder), name)) from None
    if layout == "soundcrafter":
        return get(("*.json", "*.safetensors"))
    parts = {"": laion_clap.WEIGHTS} if layout == "clap" else diffusers.WEIGHTS
    for part, (safe, pickled) in parts.items():
        where = f"{part}/" if part else ""
        if not (get((where + safe,)) / part / safe).is_file():
            get((where + pickled,))
    return folder


def fetch_files(
    name: str, patterns: Sequence[str], revision: str | None = None, *, download: bool = True
) -> Path:
    """The hub's snapshot folder with at least these files of a model, or what the cache has."""
    # imported here: only hub names need it
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=not download,
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        if not download:
            raise ValueError(f"{name}: not on this machine") from None
        reason = one_line(str(error).partition("\n")[0] or type(error).__name__)
        raise ValueError(f"{name}: no such folder, and not found on the Hub: {reason}") from None


def _is_hub_name(name: str | os.PathLike[str]) -> bool:
    return not Path(name).exists() and bool(re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)))


def _log_licence(name: str, folder: Path) -> None:
    from soundcrafter.convert.importer import licence_of

    licence = licence_of(folder) or "not stated; see its page"
    _log.warning("%s: licence of these weights: %s", name, licence)
