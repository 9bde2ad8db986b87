"""The command that writes pages and tables of evaluations."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from soundcrafter.cli.common import progress


class TableFormat(StrEnum):
    """The format of a table."""

    md = "md"
    latex = "latex"


def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders that `evaluate` wrote, one per model.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page; report.html unless --table is given.")
    ] = None,
    table: Annotated[
        TableFormat | None,
        typer.Option(help="Print a table in the form of the paper's Tab. 3."),
    ] = None,
) -> None:
    """Write one page with players, spectrograms and scores, of one or several evaluations."""
    from soundcrafter.reports.html import write_html
    from soundcrafter.reports.table import table_latex, table_markdown, table_rows

    if table is None or out is not None:
        page = out or Path("report.html")
        with progress("writing the page") as advance:
            write_html(folders, page, advance)
        if table is None:
            print(page)
    if table is not None:
        as_text = {TableFormat.md: table_markdown, TableFormat.latex: table_latex}[table]
        print(as_text(table_rows(folders)), end="")
