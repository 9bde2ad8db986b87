"""Generating and embedding for an evaluation, in this process or shared out among several."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from soundcrafter.evaluate.embedders import open_embedder
from soundcrafter.evaluate.embedding import Embedder
from soundcrafter.evaluate.embeddings import embed_file
from soundcrafter.evaluate.generate import AT_ONCE, Batch, claim_folder, make_batch, sound_files
from soundcrafter.evaluate.ledger import Ledger
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.progress import Progress
from soundcrafter.workers import Workers

GENERATED, EMBEDDINGS = "generated", "embeddings"  # folders of an evaluation
TIMES = "times.jsonl"


@dataclass(frozen=True)
class Tools:
    """What makes sounds, and what listens to them."""

    model: SoundCrafter
    embedders: tuple[Embedder, ...]


@dataclass(frozen=True)
class Job:
    """What a process does at once: make a batch, then embed its files, or files that are there."""

    out: Path  # the evaluation's folder
    files: tuple[Path, ...]
    batch: Batch | None = None


@dataclass(frozen=True)
class Done:
    """What became of a job."""

    job: Job
    seconds: float | None  # that making the batch took; None where it was there


def open_tools(
    model: str | None, device: str, embedders: Sequence[tuple[str, Path | None, str | None]]
) -> Tools:
    """A model by name, and embedders by name, checkpoint and sha256 (see `open_embedder`)."""
    crafter = SoundCrafter.from_pretrained(model, device, precision="fp32")
    listeners = [
        open_embedder(name, checkpoint=checkpoint, sha256=sha256)
        for name, checkpoint, sha256 in embedders
    ]
    return Tools(crafter, tuple(listeners))


def make_and_embed(
    tools: Tools,
    batches: Sequence[Batch],
    reference: Iterable[Path],
    out: Path,
    workers: Workers[Tools] | None = None,
    progress: Progress | None = None,
) -> float | None:
    """Write what is missing of out/generated and out/embeddings, in this process by `tools`, or by
    `workers`, which open the same.

    Returns the seconds a sound that making took, in this run and those that were cut short: of the
    machine, so that two processes take half of each one's. None where that is not known.
    """
    processes = workers.processes if workers else 1
    folder = out / GENERATED
    claim_folder(tools.model, batches, folder, threads_of(workers))
    jobs = [Job(out, sound_files(batch, folder), batch) for batch in batches]
    real = list(reference)
    # last: they are short, so that no process is left alone with a long one at the end
    jobs += [Job(out, tuple(real[i : i + AT_ONCE])) for i in range(0, len(real), AT_ONCE)]
    times = Ledger(out / TIMES, {"seconds": "of the machine, by first sound of a batch"})
    finished, total = 0, sum(len(job.files) for job in jobs)
    for done in workers.map(_do, jobs) if workers else (_do(tools, job) for job in jobs):
        if done.seconds is not None:
            row = {"sounds": len(done.job.files), "seconds": done.seconds / processes}
            times.add(done.job.files[0].relative_to(folder).as_posix(), row)
        finished += len(done.job.files)
        if progress is not None:
            progress(finished, total)
    rows = times.rows.values()
    return sum(r["seconds"] for r in rows) / sum(r["sounds"] for r in rows) if rows else None


def threads_of(workers: Workers[Tools] | None) -> int:
    """The threads a process that computes sounds has; without workers, this one."""
    return workers.threads if workers else torch.get_num_threads()


def _do(tools: Tools, job: Job) -> Done:
    began, made = time.perf_counter(), False
    if job.batch is not None:
        made = make_batch(tools.model, job.batch, job.out / GENERATED)
    seconds = time.perf_counter() - began
    for file in job.files:
        for embedder in tools.embedders:
            embed_file(embedder, file, job.out / EMBEDDINGS)
    return Done(job, seconds if made else None)
