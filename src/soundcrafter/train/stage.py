"""What a stage of training is: players with losses, batches, something to export and to hear."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from soundcrafter.store import open_folder
from soundcrafter.train.recipe import Recipe, StageConfig

RESIDENT = "vae, vocoder, diffusion from encoded data"  # stages whose data can be on a device
Batch = dict[str, Any]
Terms = dict[str, Tensor]


class Processes:
    """What a loss asks of the processes that share a step; this one stands for a single process."""

    def gather(self, rows: Tensor) -> Tensor:
        """[B, ...] of this process -> [B x processes, ...] of all, in their order. Gradients flow
        back into every process's own rows."""
        return rows

    def average(self, value: Tensor) -> Tensor:
        """The mean over processes, without gradient."""
        return value


class Player(nn.Module, ABC):
    """A network and its losses in one forward, so that DDP sees everything it has to.

    `network` is the only child with parameters that this player trains; networks that take part
    without learning are held outside torch's registry (see `Unregistered`).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.processes = Processes()  # the engine's, where there are several

    @abstractmethod
    def forward(self, batch: Batch, step: int) -> tuple[Terms, Batch]:
        """Loss terms (scalars), and what later players of the same step need, detached."""


@dataclass(frozen=True)
class Unregistered:
    """A module kept out of its holder's parameters, state dict and DDP wrapping."""

    module: nn.Module

    def __call__(self, *args: Any) -> Any:
        return self.module(*args)


@dataclass(frozen=True)
class Samples:
    """What a stage shows of itself in the log."""

    waves: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> [N]
    mels: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> [T, F]
    sample_rate: int = 16_000  # Hz


class Stage(ABC):
    """One of the trainings. It knows its losses; the loop knows hardware and disk."""

    name: str  # of its run's folder
    config: StageConfig
    parts: tuple[str, ...]  # of the model folder that it writes
    precedes: tuple[str, ...] = ()  # parts that, once there, forbid to train this stage again
    one_process: bool = False  # whether its loss cannot be shared between processes
    players: dict[str, Player]  # in the order in which they move; the first one is exported

    @abstractmethod
    def __init__(self, recipe: Recipe, data: Path, folder: Path) -> None:
        """`data` is what is trained on; `folder` the model folder that is trained into."""

    @property
    def network(self) -> nn.Module:
        """What is averaged and exported: the first player's network."""
        return next(iter(self.players.values())).network

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to resume: settings, data, parts trained against."""

    @abstractmethod
    def load_batch(self, indices: Sequence[int]) -> Batch:
        """The samples of these indices on the CPU; a pure function, called from other threads."""

    @abstractmethod
    def prepare(self, batch: Batch, device: torch.device) -> Batch:
        """The batch on the device, frozen networks applied."""

    @abstractmethod
    def export(self, network: nn.Module, folder: Path) -> None:
        """Write the trained part into the model folder."""

    def finish(self) -> None:  # noqa: B027  # few stages need it
        """Called when a run stops, before its last export."""

    @abstractmethod
    def initialise(self, folder: Path) -> None:
        """Start from the weights of a model folder."""

    def resident(self, device: torch.device) -> Callable[[], Batch]:
        """Put all data into the memory of a device; returns what draws a batch there, without
        waiting for the device. ValueError where the stage cannot."""
        raise ValueError(f"{self.name}: has no training on a device alone; allowed: {RESIDENT}")

    def sample_indices(self, step: int) -> range:
        """The indices of a step's samples: each sample of the training has its own."""
        size = self.config.batch_size
        return range(step * size, (step + 1) * size)

    def phase_starts(self) -> tuple[int, ...]:
        """The steps from which shapes and batch sizes stay as they are until the next one."""
        return (0,)

    def facts(self, step: int) -> dict[str, float]:
        """Numbers of a step for the log that are no losses."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides weights, ready for JSON."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        assert not state

    def plays(self, player: str, step: int) -> bool:
        """Whether a player is updated at this step."""
        return True

    def weights(self, step: int) -> Mapping[str, float]:
        """The weight of each loss term; 1 where it has none."""
        return {}

    def skipped(self) -> dict[str, str]:
        """Files of the data that were passed over so far, and why."""
        return {}

    def samples(self, network: nn.Module, device: torch.device) -> Samples:
        """Something to see or hear of the averaged network."""
        return Samples()


def load_part(network: nn.Module, folder: Path, name: str) -> None:
    """Load a part of a model folder into a network. ValueError where it has other shapes."""
    part = open_folder(folder).load(name)
    try:
        network.load_state_dict(part.state_dict())
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder}: its {name} does not fit the recipe: {reason[:300]}") from None


def sample_noise(seed: int, purpose: int, index: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise of a shape, a function of (seed, purpose, sample index)."""
    generator = np.random.default_rng([seed, purpose, index])
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))


def sample_uniform(seed: int, purpose: int, index: int) -> float:
    """A uniform number in [0, 1), a function of (seed, purpose, sample index)."""
    return float(np.random.default_rng([seed, purpose, index]).random())
