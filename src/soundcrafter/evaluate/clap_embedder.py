"""The CLAP of a model as an embedder of sounds and texts; no other part is loaded."""

import os
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch

from soundcrafter.audio import resample
from soundcrafter.evaluate.embedding import Embedding
from soundcrafter.hub import find_model
from soundcrafter.models.clap import Clap
from soundcrafter.models.clap_audio import ClapAudio
from soundcrafter.models.clap_text import ClapText
from soundcrafter.store import ModelFolder, open_folder


def load_clap(folder: ModelFolder, device: str | torch.device = "cpu") -> Clap:
    """Load both CLAP towers in fp32. Raises ValueError if one of them is missing or damaged."""
    folder.require("clap_audio", "clap_text")
    return Clap(
        cast(ClapAudio, folder.load("clap_audio")),
        cast(ClapText, folder.load("clap_text")),
        folder.load_tokenizer(),
    ).to(device)


class ClapEmbedder:
    """Unit-norm audio embeddings [1, E], and text embeddings in the same space; no classes."""

    def __init__(
        self, model: str | os.PathLike[str] | None = None, device: str | torch.device = "cpu"
    ) -> None:
        """`model`: a model folder, a hub name, or None for the bundled model."""
        folder = open_folder(find_model(model))
        self._clap = load_clap(folder, device)
        self.name = "clap"
        self.classes: tuple[str, ...] = ()
        self.sha256 = folder.parts["clap_audio"].sha256
        self.sample_rate = self._clap.audio.config.mel.sample_rate

    def __call__(self, wave: np.ndarray, sample_rate: int) -> Embedding:
        """wave [N] at `sample_rate` Hz -> features [1, E]."""
        own = resample(wave, sample_rate, self.sample_rate)
        return Embedding(self._clap.embed_audio(own, self.sample_rate).cpu().numpy(), None)

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> unit-norm embeddings [N, E]."""
        return self._clap.embed_text(list(texts)).cpu().numpy()
