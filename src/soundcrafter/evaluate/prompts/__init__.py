"""Prompts to evaluate models on: frozen ones (four wordings of each scored family, free ones, and
scenes of two families), the captions of a manifest, and prompts from a file.

No frozen prompt equals a caption of our training data. Recipes list the files in
`data.exclude_captions` anyway, for other data.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from soundcrafter.data.manifest import read_manifest
from soundcrafter.data.tables import read_table

FAMILIES, FREE, COMPOSITION = "families.csv", "free.csv", "composition.csv"
REVERSED = "-reversed"  # ends the name of a scene in reversed order


@dataclass(frozen=True)
class Prompt:
    """A text, and the family of sounds that it asks for; "" if it names none."""

    text: str
    family: str
    name: str = ""  # of the recording whose caption it is, and which KL pairs its sound with


@dataclass(frozen=True)
class Scene:
    """A prompt for sounds of two families."""

    name: str
    kind: str  # overlap: both at once; order: one after the other
    first: str
    second: str
    text: str  # the prompt


def family_prompts() -> tuple[Prompt, ...]:
    """4 wordings of each of the 52 scored families, family by family."""
    return read_prompts(_here(FAMILIES))


def free_prompts() -> tuple[Prompt, ...]:
    """100 freer wordings: slang, synonyms, descriptions."""
    return read_prompts(_here(FREE))


def composition_prompts() -> tuple[Scene, ...]:
    """40 overlapping scenes, then 40 ordered ones, each followed by its reversal.

    The three examples in the paper's Fig. 5 are the first of each kind and overlap-02. The other
    pairs are of families that the tagger recognises in real recordings. For a door the family is
    drawer and cupboard, the closest scored one.
    """
    scenes = []
    for row in read_table(_here(COMPOSITION))[1]:
        name, first, second = row["id"], row["first"], row["second"]
        scenes.append(Scene(name, row["kind"], first, second, row["prompt"]))
        if row["reversed"]:
            mirrored = Scene(name + REVERSED, row["kind"], second, first, row["reversed"])
            scenes.append(mirrored)
    return tuple(scenes)


def caption_prompts(
    data: Path, split: str, *, random_seed: int | None = None
) -> tuple[Prompt, ...]:
    """The captions of a split, one per recording and named after it.

    Of several captions of one recording it is the first, or with `random_seed` one drawn at random
    (the paper evaluates on a random one of AudioCaps' five). Raises ValueError as `read_manifest`
    does, where no recording has a caption, and for a recording outside the table's folder, whose
    name would lead out of other folders too.
    """
    manifest = read_manifest(data, split=split)
    captions: dict[str, list[str]] = defaultdict(list)
    for recording in manifest.recordings:
        name = manifest.stem(recording)
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{data}: {name} is not below the table's folder")
        if recording.caption is not None:
            captions[name].append(recording.caption)
    if not captions:
        raise ValueError(f"{data}: no recording of {split} has a caption")
    return tuple(
        Prompt(_draw(texts, name, random_seed), "", name) for name, texts in captions.items()
    )


def _draw(texts: Sequence[str], name: str, seed: int | None) -> str:
    """The first text, or one drawn by the seed and the name: other recordings do not matter."""
    if seed is None:
        return texts[0]
    return texts[int(np.random.default_rng([seed, *name.encode()]).integers(len(texts)))]


def read_prompts(path: str | os.PathLike[str]) -> tuple[Prompt, ...]:
    """Prompts from a csv (column prompt, optional column family), or from a text file with one per
    line.

    Raises ValueError where the file is missing, has no column prompt or holds no prompt.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        columns, rows = read_table(path)
        if "prompt" not in columns:
            raise ValueError(f"{path}: it has no column prompt")
        found = [(row["prompt"] or "", row.get("family") or "") for row in rows]
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: cannot read: {error}") from None
        found = [(line, "") for line in lines]
    prompts = tuple(Prompt(p.strip(), f.strip()) for p, f in found if p.strip())
    if not prompts:
        raise ValueError(f"{path}: no prompt in it")
    return prompts


def _here(name: str) -> Path:
    return Path(str(resources.files("soundcrafter"))) / "evaluate" / "prompts" / name
