"""The spectrogram picture: it is written whole, and its axes are in seconds and hertz."""

import io

import numpy as np
import pytest
from PIL import Image

from soundcrafter.plots import mel_thumbnail, plot_grid, plot_lines, plot_mel


def tone(seconds: float, rate: int) -> np.ndarray:
    return np.sin(2 * np.pi * 1000 * np.arange(round(seconds * rate)) / rate).astype("f4")


def test_writes_a_png(tmp_path):
    assert plot_mel(tone(0.5, 16000), 16000, tmp_path / "a.png", "costs $5 or $x_") is None
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_a_tone_lies_at_its_frequency():
    axes = plot_mel(tone(2.0, 16000), 16000, title="a tone").axes[0]
    image = axes.images[0]
    assert axes.get_title() == "a tone"
    assert axes.get_xlabel() == "Time (s)"
    assert axes.get_ylabel() == "Frequency (Hz)"
    assert image.get_extent()[:2] == [0.0, 2.0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    ticks = dict(zip(labels, axes.get_yticks(), strict=True))
    loudest = np.asarray(image.get_array()).mean(axis=1).argmax()
    assert loudest == pytest.approx(ticks["1000"], abs=1)


@pytest.mark.parametrize("rate", [4000, 8000, 22050, 48000])
def test_other_rates_and_very_short_waves(rate):
    for seconds in (0.001, 0.3):
        image = plot_mel(tone(seconds, rate), rate).axes[0].images[0]
        assert np.isfinite(image.get_array()).all()


def test_faults(tmp_path):
    with pytest.raises(ValueError, match="empty"):
        plot_mel(np.zeros(0, dtype="f4"), 16000)
    with pytest.raises(ValueError, match=r"a\.jpg.*\.png"):
        plot_mel(tone(0.1, 16000), 16000, tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="No such file or directory"):
        plot_mel(tone(0.1, 16000), 16000, tmp_path / "none" / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_grid_fills_its_rows(tmp_path):
    waves = {f"{i}": tone(0.1, 16000) for i in range(4)}
    plot_grid(waves, 16000, tmp_path / "row.png")
    plot_grid(waves, 16000, tmp_path / "square.png", columns=2)
    sizes = [read_png_size(tmp_path / f"{name}.png") for name in ("row", "square")]
    assert sizes[0][0] > 1.9 * sizes[1][0]
    assert sizes[0][1] < 0.6 * sizes[1][1]
    with pytest.raises(ValueError, match="columns: got 3 for 4 pictures"):
        plot_grid(waves, 16000, tmp_path / "none.png", columns=3)


def read_png_size(path):
    data = path.read_bytes()
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_a_thumbnail_shows_a_tone_and_nothing_of_silence():
    wave = np.concatenate([np.zeros(16000, "f4"), tone(1.0, 16000)])
    data = mel_thumbnail(wave, 16000, 100, 48)
    assert data.startswith(b"\x89PNG\r\n")
    assert len(data) < 4000
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.size, picture.mode) == ((100, 48), "P")
        light = np.asarray(picture.convert("L"), dtype="f4")
    assert light[:, :45].mean() < 0.2 * light[:, 55:].mean()
    # 1000 Hz is below the middle of the mel scale up to 8 kHz
    assert 24 < light[:, 55:].mean(1).argmax() < 40
    with Image.open(io.BytesIO(mel_thumbnail(np.zeros(400, "f4"), 16000))) as picture:
        assert np.asarray(picture).max() == 0
    with pytest.raises(ValueError, match="empty"):
        mel_thumbnail(np.zeros(0, dtype="f4"), 16000)


def test_a_curve_of_one_point_is_visible(tmp_path):
    for name, values in (("one", [0.5]), ("none", [np.nan])):
        panels = {"vae": {"kl": ([5.0], np.array(values))}}
        plot_lines(panels, tmp_path / f"{name}.png", x="step", symlog=0.01)
    pictures = []
    for name in ("one", "none"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            colours = np.asarray(picture.convert("RGB"), dtype="f4")
        pictures.append(
            (np.ptp(colours, axis=2) > 60).sum()
        )  # coloured pixels, of curve and legend
    assert pictures[0] > pictures[1] + 10


@pytest.mark.filterwarnings("error")  # of matplotlib, for a letter that no font has
@pytest.mark.parametrize(
    "title",
    [
        "money counter, $20 #2 and $30",
        r"$\frac{1}{2}$ \\unknown % & _",
        "雨の音と風",
        "🔥 fire",
        "a very long prompt " * 40,
        "unbroken" * 100,
        "",
    ],
)
def test_any_prompt_is_a_title(title, tmp_path):
    plot_mel(tone(0.5, 16000), 16000, tmp_path / "a.png", title=title)
    plot_grid({title: tone(0.5, 16000), "b": tone(0.5, 16000)}, 16000, tmp_path / "b.png")
    shown = plot_mel(tone(0.5, 16000), 16000, title=title).axes[0].get_title()
    assert shown.count("\n") < 3
    assert all(len(line) <= 100 for line in shown.splitlines())
    if len(title) < 50:
        kept = [c for c in shown if c != "\u25a1"]
        assert len(shown) == len(title)
        assert set(kept) <= set(title)
