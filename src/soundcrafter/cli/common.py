"""What the commands share: options, progress, tables, text files."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from soundcrafter.export import Export
    from soundcrafter.ucs import UcsNaming

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
PrecisionOption = Annotated[
    str, typer.Option(help="auto, fp32, bf16 or fp16; auto is bf16 if the device supports it.")
]
RateOption = Annotated[int | None, typer.Option(help="Sample rate of the files, in Hz.")]
DepthOption = Annotated[str, typer.Option(help="16, 24 or float.")]
LufsOption = Annotated[
    float | None, typer.Option(help="Loudness of the files, -23 for example (BS.1770).")
]
StereoFlag = Annotated[bool, typer.Option("--stereo", help="Give mono sounds two channels.")]
MetadataFlag = Annotated[
    bool,
    typer.Option("--metadata/--no-metadata", help="Write into files how their sound was made."),
]
SidecarFlag = Annotated[
    bool, typer.Option("--sidecar", help="Write how a sound was made beside it, as .json.")
]
LikeOption = Annotated[Path | None, typer.Option(help="Sound to resemble.")]
LikeWeightOption = Annotated[
    float | None, typer.Option(help="Weight of --like relative to the prompt, 0 to 1.")
]
MoreOption = Annotated[list[str] | None, typer.Option(help="What to move towards. Repeatable.")]
LessOption = Annotated[list[str] | None, typer.Option(help="What to move away from. Repeatable.")]
SteerOption = Annotated[
    float | None, typer.Option(help="How far --more and --less go. Default 0.5.")
]
UcsOption = Annotated[
    str | None,
    typer.Option(help="Names by the Universal Category System: a CatID (RAINMetl), or auto."),
]
UcsCreatorOption = Annotated[
    str | None, typer.Option(help="CreatorID of --ucs names. Default SNDCRFT.")
]
UcsSourceOption = Annotated[
    str | None, typer.Option(help="SourceID of --ucs names: your project. Default NONE.")
]
RecipeOption = Annotated[
    Path, typer.Option(help="Recipe: a TOML file, or one that ships with the package, as mini.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override: section.name=value. Repeatable.")
]
AllowUnfinishedFlag = Annotated[
    bool,
    typer.Option("--allow-unfinished", help="Use unfinished parts without a warning."),
]
DataOption = Annotated[  # a string, because a path would not keep the // of a URL
    str,
    typer.Option(help="Manifest (csv, jsonl), folder, or shards: DIR/{000000..000009}.tar, a URL."),
]


def read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot read: {error}") from None


def export_of(**options: Any) -> "Export":
    """The format that --rate, --depth and so on ask for. Raises ValueError for an unknown one."""
    from soundcrafter.export import Export

    return Export(**options)


def ucs_naming(cat_id: str | None, creator: str | None, source: str | None) -> "UcsNaming | None":
    """The naming that --ucs and its options ask for. Raises ValueError for what UCS forbids."""
    from soundcrafter.ucs import CREATOR, SOURCE, UcsNaming

    if cat_id is None:
        if creator is not None or source is not None:
            raise ValueError("--ucs-creator and --ucs-source require --ucs")
        return None
    return UcsNaming(
        cat_id, CREATOR if creator is None else creator, SOURCE if source is None else source
    )


def named_values(option: str, given: list[str] | None) -> dict[str, str]:
    """NAME=VALUE options as a dict. ValueError for another form, and for a name given twice."""
    found: dict[str, str] = {}
    for text in given or ():
        name, _, value = text.partition("=")
        if not (name and value):
            raise ValueError(f"{option}: got {text!r}; expected NAME=VALUE")
        if name in found:
            raise ValueError(f"{option}: got {name} twice")
        found[name] = value
    return found


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


@contextmanager
def step_progress(what: str, show: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where someone looks, with the steps done, their speed and the time left;
    yields a callback (done, total). What is printed meanwhile stands above it."""
    if not (show and sys.stderr.isatty()):
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description} {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    # a step of a large network may take a minute
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
        speed_estimate_period=600,
    ) as bar:
        task = bar.add_task(what, total=None, visible=False, speed="")
        calls = count()

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)
            speed = bar.tasks[0].speed  # of the steps since the first
            text = f"{speed:.3g} steps/s" if speed else ""
            bar.update(task, speed=text, refresh=next(calls) < 2)  # the first step at once

        yield advance


@contextmanager
def progress(what: str, show: bool = True) -> Iterator[Callable[[float, int], None]]:
    """A bar on stderr, where someone looks; yields a callback (done, total)."""
    if not (show and sys.stderr.isatty()):
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Suppress what C libraries write to stderr (libmpg123 on damaged files); Python's is shown."""
    sys.stderr.flush()
    ours, saved = sys.stderr, os.dup(2)
    with open(os.devnull, "w") as nowhere, open(os.dup(saved), "w", errors="replace") as shown:
        os.dup2(nowhere.fileno(), 2)
        sys.stderr = shown
        try:
            yield
        finally:
            sys.stderr = ours
            os.dup2(saved, 2)
            os.close(saved)
