"""Bulk generation: sounds of many prompts into a folder, by workers on a Ray cluster."""

import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from soundcrafter.cluster.folder import OutputFolder
from soundcrafter.cluster.manifest import ManifestRow, read_manifest, write_manifest, write_record
from soundcrafter.cluster.workers import TRIES, LostJobs, RayWorkers
from soundcrafter.export import Export
from soundcrafter.files import file_sha256, locked, one_line
from soundcrafter.hub import find_model
from soundcrafter.output import write_made
from soundcrafter.output_jobs import OutputJob, run_jobs
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.progress import Progress
from soundcrafter.request import GenerateRequest
from soundcrafter.store import open_folder

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BulkSettings:
    """What all sounds of a bulk job share."""

    model: str | None = None  # folder or hub name; the bundled model if None
    device: str = "auto"
    adapters: Mapping[str, float] = field(default_factory=dict)
    precision: str = "auto"
    export: Export = field(default_factory=Export)
    like: Path | None = None  # a sound to resemble

    def identity(self) -> dict[str, Any]:
        """All that changes how a sound of these settings sounds; the same on every machine."""
        parts = open_folder(find_model(self.model)).parts
        adapters = {
            open_folder(path).parts["adapter"].training_id: weight
            for path, weight in self.adapters.items()
        }
        return {
            "model": {name: part.training_id for name, part in parts.items()},
            "adapters": adapters,
            "precision": self.precision,
            "export": vars(self.export),
            "like": None if self.like is None else file_sha256(self.like),
        }


@dataclass(frozen=True, kw_only=True)
class BulkTools:
    """What a worker has: the loaded model, and the folder it writes to."""

    crafter: SoundCrafter
    settings: BulkSettings
    folder: OutputFolder

    @classmethod
    def open(cls, settings: BulkSettings, url: str) -> "BulkTools":
        crafter = SoundCrafter.from_pretrained(
            settings.model, settings.device, settings.adapters, settings.precision
        )
        return cls(crafter=crafter, settings=settings, folder=OutputFolder(url))


@dataclass(frozen=True)
class Planned:
    """A sound to be made."""

    job: OutputJob  # its file is a name within the folder
    digest: str  # of all that decides how it sounds

    @property
    def row(self) -> ManifestRow:
        """Its row of the manifest, still without results."""
        job = self.job
        return ManifestRow(id=row_id(job.row, job.take), prompt=job.prompt, seed=job.seed)


@dataclass(frozen=True)
class _Batch:
    """Sounds that are made at once."""

    sounds: tuple[Planned, ...]
    missing: frozenset[str]  # files of those that are not there; the others are not written again


def row_id(row: int, take: int = 1) -> str:
    """The id of a sound: the number of its prompt and its take, both from 1."""
    return f"{row}-{take}"


def generate_bulk(
    workers: RayWorkers[BulkTools],
    jobs: Sequence[OutputJob],
    url: str,
    settings: BulkSettings,
    *,
    refused: Sequence[ManifestRow] = (),
    progress: Progress | None = None,
) -> list[ManifestRow]:
    """Make the sounds of jobs into a folder, with a manifest; returns its rows, in order.

    `workers` have BulkTools of the same settings and folder. The sounds that are there whole are
    kept, so that the same call goes on after an interruption; the samples do not depend on it. A
    sound that fails gets a row with its error, and so do the rows `refused` before. `progress` is
    called with (sounds there, all). Raises ValueError if the folder has sounds of other prompts,
    of another model or with other options.
    """
    folder = OutputFolder(url)
    shared = settings.identity()
    planned = [Planned(job, _digest(job, shared)) for job in jobs]
    with _held(folder):
        rows = _claim(folder, planned)
        batches = [b for b in _batches(planned, {row.file for row in rows}) if b.missing]
        done = len(rows)
        found = {row.id: row for row in rows}
        try:
            for made in workers.map(make_batch, batches):
                found |= {row.id: row for row in made}
                done += len(made)
                _log.info("%d of %d sounds", done, len(planned))
                if progress is not None:
                    progress(done, len(planned))
        except LostJobs:  # their rows say so
            _log.warning("workers died %d times over the same sounds", TRIES)
        there = folder.names()
        results = [_result(one, found, there, url) for one in planned]
        results = sorted([*results, *refused], key=_order)
        write_manifest(folder, results)
    return results


def make_batch(tools: BulkTools, batch: _Batch) -> list[ManifestRow]:
    """Make the sounds of a batch and write those that are missing; what fails gets an error.

    The whole batch is made again if one is missing, because batches of other sizes differ in the
    last bits.
    """
    try:
        rows = _make(tools, batch)
    except Exception as error:  # whatever it is, it must not stop the other sounds
        if len(batch.sounds) == 1:
            (one,) = batch.sounds
            rows = [replace(one.row, error=one_line(error))]
        else:
            return [
                row
                for one in batch.sounds
                if str(one.job.file) in batch.missing
                for row in make_batch(tools, _Batch((one,), batch.missing))
            ]
    write_record(tools.folder, rows)
    return rows


def _make(tools: BulkTools, batch: _Batch) -> list[ManifestRow]:
    began, rows = time.perf_counter(), []
    jobs = [one.job for one in batch.sounds]
    settings = tools.settings
    made = run_jobs(tools.crafter, jobs, lambda done, total: None, settings.like)
    for one, result in zip(batch.sounds, made, strict=True):
        name = str(one.job.file)
        if name not in batch.missing:
            continue
        with tempfile.TemporaryDirectory() as there:
            file = Path(there) / name
            write_made(result, file, settings.export, stems=None, plot=False, sidecar=False)
            tools.folder.write(name, file.read_bytes())
        sound = result.sound
        score = None if sound.score is None else round(sound.score, 4)
        row = replace(one.row, file=name, score=score, digest=one.digest)
        rows.append(replace(row, seconds=round(sound.seconds, 4)))
    taken = round((time.perf_counter() - began) / len(jobs), 4)
    return [replace(row, time_taken=taken) for row in rows]


def _digest(job: OutputJob, shared: Mapping[str, Any]) -> str:
    """A hash of all that decides how a sound sounds."""
    own = {key: value for key, value in vars(job).items() if key not in ("row", "name", "scene")}
    own["options"] = {k: v for k, v in job.options.items() if k != "batch_size"}
    text = json.dumps({**shared, **own, "composed": job.scene is not None}, default=str)
    return sha256(text.encode()).hexdigest()[:32]


@contextmanager
def _held(folder: OutputFolder) -> Iterator[None]:
    """Keep other jobs on this machine out of the folder, if it is on this machine."""
    if folder.local is None:
        yield
        return
    with locked(folder.local):
        yield


def _claim(folder: OutputFolder, planned: Sequence[Planned]) -> list[ManifestRow]:
    """The sounds of the plan that are there whole. Raises ValueError for a folder of others."""
    wanted = {str(one.job.file): one for one in planned}
    rows = read_manifest(folder)
    if rows is None:
        others = sorted(folder.names() & set(wanted))
        rows = []
    else:
        others = [
            row.file or ""
            for row in rows
            if row.file not in wanted or wanted[row.file].digest != row.digest
        ]
    if others:
        raise ValueError(
            f"{folder.url}: contains {len(others)} sounds of other prompts, options or another "
            f"model (the first: {others[0]}); choose another folder"
        )
    write_manifest(folder, rows)  # from here on the folder is ours
    return [replace(row, id=wanted[row.file or ""].row.id) for row in rows]


def _batches(planned: Sequence[Planned], there: set[str | None]) -> list[_Batch]:
    """Batches of sounds with equal options, the same whatever is there; a composed sound is one."""
    groups: dict[str, list[Planned]] = {}
    for one in planned:
        job = one.job
        composed = job.scene is not None and not job.one_pass
        key = str((sorted(job.options.items()), job.negative is None))
        groups.setdefault(f"{job.row}-{job.take}" if composed else key, []).append(one)
    batches = []
    for group in groups.values():
        size = group[0].job.options["batch_size"] or GenerateRequest.batch_size
        for i in range(0, len(group), size):
            part = tuple(group[i : i + size])
            files = {str(one.job.file) for one in part}
            batches.append(_Batch(part, frozenset(files - there)))
    return batches


def _result(
    one: Planned, found: Mapping[str, ManifestRow], there: set[str], url: str
) -> ManifestRow:
    """The row of a sound in the manifest, at the end of the job."""
    row = found.get(one.row.id)
    if row is None:
        return replace(one.row, error=f"its worker died {TRIES} times, perhaps for want of memory")
    if row.error is None and row.file not in there:
        return replace(one.row, error=f"not in {url}, seen from the driver: is it a shared folder?")
    return row


def _order(row: ManifestRow) -> tuple[int, int]:
    number, _, take = row.id.partition("-")
    return int(number), int(take)
