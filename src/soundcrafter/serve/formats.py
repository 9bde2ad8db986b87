"""The formats that sounds are sent in, made from their masters."""

import io
import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from soundcrafter.audio import MP3_RATES, audio_comments, read_channels
from soundcrafter.export import Export
from soundcrafter.settings import to_dict

MASTER = Export(depth="24")  # how sounds are kept
Codec = Literal["wav", "flac", "ogg", "mp3", "opus", "pcm", "ulaw", "alaw"]
MEDIA_TYPES: dict[str, str] = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "pcm": "audio/pcm",
    "ulaw": "audio/basic",
    "alaw": "audio/x-alaw-basic",
}
_SOUNDFILE = {
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "opus": ("OGG", "OPUS"),
    "pcm": ("RAW", "PCM_16"),
    "ulaw": ("RAW", "ULAW"),
    "alaw": ("RAW", "ALAW"),
}
# What the codec can hold; a sound at another rate is resampled to the next higher one.
_RATES = {
    "mp3": MP3_RATES,
    "opus": (8000, 12000, 16000, 24000, 48000),
}
_BLOCK = 65_536  # samples; libsndfile's encoders overflow their stack on very long writes


@dataclass(frozen=True)
class Master:
    """A sound as it was made."""

    wave: NDArray[np.float32]  # [N] or [N, C]
    sample_rate: int
    title: str
    provenance: dict[str, Any]
    loop: bool


def read_master(file: Path, *, title: str = "", loop: bool = False) -> Master:
    """Read a master. Raises ValueError if it is gone."""
    channels, rate = read_channels(file)
    wave = channels[:, 0] if channels.shape[1] == 1 else channels
    comments = [text for text in audio_comments(file) if text.startswith("{")]
    return Master(wave, rate, title, json.loads(comments[0]) if comments else {}, loop)


def encode(master: Master, codec: Codec, export: Export, kbps: int | None = None) -> bytes:
    """A sound file. `kbps`: bit rate of mp3 and opus.

    Raises ValueError for a depth or a rate that the format does not have.
    """
    comment = ""
    if master.provenance:
        comment = json.dumps(master.provenance | {"export": to_dict(export)})
    if codec in ("wav", "flac", "ogg") or (codec == "mp3" and kbps is None):
        return export.encode(
            master.wave,
            master.sample_rate,
            f".{codec}",
            loop=master.loop,
            title=master.title,
            comment=comment,
        )
    wanted = export.rate or master.sample_rate
    rates = _RATES.get(codec, (wanted,))
    if export.rate is not None and wanted not in rates:
        raise ValueError(f"rate: got {wanted}; allowed for {codec}: {', '.join(map(str, rates))}")
    rate = next((rate for rate in rates if rate >= wanted), rates[-1])
    # decoded again, which costs 24 bits of precision and saves a second path
    plain = replace(export, rate=rate, depth="float", metadata=False)
    samples = _decoded(plain.encode(master.wave, master.sample_rate, loop=master.loop))
    return _encode_lossy(samples, rate, codec, kbps, master.title, comment)


def _decoded(data: bytes) -> NDArray[np.float32]:
    import soundfile

    samples: NDArray[np.float32] = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    return samples


def _encode_lossy(
    samples: NDArray[np.float32],
    rate: int,
    codec: Codec,
    kbps: int | None,
    title: str,
    comment: str,
) -> bytes:
    import soundfile

    kind, subtype = _SOUNDFILE[codec]
    stream, channels = io.BytesIO(), samples.shape[1] if samples.ndim == 2 else 1
    options: dict[str, Any] = {}
    if kbps is not None:
        options["compression_level"] = _compression(codec, rate, kbps)
    if kbps is not None and codec == "mp3":
        options["bitrate_mode"] = "CONSTANT"
    with soundfile.SoundFile(stream, "w", rate, channels, subtype, format=kind, **options) as file:
        for name, text in (("title", title), ("comment", comment)):
            if text and kind != "RAW":
                setattr(file, name, text)
        for begin in range(0, len(samples), _BLOCK):
            file.write(samples[begin : begin + _BLOCK])
    return stream.getvalue()


def _compression(codec: Codec, rate: int, kbps: int) -> float:
    """libsndfile's 0 to 1 for a bit rate, from the highest to the lowest of a mono sound."""
    high, low = (256, 6) if codec == "opus" else (320, 32) if rate >= 32_000 else (160, 8)
    return min(max((high - kbps) / (high - low), 0.0), 0.999)


def zip_stems(folder: Path, names: list[str]) -> bytes:
    """A zip file of the stems in a folder, uncompressed. Raises ValueError if one is gone."""
    stream = io.BytesIO()
    try:
        with zipfile.ZipFile(stream, "w") as archive:
            for name in names:
                archive.write(folder / f"{name}.wav", f"{name}.wav")
    except OSError as error:
        raise ValueError(f"stems: {error.strerror}") from None
    return stream.getvalue()
