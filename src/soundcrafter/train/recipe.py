"""The recipe: all settings that affect what is learned, in one strict TOML file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from soundcrafter.config import GENERATOR_PARTS, ModelConfig
from soundcrafter.data.augment import DistortionConfig
from soundcrafter.data.dataset import DataConfig
from soundcrafter.models.discriminators import (
    PatchDiscriminatorConfig,
    SpectrogramDiscriminatorConfig,
    WaveDiscriminatorConfig,
)
from soundcrafter.models.tagger import TaggerConfig
from soundcrafter.settings import from_dict, merge, read_toml, to_dict
from soundcrafter.store import ModelFolder
from soundcrafter.train.curriculum import (
    MOST_SAMPLES,
    MOST_SECONDS,
    Curriculum,
    PhaseConfig,
)

SHIPPED = Path(__file__).resolve().parents[1] / "recipes"
PATHS = (  # settings that name files or folders; relative to the recipe, with --set as usual
    "data.exclude_captions",
    "data.wordings",
    "text.teacher",
    "clap.audio_init",
    "vae.perceptual",
    "vae.teacher",
    "tagger.teacher",
)
MAX_SEGMENTS = 64  # of distillation
SPEC_AUGMENT = DistortionConfig(tilt=0.5, band_shift=2, time_mask=0.25, band_mask=0.2)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Settings of every stage."""

    steps: int = 400_000  # optimiser steps
    batch_size: int = 16  # samples per optimiser step, over all processes and micro-batches
    accumulate: int = 1  # micro-batches per step
    seconds: float = 10.24  # length of a training segment
    learning_rate: float = 1e-4  # peak
    final_learning_rate: float = 0.0  # at the end, as a fraction of the peak
    warmup_steps: int = 0  # linear warm-up from 0
    # After the warm-up: one cosine, or the peak, so that a run can be extended without a trace, and
    # a decay at the end.
    schedule: Literal["cosine", "constant"] = "cosine"
    decay: float = 0.0  # share of the steps after the warm-up in which a constant schedule ends
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW
    weight_decay: float = 0.01  # AdamW
    clip_norm: float = 0.0  # largest gradient norm; 0: no clipping
    ema_decay: float = 0.9999  # of the exported weights; 0: no averaging
    # Of the forward pass; weights stay fp32. auto: bf16 where the device has it, else fp32, chosen
    # when a run begins and kept.
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    seed: int = 0  # of everything random in this stage

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "seconds", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}; must be above 0")
        self._refuse_above(MOST_SECONDS, "seconds")
        self._refuse_above(MOST_SAMPLES, "batch_size")
        self._refuse_negative(
            "warmup_steps", "weight_decay", "clip_norm", "seed", "final_learning_rate"
        )
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size: {self.batch_size} is not a multiple of accumulate")
        self._check_fractions("decay")
        if self.decay and self.schedule == "cosine":
            raise ValueError(f"decay: got {self.decay}; allowed with the cosine: 0")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay: got {self.ema_decay}; allowed: 0 to below 1")

    def _refuse_negative(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}; must not be negative")

    def _refuse_above(self, most: float, *names: str) -> None:
        for name in names:
            if getattr(self, name) > most:
                raise ValueError(f"{name}: got {getattr(self, name)}; allowed: up to {most}")

    def _check_fractions(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; allowed: 0 to 1")


@dataclass(frozen=True, kw_only=True)
class TextStageConfig(StageConfig):
    """Distillation of a sentence encoder into the text tower, without any sound."""

    teacher: str = ""  # folder or hub name of a sentence encoder in transformers' layout
    captions: tuple[str, ...] = ("audiocaps_train.csv", "audiocaps_val.csv")  # below the data
    ontology: str = "audioset_ontology.json"  # below the data; empty: none
    max_words: int = 16  # longer texts are left out, to keep batches short
    pairs: float = 0.5  # fraction of the texts that get a partner with the same meaning
    words: float = 0.25  # fraction of the others that are single words of the teacher's vocabulary
    contrastive_weight: float = 0.2  # of the symmetric cross-entropy between partners

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_negative("contrastive_weight", "max_words")
        if self.accumulate > 1:  # the loss compares all texts of a batch
            raise ValueError(f"accumulate: got {self.accumulate}; a contrastive batch is not split")
        if not self.captions:
            raise ValueError("captions: must not be empty; name at least one CSV file")
        self._check_fractions("words", "pairs")


@dataclass(frozen=True, kw_only=True)
class ClapStageConfig(StageConfig):
    """Contrastive training of the two towers."""

    pad: Literal["zero", "repeat"] = "repeat"  # of short recordings; "repeat" as in LAION's CLAP
    train_text: bool = True  # false: only the audio tower, against a frozen text tower
    freeze_norm: bool = False  # keep HTS-AT's BatchNorm statistics
    audio_init: str = ""  # model folder whose tagger initialises the conv audio tower
    distortion: DistortionConfig = field(default_factory=DistortionConfig)  # of its spectrograms
    checkpointing: bool = False  # gradient checkpointing: less memory, more time

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 2:  # a sound is learned from the captions of others
            raise ValueError(f"batch_size: got {self.batch_size}; at least 2, to compare sounds")
        if self.accumulate > 1:  # the loss compares all captions of a batch with all its sounds
            raise ValueError(f"accumulate: got {self.accumulate}; a contrastive batch is not split")


@dataclass(frozen=True, kw_only=True)
class VAEStageConfig(StageConfig):
    """Reconstruction + KL + adversarial + perceptual."""

    reconstruction_scales: tuple[int, ...] = (1,)  # average poolings of the mel before the L1
    perceptual: str = ""  # model folder with the tagger of the perceptual loss; empty: none
    perceptual_weight: float = 1.0
    teacher: str = ""  # checkpoint of aiSFX for a second perceptual loss; empty: none
    teacher_weight: float = 1.0
    kl_weight: float = 1e-6  # of the KL in nats per mel element
    adversarial_weight: float = 0.5  # times the adaptive weight
    feature_weight: float = 0.0  # of feature matching in the discriminator
    adversarial_start: int = 50_000  # first step with the discriminator
    discriminator: PatchDiscriminatorConfig = field(default_factory=PatchDiscriminatorConfig)
    betas: tuple[float, float] = (0.5, 0.9)
    weight_decay: float = 0.0
    scale_batches: int = 16  # batches for measuring the latent scale
    checkpointing: bool = False  # gradient checkpointing: less memory, more time

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_negative(
            "kl_weight",
            "adversarial_weight",
            "adversarial_start",
            "perceptual_weight",
            "feature_weight",
            "teacher_weight",
        )
        if not self.reconstruction_scales or min(self.reconstruction_scales) < 1:
            raise ValueError(
                f"reconstruction_scales: got {self.reconstruction_scales}; each at least 1"
            )
        if self.scale_batches < 1:
            raise ValueError(f"scale_batches: got {self.scale_batches}; at least 1")
        self._refuse_above(10_000, "scale_batches")


@dataclass(frozen=True, kw_only=True)
class VocoderStageConfig(StageConfig):
    """STFT loss or energy distance, then adversarial losses with feature matching."""

    energy_weight: float = 0.0  # energy distance of spectrograms (spectral vocoder only)
    mel_weight: float = 0.0  # L1 between the mels of the real and the generated wave
    decoded: float = 0.0  # fraction of samples whose mel is reconstructed by the folder's VAE
    gain_db: float = 0.0  # like data.gain_db, for this stage; the larger of both applies
    stft_weight: float = 0.0  # multi-resolution STFT loss; of sub-bands too in multi-band MelGAN
    adversarial_weight: float = 1.0
    feature_weight: float = 10.0  # feature matching (MelGAN)
    adversarial_start: int = 0  # first step with the discriminator
    discriminator: WaveDiscriminatorConfig = field(default_factory=WaveDiscriminatorConfig)
    spectrograms: SpectrogramDiscriminatorConfig = field(
        default_factory=SpectrogramDiscriminatorConfig
    )
    betas: tuple[float, float] = (0.5, 0.9)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_negative("stft_weight", "energy_weight", "adversarial_weight", "mel_weight")
        self._refuse_negative("feature_weight", "adversarial_start", "gain_db")
        self._check_fractions("decoded")


@dataclass(frozen=True, kw_only=True)
class DiffusionStageConfig(StageConfig):
    """Noise prediction on latents, conditioned on CLAP."""

    condition: Literal["audio", "text", "mixed"] = "audio"  # embedding used as condition
    text_probability: float = 0.5  # of the text embedding, where the condition is mixed
    drop_condition: float = 0.1  # probability of the null condition, for guidance
    curriculum: tuple[PhaseConfig, ...] = ()  # lower resolutions first; empty: always the full one
    checkpointing: bool = False  # gradient checkpointing: less memory, more time

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_fractions("text_probability", "drop_condition")
        for phase in self.phases().phases:
            if phase.batch_size % self.accumulate:
                raise ValueError(
                    f"curriculum[{phase.number}].batch_size: {phase.batch_size} is not a multiple "
                    f"of accumulate, {self.accumulate}"
                )

    def phases(self) -> Curriculum:
        """The phases of the training, from its first step to its last."""
        return Curriculum(
            self.curriculum, steps=self.steps, batch_size=self.batch_size, seconds=self.seconds
        )

    @property
    def text_share(self) -> float:
        """Probability that a sample's condition is its caption's embedding."""
        return {"audio": 0.0, "text": 1.0, "mixed": self.text_probability}[self.condition]


@dataclass(frozen=True, kw_only=True)
class DistillStageConfig(DiffusionStageConfig):
    """Consistency distillation of the U-Net into one that samples in a few steps."""

    segments: int = 2  # steps to sample in; 1 is a consistency model
    guidance: float | None = None  # of the teacher; by default that of model.sampling
    skip: float = 20.0  # training steps that one DDIM step of the teacher takes
    clap_weight: float = 0.0  # of 1 - the CLAP similarity of the decoded estimate
    drop_condition: float = 0.0  # guidance is built in, so that no null condition is needed

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.segments <= MAX_SEGMENTS:
            raise ValueError(f"segments: got {self.segments}; allowed: 1 to {MAX_SEGMENTS}")
        self._refuse_negative("clap_weight")
        if self.guidance is not None:
            self._refuse_negative("guidance")
        if not self.skip >= 1:
            raise ValueError(f"skip: got {self.skip}; allowed: 1 and more")


@dataclass(frozen=True, kw_only=True)
class TaggerStageConfig(StageConfig):
    """Classification of real recordings, for the tagger that evaluates generated ones."""

    network: TaggerConfig = field(default_factory=TaggerConfig)
    label_smoothing: float = 0.1
    mixup: float = 0.5  # fraction of sounds that another one is mixed into
    teacher: str = ""  # checkpoint of aiSFX, whose similarities are learned too; empty: none
    teacher_weight: float = 1.0
    distortion: DistortionConfig = field(default_factory=lambda: SPEC_AUGMENT)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_negative("teacher_weight")
        self._check_fractions("label_smoothing", "mixup")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One model and how each of its parts is trained."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    text: TextStageConfig = field(default_factory=TextStageConfig)
    clap: ClapStageConfig = field(default_factory=ClapStageConfig)
    vae: VAEStageConfig = field(default_factory=VAEStageConfig)
    vocoder: VocoderStageConfig = field(default_factory=VocoderStageConfig)
    diffusion: DiffusionStageConfig = field(default_factory=DiffusionStageConfig)
    distill: DistillStageConfig = field(default_factory=DistillStageConfig)
    tagger: TaggerStageConfig = field(default_factory=TaggerStageConfig)

    def __post_init__(self) -> None:
        if self.data.timeline_probability and not self.model.unet.timelines:
            raise ValueError("data.timeline_probability: requires model.unet.timelines = true")


def read_recipe(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), like: ModelFolder | None = None
) -> Recipe:
    """Read a recipe, a file or the name of one that the package ships ("mini"), with
    `section.name=value` overrides. Paths in it are relative to its file, those of overrides to the
    working folder. Settings that its [model] leaves out come from the model folder `like`, if
    given. A ValueError names the file and the setting."""
    path = find_recipe(path)
    data = read_toml(path, overrides, paths=PATHS, shipped=SHIPPED)
    if like is not None:
        data["model"] = merge(_settings_of(like), data.get("model", {}))
    try:
        return from_dict(Recipe, data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def find_recipe(name: str | os.PathLike[str]) -> Path:
    """The file of that name, or else the recipe that the package ships under it. ValueError where
    there is neither."""
    path = Path(name)
    if path.is_file():
        return path
    names = sorted(file.stem for file in SHIPPED.glob("*.toml"))
    if path.name == str(name) and path.name.removesuffix(".toml") in names:
        return SHIPPED / f"{path.name.removesuffix('.toml')}.toml"
    raise ValueError(f"{name}: no such recipe; allowed: a TOML file, or {', '.join(names)}")


def _settings_of(folder: ModelFolder) -> dict[str, Any]:
    """The settings of a model folder, as in a recipe's [model]."""
    parts = {name: folder.parts[name].config for name in GENERATOR_PARTS if name in folder.parts}
    settings = {"diffusion": folder.diffusion, "sampling": folder.sampling, **parts}
    model = {name: to_dict(config) for name, config in settings.items()}
    if "clap_audio" not in parts and "clap_text" in parts:  # imported models come without it
        model["clap_audio"] = {"tower": "htsat", "embed_dim": parts["clap_text"].embed_dim}
    return model
