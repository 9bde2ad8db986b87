"""Pictures of sounds: the log-mel spectrogram as a PNG or a figure."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.audio_utils import hertz_to_mel, mel_to_hertz

from soundcrafter.audio import Wave, fit_length
from soundcrafter.files import replacing
from soundcrafter.mel import LogMel, MelConfig

_TICKS = (250, 500, 1000, 2000, 4000, 8000, 16000)  # Hz
_RANGE = 80.0  # dB below the loudest point that the colours span


def plot_mel(
    wave: Wave,
    sample_rate: int,
    path: str | os.PathLike[str] | None = None,
    title: str = "",
) -> Any:
    """Draw the log-mel spectrogram of wave [N]: time in s, frequency in Hz, level in dB.

    Writes a PNG to `path` (a temporary name, then renamed) and returns None; without a path
    returns the matplotlib figure. Raises ValueError for a wave that is empty or not [N], and a
    path that is not a writable .png.
    """
    if not np.size(wave):
        raise ValueError("wave: it is empty, there is nothing to plot")
    figure = _draw(wave, sample_rate, title)
    if path is None:
        return figure
    _save(figure, Path(path))
    return None


def _draw(wave: Wave, sample_rate: int, title: str) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    config = _config(sample_rate)
    seconds = len(wave) / sample_rate
    padded = fit_length(wave, max(len(wave), config.reflect_pad + 1))
    with torch.inference_mode():
        levels = LogMel(config)(torch.from_numpy(padded)[None])[0, 0]
    # frame i is centred on sample i * hop: cut what lies in the padding of a very short wave
    levels = levels[: len(wave) // config.hop + 1].T.numpy()

    figure = Figure(figsize=(8, 3.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot: it keeps global state and may look for a display
    axes = figure.add_subplot()
    image = axes.imshow(
        levels,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=levels.max() - _RANGE,
        vmax=levels.max(),
        extent=(0.0, seconds, -0.5, config.num_mels - 0.5),
    )
    positions, labels = _ticks(config)
    axes.set_yticks(positions, labels)
    axes.set_xlabel("Time (s)")
    axes.set_ylabel("Frequency (Hz)")
    axes.set_title(title, wrap=True, parse_math=False)  # a prompt may hold $
    figure.colorbar(image, ax=axes, label="Level (dB)")
    return figure


def _config(sample_rate: int) -> MelConfig:
    """Frames of about 64 ms every 10 ms, whatever the rate."""
    return MelConfig(
        sample_rate=sample_rate,
        n_fft=2 ** max(4, round(np.log2(0.064 * sample_rate))),
        hop=max(1, round(sample_rate / 100)),
        num_mels=96,
        fmax=sample_rate / 2,
        log="db",
        framing="center",
    )


def _ticks(config: MelConfig) -> tuple[NDArray[np.float64], list[str]]:
    """Where round frequencies lie among the bands, and their names."""
    low, high = hertz_to_mel(config.fmin, "slaney"), hertz_to_mel(config.fmax, "slaney")
    centres = mel_to_hertz(np.linspace(low, high, config.num_mels + 2)[1:-1], "slaney")
    shown = [tick for tick in _TICKS if centres[0] <= tick <= config.fmax]
    return np.interp(shown, centres, np.arange(config.num_mels)), [str(tick) for tick in shown]


def _save(figure: Any, path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: cannot write {path.suffix or 'without a suffix'!r}; use .png")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
