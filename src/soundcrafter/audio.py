"""Sound files and waves in numpy: reading, writing, resampling, levels and lengths."""

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from soundcrafter.files import FilePart, replacing
from soundcrafter.wav_chunks import ixml_chunk, loop_chunk, wav_comments, with_chunks

Wave = NDArray[np.float32]
"""One mono wave [N], float32, nominally in [-1, 1]."""

SoundFile = str | os.PathLike[str] | FilePart
"""A sound file to read: its path, or a part of another file."""

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf")
"""File suffixes that can be read, in lower case."""

WRITE_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
"""File suffixes that can be written, in lower case."""

_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
_SUBTYPES = {
    ("WAV", "16"): "PCM_16",
    ("WAV", "24"): "PCM_24",
    ("WAV", "float"): "FLOAT",
    ("FLAC", "16"): "PCM_16",
    ("FLAC", "24"): "PCM_24",
    ("OGG", "16"): "VORBIS",  # which, like mp3, has no bit depth
    ("MP3", "16"): "MPEG_LAYER_III",
}
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""The sample rates of mp3 files, in Hz."""

_MAX_CHANNELS = {"WAV": 1024, "FLAC": 8, "OGG": 8, "MP3": 2}

Depth = Literal["16", "24", "float"]
# More samples per byte than any encoding has: a header that promises them is wrong. FLAC packs a
# block of silence into some 15 bytes; an MP3 frame of at most 1152 samples takes 24 bytes or more.
_MAX_SAMPLES_PER_BYTE = 70_000
_MAX_SAMPLES_PER_BYTE_OF_MP3 = 100
_READ_BLOCK = 2**20  # samples per channel
_BLOCK = 65_536  # samples; libsndfile's Vorbis encoder overflows its stack on very long writes
_MAX_WRITE_RATE = 200_000  # Hz; above this libsndfile's Vorbis encoder crashes and FLAC fails
_CANCELLED = 10**-1.2  # power ratio, -12 dB: below it, channels cancel when they are averaged
_QUIET = 1e-3  # of the peak, -60 dB: what is below it before and after a sound is silence
_SILENCE = 1e-6  # a lower peak is a rounding error of the DC removal, not sound


@dataclass(frozen=True)
class AudioInfo:
    """The header of a sound file."""

    sample_rate: int  # Hz
    num_samples: int  # samples per channel, at the file's own rate

    @property
    def seconds(self) -> float:
        """The length in seconds."""
        return self.num_samples / self.sample_rate


def audio_info(path: SoundFile) -> AudioInfo:
    """Read the header only. Raises ValueError as `read_audio` does for a bad header."""
    with _open(path) as file:
        return AudioInfo(sample_rate=file.samplerate, num_samples=file.frames)


def read_audio(
    path: SoundFile,
    sample_rate: int,
    *,
    start: float = 0.0,
    seconds: float | None = None,
) -> Wave:
    """Read a wave [N] at `sample_rate`, its channels mixed by `to_mono`.

    `start` and `seconds` choose a part; a part that reaches beyond the end of the file is shorter,
    not padded. Values are not clipped: those of a float or lossy file may exceed 1. Raises
    ValueError naming the file if it is missing, unsupported, corrupt, empty, shorter than `start`,
    or contains NaN or infinity.
    """
    _check_rate("sample_rate", sample_rate)
    channels, rate = read_channels(path, start=start, seconds=seconds)
    wave = resample(to_mono(channels), rate, sample_rate)
    if seconds is not None:
        wave = wave[: max(1, round(seconds * sample_rate))]
    if not len(wave):
        raise ValueError(f"{path}: contains no sound")
    return wave


def read_channels(
    path: SoundFile, *, start: float = 0.0, seconds: float | None = None
) -> tuple[NDArray[np.float32], int]:
    """The samples [N, channels] of a file, unchanged, and its sample rate in Hz.

    With `seconds`, the part may be one sample longer. Raises ValueError as `read_audio` does.
    """
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"start: got {start}; allowed: 0 s or more")
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds: got {seconds}; allowed: more than 0 s")
    with _open(path) as file:
        rate = file.samplerate
        first = round(start * rate)
        if first >= file.frames:
            raise ValueError(f"{path}: start {start} s is past its end at {file.frames / rate} s")
        if first:
            file.seek(first)
        # rather one sample too many than one too few: the exact cut is made after resampling
        count = file.frames - first
        if seconds is not None:
            count = min(count, math.ceil(seconds * rate))
        samples = _read_blocks(file, count)
    if not len(samples):
        raise ValueError(f"{path}: contains no sound from {start:g} s on")
    if not np.isfinite(samples).all():
        raise ValueError(f"{path}: contains NaN or infinite samples")
    return samples, rate


def _read_blocks(file: Any, count: int) -> NDArray[np.float32]:
    """Up to `count` samples [N, channels]; memory grows with what is there, not with `count`."""
    blocks = []
    while count > 0:
        block = file.read(min(count, _READ_BLOCK), dtype="float32", always_2d=True)
        if not len(block):
            break
        blocks.append(block)
        count -= len(block)
    return np.concatenate(blocks or [np.zeros((0, file.channels), np.float32)])


def to_mono(channels: NDArray[np.float32]) -> Wave:
    """channels [N, C] -> wave [N]: their mean, or the loudest channel if they would cancel."""
    if channels_cancel(channels):
        return np.ascontiguousarray(channels[:, np.square(channels).mean(axis=0).argmax()])
    return channels.mean(axis=1)


def channels_cancel(channels: NDArray[np.float32]) -> bool:
    """Whether the mean of channels [N, C] is more than 12 dB below the loudest channel.

    This is so for channels in opposite phase. (The mean of a channel and silence is 6 dB below it.)
    """
    if channels.shape[1] < 2 or not len(channels):
        return False
    loudest = np.square(channels).mean(axis=0).max()
    limit = (
        _CANCELLED * (2 / channels.shape[1]) ** 2
    )  # a single one of more channels contributes less to the mean
    return bool(np.square(channels.mean(axis=1)).mean() < limit * loudest)


def list_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """All files below a folder whose suffix `read_audio` can read, sorted.

    Links to folders are followed, each folder once. Files and folders whose name begins with a dot
    are skipped.
    """
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder that has been listed
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(place, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES
        ]
    return sorted(found)


def write_audio(
    path: str | os.PathLike[str],
    wave: NDArray[np.float32],
    sample_rate: int,
    *,
    loop: bool = False,
    depth: Depth = "16",
    title: str = "",
    comment: str = "",
) -> None:
    """Write wave [N] or [N, C] atomically, as `encode_audio` encodes it.

    Raises ValueError as `encode_audio` does, and for a folder that is missing or not writable.
    """
    path = Path(path)
    try:
        encoded = encode_audio(
            wave, sample_rate, path.suffix, loop=loop, depth=depth, title=title, comment=comment
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    with replacing(path) as temporary:
        temporary.write_bytes(encoded)


def encode_audio(
    wave: NDArray[np.float32],
    sample_rate: int,
    suffix: str = ".wav",
    *,
    loop: bool = False,
    depth: Depth = "16",
    title: str = "",
    comment: str = "",
) -> bytes:
    """Encode wave [N] or [N, C] as a sound file; the suffix chooses the format.

    `depth`: bits of PCM in wav and flac, or "float" for 32-bit floats in wav. `loop` marks all of a
    wav file as a loop, which game engines and samplers play without a seam. An mp3 file has
    the wave's length in readers that know LAME's header, as libsndfile does. `title` and `comment`
    are metadata (in wav LIST/INFO and iXML), see `audio_comments`.
    The wave is clipped to [-1, 1]. The same wave always gives the same bytes in wav and flac (Ogg
    contains a random serial number). Raises ValueError for an unknown suffix, a depth that the
    format does not have, a wave of another shape, with NaN or with more channels than the format
    allows, and a rate above 200 kHz.
    """
    import soundfile

    if not 0 < sample_rate <= _MAX_WRITE_RATE:
        raise ValueError(
            f"sample_rate: got {sample_rate}; allowed to write: 1 to {_MAX_WRITE_RATE} Hz"
        )
    check_write_suffix(suffix)
    check_depth(suffix, depth)
    check_rate(suffix, sample_rate)
    kind = _FORMATS[suffix.lower()]
    subtype, samples = _SUBTYPES[kind, depth], _to_samples(wave, depth)
    # encoded in memory, because libsndfile does not report a full disk and Python does
    stream = io.BytesIO()
    channels = samples.shape[1] if samples.ndim == 2 else 1
    if not 1 <= channels <= (most := _MAX_CHANNELS[kind]):
        raise ValueError(f"wave: got {channels} channels for {suffix}; allowed: 1 to {most}")
    with soundfile.SoundFile(stream, "w", sample_rate, channels, subtype, format=kind) as file:
        if title and (kind != "MP3" or title.isascii()):  # libsndfile writes Latin-1 into mp3
            file.title = title
        if comment:
            file.comment = comment
        for begin in range(0, len(samples), _BLOCK):
            file.write(samples[begin : begin + _BLOCK])
    encoded = stream.getvalue()
    if kind != "WAV":
        return encoded
    chunks = loop_chunk(len(samples), sample_rate) if loop else b""
    return with_chunks(encoded, chunks + (ixml_chunk(title, comment) if comment else b""))


def audio_comments(path: str | os.PathLike[str]) -> list[str]:
    """The comments inside a sound file, the most common place first.

    Raises ValueError as `read_audio` does for a bad header.
    """
    with _open(path) as file:
        if file.format != "WAV":
            return [file.comment]
    return wav_comments(Path(path))  # libsndfile returns none that is longer than 2 KB


def check_depth(suffix: str, depth: Depth) -> None:
    """Raise ValueError unless files with this suffix can have the depth."""
    allowed = [bits for kind, bits in _SUBTYPES if kind == _FORMATS[suffix.lower()]]
    if depth not in allowed:
        raise ValueError(f"depth: got {depth!r} for {suffix}; allowed: {', '.join(allowed)}")


def check_rate(suffix: str, sample_rate: int) -> None:
    """Raise ValueError unless files with this suffix can have the sample rate."""
    if suffix.lower() == ".mp3" and sample_rate not in MP3_RATES:
        allowed = ", ".join(map(str, MP3_RATES))
        raise ValueError(f"rate: got {sample_rate} for {suffix}; allowed: {allowed}")


def check_write_suffix(suffix: str) -> None:
    """Raise ValueError for a suffix of a format that cannot be written."""
    if suffix.lower() not in WRITE_SUFFIXES:
        allowed = ", ".join(WRITE_SUFFIXES)
        raise ValueError(f"cannot write {suffix or 'without a suffix'}; allowed: {allowed}")
    if suffix.lower() == ".mp3":
        import soundfile

        if "MP3" not in soundfile.available_formats():
            raise ValueError("cannot write .mp3: this libsndfile was built without it")


def resample(wave: Wave, from_rate: int, to_rate: int) -> Wave:
    """Resample wave [N] between two rates in Hz (soxr HQ) to exactly round(N * to / from)."""
    import soxr

    _check_rate("from_rate", from_rate)
    _check_rate("to_rate", to_rate)
    wave = _as_wave(wave)
    if from_rate == to_rate or not len(wave):
        return wave
    num_samples = round(len(wave) * to_rate / from_rate)
    resampled = np.asarray(soxr.resample(wave, from_rate, to_rate, quality="HQ"), dtype=np.float32)
    # soxr rounds the length differently: at most a sample or two are cut or added
    resampled = resampled[:num_samples]
    return np.pad(resampled, (0, num_samples - len(resampled)))


def normalize_peak(wave: Wave, peak: float = 0.5) -> Wave:
    """Remove the mean of wave [N], then scale its largest magnitude to `peak`.

    Silence and constants become silence. AudioLDM trains on waves normalized this way.
    """
    wave = _as_wave(wave)
    if not len(wave):
        return wave
    centred = wave - np.mean(wave, dtype=np.float64)
    largest = np.abs(centred).max()
    if largest < _SILENCE:
        return np.zeros_like(wave)
    return (centred * (peak / largest)).astype(np.float32)


def limit_peak(wave: Wave, peak: float = 0.99) -> Wave:
    """Scale wave [N] down so that no magnitude exceeds `peak`; a quieter wave is unchanged."""
    wave = _as_wave(wave)
    largest = float(np.abs(wave).max(initial=0.0))
    return wave if largest <= peak else (wave * (peak / largest)).astype(np.float32)


def sound_start(wave: Wave) -> int:
    """Where the sound in wave [N] begins, in samples: what precedes lies 30 dB or more below its
    peak. It is 0 for silence.
    """
    magnitudes = np.abs(_as_wave(wave))
    return int(np.argmax(magnitudes > 10**-1.5 * magnitudes.max(initial=0.0))) if len(wave) else 0


def sound_end(wave: Wave) -> int:
    """Where the sound in wave [N] ends, in samples: what follows lies 60 dB or more below its peak.

    It is N for silence.
    """
    magnitudes = np.abs(_as_wave(wave))
    loud = np.flatnonzero(magnitudes > _QUIET * magnitudes.max(initial=0.0))
    return int(loud[-1]) + 1 if len(loud) else len(magnitudes)


def trim_silence(wave: Wave, sample_rate: int, *, keep_start: bool = False) -> Wave:
    """Cut the silence before and after the sound in wave [N], 60 dB or more below its peak.

    5 ms are kept before it, or everything with `keep_start`, and 20 ms after it, with fades. At
    least 0.2 s are kept, of a shorter wave everything.
    """
    wave, least = _as_wave(wave), round(0.2 * sample_rate)
    before, after = round(0.005 * sample_rate), round(0.02 * sample_rate)
    loud = np.flatnonzero(np.abs(wave) > _QUIET * np.abs(wave).max(initial=0.0))
    if not len(loud):
        return wave
    end = min(max(int(loud[-1]) + 1 + after, least), len(wave))
    start = 0 if keep_start else min(max(int(loud[0]) - before, 0), max(end - least, 0))
    cut = wave[start:end].copy()
    if start > 0:
        cut[:before] *= np.linspace(0.0, 1.0, before, dtype=np.float32)
    if end < len(wave):
        cut[-after:] *= np.linspace(1.0, 0.0, after, dtype=np.float32)
    return cut


def join_ends(wave: Wave, after: Wave) -> Wave:
    """Make wave [N] a loop, given what would follow its end, [M]: its start is faded in from it."""
    fade = min(len(after), len(wave) // 2)
    angle = np.pi / 2 * (np.arange(fade) + 0.5) / fade
    looped = wave.copy()
    # constant power: both are the same sound, but with other phases
    looped[:fade] = wave[:fade] * np.sin(angle) + after[:fade] * np.cos(angle)
    return looped


def fit_length(
    wave: Wave, num_samples: int, pad: Literal["zero", "repeat"] = "zero", start: int = 0
) -> Wave:
    """Take exactly `num_samples` of wave [N] from sample `start`, as a copy.

    After its end the wave is padded with zeros, or with "repeat" it starts again from its first
    sample. Raises ValueError for a `start` outside the wave and for repeating an empty wave.
    """
    wave = _as_wave(wave)
    if num_samples < 0:
        raise ValueError(f"num_samples: got {num_samples}; allowed: 0 or more")
    if not 0 <= start < max(1, len(wave)):
        raise ValueError(f"start: got {start}; allowed: 0 to {max(0, len(wave) - 1)}")
    if pad == "repeat":
        if not len(wave):
            raise ValueError("wave: an empty wave cannot be repeated")
        return np.take(wave, np.arange(start, start + num_samples), mode="wrap")
    if pad != "zero":
        raise ValueError(f"pad: got {pad!r}; allowed: zero, repeat")
    fitted = np.zeros(num_samples, dtype=np.float32)
    part = wave[start : start + num_samples]
    fitted[: len(part)] = part
    return fitted


@contextmanager
def _open(path: SoundFile) -> Iterator[Any]:
    """Open a non-empty soundfile.SoundFile; libsndfile's errors become ValueError."""
    import soundfile

    path = path if isinstance(path, FilePart) else Path(path)
    if isinstance(path, Path) and not path.is_file():
        raise ValueError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    if path.suffix.lower() not in AUDIO_SUFFIXES:
        raise ValueError(
            f"{path}: cannot read {path.suffix or 'without a suffix'}; "
            f"allowed: {', '.join(AUDIO_SUFFIXES)}"
        )
    opened = path.open() if isinstance(path, FilePart) else nullcontext(path)
    try:
        with opened as source, soundfile.SoundFile(source) as file:
            if file.frames <= 0:
                raise ValueError(f"{path}: contains no sound")
            _check_length(path, file)
            yield file
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: cannot read: {error.error_string}") from None


def _check_length(path: Path | FilePart, file: Any) -> None:
    """Raise ValueError for a header that promises more samples than a file of its size can hold."""
    is_mp3 = path.suffix.lower() == ".mp3"
    most = _MAX_SAMPLES_PER_BYTE_OF_MP3 if is_mp3 else _MAX_SAMPLES_PER_BYTE
    size = path.size if isinstance(path, FilePart) else path.stat().st_size
    if file.frames > most * size:
        hours = file.frames / file.samplerate / 3600
        raise ValueError(
            f"{path}: damaged: its header promises {hours:,.1f} h of sound in {size:,} bytes"
        )


def _to_samples(wave: NDArray[np.float32], depth: Depth) -> NDArray[Any]:
    """What libsndfile is given: integers of the file's own steps, or floats."""
    wave = np.asarray(wave, dtype=np.float32)
    if wave.ndim not in (1, 2):
        raise ValueError(f"wave: got shape {wave.shape}; allowed: [N] or [N, channels]")
    if not np.isfinite(wave).all():
        raise ValueError("wave: contains NaN or infinite samples")
    if depth == "float":
        return wave.clip(-1.0, 1.0)
    # libsndfile multiplies by 32767 but divides by 32768; this way rewriting a file is lossless
    steps = 2 ** (int(depth) - 1)
    counts = np.clip(np.rint(wave.astype(np.float64) * steps), -steps, steps - 1)
    # of a 32-bit integer libsndfile writes the upper 24 bits
    return counts.astype(np.int16) if depth == "16" else counts.astype(np.int32) << 8


def _as_wave(wave: Wave) -> Wave:
    wave = np.asarray(wave, dtype=np.float32)
    if wave.ndim != 1:
        raise ValueError(f"wave: got shape {wave.shape}; expected one dimension [N]")
    return wave


def _check_rate(name: str, rate: int) -> None:
    if rate <= 0:
        raise ValueError(f"{name}: got {rate}; allowed: more than 0 Hz")
