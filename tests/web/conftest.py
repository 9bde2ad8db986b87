"""The modules of the page, run by node; the page, built beside the tiny model."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WEB = Path(__file__).resolve().parents[2] / "web"


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: install Node.js 20 or later")
    return found


@pytest.fixture(scope="session")
def node_tests(tmp_path_factory) -> Callable[[str, Any], None]:
    """Runs a file of tests with node, which reads the numbers to find from EXPECTED."""
    node, folder = _program("node"), tmp_path_factory.mktemp("node")

    def run(file: str, expected: Any) -> None:
        path = folder / "expected.json"
        path.write_text(json.dumps(expected))
        done = subprocess.run(
            [node, "--test", str(Path(__file__).with_name(file))],
            env={"EXPECTED": str(path), "NO_COLOR": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def site(tmp_path_factory, exported) -> Path:
    """The built page, with the tiny model."""
    node, npm = _program("node"), _program("npm")
    if not (WEB / "node_modules").is_dir():
        done = subprocess.run([npm, "ci"], cwd=WEB, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"npm ci failed: {done.stderr.strip().splitlines()[-1:]}")
    folder = tmp_path_factory.mktemp("site")
    subprocess.run([node, WEB / "build.mjs", folder], check=True)
    shutil.copytree(exported, folder / "model")
    return folder
