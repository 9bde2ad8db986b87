"""Facts about a model folder or a recipe: sizes, shapes, defaults."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundcrafter.config import GENERATOR_PARTS, PARTS
from soundcrafter.hub import find_model
from soundcrafter.settings import to_dict
from soundcrafter.store import MOST_PARAMETERS, ModelFolder, count_parameters, open_folder

if TYPE_CHECKING:
    from soundcrafter.train import Recipe


def describe(
    target: str | None, overrides: Sequence[str] = (), *, flops: bool = False
) -> dict[str, Any]:
    """Facts about a recipe (its file, or NAME.toml of those that the package ships) or a model (a
    folder, a hub name, None for the bundled one).

    Ready for JSON; `parameters` counts each part that is there. `flops`: also `gflop`, the 10^9
    operations of each part for a sound of the default length. ValueError where it is neither.
    """
    if target is not None and not Path(target).is_dir() and _is_recipe(target):
        # imported here: only recipes need the training code
        from soundcrafter.train.recipe import read_recipe

        return _describe_recipe(read_recipe(target, overrides), flops)
    if overrides:
        raise ValueError("--set changes a recipe, not a model")
    return _describe_folder(open_folder(find_model(target)), flops)


def _is_recipe(target: str) -> bool:
    """Whether this is a recipe's file, or the name of one that the package ships."""
    shipped = Path(__file__).with_name("recipes") / f"{target}.toml"
    is_name = Path(target).name == target and shipped.is_file()
    return Path(target).is_file() or target.endswith(".toml") or is_name


def _describe_folder(folder: ModelFolder, flops: bool) -> dict[str, Any]:
    configs = {name: folder.parts[name].config for name in PARTS if name in folder.parts}
    # every parameter takes at least a byte of its file
    most = {name: (folder.path / f"{name}.safetensors").stat().st_size for name in configs}
    if "adapter" in most:
        most["adapter"] = MOST_PARAMETERS  # its U-Net is counted too
    ids = {name: entry.training_id for name, entry in folder.parts.items()}
    return {
        **_describe("model", configs, most),
        **(_gflop(configs, folder.sampling.seconds) if flops else {}),
        "training_ids": ids,
        "diffusion": to_dict(folder.diffusion),
        "sampling": to_dict(folder.sampling),
    }


def _describe_recipe(recipe: "Recipe", flops: bool) -> dict[str, Any]:
    configs = {name: getattr(recipe.model, name) for name in GENERATOR_PARTS}
    facts = _describe("recipe", configs, dict.fromkeys(configs, MOST_PARAMETERS))
    for section in ("diffusion", "sampling"):
        facts[section] = to_dict(getattr(recipe.model, section))
    return facts | (_gflop(configs, recipe.model.sampling.seconds) if flops else {})


def _gflop(configs: dict[str, Any], seconds: float) -> dict[str, Any]:
    # imported here: it takes seconds
    from soundcrafter.bench.flops import part_gflop

    if not {"vae", "unet"} <= configs.keys():
        raise ValueError("flops: requires a VAE and a U-Net, which decide the size of a latent")
    return {"gflop": part_gflop(configs, seconds)}


def _describe(kind: str, configs: dict[str, Any], most: dict[str, int]) -> dict[str, Any]:
    parameters = {
        name: count_parameters(name, config, most[name]) for name, config in configs.items()
    }
    facts = {"kind": kind, "parameters": parameters, "total": sum(parameters.values())}
    if "vae" in configs:
        vae = configs["vae"]
        facts["sample_rate"] = vae.mel.sample_rate
        facts["latent"] = {
            "channels": vae.latent_channels,
            "frames_per_second": vae.mel.sample_rate / vae.mel.hop / vae.stride[0],
            "rows": vae.mel.num_mels // vae.stride[1],
        }
    return facts
