"""From prompt to sound: runs the parts of a model folder in sequence."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import torch

from soundcrafter.audio import limit_peak, trim_end
from soundcrafter.conditions import Conditions, Event, conditions, embed_prompts
from soundcrafter.config import latent_frames
from soundcrafter.cpu.memory import limit_heap, trim_heap, tune_malloc
from soundcrafter.cpu.optimize import optimize
from soundcrafter.device import choose_device
from soundcrafter.diffusion.sample import MAX_SEED, SECONDS_RANGE, SamplingConfig, sample
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.diffusion.windows import blend_windows
from soundcrafter.hub import find_model
from soundcrafter.models.clap import Clap
from soundcrafter.models.clap_audio import ClapAudio
from soundcrafter.models.clap_text import ClapText
from soundcrafter.models.griffin_lim import PhaseStream
from soundcrafter.models.lora import Adapter
from soundcrafter.models.spectral import SpectralVocoder
from soundcrafter.models.unet import ReusingUNet, UNet
from soundcrafter.models.vae import VAE
from soundcrafter.models.vocoder import Vocoder
from soundcrafter.precision import Precision, cast_weights, choose_precision
from soundcrafter.progress import Progress
from soundcrafter.request import GenerateRequest, Job, Prompts, resolve
from soundcrafter.sound import Sound
from soundcrafter.store import ModelFolder, copy_parts, open_folder, save_part

# Limits that bound memory. Longer sounds go through the VAE and the
# vocoder in pieces; on a CPU the U-Net takes at most this many such sounds of a batch at once.
PIECE_SECONDS = 10.24
PIECES_AT_ONCE = 8


class SoundCrafter:
    """A loaded model: `from_pretrained` loads one, `generate` makes sounds."""

    def __init__(
        self,
        folder: ModelFolder,
        device: str | torch.device = "cpu",
        adapters: Mapping[str, float] | None = None,
        precision: str = "auto",
    ) -> None:
        folder.require("clap_text", "vae", "unet", "vocoder")
        self.folder, self._wanted_precision = folder, precision
        self.device = torch.device(device)
        self.precision: Precision = choose_precision(precision, self.device)
        self.sampling: SamplingConfig = folder.sampling
        self.part_sha256 = {name: entry.sha256 for name, entry in folder.parts.items()}
        self.schedule = Schedule(folder.diffusion)
        tokenizer = folder.load_tokenizer()
        self.clap = Clap(
            cast(ClapAudio, folder.load("clap_audio")) if "clap_audio" in folder.parts else None,
            cast(ClapText, folder.load("clap_text")),
            tokenizer,
        ).to(self.device)
        self.vae = cast(VAE, folder.load("vae").to(self.device))
        self.vocoder = cast(Vocoder, folder.load("vocoder").to(self.device))
        if self.device.type == "cpu":
            tune_malloc()
            _allow_forks()
        for network in (self.vae, self.vocoder):
            self._speed_up(network)
        self.set_adapters(adapters or {})

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | None = None,
        device: str | torch.device = "auto",
        adapters: Mapping[str, float] | None = None,
        precision: str = "auto",
        revision: str | None = None,
    ) -> "SoundCrafter":
        """Load a model.

        Args:
            model: a model folder, a hub name, or None for the bundled model.
            device: "cpu", "cuda", "mps", or "auto" for the GPU if there is one.
            adapters: folders of adapters (LoRA) trained for this model's U-Net, and their weights.
            precision: "fp32", "bf16", "fp16", or "auto" for bf16 if the device supports it.
            revision: branch, tag or commit of a hub model; None for the latest.

        Raises ValueError if the model or an adapter is missing, damaged or incompatible, or the
        device is unavailable.
        """
        folder = open_folder(find_model(model, revision))
        return cls(folder, choose_device(device), adapters, precision)

    def to(self, device: str | torch.device) -> "SoundCrafter":
        """Move this model to a device ("auto": the GPU if there is one), and return it.

        The parts are loaded again, because on a CPU they are rearranged for speed.
        """
        wanted = self._wanted_precision
        moved = type(self)(self.folder, choose_device(device), self.adapters, wanted)
        vars(self).update({**vars(moved), "sampling": self.sampling})
        return self

    def __repr__(self) -> str:
        name, device = self.folder.path.name, self.device
        return f"SoundCrafter({name!r}, device={str(device)!r}, precision={self.precision!r})"

    def set_adapters(self, adapters: Mapping[str, float]) -> None:
        """Use these adapters (LoRA) with the U-Net, in place of those used so far.

        `adapters` maps a folder to a weight; their changes add up, and {} removes all. Raises
        ValueError for one that is missing or made for a different U-Net, and then changes nothing.
        """
        unet = self._merged_unet(adapters).to(self.device)
        self._speed_up(unet)
        self.unet, self.adapters = unet, dict(adapters)
        self.training_ids = {name: part.training_id for name, part in self.folder.parts.items()}
        for path, weight in adapters.items():
            # evaluation identifies sounds by these ids, so an adapted model needs its own
            name = f"adapter {open_folder(path).parts['adapter'].training_id}"
            self.training_ids[name] = str(float(self.training_ids.get(name, 0)) + weight)

    def save_pretrained(self, path: str | os.PathLike[str]) -> Path:
        """Write this model as a model folder, its adapters merged into the U-Net, and return it.

        Raises ValueError if the folder cannot be written or already contains a model.
        """
        path = Path(path)
        if (path / "config.json").exists():
            raise ValueError(f"{path}: already contains a model; choose another folder")
        parts = self.folder.parts
        if not self.adapters:
            copy_parts(self.folder, path, tuple(parts))
            return path
        merged = self._merged_unet(self.adapters)
        # on failure, leave nothing that could be mistaken for the adapted model
        copy_parts(self.folder, path, [name for name in parts if name not in ("unet", "adapter")])
        entry = parts["unet"]
        save_part(path, "unet", merged, entry.config, trained_against=entry.trained_against)
        return path

    def _merged_unet(self, adapters: Mapping[str, float]) -> UNet:
        """Load the U-Net in float32 on the CPU and merge these adapters into its weights."""
        unet, wanted = cast(UNet, self.folder.load("unet")), self.folder.parts["unet"].training_id
        for path, weight in adapters.items():
            folder = open_folder(path)
            folder.require("adapter")
            if not math.isfinite(weight):
                raise ValueError(f"adapter weight: got {weight}; must be finite")
            trained_for = folder.parts["adapter"].trained_against["unet"]
            if trained_for != wanted:
                raise ValueError(
                    f"{path}: this adapter was trained for U-Net {trained_for}, "
                    f"but this model has U-Net {wanted}"
                )
            cast(Adapter, folder.load("adapter")).merge(unet, weight)
        return unet

    def _speed_up(self, network: torch.nn.Module) -> None:
        cast_weights(network, self.precision)
        if self.device.type == "cpu":
            optimize(network)

    @property
    def sample_rate(self) -> int:
        """Samples per second of every sound this model makes."""
        return self.vocoder.config.mel.sample_rate

    def generate(
        self,
        prompts: Prompts,
        *,
        seconds: float | None = None,
        count: int = 1,
        seed: int | Iterable[int] = 0,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str | Iterable[str] | None = None,
        sampler: str | None = None,
        candidates: int | None = None,
        draft_steps: int | None = None,
        masked: bool | None = None,
        reuse: int | None = None,
        batch_size: int | None = None,
        trim: bool | None = None,
        noise: torch.Tensor | None = None,
        progress: Progress | None = None,
    ) -> list[Sound]:
        """Make sounds for one prompt or several, `count` for each, in the order of the prompts.

        Sound k of a prompt uses seed + k. The same call gives the same samples on one machine with
        the same number of threads. A different batch or thread count changes rounding: latents
        agree to 1e-3; with a vocoder that recovers phase iteratively the waveform may differ but
        sounds the same. With batch_size 1 a sound does not depend on the others of the call. None
        falls back to the model's setting (`SamplingConfig`).

        Args:
            prompts: description of the sound, one string or several; or `Timeline`, whose spans
                say when each of its prompts is heard, all in one pass.
            seconds: length of each sound, 0.2 to 600.
            count: sounds per prompt, 1 to 10,000. Default 1.
            seed: of the first sound of each prompt, 0 to 2**64 - count; one for all prompts or one
                per prompt; -1 for a random one, reported in `Sound.seed`. Default 0.
            steps: sampling steps, 1 to the number of training steps; more are slower but sound
                better.
            guidance: strength of the prompt, at least 0; 1 turns guidance off.
            negative: description of sounds to avoid, one string for all prompts or one per prompt;
                "" for none. Requires guidance other than 1.
            sampler: a key of `diffusion.samplers.SAMPLERS`, such as "ddim" or "dpmpp".
            candidates: initial noises drafted for each sound, 1 to 100; CLAP chooses one.
            draft_steps: sampling steps of each draft, at least 1.
            masked: whether the prompts of a `Timeline` are denoised each by itself and blended in
                their spans; by default unless the U-Net was trained on timelines.
            reuse: steps that share the U-Net's inner levels, at least 1: faster and rougher. 1
                turns it off.
            batch_size: sounds made at once, 1 to 1024. Default 4.
            trim: cut the silence after the end of a sound, by default if `seconds` is not given.
            noise: initial noise [sounds, C, T, F] for all sounds, instead of drawing it from the
                seeds; see the method `noise`. Requires candidates=1.
            progress: called with (steps done, all steps) after every sampling step.

        Raises ValueError for a wrong type or a value out of range, before any sound is made.
        """
        sounds = self.stream(
            prompts,
            seconds=seconds,
            count=count,
            seed=seed,
            steps=steps,
            guidance=guidance,
            negative=negative,
            sampler=sampler,
            candidates=candidates,
            draft_steps=draft_steps,
            masked=masked,
            reuse=reuse,
            batch_size=batch_size,
            trim=trim,
            noise=noise,
            progress=progress,
        )
        return list(sounds)

    def stream(
        self,
        prompts: Prompts,
        *,
        seconds: float | None = None,
        count: int = 1,
        seed: int | Iterable[int] = 0,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str | Iterable[str] | None = None,
        sampler: str | None = None,
        candidates: int | None = None,
        draft_steps: int | None = None,
        masked: bool | None = None,
        reuse: int | None = None,
        batch_size: int | None = None,
        trim: bool | None = None,
        noise: torch.Tensor | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Sound]:
        """Yield the sounds of `generate`, whose arguments it takes, as they are made."""
        request = resolve(
            self.sampling,
            prompts,
            seconds=seconds,
            count=count,
            seed=seed,
            steps=steps,
            guidance=guidance,
            negative=negative,
            sampler=sampler,
            candidates=candidates,
            draft_steps=draft_steps,
            masked=masked,
            reuse=reuse,
            batch_size=batch_size,
            trim=seconds is None if trim is None else trim,
        )
        if request.candidates > 1 and not self.clap.has_audio:
            raise ValueError(
                f"candidates: got {request.candidates}; "
                "allowed: 1, since this model has no clap_audio to rank candidates"
            )
        if noise is not None:
            self._check_noise(noise, request)
        return self._sounds(request, noise, progress or (lambda done, total: None))

    def _check_noise(self, noise: torch.Tensor, request: GenerateRequest) -> None:
        wanted = (len(request.jobs()), *self._latent_shape(request.seconds))
        if not (isinstance(noise, torch.Tensor) and noise.is_floating_point()):
            raise ValueError(f"noise: got {type(noise).__name__}; allowed: a tensor of floats")
        if tuple(noise.shape) != wanted:
            raise ValueError(f"noise: got shape {tuple(noise.shape)}; allowed: {wanted}")
        if not noise.isfinite().all():
            raise ValueError("noise: contains NaN or infinity")
        if request.candidates > 1:
            raise ValueError(f"candidates: got {request.candidates} with noise; allowed: 1")

    def _sounds(
        self, request: GenerateRequest, noise: torch.Tensor | None, progress: Progress
    ) -> Iterator[Sound]:
        jobs, at_once = request.jobs(), request.batch_size
        batches = [slice(i, i + at_once) for i in range(0, len(jobs), at_once)]
        each = request.drafted + request.steps
        for index, batch in enumerate(batches):

            def report(done: int, before: int = index * each) -> None:
                progress(before + done, each * len(batches))

            given = None if noise is None else noise[batch]
            yield from self._batch(jobs[batch], request, given, report)

    @torch.inference_mode()
    def _batch(
        self,
        jobs: Sequence[Job],
        request: GenerateRequest,
        noise: torch.Tensor | None,
        report: Callable[[int], None],
    ) -> Iterator[Sound]:
        conds = self._conditions(jobs, request)
        negatives = {text: self._embed_negative(text) for text in {job.negative for job in jobs}}
        uncond = torch.stack([negatives[job.negative] for job in jobs])
        seeds, drafted = [job.seed for job in jobs], request.drafted
        if noise is None:
            noises = [self.noise(seed, request.seconds, request.candidates) for seed in seeds]
            drafts = torch.stack(noises).to(self.device)
            noise = drafts[:, 0]
            if drafted:
                noise = self._choose(drafts, seeds, conds, uncond, request, report)
        latent = self._sample(
            request,
            noise.to(self.device),
            conds,
            uncond,
            seeds,
            lambda done, _: report(drafted + done),
        )
        for i, job in enumerate(jobs):
            # one at a time: the mel at full size takes the most memory
            samples = self._cut(self.vocode(self.decode(latent[i : i + 1])), request.seconds)
            if request.trim:
                samples = trim_end(samples, self.sample_rate)
            score = self._similarity(samples, conds.events[i]) if self.clap.has_audio else None
            found = latent[i].float().cpu().numpy()
            yield Sound(samples, self.sample_rate, job.text, job.seed, score, found)

    def _conditions(self, jobs: Sequence[Job], request: GenerateRequest) -> Conditions:
        """Embed the prompts of a batch."""
        prompts = [job.prompt for job in jobs]
        rows = embed_prompts(prompts, lambda text: self.clap.embed_text([text])[0], request.seconds)
        if all(isinstance(prompt, str) for prompt in prompts):
            return Conditions(rows, torch.stack([event.cond for (event,) in rows]))
        frames, mel = self._latent_frames(request.seconds), self.vae.config.mel
        return conditions(
            rows,
            self.unet.config,
            frames=frames,
            seconds=frames * self.vae.config.stride[0] * mel.hop / mel.sample_rate,
            masked=request.masked,
        )

    def _embed_negative(self, text: str) -> torch.Tensor:
        """Embed a negative prompt, [E]; an empty one becomes the null condition."""
        return self.clap.embed_text([text])[0] if text else self.unet.null_cond

    @torch.inference_mode()
    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """latent [B, C, T, F] -> log-mel [B, 1, T', F'], float32."""
        window, frames = self._latent_frames(PIECE_SECONDS), latent.shape[2]
        with self._keeping_little(self.vae):
            if frames <= window:
                return self.vae.decode(latent)
            # the decoder's group norms and attention depend on the whole window; without overlap
            # there would be seams
            return blend_windows(
                lambda span: self.vae.decode(latent[:, :, span]),
                frames,
                window,
                window // 4,
                self.vae.config.stride[0],
            )

    @torch.inference_mode()
    def vocode(self, mel: torch.Tensor) -> torch.Tensor:
        """log-mel [B, 1, T, F] -> wave [B, N], float32."""
        config = self.vocoder.config.mel
        # convolutional vocoders redo filter setup per piece, so use fewer, longer pieces
        pieces = 2 if isinstance(self.vocoder, SpectralVocoder) else 1
        frames = round(PIECE_SECONDS / pieces * config.sample_rate / config.hop)
        with self._keeping_little(self.vocoder):
            return vocode_in_pieces(self.vocoder, mel, frames)

    def _keeping_little(self, network: torch.nn.Module) -> AbstractContextManager[None]:
        return limit_heap(network) if self.device.type == "cpu" else nullcontext()

    def _sample(
        self,
        settings: SamplingConfig,
        noise: torch.Tensor,
        conds: Conditions,
        uncond: torch.Tensor,
        seeds: Sequence[int],
        callback: Progress,
    ) -> torch.Tensor:
        """Noise [B, C, T, F], conditions of B sounds, uncond [B, E] -> latent [B, C, T, F]."""
        window, batch_limit = self._latent_frames(settings.window), None
        if self.device.type == "cpu":
            piece = self._latent_frames(PIECE_SECONDS)
            batch_limit = max(1, PIECES_AT_ONCE * piece // min(noise.shape[2], window))
        return sample(
            self.unet if settings.reuse == 1 else ReusingUNet(self.unet, settings.reuse),
            self.schedule,
            settings,
            noise,
            conds.cond,
            uncond=uncond,
            levels=conds.levels,
            seeds=seeds,
            window=window,
            batch_limit=batch_limit,
            callback=callback,
        )

    def _choose(
        self,
        drafts: torch.Tensor,
        seeds: Sequence[int],
        conds: Conditions,
        uncond: torch.Tensor,
        request: GenerateRequest,
        report: Callable[[int], None],
    ) -> torch.Tensor:
        """Noises [J, K, C, T, F], conditions of J sounds, uncond [J, E] -> the best of each K,
        [J, C, T, F]: the noise whose sound, drafted in a few steps, is nearest to its prompt.

        A draft is a rough copy of what the noise becomes in many steps (less so with a sampler
        that adds noise).
        """
        count = drafts.shape[1]
        each, away = conds.repeat(count), uncond.repeat_interleave(count, 0)
        latent = self._sample(
            replace(request, steps=request.draft_steps),
            drafts.flatten(0, 1),
            each,
            away,
            [seed for seed in seeds for _ in range(count)],
            lambda done, _: report(done),
        )
        scores = [
            self._score(self.decode(latent[i : i + 1]), each.events[i], request.seconds)
            for i in range(len(latent))
        ]
        best = torch.tensor(scores).view(-1, count).argmax(1)
        return drafts[torch.arange(len(drafts)), best]

    def _cut(self, wave: torch.Tensor, seconds: float) -> np.ndarray:
        """The vocoder's wave [1, N'] -> samples [N], limited to full scale."""
        return limit_peak(wave[0, : round(seconds * self.sample_rate)].float().cpu().numpy())

    def _score(self, mel: torch.Tensor, events: Sequence[Event], seconds: float) -> float:
        """Similarity of a mel [1, 1, T, F] to the event that it resembles least."""
        audio, config = self.clap.audio, self.vae.config.mel
        if audio.config.tower == "conv" and audio.config.mel == config:
            # the tower reads what the VAE makes, so no wave is needed
            frames = config.num_frames(round(seconds * self.sample_rate))
            rate = frames / seconds
            return min(
                float(audio.embed_long_mel(mel[:, :, e.within(rate, frames)])[0] @ e.cond)
                for e in events
            )
        return self._similarity(self._cut(self.vocode(mel), seconds), events)

    def _similarity(self, samples: np.ndarray, events: Sequence[Event]) -> float:
        """Cosine of the CLAP embeddings of an event and of samples [N] in its span; the lowest."""
        if self.device.type == "cpu":
            trim_heap()  # free the vocoder's activations; the encoder cannot reuse them
        rate, embed = self.sample_rate, self.clap.embed_audio
        return min(
            float(embed(samples[e.within(rate, len(samples))], rate)[0] @ e.cond) for e in events
        )

    @torch.inference_mode()
    def score(self, wave: np.ndarray, prompt: str) -> float | None:
        """Return the cosine similarity of the CLAP embeddings of wave [N] and a prompt.

        Returns None if the model has no audio tower.
        """
        if not self.clap.has_audio:
            return None
        event = Event(self.clap.embed_text([prompt])[0], 0.0, len(wave) / self.sample_rate)
        return self._similarity(wave, [event])

    def noise(self, seed: int, seconds: float, count: int = 1) -> torch.Tensor:
        """Return the initial noises [count, C, T/d, F/d] of a seed.

        They are the same on every device, in any batch, and for any larger count.
        """
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed: got {seed}; allowed: 0 to {MAX_SEED}")
        low, high = SECONDS_RANGE
        if not low <= seconds <= high:
            raise ValueError(f"seconds: got {seconds}; allowed: {low:g} to {high:g}")
        seed, shape = int(seed), self._latent_shape(seconds)
        generator = torch.Generator().manual_seed(seed)
        return torch.stack([torch.randn(shape, generator=generator) for _ in range(count)])

    def _latent_shape(self, seconds: float) -> tuple[int, int, int]:
        """[C, T, F] of a sound's latent."""
        config = self.vae.config
        bands = config.mel.num_mels // config.stride[1]
        return config.latent_channels, self._latent_frames(seconds), bands

    def _latent_frames(self, seconds: float) -> int:
        return latent_frames(self.vae.config, self.unet.config, seconds)


@cache
def _allow_forks() -> None:
    """Let forked processes use the models of this one, with one thread each.

    OpenMP's threads do not survive fork(), so a child that waits for them would hang.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def vocode_in_pieces(vocoder: Vocoder, mel: torch.Tensor, frames: int) -> torch.Tensor:
    """log-mel [B, 1, T, F] -> wave [B, T * hop], in pieces of about `frames`.

    Each piece is padded by the receptive field (`config.context`), so the result equals that of
    the whole mel, except for rounding.
    """
    count, config = mel.shape[2], vocoder.config
    context, hop = config.context, config.mel.hop
    frames = max(frames, 6 * context)  # or too much of a piece would be computed twice
    if count <= frames + context:
        return vocoder(mel)
    phases = PhaseStream(config.mel) if isinstance(vocoder, SpectralVocoder) else None
    out = torch.empty(len(mel), count * hop, device=mel.device)
    end = 0
    while end < count:
        start, low = end, max(end - context, 0)
        end = min(low + frames, count)
        high = min(end + context, count)
        extra = () if phases is None else (phases.between(low, high + 2),)
        wave = vocoder(mel[:, :, low:high], *extra)
        out[:, start * hop : end * hop] = wave[:, (start - low) * hop : (end - low) * hop]
        trim_heap()  # freed here, or memory fragments
    return out
