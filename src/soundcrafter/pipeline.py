"""From prompt to sound: runs the parts of a model folder in sequence."""

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from soundcrafter.arguments import (
    plain_array,
    plain_audio,
    plain_request,
    plain_sampling,
    portable_name,
)
from soundcrafter.blend import Blend
from soundcrafter.codec import Codec
from soundcrafter.cpu.memory import tune_malloc
from soundcrafter.cpu.optimize import optimize
from soundcrafter.device import choose_device
from soundcrafter.diffusion.config import SamplingConfig, fast_sampling
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.editing import Audio, Canvas, Region, load_wave
from soundcrafter.endless import endless
from soundcrafter.generator import Generator, Given
from soundcrafter.hub import BUNDLED, find_model
from soundcrafter.models.clap import Clap
from soundcrafter.models.clap_audio import ClapAudio
from soundcrafter.models.clap_text import ClapText
from soundcrafter.models.lora import Adapter
from soundcrafter.models.unet import UNet
from soundcrafter.models.vae import VAE
from soundcrafter.models.vocoder import Vocoder
from soundcrafter.precision import Precision, cast_weights, choose_precision
from soundcrafter.progress import Progress
from soundcrafter.provenance import Provenance
from soundcrafter.request import GenerateRequest, Job, Prompts, resolve
from soundcrafter.settings import to_dict
from soundcrafter.sound import Sound
from soundcrafter.store import ModelFolder, copy_parts, open_folder, save_part
from soundcrafter.timeline import Timeline

_log = logging.getLogger(__name__)


class SoundCrafter(Generator):
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
        self._unet_fast: UNet | None = None
        self.set_adapters(adapters or {})
        self.sampling: SamplingConfig = self.sampling_for(fast=folder.sampling.fast)

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

    def sampling_for(self, *, fast: bool) -> SamplingConfig:
        """The default settings with or without the distilled U-Net.

        Raises ValueError if this model has none.
        """
        if not fast:
            return replace(self.folder.sampling, fast=False)
        if "unet_fast" not in self.folder.parts:
            raise ValueError("fast: this model has no unet_fast; see `soundcrafter train distill`")
        steps = self.folder.parts["unet_fast"].config.steps
        return fast_sampling(self.folder.sampling, steps)

    @property
    def unet_fast(self) -> UNet:
        """The distilled U-Net, loaded when it is first used.

        Raises ValueError if this model has none, and with adapters, which change the other U-Net.
        """
        if self.adapters:
            raise ValueError("fast: not possible with adapters, which are for the other U-Net")
        if self._unet_fast is None:
            unet = cast(UNet, self.folder.load("unet_fast")).to(self.device)
            self._speed_up(unet)
            self._unet_fast = unet
        return self._unet_fast

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
        replaced = ("unet", "adapter", "unet_fast")
        copy_parts(self.folder, path, [name for name in parts if name not in replaced])
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
        fast: bool | None = None,
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
            fast: sample with the distilled U-Net (`train distill`), in few steps and without
                guidance, which is built in. The defaults of the other settings change with it.
            batch_size: sounds made at once, 1 to 1024. Default 4.
            trim: cut the silence before and after a sound, by default if `seconds` is not given.
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
            more, less: descriptions to move towards or away from: attributes such as "bright" or
                "reverberant" (see `attributes`) by hearing what they change in a sound, others by
                their embeddings, times `steer`. Default 0.5.
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
            fast=fast,
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
        fast: bool | None = None,
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
        wave = None if init is None else load_wave(init, self.sample_rate)
        if wave is not None and seconds is None:
            seconds = (at or 0.0) + len(wave) / self.sample_rate
        request = resolve(
            self.sampling if fast is None else self.sampling_for(fast=fast),
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
        for text in dict.fromkeys(request.texts()):
            if cut := self.clap.cut_tokens(text):
                _log.warning("prompt: too long; the last %d tokens are not heard: %s", cut, text)
        given = self._given(request, wave, regions, like)
        sources = {"init": init, "like": like}
        recorded: dict[str, Any] = {
            name: plain_audio(each) for name, each in sources.items() if each is not None
        }
        if given.canvas is not None and regions:
            recorded["regions"] = [to_dict(region) for region in regions]
        if noise is not None:
            recorded["noise"] = plain_array(noise.cpu().numpy())

        def made(jobs: Sequence[Job]) -> Provenance:
            return self.provenance(plain_sampling(request), plain_request(request, jobs) | recorded)

        return self._sounds(request, noise, given, made, progress or (lambda done, total: None))

    def endless(
        self,
        prompt: str | Blend,
        *,
        window: float = 10.24,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str | None = None,
        sampler: str | None = None,
        more: str | Iterable[str] = (),
        less: str | Iterable[str] = (),
        steer: float | None = None,
    ) -> Iterator[np.ndarray]:
        """Yield waves [N] at `sample_rate` that together are one sound without an end.

        Each takes one window of sampling, of which the next keeps a quarter and goes on from
        there. Memory does not grow. The same seed gives the same waves.

        Args:
            prompt: description of the sound, or a `Blend`.
            window: seconds that are sampled at once, up to 600; the least depends on the model.
            seed: 0 to 2**64 - 1; -1 for a random one. Default 0.
            steps, guidance, negative, sampler, more, less, steer: see `generate`.

        Raises ValueError for a wrong type or a value out of range, before any sound is made.
        """
        if isinstance(prompt, Timeline):
            raise ValueError("prompt: a timeline has an end; allowed: a string, or a Blend")
        request = resolve(
            self.sampling,
            [prompt],
            seconds=window,
            seed=seed,
            steps=steps,
            guidance=guidance,
            negative=negative,
            sampler=sampler,
            candidates=1,
            more=more,
            less=less,
            steer=steer,
        )
        return endless(self, request)

    @torch.inference_mode()
    def _given(
        self,
        request: GenerateRequest,
        wave: np.ndarray | None,
        regions: Sequence[Region],
        like: Audio | None,
    ) -> Given:
        """Encode the sounds that a request was given."""
        cond, heard = None, wave
        if like is not None:
            heard = load_wave(like, self.sample_rate, "like")
        if heard is not None and (like is not None or request.wordless):
            cond = self._embed_audio(heard)
        if wave is None:
            if request.strength is not None or request.at or regions:
                raise ValueError("strength, at and regions: require a sound to edit, init")
            return Given(like=cond, wave=heard)
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
        return Given(
            canvas=canvas,
            start=start,
            mask=None if mask is None else mask.to(self.device),
            strength=request.strength,
            like=cond,
            wave=heard,
        )

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


@cache
def _allow_forks() -> None:
    """Let forked processes use the models of this one, with one thread each.

    OpenMP's threads do not survive fork(), so a child that waits for them would hang.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
