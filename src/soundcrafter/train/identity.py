"""What must be unchanged for a run to resume: `identity.json`, checked setting by setting."""

import re
from pathlib import Path
from typing import Any

from soundcrafter.config import PARTS, ModelConfig
from soundcrafter.files import read_json, same_file
from soundcrafter.settings import to_dict
from soundcrafter.train.checkpoint import IDENTITY
from soundcrafter.train.recipe import PATHS
from soundcrafter.train.stage import Stage

# settings of earlier versions; runs saved with these defaults can still resume
RETIRED = {
    "stage.train_audio": True,
    "stage.label_captions": 0.0,
    "stage.tokenizer_captions": [],
    "stage.discriminator_every": 1,
}
_PATH_NAMES = {path.rpartition(".")[2] for path in PATHS}
STEPS = "stage.steps"  # in an identity; a run may be extended
DECAY = "stage.decay"  # which a constant schedule gets when a run is about to end


def read_identity(run: Path) -> dict[str, Any]:
    """Read what must be unchanged for a run to resume. Raises ValueError for a damaged file."""
    file, advice = run / IDENTITY, "delete the folder to train anew"
    try:
        data = read_json(file)
    except ValueError as error:
        raise ValueError(f"{error}; {advice}") from None
    if not isinstance(data, dict) or not isinstance(data.get("stage"), dict):
        raise ValueError(f"{file}: damaged: contains no settings; {advice}")
    return data


def check_identity(place: Path, stage: Stage) -> None:
    """Raise ValueError if the run in a folder cannot resume as this stage.

    More steps are allowed, unless they change the phases of a curriculum, and another decay.
    """
    found = _flatten(read_identity(place))
    before = {k: v for k, v in found.items() if k not in RETIRED or v != RETIRED[k]}
    now = _flatten(stage.identity())
    # a run begun before a setting existed behaved as with today's default
    defaults = {"stage": to_dict(type(stage.config)()), "model": to_dict(ModelConfig())}
    before = {**{k: v for k, v in _flatten(defaults).items() if k in now}, **before}
    keys = {**before, **now}
    different = [key for key in keys if not _equal(key, before.get(key), now.get(key))]
    different = [key for key in different if key != DECAY]
    remedy = "resume with the same settings"
    if STEPS in different:
        if len(stage.phase_starts()) > 1:
            remedy = (
                "curriculum phases are fractions of the total steps, so "
                f"{_as_typed(STEPS, stage)} cannot change"
            )
        elif now[STEPS] < before[STEPS]:
            remedy = "a run can be extended, not shortened"
        else:
            different.remove(STEPS)
    if different:
        key = STEPS if STEPS in different else different[0]
        raise ValueError(
            f"{place}: contains a run with different settings ({_as_typed(key, stage)} is "
            f"{before.get(key)} in that run, {now.get(key)} now); {remedy}, or choose a different "
            "output folder"
        )


def _as_typed(key: str, stage: Stage) -> str:
    """Name a setting of a stage's identity as written in a recipe and after --set."""
    head, _, rest = key.partition(".")
    if head == "stage":
        return f"{stage.section}.{rest}"
    if head == "model" and rest.partition(".")[0] not in (*PARTS, "diffusion"):
        return f"model.{stage.parts[0]}.{rest}"  # the identity holds this part alone
    return re.sub(r"^data\.\d+\.", "data.", key)


def _equal(key: str, before: Any, now: Any) -> bool:
    """Whether a setting is unchanged; a path may lead to the same file from elsewhere."""
    if key.rpartition(".")[2] not in _PATH_NAMES or before is None or now is None:
        return bool(before == now)
    pairs = ([value] if isinstance(value, str) else value for value in (before, now))
    one, other = pairs
    return len(one) == len(other) and all(map(same_file, one, other))


def _flatten(data: dict[str, Any], where: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{where}.{key}" if where else key
        flat |= _flatten(value, name) if isinstance(value, dict) else {name: value}
    return flat
