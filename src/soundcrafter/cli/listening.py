"""The commands for listening tests."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from soundcrafter.cli.common import JsonFlag, named_values


class ListeningKind(StrEnum):
    """The question of a listening test: which of two sounds is better, or a grade for each."""

    pairs = "pairs"
    mos = "mos"


def listen(
    folder: Annotated[Path, typer.Argument(help="Folder for the test: index.html and key.csv.")],
    system: Annotated[
        list[str],
        typer.Option(help="NAME=FOLDER: an evaluation, or a folder of sounds. Repeatable."),
    ],
    kind: Annotated[
        ListeningKind, typer.Option(help="Compare pairs, or grade each sound (mean opinion score).")
    ] = ListeningKind.pairs,
    question: Annotated[
        list[str] | None,
        typer.Option(
            help="Ask only this: overall or match (pairs), quality or relevance (mos). Repeatable."
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="Use only this many prompts, drawn by --seed.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw and of the order.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Write a blind listening test as one page, and the key to it."""
    from soundcrafter.listening.listening_test import KEY, PAGE, write_listening_test

    systems = {name: Path(path) for name, path in named_values("--system", system).items()}
    report = write_listening_test(
        systems, folder, kind=kind.value, seed=seed, count=count, questions=question
    )
    if as_json:
        print(json.dumps(report, indent=2))
        return
    items = "1 item" if report["items"] == 1 else f"{report['items']} items"
    minutes = "1 minute" if report["minutes"] == 1 else f"{report['minutes']} minutes"
    print(f"{folder / PAGE}  {items}, about {minutes}; the page saves a csv for listen-results")
    print(f"{folder / KEY}  which sound is which: not for listeners")


def listen_results(
    folder: Annotated[Path, typer.Argument(help="Folder that `listen` wrote.")],
    ratings: Annotated[list[Path], typer.Argument(help="csv files that listeners saved.")],
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Report the results of a listening test, and write them to listening.json and listening.md."""
    from soundcrafter.files import write_json, write_text
    from soundcrafter.listening.analysis import analyse_listening, listening_markdown
    from soundcrafter.listening.listening_test import KEY

    report = analyse_listening(ratings, folder / KEY, seed=seed)
    text = listening_markdown(report)
    write_json(folder / "listening.json", report)
    write_text(folder / "listening.md", text)
    print(json.dumps(report, indent=2) if as_json else text)
