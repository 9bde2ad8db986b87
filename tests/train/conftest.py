"""Fixtures of the training tests: the tiny recipe with overrides, and one short run of a stage."""

import shutil
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from soundcrafter.models.aisfx import AiSFX
from soundcrafter.train import Recipe, RunOptions, read_recipe, train
from soundcrafter.train.encode import encode_data

Make = Callable[..., Recipe]
Losses = list[dict[str, Any]]


@pytest.fixture(scope="session")
def make_recipe(tiny_recipe: Path) -> Make:
    """make_recipe("vae.steps=3", ...): the tiny recipe with overrides."""
    return lambda *overrides: read_recipe(tiny_recipe, overrides)


@pytest.fixture(scope="session")
def go(make_recipe: Make, clips: Path) -> Callable[..., Losses]:
    """go(stage, out, *overrides, data=, init=, **options): train, return the entries it logged."""

    def run(
        stage: str,
        out: Path,
        *overrides: str,
        data: Path = clips,
        init: Path | None = None,
        report: Callable[[Any], None] | None = None,
        **options: Any,
    ) -> Losses:
        entries: Losses = []

        def take(entry: Any) -> None:
            entries.append(dict(entry))
            if report is not None:
                report(entry)

        settings = RunOptions(**{"device": "cpu", "log_steps": 1, **options})
        recipe = make_recipe(*overrides)
        train(stage, recipe, data=data, out=out, options=settings, init=init, report=take)
        return entries

    return run


@pytest.fixture(scope="session")
def fork_two(fork: Callable[..., BaseProcess]) -> Callable[..., list[BaseProcess]]:
    """fork_two(code, arguments): two processes that know of each other, as torchrun's do."""

    def start(code: str, arguments: list[str]) -> list[BaseProcess]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return [fork(code, arguments, RANK=rank, LOCAL_RANK=rank, **common) for rank in "01"]

    return start


@pytest.fixture(scope="session")
def encoded(
    tmp_path_factory: pytest.TempPathFactory, make_recipe: Make, clips: Path, tiny_model: Path
) -> Path:
    """The clips as the tiny model's latents and embeddings. Read only."""
    folder = tmp_path_factory.mktemp("encoded")
    encode_data(make_recipe(), clips, tiny_model, folder, device="cpu")
    return folder


@pytest.fixture
def trained_copy(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with the runs that made it, in a folder that a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "trained"))


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow aiSFX of random weights, as a file."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("teacher") / "aisfx.safetensors"
    save_file(AiSFX(widths=(4, 4, 8, 8)).state_dict(), file)
    return file
