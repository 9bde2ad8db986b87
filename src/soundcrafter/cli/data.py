"""Commands on recordings: look at them, encode them for training."""

import json
from pathlib import Path
from typing import Annotated

import typer

from soundcrafter.cli.common import (
    DataOption,
    DeviceOption,
    JsonFlag,
    RecipeOption,
    SetOption,
    progress,
)


def check(
    data: Annotated[Path, typer.Argument(help="Manifest (csv, jsonl) or folder.")],
    split: Annotated[str | None, typer.Option(help="One split only.")] = None,
    label_column: Annotated[str, typer.Option(help="Column that holds the label.")] = "label",
    decode: Annotated[bool, typer.Option("--decode", help="Decode every file in full.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Count recordings, seconds, captions and labels; list what cannot be read."""
    from soundcrafter.data.check import check as look_at

    with progress("checking", show=decode and not as_json) as advance:
        facts = look_at(data, split, label_column, decode=decode, progress=advance)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for key in ("recordings", "minutes", "captions", "labels"):
        print(f"{key}: {facts[key]}")
    print(f"splits: {facts['splits']}")
    print(f"skipped: {len(facts['skipped'])}")
    for file, reason in facts["skipped"]:
        print(f"  {file}: {reason}")


def encode(
    recipe: RecipeOption,
    data: DataOption,
    model: Annotated[str, typer.Option(help="Model with VAE and CLAP.")],
    out: Annotated[Path, typer.Option(help="Folder for latents and embeddings.")],
    overrides: SetOption = None,
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    batch_size: Annotated[int, typer.Option(help="Sounds encoded at once.")] = 16,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Compute latents and CLAP embeddings once, for training the U-Net from them."""
    from soundcrafter.files import read_json
    from soundcrafter.store import find_model
    from soundcrafter.train.encode import encode_data
    from soundcrafter.train.recipe import read_recipe

    settings = read_recipe(recipe, overrides or ())
    with progress("encoding", show=not as_json) as advance:
        index = encode_data(
            settings,
            data,
            find_model(model),
            out,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            progress=advance,
        )
    skipped = read_json(index)["skipped"]
    if as_json:
        print(json.dumps({"index": str(index), "skipped": skipped}, indent=2))
    else:
        print(f"{index}  skipped recordings: {len(skipped)}")
