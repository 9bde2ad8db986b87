"""Sounds for a list of prompts in a folder, made once, whatever interrupts the making."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soundcrafter.evaluate.prompts import Prompt
from soundcrafter.files import make_folder, read_json, write_json
from soundcrafter.pipeline import Progress, SoundCrafter

INDEX = "prompts.json"
AT_ONCE = 8


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
    model, other prompts or seeds.
    """
    if seeds < 1 or seed < 0:
        raise ValueError(f"seeds, seed: got {seeds}, {seed}; at least 1 and 0")
    jobs = [
        (_stem(number, prompt, s, alone=seeds == 1), prompt, s)
        for s in range(seed, seed + seeds)
        for number, prompt in enumerate(prompts, 1)
    ]
    identity: dict[str, Any] = {
        "model": dict(model.training_ids),
        "sampling": vars(model.sampling),
        "seed": seed,
        "prompts": {stem: prompt.text for stem, prompt, _ in jobs},
    }
    make_folder(folder)
    if (folder / INDEX).is_file() and read_json(folder / INDEX) != identity:
        raise ValueError(
            f"{folder}: holds sounds of another model, other prompts or another seed; "
            "use another --out"
        )
    write_json(folder / INDEX, identity)
    for begin in range(0, len(jobs), AT_ONCE):
        batch = jobs[begin : begin + AT_ONCE]
        for s in sorted({s for _, _, s in batch}):
            # the whole batch or nothing of it: batches of other sizes differ in the last bits
            part = [(stem, prompt) for stem, prompt, own in batch if own == s]
            if all((folder / f"{stem}.wav").is_file() for stem, _ in part):
                continue
            texts = [prompt.text for _, prompt in part]
            sounds = model.generate(texts, seed=s, batch_size=AT_ONCE)
            for (stem, _), sound in zip(part, sounds, strict=True):
                file = folder / f"{stem}.wav"
                make_folder(file.parent)
                sound.save(file)
        if progress is not None:
            progress(begin + len(batch), len(jobs))
    return {stem: prompt for stem, prompt, _ in jobs}


def _stem(number: int, prompt: Prompt, seed: int, *, alone: bool) -> str:
    """The file's name without suffix."""
    if prompt.name:
        return prompt.name if alone else f"{prompt.name}-{seed}"
    return f"{number:04d}-{_slug(prompt.text)}-{seed}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "sound"
