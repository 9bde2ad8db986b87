"""Sound packs: takes of each sound of a category, at one loudness, listed in a manifest."""

import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from soundcrafter.audio import Depth, check_depth, read_channels
from soundcrafter.data.tables import read_table
from soundcrafter.diffusion.config import MAX_SEED, SamplingConfig
from soundcrafter.export import Export
from soundcrafter.filenames import check_name, expand_name, slug
from soundcrafter.files import write_csv
from soundcrafter.hub import find_model
from soundcrafter.loudness import loudness
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.request import MAX_COUNT, GenerateRequest, check_text, resolve
from soundcrafter.settings import beside, check_range, from_dict, given, read_toml
from soundcrafter.sound import Sound
from soundcrafter.store import ModelFolder, open_folder

MANIFEST = "manifest.csv"
SHEET = "index.html"  # the contact sheet
_SEED_STEP, _SEED_PLACES = 1000, 100_000  # between seeds of sounds; how many there are
_MAX_TAKES = 100_000
_LEAST_DIFFERENCE = 0.2  # LU between a take and the rest of its pack that are worth a word
_PASSED_ON = (  # from a request to the model
    "seconds",
    "steps",
    "guidance",
    "negative",
    "candidates",
    "loop",
    "trim",
    "batch_size",
)


@dataclass(frozen=True, kw_only=True)
class PackSound:
    """A sound of a pack."""

    prompt: str
    name: str = ""  # in file names; empty: made from the prompt
    takes: int | None = None  # None: as many as the pack says
    seed: int | None = None  # of the first take; None: derived from the pack's and the name
    seconds: float | None = None  # length; None: the model's, without silence around it
    steps: int | None = None  # this and all below: None: the model's setting
    guidance: float | None = None
    negative: str | None = None
    candidates: int | None = None
    loop: bool = False
    lufs: float | None = None  # loudness; None: the pack's
    gain: float = 0.0  # loudness relative to the pack's, LU

    def __post_init__(self) -> None:
        if self.name:
            check_name(self.name)
        if self.takes is not None:
            check_range(self, 1, MAX_COUNT, "takes")
        check_range(self, -60, 20, "gain")
        if self.lufs is not None and self.gain:
            raise ValueError("lufs: cannot be combined with gain, which is relative to the pack")

    @property
    def label(self) -> str:
        """Its name in file names, in the manifest and on the contact sheet."""
        return self.name or slug(self.prompt)


@dataclass(frozen=True, kw_only=True)
class PackTake:
    """A file of a pack."""

    file: str
    name: str
    number: int  # among the takes of its sound, from 1
    request: GenerateRequest  # for this take alone
    export: Export

    @property
    def prompt(self) -> str:
        return str(self.request.prompts[0])

    @property
    def seed(self) -> int:
        return self.request.seeds[0]


@dataclass(frozen=True, kw_only=True)
class Pack:
    """A category of sounds, each in several takes."""

    name: str
    sound: tuple[PackSound, ...]
    seed: int = 0  # from which the sounds derive theirs; take k of a sound uses its seed + k
    takes: int = 6  # of each sound
    model: str = ""  # folder or hub name; empty: the bundled model
    adapters: Mapping[str, float] = field(default_factory=dict)  # folders (LoRA) and weights
    rate: int = 48_000  # Hz
    depth: Depth = "24"
    lufs: float = -23.0  # loudness of every take (BS.1770); less where a peak would clip
    stereo: bool = False  # whether mono sounds get two channels
    format: Literal["wav", "flac", "ogg"] = "wav"
    name_template: str = "{name}-{take:02}"  # of the files

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("name: must not be empty; name the pack")
        check_text("name", self.name)
        check_range(self, 1, MAX_COUNT, "takes")
        check_range(self, 0, MAX_SEED, "seed")  # a random one could not be drawn again
        check_depth(f".{self.format}", self.depth)
        for weight in self.adapters.values():
            if not math.isfinite(weight):
                raise ValueError(f"adapters: got weight {weight}; must be finite")
        if not self.sound:
            raise ValueError("sound: the pack has no sounds; add [[sound]]")
        # file systems that ignore case would mix up names that differ in nothing else
        _check_unique("sound: two sounds have the name", [each.label for each in self.sound])
        # a model may have other defaults, but what no model allows is refused at once
        files = [take.file for take in self.planned(SamplingConfig())]
        _check_unique("name_template: two takes have the file name", files)

    def lufs_of(self, sound: PackSound) -> float:
        """The loudness of a sound's takes."""
        return self.lufs + sound.gain if sound.lufs is None else sound.lufs

    def planned(self, sampling: SamplingConfig) -> list[PackTake]:
        """Return every take, for a model with these defaults.

        Raises ValueError for a setting that is not allowed.
        """
        found: list[PackTake] = []
        for place, sound in enumerate(self.sound):
            try:
                found += self._takes(sound, sampling, len(found))
            except ValueError as error:
                raise ValueError(f"sound[{place}]: {error}") from None
        return found

    def _takes(self, sound: PackSound, sampling: SamplingConfig, before: int) -> list[PackTake]:
        seed = self._seed_of(sound)
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed: got {seed}; allowed: 0 to {MAX_SEED}")
        request = resolve(
            sampling,
            sound.prompt,
            seed=seed,
            count=self.takes if sound.takes is None else sound.takes,
            seconds=sound.seconds,
            steps=sound.steps,
            guidance=sound.guidance,
            negative=sound.negative,
            candidates=sound.candidates,
            loop=sound.loop,
            trim=sound.seconds is None and not sound.loop,
            # In a larger batch the bytes of a take would depend on its neighbours, and so on where
            # a killed process was, and on the number of takes.
            batch_size=1,
        )
        if before + request.count > _MAX_TAKES:
            raise ValueError(f"takes: the pack has more than {_MAX_TAKES}")
        export = Export(
            rate=self.rate, depth=self.depth, stereo=self.stereo, lufs=self.lufs_of(sound)
        )
        return [
            PackTake(
                file=self._file(sound, job.seed, number, before + number),
                name=sound.label,
                number=number,
                request=replace(request, count=1, seeds=(job.seed,)),
                export=export,
            )
            for number, job in enumerate(request.jobs(), 1)
        ]

    def _seed_of(self, sound: PackSound) -> int:
        """The seed of a sound's first take.

        Sounds made from the same noise resemble each other, for example in their rhythm, so each
        has seeds of its own. They depend on its name, not on its place among the others.
        """
        if sound.seed is not None:
            return sound.seed
        return self.seed + _SEED_STEP * (zlib.crc32(sound.label.encode()) % _SEED_PLACES)

    def _file(self, sound: PackSound, seed: int, number: int, index: int) -> str:
        try:
            stem = expand_name(
                self.name_template,
                index=index,
                slug=slug(sound.prompt),
                name=sound.label,
                seed=seed,
                take=number,
            )
        except ValueError as error:
            raise ValueError(f"name_template: {str(error).removeprefix('name: ')}") from None
        return f"{stem}.{self.format}"


def read_pack(path: str | os.PathLike[str]) -> Pack:
    """Read a pack from TOML, strictly. Its model and adapters may be relative to the file.

    Raises ValueError, naming the file and the setting, for a setting that is unknown, of the wrong
    type or out of range.
    """
    path = Path(path)
    data = read_toml(path)
    if type(data.get("depth")) is int:
        data["depth"] = str(data["depth"])  # a number is the natural way to write 24
    if data.get("model"):
        data["model"] = beside(path, data["model"])
    if isinstance(data.get("adapters"), dict):
        data["adapters"] = {beside(path, key): value for key, value in data["adapters"].items()}
    return from_dict(Pack, data, str(path))


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """A file of a pack in its manifest."""

    pack: str  # name
    file: str
    name: str
    take: int
    prompt: str
    seed: int
    seconds: float | None = None
    loudness: float | None = None  # LUFS; None: silence
    peak: float | None = None  # dBFS; None: silence
    score: float | None = None  # CLAP score; None: the model has no audio tower
    # A dropped take was made, but the pack no longer names it.
    state: Literal["planned", "made", "dropped"] = "planned"
    settings: str = ""  # hash of what made the file; empty: it is not made, or is out of date


COLUMNS = tuple(each.name for each in fields(ManifestRow))
_NUMBERS = {"take": int, "seed": int} | dict.fromkeys(
    ("seconds", "loudness", "peak", "score"), float
)


def read_manifest(folder: Path) -> list[ManifestRow]:
    """Return the rows of the manifest in a folder; none if there is no manifest.

    Raises ValueError for a file of that name that is not the manifest of a pack.
    """
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return []
    columns: set[str] = set()
    if path.is_file():  # reading a pipe would wait for its writer
        columns, table = read_table(path)
    if columns != set(COLUMNS):
        raise ValueError(f"{path}: not the manifest of a pack; choose another folder")
    return [_row(cells, f"{path}: row {number}") for number, cells in enumerate(table, 1)]


def quiet_takes(pack: Pack, rows: Iterable[ManifestRow]) -> list[ManifestRow]:
    """The made takes whose peaks keep them below their loudness."""
    wanted = {sound.label: pack.lufs_of(sound) for sound in pack.sound}
    return [
        row
        for row in rows
        if row.state == "made"
        and row.loudness is not None
        and row.loudness < wanted[row.name] - _LEAST_DIFFERENCE
    ]


def make_pack(
    pack: Pack,
    folder: Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    progress: Callable[[float, int], None] = lambda done, total: None,
) -> Iterator[ManifestRow]:
    """Make the takes that are not in a folder yet, or made by other settings; yield their rows.

    The manifest is written first, with the takes to make as planned, and again after each take, so
    that a killed process can be repeated. The folder must exist; its lock (`files.locked`) keeps
    other processes away. A take that is there is kept, also if it was edited since. `progress` is
    called with (done, total) in takes; `done` may be fractional.

    Raises ValueError, before anything is written, for a setting that the model does not allow, and
    for files in the folder that are not of this pack.
    """
    model = open_folder(find_model(pack.model or None))
    takes = {take.file: take for take in pack.planned(model.sampling)}
    made_by = _model_ids(model, pack.adapters)
    rows = _planned_rows(pack, folder, takes, made_by)
    waiting = [take for take in takes.values() if rows[take.file].state == "planned"]
    streams: list[Iterator[Sound]] = []
    if waiting:
        crafter = SoundCrafter.from_pretrained(pack.model or None, device, pack.adapters, precision)
        # all are checked here; each is made when it is read
        streams = [
            _stream(crafter, take, partial(_advance, progress, place, len(waiting)))
            for place, take in enumerate(waiting)
        ]
    _remove_unfinished(folder, takes)
    _write_manifest(folder, rows.values())
    for take, stream in zip(waiting, streams, strict=True):
        (sound,) = stream
        sound.save(folder / take.file, take.export)
        row = replace(
            rows[take.file],
            **_measured(folder / take.file),
            score=None if sound.score is None else round(sound.score, 3),
            state="made",
            settings=_settings_hash(take, made_by),
        )
        rows[take.file] = row
        _write_manifest(folder, rows.values())
        yield row


def _advance(
    progress: Callable[[float, int], None], place: int, count: int, steps: int, total: int
) -> None:
    progress(place + steps / total, count)


def _stream(
    crafter: SoundCrafter, take: PackTake, progress: Callable[[int, int], None]
) -> Iterator[Sound]:
    options: dict[str, Any] = {name: getattr(take.request, name) for name in _PASSED_ON}
    return crafter.stream(take.prompt, seed=take.seed, **options, progress=progress)


def _planned_rows(
    pack: Pack, folder: Path, takes: Mapping[str, PackTake], made_by: Mapping[str, Any]
) -> dict[str, ManifestRow]:
    """The rows by file: takes of the pack in its order, kept or planned, then dropped ones.

    Raises ValueError for files that are not of this pack.
    """
    known = {row.file: row for row in read_manifest(folder)}
    for other in {row.pack for row in known.values()} - {pack.name}:
        raise ValueError(f"{folder}: contains the pack {other!r}, not {pack.name!r}")
    if not known and os.path.lexists(folder / SHEET):
        raise ValueError(f"{folder / SHEET}: not of this pack; choose another folder")
    rows: dict[str, ManifestRow] = {}
    for take in takes.values():
        before, path = known.get(take.file), folder / take.file
        if os.path.lexists(path) and (before is None or not path.is_file()):
            raise ValueError(f"{path}: exists, but is not of this pack; choose another folder")
        row = ManifestRow(
            pack=pack.name,
            file=take.file,
            name=take.name,
            take=take.number,
            prompt=take.prompt,
            seed=take.seed,
        )
        if before and before.settings == _settings_hash(take, made_by) and path.is_file():
            row = replace(before, name=take.name, take=take.number, state="made")
        rows[take.file] = row
    # the pack owns what it dropped, so that it can name those takes again
    return rows | {
        row.file: replace(row, state="dropped")
        for row in known.values()
        if row.file not in rows and (folder / row.file).is_file()
    }


def _model_ids(model: ModelFolder, adapters: Mapping[str, float]) -> dict[str, Any]:
    """What identifies a model: the hash of each part and adapter."""
    model.require("clap_text", "vae", "unet", "vocoder")
    weights: dict[str, float] = {}
    for path, weight in adapters.items():
        folder = open_folder(path)
        folder.require("adapter")
        found = folder.parts["adapter"].sha256
        weights[found] = weights.get(found, 0.0) + weight  # two paths may lead to one adapter
    parts = {name: entry.sha256 for name, entry in model.parts.items()}
    return {"parts": parts, "tokenizer": model.tokenizer_sha256, "adapters": weights}


def _settings_hash(take: PackTake, made_by: Mapping[str, Any]) -> str:
    """A hash of all that the sound of a take depends on.

    Device, precision and threads are left out: they change rounding only. So are settings with
    default values, so that a new version with more settings does not make all packs anew.
    """
    found = {"request": dict(given(take.request)), "export": dict(given(take.export)), **made_by}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def _measured(path: Path) -> dict[str, Any]:
    """The length, loudness and peak of a file."""
    channels, rate = read_channels(path)
    peak = float(np.abs(channels).max())
    level = loudness(channels, rate)
    return {
        "seconds": round(len(channels) / rate, 3),
        "loudness": round(level, 1) if math.isfinite(level) else None,
        "peak": round(20 * math.log10(peak), 2) if peak > 0 else None,
    }


def _write_manifest(folder: Path, rows: Iterable[ManifestRow]) -> None:
    write_csv(folder / MANIFEST, COLUMNS, [astuple(row) for row in rows])


def _row(cells: Mapping[str, str], where: str) -> ManifestRow:
    try:
        values = {
            name: _NUMBERS[name](cell) if name in _NUMBERS else cell
            for name, cell in cells.items()
            if cell != ""
        }
        return from_dict(ManifestRow, values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: damaged: {error}") from None


def _remove_unfinished(folder: Path, files: Mapping[str, PackTake]) -> None:
    """Remove what a killed process had begun to write (see `files.replacing`)."""
    for path in folder.iterdir():
        found = re.fullmatch(r"\.(.+)\.\d+\.tmp", path.name)
        if found and found[1] in {*files, MANIFEST, SHEET}:
            path.unlink()


def _check_unique(message: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise ValueError(f"{message} {name!r}")
        seen.add(name.casefold())
