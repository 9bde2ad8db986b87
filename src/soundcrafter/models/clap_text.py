"""CLAP's text tower: embeds a caption in the space shared with audio."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.models.clip_text import ClipText
from soundcrafter.models.layers import checkpoint_calls, evaluating
from soundcrafter.settings import check_at_least
from soundcrafter.text import Tokenizer

_MAX_LOG_SCALE = math.log(100)


@dataclass(frozen=True, kw_only=True)
class ClapTextConfig:
    """The text tower: CLIP's transformer (arXiv 2103.00020) or RoBERTa (arXiv 1907.11692).

    LAION CLAP and AudioLDM use RoBERTa. The ids are those of the model's tokenizer.
    """

    tower: Literal["clip", "roberta"] = "clip"
    embed_dim: int = 512  # of the shared space
    vocab_size: int = 49408  # of the tokenizer
    width: int = 512  # of the transformer
    layers: int = 12  # transformer blocks
    heads: int = 8  # attention heads
    max_length: int = 77  # tokens of a caption, including bos and eos
    pad_id: int = 0  # padding
    bos_id: int = 1  # first token of a caption; RoBERTa pools its state
    eos_id: int = 3  # last token of a caption; CLIP pools its state
    norm_eps: float = 1e-5  # of the layer norms

    def __post_init__(self) -> None:
        check_at_least(self, 1, "embed_dim", "width", "layers", "heads")
        check_at_least(self, 2, "max_length")  # bos and eos
        if self.width % self.heads:
            raise ValueError(f"heads: got {self.heads}; allowed: divisors of width, {self.width}")
        for name in ("pad_id", "bos_id", "eos_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(
                    f"{name}: got {getattr(self, name)}; allowed: 0 to {self.vocab_size - 1}"
                )
        if not self.norm_eps > 0:
            raise ValueError(f"norm_eps: got {self.norm_eps}; allowed: above 0")
        if self.tower == "clip" and self.eos_id == 2:
            # in transformers' CLIP configs, 2 means to pool at the largest id instead
            raise ValueError("eos_id: got 2, which transformers' CLIP reserves; allowed: other ids")


class ClapText(nn.Module):
    """Tokens to a unit vector, and the learned scale (inverse temperature) of the loss.

    `tower` has the weight names of transformers (RoBERTa: it is transformers' own module).
    """

    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        self.config = config
        self.tower: Any = _roberta(config) if config.tower == "roberta" else _clip(config)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def checkpoint_blocks(self) -> None:
        """Enable gradient checkpointing of each block: less memory, more time."""
        encoder = self.tower.text_model.encoder
        checkpoint_calls(encoder.layer if self.config.tower == "roberta" else encoder.layers)

    @property
    def scale(self) -> Tensor:
        """exp(logit_scale), clamped to [1, 100]. Scalar."""
        return self.logit_scale.clamp(0.0, _MAX_LOG_SCALE).exp()

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Call this after each optimizer step: outside the range, `scale` has no gradient."""
        self.logit_scale.clamp_(0.0, _MAX_LOG_SCALE)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens [B, L], mask [B, L] (1: a token) -> [B, E], unit norm, float32.

        Each row has an eos. Raises ValueError if L exceeds `config.max_length`.
        """
        if tokens.shape[1] > self.config.max_length:
            raise ValueError(
                f"tokens: got {tokens.shape[1]}; allowed: up to {self.config.max_length}"
            )
        embeddings = self.tower(tokens, mask)
        if self.config.tower == "roberta":
            embeddings = embeddings.text_embeds
        return F.normalize(embeddings.float(), dim=-1)

    @torch.no_grad()
    def embed(self, captions: Sequence[str], tokenizer: Tokenizer) -> Tensor:
        """For inference, in evaluation mode and on this module's device; see `Clap.embed_text`."""
        if isinstance(captions, str) or not captions:
            raise ValueError(f"captions: got {captions!r}; expected a list of one or more strings")
        tokens, mask = tokenizer.encode(list(captions), self.config.max_length)
        device = self.logit_scale.device
        with evaluating(self):
            return self(
                torch.as_tensor(tokens, device=device), torch.as_tensor(mask, device=device)
            )


def _clip(config: ClapTextConfig) -> ClipText:
    return ClipText(
        vocab_size=config.vocab_size,
        max_length=config.max_length,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        embed_dim=config.embed_dim,
        eos_id=config.eos_id,
        norm_eps=config.norm_eps,
    )


def _roberta(config: ClapTextConfig) -> Any:
    # imported here, because importing transformers takes seconds
    from transformers import ClapTextConfig as RobertaConfig
    from transformers import ClapTextModelWithProjection

    return ClapTextModelWithProjection(
        RobertaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            projection_dim=config.embed_dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            # RoBERTa's positions start after the padding's
            max_position_embeddings=config.max_length + config.pad_id + 1,
            layer_norm_eps=config.norm_eps,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=config.pad_id,
            bos_token_id=config.bos_id,
            eos_token_id=config.eos_id,
        )
    )
