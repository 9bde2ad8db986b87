"""An installation without torch: its size, and a cold start of the command with 5 s of sound.

python benchmarks/onnx_install.py EXPORTED [--json] [--runs 5]

It installs the extra "onnx" into a new environment, with the versions of constraints.txt.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 5.0
# not part of what is installed, but of how
TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence.pth")
STAGES = """
import json, sys, time
start = time.process_time()
from collections import Counter
from soundcrafter.onnx import OnnxSoundCrafter
import onnxruntime
imported = time.process_time()
crafter = OnnxSoundCrafter.from_pretrained(sys.argv[1])
loaded = time.process_time()
parts, run = Counter(), onnxruntime.InferenceSession.run
names = {id(session): name for name, session in crafter._sessions.items()}
def timed(session, *arguments):
    began = time.process_time()
    try:
        return run(session, *arguments)
    finally:
        parts[names[id(session)]] += time.process_time() - began
onnxruntime.InferenceSession.run = timed
crafter.generate("a dog barks twice", seconds=float(sys.argv[2]))
done = time.process_time()
print(json.dumps({"import": imported - start, "load": loaded - imported, **parts,
                  "the rest": done - loaded - sum(parts.values())}))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("exported", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = install(Path(folder))
        figures = measure(python, arguments.exported.resolve(), arguments.runs)
    print(json.dumps(figures) if arguments.json else text_of(figures))


def install(folder: Path) -> Path:
    """Install the package of this repository with the extra "onnx"; returns the interpreter."""
    source = folder / "source"  # a copy: a build leaves files beside the sources
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=ignored)
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    constraints = ["--constraint", source / "constraints.txt"]
    subprocess.run([*command, *constraints, f"{source}[onnx]"], check=True, stdout=sys.stderr)
    return python


def measure(python: Path, exported: Path, runs: int) -> dict[str, Any]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    found = subprocess.check_output(
        [python, "-c", "import sysconfig as s; print(s.get_path('purelib'))"], text=True
    )
    sizes = sizes_of(Path(found.strip()))
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "dog.wav"
        command = [python.with_name("soundcrafter"), "generate", "a dog barks twice"]
        command += ["--seconds", str(SECONDS), "--model", exported, "-o", sound]
        colds = [cold_start(command, environment) for _ in range(runs)]
    stages = [python, "-c", STAGES, exported, str(SECONDS)]
    each = [json.loads(subprocess.check_output(stages, env=environment)) for _ in range(runs)]
    return {
        "megabytes": sum(sizes.values()),
        "largest": dict(sizes.most_common(12)),
        "packages": sorted(sizes),
        "wall": min(cold["wall"] for cold in colds),
        "cpu": min(cold["cpu"] for cold in colds),
        "peak": max(cold["peak"] for cold in colds),
        "stages": {name: min(one[name] for one in each) for name in each[0]},
        "load": os.getloadavg()[0],
    }


def sizes_of(site: Path) -> "Counter[str]":
    """Megabytes of each package in site-packages, with what belongs to it."""
    sizes: Counter[str] = Counter()
    for entry in site.iterdir():
        name = re.split(r"[-.]", entry.name)[0].lower()
        if name in TOOLS or entry.name in TOOLS:
            continue
        files = entry.rglob("*") if entry.is_dir() else [entry]
        sizes[name] += sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    return sizes


def cold_start(command: list[Any], environment: dict[str, str]) -> dict[str, float]:
    """Seconds (wall, CPU) and peak megabytes of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, command
    return {
        "wall": time.perf_counter() - start,
        "cpu": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss / 1024,
    }


def text_of(figures: dict[str, Any]) -> str:
    largest = ", ".join(f"{name} {size:.0f}" for name, size in figures["largest"].items())
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in figures["stages"].items())
    return (
        f"site-packages: {figures['megabytes']:.0f} MB ({largest})\n"
        f"the command, cold, {SECONDS:g} s of sound: {figures['wall']:.1f} s, "
        f"CPU time {figures['cpu']:.2f} s, peak {figures['peak']:.0f} MB\n"
        f"CPU seconds: {stages}\n"
        f"load of the machine: {figures['load']:.1f}, {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main()
