"""Sounds from an exported model, with NumPy and ONNX Runtime alone."""

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from soundcrafter.arguments import plain_request, plain_sampling, portable_name
from soundcrafter.audio import limit_peak, trim_silence
from soundcrafter.blend import Blend
from soundcrafter.byte_bpe import ByteBpe
from soundcrafter.diffusion.config import SamplingConfig, fast_sampling
from soundcrafter.files import one_line
from soundcrafter.onnx.audio_tower import AudioTower, unit
from soundcrafter.onnx.decoding import decode, vocode
from soundcrafter.onnx.folder import AUDIO, FAST, TOKENIZER, read_exported
from soundcrafter.onnx.noise import TorchGenerator
from soundcrafter.onnx.sampling import ArraySchedule, sample
from soundcrafter.onnx.windows import Array
from soundcrafter.progress import Progress
from soundcrafter.provenance import Provenance
from soundcrafter.request import GenerateRequest, Job, resolve
from soundcrafter.sound import Sound

_log = logging.getLogger(__name__)

# To bound memory, the U-Net takes at most this many sounds of so many seconds at once.
PIECES_AT_ONCE, PIECE_SECONDS = 8, 10.24


class OnnxSoundCrafter:
    """A loaded export: `from_pretrained` loads one, `generate` makes sounds.

    The same seed gives the sound of `SoundCrafter`, up to rounding. Edits, loops, timelines and
    adapters need `SoundCrafter`.
    """

    def __init__(self, folder: str | os.PathLike[str], threads: int | None = None) -> None:
        path = Path(folder)
        self.name, self.settings = portable_name(folder), read_exported(path)
        self.sampling = self.sampling_for(fast=self.settings.sampling.fast)
        self.schedule = ArraySchedule(self.settings.diffusion)
        self.tokenizer = ByteBpe.load(path / TOKENIZER)
        parts = self.settings.parts
        self._sessions = {name: _session(path / parts[name].file, threads) for name in parts}
        audio = self.settings.audio
        self._tower = None if audio is None else AudioTower(audio, lambda x: self._run(AUDIO, x))

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], threads: int | None = None
    ) -> "OnnxSoundCrafter":
        """Load a folder that `soundcrafter export` wrote.

        `threads`: of ONNX Runtime; None for one per core. Raises ValueError if it is missing,
        damaged or of another format.
        """
        return cls(folder, threads)

    @property
    def sample_rate(self) -> int:
        """Samples per second of every sound this model makes."""
        return self.settings.vocoder.mel.sample_rate

    def generate(
        self,
        prompts: str | Blend | Iterable[str | Blend],
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
        fast: bool | None = None,
        batch_size: int | None = None,
        trim: bool | None = None,
        progress: Progress | None = None,
    ) -> list[Sound]:
        """Make sounds for one prompt or several; see `SoundCrafter.generate` for the arguments.

        Raises ValueError for a wrong type or a value out of range, before any sound is made.
        """
        return list(
            self.stream(
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
                fast=fast,
                batch_size=batch_size,
                trim=trim,
                progress=progress,
            )
        )

    def stream(
        self,
        prompts: str | Blend | Iterable[str | Blend],
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
        fast: bool | None = None,
        batch_size: int | None = None,
        trim: bool | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Sound]:
        """Yield the sounds of `generate`, whose arguments it takes, as they are made."""
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
            fast=fast,
            batch_size=batch_size,
            trim=seconds is None if trim is None else trim,
        )
        if not all(isinstance(prompt, str | Blend) for prompt in request.prompts):
            raise ValueError("prompt: an exported model makes no timelines; allowed: a string")
        if request.candidates > 1 and self._tower is None:
            raise ValueError(
                f"candidates: got {request.candidates}; "
                "allowed: 1, since this export has no clap_audio to rank candidates"
            )
        longest = self.settings.text.max_length
        for text in dict.fromkeys(request.texts()):
            if (cut := self.tokenizer.count(text) - longest) > 0:
                _log.warning("prompt: too long; the last %d tokens are not heard: %s", cut, text)
        return self._sounds(request, progress or (lambda done, total: None))

    def sampling_for(self, *, fast: bool) -> SamplingConfig:
        """The default settings with or without the distilled U-Net. ValueError if there is none."""
        if not fast:
            return replace(self.settings.sampling, fast=False)
        if not self.settings.fast_steps:
            raise ValueError("fast: this model has no unet_fast")
        return fast_sampling(self.settings.sampling, self.settings.fast_steps)

    def noise(self, seed: int, seconds: float, count: int = 1) -> Array:
        """The initial noises [count, C, T, F] of a seed: those of `SoundCrafter.noise`."""
        latent = self.settings.latent
        shape = latent.channels, self._latent_frames(seconds), latent.rows
        generator = TorchGenerator(seed)
        return np.stack([generator.randn(shape) for _ in range(count)])

    def decode(self, latent: Array) -> Array:
        """latent [1, C, T, F] -> log-mel [1, 1, T', F']."""
        settings = self.settings.latent
        return decode(latent, lambda x: self._run("vae_decoder", x), settings, self._frame_seconds)

    def vocode(self, mel: Array) -> Array:
        """log-mel [1, 1, T, F] -> wave [N]."""
        return vocode(mel, self._vocode, self.settings.vocoder)

    def embed_text(self, prompts: Sequence[str]) -> Array:
        """Embed prompts with CLAP: [B, E], unit norm."""
        return self._run(
            "clap_text", *self.tokenizer.encode(prompts, self.settings.text.max_length)
        )

    def _sounds(self, request: GenerateRequest, progress: Progress) -> Iterator[Sound]:
        jobs, at_once = request.jobs(), request.batch_size
        batches = [jobs[i : i + at_once] for i in range(0, len(jobs), at_once)]
        each = request.drafted + request.steps
        for index, batch in enumerate(batches):

            def report(done: int, before: int = index * each) -> None:
                progress(before + done, each * len(batches))

            yield from self._batch(batch, request, report)

    def _batch(
        self, jobs: Sequence[Job], request: GenerateRequest, report: Callable[[int], None]
    ) -> Iterator[Sound]:
        cond = np.stack([self._embed(job.prompt) for job in jobs])
        uncond = np.stack([self._embed_negative(job.negative) for job in jobs])
        seeds, drafted = [job.seed for job in jobs], request.drafted
        drafts = np.stack([self.noise(s, request.seconds, request.candidates) for s in seeds])
        noise, latents = drafts[:, 0], None
        if drafted:
            noise, latents = self._choose(drafts, seeds, cond, uncond, request, report)
        if latents is None:
            latents = self._sample(
                request, noise, cond, uncond, seeds, lambda done, _: report(drafted + done)
            )
        else:
            report(drafted + request.steps)
        made = self._provenance(request, jobs)
        for i, job in enumerate(jobs):
            samples = self._cut(self.vocode(self.decode(latents[i : i + 1])), request.seconds)
            if request.trim:
                samples = trim_silence(samples, self.sample_rate)
            score = None if self._tower is None else self._similarity(samples, cond[i])
            yield Sound(
                samples,
                self.sample_rate,
                job.text,
                job.seed,
                score,
                latents[i],
                provenance=replace(made, index=i),
            )

    def _choose(
        self,
        drafts: Array,
        seeds: Sequence[int],
        cond: Array,
        uncond: Array,
        request: GenerateRequest,
        report: Callable[[int], None],
    ) -> tuple[Array, Array | None]:
        """Noises [J, K, C, T, F] -> the best of each K, and its latent, see `Generator`."""
        sounds, count = drafts.shape[:2]
        steps = request.draft_steps
        if not self.schedule.is_flow:
            steps = min(steps, self.schedule.config.steps)
        latents = self._sample(
            replace(request, steps=steps),
            drafts.reshape(sounds * count, *drafts.shape[2:]),
            cond.repeat(count, 0),
            uncond.repeat(count, 0),
            [seed for seed in seeds for _ in range(count)],
            lambda done, _: report(done),
        )
        scores = [
            self._score(self.decode(latent[None]), cond[i // count], request.seconds)
            for i, latent in enumerate(latents)
        ]
        best = np.arange(sounds), np.reshape(scores, (sounds, count)).argmax(1)
        found = latents.reshape(drafts.shape)[best] if steps == request.steps else None
        return drafts[best], found

    def _sample(
        self,
        request: GenerateRequest,
        noise: Array,
        cond: Array,
        uncond: Array,
        seeds: Sequence[int],
        callback: Progress,
    ) -> Array:
        window, piece = self._latent_frames(request.window), self._latent_frames(PIECE_SECONDS)
        unet = FAST if request.fast else "unet"
        return sample(
            lambda latent, t, cond: self._run(unet, latent, t, cond),
            self.schedule,
            request,
            noise,
            cond,
            uncond,
            seeds=seeds,
            window=window,
            batch_limit=max(1, PIECES_AT_ONCE * piece // min(noise.shape[2], window)),
            callback=callback,
        )

    def _score(self, mel: Array, cond: Array, seconds: float) -> float:
        """Similarity of a draft's mel [1, 1, T, F] to a prompt [E]."""
        assert self._tower is not None
        config = self.settings.vocoder.mel
        if self._tower.settings.mel != config:
            return self._similarity(self._cut(self.vocode(mel), seconds), cond)
        frames = config.num_frames(round(seconds * config.sample_rate))
        return float(self._tower.embed_mel(mel[:, :, :frames]) @ cond)

    def _similarity(self, samples: Array, cond: Array) -> float:
        assert self._tower is not None
        return float(self._tower.embed(samples, self.sample_rate) @ cond)

    def _embed(self, prompt: Any) -> Array:
        """[E], unit norm."""
        if isinstance(prompt, str):
            return self.embed_text([prompt])[0]
        largest = max(weight for _, weight in prompt.parts)
        weights = np.array([weight / largest for _, weight in prompt.parts], np.float32)
        return unit(weights @ self.embed_text(list(prompt.prompts())))

    def _embed_negative(self, text: str) -> Array:
        if text:
            return self.embed_text([text])[0]
        return np.array(self.settings.latent.null_cond, np.float32)

    def _cut(self, wave: Array, seconds: float) -> Array:
        return limit_peak(wave[: round(seconds * self.sample_rate)])

    def _latent_frames(self, seconds: float) -> int:
        """The latent frames of a sound, a multiple of the U-Net's stride."""
        latent, mel = self.settings.latent, self.settings.vocoder.mel
        frames = mel.num_frames(round(seconds * mel.sample_rate)) / latent.mel_frames
        return math.ceil(frames / latent.multiple) * latent.multiple

    @property
    def _frame_seconds(self) -> float:
        mel = self.settings.vocoder.mel
        return self.settings.latent.mel_frames * mel.hop / mel.sample_rate

    def _run(self, part: str, *inputs: Any) -> Array:
        session = self._sessions[part]
        named = dict(zip((each.name for each in session.get_inputs()), inputs, strict=False))
        found: Array = session.run(None, named)[0]
        return found

    def _vocode(self, mel: Array, phases: Array | None) -> Array:
        return self._run("vocoder", mel) if phases is None else self._run("vocoder", mel, phases)

    def _provenance(self, request: GenerateRequest, jobs: Sequence[Job]) -> Provenance:
        return Provenance(
            model=self.name,
            parts={name: part.training_id for name, part in self.settings.parts.items()},
            precision="fp32",
            sampling=plain_sampling(request),
            arguments=plain_request(request, jobs),
        )


def _session(file: Path, threads: int | None) -> Any:
    # imported here: it is an extra, and the module's names are useful without it
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise ValueError(
            "an exported model needs onnxruntime: pip install 'soundcrafter[onnx]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    # on a busy machine, threads that spin while they wait slow each other down twenty times
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False  # which keeps what is free: a seventh more memory
    options.log_severity_level = 3  # errors; warnings are about the graph's shape hints
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes share no other base
        raise ValueError(f"{file}: ONNX Runtime cannot load it: {one_line(error)}") from None
