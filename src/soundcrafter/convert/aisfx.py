"""The weights of aiSFX: as its package publishes them (PyPI, aisfx 0.1.2, CC BY 4.0), or ours."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soundcrafter.convert.checkpoints import load_strict, read_state
from soundcrafter.models.aisfx import AiSFX

_NETWORK = "embedding_net."  # the rest of the published names are heads without class names
_BLOCK = _NETWORK + "conv_block"  # counted from 1


def load_aisfx(path: Path | str) -> AiSFX:
    """Read aiSFX from the published checkpoint.pth, or from a .safetensors file in our names of
    any precision -> the network in float32, on the CPU.

    No code of the file runs. Raises ValueError for a missing file and for another layout.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    state = read_state(path) if path.suffix == ".safetensors" else _published_state(path)
    widths: list[int] = []
    while (key := f"blocks.{len(widths)}.conv2.weight") in state:
        widths.append(len(state[key]))
    if not widths:
        raise ValueError(f"{path}: not aiSFX's layout: it has no {key}")
    network = AiSFX(tuple(widths))
    load_strict(network, state, path)
    return network


def _published_state(path: Path) -> dict[str, Tensor]:
    """The network's tensors, in our names, of the published pair (state dict, data sets)."""
    scalar = np.float64().__reduce__()[0]
    allowed: list[Any] = [
        scalar,
        (scalar, "numpy.core.multiarray.scalar"),  # its name before numpy 2
        np.dtype,
        type(np.dtype(np.float64)),
        type(np.dtype(np.int64)),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            pair = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle trips torch up in any way
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path}: not a checkpoint of aiSFX, or cut short: {reason}") from None
    if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], dict):
        raise ValueError(f"{path}: not aiSFX's layout: no pair of a state dict and data sets")
    return {_our_name(name): value for name, value in pair[0].items() if name.startswith(_NETWORK)}


def _our_name(name: str) -> str:
    """Ours for a published name, which stays as it is where it is none of a block."""
    number, _, rest = name.removeprefix(_BLOCK).partition(".")
    return f"blocks.{int(number) - 1}.{rest}" if number.isdecimal() else name
