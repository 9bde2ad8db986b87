"""A model of ours as the subject of a benchmark."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from soundcrafter.bench.workload import GUIDANCE, PROMPT, OnStep, Workload
from soundcrafter.diffusion.sample import sample
from soundcrafter.pipeline import SoundCrafter

ModelName = str | os.PathLike[str] | None  # a folder, a hub name, None for the bundled model


class OwnModel:
    """A model with one candidate, guidance at every step and no reuse between steps."""

    def __init__(self, model: ModelName, workload: Workload) -> None:
        self.crafter = SoundCrafter.from_pretrained(
            model, workload.device, precision=workload.precision
        )
        crafter = self.crafter
        self.defaults = crafter.sampling
        # the same work in every step, whatever the sampling defaults of the model are
        crafter.sampling = replace(
            crafter.sampling_for(fast=False),
            guidance_from=0.0,
            guidance_until=1.0,
            reuse=1,
            negative="",
            candidates=1,
        )
        self.workload, self.device = workload, crafter.device
        self.modules: tuple[nn.Module, ...] = (
            *(crafter.clap, crafter.unet, crafter.vae, crafter.vocoder),
        )

    def make(self, on_step: OnStep, *, seconds: float, steps: int, batch: int = 1) -> object:
        """Generate `batch` sounds; `on_step` is called after each sampling step."""
        return self.crafter.generate(
            [PROMPT] * batch,
            seconds=seconds,
            steps=steps,
            seed=self.workload.seed,
            guidance=GUIDANCE,
            batch_size=batch,
            progress=lambda done, total: on_step(),
        )

    def make_with_defaults(self) -> object:
        """Generate a sound with the model's own steps, guidance and candidates."""
        measured, self.crafter.sampling = self.crafter.sampling, self.defaults
        try:
            return self.crafter.generate(
                PROMPT, seconds=self.workload.seconds, seed=self.workload.seed
            )
        finally:
            self.crafter.sampling = measured

    @torch.inference_mode()
    def parts(self) -> Mapping[str, Callable[[], object]]:
        """Return each part as a call, on tensors of the same sizes as within `make`.

        The step of the U-Net is at most one window long (`sampling.window`).
        """
        crafter, seconds, seed = self.crafter, self.workload.seconds, self.workload.seed
        latent = crafter.noise(seed, seconds).to(self.device)
        window = crafter.noise(seed, min(seconds, crafter.sampling.window)).to(self.device)
        cond = crafter.clap.embed_text([PROMPT])
        one_step = replace(crafter.sampling, steps=1, guidance=GUIDANCE)
        step = partial(sample, crafter.unet, crafter.schedule, one_step, window, cond)
        mel = crafter.decode(latent)
        parts: dict[str, Callable[[], object]] = {
            "text": lambda: crafter.clap.embed_text([PROMPT]),
            "unet_step": lambda: step(uncond=crafter.unet.null_cond, seeds=[seed]),
            "vae_decode": lambda: crafter.decode(latent),
            "vocoder": lambda: crafter.vocode(mel),
        }
        if crafter.clap.has_audio:
            length = round(seconds * crafter.sample_rate)
            samples = crafter.vocode(mel)[0, :length].float().cpu().numpy()
            parts["clap_score"] = lambda: crafter.clap.embed_audio(samples, crafter.sample_rate)
        return parts
