"""The folder of an exported model: an ONNX file a part, and JSON that says how they are used."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundcrafter.diffusion.config import DiffusionConfig, SamplingConfig
from soundcrafter.files import file_sha256, read_json
from soundcrafter.mel_bands import MelConfig
from soundcrafter.settings import check_at_least, from_dict, to_dict

FORMAT = 1
SETTINGS, TOKENIZER = "settings.json", "tokenizer.json"
REQUIRED = ("clap_text", "unet", "vae_decoder", "vocoder")
AUDIO = "clap_audio"  # where candidates can be ranked
FAST = "unet_fast"  # in a model that was distilled


@dataclass(frozen=True, kw_only=True)
class OnnxPart:
    """A part's file."""

    file: str
    sha256: str
    training_id: str  # of the weights, as in the model folder


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """The text tower: tokens and mask [B, L], int64 -> embedded [B, E], unit norm."""

    max_length: int  # tokens of a prompt


@dataclass(frozen=True, kw_only=True)
class AudioSettings:
    """The audio tower: mel [B, 1, T, F] -> embedded [B, E], unit norm."""

    mel: MelConfig
    max_seconds: float  # longer sounds are averaged over windows
    min_samples: int  # shorter sounds are repeated


@dataclass(frozen=True, kw_only=True)
class LatentSettings:
    """The U-Net: latent [B, C, T, F], t [B] and cond [B, E] -> prediction. The decoder: latent ->
    mel [B, 1, T', F']."""

    channels: int
    rows: int  # F
    mel_frames: int  # of a latent frame
    multiple: int  # T is a multiple of this
    scale: float  # that the decoder divides by; latents have about unit variance
    null_cond: tuple[float, ...]  # the condition of an empty negative prompt

    def __post_init__(self) -> None:
        check_at_least(self, 1, "channels", "rows", "mel_frames", "multiple")


@dataclass(frozen=True, kw_only=True)
class VocoderSettings:
    """The vocoder: mel [B, 1, T, F] -> wave [B, N]."""

    mel: MelConfig
    context: int  # frames on each side that a frame's samples depend on
    # The vocoder also takes phases [1, T + 2, bins], uniform numbers of torch's generator with seed
    # 0, and the number of rounds; 0: it takes neither.
    phase_bins: int
    piece_seconds: float  # longer sounds are vocoded in pieces

    def __post_init__(self) -> None:
        check_at_least(self, 0, "context", "phase_bins")


@dataclass(frozen=True, kw_only=True)
class OnnxSettings:
    """The contents of `settings.json`."""

    format: int
    soundcrafter: str  # version that exported it
    model: str  # that was exported
    opset: int
    # dtype they are stored in; all but the convolutions of an int8 U-Net is computed in float32
    weights: str
    parts: Mapping[str, OnnxPart]
    diffusion: DiffusionConfig
    sampling: SamplingConfig
    text: TextSettings
    audio: AudioSettings | None
    latent: LatentSettings
    vocoder: VocoderSettings
    tokenizer_sha256: str
    fast_steps: int = 0  # of the part unet_fast, which has guidance built in; 0: there is none


def is_exported(path: str | os.PathLike[str] | None) -> bool:
    """Whether a path is a folder that `soundcrafter export` wrote."""
    return path is not None and (Path(path) / SETTINGS).is_file()


def read_exported(path: str | os.PathLike[str]) -> OnnxSettings:
    """Read the settings of an exported model and check its files.

    Raises ValueError for a folder without settings, another format, and files that are missing or
    damaged.
    """
    path, file = Path(path), Path(path) / SETTINGS
    if not file.is_file():
        raise ValueError(f"{path}: not an exported model: no {SETTINGS}; see soundcrafter export")
    data = read_json(file)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"{file}: unsupported format; this version reads format {FORMAT}")
    settings = from_dict(OnnxSettings, data, str(file))
    wanted = (*REQUIRED, *([] if settings.audio is None else [AUDIO]))
    wanted = (*wanted, *([FAST] if settings.fast_steps else []))
    if missing := [name for name in wanted if name not in settings.parts]:
        raise ValueError(f"{file}: has no {', '.join(missing)}")
    hashes = {part.file: part.sha256 for part in settings.parts.values()}
    for name, sha256 in {**hashes, TOKENIZER: settings.tokenizer_sha256}.items():
        if Path(name).name != name:
            raise ValueError(f"{file}: got the file {name!r}; allowed: names without folders")
        if not (path / name).is_file():
            raise ValueError(f"{path / name}: the file is missing")
        if file_sha256(path / name) != sha256:
            raise ValueError(f"{path / name}: its sha256 does not match {SETTINGS}")
    return settings


def exported_facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What an exported model is, ready for JSON. Raises ValueError as `read_exported` does."""
    settings = read_exported(path)
    latent, mel = settings.latent, settings.vocoder.mel
    sizes = {name: (Path(path) / part.file).stat().st_size for name, part in settings.parts.items()}
    return {
        "kind": "export",
        "model": settings.model,
        "soundcrafter": settings.soundcrafter,
        "weights": settings.weights,
        "opset": settings.opset,
        "bytes": sizes,
        "total": sum(sizes.values()),
        "sample_rate": mel.sample_rate,
        "latent": {
            "channels": latent.channels,
            "frames_per_second": mel.sample_rate / mel.hop / latent.mel_frames,
            "rows": latent.rows,
        },
        "training_ids": {name: part.training_id for name, part in settings.parts.items()},
        "diffusion": to_dict(settings.diffusion),
        "sampling": to_dict(settings.sampling),
    }
