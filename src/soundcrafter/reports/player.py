"""The player of a sound on a page: its spectrogram, which plays it where it is clicked.

The page needs the style sheet player.css and the script player.js.
"""

from html import escape

from soundcrafter.audio import Wave
from soundcrafter.plots import mel_thumbnail
from soundcrafter.reports.document import image_uri


def player(name: str, wave: Wave, sample_rate: int, source: str, *, loop: bool = False) -> str:
    """Return the HTML of a player of wave [N], whose address is `source`; `name` is plain text.

    Without scripts the browser shows its own player.
    """
    seconds = len(wave) / sample_rate
    name = escape(name)
    return (
        f'<div class="sound" data-seconds="{seconds:.3f}">'
        f'<div class="mel"><img width="320" height="96" alt="Log-mel spectrogram: {name}" '
        f'src="{image_uri(mel_thumbnail(wave, sample_rate))}"><i></i>'
        f'<button type="button" aria-label="Play: {name}"></button>'
        f"<span>{seconds:.1f} s</span></div>"
        f'<audio controls preload="none"{" loop" if loop else ""} src="{escape(source)}"></audio>'
        "</div>"
    )
