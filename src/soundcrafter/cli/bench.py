"""The command that measures a model on this machine."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from soundcrafter.cli.common import DeviceOption, JsonFlag, PrecisionOption, print_table


def bench(
    model: Annotated[
        str | None, typer.Argument(help="Model folder or hub name; else the bundled model.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of the sound, .2 to 600.")] = 10.24,
    steps: Annotated[int, typer.Option(help="Sampling steps, each guided.")] = 25,
    repeats: Annotated[int, typer.Option(help="Times that each is measured; the median.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the noise; speed does not depend on it.")] = 0,
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    peer: Annotated[
        str | None, typer.Option(help="diffusers: measure its AudioLDM in turns, random weights.")
    ] = None,
    cold: Annotated[
        bool, typer.Option("--cold", help="Also by its own settings: here, and in a fresh process.")
    ] = False,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Also by length, batch and steps; needs --out.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for bench.json, and scaling.csv and scaling.png.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """How fast a model is here, part by part, and how much memory it takes."""
    from soundcrafter.bench.benchmark import bench as measure
    from soundcrafter.bench.scaling import SCALING
    from soundcrafter.bench.workload import Workload

    workload = Workload(
        seconds=seconds,
        steps=steps,
        repeats=repeats,
        seed=seed,
        device=device,
        precision=precision,
    )
    report = measure(
        model,
        workload,
        peer=peer,
        cold=cold,
        scaling=SCALING if scaling else None,
        out=out,
        on_status=_print_status if sys.stderr.isatty() and not as_json else lambda _: None,
    )
    if as_json:
        print(json.dumps(report, indent=2))
        return
    _print(report)
    if out is not None:
        print(f"{out / 'bench.json'}")


def _print_status(what: str) -> None:
    print(f"... {what}", file=sys.stderr)


def _print(report: Mapping[str, Any]) -> None:
    machine, peak = report["machine"], report["peak_gflops"]
    print_table(
        f"{report['model']}: {report['seconds']:g} s of sound in {report['steps']} guided steps, "
        f"{report['precision']} on {machine['device']}",
        [
            *("part", "seconds", "GFLOP", "GFLOP/s", "of peak"),
            *(head for name in report["peers"] for head in (name, "ratio")),
        ],
        _rows(report),
    )
    print(
        f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, {machine['threads']} "
        f"threads ({machine['capability']}), torch {machine['torch']}; peak {peak['matmul']:.0f} "
        f"(matrices), {peak['conv']:.0f} (convolutions) GFLOP/s; "
        f"N {report['repeats']} (median), seed {report['seed']}"
    )
    for row in report.get("scaling", []):
        memory = row["peak_memory_mb"]
        said = "" if memory is None else f"  {memory:.0f} MB"
        print(f"{row['axis']} {row['value']:g}: {row['seconds']:.3f} s{said}")


def _rows(report: Mapping[str, Any]) -> list[list[str]]:
    """The table: a part each with its figures and the peers' seconds and ratios."""
    from soundcrafter.bench.workload import PARTS

    ours, peers = report["ours"], report["peers"].values()
    rows = []
    for part, words in PARTS.items():
        if part not in ours["seconds"]:
            continue
        gflop, of_peak = ours["gflop"].get(part), ours["share_of_peak"].get(part)
        row = [words, f"{ours['seconds'][part]:.4f}"]
        row += (
            ["", "", ""]
            if gflop is None
            else [
                f"{gflop:.2f}",
                f"{ours['gflops'][part]:.1f}",
                f"{of_peak:.0%}",
            ]
        )
        for peer in peers:
            theirs = peer["seconds"].get(part)
            row += ["", ""] if theirs is None else [f"{theirs:.4f}", f"{peer['ratios'][part]:.2f}"]
        rows.append(row)
    plain = [("seconds a second of sound", "real_time_factor", "end_to_end", ".3f")]
    plain += [("peak memory, MB", "peak_memory_mb", "peak_memory", ".0f")]
    for words, key, ratio, shown in plain:
        row = [words, f"{ours[key]:{shown}}", "", "", ""]
        for peer in peers:
            value = peer["ratios"].get(ratio)
            row += [f"{peer[key]:{shown}}", "" if value is None else f"{value:.2f}"]
        rows.append(row)
    shipped = {"as_shipped": "by the model's own settings", "cold": "the same, fresh process"}
    for key, words in shipped.items():
        if key in report:
            rows.append([words, f"{report[key]:.2f}", "", "", "", *(["", ""] * len(peers))])
    return rows
