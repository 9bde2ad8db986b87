"""What a stage of training is: networks with their losses, batches, and what it exports."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from soundcrafter.data.dataset import Sounds
from soundcrafter.files import one_line
from soundcrafter.settings import differences
from soundcrafter.store import ModelFolder, open_folder
from soundcrafter.train.recipe import Recipe, StageConfig

RESIDENT_STAGES = ("vae", "vocoder", "diffusion")  # those that can train from device memory
STAGE_OF = {"clap_audio": "clap", "clap_text": "clap", "vae": "vae"}  # that trains a part
Batch = dict[str, Any]
Losses = dict[str, Tensor]


class PreparedBatch(TypedDict):
    """What every batch on the device has; each stage adds the tensors that its losses need."""

    files: Sequence[Sequence[str]]  # of each sample, for errors


N = TypeVar("N", bound=nn.Module)  # the network that is trained
P = TypeVar("P", bound=PreparedBatch)  # its batch


class Processes:
    """Collective operations that losses need; this class is for a single process."""

    def gather(self, rows: Tensor) -> Tensor:
        """[B, ...] of this process -> [B * processes, ...] of all, in rank order. Gradients flow
        back to the rows of every process."""
        return rows

    def average(self, value: Tensor) -> Tensor:
        """The mean over processes; no gradient."""
        return value


class LossModule(nn.Module, ABC, Generic[N, P]):
    """A network with its losses in one forward, so that DDP wraps both.

    `network` holds all parameters that are trained by these losses. Other networks that the losses
    need are not submodules (see `ExternalModule`).
    """

    def __init__(self, network: N) -> None:
        super().__init__()
        self.network = network
        self.processes = Processes()  # the engine's, where there are several

    @abstractmethod
    def forward(self, batch: P, step: int) -> tuple[Losses, Batch]:
        """The losses (scalars), and entries for the batch of the loss modules that follow in the
        same step (a generator's output), detached."""


@dataclass(frozen=True)
class ExternalModule(Generic[N]):
    """A module that its user does not own: not among its parameters, in its state or under DDP."""

    module: N

    def __call__(self, *args: Any) -> Any:
        return self.module(*args)


@dataclass(frozen=True)
class Samples:
    """Sounds and spectrograms for the log."""

    waves: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> [N]
    mels: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> [T, F]
    sample_rate: int = 16_000  # Hz


class Stage(ABC, Generic[N, P]):
    """The training of a part: its data, networks and losses. The loop knows steps and disk, the
    engine the hardware."""

    name: str  # of the folder of its run
    config: StageConfig
    parts: tuple[str, ...]  # that it writes into the model folder
    precedes: tuple[str, ...] = ()  # parts whose presence blocks retraining
    one_process: bool = False  # whether its loss cannot be divided over processes
    sounds: Sounds  # what it reads, unless it overrides `skipped`
    loss_modules: dict[str, LossModule[Any, P]]  # in order of updates; the first is exported

    @classmethod
    def run_name(cls, recipe: Recipe) -> str:
        """The name of the folder of its run, known before the stage is built."""
        return cls.name

    @abstractmethod
    def __init__(self, recipe: Recipe, data: str | PathLike[str], folder: Path) -> None:
        """`data` is a manifest, folder or shards, `folder` the model folder to train into."""

    @property
    def section(self) -> str:
        """The section of the recipe that holds `config`."""
        return self.name.partition("_")[0]

    @property
    def network(self) -> N:
        """The network that is averaged and exported: that of the first loss module."""
        network: N = next(iter(self.loss_modules.values())).network
        return network

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return all that must be unchanged for a run to resume: settings, data, other parts."""

    def uses(self) -> list[tuple[Path, str]]:
        """The trained parts that this stage was built from, as (model folder, part)."""
        return []

    @abstractmethod
    def load_batch(self, indices: Sequence[int]) -> Batch:
        """Load the samples with these indices on the CPU; a pure function, called from threads."""

    @abstractmethod
    def prepare(self, batch: Batch, device: torch.device) -> P:
        """The batch on the device, after any frozen networks."""

    @abstractmethod
    def export(self, network: N, folder: Path) -> None:
        """Write the trained part into the model folder."""

    def finish(self) -> None:  # few stages need it
        """Called when a run stops, before its last export."""

    def initialise(self, folder: Path) -> None:
        """Start from the weights of a model folder."""
        load_part(self.network, folder, self.parts[0])

    def resident(self, device: torch.device) -> Callable[[], Batch]:
        """Load all data into a device's memory. Returns a function that draws a batch there without
        synchronising. Raises ValueError if the stage does not support this."""
        raise ValueError(
            f"{self.name}: cannot train from device memory; allowed: vae, vocoder, "
            "diffusion from encoded data"
        )

    def sample_indices(self, step: int) -> range:
        """The indices of a step's samples; every sample of a run has its own."""
        size = self.config.batch_size
        return range(step * size, (step + 1) * size)

    def phase_starts(self) -> tuple[int, ...]:
        """The first steps of the phases; shapes and batch sizes are constant within a phase."""
        return (0,)

    def facts(self, step: int) -> dict[str, float]:
        """Return values other than losses for the log entry of a step."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint other than weights, serialisable as JSON."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        assert not state

    def updates(self, name: str, step: int) -> bool:
        """Whether the loss module of that name is updated at this step."""
        return True

    def weights(self, step: int) -> Mapping[str, float]:
        """Return the weight of each loss in the sum of losses.

        An empty mapping gives every loss weight 1. A non-empty one must name every loss, including
        the discriminator's hinge.
        """
        return {}

    def skipped(self) -> dict[str, str]:
        """Files skipped so far, and why."""
        return self.sounds.all_skipped

    def samples(self, network: N, device: torch.device) -> Samples:
        """Return sounds and pictures of the averaged network for the log."""
        return Samples()


def total_loss(losses: Losses, weights: Mapping[str, float]) -> Tensor:
    """Sum the losses, each times its weight, to a scalar. No weights: every weight is 1."""
    if weights:
        unknown = ", ".join(losses.keys() - weights.keys())
        assert not unknown, f"weights() gives no weight for: {unknown}"
    return torch.stack([weights.get(key, 1.0) * value for key, value in losses.items()]).sum()


def require_parts(folder: Path, *names: str) -> ModelFolder:
    """Open a model folder; ValueError if a part is missing, naming the stages to train."""
    opened = (
        open_folder(folder, allow_mismatch=True) if (folder / "config.json").is_file() else None
    )
    there = opened.parts if opened is not None else {}
    missing = [name for name in names if name not in there]
    if opened is None or missing:
        stages = dict.fromkeys(f"`soundcrafter train {STAGE_OF[name]}`" for name in missing)
        raise ValueError(
            f"{folder}: this model has no {', '.join(missing)} yet "
            f"(it has: {', '.join(there) or 'nothing'}); first run {' and '.join(stages)}"
        )
    return opened


def refuse_other_settings(folder: Path, name: str, there: Any, here: Any, where: str = "") -> None:
    """Raise ValueError if a part's settings `there` differ from the recipe's, `here`.

    The error lists each of them with both values. `where` is the dotted path of `here`, model.NAME
    if empty.
    """
    if listed := differences(there, here, where or f"model.{name}"):
        raise ValueError(
            f"{folder}: the settings of {name} differ from the recipe's: {'; '.join(listed)}"
        )


def load_part(network: nn.Module, folder: Path, name: str) -> None:
    """Load a part of a model folder into a network. Raises ValueError if shapes differ."""
    part = open_folder(folder).load(name)
    try:
        network.load_state_dict(part.state_dict())
    except RuntimeError as error:
        reason = one_line(error)
        raise ValueError(f"{folder}: {name} does not fit the recipe: {reason}") from None


def load_frozen(folder: Path, name: str) -> tuple[Any, str]:
    """Load a part of a model folder without gradients; returns it and its training id."""
    opened = open_folder(folder)
    return opened.load(name).requires_grad_(False), opened.parts[name].training_id


def sample_noise(seed: int, purpose: int, index: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise of a shape, a function of (seed, purpose, sample index)."""
    generator = np.random.default_rng([seed, purpose, index])
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))


def sample_uniform(seed: int, purpose: int, index: int) -> float:
    """A uniform number in [0, 1), a function of (seed, purpose, sample index)."""
    return float(np.random.default_rng([seed, purpose, index]).random())
