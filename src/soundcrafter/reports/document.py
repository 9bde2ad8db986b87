"""Self-contained HTML pages, which include their sounds, pictures, styles and scripts."""

import base64
import io
from html import escape
from importlib import resources
from pathlib import Path

from soundcrafter.audio import Wave, resample

_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz
_BLOCK = 65_536  # samples written at once, as in audio.py

# Forbids the browser to load anything from elsewhere.
_POLICY = (
    "default-src 'none'; img-src data:; media-src {media}; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
# A page opened from a disk is of no origin, so there 'self' would not allow its neighbours.
_BESIDE = "data: 'self' file:"


def document(
    title: str, body: str, *, script: str = "", style: str = "", sounds_beside: bool = False
) -> str:
    """Return a complete HTML5 page with a title in plain text, a body in HTML and a final script.

    `style` is appended to the style sheet that all pages share. Its colours are variables that
    follow the reader's light or dark mode: --ground, --panel, --ink, --quiet, --line, --accent,
    --tint, --good, --bad. Pictures and sounds must be data: URIs, because the page forbids the
    browser to load anything else; with `sounds_beside`, sounds may also be files beside the page.
    """
    policy = _POLICY.format(media=_BESIDE if sounds_beside else "data:")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{package_text("reports/document.css")}{style}</style>
</head>
<body>
{body}
{f"<script>{script}</script>" if script else ""}
</body>
</html>
"""


def wave_uri(wave: Wave, sample_rate: int) -> str:
    """Return wave [N] as a data: URI: MP3 at the best quality, which every browser plays.

    A sample rate that MP3 does not support is replaced by the next higher one, or 48 kHz. The
    format is Ogg Vorbis if libsndfile does not support MP3.
    """
    import soundfile

    rate = next((known for known in _MP3_RATES if known >= sample_rate), _MP3_RATES[-1])
    wave = resample(wave, sample_rate, rate).clip(-1, 1)
    kind, subtype, mime = "MP3", "MPEG_LAYER_III", "audio/mpeg"
    if kind not in soundfile.available_formats():
        kind, subtype, mime = "OGG", "VORBIS", "audio/ogg"
    stream = io.BytesIO()
    with soundfile.SoundFile(
        stream, "w", rate, 1, subtype, format=kind, compression_level=0.0
    ) as sound:
        for begin in range(0, len(wave), _BLOCK):
            sound.write(wave[begin : begin + _BLOCK])
    return _data_uri(mime, stream.getvalue())


def image_uri(png: Path | bytes) -> str:
    """Return a PNG (a file or its bytes) as a data: URI."""
    return _data_uri("image/png", png if isinstance(png, bytes) else png.read_bytes())


def package_text(name: str) -> str:
    """Return the text of a file in this package, such as "reports/document.css"."""
    return (resources.files("soundcrafter") / name).read_text(encoding="utf-8")


def _data_uri(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
