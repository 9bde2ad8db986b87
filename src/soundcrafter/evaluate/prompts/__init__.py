"""Frozen prompts, the same for every model: four wordings of each scored family, free ones, and
scenes of two families. Beside them the captions of a manifest, and prompts of a file.

None equals a caption of the training data; recipes name the files in `data.exclude_captions` all
the same, for data that has not been seen here.
"""

import csv
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from soundcrafter.data.manifest import read_manifest, read_table

FAMILIES, FREE, COMPOSITION = "families.csv", "free.csv", "composition.csv"
REVERSED = "-reversed"  # ends the name of a scene whose order is turned round


@dataclass(frozen=True)
class Prompt:
    """What to type, and the family of sound that should come; "" where none is said."""

    text: str
    family: str
    name: str = ""  # of the recording whose caption it is: its partner in paired figures


@dataclass(frozen=True)
class Scene:
    """Two families that one prompt asks for: overlap, both at once; order, one after the other."""

    name: str
    kind: str  # overlap or order
    first: str
    second: str
    text: str  # what to type


def family_prompts() -> tuple[Prompt, ...]:
    """4 wordings of each of the 52 scored families, family by family."""
    return read_prompts(_here(FAMILIES))


def free_prompts() -> tuple[Prompt, ...]:
    """100 looser wordings: slang, synonyms, descriptions."""
    return read_prompts(_here(FREE))


def composition_prompts() -> tuple[Scene, ...]:
    """40 overlapping scenes, then 40 ordered ones, each of these followed by its reversal.

    The three examples of the paper's Fig. 5 are the first of each kind and overlap-02; the other
    pairs are of families that the tagger knows from real recordings. A door is the family drawer
    and cupboard, the nearest of the scored ones.
    """
    scenes = []
    for row in read_table(_here(COMPOSITION))[1]:
        name, first, second = row["id"], row["first"], row["second"]
        scenes.append(Scene(name, row["kind"], first, second, row["prompt"]))
        if row["reversed"]:
            turned = Scene(name + REVERSED, row["kind"], second, first, row["reversed"])
            scenes.append(turned)
    return tuple(scenes)


def caption_prompts(data: Path, split: str) -> tuple[Prompt, ...]:
    """The captions of a split, each named after its recording: the first where it has several.

    Raises ValueError as `read_manifest` does, where no recording has a caption, and for a recording
    outside the table's folder, whose name would lead out of any other folder too.
    """
    manifest = read_manifest(data, split=split)
    prompts: dict[str, Prompt] = {}
    for recording in manifest.recordings:
        name = manifest.stem(recording)
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{data}: {name} is not below the table's folder")
        if recording.caption is not None:
            prompts.setdefault(name, Prompt(recording.caption, "", name))
    if not prompts:
        raise ValueError(f"{data}: no recording of {split} has a caption")
    return tuple(prompts.values())


def read_prompts(path: str | os.PathLike[str]) -> tuple[Prompt, ...]:
    """Prompts of a csv (columns prompt and, where there is one, family) or of a text file, one a
    line.

    Raises ValueError where the file is missing, has no column prompt or holds no prompt.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot read: {error}") from None
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(text.splitlines())
        if "prompt" not in (reader.fieldnames or ()):
            raise ValueError(f"{path}: it has no column prompt")
        found = [(row["prompt"] or "", row.get("family") or "") for row in reader]
    else:
        found = [(line, "") for line in text.splitlines()]
    prompts = tuple(Prompt(p.strip(), f.strip()) for p, f in found if p.strip())
    if not prompts:
        raise ValueError(f"{path}: no prompt in it")
    return prompts


def _here(name: str) -> Path:
    return Path(str(resources.files("soundcrafter"))) / "evaluate" / "prompts" / name
