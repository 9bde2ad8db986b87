"""A published state dict on its way into a network: each tensor finds its place or is named."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from soundcrafter.convert.checkpoints import read_state

# Entries of transformers' state dicts that follow from the settings, and a counter of training
# steps: ours are kept, for some files have them and some have not.
_CONSTANTS = ("position_ids", "token_type_ids", "relative_position_index", "num_batches_tracked")
_NAMED = 5  # names of tensors in an error


class Weights:
    """The tensors of one file, of which each must be taken or ignored."""

    def __init__(self, file: Path, state: Mapping[str, Tensor]) -> None:
        self.file = file
        self.state = dict(state)
        self._left = set(self.state)

    @classmethod
    def read(cls, file: Path) -> "Weights":
        """Read a file of tensors. ValueError where it holds anything else, or is damaged."""
        return cls(file, read_state(file))

    def get(self, name: str) -> Tensor:
        """A tensor in float32, from now on taken. ValueError where there is none."""
        if name not in self.state:
            raise ValueError(f"{self.file}: has no {name}")
        self._left.discard(name)
        value = self.state[name]
        return value.float() if value.is_floating_point() else value

    def shape(self, name: str) -> torch.Size:
        """A tensor's shape; it still waits to be taken. ValueError where there is none."""
        if name not in self.state:
            raise ValueError(f"{self.file}: has no {name}")
        return self.state[name].shape

    def fill(
        self, network: nn.Module, names: Mapping[str, str], own: Mapping[str, Tensor] | None = None
    ) -> None:
        """Load a network, strictly. `names`: the path of each module that has tensors -> what it
        is called here; `own`: tensors of the network that have no counterpart.

        ValueError naming a tensor that is missing or has another shape.
        """
        own, loaded = own or {}, {}
        for key, value in network.state_dict().items():
            path, _, leaf = key.rpartition(".")
            if key in own:
                loaded[key] = own[key]
            elif leaf in _CONSTANTS:
                loaded[key] = value
                self._left.discard(f"{names[path]}.{leaf}")
            else:
                loaded[key] = self._shaped(f"{names[path]}.{leaf}", value)
        network.load_state_dict(loaded, strict=True)

    def ignore(self, pattern: str) -> None:
        """Tensors whose whole name matches have no place here, and need none."""
        self._left -= {name for name in self._left if re.fullmatch(pattern, name)}

    def done(self) -> None:
        """ValueError naming what is left, that nobody asked for."""
        if self._left:
            names = sorted(self._left)
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            raise ValueError(
                f"{self.file}: unexpected tensors: {', '.join(names[:_NAMED])}{more}; "
                "not a checkpoint of this family"
            )

    def _shaped(self, name: str, like: Tensor) -> Tensor:
        value = self._whole(name)
        if value.shape == like.shape:
            return value
        # a 1x1 convolution where we have the linear layer that it is
        if value.ndim > like.ndim and value.squeeze().shape == like.shape:
            return value.reshape(like.shape)
        raise ValueError(
            f"{self.file}: {name} has the shape {list(value.shape)}, expected {list(like.shape)}"
        )

    def _whole(self, name: str) -> Tensor:
        """The tensor, its weight norm folded where it was saved in two: g v / |v|."""
        path, _, leaf = name.rpartition(".")
        pairs = [
            (f"{path}.{leaf}_g", f"{path}.{leaf}_v"),
            (
                f"{path}.parametrizations.{leaf}.original0",
                f"{path}.parametrizations.{leaf}.original1",
            ),
        ]
        for length, direction in pairs:
            if name not in self.state and direction in self.state:
                return torch._weight_norm(self.get(direction), self.get(length), 0)
        return self.get(name)


def prefixed(network: nn.Module, prefix: str, under: str = "") -> dict[str, str]:
    """`fill`'s names for a network whose modules below `under` have the same names, after another
    prefix."""
    below = [path for path, _ in network.named_modules() if path.startswith(under)]
    return {path: prefix + path.removeprefix(under) for path in below}


def numbers(names: Iterable[str], pattern: str) -> list[int]:
    """The numbers that the one group of `pattern` has in names that it matches, ascending."""
    found = {int(match[1]) for name in names if (match := re.match(pattern, name))}
    return sorted(found)
