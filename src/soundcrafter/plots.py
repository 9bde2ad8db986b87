"""Pictures of sounds: the log-mel spectrogram as a PNG or a figure."""

import io
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.audio_utils import hertz_to_mel, mel_to_hertz

from soundcrafter.audio import Wave, fit_length
from soundcrafter.files import replacing
from soundcrafter.mel import LogMel, MelConfig

# entries of a training log that are not losses; "loss" is their weighted sum
LOG_FACTS = (
    *("step", "loss", "learning_rate", "samples_per_second", "seconds", "memory_gb", "phase"),
    *("progress", "gradient_norm", "discriminator_gradient_norm"),
)

_TICKS = (250, 500, 1000, 2000, 4000, 8000, 16000)  # Hz
_RANGE = 80.0  # dB below the loudest point that the colours span
_SHADES = 64  # of a thumbnail: more cannot be told apart, and make its file larger


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


def mel_thumbnail(wave: Wave, sample_rate: int, width: int = 320, height: int = 96) -> bytes:
    """The log-mel spectrogram of wave [N] without axes: a PNG of `width` x `height` pixels.

    It spans the whole wave and 0 Hz to half the rate, in the colours of `plot_mel`; silence is
    black. Raises ValueError for a wave that is empty or not [N].
    """
    from matplotlib import colormaps
    from PIL import Image

    if not np.size(wave):
        raise ValueError("wave: it is empty, there is nothing to plot")
    levels = _levels(wave, _config(sample_rate))[::-1]  # low frequencies at the bottom
    shares = np.clip((levels - levels.max()) / _RANGE + 1.0, 0.0, 1.0) * np.any(wave)
    shades = np.rint(shares * (_SHADES - 1)).astype(np.uint8)
    palette = colormaps["magma"](np.linspace(0, 1, _SHADES), bytes=True)[:, :3]
    picture = Image.fromarray(shades).resize((width, height))
    picture.putpalette(palette.tobytes())
    stream = io.BytesIO()
    picture.save(stream, "png", optimize=True)
    return stream.getvalue()


def plot_grid(
    waves: Mapping[str, Wave],
    sample_rate: int,
    path: str | os.PathLike[str],
    columns: int | None = None,
) -> None:
    """Draw several log-mel spectrograms side by side, each under its name, as a PNG.

    `waves` maps a name to wave [N], `columns` of them in a row, by default all. ValueError as
    `plot_mel`, and where they do not fill their rows.
    """
    rows, rest = divmod(len(waves), columns or len(waves))
    if rest:
        raise ValueError(f"columns: got {columns} for {len(waves)} pictures; allowed: a divisor")
    figure = _figure(3.6 * len(waves) / rows, 2.8 * rows)
    panels = figure.subplots(rows, len(waves) // rows, squeeze=False).flat
    for axes, (name, wave) in zip(panels, waves.items(), strict=True):
        _draw_on(axes, wave, sample_rate, name)
    _save(figure, Path(path))


def plot_losses(
    logs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | os.PathLike[str]
) -> None:
    """Draw the training losses of stages as a PNG: one panel a stage, steps across.

    `logs` maps a stage to the entries of its log.jsonl. The axis is linear from -0.01 to 0.01 and
    logarithmic beyond, so that losses of different size and sign share a panel. The borders of a
    curriculum's phases are marked. ValueError for a path not a writable .png.
    """
    figure = _figure(3.2 * len(logs), 2.8)
    panels = figure.subplots(1, len(logs), squeeze=False)[0]
    for axes, (stage, entries) in zip(panels, logs.items(), strict=True):
        names = dict.fromkeys(name for entry in entries for name in entry)
        for name in (name for name in names if name not in LOG_FACTS):
            points = [(entry["step"], entry[name]) for entry in entries if name in entry]
            axes.plot([x for x, _ in points], [y for _, y in points], label=name, lw=1)
        axes.set_yscale("symlog", linthresh=0.01)
        _mark(axes, phase_borders(entries))
        axes.set(title=stage, xlabel="step", ylabel="loss")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    _save(figure, Path(path))


def phase_borders(entries: Sequence[Mapping[str, Any]]) -> list[float]:
    """The steps of a log after which its phase is another one."""
    return [
        one["step"]
        for one, other in pairwise(entries)
        if one.get("phase", 1) != other.get("phase", 1)
    ]


def _mark(axes: Any, places: Sequence[float]) -> None:
    """Vertical lines at the borders of phases, named once in the legend."""
    for number, place in enumerate(places):
        label = "next phase" if number == 0 else None
        axes.axvline(place, color="grey", linestyle="--", lw=0.8, label=label)


def plot_lines(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], NDArray[np.float64]]]],
    path: str | os.PathLike[str],
    *,
    x: str,
    y: str = "",
    borders: Sequence[float] = (),
) -> None:
    """Draw curves as a PNG, a panel for each title: name -> (positions [N], values [N] or [R, N]).

    Several values at a position are drawn as their mean, with their range around it; `borders` of
    phases are marked in every panel. ValueError for a path not a writable .png.
    """
    figure = _figure(4.8 * len(panels), 3.2)
    axes_of = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, curves) in zip(axes_of, panels.items(), strict=True):
        for name, (positions, values) in curves.items():
            rows = np.atleast_2d(values)
            (line,) = axes.plot(positions, rows.mean(0), label=name, lw=1.2, marker="o", ms=3)
            if len(rows) > 1:
                axes.fill_between(
                    positions, rows.min(0), rows.max(0), color=line.get_color(), alpha=0.2, lw=0
                )
        _mark(axes, borders)
        axes.set(title=title, xlabel=x, ylabel=y)
        axes.grid(alpha=0.3)
        if any(curves):
            axes.legend(fontsize=7)
    _save(figure, Path(path))


def _draw(wave: Wave, sample_rate: int, title: str) -> Any:
    figure = _figure(8, 3.2)
    axes = figure.add_subplot()
    image = _draw_on(axes, wave, sample_rate, title)
    figure.colorbar(image, ax=axes, label="Level (dB)")
    return figure


def _draw_on(axes: Any, wave: Wave, sample_rate: int, title: str) -> Any:
    config = _config(sample_rate)
    levels = _levels(wave, config)
    image = axes.imshow(
        levels,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=levels.max() - _RANGE,
        vmax=levels.max(),
        extent=(0.0, len(wave) / sample_rate, -0.5, config.num_mels - 0.5),
    )
    positions, labels = _ticks(config)
    axes.set_yticks(positions, labels)
    axes.set_xlabel("Time (s)")
    axes.set_ylabel("Frequency (Hz)")
    axes.set_title(title, wrap=True, parse_math=False)  # a prompt may hold $
    return image


def _levels(wave: Wave, config: MelConfig) -> NDArray[np.float32]:
    """The log-mel spectrogram of wave [N] in dB, frequency first: [F, T]."""
    padded = fit_length(wave, max(len(wave), config.reflect_pad + 1))
    with torch.inference_mode():
        levels = LogMel(config)(torch.from_numpy(padded)[None])[0, 0]
    # frame i is centred on sample i * hop: cut what lies in the padding of a very short wave
    return levels[: len(wave) // config.hop + 1].T.numpy()


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot: it keeps global state and may look for a display
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
