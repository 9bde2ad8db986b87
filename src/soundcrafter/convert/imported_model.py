"""The result of a conversion: the parts of a model, ready to be written as a model folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from soundcrafter.config import PARTS
from soundcrafter.diffusion.config import DiffusionConfig, SamplingConfig
from soundcrafter.models.clap_text import ClapText
from soundcrafter.models.unet import UNet
from soundcrafter.store import fingerprint, save_part
from soundcrafter.text import Tokenizer

# AudioLDM's sampling (DDIM), in 25 instead of 200 steps, which are enough.
SAMPLING = SamplingConfig(
    sampler="ddim", spacing="leading", end="first_step", steps=25, seconds=10.24, window=10.24
)


@dataclass(frozen=True)
class ImportedModel:
    """A published model, converted to our networks."""

    kind: str  # of the published model, in words
    parts: Mapping[str, tuple[nn.Module, Any]]  # name -> network, settings
    tokenizer: Tokenizer
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def save(self, folder: Path) -> None:
        """Write all parts into a new model folder. Raises ValueError if it cannot be written."""
        ids = {name: fingerprint(network.state_dict()) for name, (network, _) in self.parts.items()}
        for name, (network, config) in self.parts.items():
            generator = name == "unet"
            save_part(
                folder,
                name,
                network,
                config,
                trained_against={other: ids.get(other, "") for other in PARTS[name].depends_on},
                training_id=ids[name],
                tokenizer=self.tokenizer if name == "clap_text" else None,
                diffusion=self.diffusion if generator else None,
                sampling=self.sampling if generator else None,
            )


@torch.no_grad()
def set_null_condition(unet: UNet, text: ClapText, tokenizer: Tokenizer) -> None:
    """Set the null condition to AudioLDM's, the embedding of an empty prompt."""
    unet.null_cond.copy_(text.embed([""], tokenizer)[0])
