"""The prompts that models are evaluated on: frozen ones (four wordings of each scored family, free
ones, and scenes of two families), the captions of a manifest, and prompts from a file.

No frozen prompt is a caption of our training data. Recipes list the files in
`data.exclude_captions` nevertheless, for other data.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from soundcrafter.data.manifest import read_manifest
from soundcrafter.data.tables import read_table, require_columns
from soundcrafter.prompt_file import read_prompt_lines

FAMILIES, ADDED_FAMILIES = "families.csv", "added_families.csv"
FREE, COMPOSITION = "free.csv", "composition.csv"
REVERSED = "-reversed"  # ends the name of a scene in reversed order


@dataclass(frozen=True)
class Prompt:
    """A text, and the family of sounds that it describes; "" if it has none."""

    text: str
    family: str
    name: str = ""  # of the recording with this caption, which KL compares its sound with


@dataclass(frozen=True)
class CompositionPrompt:
    """A prompt for sounds of two families."""

    name: str
    kind: str  # overlap: both at once; order: one after the other
    first: str
    second: str
    text: str  # the prompt


def family_prompts() -> tuple[Prompt, ...]:
    """Return 4 wordings of each of the 52 scored families, family by family."""
    return read_prompts(_prompt_file(FAMILIES))


def added_family_prompts() -> tuple[Prompt, ...]:
    """Return 4 wordings of each of the 11 families that a later data set added to the scored ones,
    most of them sounds of games."""
    return read_prompts(_prompt_file(ADDED_FAMILIES))


def free_prompts() -> tuple[Prompt, ...]:
    """Return 100 free wordings: slang, synonyms, descriptions."""
    return read_prompts(_prompt_file(FREE))


def composition_prompts() -> tuple[CompositionPrompt, ...]:
    """Return 40 overlapping scenes, then 40 ordered ones, each followed by its reversal.

    The three examples in the paper's Fig. 5 are the first of each kind and overlap-02. The other
    pairs are of families that the tagger recognises in real recordings. The family of a door is
    drawer and cupboard, the closest scored one.
    """
    scenes = []
    for row in read_table(_prompt_file(COMPOSITION))[1]:
        name, first, second = row["id"], row["first"], row["second"]
        scenes.append(CompositionPrompt(name, row["kind"], first, second, row["prompt"]))
        if row["reversed"]:
            mirrored = CompositionPrompt(
                name + REVERSED, row["kind"], second, first, row["reversed"]
            )
            scenes.append(mirrored)
    return tuple(scenes)


def caption_prompts(
    data: Path, split: str, *, random_seed: int | None = None
) -> tuple[Prompt, ...]:
    """Return the captions of a split as prompts, one per recording and named after it.

    Of several captions of one recording the first is used, or with `random_seed` one drawn at
    random (the paper evaluates on a random one of AudioCaps' five). Raises ValueError as
    `read_manifest` does, and if no recording has a caption.
    """
    manifest = read_manifest(data, split=split)
    captions: dict[str, list[str]] = defaultdict(list)
    for recording in manifest.recordings:
        name = manifest.stem(recording)
        if recording.caption is not None:
            captions[name].append(recording.caption)
    if not captions:
        raise ValueError(f"{data}: no recording of {split} has a caption")
    return tuple(
        Prompt(_draw(texts, name, random_seed), "", name) for name, texts in captions.items()
    )


def _draw(texts: Sequence[str], name: str, seed: int | None) -> str:
    """The first text, or one drawn by the seed and the name, independently of other recordings."""
    if seed is None:
        return texts[0]
    return texts[int(np.random.default_rng([seed, *name.encode()]).integers(len(texts)))]


def read_prompts(path: str | os.PathLike[str]) -> tuple[Prompt, ...]:
    """Read prompts from a csv (column prompt, optional column family), or from a text file with one
    per line.

    Raises ValueError if the file is missing, has no column prompt or contains no prompt.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        columns, rows = read_table(path)
        require_columns(path, columns, ["prompt"])
        found = [(row["prompt"] or "", row.get("family") or "") for row in rows]
    else:
        found = [(line, "") for line in read_prompt_lines(path)]
    prompts = tuple(Prompt(p.strip(), f.strip()) for p, f in found if p.strip())
    if not prompts:
        raise ValueError(f"{path}: it has no prompts")
    return prompts


def _prompt_file(name: str) -> Path:
    return Path(str(resources.files("soundcrafter"))) / "evaluate" / "prompts" / name
