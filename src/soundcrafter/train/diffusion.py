"""The U-Net's training: latent, condition, noise -> U-Net -> loss; CLAP and VAE are frozen."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from soundcrafter.config import ModelConfig
from soundcrafter.data.dataset import DataConfig
from soundcrafter.data.encode import INDEX, LatentBatch, Latents
from soundcrafter.diffusion.guidance import guided, prediction_to_denoiser
from soundcrafter.diffusion.loss import diffusion_loss
from soundcrafter.diffusion.samplers import SAMPLERS
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.mel import LogMel
from soundcrafter.models.clap import ClapAudio, ClapText
from soundcrafter.models.unet import UNet
from soundcrafter.models.vae import VAE, Posterior
from soundcrafter.models.vocoder import Vocoder
from soundcrafter.settings import to_dict
from soundcrafter.store import open_folder, save_part
from soundcrafter.train.recipe import DiffusionStageConfig, Recipe
from soundcrafter.train.sounds import data_identity, open_sounds, segment_samples
from soundcrafter.train.stage import (
    Batch,
    Player,
    Samples,
    Stage,
    Terms,
    load_part,
    sample_noise,
    sample_uniform,
)

# purpose numbers of what is random for a sample (see stage.sample_noise)
_POSTERIOR, _NOISE, _TIME, _TEXT, _DROP = 10, 20, 21, 22, 23


class UNetPlayer(Player):
    """The denoising loss."""

    def __init__(self, unet: UNet, schedule: Schedule) -> None:
        super().__init__(unet)
        self.unet, self.schedule = cast(UNet, self.network), schedule

    def forward(self, batch: Batch, step: int) -> tuple[Terms, Batch]:
        cond = torch.where(batch["drop"][:, None], self.unet.null_cond, batch["cond"])
        t = self.schedule.draw_times(batch["u"])
        loss = diffusion_loss(self.unet, self.schedule, batch["latent"], batch["noise"], t, cond)
        return {"denoising": loss.mean()}, {}


class Source(ABC):
    """Where latents and embeddings come from: audio on the fly, or encoded once before."""

    latent_shape: tuple[int, int, int]  # C, T, F
    latent_scale: float  # the VAE's
    trained_against: dict[str, str]  # training ids of vae and clap_audio

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to resume."""

    @abstractmethod
    def skipped(self) -> dict[str, str]:
        """File -> reason, of the recordings left out so far."""

    @abstractmethod
    def load(self, indices: Sequence[int]) -> Batch:
        """What is read on the CPU."""

    @abstractmethod
    def encode(self, batch: Batch, device: torch.device) -> tuple[Posterior, Tensor, Tensor | None]:
        """Posterior [B, C, T, F], audio embedding [B, E], text embedding [B, E] if asked for."""


class EncodedSource(Source):
    """A folder that `soundcrafter data encode` made; no audio, no VAE, no CLAP."""

    def __init__(self, recipe: Recipe, data: Path, with_text: bool) -> None:
        self.latents = Latents(data, seed=recipe.diffusion.seed)
        if with_text and not self.latents.has_text:
            raise ValueError(f"{data}: was encoded without captions, but the condition is text")
        self.with_text = with_text
        metadata = self.latents.metadata
        self.latent_scale = float(metadata["latent_scale"])
        self.trained_against = {name: metadata[name] for name in ("vae", "clap_audio")}
        self.latent_shape = _segment(recipe)[1]
        differences = _differences(self.latents, self.latents.batch([0]), recipe)
        if differences:
            raise ValueError(
                f"{data}: was encoded with other settings than the recipe's: "
                f"{'; '.join(differences)}; use the same, or encode again"
            )

    def identity(self) -> dict[str, Any]:
        latents = self.latents
        return {"encoded": len(latents), "sha256": latents.fingerprint, **latents.metadata}

    def skipped(self) -> dict[str, str]:
        return dict(self.latents.skipped)

    def load(self, indices: Sequence[int]) -> Batch:
        batch = self.latents.batch(indices)
        return {
            "mean": batch.mean,
            "logvar": batch.logvar,
            "audio": batch.audio_embedding,
            "text": batch.text_embedding,
            "files": batch.files,
        }

    def encode(self, batch: Batch, device: torch.device) -> tuple[Posterior, Tensor, Tensor | None]:
        posterior = Posterior(batch["mean"].to(device), batch["logvar"].to(device))
        text = batch["text"].to(device) if self.with_text else None
        return posterior, batch["audio"].to(device), text


class AudioSource(Source):
    """Recordings, with the VAE and CLAP of the model folder, frozen, in fp32."""

    def __init__(self, recipe: Recipe, data: Path, folder: Path, with_text: bool) -> None:
        parts = open_folder(folder)
        self.vae = cast(VAE, parts.load("vae"))
        self.audio = cast(ClapAudio, parts.load("clap_audio"))
        self.text = cast(ClapText, parts.load("clap_text")) if with_text else None
        self.tokenizer = parts.load_tokenizer() if with_text else None
        for name in ("vae", "clap_audio", *(("clap_text",) if with_text else ())):
            if parts.parts[name].config != getattr(recipe.model, name):
                raise ValueError(f"{folder}: its {name} has other settings than the recipe's")
        names = ("vae", "clap_audio")
        self.trained_against = {name: parts.parts[name].training_id for name in names}
        self.text_id = parts.parts["clap_text"].training_id if with_text else None
        mel = self.vae.config.mel
        num_samples, self.latent_shape = _segment(recipe)
        self.sounds = open_sounds(
            data,
            recipe.data,
            mel=mel,
            num_samples=num_samples,
            seed=recipe.diffusion.seed,
            need_caption=with_text,
            finite=True,
        )
        self.latent_scale = float(self.vae.latent_scale)
        self.log_mel = LogMel(mel)

    def identity(self) -> dict[str, Any]:
        return {"clap_text": self.text_id, **data_identity(self.sounds)}

    def skipped(self) -> dict[str, str]:
        return self.sounds.all_skipped

    def load(self, indices: Sequence[int]) -> Batch:
        batch = self.sounds.batch(indices)
        return {"wave": batch.wave, "captions": batch.captions, "files": batch.files}

    def encode(self, batch: Batch, device: torch.device) -> tuple[Posterior, Tensor, Tensor | None]:
        wave = batch["wave"]
        text = self.embed_text(batch["captions"], device) if self.text is not None else None
        return self.posterior(wave, device), self.embed_audio(wave, device), text

    def posterior(self, wave: Tensor, device: torch.device) -> Posterior:
        """wave [B, N] -> the VAE's posterior, on the device."""
        return self.vae.to(device).posterior(self.log_mel.to(device)(wave.to(device)))

    def embed_audio(self, wave: Tensor, device: torch.device) -> Tensor:
        """wave [B, N] -> [B, E], on the device."""
        return self.audio.to(device).embed(wave, self.sounds.sample_rate)

    def embed_text(self, captions: Sequence[str], device: torch.device) -> Tensor:
        """Captions -> [B, E], on the device."""
        assert self.text is not None
        assert self.tokenizer is not None
        return self.text.to(device).embed(captions, self.tokenizer)


class DiffusionStage(Stage):
    """Trains the part `unet`."""

    name = "diffusion"
    parts = ("unet",)

    def __init__(self, recipe: Recipe, data: Path, folder: Path) -> None:
        self.config: DiffusionStageConfig = recipe.diffusion
        self.model_config: ModelConfig = recipe.model
        self.folder = folder
        with_text = self.config.text_share > 0
        self.source: Source = (
            EncodedSource(recipe, data, with_text)
            if (data / INDEX).is_file()
            else AudioSource(recipe, data, folder, with_text)
        )
        if (folder / "config.json").is_file():
            open_folder(folder).check_against("the data's encoding", self.source.trained_against)
        torch.manual_seed(self.config.seed)
        unet = UNet(self.model_config.unet)
        unet.checkpointing = self.config.checkpointing
        self.schedule = Schedule(self.model_config.diffusion)
        self.players = {"unet": UNetPlayer(unet, self.schedule)}

    def identity(self) -> dict[str, Any]:
        return {
            "model": {
                "unet": to_dict(self.model_config.unet),
                "diffusion": to_dict(self.model_config.diffusion),
            },
            "stage": to_dict(self.config),
            "data": self.source.identity(),
            "against": self.source.trained_against,
        }

    def skipped(self) -> dict[str, str]:
        return self.source.skipped()

    def load_batch(self, indices: Sequence[int]) -> Batch:
        seed, shape, share = self.config.seed, self.source.latent_shape, self.config.text_share
        use_text = [sample_uniform(seed, _TEXT, i) < share for i in indices]
        drop = [sample_uniform(seed, _DROP, i) < self.config.drop_condition for i in indices]
        return {
            **self.source.load(indices),
            "posterior_noise": torch.stack(
                [sample_noise(seed, _POSTERIOR, i, shape) for i in indices]
            ),
            "noise": torch.stack([sample_noise(seed, _NOISE, i, shape) for i in indices]),
            "u": torch.tensor([self._time(index) for index in indices]),
            "use_text": torch.tensor(use_text),
            "drop": torch.tensor(drop),
        }

    def prepare(self, batch: Batch, device: torch.device) -> Batch:
        posterior, audio, text = self.source.encode(batch, device)
        cond = audio
        if text is not None:
            cond = torch.where(batch["use_text"].to(device)[:, None], text, audio)
        latent = posterior.sample(batch["posterior_noise"].to(device)) * self.source.latent_scale
        moved = {key: batch[key].to(device) for key in ("noise", "u", "drop")}
        return {**moved, "latent": latent, "cond": cond, "files": batch["files"]}

    def initialise(self, folder: Path) -> None:
        load_part(self.network, folder, "unet")

    def export(self, network: nn.Module, folder: Path) -> None:
        save_part(
            folder,
            "unet",
            network,
            self.model_config.unet,
            trained_against=self.source.trained_against,
            diffusion=self.model_config.diffusion,
            sampling=self.model_config.sampling,
        )

    @torch.no_grad()
    def samples(self, network: nn.Module, device: torch.device) -> Samples:
        """Generated sounds for the conditions of the first four samples: spectrograms with the
        folder's VAE, waves with its vocoder; nothing without a VAE."""
        vae, vocoder = self._decoders
        if vae is None:
            return Samples()
        unet, sampling = cast(UNet, network), self.model_config.sampling
        batch = self.prepare(self.load_batch(range(4)), device)
        predict = guided(unet, batch["cond"], unet.null_cond, sampling.guidance)
        times = self.schedule.sampling_times(sampling.steps, sampling.spacing)
        latent = SAMPLERS[sampling.sampler](
            prediction_to_denoiser(predict, self.schedule), batch["noise"], times, self.schedule
        )
        mel = vae.to(device).decode(latent)
        wave = () if vocoder is None else vocoder.to(device)(mel).cpu().numpy()
        return Samples(
            waves={f"{i}/generated": one for i, one in enumerate(wave)},
            mels={f"{i}/generated": one for i, one in enumerate(mel[:, 0].cpu().numpy())},
            sample_rate=vae.config.mel.sample_rate,
        )

    @cached_property
    def _decoders(self) -> tuple[VAE | None, Vocoder | None]:
        """VAE and vocoder of the model folder; nothing where its VAE made other latents."""
        if not (self.folder / "config.json").is_file():
            return None, None
        parts, made_by = open_folder(self.folder), self.source.trained_against["vae"]
        if "vae" not in parts.parts or parts.parts["vae"].training_id != made_by:
            return None, None
        here = isinstance(self.source, AudioSource)
        vae = cast(AudioSource, self.source).vae if here else cast(VAE, parts.load("vae"))
        return vae, cast(Vocoder, parts.load("vocoder")) if "vocoder" in parts.parts else None

    def _time(self, index: int) -> float:
        """The uniform number that chooses a sample's time step.

        Stratified over a batch (Kingma et al. 2021, appendix I): one draw a step, then equal
        spacing: the loss varies less and each time step is as likely as before.
        """
        step, place = divmod(index, self.config.batch_size)
        offset = sample_uniform(self.config.seed, _TIME, step)
        return (offset + place / self.config.batch_size) % 1.0


def _segment(recipe: Recipe) -> tuple[int, tuple[int, int, int]]:
    """The samples of a training segment, and the shape C, T, F of its latent."""
    vae, (time, frequency) = recipe.model.vae, recipe.model.vae.stride
    multiple = time * recipe.model.unet.stride[0]
    num_samples = segment_samples(recipe.diffusion.seconds, vae.mel, multiple)
    frames, rows = vae.mel.num_frames(num_samples), vae.mel.num_mels
    return num_samples, (vae.latent_channels, frames // time, rows // frequency)


def _differences(latents: Latents, first: LatentBatch, recipe: Recipe) -> list[str]:
    """Where encoded data is not what the recipe's would be; `first` is any of its batches."""
    num_samples, shape = _segment(recipe)
    pairs = {
        f"data.{field.name}": (
            getattr(latents.config, field.name),
            getattr(recipe.data, field.name),
        )
        for field in fields(DataConfig)
        if field.name != "cache_gb"  # a matter of speed
    }
    pairs |= {
        "sample rate": (latents.sample_rate, recipe.model.vae.mel.sample_rate),
        "samples by diffusion.seconds": (latents.num_samples, num_samples),
        "latent shape": (tuple(first.mean.shape[1:]), shape),
        "embed_dim": (first.audio_embedding.shape[1], recipe.model.unet.embed_dim),
    }
    return [
        f"{name} is {there}, not {here}" for name, (there, here) in pairs.items() if there != here
    ]
