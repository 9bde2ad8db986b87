"""The training loop: one for all stages, resumable at any moment."""

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from soundcrafter.data.prefetch import prefetch
from soundcrafter.device import choose_device
from soundcrafter.files import locked, make_folder, read_json, to_json, write_json
from soundcrafter.precision import choose_precision
from soundcrafter.progress import Progress
from soundcrafter.store import read_parts
from soundcrafter.train.checkpoint import (
    IDENTITY,
    list_checkpoints,
    load_checkpoint,
    run_folder,
    save_checkpoint,
)
from soundcrafter.train.ema import Ema
from soundcrafter.train.engine import Engine
from soundcrafter.train.identity import check_identity, read_identity
from soundcrafter.train.log import SCORES, Log, Report, read_log
from soundcrafter.train.schedule import learning_rate
from soundcrafter.train.score import ScoreOptions, Scorer
from soundcrafter.train.signals import StopRequest, TrainingInterrupted, catch_stop_signals
from soundcrafter.train.stage import Batch, Stage

SKIPPED = "skipped.json"  # files that the run skipped, and why


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run uses the machine and the disk; nothing here changes what is learned."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    workers: int = 1  # threads that load data
    log_steps: int = 50  # steps between log entries
    sample_steps: int = 0  # steps between sounds and pictures in TensorBoard; 0: none
    checkpoint_steps: int = 0  # steps between checkpoints; 0: by minutes only
    checkpoint_minutes: float = 5.0  # minutes between checkpoints
    keep: int = 2  # checkpoints kept
    max_minutes: float | None = None  # stop after so long; resumable
    fsdp: bool = False  # shard the weights over processes (FSDP) instead of copying them (DDP)
    compile: bool = False  # torch.compile of the U-Net
    score: ScoreOptions | None = None  # FD and IS of sounds generated during training

    def __post_init__(self) -> None:
        for name in ("log_steps", "checkpoint_minutes", "keep"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}; must be above 0")
        for name in ("workers", "sample_steps", "checkpoint_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}; must not be negative")
        if self.workers > 256:
            raise ValueError(f"workers: got {self.workers}; allowed: up to 256")
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise ValueError(f"max_minutes: got {self.max_minutes}; must be above 0")


def run(
    stage: Stage,
    folder: Path,
    options: RunOptions,
    *,
    init: Path | None = None,
    report: Report | None = None,
    progress: Progress | None = None,
) -> int:
    """Train a stage into a model folder from its last checkpoint; returns the steps done.

    A larger `steps` extends a run (unless it has a curriculum); the cosine then spans the new
    total.

    Stops early, with a checkpoint, after `max_minutes`. `report` gets every log entry, `progress`
    the steps done and their total after each step; unusable files are listed in `skipped.json`
    beside the log. Raises ValueError if the folder contains a run with different settings,
    LossNotFiniteError for a loss that is not finite (the last checkpoint is kept), and
    TrainingInterrupted at SIGINT or SIGTERM, after a checkpoint.
    """
    place = run_folder(folder, stage.name)
    checkpoints = list_checkpoints(place)
    settle_precision(stage, place, options.device)
    if checkpoints:
        check_identity(place, stage)
    _check_options(stage, options)
    if init is not None and not checkpoints:
        stage.initialise(init)
    ema = Ema(stage.network, stage.config.ema_decay)  # before weights are sharded
    engine = Engine(
        stage.loss_modules, stage.config, options.device, fsdp=options.fsdp, compile=options.compile
    )
    ema.shadow.to(engine.device)
    if stage.one_process and engine.num_processes > 1:
        raise ValueError(
            f"{stage.name}: got {engine.num_processes} processes; must run in one process, "
            "because its loss compares all samples of a batch"
        )
    if not engine.agrees(to_json(stage.identity())):
        raise ValueError(
            f"{stage.name}: the processes have different data or settings; every machine needs all "
            "recordings or shards, and the same recipe"
        )
    scorer = None
    if options.score is not None and engine.is_main:
        scorer = Scorer(options.score, folder, place, options.device)
    for first in stage.phase_starts():
        engine.shard(stage.sample_indices(first))  # refuse indivisible batch sizes now
    start = _resume(checkpoints[-1], stage, engine, ema) if checkpoints else 0
    if start < stage.config.steps:
        check_dependents(folder, stage)
    if engine.is_main:
        make_folder(place)
        write_json(place / IDENTITY, stage.identity())
        _write_skipped(place, stage, start)
    saver = _Saver(stage, folder, options, engine, ema)
    with ExitStack() as stack:  # closes the log after an error, too
        log = None
        if engine.is_main:
            log = stack.enter_context(closing(Log(place, start, report)))
        try:
            done = _train(stage, options, engine, ema, saver, log, scorer, start, progress)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise ValueError(
                f"{stage.section}: out of memory; lower {stage.section}.batch_size or "
                f"{stage.section}.seconds, or see docs/training.md for less memory"
            ) from None
        finally:
            if engine.is_main:
                _write_skipped(place, stage, start)
    if done == start and not dependents(folder, stage):
        saver.export()  # a kill may have come between the last checkpoint and its export
    return done


def _train(
    stage: Stage,
    options: RunOptions,
    engine: Engine,
    ema: Ema,
    saver: "_Saver",
    log: Log | None,
    scorer: Scorer | None,
    start: int,
    progress: Progress | None,
) -> int:
    """Train from `start` until the last step or `max_minutes`; returns the steps done.

    Raises TrainingInterrupted at a signal.
    """
    done, began, logged = start, time.monotonic(), start
    advance = progress if progress is not None and engine.is_main else lambda done, total: None
    advance(done, stage.config.steps)
    steps = range(start, stage.config.steps)
    batches = prefetch(
        lambda step: [stage.load_batch(i) for i in engine.shard(stage.sample_indices(step))],
        steps,
        workers=options.workers,
        depth=max(1, 2 * options.workers),
    )
    score = _Scoring(scorer, log)
    with closing(batches), catch_stop_signals() as stop:
        if score.is_missing(start, stage.config.steps):  # a kill may have interrupted it
            saver.export()
            score(start, stop)
        for step, loaded in zip(steps, batches, strict=True):
            losses = train_step(stage, engine, ema, loaded, step)
            done = step + 1
            advance(done, stage.config.steps)
            out_of_time = _over(options.max_minutes, began)
            # all processes must stop at the same step, or they would wait for each other
            last = done == stage.config.steps or engine.any(stop.number is not None or out_of_time)
            if log is not None:
                log.add(losses)
                if done % options.log_steps == 0 or last:
                    rate = {
                        "learning_rate": learning_rate(step, stage.config),
                        "memory_gb": engine.memory_gb(),
                    }
                    samples = stage.sample_indices(done).start - stage.sample_indices(logged).start
                    log.write(done, samples, {**rate, **stage.facts(step)})
                    logged = done
                if options.sample_steps and (done % options.sample_steps == 0 or last):
                    log.show(done, stage.samples(ema.shadow, engine.device))
            due = score.is_due(done, stage.config.steps)
            saver.after(done, last, due)
            if due:
                score(done, stop)
            if last:
                break
        if stop.number is not None:
            raise TrainingInterrupted(done, stop.number)
    return done


def train_step(
    stage: Stage, engine: Engine, ema: Ema, loaded: list[Batch], step: int
) -> dict[str, float]:
    """Run a training step on loaded micro-batches: update each loss module that is due."""
    engine.seed(step)
    with torch.no_grad():
        batches = [stage.prepare(batch, engine.device) for batch in loaded]
    losses: dict[str, float] = {}
    for name in stage.loss_modules:
        if stage.updates(name, step):
            found, batches = engine.update(name, batches, step, stage.weights(step))
            prefix = "" if not losses else f"{name}_"
            losses |= {f"{prefix}{key}": value for key, value in found.items()}
    ema.update(stage.network)
    return losses


class _Saver:
    """Decides when a checkpoint is due, writes it and exports the parts."""

    def __init__(
        self, stage: Stage, folder: Path, options: RunOptions, engine: Engine, ema: Ema
    ) -> None:
        self.stage, self.folder, self.options = stage, folder, options
        self.engine, self.ema = engine, ema
        self._saved_at = time.monotonic()

    def after(self, done: int, last: bool, scored: bool = False) -> None:
        """Save after so many steps if a checkpoint is due, and always before scoring, so a kill
        loses at most that score."""
        every = self.options.checkpoint_steps
        due = last or scored or (every > 0 and done % every == 0)
        # a collective decision: gathering sharded weights takes all processes
        if not self.engine.any(due or _over(self.options.checkpoint_minutes, self._saved_at)):
            return
        tensors = {
            "weights": self.engine.weights(),
            "ema": self.ema.shadow.state_dict(),
            "optimizer": self.engine.optimizer_state(),
        }
        if self.engine.is_main:
            state = {
                "ema_updates": self.ema.updates,
                "scaler": self.engine.scaler_state(),
                "stage": self.stage.state(),
            }
            place = run_folder(self.folder, self.stage.name)
            save_checkpoint(place, done, tensors, state, self.options.keep)
            if last:
                self.stage.finish()
            self.export()
        self._saved_at = time.monotonic()

    def export(self) -> None:
        if self.engine.is_main:
            with locked(self.folder, wait=True):  # other stages may be writing their parts
                self.stage.export(self.ema.shadow, self.folder)


def settle_precision(stage: Stage, place: Path, device: str) -> None:
    """Resolve "auto": a resumed run (in the folder `place`) keeps its original precision on any
    machine; a new run uses what the device supports."""
    if stage.config.precision == "auto":
        if list_checkpoints(place):
            precision = read_identity(place)["stage"]["precision"]
        else:
            precision = choose_precision("auto", choose_device(device))
        stage.config = replace(stage.config, precision=precision)


def _check_options(stage: Stage, options: RunOptions) -> None:
    """Refuse options that only the U-Net supports.

    The networks of a GAN need each other's full weights, fully_shard takes no scalars (CLAP's
    temperature), and torch.compile covers forward() alone.
    """
    if "unet" in stage.parts:
        return
    for name in ("score", "fsdp", "compile"):
        if getattr(options, name):
            raise ValueError(f"{name}: supported only when training the U-Net, not {stage.name}")


def _resume(checkpoint: Path, stage: Stage, engine: Engine, ema: Ema) -> int:
    tensors, state = load_checkpoint(checkpoint, ("weights", "optimizer", "ema"))
    engine.load_weights(tensors["weights"])
    engine.load_optimizer_state(tensors["optimizer"])
    engine.load_scaler_state(state["scaler"])
    ema.shadow.load_state_dict(tensors["ema"])
    ema.updates = state["ema_updates"]
    stage.load_state(state.get("stage", {}))
    return int(state["step"])


def _write_skipped(place: Path, stage: Stage, start: int) -> None:
    """List the files that the run has skipped, including those before a resume at `start`."""
    file = place / SKIPPED
    before = read_json(file) if start and file.is_file() else {}
    skipped = {**before, **stage.skipped()}
    if skipped:
        write_json(file, skipped)
    else:
        file.unlink(missing_ok=True)


def dependents(folder: Path, stage: Stage) -> list[str]:
    """List the folder's parts that were trained against those that this stage writes."""
    return [
        name
        for name, entry in read_parts(folder).items()
        if name in stage.precedes
        or (name not in stage.parts and set(stage.parts) & set(entry.trained_against))
    ]


def check_dependents(folder: Path, stage: Stage) -> None:
    """Raise ValueError if training the stage would invalidate other parts of the folder."""
    others = dependents(folder, stage)
    if others:
        raise ValueError(
            f"{folder}: retraining {stage.name} would invalidate {', '.join(others)}, which "
            f"{'was' if len(others) == 1 else 'were'} trained against it; choose a different "
            "output folder"
        )


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python, numpy or torch means out of memory."""
    said = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in said)


def _over(minutes: float | None, since: float) -> bool:
    return minutes is not None and time.monotonic() - since >= 60 * minutes


class _Scoring:
    """Scores in the process that writes the log, if they are wanted."""

    def __init__(self, scorer: Scorer | None, log: Log | None) -> None:
        self.scorer, self.log = scorer, log

    def is_due(self, done: int, steps: int) -> bool:
        return self.log is not None and self.scorer is not None and self.scorer.due(done, steps)

    def is_missing(self, start: int, steps: int) -> bool:
        """Whether a resumed run lacks the score of its checkpoint."""
        if self.log is None or start == 0 or not self.is_due(start, steps):
            return False
        return all(entry["step"] != start for entry in read_log(self.log.scores.parent, SCORES))

    def __call__(self, done: int, stop: StopRequest) -> None:
        """Score the exported model after `done` steps, which has a checkpoint.

        A signal ends it at once: TrainingInterrupted.
        """
        assert self.log is not None
        assert self.scorer is not None
        self.log.announce_score(done, len(self.scorer.prompts))
        with stop.at_once(done):
            found = self.scorer(done)
        self.log.score(done, found)
