"""From prompt to sound: one straight line over the parts of a model folder."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack, cast

import numpy as np
import torch

from soundcrafter import chunks
from soundcrafter.audio import limit_peak, write_audio
from soundcrafter.config import SamplingConfig
from soundcrafter.diffusion.guidance import (
    Model,
    guided,
    in_parts,
    prediction_to_denoiser,
    windowed,
)
from soundcrafter.diffusion.samplers import SAMPLERS, STOCHASTIC, Noise
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.hub import find_model
from soundcrafter.memory import keep_blocks, little_kept, return_freed
from soundcrafter.models.clap import Clap
from soundcrafter.models.clap_audio import ClapAudio
from soundcrafter.models.clap_text import ClapText
from soundcrafter.models.layers import Upsample
from soundcrafter.models.lora import Adapter
from soundcrafter.models.packed import pack_linears
from soundcrafter.models.spectral import SpectralVocoder
from soundcrafter.models.unet import ReusingUNet, UNet
from soundcrafter.models.vae import VAE
from soundcrafter.models.vocoder import Vocoder
from soundcrafter.precision import Precision, cast_weights, choose_precision
from soundcrafter.store import ModelFolder, open_folder

SECONDS_RANGE = (0.2, 600.0)
DEVICES = ("cpu", "cuda", "mps")
MAX_SEED = 2**63 - 1
# What is computed at once, so that memory stays flat. Longer sounds go through VAE and vocoder in
# pieces; on a CPU the U-Net takes no more of a batch at once than this many such sounds.
PIECE_SECONDS = 10.24
PIECES_AT_ONCE = 8
Progress = Callable[[int, int], None]
T = TypeVar("T")


class Options(TypedDict, total=False):
    """What a call of `generate` may say; None takes the model's default."""

    seconds: float | None  # length of each sound, .2 to 600
    count: int  # sounds a prompt (1)
    seed: int  # of the first one (0)
    steps: int | None  # sampling steps
    guidance: float | None  # weight of the prompt; 1 is none
    sampler: str | None  # one of diffusion.samplers.SAMPLERS
    reuse: int | None  # steps that share the U-Net's inner levels: faster, rougher; 1 is none
    negative: str | None  # what to keep away from; needs guidance other than 1
    candidates: int | None  # noises tried in a few steps, of which CLAP chooses the best
    batch_size: int  # sounds made at once (4), each with its candidates; never changes a sound
    progress: Progress | None  # called with (done, total) after every sampling step


@dataclass(frozen=True, eq=False)
class Sound:
    """One generated sound."""

    wave: np.ndarray  # [N] float32 in [-1, 1]
    sample_rate: int  # Hz
    prompt: str
    seed: int
    # Cosine of the prompt's and the sound's CLAP embeddings, in [-1, 1]; None where the model has
    # no audio tower.
    score: float | None

    @property
    def seconds(self) -> float:
        return len(self.wave) / self.sample_rate

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write wav or flac (16-bit PCM) or ogg, by the suffix; ValueError for another one."""
        write_audio(path, self.wave, self.sample_rate)
        return Path(path)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """The mel spectrogram: a PNG at `path`, or a matplotlib figure where there is none."""
        from soundcrafter.plots import plot_mel

        return plot_mel(self.wave, self.sample_rate, path, title=self.prompt)

    def play(self) -> Any:
        """A player, in a notebook."""
        from IPython.display import Audio  # type: ignore[import-not-found]  # there in a notebook

        return Audio(self.wave, rate=self.sample_rate)

    def _repr_html_(self) -> str:
        return cast(str, self.play()._repr_html_())


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
            keep_blocks()
            for network in (self.vae, self.unet):
                _arrange(network)
            self.unet.pack_convolutions(self._latent_bands)

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
        sampling = self.sampling
        seconds = _or(options.get("seconds"), sampling.seconds)
        steps = _or(options.get("steps"), sampling.steps)
        guidance = _or(options.get("guidance"), sampling.guidance)
        candidates = _or(options.get("candidates"), sampling.candidates)
        sampler = _or(options.get("sampler"), sampling.sampler)
        reuse = _or(options.get("reuse"), sampling.reuse)
        negative = _or(options.get("negative"), sampling.negative)
        count, seed = options.get("count", 1), options.get("seed", 0)
        batch_size = options.get("batch_size", 4)
        check_request(prompts, seconds, count, seed, steps, guidance, candidates, batch_size)
        check_sampler(sampler, reuse)
        if candidates > 1 and not self.clap.has_audio:
            raise ValueError(
                f"candidates: got {candidates}; allowed: 1, for without clap_audio none can choose"
            )
        settings = _Settings(seconds, steps, guidance, negative.strip(), candidates, sampler, reuse)
        jobs = [(prompt, seed + k) for prompt in prompts for k in range(count)]
        batches = [jobs[i : i + batch_size] for i in range(0, len(jobs), batch_size)]
        progress = options.get("progress")

        def sounds() -> Iterator[Sound]:
            each = steps + (sampling.draft_steps if candidates > 1 else 0)
            for index, batch in enumerate(batches):

                def report(done: int, before: int = index * each) -> None:
                    if progress is not None:
                        progress(before + done, each * len(batches))

                yield from self._generate(batch, settings, report)

        return sounds()

    @torch.inference_mode()
    def _generate(
        self,
        jobs: Sequence[tuple[str, int]],
        settings: "_Settings",
        report: Callable[[int], None],
    ) -> Iterator[Sound]:
        cond = self.clap.embed_text([prompt for prompt, _ in jobs])
        drafts = torch.stack(
            [self.noise(seed, settings.seconds, settings.candidates) for _, seed in jobs]
        ).to(self.device)
        drafted = self.sampling.draft_steps if settings.candidates > 1 else 0
        noise = self._choose(drafts, jobs, cond, settings, report) if drafted else drafts[:, 0]
        seeds = [seed for _, seed in jobs]
        latent = self._sample(
            noise, seeds, cond, settings, settings.steps, lambda n, _: report(drafted + n)
        )
        for i, (prompt, seed) in enumerate(jobs):
            # one at a time, for the mel's full size is what costs
            samples = self._cut(self.vocode(self.decode(latent[i : i + 1])), settings.seconds)
            score = None
            if self.clap.has_audio:
                return_freed()  # the vocoder's maps, which the audio encoder has no use for
                score = float(cond[i] @ self.clap.embed_audio(samples, self.sample_rate)[0])
            yield Sound(samples, self.sample_rate, prompt, seed, score)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """latent [B, C, T, F] -> log-mel [B, 1, T', F'], float32."""
        with self._keeping_little(self.vae):
            return chunks.decode(self.vae, latent, self._latent_frames(PIECE_SECONDS))

    def vocode(self, mel: torch.Tensor) -> torch.Tensor:
        """log-mel [B, 1, T, F] -> wave [B, N], float32."""
        config = self.vocoder.config.mel
        # a vocoder of convolutions transforms its filters for each piece; a spectral one has none
        pieces = 2 if isinstance(self.vocoder, SpectralVocoder) else 1
        frames = round(PIECE_SECONDS / pieces * config.sample_rate / config.hop)
        with self._keeping_little(self.vocoder):
            return chunks.vocode(self.vocoder, mel, frames)

    def _keeping_little(self, network: torch.nn.Module) -> AbstractContextManager[None]:
        return little_kept(network) if self.device.type == "cpu" else nullcontext()

    def _sample(
        self,
        noise: torch.Tensor,
        seeds: Sequence[int],
        cond: torch.Tensor,
        settings: "_Settings",
        steps: int,
        callback: Progress,
    ) -> torch.Tensor:
        """Noise [B, C, T, F], the seed of each, and cond [B, E] -> latent [B, C, T, F], by `steps`
        guided steps."""
        avoid = settings.negative
        uncond = self.clap.embed_text([avoid])[0] if avoid else self.unet.null_cond
        options: dict[str, Any] = {}
        if settings.sampler in STOCHASTIC:
            options["noise"] = step_noise(seeds, noise)
        elif self.sampling.end == "first_step" and settings.sampler == "ddim":
            options["final_alpha_bar"] = float(self.schedule.alpha_bar[0])
        low, high = self.sampling.guidance_from, self.sampling.guidance_until
        last = self.schedule.config.steps
        interval = None if (low, high) == (0.0, 1.0) else (low * last, high * last)
        model = self._model(noise.shape[2], settings.reuse)
        predict = guided(model, cond, uncond, settings.guidance, interval)
        return SAMPLERS[settings.sampler](
            prediction_to_denoiser(predict, self.schedule),
            noise,
            self.schedule.sampling_times(steps, self.sampling.spacing),
            self.schedule,
            callback=callback,
            **options,
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
        settings: "_Settings",
        report: Callable[[int], None],
    ) -> torch.Tensor:
        """Noises [J, K, C, T, F] and cond [J, E] -> of each K the one whose sound, made in few
        steps, is nearest to cond, [J, C, T, F].

        What a noise becomes in a few steps is a rough copy of what it becomes in many (less so
        with a sampler that adds noise).
        """
        count, steps = drafts.shape[1], self.sampling.draft_steps
        each = cond.repeat_interleave(count, 0)
        seeds = [seed for _, seed in jobs for _ in range(count)]
        latent = self._sample(
            drafts.flatten(0, 1), seeds, each, settings, steps, lambda n, _: report(n)
        )
        scores = [
            self._score(self.decode(latent[i : i + 1]), each[i], settings.seconds)
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
        samples = self._cut(self.vocode(mel), seconds)
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


@dataclass(frozen=True)
class _Settings:
    """What one call of `generate` asks for."""

    seconds: float
    steps: int
    guidance: float
    negative: str
    candidates: int
    sampler: str
    reuse: int


def _arrange(network: torch.nn.Module) -> None:
    """Prepare a network for use on a CPU: same results, less work."""
    # oneDNN's convolutions of large batches are twice as fast so
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in network.modules():
        if isinstance(module, Upsample):
            module.fold()
    pack_linears(network)


def step_noise(seeds: Sequence[int], like: torch.Tensor) -> Noise:
    """What a sampler adds at each step, as `like` [B, ...]: of a sample's seed and step alone."""

    def noise(step: int) -> torch.Tensor:
        rows = []
        for seed in seeds:
            # any odd constant spreads neighbouring seeds and steps; this is the golden ratio's
            generator = torch.Generator().manual_seed((seed * 0x9E3779B9 + step + 1) % MAX_SEED)
            rows.append(torch.randn(like.shape[1:], generator=generator))
        return torch.stack(rows).to(like.device)

    return noise


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def check_request(
    prompts: Sequence[str],
    seconds: float,
    count: int,
    seed: int,
    steps: int,
    guidance: float,
    candidates: int = 1,
    batch_size: int = 1,
) -> None:
    """Raise ValueError, saying what is allowed, for what `generate` cannot do."""
    if not prompts or any(not prompt.strip() for prompt in prompts):
        raise ValueError("prompt: it is empty; say what should be heard")
    low, high = SECONDS_RANGE
    if not low <= seconds <= high:  # nan fails too
        raise ValueError(f"seconds: got {seconds:g}; allowed: {low:g} to {high:g}")
    if count < 1:
        raise ValueError(f"count: got {count}; at least 1")
    if steps < 1:
        raise ValueError(f"steps: got {steps}; at least 1")
    if not (math.isfinite(guidance) and guidance >= 0):
        raise ValueError(f"guidance: got {guidance:g}; a number from 0 up")
    if not 0 <= seed <= MAX_SEED - count:
        raise ValueError(f"seed: got {seed}; allowed: 0 to {MAX_SEED - count}")
    if candidates < 1:
        raise ValueError(f"candidates: got {candidates}; at least 1")
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}; at least 1")


def check_sampler(sampler: str, reuse: int) -> None:
    """Raise ValueError, saying what is allowed, for a sampling that is not there."""
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler: got {sampler!r}; allowed: {', '.join(SAMPLERS)}")
    if reuse < 1:
        raise ValueError(f"reuse: got {reuse}; at least 1, which reuses nothing")
    if reuse > 1 and sampler == "heun":  # which evaluates each time twice
        raise ValueError(f"reuse: got {reuse} with sampler heun; allowed: 1")


def choose_device(name: str | torch.device) -> torch.device:
    """The torch device of that name; "auto" is the GPU where there is one, else the CPU.

    Raises ValueError for another kind than DEVICES and a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fault = f"device: {str(name)!r} is not there; allowed: auto, {', '.join(DEVICES)}"
    if str(name).partition(":")[0] not in DEVICES:  # torch knows kinds that hold no data
        raise ValueError(fault)
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # torch asserts where it was built without CUDA
        raise ValueError(fault) from None
    return device
