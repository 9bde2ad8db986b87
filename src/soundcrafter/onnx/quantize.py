"""The U-Net's convolutions in int8, for the CPU, and how far that moves its sounds."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import Tensor

from soundcrafter.config import latent_frames
from soundcrafter.diffusion.config import SamplingConfig, fast_sampling
from soundcrafter.diffusion.sample import sample
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.models.clap_text import ClapText
from soundcrafter.models.unet import FastUNetConfig, UNet
from soundcrafter.models.vae import VAEConfig
from soundcrafter.onnx.convert import quiet
from soundcrafter.store import ModelFolder

# Latents of a quantised U-Net stay nearer to the exact ones than this share of the distance to
# those of another seed. The bundled model's are at .41.
LIMIT = 0.5
PROMPTS = (
    "rain on a tin roof",
    "a dog barks",
    "a wooden door slams shut",
    "glass breaking",
    "a laser gun fires",
    "birds singing in a forest",
    "footsteps on gravel",
    "an old car engine starts",
)
_BATCHES = 8  # that the ranges of activations are measured on
_SECONDS = 5.0

Inputs = tuple[Tensor, Tensor, Tensor]  # latent, t, cond


@dataclass(frozen=True, eq=False)
class Trajectories:
    """A U-Net's way from noise to the latents of some prompts."""

    inputs: Sequence[Inputs]  # of all its calls
    run: Callable[[Any], Tensor]  # a model -> latents of the same prompts and noise
    latents: Tensor  # that the U-Net itself made
    others: Tensor  # of another seed

    def moved_by(self, model: Any) -> float:
        """How far another model moves the latents, relative to the distance of another seed."""
        found = self.run(model) - self.latents
        return float(found.norm() / (self.others - self.latents).norm())


@torch.no_grad()
def trajectories(folder: ModelFolder, part: str, unet: UNet) -> Trajectories:
    """Sample with `part` of a model, "unet" or "unet_fast", at its default settings."""
    sampling: SamplingConfig = folder.sampling
    if part == "unet_fast":
        steps = cast(FastUNetConfig, folder.parts[part].config).steps
        sampling = fast_sampling(sampling, steps)
    vae = cast(VAEConfig, folder.parts["vae"].config)
    rows = vae.mel.num_mels // vae.stride[1]
    shape = (vae.latent_channels, latent_frames(vae, unet.config, _SECONDS), rows)
    text = cast(ClapText, folder.load("clap_text"))
    cond = text.embed(list(PROMPTS), folder.load_tokenizer())

    def run(model: Any, seed: int = 0) -> Tensor:
        noise = torch.randn(len(cond), *shape, generator=torch.Generator().manual_seed(seed))
        schedule, settings = Schedule(folder.diffusion), replace(sampling, reuse=1)
        seeds = range(len(cond))
        return sample(model, schedule, settings, noise, cond, uncond=unet.null_cond, seeds=seeds)

    seen: list[Inputs] = []

    def watched(latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        seen.append((latent.clone(), t.float(), cond))
        found: Tensor = unet(latent, t, cond)
        return found

    return Trajectories(seen, run, latents=run(watched), others=run(unet, seed=1))


def quantize(proto: onnx.ModelProto, calls: Sequence[Inputs]) -> onnx.ModelProto:
    """Store and compute the convolutions in int8, but for the first and the last one.

    The ranges of their inputs are measured on some of the `calls` of the U-Net.
    """
    convolutions = [node.name for node in proto.graph.node if node.op_type == "Conv"]
    names = [each.name for each in proto.graph.input]
    step = max(1, len(calls) // _BATCHES)
    feeds = [
        {name: x.numpy() for name, x in zip(names, call, strict=True)} for call in calls[::step]
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        with quiet("root"):  # it recommends what it does not need here
            quantize_static(
                proto,
                file,
                _Reader(feeds),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[convolutions[0], convolutions[-1]],
            )
        return onnx.load(file)


def runner(file: Path) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A U-Net's graph as a function of tensors."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        arrays = (latent.numpy(), t.float().numpy(), cond.numpy())
        (found,) = session.run(None, dict(zip(names, arrays, strict=True)))
        return torch.from_numpy(np.asarray(found))

    return run


class _Reader(CalibrationDataReader):
    """What onnxruntime asks its calibration data of."""

    def __init__(self, feeds: Sequence[dict[str, Any]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)
