"""Load aiSFX's weights, as published (PyPI, aisfx 0.1.2, CC BY 4.0) or in our names."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soundcrafter.convert.checkpoints import load_strict, read_state
from soundcrafter.files import one_line
from soundcrafter.models.aisfx import AiSFX

_NETWORK = "embedding_net."  # all other published tensors are classification heads
_BLOCK = _NETWORK + "conv_block"  # counted from 1


def load_aisfx(path: Path | str) -> AiSFX:
    """Load aiSFX from the published checkpoint.pth, or from a .safetensors file in our names.

    Returns the network in float32, on the CPU. No code of the file runs. Raises ValueError for a
    missing file and for another layout.
    """
    path = Path(path)
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
    """The network's tensors, in our names, from the published pair (state dict, data sets)."""
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
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
    except Exception as error:  # a damaged pickle can raise anything
        reason = one_line(error, 120)
        raise ValueError(f"{path}: not a checkpoint of aiSFX, or truncated: {reason}") from None
    if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], dict):
        raise ValueError(
            f"{path}: not aiSFX's layout: expected a pair of a state dict and data sets"
        )
    return {_our_name(name): value for name, value in pair[0].items() if name.startswith(_NETWORK)}


def _our_name(name: str) -> str:
    """Our name for a published one; names outside of blocks are unchanged."""
    number, _, rest = name.removeprefix(_BLOCK).partition(".")
    return f"blocks.{int(number) - 1}.{rest}" if number.isdecimal() else name
