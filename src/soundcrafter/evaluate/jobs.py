"""Generating and embedding sounds for prompts, in this process or in several."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from soundcrafter.evaluate.embedders import OpenEmbedder
from soundcrafter.evaluate.embedding import Embedded, Embedder, Embedding, collect, embed_files
from soundcrafter.evaluate.generate import (
    BATCH_SIZE,
    PlannedBatch,
    claim_folder,
    generate_files,
    sound_file,
)
from soundcrafter.evaluate.result_log import ResultLog
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.progress import Progress, step_counter
from soundcrafter.workers import Pool

GENERATED, EMBEDDINGS = "generated", "embeddings"  # folders of an evaluation
TIMES = "times.jsonl"


@dataclass(frozen=True)
class EvaluationModels:
    """The model that generates sounds, and the embedders of these sounds."""

    model: SoundCrafter
    embedders: tuple[Embedder, ...]


@dataclass(frozen=True)
class EvaluationEmbeddings:
    """The embeddings of generated and reference sounds by each embedder."""

    generated: list[Embedded]
    reference: list[Embedded]  # of the readable files
    unreadable: dict[Path, str]  # the other files of the reference, with the reason
    seconds_per_clip: float | None  # to generate one; None if it is not known


@dataclass(frozen=True)
class _Job:
    """Generate a batch and embed its files, or embed existing files."""

    out: Path  # folder of the evaluation
    files: tuple[Path, ...]
    batch: PlannedBatch | None = None


@dataclass(frozen=True)
class _Done:
    """The result of a job."""

    job: _Job
    embeddings: dict[Path, list[Embedding]]  # of each file, by each embedder
    unreadable: dict[Path, str]  # file -> reason
    seconds: float | None  # to generate the batch; None if it already existed


def open_models(
    model: str | None, device: str, embedders: Sequence[OpenEmbedder]
) -> EvaluationModels:
    """Load a model by name, and embedders, onto one device."""
    crafter = SoundCrafter.from_pretrained(model, device, precision="fp32")
    return EvaluationModels(
        crafter, tuple(open_one(device=crafter.device) for open_one in embedders)
    )


def generate_and_embed(
    models: EvaluationModels,
    batches: Sequence[PlannedBatch],
    reference: Iterable[Path],
    out: Path,
    workers: Pool[EvaluationModels] | None = None,
    progress: Progress | None = None,
) -> EvaluationEmbeddings:
    """Generate sounds into out/generated and embed them and the reference; returns all embeddings.

    Sounds and embeddings that exist already are kept. The work is done by `models` in this process,
    or by `workers`, which open the same models. The seconds per clip include interrupted earlier
    runs. They are those of the whole machine: two processes that generate one clip each in 2 s
    count as 1 s per clip.
    """
    processes = workers.processes if workers else 1
    folder = out / GENERATED
    claim_folder(models.model, batches, folder, threads_of(workers))
    jobs = [_Job(out, tuple(sound_file(p, folder) for p in batch), batch) for batch in batches]
    real = list(reference)
    # last, because they are short: otherwise one process may be left with a long job at the end
    jobs += [_Job(out, tuple(real[i : i + BATCH_SIZE])) for i in range(0, len(real), BATCH_SIZE)]
    times = ResultLog(out / TIMES, {"seconds": "of the machine, by first sound of a batch"})
    report_progress = step_counter(progress, sum(len(job.files) for job in jobs))
    found: dict[Path, list[Embedding]] = {}
    unreadable: dict[Path, str] = {}
    for done in workers.map(_do, jobs) if workers else (_do(models, job) for job in jobs):
        files = done.job.files
        found |= done.embeddings
        unreadable |= done.unreadable
        if done.seconds is not None:
            row = {"sounds": len(files), "seconds": done.seconds / processes}
            times.add(files[0].relative_to(folder).as_posix(), row)
        report_progress(len(files))
    rows = times.rows.values()
    made = [sound_file(planned, folder) for batch in batches for planned in batch]
    return EvaluationEmbeddings(
        collect(models.embedders, [found[file] for file in made]),
        collect(models.embedders, [found[file] for file in real if file not in unreadable]),
        unreadable,
        sum(r["seconds"] for r in rows) / sum(r["sounds"] for r in rows) if rows else None,
    )


def threads_of(workers: Pool[EvaluationModels] | None) -> int:
    """Return the threads of each process that generates: of the workers, or of this process."""
    return workers.threads if workers else torch.get_num_threads()


def _do(models: EvaluationModels, job: _Job) -> _Done:
    began, generated = time.perf_counter(), False
    if job.batch is not None:
        generated = generate_files(models.model, job.batch, job.out / GENERATED)
    seconds = time.perf_counter() - began
    embeddings, unreadable = embed_files(models.embedders, job.files, cache=job.out / EMBEDDINGS)
    if job.batch is not None and unreadable:
        raise ValueError(next(iter(unreadable.values())))
    return _Done(job, embeddings, unreadable, seconds if generated else None)
