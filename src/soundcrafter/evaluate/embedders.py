"""The embedders by name: what turns a sound into features and class probabilities."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from soundcrafter.audio import resample
from soundcrafter.evaluate.aisfx import AiSFXEmbedder
from soundcrafter.evaluate.embedding import Embedder, Embedding
from soundcrafter.evaluate.panns import PUBLISHED, Panns
from soundcrafter.evaluate.tagger import Tagger
from soundcrafter.evaluate.vggish import VGGish
from soundcrafter.pipeline import SoundCrafter

EMBEDDERS = ("tagger", "clap", "panns-16k", "panns-32k", "vggish", "aisfx")


class ClapEmbedder:
    """The CLAP of a model: unit-norm audio embeddings [1, E], and text embeddings beside them."""

    def __init__(self, model: SoundCrafter) -> None:
        self.name = "clap"
        self.classes: tuple[str, ...] = ()
        self.sha256 = model.part_sha256["clap_audio"]
        self.sample_rate = model.clap.audio.config.mel.sample_rate
        self._clap = model.clap

    def __call__(self, wave: np.ndarray, sample_rate: int) -> Embedding:
        """wave [N] -> features [1, E]."""
        own = resample(wave, sample_rate, self.sample_rate)
        return Embedding(self._clap.embed_audio(own, self.sample_rate).cpu().numpy(), None)

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> unit-norm embeddings [N, E]."""
        return self._clap.embed_text(list(texts)).cpu().numpy()


def open_embedder(
    name: str,
    *,
    checkpoint: Path | None = None,
    sha256: str | None = None,
    device: str = "cpu",
) -> Embedder:
    """An embedder of EMBEDDERS, its weights bundled (tagger; clap: of the bundled model), given
    (`checkpoint`: a file, for tagger and clap a model folder) or fetched (aisfx must be given).

    Raises ValueError for an unknown name and a checkpoint that is missing or of the wrong layout
    or hash.
    """
    embedder: Embedder
    if name == "tagger":
        embedder = Tagger(checkpoint, device=device) if checkpoint else Tagger.bundled()
    elif name == "clap":
        embedder = ClapEmbedder(SoundCrafter.from_pretrained(checkpoint, device, precision="fp32"))
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
