"""Fixtures shared by the tests: where the sounds are, and a tiny model trained on some."""

import glob
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
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
def tiny_model(tmp_path_factory, tiny_recipe, clips) -> Path:
    """A model folder with every part, trained for the few steps of the tiny recipe. Read only."""
    from soundcrafter.train import GENERATOR_STAGES, RunOptions, read_recipe, train

    folder = tmp_path_factory.mktemp("tiny") / "model"
    recipe, options = read_recipe(tiny_recipe), RunOptions(device="cpu")
    for stage in GENERATOR_STAGES:
        train(stage, recipe, data=clips, out=folder, options=options)
    return folder


@pytest.fixture(scope="session")
def exported(tiny_model, tmp_path_factory) -> Path:
    """The tiny model as ONNX, exported once for all processes of a run. Read only."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    from filelock import FileLock

    from soundcrafter.files import file_sha256
    from soundcrafter.onnx.export import export_onnx

    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    # the config names the hashes of all parts
    folder = place / f"onnx-{file_sha256(tiny_model / 'config.json')}"
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            export_onnx(tiny_model, folder)
    return folder


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
