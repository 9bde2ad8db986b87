"""The engine room: the only place that knows Accelerate, devices, precision and processes."""

import atexit
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import psutil
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from soundcrafter.device import choose_device
from soundcrafter.precision import cpu_has_bf16
from soundcrafter.train.recipe import StageConfig
from soundcrafter.train.schedule import learning_rate
from soundcrafter.train.sharding import shard, shared_as, whole
from soundcrafter.train.stage import Player, Processes

_log = logging.getLogger(__name__)
_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class LossNotFiniteError(ValueError):
    """A loss or its gradient became nan or infinite; no weights were changed by it."""


class Engine:
    """Players on a device with their optimisers, ready to be updated.

    Weights and optimiser state are fp32; the forward runs in the stage's precision.
    """

    def __init__(
        self,
        players: Mapping[str, Player],
        config: StageConfig,
        device: str,
        *,
        fsdp: bool = False,
        compile: bool = False,
    ) -> None:
        """`fsdp`: each process holds its part of the weights, not a copy of all (DDP). `compile`:
        torch.compile of the networks as they are called. Neither changes what is learned."""
        self.accelerator = _accelerator(choose_device(device), _PRECISION[config.precision])
        self.device: torch.device = self.accelerator.device
        self.config = config
        if config.precision == "bf16" and self.device.type == "cpu" and not cpu_has_bf16():
            _log.warning("precision: bf16 in software, many times slower than fp32, on this CPU")
        self.players = dict(players)
        self._wrapped: dict[str, nn.Module] = {}
        self._optimizers: dict[str, Any] = {}
        for name, player in self.players.items():
            player.to(self.device)
            if self.num_processes > 1:
                player.processes = _Group()
            if compile:
                # for each phase's shape anew: with shapes as symbols the compiler fails on a CPU
                player.network.compile(dynamic=False)
            self._wrapped[name] = self._wrap(player, fsdp)
            self._optimizers[name] = self.accelerator.prepare_optimizer(self._adamw(player))

    @property
    def num_processes(self) -> int:
        """How many processes share each step."""
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return bool(self.accelerator.is_main_process)

    def shard(self, indices: range) -> list[list[int]]:
        """This process's part of a step's sample indices, one list a micro-batch.

        A sample has the same index whatever the processes and micro-batches. Raises ValueError
        where they do not divide the samples.
        """
        processes, micro = self.num_processes, self.config.accumulate
        share, rest = divmod(len(indices), micro * processes)
        if rest:
            raise ValueError(
                f"batch_size: {len(indices)} is no multiple of accumulate "
                f"{micro} x {processes} processes"
            )
        first, stride = self.accelerator.process_index * share, share * processes
        return [list(indices[first + i * stride :][:share]) for i in range(micro)]

    def memory_gb(self) -> float:
        """What this process has held of the GPU at most, or holds of the machine's memory. GB."""
        if self.device.type == "cuda":
            return round(torch.cuda.max_memory_allocated(self.device) / 1e9, 2)
        return round(psutil.Process().memory_info().rss / 1e9, 2)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process; every one of them has to ask."""
        if self.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device)) > 0)

    def seed(self, step: int) -> None:
        """Fix torch's global generators, which dropout draws from, for this step and process."""
        seed = (self.config.seed, step, self.accelerator.process_index)
        torch.manual_seed(hash(seed) % 2**63)  # the hash of a tuple of ints is the same every time

    def update(
        self, name: str, batches: Sequence[dict[str, Any]], step: int, weights: Mapping[str, float]
    ) -> dict[str, float]:
        """One optimiser step of a player; returns its loss terms, averaged over the batches
        and the processes.

        The loss is the sum of the terms by `weights` (1 where a term has none). What the player
        hands on (a generator's output, say) is added to each batch for the players after it.
        Raises LossNotFiniteError before anything is changed.
        """
        player, optimizer = self.players[name], self._optimizers[name]
        wrapped = self._wrapped[name]
        report: dict[str, float] = {}
        with self._only(name):
            for index, batch in enumerate(batches):
                last = index == len(batches) - 1
                with self._syncing(wrapped, last):
                    with self.accelerator.autocast():  # prepare_model's, which fsdp goes without
                        terms, extras = wrapped(batch, step)
                    loss = torch.stack(
                        [weights.get(k, 1.0) * term for k, term in terms.items()]
                    ).sum()
                    self._check(loss, "loss", terms, [batch], step)
                    self.accelerator.backward(loss / len(batches))
                batch.update(extras)
                for key, term in {**terms, "loss": loss}.items():
                    report[key] = report.get(key, 0.0) + float(term.detach()) / len(batches)
            self._check(self._clip(wrapped), "gradient", terms, batches, step)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, self.config)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        # on the device: a group of GPUs has no means to add up what lies on CPUs
        values = torch.tensor(list(report.values()), device=self.device)
        means = player.processes.average(values)
        return dict(zip(report, means.tolist(), strict=True))

    def weights(self) -> dict[str, Tensor]:
        """All players' weights, named player.key."""
        return {
            f"{name}.{key}": whole(value)
            for name, player in self.players.items()
            for key, value in player.network.state_dict().items()
        }

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `weights`, strict."""
        for name, player in self.players.items():
            own, found = player.network.state_dict(), _below(name, tensors)
            shared = {key: shared_as(own.get(key, value), value) for key, value in found.items()}
            player.network.load_state_dict(shared)

    def optimizer_state(self) -> dict[str, Tensor]:
        """All optimisers' state, named player.parameter|entry."""
        state = {}
        for name, player in self.players.items():
            entries = self._optimizers[name].state_dict()["state"]
            for index, key in enumerate(_trained(player)):
                for entry, value in entries.get(index, {}).items():
                    state[f"{name}.{key}|{entry}"] = whole(torch.as_tensor(value))
        return state

    def load_optimizer_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `optimizer_state`."""
        for name, player in self.players.items():
            optimizer, state = self._optimizers[name], _below(name, tensors)
            full = optimizer.state_dict()
            full["state"] = {}
            parameters = dict(player.named_parameters())
            for index, key in enumerate(_trained(player)):
                prefix = f"{key}|"
                entries = {
                    k[len(prefix) :]: _laid_out_as(parameters[key], v)
                    for k, v in state.items()
                    if k.startswith(prefix)
                }
                if entries:
                    full["state"][index] = entries
            optimizer.load_state_dict(full)

    def scaler_state(self) -> dict[str, Any]:
        """The fp16 loss scaler's numbers; empty in other precisions."""
        scaler = self.accelerator.scaler
        return dict(scaler.state_dict()) if scaler is not None else {}

    def load_scaler_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `scaler_state`."""
        if self.accelerator.scaler is not None and state:
            self.accelerator.scaler.load_state_dict(dict(state))

    def _wrap(self, player: Player, fsdp: bool) -> nn.Module:
        if not fsdp or self.num_processes == 1:
            return self.accelerator.prepare_model(player)
        if self.accelerator.scaler is not None:
            raise ValueError("fsdp: not in precision fp16; allowed: fp32, bf16")
        shard(player, self.device)
        return player

    @contextmanager
    def _syncing(self, wrapped: nn.Module, last: bool) -> Iterator[None]:
        """Processes add up gradients with the last micro-batch of a step."""
        if isinstance(wrapped, FSDPModule):
            wrapped.set_requires_gradient_sync(last)
            yield
            return
        with nullcontext() if last else self.accelerator.no_sync(wrapped):
            yield

    def _adamw(self, player: Player) -> torch.optim.AdamW:
        return torch.optim.AdamW(
            [parameter for parameter in player.parameters() if parameter.requires_grad],
            lr=self.config.learning_rate,
            betas=self.config.betas,
            weight_decay=self.config.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )

    def _clip(self, player: nn.Module) -> Tensor:
        """The norm of the gradients, which are clipped to the stage's limit if it has one."""
        if self.config.clip_norm > 0:
            limit = self.config.clip_norm
            return whole(self.accelerator.clip_grad_norm_(player.parameters(), limit))
        grads = [p.grad for p in player.parameters() if p.grad is not None]
        return whole(get_total_norm(grads))

    @contextmanager
    def _only(self, name: str) -> Iterator[None]:
        """Gradients for one player alone: the others are part of its loss, but do not learn."""
        others = [
            parameter
            for other, player in self.players.items()
            if other != name
            for parameter in player.parameters()
            if parameter.requires_grad
        ]
        _set_requires_grad(others, False)
        try:
            yield
        finally:
            _set_requires_grad(others, True)

    def _check(
        self,
        value: Tensor,
        what: str,
        terms: Mapping[str, Tensor],
        batches: Sequence[Mapping[str, Any]],
        step: int,
    ) -> None:
        if torch.isfinite(value):
            return
        if what == "gradient" and self.accelerator.scaler is not None:
            return  # fp16: the scaler skips this update and lowers its scale
        values = ", ".join(f"{key} {float(term.detach()):g}" for key, term in terms.items())
        files = {file for batch in batches for files in batch["files"] for file in files}
        raise LossNotFiniteError(  # steps are counted as in the log
            f"step {step + 1}: the {what} is not finite ({values}); "
            f"files of the batch: {', '.join(sorted(files))}"
        )


class _Group(Processes):
    """The processes of torch's default group."""

    def gather(self, rows: Tensor) -> Tensor:
        gathered: Tensor = _Gather.apply(rows)
        return gathered

    @torch.no_grad()
    def average(self, value: Tensor) -> Tensor:
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total / torch.distributed.get_world_size()


class _Gather(torch.autograd.Function):
    """All processes' rows. The gradient of a process's own rows is the sum of what all processes
    ask of them: where each computes the same loss of all rows, DDP's mean over processes is then
    the gradient that one process would have."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]


def _accelerator(device: torch.device, precision: str) -> Accelerator:
    """Accelerate on that device; of several processes each takes its own one of that kind."""
    group = torch.distributed.is_available() and torch.distributed.is_initialized()
    AcceleratorState._reset_state(reset_partial_state=not group)  # a process may train in turn
    # one process may score or save while the others wait
    state = PartialState(cpu=device.type == "cpu", timeout=timedelta(hours=4))
    if state.num_processes > 1 and not group:
        atexit.register(_leave_group)  # threads of an open group can abort the ending process
    if state.num_processes == 1:
        state.device = device  # Accelerate itself only knows CPU and not CPU
    if state.device.type != device.type:
        raise ValueError(
            f"device: asked for {device}, but this process is set up on {state.device}"
        )
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu")


def _leave_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _trained(player: nn.Module) -> list[str]:
    return [name for name, parameter in player.named_parameters() if parameter.requires_grad]


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """The value in the parameter's memory format, which files forget and fused AdamW trusts."""
    if value.shape != parameter.shape:
        return value  # a step count
    if isinstance(parameter, DTensor):
        return shared_as(parameter, value)
    same = torch.empty_strided(parameter.shape, parameter.stride(), dtype=value.dtype)
    return same.copy_(value)


def _below(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _set_requires_grad(parameters: Iterable[nn.Parameter], value: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(value)
