"""From prompt to sound: runs the parts of a model folder in sequence."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F

from soundcrafter.arguments import (
    plain_array,
    plain_audio,
    plain_regions,
    plain_request,
    plain_sampling,
    portable_name,
)
from soundcrafter.audio import fit_length, limit_peak, normalize_peak, trim_end
from soundcrafter.blend import Blend
from soundcrafter.codec import PIECE_SECONDS, Codec
from soundcrafter.conditions import Conditions, EmbeddedSpan, conditions, embed_prompts
from soundcrafter.config import latent_frames
from soundcrafter.cpu.memory import trim_heap, tune_malloc
from soundcrafter.cpu.optimize import optimize
from soundcrafter.device import choose_device
from soundcrafter.diffusion.sample import MAX_SEED, SECONDS_RANGE, SamplingConfig, sample
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.editing import VARY, Audio, Canvas, Region, load_wave
from soundcrafter.hub import BUNDLED, find_model
from soundcrafter.models.clap import Clap
from soundcrafter.models.clap_audio import ClapAudio
from soundcrafter.models.clap_text import ClapText
from soundcrafter.models.lora import Adapter
from soundcrafter.models.unet import ReusingUNet, UNet
from soundcrafter.models.vae import VAE
from soundcrafter.models.vocoder import Vocoder
from soundcrafter.precision import Precision, cast_weights, choose_precision
from soundcrafter.progress import Progress
from soundcrafter.provenance import Provenance
from soundcrafter.request import GenerateRequest, Job, Prompts, resolve
from soundcrafter.sound import Sound
from soundcrafter.store import ModelFolder, copy_parts, open_folder, save_part
from soundcrafter.timeline import Timeline

# To bound memory, on a CPU the U-Net takes at most this many sounds of PIECE_SECONDS at once.
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
        self.name = portable_name(folder.path)  # by which sounds say what made them
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
        self.codec = Codec(self.vae, self.vocoder, self.device)
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
        crafter = cls(folder, choose_device(device), adapters, precision)
        crafter.name = BUNDLED if model is None else portable_name(model)
        return crafter

    def to(self, device: str | torch.device) -> "SoundCrafter":
        """Move this model to a device ("auto": the GPU if there is one), and return it.

        The parts are loaded again, because on a CPU they are rearranged for speed.
        """
        wanted = self._wanted_precision
        moved = type(self)(self.folder, choose_device(device), self.adapters, wanted)
        vars(self).update({**vars(moved), "sampling": self.sampling, "name": self.name})
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
        prompts: Prompts | None = None,
        *,
        mix: Mapping[str, float] | None = None,
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
        init: Audio | None = None,
        strength: float | None = None,
        at: float | None = None,
        regions: Sequence[Region] = (),
        loop: bool = False,
        like: Audio | None = None,
        like_weight: float | None = None,
        more: str | Iterable[str] = (),
        less: str | Iterable[str] = (),
        steer: float | None = None,
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
                say when each of its prompts is heard, all in one pass; or `Blend`, a mix.
            mix: in place of prompts, descriptions of one sound and their weights, above 0.
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
                their spans; by default only if the U-Net was not trained on timelines.
            reuse: steps that share the U-Net's inner levels, at least 1: faster and rougher. 1
                turns it off.
            batch_size: sounds made at once, 1 to 1024. Default 4.
            trim: cut the silence after the end of a sound, by default if `seconds` is not given.
            noise: initial noise [sounds, C, T, F] for all sounds, instead of drawing it from the
                seeds; see the method `noise`. Requires candidates=1.
            init: a sound to edit: a `Sound`, (wave [N] or [N, channels], rate) or a file, 0.2 to
                600 s. Its length is the default of `seconds`; of a longer result the rest is
                generated, after `at` seconds that come before it. Without prompts its own CLAP
                embedding is the condition.
            strength: share of the steps that change `init`, 0 (not at all) to 1 (a new sound).
                Default 0.6; in regions and beyond its ends 1.
            regions: the parts of `init` to regenerate, see `Region`; all else is kept.
            loop: make a sound whose end is followed by its start. Its length is rounded to whole
                latent frames.
            like: a sound to resemble, as `init`: its CLAP embedding is the condition, mixed with
                that of the prompt, if there is one, by `like_weight`, 0 to 1. Default 0.5.
            more, less: descriptions to move towards or away from, by `steer` times their
                embeddings. Default 0.5.
            progress: called with (steps done, all steps) after every sampling step.

        Raises ValueError for a wrong type or a value out of range, before any sound is made.
        """
        sounds = self.stream(
            prompts,
            mix=mix,
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
            init=init,
            strength=strength,
            at=at,
            regions=regions,
            loop=loop,
            like=like,
            like_weight=like_weight,
            more=more,
            less=less,
            steer=steer,
            progress=progress,
        )
        return list(sounds)

    def stream(
        self,
        prompts: Prompts | None = None,
        *,
        mix: Mapping[str, float] | None = None,
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
        init: Audio | None = None,
        strength: float | None = None,
        at: float | None = None,
        regions: Sequence[Region] = (),
        loop: bool = False,
        like: Audio | None = None,
        like_weight: float | None = None,
        more: str | Iterable[str] = (),
        less: str | Iterable[str] = (),
        steer: float | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Sound]:
        """Yield the sounds of `generate`, whose arguments it takes, as they are made."""
        if mix is not None:
            if prompts is not None:
                raise ValueError("mix: replaces the prompt; give one of them")
            prompts = Blend.of(mix)
        if prompts is None and init is None and like is None:
            raise ValueError("prompt: got None; allowed: a string, or a list of strings")
        if like is None and like_weight is not None:
            raise ValueError("like_weight: requires a sound to resemble, like")
        if steer is not None and not (more or less):
            raise ValueError("steer: requires descriptions, more or less")
        wave = None if init is None else load_wave(init, self.sample_rate)
        if wave is not None and seconds is None:
            seconds = (at or 0.0) + len(wave) / self.sample_rate
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
            trim=seconds is None and not loop if trim is None else trim,
            wordless=prompts is None,
            strength=strength,
            at=at,
            loop=loop,
            like_weight=like_weight,
            more=more,
            less=less,
            steer=steer,
        )
        if request.candidates > 1 and not self.clap.has_audio:
            raise ValueError(
                f"candidates: got {request.candidates}; "
                "allowed: 1, since this model has no clap_audio to rank candidates"
            )
        if noise is not None:
            self._check_noise(noise, request)
        given = self._given(request, wave, regions, like)
        sources = {"init": init, "like": like}
        recorded: dict[str, Any] = {
            name: plain_audio(each) for name, each in sources.items() if each is not None
        }
        if given.canvas is not None and regions:
            recorded["regions"] = plain_regions(regions)
        if noise is not None:
            recorded["noise"] = plain_array(noise.cpu().numpy())
        given = replace(given, recorded=recorded)
        return self._sounds(request, noise, given, progress or (lambda done, total: None))

    @torch.inference_mode()
    def _given(
        self,
        request: GenerateRequest,
        wave: np.ndarray | None,
        regions: Sequence[Region],
        like: Audio | None,
    ) -> "_Given":
        """Encode the sounds that a request was given."""
        cond: torch.Tensor | None = None
        if like is not None:
            cond = self._embed_audio(load_wave(like, self.sample_rate, "like"))
        elif request.wordless and wave is not None:
            cond = self._embed_audio(wave)
        if wave is None:
            if request.strength is not None or request.at or regions:
                raise ValueError("strength, at and regions: require a sound to edit, init")
            return _Given(like=cond)
        regions = tuple(regions) if isinstance(regions, Iterable) else (regions,)
        if not all(isinstance(region, Region) for region in regions):
            raise ValueError(f"regions: got {regions!r}; allowed: a list of Region")
        canvas = Canvas.of(wave, self.sample_rate, request.seconds, request.at, regions)
        if request.loop and canvas.regions:
            raise ValueError("loop: a given sound cannot be looped with regions or another length")
        if canvas.is_extended and request.strength not in (None, 1):
            raise ValueError(f"strength: got {request.strength:g}; allowed when extending: 1")
        frames = self._frames(request)
        start = self.codec.encode(canvas.wave * np.float32(canvas.scale), frames)
        rows = start.shape[3]
        mask = canvas.mask(frames, rows, self.codec.frame_seconds, self.vae.config.mel)
        return _Given(
            canvas=canvas,
            start=start,
            mask=None if mask is None else mask.to(self.device),
            strength=request.strength,
            like=cond,
        )

    def _embed_audio(self, wave: np.ndarray) -> torch.Tensor:
        """Embed wave [N] at the model's rate, at the level of its training: [E]."""
        return self.clap.embed_audio(normalize_peak(wave), self.sample_rate)[0]

    def _check_noise(self, noise: torch.Tensor, request: GenerateRequest) -> None:
        wanted = (len(request.jobs()), *self._latent_shape(self._frames(request)))
        if not (isinstance(noise, torch.Tensor) and noise.is_floating_point()):
            raise ValueError(f"noise: got {type(noise).__name__}; allowed: a tensor of floats")
        if tuple(noise.shape) != wanted:
            raise ValueError(f"noise: got shape {tuple(noise.shape)}; allowed: {wanted}")
        if not noise.isfinite().all():
            raise ValueError("noise: contains NaN or infinity")
        if request.candidates > 1:
            raise ValueError(f"candidates: got {request.candidates} with noise; allowed: 1")

    def _sounds(
        self,
        request: GenerateRequest,
        noise: torch.Tensor | None,
        given: "_Given",
        progress: Progress,
    ) -> Iterator[Sound]:
        jobs, at_once = request.jobs(), request.batch_size
        batches = [slice(i, i + at_once) for i in range(0, len(jobs), at_once)]
        each = request.drafted + request.steps
        for index, batch in enumerate(batches):

            def report(done: int, before: int = index * each) -> None:
                progress(before + done, each * len(batches))

            own = None if noise is None else noise[batch]
            yield from self._batch(jobs[batch], request, own, given, report)

    @torch.inference_mode()
    def _batch(
        self,
        jobs: Sequence[Job],
        request: GenerateRequest,
        noise: torch.Tensor | None,
        given: "_Given",
        report: Callable[[int], None],
    ) -> Iterator[Sound]:
        conds = self._conditions(jobs, request, given)
        negatives = {text: self._embed_negative(text) for text in {job.negative for job in jobs}}
        uncond = torch.stack([negatives[job.negative] for job in jobs])
        seeds, drafted = [job.seed for job in jobs], request.drafted
        if noise is None:
            frames = self._frames(request)
            noises = [self._noise(seed, frames, request.candidates) for seed in seeds]
            drafts = torch.stack(noises).to(self.device)
            noise = drafts[:, 0]
            if drafted:
                noise = self._choose(drafts, seeds, conds, uncond, request, given, report)
        latent = self._sample(
            request,
            noise.to(self.device),
            conds,
            uncond,
            seeds,
            given,
            lambda done, total: report(drafted + round(request.steps * done / total)),
        )
        arguments = plain_request(request, jobs) | dict(given.recorded)
        provenance = self.provenance(plain_sampling(request), arguments)
        for i, job in enumerate(jobs):
            # one at a time: the mel at full size takes the most memory
            samples = self._wave(latent[i : i + 1], request, given)
            if request.trim:
                samples = trim_end(samples, self.sample_rate)
            score = self._similarity(samples, conds.events[i]) if self.clap.has_audio else None
            found = latent[i].float().cpu().numpy()
            yield Sound(
                samples,
                self.sample_rate,
                job.text,
                job.seed,
                score,
                found,
                request.loop,
                replace(provenance, index=i),
            )

    def provenance(
        self,
        sampling: Mapping[str, Any],
        arguments: Mapping[str, Any],
        call: Literal["generate", "render"] = "generate",
    ) -> Provenance:
        """How this model makes sounds by a call, see `Provenance`."""
        return Provenance(
            model=self.name,
            parts=self.training_ids,
            adapters={portable_name(path): weight for path, weight in self.adapters.items()},
            precision=self.precision,
            sampling=sampling,
            arguments=arguments,
            call=call,
        )

    def _draft_steps(self, request: GenerateRequest, share: float) -> int:
        """The steps of a whole sampling of which `share` are about `draft_steps`.

        So drafts of a given sound begin at the noise level at which the sound itself will.
        """
        wanted = math.ceil(request.draft_steps / share)
        return wanted if self.schedule.is_flow else min(wanted, self.schedule.config.steps)

    def _wave(self, latent: torch.Tensor, request: GenerateRequest, given: "_Given") -> np.ndarray:
        """latent [1, C, T, F] -> samples [N] of a request."""
        if request.loop:
            looped = self.codec.decode_loop(latent)
            return limit_peak(looped) if given.canvas is None else given.canvas.join(looped)
        wave = self.vocode(self.decode(latent))
        if given.canvas is None:
            return self._cut(wave, request.seconds)
        samples = wave[0].float().cpu().numpy()
        return given.canvas.join(fit_length(samples, len(given.canvas.wave)))

    def _conditions(
        self, jobs: Sequence[Job], request: GenerateRequest, given: "_Given"
    ) -> Conditions:
        """Embed the prompts of a batch."""
        prompts = [job.prompt for job in jobs]

        def embed(prompt: str | Blend) -> torch.Tensor:
            return self._embed_prompt(prompt, request, given.like)

        rows = embed_prompts(prompts, embed, request.seconds)
        if not any(isinstance(prompt, Timeline) for prompt in prompts):
            return Conditions(rows, torch.stack([event.cond for (event,) in rows]))
        frames = self._frames(request)
        return conditions(
            rows,
            self.unet.config,
            frames=frames,
            seconds=frames * self.codec.frame_seconds,
            heard=request.seconds,
            masked=request.masked,
        )

    def _embed_prompt(
        self, prompt: str | Blend, request: GenerateRequest, like: torch.Tensor | None
    ) -> torch.Tensor:
        """Embed a prompt, mixed with the sound to resemble and steered: [E], unit norm."""
        if not prompt and like is not None:
            found = like
        else:
            found = self._embed_text(prompt)
            if like is not None:
                found = torch.lerp(found, like, request.like_weight)
        if like is None and not (request.more or request.less):
            return found  # unchanged to the bit
        for texts, sign in ((request.more, 1.0), (request.less, -1.0)):
            for each in texts:
                found = found + sign * request.steer * self.clap.embed_text([each])[0]
        return F.normalize(found, dim=0)

    def _embed_text(self, prompt: str | Blend) -> torch.Tensor:
        """[E], unit norm."""
        if isinstance(prompt, str):
            return self.clap.embed_text([prompt])[0]
        weights = [weight for _, weight in prompt.parts]
        found = self.clap.embed_text(list(prompt.prompts()))
        return F.normalize(found.new_tensor(weights) @ found, dim=0)

    def _embed_negative(self, text: str) -> torch.Tensor:
        """Embed a negative prompt, [E]; an empty one becomes the null condition."""
        return self.clap.embed_text([text])[0] if text else self.unet.null_cond

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """latent [B, C, T, F] -> log-mel [B, 1, T', F'], float32."""
        return self.codec.decode(latent)

    def vocode(self, mel: torch.Tensor) -> torch.Tensor:
        """log-mel [B, 1, T, F] -> wave [B, N], float32."""
        return self.codec.vocode(mel)

    def _sample(
        self,
        settings: GenerateRequest,
        noise: torch.Tensor,
        conds: Conditions,
        uncond: torch.Tensor,
        seeds: Sequence[int],
        given: "_Given",
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
            start=None if given.start is None else given.start.expand(len(noise), -1, -1, -1),
            strength=given.steps_share,
            mask=given.mask,
            loop=settings.loop,
            callback=callback,
        )

    def _choose(
        self,
        drafts: torch.Tensor,
        seeds: Sequence[int],
        conds: Conditions,
        uncond: torch.Tensor,
        request: GenerateRequest,
        given: "_Given",
        report: Callable[[int], None],
    ) -> torch.Tensor:
        """Noises [J, K, C, T, F], conditions of J sounds, uncond [J, E] -> the best of each K,
        [J, C, T, F]: the noise whose sound, drafted in a few steps, is nearest to its prompt.

        A draft is a rough copy of what the noise becomes in many steps (less so with a sampler
        that adds noise).
        """
        count, share = drafts.shape[1], given.steps_share
        if share == 0:  # nothing changes, so there is nothing to choose
            return drafts[:, 0]
        each, away = conds.repeat(count), uncond.repeat_interleave(count, 0)
        latent = self._sample(
            replace(request, steps=self._draft_steps(request, share)),
            drafts.flatten(0, 1),
            each,
            away,
            [seed for seed in seeds for _ in range(count)],
            given,
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

    def _score(self, mel: torch.Tensor, events: Sequence[EmbeddedSpan], seconds: float) -> float:
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

    def _similarity(self, samples: np.ndarray, events: Sequence[EmbeddedSpan]) -> float:
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
        event = EmbeddedSpan(self.clap.embed_text([prompt])[0], 0.0, len(wave) / self.sample_rate)
        return self._similarity(wave, [event])

    def noise(
        self, seed: int, seconds: float, count: int = 1, *, loop: bool = False
    ) -> torch.Tensor:
        """Return the initial noises [count, C, T/d, F/d] of a seed, for a sound or a loop.

        They are the same on every device, in any batch, and for any larger count.
        """
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed: got {seed}; allowed: 0 to {MAX_SEED}")
        low, high = SECONDS_RANGE
        if not low <= seconds <= high:
            raise ValueError(f"seconds: got {seconds}; allowed: {low:g} to {high:g}")
        frames = self._loop_frames(seconds) if loop else self._latent_frames(seconds)
        return self._noise(int(seed), frames, count)

    def _noise(self, seed: int, frames: int, count: int) -> torch.Tensor:
        """The initial noises [count, C, frames, F] of a seed."""
        shape = self._latent_shape(frames)
        generator = torch.Generator().manual_seed(seed)
        return torch.stack([torch.randn(shape, generator=generator) for _ in range(count)])

    def _frames(self, request: GenerateRequest) -> int:
        """The number of latent frames of a sound; those of a loop are all heard."""
        if not request.loop:
            return self._latent_frames(request.seconds)
        return self._loop_frames(request.seconds)

    def _loop_frames(self, seconds: float) -> int:
        """The latent frames of a loop, at least the shortest sound."""
        frame = self.codec.frame_seconds
        return max(math.ceil(SECONDS_RANGE[0] / frame - 1e-6), round(seconds / frame))

    def _latent_shape(self, frames: int) -> tuple[int, int, int]:
        """[C, T, F] of a latent of `frames` frames."""
        config = self.vae.config
        return config.latent_channels, frames, config.mel.num_mels // config.stride[1]

    def _latent_frames(self, seconds: float) -> int:
        return latent_frames(self.vae.config, self.unet.config, seconds)


@dataclass(frozen=True, eq=False)
class _Given:
    """The encoded sounds that a request was given."""

    canvas: Canvas | None = None
    start: torch.Tensor | None = None  # [1, C, T, F]
    mask: torch.Tensor | None = None  # [1, 1, T, F]; None: all is regenerated
    strength: float | None = None
    like: torch.Tensor | None = None  # [E]
    recorded: Mapping[str, Any] = field(default_factory=dict)  # as plain data, for the provenance

    @property
    def steps_share(self) -> float:
        """The share of the steps to take."""
        if self.start is None:
            return 1.0
        if self.strength is not None:
            return self.strength
        return VARY if self.mask is None else 1.0


@cache
def _allow_forks() -> None:
    """Let forked processes use the models of this one, with one thread each.

    OpenMP's threads do not survive fork(), so a child that waits for them would hang.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
