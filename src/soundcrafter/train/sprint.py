"""Training against the clock on one GPU: all data in its memory, each step one CUDA graph.

The loop in loop.py runs for days and can be killed at any moment. This one runs for minutes: with
small networks a large GPU waits for Python, so a step, from drawing its samples to the optimisers,
is recorded once and then replayed. Nothing is saved before the end.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from soundcrafter.device import choose_device
from soundcrafter.files import locked, write_json
from soundcrafter.precision import DTYPES, choose_precision
from soundcrafter.train.checkpoint import IDENTITY, list_checkpoints, run_folder
from soundcrafter.train.ema import Ema
from soundcrafter.train.log import Log, Report
from soundcrafter.train.loop import check_dependents, settle_precision
from soundcrafter.train.schedule import rate_at
from soundcrafter.train.stage import LossModule, Stage, total_loss
from soundcrafter.train.unfinished import warn_of_unfinished

EMA_EVERY = 10  # steps between updates of the averaged weights
_WARM_UPS = 3  # steps before one is recorded, so that libraries choose their kernels first


def sprint(
    stage: Stage,
    folder: Path,
    *,
    minutes: float,
    device: str = "auto",
    init: Path | None = None,
    log_steps: int = 100,
    report: Report | None = None,
    allow_unfinished: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Train a stage into the model folder for `minutes`; returns the number of steps.

    The learning rate follows the clock: a warm-up of `warmup_steps`, then the schedule over the
    minutes to `final_learning_rate`; `steps` is ignored. The time starts when the data is in
    memory; `clock` returns seconds. `report` gets every log entry. Parts that were not trained to
    the end are used with a warning, or with `allow_unfinished` without. Raises ValueError for a
    stage that cannot be trained this way, for a folder with parts that depend on what would change,
    and if the loss is not finite at a log entry; updates that are not finite are skipped.
    """
    if not minutes > 0:
        raise ValueError(f"minutes: got {minutes}; allowed: above 0")
    if log_steps < 1:
        raise ValueError(f"log_steps: got {log_steps}; allowed: 1 or more")
    settle_precision(stage, run_folder(folder, stage.name), device)
    if stage.config.accumulate > 1 or stage.config.precision == "fp16":
        raise ValueError(
            "accumulate, precision: allowed: accumulate 1, precision auto, fp32 or bf16"
        )
    with locked(run_folder(folder, stage.name)) as place:
        if list_checkpoints(place):
            raise ValueError(
                f"{place}: contains a run with checkpoints; choose a different output folder"
            )
        check_dependents(folder, stage)
        where = choose_device(device)
        if not allow_unfinished:
            init_parts = [(init, part) for part in stage.parts] if init is not None else []
            warn_of_unfinished([*init_parts, *stage.uses()])
        if init is not None:
            stage.initialise(init)
        ema = Ema(stage.network, stage.config.ema_decay**EMA_EVERY)
        ema.shadow.to(where)
        torch.manual_seed(stage.config.seed)
        runner = _Runner(stage, where)
        write_json(place / IDENTITY, stage.identity())
        with closing(Log(place, 0, report)) as log, _fast_kernels():
            step = _race(runner, ema, log, minutes, log_steps, clock)
        with locked(folder, wait=True):  # other stages may be writing their parts
            stage.export(ema.shadow, folder)
    return step


def _race(
    runner: "_Runner",
    ema: Ema,
    log: Log,
    minutes: float,
    log_steps: int,
    clock: Callable[[], float],
) -> int:
    """Run steps until the minutes are over; returns their number."""
    stage = runner.stage
    began, step, logged, progress = clock(), 0, 0, 0.0
    while progress < 1.0:
        runner.run(step, rate_at(step, progress, stage.config))
        step += 1
        progress = (clock() - began) / (60 * minutes)
        if step % EMA_EVERY == 0 or progress >= 1.0:
            ema.update(stage.network)
        if step % log_steps == 0 or progress >= 1.0:
            log.add(runner.losses())  # waits for the device
            samples = (step - logged) * stage.config.batch_size
            log.write(step, samples, {"progress": round(min(progress, 1.0), 4)})
            logged = step
    return step


class _Runner:
    """Runs steps, on a GPU by replaying a CUDA graph for each kind of step."""

    def __init__(self, stage: Stage, device: torch.device) -> None:
        self.stage, self.device = stage, device
        self._draw = stage.resident(device)
        self._learners = {
            name: _Learner(module.to(device), stage, device)
            for name, module in stage.loss_modules.items()
        }
        self._graphs: dict[tuple[bool, ...], torch.cuda.CUDAGraph] = {}
        self._seen: dict[tuple[bool, ...], int] = {}
        self._losses: dict[tuple[bool, ...], dict[str, Tensor]] = {}
        self._kind: tuple[bool, ...] = ()

    def run(self, step: int, rate: float) -> None:
        """Run a step with this learning rate, without synchronising."""
        for learner in self._learners.values():
            learner.rate.fill_(rate)
        # the computation depends only on which loss modules are updated
        kind = self._kind = tuple(self.stage.updates(name, step) for name in self._learners)
        seen = self._seen[kind] = self._seen.get(kind, 0) + 1
        if self.device.type != "cuda":
            self._losses[kind] = self._step(step)
        elif kind in self._graphs:
            self._graphs[kind].replay()
        elif seen <= _WARM_UPS:
            self._losses[kind] = _on_a_side_stream(lambda: self._step(step))
        else:
            graph = self._graphs[kind] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._losses[kind] = self._step(step)
            graph.replay()

    def losses(self) -> dict[str, float]:
        """The losses and gradient norms of the last step. Raises ValueError for a loss that is not
        finite; gradients may be, for their update was skipped."""
        values = {name: float(value) for name, value in self._losses[self._kind].items()}
        losses = (name for name in values if not name.endswith("gradient_norm"))
        broken = [name for name in losses if not math.isfinite(values[name])]
        if broken:
            raise ValueError(f"{self.stage.name}: not finite: {', '.join(broken)}; nothing saved")
        return values

    def _step(self, step: int) -> dict[str, Tensor]:
        with torch.no_grad():
            batch = self.stage.prepare(self._draw(), self.device)
        losses: dict[str, Tensor] = {}
        for name, learner in self._learners.items():
            if self.stage.updates(name, step):
                found, batch = learner.learn(batch, step, self.stage.weights(step))
                prefix = "" if not losses else f"{name}_"
                losses |= {f"{prefix}{key}": value for key, value in found.items()}
        return losses


class _Learner:
    """A loss module and its optimiser."""

    def __init__(self, module: LossModule, stage: Stage, device: torch.device) -> None:
        config = stage.config
        self.module, self.config, self.device = module, config, device
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.rate = torch.tensor(config.learning_rate, device=device)
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
            capturable=device.type == "cuda",
        )

    def learn(
        self, batch: Any, step: int, weights: Mapping[str, float]
    ) -> tuple[dict[str, Tensor], Any]:
        """One update. Returns the losses and the norm of the gradient, detached, and the batch for
        the loss modules that follow."""
        dtype = DTYPES[choose_precision(self.config.precision, self.device)]
        # no cache of cast weights: the graph would keep those of the recorded step
        autocast = dtype != torch.float32
        with torch.autocast(self.device.type, dtype, autocast, cache_enabled=False):
            losses, extras = self.module(batch, step)
        loss = total_loss(losses, weights)
        gradients = torch.autograd.grad(loss, self.parameters)
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.config.clip_norm > 0:
            scale = (self.config.clip_norm / norm.clamp(min=1e-12)).clamp(max=1.0)
            torch._foreach_mul_(gradients, scale)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        # the fused optimiser skips the update where this is 1
        self.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        found = {key: value.detach() for key, value in {**losses, "gradient_norm": norm}.items()}
        return found, {**batch, **extras}


@contextmanager
def _fast_kernels() -> Iterator[None]:
    """On a GPU: TF32 for what stays in float32, and the fastest convolution for each shape."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.benchmark = cudnn.allow_tf32 = matmul.allow_tf32 = True
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def _on_a_side_stream(make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Run on a side stream, which warm-up steps need before a graph is recorded."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        made = make()
    torch.cuda.current_stream().wait_stream(stream)
    return made
