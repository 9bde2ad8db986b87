"""A bare GPU machine: training from encoded data without audio, command-line and plot libraries."""

import os
import subprocess
import sys

from soundcrafter.store import open_folder

ABSENT = "soundfile soxr typer rich matplotlib tensorboard click diffusers PIL"

TRAIN = """
import sys

class Bare:  # finds nothing of what is absent, as if it had never been installed
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

recipe, data, out, absent = *sys.argv[1:4], sys.argv[4].split()
sys.meta_path[:] = [Bare(finder) for finder in sys.meta_path]
for name in absent:
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(name)
from soundcrafter.train import RunOptions, read_recipe, train

settings = read_recipe(recipe, ["diffusion.steps=2"])
options = RunOptions(device="cpu", log_steps=1, sample_steps=1)
losses = []
train("diffusion", settings, data=data, out=out, options=options,
      report=lambda entry: losses.append(entry["loss"]))
print(losses)
"""


def test_diffusion_trains_from_encoded_data_on_a_bare_machine(tiny_recipe, encoded, tmp_path):
    arguments = [str(tiny_recipe), str(encoded), str(tmp_path / "out"), ABSENT]
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().strip("[]").split(",")) == 2
    open_folder(tmp_path / "out").load("unet")
