"""The operations of each part of a model, counted from its settings alone."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from soundcrafter.bench.meters import count_flops
from soundcrafter.config import GENERATOR_PARTS, PARTS, latent_frames

_TOKENS = 16  # of a prompt


@torch.no_grad()
def part_gflop(configs: Mapping[str, Any], seconds: float) -> dict[str, float]:
    """GFLOP of each part for one sound of `seconds`, without weights: by name of the call.

    `configs` are settings by part, `vae` and `unet` among them. The U-Net is called once, without
    guidance. A training step of a network takes about three times as many for each sound. See
    `count_flops`.
    """
    vae, unet, found = configs["vae"], configs["unet"], {}
    frames = latent_frames(vae, unet, seconds)
    modules = {
        name: _without_weights(name, config)
        for name, config in configs.items()
        if name in GENERATOR_PARTS
    }
    with FakeTensorMode(allow_non_fake_inputs=True):
        rows = vae.mel.num_mels // vae.stride[1]
        latent = torch.zeros(1, vae.latent_channels, frames, rows)
        mel = torch.zeros(1, 1, frames * vae.stride[0], vae.mel.num_mels)
        wave = torch.zeros(1, round(seconds * vae.mel.sample_rate))
        step, cond = torch.zeros(1, dtype=torch.long), torch.zeros(1, unet.embed_dim)
        tokens = torch.zeros(1, _TOKENS, dtype=torch.long)
        calls: dict[str, tuple[str, Callable[[Any], object]]] = {
            "clap_text": ("clap_text", lambda tower: tower(tokens, tokens == 0)),
            "clap_audio": ("clap_audio", lambda tower: tower(wave)),
            "vae_encode": ("vae", lambda vae: vae.encode(mel)),
            "vae_decode": ("vae", lambda vae: vae.decode(latent)),
            "unet": ("unet", lambda unet: unet(latent, step, cond)),
            "vocoder": ("vocoder", lambda vocoder: vocoder(mel)),
        }
        for call, (part, work) in calls.items():
            if part in modules:
                found[call] = count_flops(partial(work, modules[part])) / 1e9
    return found


def _without_weights(name: str, config: Any) -> nn.Module:
    """A network whose weights are never written, so that they take no memory."""
    with torch.device("meta"):
        module = PARTS[name].build(config).eval()
    return module.to_empty(device="cpu")
