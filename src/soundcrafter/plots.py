"""Plots: log-mel spectrograms of sounds, and curves."""

import io
import os
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundcrafter.audio import Wave, fit_length
from soundcrafter.files import replacing
from soundcrafter.mel_bands import MelConfig, band_centres, log_mel

_TICKS = (250, 500, 1000, 2000, 4000, 8000, 16000)  # Hz
_RANGE = 80.0  # dB from the loudest point down to black
_SHADES = 64  # of a thumbnail; more look the same and make the file larger
_MARKED_POINTS = 40  # curves of at most this many points have markers


def check_plots() -> None:
    """Raise ValueError where what plots need is not installed."""
    for package in ("matplotlib", "PIL"):
        if find_spec(package) is None:
            raise ValueError("plots need matplotlib: pip install 'soundcrafter[plot]'")


def plot_mel(
    wave: Wave,
    sample_rate: int,
    path: str | os.PathLike[str] | None = None,
    title: str = "",
) -> Any:
    """Draw the log-mel spectrogram of wave [N]: time in s, frequency in Hz, level in dB.

    Writes a PNG to `path` and returns None; without a path returns the matplotlib figure. Raises
    ValueError for a wave that is empty or not [N], and for a path that is not a writable .png.
    """
    if not np.size(wave):
        raise ValueError("wave: it is empty, there is nothing to plot")
    figure = _draw(wave, sample_rate, title)
    if path is None:
        return figure
    _save(figure, Path(path))
    return None


def mel_thumbnail(wave: Wave, sample_rate: int, width: int = 320, height: int = 96) -> bytes:
    """Return the log-mel spectrogram of wave [N] without axes, a PNG of `width` x `height` pixels.

    It spans the whole wave and 0 Hz to half the sample rate, in the colours of `plot_mel`; silence
    is black. Raises ValueError for a wave that is empty or not [N].
    """
    check_plots()
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
    """Draw several log-mel spectrograms side by side as a PNG, each with its name as title.

    `waves` maps a name to wave [N]; each row has `columns` of them, by default all. Raises
    ValueError as `plot_mel`, and if they do not fill the rows.
    """
    rows, rest = divmod(len(waves), columns or len(waves))
    if rest:
        raise ValueError(f"columns: got {columns} for {len(waves)} pictures; allowed: a divisor")
    figure = _figure(3.6 * len(waves) / rows, 2.8 * rows)
    panels = figure.subplots(rows, len(waves) // rows, squeeze=False).flat
    for axes, (name, wave) in zip(panels, waves.items(), strict=True):
        _draw_on(axes, wave, sample_rate, name)
    _save(figure, Path(path))


def plot_timeline(
    spans: Sequence[tuple[str, str, float, float]],
    wave: Wave,
    sample_rate: int,
    path: str | os.PathLike[str],
) -> None:
    """Draw a timeline of (track, label, start, end) above the log-mel spectrogram of wave [N], as a
    PNG. Raises ValueError as `plot_mel` does.
    """
    tracks = list(dict.fromkeys(track for track, *_ in spans))
    figure = _figure(8, 3.0 + 0.35 * len(tracks))
    heights = (0.35 * len(tracks) + 0.2, 2.8)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    for track, label, start, end in spans:
        row = tracks.index(track)
        above.barh(row, end - start, left=start, height=0.7, color=f"C{row % 10}", alpha=0.5)
        text, families = _printable(_wrap(label, 60, most_lines=1))
        above.text(start, row, f" {text}", va="center", fontsize=7, parse_math=False, clip_on=True)
        above.texts[-1].set_fontfamily(families)
    above.set_yticks([])
    above.invert_yaxis()
    above.tick_params(axis="x", length=0)
    _draw_on(below, wave, sample_rate, "")
    _save(figure, Path(path))


def plot_lines(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], NDArray[np.float64]]]],
    path: str | os.PathLike[str],
    *,
    x: str,
    y: str = "",
    symlog: float | None = None,
    borders: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Draw curves as a PNG, one panel per title: name -> (positions [N], values [N] or [R, N]).

    Several values at a position are drawn as their mean and range. `symlog`: the y axis is linear
    between -symlog and symlog and logarithmic beyond; by default it is linear. `borders` between
    the phases of a curriculum are marked, per title. Raises ValueError for a path that is not a
    writable .png.
    """
    figure = _figure(4.8 * len(panels), 3.2)
    axes_of = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, curves) in zip(axes_of, panels.items(), strict=True):
        for name, (positions, values) in curves.items():
            rows = np.atleast_2d(values)
            marker = "o" if len(positions) <= _MARKED_POINTS else None
            (line,) = axes.plot(positions, rows.mean(0), label=name, lw=1.2, marker=marker, ms=3)
            if len(rows) > 1:
                axes.fill_between(
                    positions, rows.min(0), rows.max(0), color=line.get_color(), alpha=0.2, lw=0
                )
        if symlog is not None:
            axes.set_yscale("symlog", linthresh=symlog)
        for number, border in enumerate((borders or {}).get(title, ())):
            label = "next phase" if number == 0 else None
            axes.axvline(border, color="grey", linestyle="--", lw=0.8, label=label)
        axes.set(title=title, xlabel=x, ylabel=y)
        axes.grid(alpha=0.3)
        if curves:
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
    letters_per_inch = 12
    width = int(letters_per_inch * axes.get_figure().get_figwidth() / axes.get_gridspec().ncols)
    # matplotlib's own wrapping reads $...$ as a formula, whatever parse_math says
    text, families = _printable(_wrap(title, width))
    axes.set_title(text, parse_math=False, fontfamily=families)
    return image


def _wrap(title: str, width: int, most_lines: int = 3) -> str:
    """A title in lines of at most `width` letters; "..." ends what is too long."""
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, width)]
    if len(lines) > most_lines:
        lines[most_lines - 1 :] = [f"{lines[most_lines - 1][: width - 3]}..."]
    return "\n".join(lines)


def _printable(text: str) -> tuple[str, list[str]]:
    """The text and the fonts to draw it with; letters that no installed font has become boxes."""
    from matplotlib import font_manager

    families = ["DejaVu Sans"]
    default = font_manager.findfont(families[0])
    missing = {ord(c) for c in text if not c.isspace()} - _letters(default)
    for font in font_manager.fontManager.ttflist if missing else ():
        found = set() if "Last Resort" in font.name else missing & _letters(font.fname)
        if found:
            families.append(font.name)
            missing -= found
    return text.translate(dict.fromkeys(missing, "\u25a1")), families


@cache
def _letters(font_file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(font_file).get_charmap())


def _levels(wave: Wave, config: MelConfig) -> NDArray[np.float32]:
    """The log-mel spectrogram of wave [N] in dB, frequency first: [F, T]."""
    padded = fit_length(wave, max(len(wave), config.reflect_pad + 1))
    levels = log_mel(padded, config)
    # frame i is centred on sample i * hop: drop frames in the padding of a very short wave
    return levels[: len(wave) // config.hop + 1].T


def _figure(width: float, height: float) -> Any:
    check_plots()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot, which has global state and may need a display
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
    """The positions of round frequencies among the bands, and their labels."""
    centres = band_centres(config)
    shown = [tick for tick in _TICKS if centres[0] <= tick <= config.fmax]
    return np.interp(shown, centres, np.arange(config.num_mels)), [str(tick) for tick in shown]


def _save(figure: Any, path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: cannot write {path.suffix or 'without a suffix'!r}; use .png")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
