"""Parts whose training ended before its last step, and the warning about those."""

import logging
from collections.abc import Iterable
from pathlib import Path

from soundcrafter.files import read_json
from soundcrafter.train.checkpoint import IDENTITY, checkpoint_step, list_checkpoints, run_folder

_log = logging.getLogger(__name__)

# the stages that train each part, the one that has the last word first
_STAGES = {
    "clap_audio": ("clap",),
    "clap_text": ("clap", "text"),
    "vae": ("vae",),
    "vocoder": ("vocoder_decoded", "vocoder"),
    "unet": ("diffusion",),
    "unet_fast": ("distill",),
    "tagger": ("tagger",),
}


def unfinished(folder: Path, part: str) -> tuple[str, int, int] | None:
    """The stage that trains a part of a model folder, the steps done and the steps of its recipe;
    None where the training reached its end, or left no run to tell by."""
    for stage in _STAGES[part]:
        place = run_folder(folder, stage)
        checkpoints = list_checkpoints(place)
        if checkpoints and (place / IDENTITY).is_file():
            done = checkpoint_step(checkpoints[-1])
            steps = int(read_json(place / IDENTITY)["stage"]["steps"])
            return (stage, done, steps) if done < steps else None
    return None


def warn_of_unfinished(parts: Iterable[tuple[Path, str]]) -> None:
    """Log one line for each stage that did not finish a part, given as (model folder, part)."""
    found = {(folder, *state) for folder, part in parts if (state := unfinished(folder, part))}
    for folder, stage, done, steps in sorted(found):
        _log.warning(
            "warning: %s: the training of its %s ended at step %d of %d; finish it with "
            "`soundcrafter train %s`, or silence this with --allow-unfinished",
            folder,
            stage,
            done,
            steps,
            stage.partition("_")[0],
        )
