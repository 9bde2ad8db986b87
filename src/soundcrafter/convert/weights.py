"""Load published state dicts into our networks, strictly: every tensor must be accounted for."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from soundcrafter.convert.checkpoints import read_state

# Tensors of transformers that follow from the settings, and a counter of training steps. Not all
# files contain them, so the network keeps its own.
_CONSTANTS = ("position_ids", "token_type_ids", "relative_position_index", "num_batches_tracked")
_MAX_NAMES = 5  # of tensors, in an error


class Weights:
    """The tensors of one file. Each must be used or ignored."""

    def __init__(self, file: Path, state: Mapping[str, Tensor]) -> None:
        self.file = file
        self.state = dict(state)
        self._unused = set(self.state)

    @classmethod
    def read(cls, file: Path) -> "Weights":
        """Read a file of tensors; see `read_state`."""
        return cls(file, read_state(file))

    def get(self, name: str) -> Tensor:
        """A tensor, in float32; it counts as used. Raises ValueError if it is missing."""
        if name not in self.state:
            raise ValueError(f"{self.file}: {name} is missing")
        self._unused.discard(name)
        value = self.state[name]
        return value.float() if value.is_floating_point() else value

    def shape(self, name: str) -> torch.Size:
        """A tensor's shape. Raises ValueError if it is missing."""
        if name not in self.state:
            raise ValueError(f"{self.file}: {name} is missing")
        return self.state[name].shape

    def fill(
        self, network: nn.Module, names: Mapping[str, str], own: Mapping[str, Tensor] | None = None
    ) -> None:
        """Load a network, strictly.

        `names` maps the path of each module with tensors to its name in the file; `own` are values
        for tensors of the network that have no counterpart in the file. Raises ValueError naming a
        tensor that is missing or has another shape.
        """
        own, loaded = own or {}, {}
        for key, value in network.state_dict().items():
            path, _, leaf = key.rpartition(".")
            if key in own:
                loaded[key] = own[key]
            elif leaf in _CONSTANTS:
                loaded[key] = value
                self._unused.discard(f"{names[path]}.{leaf}")
            else:
                loaded[key] = self._shaped(f"{names[path]}.{leaf}", value)
        network.load_state_dict(loaded, strict=True)

    def ignore(self, pattern: str) -> None:
        """Ignore the tensors whose full name matches."""
        self._unused -= {name for name in self._unused if re.fullmatch(pattern, name)}

    def check_all_used(self) -> None:
        """Raise ValueError naming tensors that were neither used nor ignored."""
        if self._unused:
            names = sorted(self._unused)
            more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
            raise ValueError(
                f"{self.file}: unexpected tensors: {', '.join(names[:_MAX_NAMES])}{more}; "
                "not a checkpoint of this family"
            )

    def _shaped(self, name: str, like: Tensor) -> Tensor:
        value = self._without_weight_norm(name)
        if value.shape == like.shape:
            return value
        # a 1x1 convolution that is a linear layer in our network
        if value.ndim > like.ndim and value.squeeze().shape == like.shape:
            return value.reshape(like.shape)
        raise ValueError(
            f"{self.file}: {name} has the shape {list(value.shape)}, expected {list(like.shape)}"
        )

    def _without_weight_norm(self, name: str) -> Tensor:
        """The tensor; weight norm, saved as two tensors, is folded: g v / |v|."""
        path, _, leaf = name.rpartition(".")
        pairs = [
            (f"{path}.{leaf}_g", f"{path}.{leaf}_v"),
            (
                f"{path}.parametrizations.{leaf}.original0",
                f"{path}.parametrizations.{leaf}.original1",
            ),
        ]
        for magnitude, direction in pairs:
            if name not in self.state and direction in self.state:
                return torch._weight_norm(self.get(direction), self.get(magnitude), 0)
        return self.get(name)


def prefixed(network: nn.Module, prefix: str, under: str = "") -> dict[str, str]:
    """Names for `fill`: modules below `under` have the same names in the file, below `prefix`."""
    below = [path for path, _ in network.named_modules() if path.startswith(under)]
    return {path: prefix + path.removeprefix(under) for path in below}


def numbers(names: Iterable[str], pattern: str) -> list[int]:
    """The values of the group in `pattern` among the names that match, ascending."""
    found = {int(match[1]) for name in names if (match := re.match(pattern, name))}
    return sorted(found)
