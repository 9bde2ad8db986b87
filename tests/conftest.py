"""Fixtures shared by the tests: where the sounds are, and a tiny model trained on some."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples on every run: a change is judged by what it changed. Slow machines are no fault.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

_TESTS = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the whole sounds.csv; SOUNDCRAFTER_DATA names another place for it."""
    given = os.environ.get("SOUNDCRAFTER_DATA")
    folder = Path(given) if given else _TESTS.parent.parent / "shared" / "data"
    if not (folder / "sounds.csv").is_file():
        pytest.skip(f"no sounds.csv in {folder}: set SOUNDCRAFTER_DATA to the sound data")
    return folder


@pytest.fixture(scope="session")
def clips() -> Path:
    """Six short CC0 clips with their sounds.csv, part of the repository."""
    return _TESTS / "data"


@pytest.fixture(scope="session")
def tiny_recipe() -> Path:
    """Every part at width 8: whole pipelines in seconds."""
    return _TESTS.parent / "recipes" / "tiny.toml"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, tiny_recipe, clips) -> Path:
    """A model folder with every part, trained for the few steps of the tiny recipe. Read only."""
    from soundcrafter.train import GENERATOR_STAGES, RunOptions, read_recipe, train

    folder = tmp_path_factory.mktemp("tiny") / "model"
    recipe, options = read_recipe(tiny_recipe), RunOptions(device="cpu")
    for stage in GENERATOR_STAGES:
        train(stage, recipe, data=clips, out=folder, options=options)
    return folder


@pytest.fixture
def model_copy(tiny_model, tmp_path) -> Path:
    """The tiny model's parts in a folder that a test may change."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("training"))
    return folder
