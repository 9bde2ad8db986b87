"""The command line. Heavy imports wait until a command runs, so that --help is instant."""

import io
import re
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from soundcrafter.cli import data
from soundcrafter.cli.bench import bench
from soundcrafter.cli.edit import edit
from soundcrafter.cli.evaluate import evaluate_app
from soundcrafter.cli.generate import demo, generate
from soundcrafter.cli.model import export, import_model, info, ship
from soundcrafter.cli.pack import pack
from soundcrafter.cli.ray_options import RayCommand
from soundcrafter.cli.report import report
from soundcrafter.cli.scene import scene
from soundcrafter.cli.serve import serve
from soundcrafter.cli.train import plot, sprint, train
from soundcrafter.version import __version__

INTERRUPTED = 130
_MOST_LETTERS = 1000  # of a message
# what the extra "torch" installs and more than plots need
_OF_TORCH = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "accelerate",
    "psutil",
    "tensorboard",
)
app = typer.Typer(
    help="Text in, sound effect out.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(cls=RayCommand)(generate)
app.command()(edit)
app.command()(scene)
app.command()(pack)
app.command(cls=RayCommand)(serve)
app.command()(train)
app.command()(sprint)
app.command()(plot)
app.command()(demo)
app.command()(ship)
app.command()(export)
app.command()(report)
app.command()(info)
app.command()(bench)
app.command("import")(import_model)
data_app = typer.Typer(help="Get recordings, look at them, encode them for training.")
data_app.command()(data.check)
data_app.command()(data.pack)
data_app.command(cls=RayCommand)(data.encode)
data_app.command()(data.audiocaps)
app.add_typer(data_app, name="data")
app.add_typer(evaluate_app, name="evaluate")


def main() -> None:
    """Run the command line: exit 0; 2 with one line on stderr for what the user can mend; 130 after
    Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        # a terminal that cannot show a character shows "?": work must not end over it
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
    except typer.Abort:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except typer.TyperException as error:
        message = error.format_message()
        if re.match(r"No such option: -[^-]?$", message):
            message += " (an argument that begins with -, as a prompt may, needs -- before it)"
        _fail(message)
    except ModuleNotFoundError as error:
        if error.name not in _OF_TORCH:
            raise
        name = "torch" if find_spec("torch") is None else error.name
        _fail(f"this needs {name}: pip install 'soundcrafter[torch]'")
    except (ValueError, OSError) as error:
        _fail(str(error))
    except MemoryError as error:
        _fail(f"out of memory: {error}".rstrip(": "))
    if code == INTERRUPTED:  # typer's, after Ctrl-C; a training says more, and exits by itself
        print("interrupted", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> None:
    line = " ".join(message.split())
    # a damaged file may contain a value of any length
    print("error: " + line[:_MOST_LETTERS] + " ..." * (len(line) > _MOST_LETTERS), file=sys.stderr)
    sys.exit(2)


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Text in, sound effect out."""
