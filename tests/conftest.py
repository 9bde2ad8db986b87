"""Fixtures shared by the tests: where the sounds are, and a tiny model trained on some."""

import glob
import io
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings

# The same examples on every run: a change is judged by what it changed. Slow machines are no fault.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

_TESTS = Path(__file__).resolve().parent
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_BROWSER_ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)

# What commands import: seconds for each process that imports it by itself.
_PRELOADED = (
    *(
        "soundcrafter.cli",
        "soundcrafter.train",
        "soundcrafter.evaluate.run",
        "soundcrafter.workers",
    ),
    *("soundcrafter.serve.app", "soundcrafter.serve.worker", "uvicorn"),
    *("torch._dynamo", "torch.distributed.fsdp", "torch.utils.tensorboard"),
    "transformers.models.clap.modeling_clap",
)
# Begins a process that was forked from the server: its surroundings are those it was given.
_PRELUDE = """
import multiprocessing, os, sys, torch
for number, stream in streams.items():
    os.dup2(stream.fileno(), number)
    opened = open(number, "w", encoding=environment.get("PYTHONIOENCODING"), closefd=False)
    setattr(sys, {1: "stdout", 2: "stderr"}[number], opened)
os.environ.clear()
os.environ.update(environment)
os.chdir(folder)
sys.argv = arguments
for name in [name for name in sys.modules if name.partition(".")[0] in unloaded]:
    del sys.modules[name]
torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", 1)))
context, get_context = multiprocessing.get_context("forkserver"), multiprocessing.get_context
if fork_workers:
    multiprocessing.get_context = lambda name: context if name == "spawn" else get_context(name)
"""
_COMMAND = """
from soundcrafter import cli
cli.main()
"""


class CommandResult(NamedTuple):
    """What a command left: its exit status, stdout and stderr."""

    code: int
    out: str
    err: str

    def refused(self) -> str:
        """The message of a command that was refused as it should be: one line, exit 2."""
        assert (self.code, self.out) == (2, ""), self
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        return line


class Launched:
    """The command line in a process of its own, with the methods of subprocess.Popen."""

    def __init__(self, process: BaseProcess, stdout: int, errors: Any) -> None:
        assert process.pid is not None
        self.pid, self._process, self._errors = process.pid, process, errors
        self.stdout = io.TextIOWrapper(os.fdopen(stdout, "rb"), encoding="utf-8")

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = 120) -> int:
        """The exit status; that of a signal is negative."""
        self._process.join(timeout)
        code = self._process.exitcode
        assert code is not None, f"it goes on after {timeout} s: {self.errors()}"
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def errors(self) -> str:
        """What it has said on stderr."""
        self._errors.seek(0)
        return str(self._errors.read().decode())

    def finish(self) -> CommandResult:
        """What it leaves, once it has ended."""
        out = self.stdout.read()
        code = self.wait()
        return CommandResult(code, out, self.errors())


@pytest.fixture(scope="session")
def _fork_server() -> Any:
    """Starts processes as "spawn" does, from one that has imported what commands need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    return context


@pytest.fixture
def fork_workers(_fork_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that this process starts come from that server."""
    get_context = multiprocessing.get_context

    def forking(method: str | None = None) -> Any:
        return _fork_server if method == "spawn" else get_context(method)

    monkeypatch.setattr(multiprocessing, "get_context", forking)


@pytest.fixture(scope="session")
def fork(_fork_server: Any) -> Iterator[Callable[..., BaseProcess]]:
    """fork(code, arguments, **environment): a process that runs the code, with those arguments in
    sys.argv, forked from the server. `streams` become its file descriptors, packages that are
    `unloaded` it imports anew, and with `fork_workers` its own workers come from the server too.
    What still runs in the end is killed."""
    started: list[BaseProcess] = []

    def start(
        code: str,
        arguments: list[str],
        folder: Path | None = None,
        streams: dict[int, Connection] | None = None,
        unloaded: tuple[str, ...] = (),
        fork_workers: bool = True,
        **environment: str,
    ) -> BaseProcess:
        names = {
            "arguments": ["soundcrafter", *arguments],
            "environment": {**os.environ, **environment},
            "folder": str(folder or Path.cwd()),
            "streams": streams or {},
            "unloaded": unloaded,
            "fork_workers": fork_workers,
        }
        started.append(_fork_server.Process(target=exec, args=(_PRELUDE + code, names)))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.fixture(scope="session")
def launch(fork: Callable[..., BaseProcess]) -> Callable[..., Launched]:
    """launch("info", ...): the command line in a process of its own; `stderr` is a file descriptor,
    and other options are those of fork."""

    def start(*arguments: object, stderr: int | None = None, **options: Any) -> Launched:
        errors = tempfile.TemporaryFile()  # noqa: SIM115
        reader, writer = multiprocessing.Pipe(duplex=False)
        copy = os.dup(errors.fileno() if stderr is None else stderr)
        streams = {1: writer, 2: Connection(copy, readable=False)}
        process = fork(_COMMAND, [*map(str, arguments)], streams=streams, **options)
        for stream in streams.values():
            stream.close()
        return Launched(process, os.dup(reader.fileno()), errors)

    return start


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., CommandResult]:
    """The command line in this process: seconds of imports are paid once."""

    def call(*arguments: object) -> CommandResult:
        from soundcrafter import cli

        monkeypatch.setattr(sys, "argv", ["soundcrafter", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return CommandResult(int(stop.value.code or 0), *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the whole sounds.csv; SOUNDCRAFTER_DATA names another place for it."""
    given = os.environ.get("SOUNDCRAFTER_DATA")
    folder = Path(given) if given else _TESTS.parent.parent / "shared" / "data"
    if not (folder / "sounds.csv").is_file():
        pytest.skip(f"no sounds.csv in {folder}: set SOUNDCRAFTER_DATA to the sound data")
    return folder


@pytest.fixture(scope="session")
def clips() -> Path:
    """Six short CC0 clips with their sounds.csv, part of the repository."""
    return _TESTS / "data"


@pytest.fixture(scope="session")
def tiny_recipe() -> Path:
    """Every part at width 8: whole pipelines in seconds."""
    return _TESTS.parent / "recipes" / "tiny.toml"


@pytest.fixture(scope="session")
def make_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Makes a folder of that name, which none may change; the first worker makes it for all."""
    from soundcrafter.files import locked

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def once(name: str, make: Callable[[Path], object]) -> Path:
        place = base / name
        with locked(place, wait=True):
            if not (place / "made").exists():
                make(place / "model")
                (place / "made").touch()
        return place / "model"

    return once


@pytest.fixture(scope="session")
def tiny_model(make_once, tiny_recipe, clips) -> Path:
    """A model folder with every part, trained for the few steps of the tiny recipe. Read only."""
    from soundcrafter.train import GENERATOR_STAGES, RunOptions, read_recipe, train

    recipe, options = read_recipe(tiny_recipe), RunOptions(device="cpu")

    def make(folder: Path) -> None:
        for stage in GENERATOR_STAGES:
            train(stage, recipe, data=clips, out=folder, options=options)

    return make_once("tiny", make)


@pytest.fixture(scope="session")
def distilled(make_once, tiny_model, clips) -> Path:
    """The tiny model with a distilled U-Net of two steps. Read only."""
    from soundcrafter.train import RunOptions, train

    settings = ("steps=20", "batch_size=4", "seconds=0.64", "learning_rate=0.003")

    def make(folder: Path) -> None:
        train(
            "distill",
            _TESTS.parent / "recipes" / "finetune.toml",  # whose model is that of `init`
            data=clips,
            out=folder,
            init=tiny_model,
            options=RunOptions(device="cpu"),
            overrides=[f"distill.{setting}" for setting in settings],
        )

    return make_once("distilled", make)


@pytest.fixture(scope="session")
def exported(make_once, tiny_model) -> Path:
    """The tiny model as ONNX. Read only."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    from soundcrafter.onnx.export import export_onnx

    return make_once("exported", lambda folder: export_onnx(tiny_model, folder))


@pytest.fixture
def model_copy(tiny_model, tmp_path) -> Path:
    """The tiny model's parts in a folder that a test may change."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("training"))
    return folder


@pytest.fixture(scope="session")
def _browser() -> Iterator[Any]:
    """The system's Chromium, started once; SOUNDCRAFTER_CHROMIUM names another executable."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install .[dev]")
    named = os.environ.get("SOUNDCRAFTER_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        pytest.skip(
            f"no browser ({', '.join(_BROWSERS)}): install one or set SOUNDCRAFTER_CHROMIUM"
        )
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(_BROWSER_ARGS))
        yield browser
        browser.close()


@pytest.fixture
def browser_page(_browser) -> Iterator[Any]:
    """A new page of 1280 x 800 in its own offline context, which may save downloads."""
    context = _browser.new_context(
        accept_downloads=True, offline=True, viewport={"width": 1280, "height": 800}
    )
    page = context.new_page()
    page.set_default_timeout(10_000)
    yield page
    context.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of an empty PostgreSQL: SOUNDCRAFTER_POSTGRES, or one that is started here."""
    pytest.importorskip("psycopg", reason="needs psycopg: pip install .[postgres]")
    given = os.environ.get("SOUNDCRAFTER_POSTGRES")
    if given:
        yield given
        return
    programs = [shutil.which("initdb"), *glob.glob("/usr/lib/postgresql/*/bin/initdb")]
    initdb = next(filter(None, programs), None)
    if initdb is None:
        pytest.skip("no PostgreSQL: install it, or name a database in SOUNDCRAFTER_POSTGRES")
    # as root it refuses to run
    user: dict[str, Any] = {"user": "postgres"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory() as folder:
        if user:
            shutil.chown(folder, "postgres")
        subprocess.run(
            [initdb, "-D", f"{folder}/data", "-A", "trust", "-U", "test"],
            check=True,
            capture_output=True,
            cwd=folder,
            **user,
        )
        options = f"-k {folder} -c listen_addresses= -c fsync=off"
        control = [str(Path(initdb).with_name("pg_ctl")), "-D", f"{folder}/data", "-w"]
        log = ["-l", f"{folder}/log"]
        quiet: dict[str, Any] = {"check": True, "cwd": folder, "stdout": subprocess.DEVNULL, **user}
        subprocess.run([*control, *log, "-o", options, "start"], **quiet)
        yield f"postgresql+psycopg://test@/postgres?host={folder}"
        subprocess.run([*control, "-m", "immediate", "stop"], **quiet)
