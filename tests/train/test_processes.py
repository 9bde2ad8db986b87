"""Two processes on one machine: they stop at the same step, and clap is refused."""

import os
import socket
import subprocess
import sys

from soundcrafter.train.checkpoint import list_checkpoints
from soundcrafter.train.loop import run_folder

TRAIN = """
import os, sys
from soundcrafter.train import RunOptions, read_recipe, train

recipe, data, out = sys.argv[1:]
settings = read_recipe(recipe, ["vae.steps=50", "vae.adversarial_start=0"])
hurried = os.environ["RANK"] == "1"  # only one process thinks that the time is over
options = RunOptions(device="cpu", max_minutes=1e-9 if hurried else None)
print("done", train("vae", settings, data=data, out=out, options=options))
try:
    train("clap", settings, data=data, out=out, options=options)
except ValueError as error:
    print(error)
"""


def test_two_processes_stop_together_and_refuse_clap(tiny_recipe, clips, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", TRAIN, str(tiny_recipe), str(clips), str(tmp_path)]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in "01":
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        environment = {**os.environ, **shared, **place}
        pipe = subprocess.PIPE
        processes.append(
            subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
        )
    try:
        for process in processes:
            printed, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
            lines = printed.splitlines()
            assert "done 1" in lines
            assert any("clap: trains in one process, got 2" in line for line in lines)
    finally:
        for process in processes:
            process.kill()
    names = [path.name for path in list_checkpoints(run_folder(tmp_path, "vae"))]
    assert names == ["step-00000001"]
