"""The embedders by name."""

from collections.abc import Callable
from pathlib import Path

import torch

from soundcrafter.evaluate.aisfx_embedder import AiSFXEmbedder
from soundcrafter.evaluate.clap_embedder import ClapEmbedder
from soundcrafter.evaluate.embedding import Embedder
from soundcrafter.evaluate.panns import PUBLISHED, Panns
from soundcrafter.evaluate.tagger_embedder import TaggerEmbedder
from soundcrafter.evaluate.vggish import VGGish

EMBEDDERS = ("tagger", "clap", "panns-16k", "panns-32k", "vggish", "aisfx")
OpenEmbedder = Callable[..., Embedder]  # `open_embedder` with all arguments but the device


def open_embedder(
    name: str,
    *,
    checkpoint: Path | None = None,
    sha256: str | None = None,
    device: str | torch.device = "cpu",
) -> Embedder:
    """Load one of EMBEDDERS onto a device.

    Its weights are `checkpoint` (a file; for tagger and clap a model folder), by default the
    bundled ones (tagger, clap) or downloaded (PANNs, VGGish); aisfx needs a checkpoint. `sha256` is
    the required hash of the weights, or its beginning. Raises ValueError for an unknown name, and
    for a checkpoint that is missing or has another layout or hash.
    """
    embedder: Embedder
    if name == "tagger":
        tagger = TaggerEmbedder
        embedder = tagger(checkpoint, device) if checkpoint else tagger.bundled(device)
    elif name == "clap":
        embedder = ClapEmbedder(checkpoint, device)
    elif name in PUBLISHED:
        return Panns(name, checkpoint, sha256, device)
    elif name == "vggish":
        return VGGish(checkpoint, sha256, device)
    elif name == "aisfx":
        embedder = AiSFXEmbedder(checkpoint, device)
    else:
        raise ValueError(f"embedder: got {name!r}; allowed: {', '.join(EMBEDDERS)}")
    if sha256 and not embedder.sha256.startswith(sha256.lower()):
        raise ValueError(f"{name}: its sha256 is {embedder.sha256}, expected {sha256}")
    return embedder
