"""Sounds for a list of prompts in a folder, made once, whatever interrupts the making."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from soundcrafter.evaluate.prompts import Prompt
from soundcrafter.files import make_folder, read_json, write_json
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.progress import Progress

INDEX = "prompts.json"
AT_ONCE = 8


@dataclass(frozen=True)
class Planned:
    """One sound to be made."""

    stem: str  # its file below the folder, without suffix
    prompt: Prompt
    seed: int


Batch = tuple[Planned, ...]  # of one seed


def generate_prompts(
    model: SoundCrafter,
    prompts: Sequence[Prompt],
    folder: Path,
    *,
    seeds: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Prompt]:
    """Write a wav for each prompt and seed; returns file stem -> prompt.

    With one seed, prompts that are captions of recordings get their recordings' names.

    Sounds that are there are kept. Raises ValueError where the folder holds sounds of another
    model, other prompts or seeds, or made otherwise.
    """
    batches = plan_batches(prompts, seeds, seed)
    claim_folder(model, batches, folder, torch.get_num_threads())
    for done, batch in enumerate(batches, 1):
        make_batch(model, batch, folder)
        if progress is not None:
            progress(done, len(batches))
    return {planned.stem: planned.prompt for batch in batches for planned in batch}


def draw_prompts(prompts: Sequence[Prompt], limit: int | None, seed: int = 0) -> tuple[Prompt, ...]:
    """The first `limit` of the prompts as `seed` shuffles them, in their own order; None: all.

    What is drawn with a lower limit is among what is drawn with a higher one. Raises ValueError
    for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit: got {limit}; at least 1")
    chosen = np.random.default_rng(seed).permutation(len(prompts))[:limit]
    return tuple(prompts[place] for place in sorted(chosen))


def plan_batches(prompts: Sequence[Prompt], seeds: int = 1, seed: int = 0) -> list[Batch]:
    """All sounds, seed by seed in the order of the prompts, as they are made at once.

    A prompt that comes again, as captions do, gets other seeds: else its sounds would be one sound,
    counted twice. Raises ValueError for no seeds and a negative one.
    """
    if seeds < 1 or seed < 0:
        raise ValueError(f"seeds, seed: got {seeds}, {seed}; at least 1 and 0")
    before: Counter[str] = Counter()
    rounds: dict[int, list[Planned]] = defaultdict(list)
    for number, prompt in enumerate(prompts, 1):
        first = seed + seeds * before[prompt.text]
        before[prompt.text] += 1
        for own in range(first, first + seeds):
            stem = _stem(number, prompt, own, alone=seeds == 1)
            rounds[own].append(Planned(stem, prompt, own))
    return [
        tuple(sounds[i : i + AT_ONCE])
        for _, sounds in sorted(rounds.items())
        for i in range(0, len(sounds), AT_ONCE)
    ]


def claim_folder(model: SoundCrafter, batches: Sequence[Batch], folder: Path, threads: int) -> None:
    """Make a folder, and write into it what its sounds are made of, `threads` that compute them
    included: another number of them gives other last bits.

    Raises ValueError where it holds sounds of something else.
    """
    identity: dict[str, Any] = {
        "model": dict(model.training_ids),
        "sampling": vars(model.sampling),
        "device": model.device.type,
        "precision": model.precision,
        "threads": threads,
        "prompts": {p.stem: [p.prompt.text, p.seed] for batch in batches for p in batch},
    }
    file = make_folder(folder) / INDEX
    before = read_json(file) if file.is_file() else identity
    others = [name for name, value in identity.items() if before.get(name) != value]
    if others == ["threads"]:
        raise ValueError(
            f"{folder}: holds sounds made with {before.get('threads')} threads a process, not "
            f"{threads}; give other --processes or use another folder"
        )
    if others:
        raise ValueError(f"{folder}: holds sounds of other {', '.join(others)}; use another folder")
    write_json(file, identity)


def make_batch(model: SoundCrafter, batch: Batch, folder: Path) -> bool:
    """Write the sounds of a batch, where one of them is missing; returns whether it was so."""
    files = sound_files(batch, folder)
    # the whole batch or nothing of it: batches of other sizes differ in the last bits
    if all(file.is_file() for file in files):
        return False
    texts = [planned.prompt.text for planned in batch]
    sounds = model.generate(texts, seed=batch[0].seed, batch_size=AT_ONCE)
    for file, sound in zip(files, sounds, strict=True):
        make_folder(file.parent)
        sound.save(file)
    return True


def sound_files(batch: Batch, folder: Path) -> tuple[Path, ...]:
    """Where the sounds of a batch are, or will be."""
    return tuple(folder / f"{planned.stem}.wav" for planned in batch)


def _stem(number: int, prompt: Prompt, seed: int, *, alone: bool) -> str:
    """The file's name without suffix."""
    if prompt.name:
        return prompt.name if alone else f"{prompt.name}-{seed}"
    return f"{number:04d}-{slug(prompt.text)}-{seed}"


def slug(text: str) -> str:
    """The letters a to z and digits of a text, for a file name; what it leaves out becomes "-"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "sound"
