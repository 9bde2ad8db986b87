"""A model folder whose config.json was written by an enemy: refused in one line, at once."""

import copy
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from soundcrafter import SoundCrafter
from soundcrafter.describe import describe
from soundcrafter.files import read_json, write_json
from soundcrafter.store import open_folder

VALUES = (10**6, 10**30, -1, 0, 1e308, 1e-300, "x", None, [], {}, [[1]], 10**9, True, 3)
Place = tuple[str | int, ...]


def places(data: Any, place: Place = ()) -> Iterator[Place]:
    """Where the values of nested lists and tables are, and the lists themselves."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from places(value, (*place, key))
        return
    yield place
    if isinstance(data, list):
        for index, value in enumerate(data):
            yield from places(value, (*place, index))


def changed(data: Any, place: Place, value: Any) -> Any:
    data = copy.deepcopy(data)
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return data


def load(folder: Path) -> None:
    opened = open_folder(folder)
    for part in opened.parts:
        opened.load(part)
    opened.load_tokenizer()


def test_every_value_of_a_config_may_be_hostile(model_copy: Path) -> None:
    good = read_json(model_copy / "config.json")
    refused = 0
    # two of the values at each place; neighbours get other ones
    values = itertools.cycle(VALUES)
    for place in places(good):
        for value in (next(values), next(values)):
            write_json(model_copy / "config.json", changed(good, place, value))
            began, message = time.monotonic(), ""
            try:
                load(model_copy)
            except ValueError as error:
                refused += 1
                message = str(error)
            assert "\n" not in message
            assert time.monotonic() - began < 10, (place, value)
    assert refused > 100


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        (("parts", "unet", "config", "time_dim"), 10**6, "would create more than|cannot build"),
        (("parts", "unet", "config", "time_dim"), 10**30, "a number of 31 digits; too large"),
        (
            ("parts", "clap_audio", "config", "depths", 0),
            10**6,
            "would create more than .* parameters",
        ),
        (("parts", "vae", "config", "res_blocks"), 10**9, "res_blocks: got 1000000000; allowed"),
        (("parts", "clap_audio", "config", "max_seconds"), 1e308, "max_seconds: got 1e"),
        (("sampling", "candidates"), 10**6, "candidates: got 1000000; allowed: 1 to 100"),
        (("sampling", "window"), 1e-300, "window: got 1e-300; allowed"),
        (("diffusion", "steps"), 10**9, "steps: got 1000000000; allowed"),
    ],
)
def test_settings_that_no_memory_holds(
    model_copy: Path, place: Place, value: Any, fault: str
) -> None:
    config = read_json(model_copy / "config.json")
    write_json(model_copy / "config.json", changed(config, place, value))
    began = time.monotonic()
    with pytest.raises(ValueError, match=fault):
        SoundCrafter.from_pretrained(model_copy, "cpu").generate("rain", seconds=0.2, steps=1)
    if "ask for" in fault:
        with pytest.raises(ValueError, match=fault):
            describe(str(model_copy))
    assert time.monotonic() - began < 20


def test_json_that_is_nested_too_deeply(model_copy: Path) -> None:
    (model_copy / "config.json").write_text("[" * 10**6)
    with pytest.raises(ValueError, match=r"config\.json: not JSON: .*recursion"):
        open_folder(model_copy)
    (model_copy / "config.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(ValueError, match="missing or unknown keys"):
        open_folder(model_copy)
