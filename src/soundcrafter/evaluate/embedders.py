"""The embedders by name."""

from dataclasses import dataclass
from pathlib import Path

import torch

from soundcrafter.evaluate.aisfx import AiSFXEmbedder
from soundcrafter.evaluate.clap_embedder import ClapEmbedder
from soundcrafter.evaluate.embedding import Embedder
from soundcrafter.evaluate.panns import PUBLISHED, Panns
from soundcrafter.evaluate.tagger import Tagger
from soundcrafter.evaluate.vggish import VGGish

EMBEDDERS = ("tagger", "clap", "panns-16k", "panns-32k", "vggish", "aisfx")


@dataclass(frozen=True)
class EmbedderChoice:
    """An embedder that was asked for, and its weights."""

    name: str  # one of EMBEDDERS
    checkpoint: Path | None = None  # a file; for tagger and clap a model folder
    sha256: str | None = None  # that the weights must have, or its beginning

    def open(self, device: str | torch.device = "cpu") -> Embedder:
        """Load it onto a device. Raises ValueError as `open_embedder`."""
        return open_embedder(
            self.name, checkpoint=self.checkpoint, sha256=self.sha256, device=device
        )


def open_embedder(
    name: str,
    *,
    checkpoint: Path | None = None,
    sha256: str | None = None,
    device: str | torch.device = "cpu",
) -> Embedder:
    """One of EMBEDDERS. Its weights are `checkpoint` (a file; for tagger and clap a model folder),
    bundled (tagger, clap) or downloaded (PANNs, VGGish); aisfx needs a checkpoint.

    Raises ValueError for an unknown name, and for a checkpoint that is missing or has another
    layout or hash.
    """
    embedder: Embedder
    if name == "tagger":
        embedder = Tagger(checkpoint, device=device) if checkpoint else Tagger.bundled(device)
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
