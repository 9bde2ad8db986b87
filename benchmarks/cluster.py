"""Bulk generation on Ray: throughput by 1 and 2 workers, and what Ray costs.

    python benchmarks/cluster.py                          # 100 prompts, half an hour
    python benchmarks/cluster.py --prompts 40 --seconds 2 --steps 12

Makes the same sounds with the bundled model, into files: in this process as `generate --prompts`
does, then on a Ray cluster of this machine by each number of workers. All have one thread. Start-up
(of Ray, of the workers, of the model) is left out: the clock runs from the end of the first fifth
of the sounds to the end of the last. Aims: two workers on two cores at least 1.7 times as fast as
one; one worker on Ray no more than 15% slower than without Ray.
"""

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch

from soundcrafter.bench.machine import machine_facts
from soundcrafter.cli.bulk import BulkPlan
from soundcrafter.cluster.connection import LOCAL, connected, ray_workers
from soundcrafter.cluster.generate import BulkSettings, BulkTools, generate_bulk
from soundcrafter.evaluate.prompt_sets import free_prompts
from soundcrafter.output import write_made
from soundcrafter.output_jobs import OutputJob, run_jobs
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.prompt_file import PromptRow

_WARM = 0.2  # share of the sounds before the clock runs


def plan(count: int, seconds: float, steps: int, batch_size: int) -> list[OutputJob]:
    """Sounds of the frozen free prompts, over and over."""
    texts = [prompt.text for prompt in free_prompts()]
    rows = [PromptRow(texts[n % len(texts)], options={"seed": n}) for n in range(count)]
    options = {"seconds": seconds, "steps": steps, "batch_size": batch_size, "count": 1}
    others = ("guidance", "negative", "candidates", "sampler", "reuse", "trim", "like_weight")
    options |= dict.fromkeys((*others, "steer")) | {"loop": False, "more": (), "less": ()}
    made = BulkPlan(
        options=options, compose="off", fill=False, morph_to="", template=None, naming=None
    )
    jobs, refused = made.jobs(rows)
    assert not refused
    return jobs


def speed(folder: Path, batch_size: int) -> float:
    """Sounds per second after the start, from the time at which each file was written."""
    times = sorted(file.stat().st_mtime for file in folder.glob("*.wav"))
    first = max(round(_WARM * len(times)) // batch_size, 1) * batch_size
    return (len(times) - first) / (times[-1] - times[first - 1])


def plain_speed(jobs: Sequence[OutputJob], settings: BulkSettings, batch_size: int) -> float:
    """Sounds per second of this process, with one thread."""
    torch.set_num_threads(1)
    crafter = SoundCrafter.from_pretrained(settings.model, settings.device, precision="fp32")
    with tempfile.TemporaryDirectory() as folder:
        for made in run_jobs(crafter, jobs, lambda done, total: None):
            file = Path(folder) / made.job.file
            write_made(made, file, settings.export, stems=None, plot=False, sidecar=False)
        return speed(Path(folder), batch_size)


def ray_speed(
    jobs: Sequence[OutputJob], settings: BulkSettings, batch_size: int, workers: int
) -> float:
    """Sounds per second of so many workers."""
    with tempfile.TemporaryDirectory() as folder:
        opened = partial(BulkTools.open, settings, folder)
        pool = ray_workers(opened, device="cpu", workers=workers)
        rows = generate_bulk(pool, jobs, folder, settings)
        assert all(row.error is None for row in rows)
        return speed(Path(folder), batch_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="of which the medians count")
    parser.add_argument("--model", help="folder or hub name; the bundled model if not given")
    given = parser.parse_args()
    jobs = plan(given.prompts, given.seconds, given.steps, given.batch_size)
    settings = BulkSettings(model=given.model, device="cpu", precision="fp32")
    facts = machine_facts(torch.device("cpu"))
    print(
        f"{facts}\n{len(jobs)} sounds of {given.seconds:g} s, {given.steps} steps, one thread each"
    )
    rates: dict[int, list[float]] = {0: [], **{n: [] for n in given.workers}}
    with connected(LOCAL):
        for _ in range(given.rounds):  # in turns, because the speed of a machine drifts
            rates[0].append(plain_speed(jobs, settings, given.batch_size))
            for n in given.workers:
                rates[n].append(ray_speed(jobs, settings, given.batch_size, n))
    medians = {workers: median(runs) for workers, runs in rates.items()}
    first = medians[given.workers[0]]
    for workers, rate in medians.items():
        name = f"{workers} workers" if workers else "without Ray"
        runs = ", ".join(f"{run:.3f}" for run in rates[workers])
        print(f"{name:12} {rate:.3f} sounds/s  x{rate / first:.2f}  ({runs})")
    print(
        f"Ray costs {100 * (medians[0] / first - 1):.1f}% of the time ({given.workers[0]} workers)"
    )


if __name__ == "__main__":
    main()
