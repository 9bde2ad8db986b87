"""CLAP: embeds audio and text in a shared space; two towers, trained contrastively."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.models.clap_audio import ClapAudio
from soundcrafter.models.clap_text import ClapText
from soundcrafter.text import Tokenizer


class Clap(nn.Module):
    """Both towers and the tokenizer, for inference: `embed_*` compute no gradients.

    The audio tower may be None, as in published generators, which do not need it.
    """

    def __init__(self, audio: ClapAudio | None, text: ClapText, tokenizer: Tokenizer) -> None:
        super().__init__()
        if audio is not None and audio.config.embed_dim != text.config.embed_dim:
            raise ValueError(
                f"embed_dim: got {audio.config.embed_dim} for audio, {text.config.embed_dim} for "
                "text; allowed: equal numbers"
            )
        if tokenizer.vocab_size > text.config.vocab_size:
            raise ValueError(
                f"vocab_size: the tokenizer has {tokenizer.vocab_size} entries, "
                f"the text tower {text.config.vocab_size}"
            )
        if tokenizer.eos_id != text.config.eos_id:
            raise ValueError(
                f"eos_id: the tokenizer has {tokenizer.eos_id}, the text tower {text.config.eos_id}"
            )
        self._audio = audio
        self.text = text
        self.tokenizer = tokenizer

    @property
    def has_audio(self) -> bool:
        """Whether there is an audio tower."""
        return self._audio is not None

    @property
    def audio(self) -> ClapAudio:
        """The audio tower. Raises ValueError if there is none."""
        if self._audio is None:
            raise ValueError(
                "clap_audio: this model has no audio tower; "
                "import its CLAP into its folder to add it"
            )
        return self._audio

    def cut_tokens(self, text: str) -> int:
        """How many tokens at the end of a text are too many for the text tower."""
        return max(0, self.tokenizer.count(text) - self.text.config.max_length)

    def embed_text(self, captions: Sequence[str]) -> Tensor:
        """B captions -> [B, E], unit norm. Raises ValueError for none and a single string."""
        return self.text.embed(captions, self.tokenizer)

    def embed_audio(self, wave: np.ndarray | Tensor, sample_rate: int) -> Tensor:
        """wave [N] or [B, N] at `sample_rate` -> [B, E], unit norm; resampled if necessary.

        Raises ValueError for another shape and for empty or non-finite audio.
        """
        return self.audio.embed(wave, sample_rate)


def symmetric_cross_entropy(
    audio: Tensor, text: Tensor, scale: Tensor | float, same: Tensor | None = None
) -> Tensor:
    """The contrastive loss of CLIP and CLAP: 1/2 [CE(s A T', i) + CE(s T A', i)]. Scalar, float32.

    Radford et al. (arXiv 2103.00020), LAION CLAP eq. 1 (arXiv 2211.06687). audio A and text T
    [B, E] have unit-norm rows, and equal rows match; scale is s. same [B, B] (bool) marks pairs
    with equal captions: they are not negatives of each other and are left out of the softmax.
    """
    # logits of up to 100 are too coarse in half precision
    with torch.autocast(audio.device.type, enabled=False):
        logits = scale * audio.float() @ text.float().T
        if same is not None:
            diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
            logits = logits.masked_fill(same & ~diagonal, -torch.inf)
        pairs = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
