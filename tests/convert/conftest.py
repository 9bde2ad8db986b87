"""Narrow published models, and this folder's builders of checkpoints made importable by name."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from checkpoints import AudioLdm

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def narrow() -> "AudioLdm":
    """A narrow AudioLDM as diffusers computes it. Read only."""
    from checkpoints import diffusers_model

    return diffusers_model("narrow")


@pytest.fixture(scope="session")
def narrow_original() -> "AudioLdm":
    """The same weights as the original code computes them. Read only."""
    from checkpoints import diffusers_model

    return diffusers_model("narrow", layer_norm_eps=1e-5)
