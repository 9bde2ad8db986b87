"""Where the U-Net's latents and embeddings come from: audio on the fly, or encoded once before."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from soundcrafter.data.dataset import DataConfig, Sounds
from soundcrafter.data.events import event_rows
from soundcrafter.data.latents import INDEX, LatentBatch, Latents
from soundcrafter.data.shards import first_shard, is_shards
from soundcrafter.files import same_file
from soundcrafter.mel import LogMel
from soundcrafter.models.clap_audio import ClapAudio
from soundcrafter.models.clap_text import ClapText
from soundcrafter.models.vae import VAE, Posterior
from soundcrafter.store import open_folder
from soundcrafter.train.curriculum import Curriculum, Phase, PhaseConfig
from soundcrafter.train.recipe import Recipe
from soundcrafter.train.sounds import data_identity, open_sounds, segment_samples
from soundcrafter.train.stage import Batch, refuse_other_settings, require_parts


class Encoded(NamedTuple):
    """Encoded sounds. With timelines, each has up to K events."""

    posterior: Posterior  # [B, C, T, F]
    audio: Tensor | None  # embeddings of sounds, if asked for: [B, E], or of events [B, K, E]
    text: Tensor | None  # of captions, if asked for: likewise
    levels: Tensor | None  # of the events [B, K, T], see `diffusion.events`


class Source(ABC):
    """Latents and embeddings of one phase."""

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
    def encode(self, batch: Batch, device: torch.device) -> Encoded:
        """Encode on the device what `load` returned."""


class EncodedSource(Source):
    """Data that `soundcrafter data encode` made; no audio, no VAE, no CLAP."""

    def __init__(
        self, recipe: Recipe, data: str | PathLike[str], config: PhaseConfig, with_text: bool
    ) -> None:
        self.latents = Latents(data, seed=recipe.diffusion.seed)
        if with_text and not self.latents.has_text:
            raise ValueError(f"{data}: was encoded without captions, but the condition is text")
        self.with_text = with_text
        metadata = self.latents.metadata
        self.latent_scale = float(metadata["latent_scale"])
        self.trained_against = {name: metadata[name] for name in ("vae", "clap_audio")}
        self.latent_shape = segment(recipe, config)[1]
        differences = _differences(self.latents, self.latents.batch([0]), recipe, config)
        if differences:
            raise ValueError(
                f"{data}: was encoded with settings that differ from the recipe's: "
                f"{'; '.join(differences)}; use the same settings, or encode again"
            )

    def made_by(self) -> dict[str, Any]:
        """The VAE with its latent scale, and the CLAP, that it was encoded with."""
        names = ("vae", "clap_audio", "clap_text", "latent_scale")
        return {name: self.latents.metadata[name] for name in names}

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
            **({} if batch.levels is None else {"levels": batch.levels}),
        }

    def encode(self, batch: Batch, device: torch.device) -> Encoded:
        posterior = Posterior(batch["mean"].to(device), batch["logvar"].to(device))
        text = batch["text"].to(device) if self.with_text else None
        levels = batch["levels"].to(device) if "levels" in batch else None
        return Encoded(posterior, batch["audio"].to(device), text, levels)


class Encoders:
    """The VAE and CLAP of a model folder, frozen, in fp32.

    CLAP may be an imported one, with a sample rate and a spectrogram of its own; the recipe has to
    describe it all the same. ValueError, naming each setting, where a part is not the recipe's.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        share = recipe.diffusion.text_share
        # published models come without the audio tower, which words as condition do not need
        self.sounds_condition = share < 1
        needed = ["vae", *(["clap_audio"] if self.sounds_condition else [])]
        require_parts(folder, *needed, *(["clap_text"] if share > 0 else []))
        parts = open_folder(folder)
        with_audio = self.sounds_condition or "clap_audio" in parts.parts
        self.vae = cast(VAE, parts.load("vae"))
        self.audio = cast(ClapAudio, parts.load("clap_audio")) if with_audio else None
        self.text = cast(ClapText, parts.load("clap_text")) if share > 0 else None
        self.tokenizer = parts.load_tokenizer() if share > 0 else None
        loaded = {"vae": self.vae, "clap_audio": self.audio, "clap_text": self.text}
        ids = {name: parts.parts[name].training_id for name in loaded if loaded[name] is not None}
        for name in ids:
            there, here = parts.parts[name].config, getattr(recipe.model, name)
            refuse_other_settings(folder, name, there, here)
        self.trained_against = {name: ids.get(name, "") for name in ("vae", "clap_audio")}
        self.text_id = ids.get("clap_text")
        self.parts = tuple(ids)
        self.log_mel = LogMel(self.vae.config.mel)

    def posterior(self, wave: Tensor, config: PhaseConfig, device: torch.device) -> Posterior:
        """wave [B, N] -> the VAE's posterior at the phase's resolution, on the device."""
        mel = self.log_mel.to(device)(wave.to(device))
        return self.vae.to(device).posterior(config.blur(mel))

    def embed_audio(self, wave: Tensor, device: torch.device) -> Tensor:
        """wave [B, N] at the VAE's rate, resampled where the tower has another -> [B, E], on the
        device. ValueError without the tower."""
        if self.audio is None:
            raise ValueError("clap_audio: missing, so sounds cannot be embedded")
        return self.audio.to(device).embed(wave, self.vae.config.mel.sample_rate)

    def embed_text(self, captions: Sequence[str], device: torch.device) -> Tensor:
        """Captions -> [B, E], on the device."""
        assert self.text is not None
        assert self.tokenizer is not None
        return self.text.to(device).embed(captions, self.tokenizer)


class AudioSource(Source):
    """Recordings, through the encoders."""

    def __init__(
        self, recipe: Recipe, encoders: Encoders, sounds: Sounds, config: PhaseConfig
    ) -> None:
        num_samples, self.latent_shape = segment(recipe, config)
        self.sounds, self.encoders, self.config = sounds.of_length(num_samples), encoders, config
        self.latent_scale = float(encoders.vae.latent_scale)
        self.trained_against = encoders.trained_against

    def identity(self) -> dict[str, Any]:
        return {"clap_text": self.encoders.text_id, **data_identity(self.sounds)}

    def skipped(self) -> dict[str, str]:
        return self.sounds.all_skipped

    def load(self, indices: Sequence[int]) -> Batch:
        batch = self.sounds.batch(indices)
        return {
            "wave": batch.wave,
            "captions": batch.captions,
            "events": batch.events,
            "files": batch.files,
        }

    def encode(self, batch: Batch, device: torch.device) -> Encoded:
        encoders, wave = self.encoders, batch["wave"]
        posterior = encoders.posterior(wave, self.config, device)

        def embed_audio(waves: Tensor) -> Tensor:
            return encoders.embed_audio(waves, device)

        def embed_text(captions: Sequence[str]) -> Tensor:
            return encoders.embed_text(captions, device)

        with_audio, with_text = encoders.sounds_condition, encoders.text is not None
        if not self.sounds.config.timeline_probability:
            return Encoded(
                posterior,
                embed_audio(wave) if with_audio else None,
                embed_text(batch["captions"]) if with_text else None,
                None,
            )
        rows = event_rows(wave, batch["captions"], batch["events"], self.latent_shape[1])
        return Encoded(
            posterior,
            rows.embed(embed_audio) if with_audio else None,
            rows.embed_captions(embed_text) if with_text else None,
            rows.levels.to(device),
        )


def audio_sources(
    recipe: Recipe, data: str | PathLike[str], encoders: Encoders, curriculum: Curriculum
) -> list[AudioSource]:
    """The source of each phase; they share what is decoded."""
    sounds = open_sounds(
        data,
        recipe.data,
        mel=encoders.vae.config.mel,
        num_samples=segment(recipe, curriculum.phases[-1].config)[0],
        seed=recipe.diffusion.seed,
        need_caption=encoders.text is not None,
        finite=True,
        timelines=True,
    )
    return [AudioSource(recipe, encoders, sounds, phase.config) for phase in curriculum.phases]


def encoded_sources(
    recipe: Recipe, data: str | PathLike[str], curriculum: Curriculum, with_text: bool
) -> list[EncodedSource]:
    """The source of each phase, from the folders that `encoded_folder` names."""
    last = curriculum.phases[-1]
    if is_shards(data):
        if len(curriculum.phases) > 1:
            raise ValueError(f"{data}: a curriculum needs the folder of its shards: --data DIR")
        return [EncodedSource(recipe, data, last.config, with_text)]
    folders = [encoded_folder(Path(data), phase, last) for phase in curriculum.phases]
    missing = [folder.name for folder in folders if not (folder / INDEX).is_file()]
    if missing:
        raise ValueError(
            f"{data}: has no {', '.join(missing)}: it was encoded without the recipe's curriculum; "
            "encode with the same recipe"
        )
    sources = [
        EncodedSource(recipe, folder, phase.config, with_text)
        for folder, phase in zip(folders, curriculum.phases, strict=True)
    ]
    for folder, source in zip(folders, sources, strict=True):
        if source.made_by() != sources[-1].made_by():
            raise ValueError(
                f"{folder}: was encoded with a different VAE or CLAP than {data}; encode again"
            )
    return sources


def encoded_folder(data: Path, phase: Phase, last: Phase) -> Path:
    """Where a phase's encoded data are: the last one's, of full resolution, in `data` itself."""
    return data if phase.number == last.number else data / f"phase-{phase.number + 1}"


def is_encoded(data: str | PathLike[str]) -> bool:
    """Whether a folder or shards contain encoded data. ValueError if a folder is incomplete."""
    if is_shards(data):
        first = first_shard(data)
        return first is not None and first.settings is not None
    data = Path(data)
    if (data / INDEX).is_file():
        return True
    parts = [*data.glob("latents-*.safetensors"), *data.glob("phase-*/latents-*.safetensors")]
    if parts:
        raise ValueError(
            f"{data}: the encoding was interrupted; run the same `soundcrafter data encode` "
            "command again to finish it"
        )
    return False


def segment(recipe: Recipe, config: PhaseConfig) -> tuple[int, tuple[int, int, int]]:
    """The samples of a phase's segment, and the shape C, T, F of its latent."""
    vae, unet = recipe.model.vae, recipe.model.unet
    both = (vae.stride[0] * unet.stride[0], vae.stride[1] * unet.stride[1])
    num_samples = segment_samples(config.seconds, vae.mel, config.frame_multiple(both))
    frames, bands = config.grid_of(vae.mel.num_frames(num_samples), vae.mel, both)
    return num_samples, (vae.latent_channels, frames // vae.stride[0], bands // vae.stride[1])


def _differences(
    latents: Latents, first: LatentBatch, recipe: Recipe, config: PhaseConfig
) -> list[str]:
    """Where encoded data is not what the recipe's would be; `first` is any of its batches."""
    num_samples, shape = segment(recipe, config)
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
        "samples of a segment": (latents.num_samples, num_samples),
        "pool": (latents.metadata.get("pool", 1), config.pool),
        "latent shape": (tuple(first.mean.shape[1:]), shape),
        "embed_dim": (first.audio_embedding.shape[-1], recipe.model.unet.embed_dim),
    }
    if same_file(*pairs["data.wordings"]):
        del pairs["data.wordings"]
    return [
        f"{name} is {there}, not {here}" for name, (there, here) in pairs.items() if there != here
    ]
