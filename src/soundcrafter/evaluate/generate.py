"""Generating sounds for a list of prompts. Existing sounds are kept, so that an interrupted run can
be resumed."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from soundcrafter.evaluate.prompt_sets import Prompt
from soundcrafter.files import make_folder, read_json, write_json
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.progress import Progress
from soundcrafter.sound import Sound

INDEX = "prompts.json"
BATCH_SIZE = 8


@dataclass(frozen=True)
class PlannedSound:
    """A sound to be generated."""

    stem: str  # of its file: the path below the folder without suffix
    prompt: Prompt
    seed: int


PlannedBatch = tuple[PlannedSound, ...]  # of one seed


def generate_prompts(
    model: SoundCrafter,
    prompts: Sequence[Prompt],
    folder: Path,
    *,
    seeds: int = 1,
    seed: int = 0,
    seconds: float | None = None,
    progress: Progress | None = None,
) -> dict[str, Prompt]:
    """Write a wav file for each prompt and seed; returns file stem -> prompt.

    With one seed, prompts that are captions of recordings get their recordings' names. `seconds`
    is the length of each sound, by default that of the model. Existing sounds are kept. Raises
    ValueError if the folder contains sounds of another model, other prompts or other settings.
    """
    batches = plan_batches(prompts, seeds, seed)
    claim_folder(model, batches, folder, torch.get_num_threads(), seconds)
    for done, batch in enumerate(batches, 1):
        generate_files(model, batch, folder, seconds)
        if progress is not None:
            progress(done, len(batches))
    return {planned.stem: planned.prompt for batch in batches for planned in batch}


def draw_prompts(prompts: Sequence[Prompt], limit: int | None, seed: int = 0) -> tuple[Prompt, ...]:
    """Return `limit` prompts drawn by `seed`, in their order; None: all of them.

    A higher limit draws the same prompts and more. Raises ValueError for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit: got {limit}; at least 1")
    chosen = np.random.default_rng(seed).permutation(len(prompts))[:limit]
    return tuple(prompts[place] for place in sorted(chosen))


def check_seeds(seeds: int, seed: int) -> None:
    """Raise ValueError for less than one seed, and for a negative seed."""
    if seeds < 1 or seed < 0:
        raise ValueError(f"seeds, seed: got {seeds}, {seed}; at least 1 and 0")


def plan_batches(prompts: Sequence[Prompt], seeds: int = 1, seed: int = 0) -> list[PlannedBatch]:
    """Return all sounds, seed by seed in the order of the prompts, in batches of BATCH_SIZE.

    A repeated prompt gets other seeds, because otherwise its sound would be counted twice. Raises
    ValueError as `check_seeds`.
    """
    check_seeds(seeds, seed)
    before: Counter[str] = Counter()
    rounds: dict[int, list[PlannedSound]] = defaultdict(list)
    for number, prompt in enumerate(prompts, 1):
        first = seed + seeds * before[prompt.text]
        before[prompt.text] += 1
        for own in range(first, first + seeds):
            stem = _stem(number, prompt, own, alone=seeds == 1)
            rounds[own].append(PlannedSound(stem, prompt, own))
    return [
        tuple(sounds[i : i + BATCH_SIZE])
        for _, sounds in sorted(rounds.items())
        for i in range(0, len(sounds), BATCH_SIZE)
    ]


def claim_folder(
    model: SoundCrafter,
    batches: Sequence[PlannedBatch],
    folder: Path,
    threads: int,
    seconds: float | None = None,
) -> None:
    """Create a folder, and record in it how its sounds are generated. That includes the number of
    threads, because it changes the last bits.

    Raises ValueError if the folder contains sounds that were generated in another way.
    """
    # absent from older folders
    sampling = {name: value for name, value in vars(model.sampling).items() if value is not None}
    identity: dict[str, Any] = {
        "model": dict(model.training_ids),
        "sampling": sampling if seconds is None else {**sampling, "seconds": seconds},
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
            f"{folder}: contains sounds made with {before.get('threads')} threads per process, not "
            f"{threads}; change --processes or use another folder"
        )
    if others:
        raise ValueError(
            f"{folder}: contains sounds that differ in {', '.join(others)}; use another folder"
        )
    write_json(file, identity)


def generate_batch(
    model: SoundCrafter,
    batch: PlannedBatch,
    *,
    exists: Callable[[PlannedSound], bool],
    save: Callable[[PlannedSound, Sound], None],
    seconds: float | None = None,
) -> bool:
    """Generate and save the sounds of a batch unless all of them exist; returns whether it did.

    The whole batch is generated even if one sound is missing: batches of other sizes differ in the
    last bits.
    """
    if all(exists(planned) for planned in batch):
        return False
    texts = [planned.prompt.text for planned in batch]
    sounds = model.generate(
        texts, seed=batch[0].seed, seconds=seconds, batch_size=BATCH_SIZE, trim=False
    )
    for planned, sound in zip(batch, sounds, strict=True):
        save(planned, sound)
    return True


def generate_files(
    model: SoundCrafter, batch: PlannedBatch, folder: Path, seconds: float | None = None
) -> bool:
    """Generate a batch into the files of a folder, see `generate_batch` and `sound_file`."""

    def save(planned: PlannedSound, sound: Sound) -> None:
        file = sound_file(planned, folder)
        make_folder(file.parent)
        sound.save(file)

    return generate_batch(
        model,
        batch,
        exists=lambda planned: sound_file(planned, folder).is_file(),
        save=save,
        seconds=seconds,
    )


def sound_file(planned: PlannedSound, folder: Path) -> Path:
    """Return the path of a sound, whether it exists or not."""
    return folder / f"{planned.stem}.wav"


def _stem(number: int, prompt: Prompt, seed: int, *, alone: bool) -> str:
    if prompt.name:
        return prompt.name if alone else f"{prompt.name}-{seed}"
    return f"{number:04d}-{slug(prompt.text)}-{seed}"


def slug(text: str) -> str:
    """Return a text for a file name: a to z and digits, with everything else replaced by "-"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "sound"
