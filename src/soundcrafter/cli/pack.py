"""The command that makes sound packs."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from soundcrafter.cli.common import DeviceOption, JsonFlag, PrecisionOption, progress


def pack(
    file: Annotated[Path, typer.Argument(help="Sounds of the pack (TOML), see docs/packs.md.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for sounds, manifest and contact sheet.")
    ],
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Make a pack: takes of each sound at one loudness, a manifest and a contact sheet.

    The same command continues after an interruption. If the file has changed, only the sounds
    that it changes are made again.
    """
    from soundcrafter.files import locked
    from soundcrafter.pack import make_pack, quiet_takes, read_manifest, read_pack
    from soundcrafter.reports.pack import write_sheet

    wanted = read_pack(file)
    made = []
    with locked(output), progress("generating", show=not as_json) as advance:
        for row in make_pack(wanted, output, device=device, precision=precision, progress=advance):
            made.append(row.file)
            if not as_json:
                score = "" if row.score is None else f"  score {row.score:.2f}"
                print(f"{output / row.file}  {row.seconds:.2f} s  seed {row.seed}{score}")
        rows = read_manifest(output)
        sheet = write_sheet(wanted, rows, output)
    kept = [row.file for row in rows if row.state == "made" and row.file not in set(made)]
    dropped = [row.file for row in rows if row.state == "dropped"]
    if as_json:
        facts = {"made": made, "kept": kept, "dropped": dropped, "page": str(sheet)}
        print(json.dumps(facts, indent=2))
    else:
        print(f"{sheet}  {len(made)} made, {len(kept)} kept")
    _warn(output, dropped, len(quiet_takes(wanted, rows)))


def _warn(output: Path, dropped: Sequence[str], quiet: int) -> None:
    if dropped:
        names = ", ".join(dropped[:3]) + (" ..." if len(dropped) > 3 else "")
        print(
            f"warning: {output}: no longer in the pack, but not deleted: {names}",
            file=sys.stderr,
        )
    if quiet:
        print(
            f"warning: quieter than wanted: {quiet} take{'s' if quiet > 1 else ''}, with peaks at "
            "full scale; a lower lufs levels all",
            file=sys.stderr,
        )
