"""The engine: the only place that knows Accelerate, devices, precision and processes."""

import atexit
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from hashlib import sha256
from typing import Any

import psutil
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from soundcrafter.device import choose_device
from soundcrafter.precision import choose_precision, cpu_has_bf16
from soundcrafter.train.recipe import StageConfig
from soundcrafter.train.schedule import learning_rate
from soundcrafter.train.sharding import is_sharded, shard, shared_as, whole
from soundcrafter.train.stage import LossModule, PreparedBatch, Processes, total_loss

_log = logging.getLogger(__name__)
_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class LossNotFiniteError(ValueError):
    """A loss or its gradient became nan or infinite; no weights were changed."""


class Engine:
    """Loss modules on a device, with their optimisers.

    Weights and optimiser state are fp32; the forward pass runs in the stage's precision.
    """

    def __init__(
        self,
        loss_modules: Mapping[str, LossModule],
        config: StageConfig,
        device: str,
        *,
        fsdp: bool = False,
        compile: bool = False,
    ) -> None:
        """`fsdp` shards the weights over processes instead of copying them (DDP). `compile` applies
        torch.compile to the networks. Neither changes what is learned."""
        chosen, precision = choose_device(device), config.precision
        if precision == "auto":
            precision = choose_precision(precision, chosen)
        self.accelerator = _accelerator(chosen, _PRECISION[precision])
        self.device: torch.device = self.accelerator.device
        self.config = config
        if precision == "bf16" and self.device.type == "cpu" and not cpu_has_bf16():
            _log.warning(
                "precision: this CPU emulates bf16, many times slower than fp32; start a new run "
                '(another --out) with precision = "auto" to use fp32 on this machine'
            )
        self.loss_modules = dict(loss_modules)
        self._fsdp = fsdp and self.num_processes > 1
        self._wrapped: dict[str, nn.Module] = {}
        self._optimizers: dict[str, Any] = {}
        for name, module in self.loss_modules.items():
            module.to(self.device)
            if self.num_processes > 1:
                module.processes = _Group()
            if compile:
                # once for each shape: compiling for dynamic shapes fails on CPUs
                module.network.compile(dynamic=False)
            self._wrapped[name] = self._wrap(module)
            self._optimizers[name] = self.accelerator.prepare_optimizer(self._adamw(module))

    @property
    def num_processes(self) -> int:
        """Number of processes that share each step."""
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return bool(self.accelerator.is_main_process)

    def shard(self, indices: range) -> list[list[int]]:
        """This process's share of a step's sample indices, one list per micro-batch.

        The indices do not depend on the number of processes or micro-batches. Raises ValueError
        if these do not divide the batch.
        """
        processes, micro = self.num_processes, self.config.accumulate
        share, rest = divmod(len(indices), micro * processes)
        if rest:
            raise ValueError(
                f"batch_size: {len(indices)} is not a multiple of accumulate "
                f"{micro} x {processes} processes"
            )
        first, stride = self.accelerator.process_index * share, share * processes
        return [list(indices[first + i * stride :][:share]) for i in range(micro)]

    def memory_gb(self) -> float:
        """In GB: peak GPU memory of this process, or its resident memory on other devices."""
        if self.device.type == "cuda":
            return round(torch.cuda.max_memory_allocated(self.device) / 1e9, 2)
        return round(psutil.Process().memory_info().rss / 1e9, 2)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process; a collective call."""
        if self.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device)) > 0)

    def agrees(self, value: str) -> bool:
        """Whether all processes have the same value; a collective call."""
        if self.num_processes == 1:
            return True
        digest = int.from_bytes(sha256(value.encode()).digest()[:7], "big")
        digests = self.accelerator.gather(torch.tensor([digest], device=self.device))
        return bool((digests == digests[0]).all())

    def seed(self, step: int) -> None:
        """Seed torch's global generators, which dropout uses, for this step and process."""
        seed = (self.config.seed, step, self.accelerator.process_index)
        torch.manual_seed(hash(seed) % 2**63)  # hashes of ints do not vary between runs

    def update(
        self, name: str, batches: Sequence[Any], step: int, weights: Mapping[str, float]
    ) -> tuple[dict[str, float], list[Any]]:
        """Run an optimiser step of a loss module on prepared micro-batches.

        Returns its losses, averaged over micro-batches and processes, and the batches for the loss
        modules that follow, plus this module's outputs (a generator's). The losses are summed
        with `weights`, see `total_loss`. Raises LossNotFiniteError before weights change.
        """
        module, optimizer = self.loss_modules[name], self._optimizers[name]
        wrapped = self._wrapped[name]
        report: dict[str, float] = {}
        extended = []
        with self._only(name):
            for index, batch in enumerate(batches):
                last = index == len(batches) - 1
                with self._syncing(wrapped, last):
                    with self.accelerator.autocast():  # prepare_model's; the FSDP path has none
                        losses, extras = wrapped(batch, step)
                    loss = total_loss(losses, weights)
                    self._check(loss, "loss", losses, [batch], step)
                    self.accelerator.backward(loss / len(batches))
                extended.append({**batch, **extras})
                for key, value in {**losses, "loss": loss}.items():
                    report[key] = report.get(key, 0.0) + float(value.detach()) / len(batches)
            self._check(self._clip(wrapped), "gradient", losses, batches, step)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, self.config)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        # on the device: NCCL cannot reduce CPU tensors
        values = torch.tensor(list(report.values()), device=self.device)
        means = module.processes.average(values)
        return dict(zip(report, means.tolist(), strict=True)), extended

    def weights(self) -> dict[str, Tensor]:
        """The weights of all loss modules, named module.key."""
        return {
            f"{name}.{key}": whole(value)
            for name, module in self.loss_modules.items()
            for key, value in module.network.state_dict().items()
        }

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `weights`, strict."""
        for name, module in self.loss_modules.items():
            own, found = module.network.state_dict(), _below(name, tensors)
            shared = {key: shared_as(own.get(key, value), value) for key, value in found.items()}
            module.network.load_state_dict(shared)

    def optimizer_state(self) -> dict[str, Tensor]:
        """The state of all optimisers, named module.parameter|entry."""
        state = {}
        for name, module in self.loss_modules.items():
            entries = self._optimizers[name].state_dict()["state"]
            for index, key in enumerate(_trained(module)):
                for entry, value in entries.get(index, {}).items():
                    state[f"{name}.{key}|{entry}"] = whole(torch.as_tensor(value))
        return state

    def load_optimizer_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `optimizer_state`."""
        for name, module in self.loss_modules.items():
            optimizer, state = self._optimizers[name], _below(name, tensors)
            full = optimizer.state_dict()
            full["state"] = {}
            entries: dict[str, dict[str, Tensor]] = {}
            for named, value in state.items():
                key, entry = named.split("|")
                entries.setdefault(key, {})[entry] = value
            parameters = dict(module.named_parameters())
            for index, key in enumerate(_trained(module)):
                if key in entries:
                    full["state"][index] = {
                        entry: _laid_out_as(parameters[key], value)
                        for entry, value in entries[key].items()
                    }
            optimizer.load_state_dict(full)

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of the fp16 loss scaler; empty with other precisions."""
        scaler = self.accelerator.scaler
        return dict(scaler.state_dict()) if scaler is not None else {}

    def load_scaler_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `scaler_state`."""
        if self.accelerator.scaler is not None and state:
            self.accelerator.scaler.load_state_dict(dict(state))

    def _wrap(self, module: LossModule) -> nn.Module:
        if not self._fsdp:
            return self.accelerator.prepare_model(module)
        if self.accelerator.scaler is not None:
            raise ValueError("fsdp does not support fp16; use fp32 or bf16")
        shard(module, self.device)
        return module

    @contextmanager
    def _syncing(self, wrapped: Any, last: bool) -> Iterator[None]:
        """Reduce gradients over processes only with the last micro-batch of a step."""
        if self._fsdp:
            wrapped.set_requires_gradient_sync(last)
            yield
            return
        with nullcontext() if last else self.accelerator.no_sync(wrapped):
            yield

    def _adamw(self, module: LossModule) -> torch.optim.AdamW:
        return torch.optim.AdamW(
            [parameter for parameter in module.parameters() if parameter.requires_grad],
            lr=self.config.learning_rate,
            betas=self.config.betas,
            weight_decay=self.config.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )

    def _clip(self, module: nn.Module) -> Tensor:
        """Clip the gradients to the stage's limit, if any; returns their norm before."""
        if self.config.clip_norm > 0:
            limit = self.config.clip_norm
            return whole(self.accelerator.clip_grad_norm_(module.parameters(), limit))
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        return whole(get_total_norm(grads))

    @contextmanager
    def _only(self, name: str) -> Iterator[None]:
        """Compute gradients for one loss module only; its losses may use the networks of others."""
        others = [
            parameter
            for other, module in self.loss_modules.items()
            if other != name
            for parameter in module.parameters()
            if parameter.requires_grad
        ]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def _check(
        self,
        value: Tensor,
        what: str,
        losses: Mapping[str, Tensor],
        batches: Sequence[PreparedBatch],
        step: int,
    ) -> None:
        if torch.isfinite(value):
            return
        if what == "gradient" and self.accelerator.scaler is not None:
            return  # fp16: the scaler skips this update and lowers its scale
        values = ", ".join(f"{key} {float(value.detach()):g}" for key, value in losses.items())
        files = {file for batch in batches for files in batch["files"] for file in files}
        raise LossNotFiniteError(  # steps count from 1, as in the log
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
    """The rows of all processes. The gradient of a process's own rows is summed over processes:
    where each computes the same loss from all rows, DDP's mean over processes then equals the
    gradient of a single process."""

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


def is_first_process() -> bool:
    """Whether this is the first or only process of a run, usable before an engine exists."""
    ranks = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")  # Accelerate's
    return next((os.environ[name] for name in ranks if name in os.environ), "0") == "0"


def _accelerator(device: torch.device, precision: str) -> Accelerator:
    """Accelerate on that device; several processes each take one device of that type."""
    group = torch.distributed.is_available() and torch.distributed.is_initialized()
    AcceleratorState._reset_state(reset_partial_state=not group)  # for repeated trainings
    # a long timeout: one process may score or save while the others wait
    state = PartialState(cpu=device.type == "cpu", timeout=timedelta(hours=4))
    if state.num_processes > 1 and not group:
        atexit.register(_leave_group)  # an open group can abort a process at exit
    if state.num_processes == 1:
        state.device = device  # Accelerate distinguishes only CPU
    if state.device.type != device.type:
        raise ValueError(f"device: asked for {device}, but this process runs on {state.device}")
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu")


def _leave_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _trained(module: nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """The value with the parameter's strides, which are not saved but which fused AdamW needs."""
    if value.shape != parameter.shape:
        return value  # a step count
    if is_sharded(parameter):
        return shared_as(parameter, value)
    same = torch.empty_strided(parameter.shape, parameter.stride(), dtype=value.dtype)
    return same.copy_(value)


def _below(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
