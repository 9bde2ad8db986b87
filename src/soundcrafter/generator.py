"""From requests to sounds, with networks that are loaded."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from soundcrafter.attributes import apply, effect_of
from soundcrafter.audio import fit_length, limit_peak, normalize_peak, trim_silence
from soundcrafter.blend import Blend
from soundcrafter.codec import PIECE_SECONDS, Codec
from soundcrafter.conditions import Conditions, EmbeddedSpan, conditions, embed_prompts
from soundcrafter.config import latent_frames as frames_of
from soundcrafter.cpu.memory import trim_heap
from soundcrafter.diffusion.config import MAX_SEED, SECONDS_RANGE
from soundcrafter.diffusion.sample import sample
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.editing import VARY, Canvas
from soundcrafter.models.clap import Clap
from soundcrafter.models.unet import ReusingUNet, UNet
from soundcrafter.models.vae import VAE
from soundcrafter.models.vocoder import Vocoder
from soundcrafter.progress import Progress
from soundcrafter.provenance import Provenance
from soundcrafter.request import GenerateRequest, Job
from soundcrafter.sound import Sound
from soundcrafter.timeline import Timeline

# To bound memory, on a CPU the U-Net takes at most this many sounds of PIECE_SECONDS at once.
PIECES_AT_ONCE = 8
EFFECT_STEER = 2.0  # a steer of 0.5 moves a prompt as far as the effect moves its sound
DRAFT_SECONDS = 5.0  # of the sound whose attributes are changed to steer a prompt


@dataclass(frozen=True, eq=False)
class Given:
    """The encoded sounds that a request was given."""

    canvas: Canvas | None = None
    start: torch.Tensor | None = None  # [1, C, T, F]
    mask: torch.Tensor | None = None  # [1, 1, T, F]; None: all is regenerated
    strength: float | None = None
    like: torch.Tensor | None = None  # [E]
    wave: np.ndarray | None = None  # [N], of the sound to edit or to resemble

    @property
    def steps_share(self) -> float:
        """The share of the steps to take."""
        if self.start is None:
            return 1.0
        if self.strength is not None:
            return self.strength
        return VARY if self.mask is None else 1.0


class Generator(ABC):
    """Makes batches of sounds: embeds, samples, decodes, scores."""

    clap: Clap
    unet: UNet
    vae: VAE
    vocoder: Vocoder
    codec: Codec
    schedule: Schedule
    device: torch.device

    @property
    @abstractmethod
    def unet_fast(self) -> UNet:
        """The distilled U-Net. Raises ValueError if there is none."""

    @property
    def sample_rate(self) -> int:
        """Samples per second of every sound this model makes."""
        return self.vocoder.config.mel.sample_rate

    def _embed_audio(self, wave: np.ndarray) -> torch.Tensor:
        """Embed wave [N] at the model's rate, at the level of its training: [E]."""
        return self.clap.embed_audio(normalize_peak(wave), self.sample_rate)[0]

    def _sounds(
        self,
        request: GenerateRequest,
        noise: torch.Tensor | None,
        given: Given,
        made: Callable[[Sequence[Job]], Provenance],
        progress: Progress,
    ) -> Iterator[Sound]:
        jobs, at_once = request.jobs(), request.batch_size
        batches = [slice(i, i + at_once) for i in range(0, len(jobs), at_once)]
        each = request.drafted + request.steps
        for index, batch in enumerate(batches):

            def report(done: int, before: int = index * each) -> None:
                progress(before + done, each * len(batches))

            own = None if noise is None else noise[batch]
            yield from self._batch(jobs[batch], request, own, given, made, report)

    @torch.inference_mode()
    def _batch(
        self,
        jobs: Sequence[Job],
        request: GenerateRequest,
        noise: torch.Tensor | None,
        given: Given,
        made: Callable[[Sequence[Job]], Provenance],
        report: Callable[[int], None],
    ) -> Iterator[Sound]:
        conds = self._conditions(jobs, request, given)
        negatives = {text: self.embed_negative(text) for text in {job.negative for job in jobs}}
        uncond = torch.stack([negatives[job.negative] for job in jobs])
        seeds, drafted = [job.seed for job in jobs], request.drafted
        latent: torch.Tensor | None = None
        if noise is None:
            frames = self._frames(request)
            noises = [self.noise_of(seed, frames, request.candidates) for seed in seeds]
            drafts = torch.stack(noises).to(self.device)
            noise = drafts[:, 0]
            if drafted:
                noise, latent = self._choose(drafts, seeds, conds, uncond, request, given, report)
        if latent is None:
            latent = self.sample_latent(
                request,
                noise.to(self.device),
                conds,
                uncond,
                seeds,
                given,
                lambda done, total: report(drafted + round(request.steps * done / total)),
            )
        else:
            report(drafted + request.steps)
        provenance = made(jobs)
        for i, job in enumerate(jobs):
            # one at a time: the mel at full size takes the most memory
            samples = self._wave(latent[i : i + 1], request, given)
            if request.trim:
                # what a timeline places in time must not move
                timed = isinstance(jobs[i].prompt, Timeline)
                samples = trim_silence(samples, self.sample_rate, keep_start=timed)
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

    def _draft_steps(self, request: GenerateRequest, share: float) -> int:
        """The steps of a whole sampling of which `share` are about `draft_steps`.

        So drafts of a given sound begin at the noise level at which the sound itself will.
        """
        wanted = math.ceil(request.draft_steps / share)
        return wanted if self.schedule.is_flow else min(wanted, self.schedule.config.steps)

    def _wave(self, latent: torch.Tensor, request: GenerateRequest, given: Given) -> np.ndarray:
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
        self, jobs: Sequence[Job], request: GenerateRequest, given: Given
    ) -> Conditions:
        """Embed the prompts of a batch."""
        prompts = [job.prompt for job in jobs]

        def embed(prompt: str | Blend) -> torch.Tensor:
            return self.embed_prompt(prompt, request, given)

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

    def embed_prompt(
        self, prompt: str | Blend, request: GenerateRequest, given: Given
    ) -> torch.Tensor:
        """Embed a prompt, mixed with the sound to resemble and steered: [E], unit norm."""
        like = given.like
        if not prompt and like is not None:
            found = like
        else:
            found = self._embed_text(prompt)
            if like is not None:
                found = F.normalize(torch.lerp(found, like, request.like_weight), dim=0)
        return self._steered(found, request, given) if request.more or request.less else found

    def _steered(self, cond: torch.Tensor, request: GenerateRequest, given: Given) -> torch.Tensor:
        """Move an embedded prompt [E] towards and away from descriptions: [E], unit norm."""
        moved, example = cond, given.wave
        for texts, sign in ((request.more, 1.0), (request.less, -1.0)):
            for text in texts:
                found = effect_of(text) if self.clap.has_audio else None
                if found is None:
                    moved = moved + sign * request.steer * self._embed_text(text)
                    continue
                example = self._draft(cond, request) if example is None else example
                effect, way = found
                heard = self._embed_audio(apply(effect, example, self.sample_rate))
                change = way * EFFECT_STEER * (heard - self._embed_audio(example))
                moved = moved + sign * request.steer * change
        return F.normalize(moved, dim=0)

    def _draft(self, cond: torch.Tensor, request: GenerateRequest) -> np.ndarray:
        """A rough sound [N] of an embedded prompt [E], the same for every seed."""
        seconds = min(request.seconds, DRAFT_SECONDS)
        noise = self.noise(0, seconds).to(self.device)
        latent = self.sample_latent(
            replace(request, steps=request.draft_steps, loop=False),
            noise,
            Conditions((), cond[None]),
            self.unet.null_cond[None],
            [0],
            Given(),
        )
        return self._cut(self.vocode(self.decode(latent)), seconds)

    def _embed_text(self, prompt: str | Blend) -> torch.Tensor:
        """[E], unit norm."""
        if isinstance(prompt, str):
            return self.clap.embed_text([prompt])[0]
        # relative to the largest, because their sum may exceed what a float holds
        largest = max(weight for _, weight in prompt.parts)
        weights = [weight / largest for _, weight in prompt.parts]
        found = self.clap.embed_text(list(prompt.prompts()))
        return F.normalize(found.new_tensor(weights) @ found, dim=0)

    def embed_negative(self, text: str) -> torch.Tensor:
        """Embed a negative prompt, [E]; an empty one becomes the null condition."""
        return self.clap.embed_text([text])[0] if text else self.unet.null_cond

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """latent [B, C, T, F] -> log-mel [B, 1, T', F'], float32."""
        return self.codec.decode(latent)

    def vocode(self, mel: torch.Tensor) -> torch.Tensor:
        """log-mel [B, 1, T, F] -> wave [B, N], float32."""
        return self.codec.vocode(mel)

    def sample_latent(
        self,
        settings: GenerateRequest,
        noise: torch.Tensor,
        conds: Conditions,
        uncond: torch.Tensor,
        seeds: Sequence[int],
        given: Given,
        callback: Progress | None = None,
    ) -> torch.Tensor:
        """Noise [B, C, T, F], conditions of B sounds, uncond [B, E] -> latent [B, C, T, F]."""
        unet = self.unet_fast if settings.fast else self.unet
        window, batch_limit = self.latent_frames(settings.window), None
        if self.device.type == "cpu":
            piece = self.latent_frames(PIECE_SECONDS)
            batch_limit = max(1, PIECES_AT_ONCE * piece // min(noise.shape[2], window))
        return sample(
            unet if settings.reuse == 1 else ReusingUNet(unet, settings.reuse),
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
        given: Given,
        report: Callable[[int], None],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Noises [J, K, C, T, F], conditions of J sounds, uncond [J, E] -> the best of each K,
        [J, C, T, F]: the noise whose sound, drafted in a few steps, is nearest to its prompt; and
        its draft, if that has all the steps.

        A draft is a rough copy of what the noise becomes in many steps (less so with a sampler
        that adds noise).
        """
        count, share = drafts.shape[1], given.steps_share
        if share == 0:  # nothing changes, so there is nothing to choose
            return drafts[:, 0], None
        steps = self._draft_steps(request, share)
        each, away = conds.repeat(count), uncond.repeat_interleave(count, 0)
        latent = self.sample_latent(
            replace(request, steps=steps),
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
        chosen = torch.arange(len(drafts)), best
        found = latent.unflatten(0, drafts.shape[:2])[chosen] if steps == request.steps else None
        return drafts[chosen], found

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
        frames = self._loop_frames(seconds) if loop else self.latent_frames(seconds)
        return self.noise_of(int(seed), frames, count)

    def noise_of(self, seed: int, frames: int, count: int = 1) -> torch.Tensor:
        """The initial noises [count, C, frames, F] of a seed."""
        shape = self._latent_shape(frames)
        generator = torch.Generator().manual_seed(seed)
        return torch.stack([torch.randn(shape, generator=generator) for _ in range(count)])

    def _frames(self, request: GenerateRequest) -> int:
        """The number of latent frames of a sound; those of a loop are all heard."""
        if not request.loop:
            return self.latent_frames(request.seconds)
        return self._loop_frames(request.seconds)

    def _loop_frames(self, seconds: float) -> int:
        """The latent frames of a loop, at least the shortest sound."""
        frame = self.codec.frame_seconds
        return max(math.ceil(SECONDS_RANGE[0] / frame - 1e-6), round(seconds / frame))

    def _latent_shape(self, frames: int) -> tuple[int, int, int]:
        """[C, T, F] of a latent of `frames` frames."""
        config = self.vae.config
        return config.latent_channels, frames, config.mel.num_mels // config.stride[1]

    def latent_frames(self, seconds: float) -> int:
        """The latent frames of a sound, a multiple of the U-Net's stride."""
        return frames_of(self.vae.config, self.unet.config, seconds)
