"""Fixtures shared by the tests: where the sounds are."""

import os
from pathlib import Path

import pytest

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
