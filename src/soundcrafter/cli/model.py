"""Commands on a model as a whole: what it is, a release of it."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from soundcrafter.cli.common import JsonFlag, SetOption, print_table, read_text


def info(
    target: Annotated[
        str | None,
        typer.Argument(help="Recipe, model folder, export or hub name; else the bundled model."),
    ] = None,
    overrides: SetOption = None,
    flops: Annotated[
        bool, typer.Option("--flops", help="Also count the operations for one sound.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """What a model, an export or a recipe is: its parts, their sizes, its defaults."""
    from soundcrafter.onnx.folder import is_exported

    if is_exported(target):
        facts = _exported_facts(str(target), overrides, flops)
    else:
        from soundcrafter.describe import describe

        facts = describe(target, overrides or (), flops=flops)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    size = "bytes" if facts["kind"] == "export" else "parameters"
    rows = [[name, f"{count:,}"] for name, count in facts[size].items()]
    print_table(
        target or "bundled model", ["part", size], [*rows, ["in all", f"{facts['total']:,}"]]
    )
    if "gflop" in facts:
        seconds = facts["sampling"]["seconds"]
        rows = [[name, f"{count:,.2f}"] for name, count in facts["gflop"].items()]
        print_table(f"one sound of {seconds:g} s", ["call", "GFLOP"], rows)
    for key in ("model", "weights", "opset", "sample_rate", "latent", "diffusion", "sampling"):
        if key in facts:
            value = facts[key]
            if isinstance(value, dict):
                value = ", ".join(f"{name} {each}" for name, each in value.items() if each != "")
            print(f"{key}: {value}")


def _exported_facts(target: str, overrides: list[str] | None, flops: bool) -> dict[str, Any]:
    from soundcrafter.onnx.folder import exported_facts

    if overrides or flops:
        raise ValueError("--set and --flops: not possible with an exported model")
    return exported_facts(target)


def import_model(
    source: Annotated[
        str, typer.Argument(help="Folder, .ckpt or hub name: AudioLDM, or LAION's CLAP.")
    ],
    out: Annotated[Path, typer.Option(help="New model folder; for a CLAP also an AudioLDM's.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(help="For AudioLDM's own .ckpt: folder or hub name of roberta-base."),
    ] = None,
) -> None:
    """Turn a published checkpoint into a model folder; no code in it runs."""
    from soundcrafter.hub import import_named

    print(f"{out}  from {import_named(source, out, tokenizer)}")


def export(
    out: Annotated[Path, typer.Option(help="New folder for the ONNX files.")],
    model: Annotated[
        str | None, typer.Argument(help="Folder or hub name; else the bundled model.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="fp32, fp16 or int8: how weights are stored.")
    ] = "fp32",
) -> None:
    """Write a model as ONNX files, which need no torch to make sounds."""
    try:
        from soundcrafter.onnx.export import ExportedPart, export_onnx
    except ModuleNotFoundError as error:
        raise ValueError(
            f"export: needs {error.name}; install it with: pip install 'soundcrafter[onnx-export]'"
        ) from None

    def show(part: ExportedPart) -> None:
        moved = "" if part.moved is None else f"; int8 moves latents by {part.moved:.2f}"
        size = f"{part.size / 1e6:.1f} MB"
        print(f"{part.name}  {size}  differs by {part.error:.1g} of its peak{moved}")

    for remark in export_onnx(model, out, weights, show):
        print(f"warning: {remark}", file=sys.stderr)
    print(out)


def ship(
    model: Annotated[Path, typer.Argument(help="Trained model folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the copy.")],
    data: Annotated[Path | None, typer.Option(help="Training data, for the credits.")] = None,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32.")] = "float16",
    figures: Annotated[Path | None, typer.Option(help="JSON of measurements for the card.")] = None,
    notes: Annotated[Path | None, typer.Option(help="Text for the card: limits, terms.")] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Allow a model that lacks parts.")
    ] = False,
) -> None:
    """Copy a model in half precision, with a model card and credits."""
    from soundcrafter.files import read_json
    from soundcrafter.train.release import release

    found = read_json(figures) if figures is not None else None
    text = read_text(notes) if notes is not None else ""
    done = release(model, out, data=data, dtype=dtype, figures=found, notes=text, partial=partial)
    print(done)
