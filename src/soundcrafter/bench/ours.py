"""Our side of a benchmark."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from soundcrafter.bench.meter import GUIDANCE, PROMPT, OnStep, Request
from soundcrafter.diffusion.sample import sample
from soundcrafter.pipeline import SoundCrafter

Model = str | os.PathLike[str] | None


class Ours:
    """Our model as a subject: one candidate, guided at every step, nothing reused."""

    def __init__(self, model: Model, request: Request) -> None:
        self.crafter = SoundCrafter.from_pretrained(
            model, request.device, precision=request.precision
        )
        crafter = self.crafter
        self.shipped = crafter.sampling
        # every step the same work, whatever the model would choose
        crafter.sampling = replace(
            crafter.sampling,
            guidance_from=0.0,
            guidance_until=1.0,
            reuse=1,
            negative="",
            candidates=1,
        )
        self.request, self.device = request, crafter.device
        self.modules: tuple[nn.Module, ...] = (
            *(crafter.clap, crafter.unet, crafter.vae, crafter.vocoder),
        )

    def make(self, on_step: OnStep, *, seconds: float, steps: int, batch: int = 1) -> object:
        """`batch` sounds by `generate`; `on_step` is called after each sampling step."""
        return self.crafter.generate(
            [PROMPT] * batch,
            seconds=seconds,
            steps=steps,
            seed=self.request.seed,
            guidance=GUIDANCE,
            batch_size=batch,
            progress=lambda done, total: on_step(),
        )

    def make_as_shipped(self) -> object:
        """A sound by the model's own steps, guidance and candidates."""
        measured, self.crafter.sampling = self.crafter.sampling, self.shipped
        try:
            return self.crafter.generate(
                PROMPT, seconds=self.request.seconds, seed=self.request.seed
            )
        finally:
            self.crafter.sampling = measured

    @torch.inference_mode()
    def parts(self) -> Mapping[str, Callable[[], object]]:
        """Each part as a call, on tensors of the sizes that it gets within `make`.

        The U-Net's step is one of at most a window's length (`sampling.window`).
        """
        crafter, seconds, seed = self.crafter, self.request.seconds, self.request.seed
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
