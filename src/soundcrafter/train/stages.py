"""The stages by name, and training one of them into a model folder."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from soundcrafter.config import GENERATOR_PARTS
from soundcrafter.files import locked
from soundcrafter.hub import find_model
from soundcrafter.progress import Progress
from soundcrafter.store import ModelFolder, copy_parts, open_folder, read_parts
from soundcrafter.train.checkpoint import run_folder
from soundcrafter.train.clap import ClapStage
from soundcrafter.train.diffusion import DiffusionStage
from soundcrafter.train.distill import DistillStage
from soundcrafter.train.engine import is_first_process
from soundcrafter.train.log import Report
from soundcrafter.train.loop import RunOptions, run
from soundcrafter.train.lora import AdapterStage
from soundcrafter.train.recipe import Recipe, read_recipe
from soundcrafter.train.stage import Stage
from soundcrafter.train.tagger import TaggerStage
from soundcrafter.train.text import TextStage
from soundcrafter.train.unfinished import warn_of_unfinished
from soundcrafter.train.vae import VAEStage
from soundcrafter.train.vocoder import VocoderStage

STAGES: dict[str, type[Stage]] = {
    "text": TextStage,
    "clap": ClapStage,
    "vae": VAEStage,
    "vocoder": VocoderStage,
    "diffusion": DiffusionStage,
    "distill": DistillStage,
    "tagger": TaggerStage,
}
U_NET_STAGES = ("diffusion", "distill")
GENERATOR_STAGES = ("clap", "vae", "vocoder", "diffusion")  # these train all of GENERATOR_PARTS


def stage_class(name: str) -> type[Stage]:
    """The stage of that name; ValueError for another one."""
    if name not in STAGES:
        raise ValueError(f"stage: got {name!r}; allowed: {', '.join(STAGES)}")
    return STAGES[name]


def build_stage(name: str, recipe: Recipe, data: str | os.PathLike[str], folder: Path) -> Stage:
    """The stage of that name over `data`, for the model folder `folder`."""
    return stage_class(name)(recipe, data, folder)


def settings_base(stage: str, base: Path | None, out: Path) -> ModelFolder | None:
    """The model whose settings a recipe's [model] changes: `base` for a U-Net, or else the model in
    `out` that is distilled."""
    if stage == "distill" and (out / "config.json").is_file():
        return open_folder(out)
    return open_folder(base) if base is not None and stage in U_NET_STAGES else None


def train(
    stage: str,
    recipe: Recipe | str | os.PathLike[str],
    *,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: RunOptions | None = None,
    init: str | os.PathLike[str] | None = None,
    lora: int | None = None,
    report: Report | None = None,
    progress: Progress | None = None,
    overrides: Sequence[str] = (),
    allow_unfinished: bool = False,
) -> int:
    """Train one stage into the model folder `out`, resuming from its last checkpoint if any.

    `recipe` is a recipe or its file, which is read with `overrides` ("section.name=value").
    `data` is a manifest, a folder or shards (see data/manifest.py); diffusion also takes encoded
    ones.
    `init` is a model (folder or hub name) to start from. For diffusion and distill, it also
    supplies the other parts of a new `out` and the settings that a recipe's [model] leaves out.
    `lora` trains an adapter of this rank for the U-Net of `init` instead of the U-Net itself; `out`
    then holds nothing else. `report` gets every log entry, `progress` the steps done and their
    total after each step. Parts that were not trained to the end are used with a warning, or
    with `allow_unfinished` without. Returns the number of steps done, fewer than the recipe's where
    `options` stopped the run. Raises ValueError for anything that cannot be trained, and
    TrainingInterrupted, a KeyboardInterrupt, at SIGINT and SIGTERM.
    """
    out, options = Path(out), options or RunOptions()
    base = find_model(init) if init is not None else None
    if not isinstance(recipe, Recipe):
        recipe = read_recipe(recipe, overrides, settings_base(stage, base, out))
    elif overrides:
        raise ValueError(
            "overrides: allowed only with a recipe file; pass them to read_recipe instead"
        )
    if lora is not None:
        if base is None or stage != "diffusion":
            raise ValueError("lora: requires the stage diffusion, and init with the base model")
        open_folder(base).require("unet")
        others = [name for name in read_parts(out) if name != "adapter"]
        if others:  # beside another U-Net an adapter would make the folder unreadable
            raise ValueError(
                f"{out}: contains {', '.join(others)}, but an adapter needs a folder of its own; "
                "choose a different output folder"
            )
    kind = AdapterStage if lora is not None else stage_class(stage)
    start = base if lora is None else None  # an adapter is attached to the U-Net of `base`
    with ExitStack() as held:
        if is_first_process():  # the others of torchrun share its folder
            held.enter_context(locked(run_folder(out, kind.run_name(recipe))))
        built = _build(stage, recipe, data, out, base, lora)
        if not allow_unfinished and is_first_process():
            init_parts = [(start, part) for part in built.parts] if start is not None else []
            warn_of_unfinished([*init_parts, *built.uses()])
        return run(built, out, options, init=start, report=report, progress=progress)


def _build(
    stage: str,
    recipe: Recipe,
    data: str | os.PathLike[str],
    out: Path,
    base: Path | None,
    lora: int | None,
) -> Stage:
    """The stage over `data` for `out`; a new `out` of a U-Net gets the other parts of `base`."""
    if lora is not None:
        assert base is not None
        return AdapterStage(recipe, data, base, lora)
    if stage == "distill" and base is None and not (out / "config.json").is_file():
        raise ValueError("distill: requires init, the model to distil, or a model in out")
    if base is None or stage not in U_NET_STAGES or (out / "config.json").is_file():
        return build_stage(stage, recipe, data, out)
    source = open_folder(base)
    source.require("unet")
    built = build_stage(stage, recipe, data, base)  # what it refuses leaves `out` as it was
    kept = [name for name in GENERATOR_PARTS if name in source.parts and name not in built.parts]
    copy_parts(source, out, kept)
    return built
