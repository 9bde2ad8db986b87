"""The VAE and the vocoder of a model, which turn a sound into a latent and back."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from soundcrafter.audio import fit_length
from soundcrafter.cpu.optimize import optimize
from soundcrafter.mel import LogMel
from soundcrafter.models.griffin_lim import griffin_lim
from soundcrafter.models.vae import VAE
from soundcrafter.models.vocoder import Vocoder
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.store import ModelFolder


@dataclass(frozen=True)
class Codec:
    """The two parts, with the same attributes as in a SoundCrafter."""

    vae: VAE
    vocoder: Vocoder
    training_ids: dict[str, str]  # part -> training id
    device: torch.device

    @property
    def sample_rate(self) -> int:
        """Samples per second of the vocoder's output."""
        return self.vocoder.config.mel.sample_rate


def open_codec(folder: ModelFolder, device: str | torch.device = "cpu") -> Codec:
    """Load the VAE and the vocoder of a folder in fp32; its other parts may be missing.

    Raises ValueError if one of the two is missing or damaged.
    """
    folder.require("vae", "vocoder")
    vae, vocoder = (folder.load(name).to(device) for name in ("vae", "vocoder"))
    if torch.device(device).type == "cpu":
        vae, vocoder = optimize(vae), optimize(vocoder)
    return Codec(
        vae=cast(VAE, vae),
        vocoder=cast(Vocoder, vocoder),
        training_ids={name: folder.parts[name].training_id for name in ("vae", "vocoder")},
        device=torch.device(device),
    )


@torch.inference_mode()
def resynthesise(model: SoundCrafter | Codec, wave: np.ndarray) -> dict[str, np.ndarray]:
    """Return the resyntheses [N] of a wave [N] at the model's rate: by vocoder, by Griffin-Lim, and
    by VAE and vocoder."""
    config = model.vae.config
    unit = config.mel.hop * config.stride[0]
    least = max(model.vocoder.config.min_frames, config.stride[0], config.mel.n_fft // unit + 1)
    units = max(-(-len(wave) // unit), least)
    padded = torch.from_numpy(fit_length(wave, units * unit))[None].to(model.device)
    mel = LogMel(config.mel).to(model.device)(padded)
    found = {
        "vocoder": model.vocoder(mel),
        "griffin_lim": griffin_lim(mel, config.mel),
        "vae_vocoder": model.vocoder(model.vae.decode(model.vae.encode(mel))),
    }
    return {link: made[0, : len(wave)].float().cpu().numpy() for link, made in found.items()}
