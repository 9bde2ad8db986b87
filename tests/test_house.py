"""The house rules that a machine can check: imports go one way, and what each room may use."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "soundcrafter"
# A room may import the rooms of the rows above its own, and those beside it unless APART says no.
LAYERS = (
    (
        "version",
        "files",
        "settings",
        "audio",
        "mel",
        "mel_bands",
        "byte_bpe",
        "text",
        "plots",
        "precision",
        "device",
        "sound",
        "workers",
        "progress",
        "filenames",
        "ucs",
        "loudness",
        "markdown",
        "timeline",
        "export",
        "blend",
        "attributes",
        "provenance",
        "wav_chunks",
        "stereo",
    ),
    ("models", "diffusion"),
    ("cpu",),
    ("config", "request", "conditions", "editing", "codec", "arguments", "generator", "endless"),
    ("store",),
    ("convert",),
    ("hub",),
    ("pipeline", "onnx"),
    ("scene",),
    ("data", "evaluate", "prompt_file", "pack", "remake", "output", "output_jobs"),
    ("train", "reports", "listening"),
    ("serve",),
    ("cluster",),
    ("bench",),
    ("describe", "cli", "__init__", "__main__"),
)
APART = ({"models", "diffusion"}, {"train", "reports"}, {"train", "listening"})
CPU_USERS = {"pipeline", "generator", "codec", "evaluate", "bench"}  # nothing else depends on cpu/
FILES = sorted(PACKAGE.rglob("*.py"))
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
INSTANT = ("__init__.py", "__main__.py", "cli", "audio.py", "settings.py", "files.py")

every_file = pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PACKAGE).as_posix())


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def module_of(file: Path) -> str:
    """The dotted name within the package, __init__ for the package itself."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(file) for file in FILES}


def imports_of(tree: ast.AST) -> Iterator[str]:
    """The full names of all that is imported anywhere below a node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def own_imports(file: Path) -> set[str]:
    """The package's own modules that a file imports, as `module_of` names them."""
    found = set()
    for name in imports_of(tree_of(file)):
        top, _, rest = name.partition(".")
        if top != "soundcrafter":
            continue
        while rest and rest not in MODULES:  # from a module: the rest is a name in it
            rest = rest.rpartition(".")[0]
        found.add(rest or "__init__")
    return found


def rank(room: str) -> int:
    (found,) = [number for number, rooms in enumerate(LAYERS) if room in rooms]
    return found


def calls_of(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_every_room_has_its_layer():
    rooms = {module_of(file).partition(".")[0] for file in FILES}
    known = {room for rooms in LAYERS for room in rooms}
    assert rooms <= known
    assert len(rooms) > 10


@every_file
def test_imports_go_one_way(file):
    room = module_of(file).partition(".")[0]
    for name in own_imports(file):
        other = name.partition(".")[0]
        assert rank(other) <= rank(room), f"{room} may not import {name}"
        assert other == room or {other, room} not in APART, f"{room} may not import {name}"


def test_only_those_who_generate_optimize():
    rooms = {
        module_of(file).partition(".")[0]
        for file in FILES
        if any(name.startswith("cpu") for name in own_imports(file))
    }
    assert rooms - {"cpu"} <= CPU_USERS


def test_no_import_leads_in_a_circle():
    graph = {module_of(file): own_imports(file) for file in FILES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for other in graph[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_only_the_engine_room_knows_accelerate():
    users = [
        module_of(file)
        for file in FILES
        if any(name.partition(".")[0] == "accelerate" for name in imports_of(tree_of(file)))
    ]
    assert users == ["train.engine"]


@every_file
def test_no_pickle_outside_convert(file):
    if module_of(file).partition(".")[0] == "convert":
        return
    tree = tree_of(file)
    assert not PICKLES & {name.partition(".")[0] for name in imports_of(tree)}
    for name, call in calls_of(tree):
        assert name not in ("torch.load", "torch.save"), f"line {call.lineno}"
        assert not any(keyword.arg == "allow_pickle" for keyword in call.keywords)
    assert not {"torch.load", "torch.save"} & set(imports_of(tree))


@every_file
def test_loading_is_strict(file):
    for name, call in calls_of(tree_of(file)):
        if name == "zip":
            continue
        for keyword in call.keywords:
            value = keyword.value
            loose = isinstance(value, ast.Constant) and value.value is False
            assert not (keyword.arg == "strict" and loose), f"line {call.lineno}: {name}"


@every_file
def test_only_the_command_line_prints(file):
    if module_of(file).partition(".")[0] == "cli":
        return
    for name, call in calls_of(tree_of(file)):
        assert name not in ("print", "sys.stdout.write", "sys.stderr.write"), f"line {call.lineno}"


@every_file
def test_every_file_says_what_it_is(file):
    assert ast.get_docstring(tree_of(file))


@every_file
def test_no_bare_except(file):
    handlers = [n for n in ast.walk(tree_of(file)) if isinstance(n, ast.ExceptHandler)]
    assert all(handler.type is not None for handler in handlers)


def test_what_starts_at_once_imports_no_torch():
    places = [PACKAGE / name for name in INSTANT]
    files = [f for place in places for f in (place.rglob("*.py") if place.is_dir() else [place])]
    for file in files:
        for node in tree_of(file).body:
            guard = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            if guard or isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            heavy = {"torch", "transformers", "accelerate", "safetensors"}
            assert not heavy & {found.partition(".")[0] for found in imports_of(node)}, file
    # and none by way of what they import
    code = "import sys, soundcrafter, soundcrafter.cli, soundcrafter.audio\nassert 'torch' not in "
    subprocess.run([sys.executable, "-c", code + "sys.modules"], env=os.environ, check=True)
