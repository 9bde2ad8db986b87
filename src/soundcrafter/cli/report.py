"""The command that makes pages and tables of evaluations."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from soundcrafter.cli.common import progress


class TableFormat(StrEnum):
    """How a table is written."""

    md = "md"
    latex = "latex"


def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders that evaluate --prompts wrote, a model each.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page; report.html where no table is asked for.")
    ] = None,
    table: Annotated[
        TableFormat | None, typer.Option(help="Print the models' figures as the paper's Tab. 3.")
    ] = None,
) -> None:
    """A page to listen to and to look at, of one evaluation or several side by side."""
    from soundcrafter.evaluate.html import write_html
    from soundcrafter.evaluate.table import table_latex, table_markdown, table_rows

    if table is None or out is not None:
        page = out or Path("report.html")
        with progress("writing the page") as advance:
            write_html(folders, page, advance)
        if table is None:
            print(page)
    if table is not None:
        as_text = {TableFormat.md: table_markdown, TableFormat.latex: table_latex}[table]
        print(as_text(table_rows(folders)), end="")
