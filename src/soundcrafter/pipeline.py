"""From prompt to sound: one straight line over the parts of a model folder."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Unpack, cast

import numpy as np
import torch

from soundcrafter import chunks
from soundcrafter.audio import limit_peak
from soundcrafter.config import SamplingConfig
from soundcrafter.cpu.memory import limit_heap, trim_heap, tune_malloc
from soundcrafter.cpu.optimize import optimize
from soundcrafter.device import choose_device
from soundcrafter.diffusion.guidance import (
    Model,
    guided,
    in_parts,
    prediction_to_denoiser,
    windowed,
)
from soundcrafter.diffusion.noise import step_noise
from soundcrafter.diffusion.samplers import SAMPLERS, STOCHASTIC
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.hub import find_model
from soundcrafter.models.clap import Clap
from soundcrafter.models.clap_audio import ClapAudio
from soundcrafter.models.clap_text import ClapText
from soundcrafter.models.lora import Adapter
from soundcrafter.models.spectral import SpectralVocoder
from soundcrafter.models.unet import ReusingUNet, UNet
from soundcrafter.models.vae import VAE
from soundcrafter.models.vocoder import Vocoder
from soundcrafter.options import Options, Progress, ResolvedOptions, resolve
from soundcrafter.precision import Precision, cast_weights, choose_precision
from soundcrafter.sound import Sound
from soundcrafter.store import ModelFolder, open_folder

# What is computed at once, so that memory stays flat. Longer sounds go through VAE and vocoder in
# pieces; on a CPU the U-Net takes no more of a batch at once than this many such sounds.
PIECE_SECONDS = 10.24
PIECES_AT_ONCE = 8


class SoundCrafter:
    """A loaded model. `from_pretrained` makes one; `generate` is what it is for."""

    def __init__(
        self,
        folder: ModelFolder,
        device: str | torch.device = "cpu",
        precision: str = "auto",
        adapters: Mapping[str, float] | None = None,
    ) -> None:
        folder.require("clap_text", "vae", "unet", "vocoder")
        self.device = torch.device(device)
        self.precision: Precision = choose_precision(precision, self.device)
        self.sampling: SamplingConfig = folder.sampling
        self.part_sha256 = {name: entry.sha256 for name, entry in folder.parts.items()}
        self.training_ids = {name: entry.training_id for name, entry in folder.parts.items()}
        self.schedule = Schedule(folder.diffusion)
        tokenizer = folder.load_tokenizer()
        self.clap = Clap(
            cast(ClapAudio, folder.load("clap_audio")) if "clap_audio" in folder.parts else None,
            cast(ClapText, folder.load("clap_text")),
            tokenizer,
        ).to(self.device)
        self.vae = cast(VAE, folder.load("vae").to(self.device))
        self.unet = cast(UNet, folder.load("unet").to(self.device))
        self.vocoder = cast(Vocoder, folder.load("vocoder").to(self.device))
        for path, weight in (adapters or {}).items():
            self.add_adapter(open_folder(path), weight)
        for network in (self.vae, self.unet, self.vocoder):
            cast_weights(network, self.precision)
        if self.device.type == "cpu":
            tune_malloc()
            for network in (self.vae, self.unet, self.vocoder):
                optimize(network)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | None = None,
        device: str | torch.device = "auto",
        adapters: Mapping[str, float] | None = None,
        precision: str = "auto",
    ) -> "SoundCrafter":
        """Load a model onto `device` ("auto": the GPU where there is one).

        `model` is a model folder, a hub name, or None for the bundled one. `adapters`: folders of
        adapters (LoRA) that were trained beside its U-Net, and the weight of each. `precision`:
        fp32, bf16, fp16 or "auto", see `choose_precision`. Raises ValueError where the model, an
        adapter or the device is not there, not whole, or does not fit.
        """
        return cls(open_folder(find_model(model)), choose_device(device), precision, adapters)

    def add_adapter(self, folder: ModelFolder, weight: float = 1.0) -> None:
        """Change the U-Net by an adapter; several add up. ValueError for one of another U-Net."""
        folder.require("adapter")
        if not math.isfinite(weight):
            raise ValueError(f"adapter: got the weight {weight}; a finite number")
        wanted = folder.parts["adapter"].trained_against["unet"]
        if wanted != self.training_ids["unet"]:
            raise ValueError(
                f"{folder.path}: this adapter is for the unet {wanted}, "
                f"but this model's is {self.training_ids['unet']}"
            )
        cast(Adapter, folder.load("adapter").to(self.device)).merge(self.unet, weight)
        # what is kept by these ids (evaluation's sounds) must not pass for the model's own
        name = f"adapter {folder.parts['adapter'].training_id}"
        self.training_ids[name] = str(float(self.training_ids.get(name, 0)) + weight)

    @property
    def sample_rate(self) -> int:
        """Samples a second of everything this model makes."""
        return self.vocoder.config.mel.sample_rate

    def generate(self, prompts: str | Sequence[str], **options: Unpack[Options]) -> list[Sound]:
        """Sounds for one prompt or several: all that `stream` gives, once all are made."""
        return list(self.stream(prompts, **options))

    def stream(self, prompts: str | Sequence[str], **options: Unpack[Options]) -> Iterator[Sound]:
        """Sounds for one prompt or several, as they are made: `count` of each, prompt by prompt.

        See Options. Sound k of a prompt uses seed + k; the noises that it can start from depend on
        that seed alone. Raises ValueError at once for values out of range.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        resolved = resolve(prompts, options, self.sampling)
        if resolved.candidates > 1 and not self.clap.has_audio:
            raise ValueError(
                f"candidates: got {resolved.candidates}; "
                "allowed: 1, for without clap_audio none can choose"
            )
        jobs = [(prompt, resolved.seed + k) for prompt in prompts for k in range(resolved.count)]
        at_once = resolved.batch_size
        batches = [jobs[i : i + at_once] for i in range(0, len(jobs), at_once)]
        progress = options.get("progress")

        def sounds() -> Iterator[Sound]:
            each = resolved.steps + resolved.draft_steps
            for index, batch in enumerate(batches):

                def report(done: int, before: int = index * each) -> None:
                    if progress is not None:
                        progress(before + done, each * len(batches))

                yield from self._generate(batch, resolved, report)

        return sounds()

    @torch.inference_mode()
    def _generate(
        self,
        jobs: Sequence[tuple[str, int]],
        options: ResolvedOptions,
        report: Callable[[int], None],
    ) -> Iterator[Sound]:
        cond = self.clap.embed_text([prompt for prompt, _ in jobs])
        drafts = torch.stack(
            [self.noise(seed, options.seconds, options.candidates) for _, seed in jobs]
        ).to(self.device)
        drafted = options.draft_steps
        noise = self._choose(drafts, jobs, cond, options, report) if drafted else drafts[:, 0]
        seeds = [seed for _, seed in jobs]
        latent = self._sample(
            noise, seeds, cond, options, options.steps, lambda n, _: report(drafted + n)
        )
        for i, (prompt, seed) in enumerate(jobs):
            # one at a time, for the mel's full size is what costs
            samples = self._cut(self.vocode(self.decode(latent[i : i + 1])), options.seconds)
            score = self._similarity(samples, cond[i]) if self.clap.has_audio else None
            yield Sound(samples, self.sample_rate, prompt, seed, score)

    @torch.inference_mode()
    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """latent [B, C, T, F] -> log-mel [B, 1, T', F'], float32."""
        with self._keeping_little(self.vae):
            return chunks.decode(self.vae, latent, self._latent_frames(PIECE_SECONDS))

    @torch.inference_mode()
    def vocode(self, mel: torch.Tensor) -> torch.Tensor:
        """log-mel [B, 1, T, F] -> wave [B, N], float32."""
        config = self.vocoder.config.mel
        # a vocoder of convolutions transforms its filters for each piece; a spectral one has none
        pieces = 2 if isinstance(self.vocoder, SpectralVocoder) else 1
        frames = round(PIECE_SECONDS / pieces * config.sample_rate / config.hop)
        with self._keeping_little(self.vocoder):
            return chunks.vocode(self.vocoder, mel, frames)

    def _keeping_little(self, network: torch.nn.Module) -> AbstractContextManager[None]:
        return limit_heap(network) if self.device.type == "cpu" else nullcontext()

    def _sample(
        self,
        noise: torch.Tensor,
        seeds: Sequence[int],
        cond: torch.Tensor,
        options: ResolvedOptions,
        steps: int,
        callback: Progress,
    ) -> torch.Tensor:
        """Noise [B, C, T, F], the seed of each, and cond [B, E] -> latent [B, C, T, F], by `steps`
        guided steps."""
        avoid = options.negative
        uncond = self.clap.embed_text([avoid])[0] if avoid else self.unet.null_cond
        extra: dict[str, Any] = {}
        if options.sampler in STOCHASTIC:
            extra["noise"] = step_noise(seeds, noise)
        elif self.sampling.end == "first_step" and options.sampler == "ddim":
            extra["final_alpha_bar"] = float(self.schedule.alpha_bar[0])
        low, high = self.sampling.guidance_from, self.sampling.guidance_until
        last = self.schedule.config.steps
        interval = None if (low, high) == (0.0, 1.0) else (low * last, high * last)
        model = self._model(noise.shape[2], options.reuse)
        predict = guided(model, cond, uncond, options.guidance, interval)
        return SAMPLERS[options.sampler](
            prediction_to_denoiser(predict, self.schedule),
            noise,
            self.schedule.sampling_times(steps, self.sampling.spacing),
            self.schedule,
            callback=callback,
            **extra,
        )

    def _model(self, frames: int, reuse: int) -> Model:
        """The U-Net for one sampling of latents of so many frames."""
        model: Model = self.unet if reuse == 1 else ReusingUNet(self.unet, reuse)
        window = self._latent_frames(self.sampling.window)
        if self.device.type == "cpu":
            piece = self._latent_frames(PIECE_SECONDS)
            rows = PIECES_AT_ONCE * piece // min(frames, window)
            model = in_parts(model, max(1, rows))
        return windowed(model, window, overlap=window // 4)

    def _choose(
        self,
        drafts: torch.Tensor,
        jobs: Sequence[tuple[str, int]],
        cond: torch.Tensor,
        options: ResolvedOptions,
        report: Callable[[int], None],
    ) -> torch.Tensor:
        """Noises [J, K, C, T, F] and cond [J, E] -> of each K the one whose sound, made in few
        steps, is nearest to cond, [J, C, T, F].

        What a noise becomes in a few steps is a rough copy of what it becomes in many (less so
        with a sampler that adds noise).
        """
        count = drafts.shape[1]
        each = cond.repeat_interleave(count, 0)
        seeds = [seed for _, seed in jobs for _ in range(count)]
        latent = self._sample(
            drafts.flatten(0, 1), seeds, each, options, options.draft_steps, lambda n, _: report(n)
        )
        scores = [
            self._score(self.decode(latent[i : i + 1]), each[i], options.seconds)
            for i in range(len(latent))
        ]
        best = torch.tensor(scores).view(-1, count).argmax(1)
        return drafts[torch.arange(len(drafts)), best]

    def _cut(self, wave: torch.Tensor, seconds: float) -> np.ndarray:
        """What the vocoder made, [1, N'] -> samples [N], limited to full scale."""
        return limit_peak(wave[0, : round(seconds * self.sample_rate)].float().cpu().numpy())

    def _score(self, mel: torch.Tensor, cond: torch.Tensor, seconds: float) -> float:
        """Cosine of cond [E] and the CLAP embedding of a mel [1, 1, T, F]."""
        audio, config = self.clap.audio, self.vae.config.mel
        if audio.config.tower == "conv" and audio.config.mel == config:
            # what it reads is what the VAE makes: no need of a wave
            frames = config.num_frames(round(seconds * self.sample_rate))
            most = config.num_frames(audio.config.max_samples)
            starts = [min(start, max(frames - most, 0)) for start in range(0, frames, most)]
            pieces = [mel[:, :, start : min(start + most, frames)] for start in starts]
            embedding = torch.stack([audio.embed_mel(piece)[0] for piece in pieces]).mean(0)
            return float(torch.nn.functional.normalize(embedding, dim=0) @ cond)
        return self._similarity(self._cut(self.vocode(mel), seconds), cond)

    def _similarity(self, samples: np.ndarray, cond: torch.Tensor) -> float:
        """Cosine of cond [E] and the CLAP embedding of samples [N]."""
        if self.device.type == "cpu":
            trim_heap()  # the vocoder's maps: the audio encoder's have other sizes
        return float(self.clap.embed_audio(samples, self.sample_rate)[0] @ cond)

    def noise(self, seed: int, seconds: float, count: int = 1) -> torch.Tensor:
        """The initial noises [count, C, T/d, F/d] of a seed, the same on every device, in any
        batch, and for any larger count."""
        frames, bands = self._latent_frames(seconds), self._latent_bands
        shape = (self.vae.config.latent_channels, frames, bands)
        generator = torch.Generator().manual_seed(seed)
        return torch.stack([torch.randn(shape, generator=generator) for _ in range(count)])

    @property
    def _latent_bands(self) -> int:
        return self.vae.config.mel.num_mels // self.vae.config.stride[1]

    def _latent_frames(self, seconds: float) -> int:
        """Latent frames that hold `seconds`, a multiple of the U-Net's stride."""
        mel, stride = self.vae.config.mel, self.unet.config.stride[0]
        frames = mel.num_frames(round(seconds * mel.sample_rate)) / self.vae.config.stride[0]
        return math.ceil(frames / stride) * stride
