"""The contact sheet of a sound pack: a page that plays the takes of each sound."""

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from soundcrafter.audio import audio_info, read_audio
from soundcrafter.filenames import slug
from soundcrafter.files import write_text
from soundcrafter.pack import MANIFEST, SHEET, ManifestRow, Pack, quiet_takes
from soundcrafter.reports.document import document, package_text
from soundcrafter.reports.player import player

_HINT = (
    "Pictures are log-mel spectrograms of whole sounds, from 0 Hz to half the sample rate, with a "
    "range of 80 dB. Click one to play the sound from there."
)
_LIMITED = (
    " A take marked “at full scale” is quieter than it should be: if it were louder, its peak "
    "would clip."
)


def write_sheet(pack: Pack, rows: Sequence[ManifestRow], folder: Path) -> Path:
    """Write the contact sheet of the made takes among `rows`, and return it.

    The page plays the files in `folder` by their names, so that the folder can be moved. It depends
    only on its arguments and the sounds. Raises ValueError as `read_audio` does.
    """
    made = [row for row in rows if row.state == "made"]
    quiet = {row.file for row in quiet_takes(pack, made)}
    looped = {sound.label for sound in pack.sound if sound.loop}
    hint = escape(_HINT + _LIMITED if quiet else _HINT)
    body = [f"<h1>{escape(pack.name)}</h1>", _summary(pack, made), f'<p class="quiet">{hint}</p>']
    for name, takes in groupby(made, key=lambda row: row.name):
        cells = list(takes)
        prompt = cells[0].prompt
        title, text = (prompt, "") if name == slug(prompt) else (name, prompt)
        body.append(
            f'<section><h2>{escape(title)}</h2><p class="quiet">{escape(text)}</p>'
            '<ul class="takes">'
        )
        body += [_take(row, folder, loop=name in looped, quiet=row.file in quiet) for row in cells]
        body.append("</ul></section>")
    style = package_text("reports/player.css") + package_text("reports/pack.css")
    script = package_text("reports/player.js")
    page = document(pack.name, "\n".join(body), script=script, style=style, sounds_beside=True)
    write_text(folder / SHEET, page)
    return folder / SHEET


def _summary(pack: Pack, rows: Sequence[ManifestRow]) -> str:
    seconds = sum(row.seconds or 0.0 for row in rows)
    depth = {"16": "16-bit ", "24": "24-bit ", "float": "float "}[pack.depth]
    facts = [
        f"{len({row.name for row in rows})} sounds",
        f"{len(rows)} takes",
        f"{seconds:.1f} s",
        f"{'' if pack.format == 'ogg' else depth}{pack.format} at {pack.rate / 1000:g} kHz",
        f"{pack.lufs:g} LUFS",
        f"model {Path(pack.model).name or 'bundled'}",
        *(f"adapter {Path(path).name} ({weight:g})" for path, weight in pack.adapters.items()),
    ]
    return f'<p>{escape(" · ".join(facts))} · <a href="{MANIFEST}">{MANIFEST}</a></p>'


def _take(row: ManifestRow, folder: Path, *, loop: bool, quiet: bool) -> str:
    path = folder / row.file
    rate = audio_info(path).sample_rate
    address = quote(row.file)
    facts = [
        f"seed {row.seed}",
        "" if row.loudness is None else f"{row.loudness:.1f} LUFS",
        "" if row.score is None else f"score {row.score:.2f}",
        "loop" if loop else "",
        "at full scale" if quiet else "",
    ]
    shown = [f"<span>{fact}</span>" for fact in facts if fact]
    return (
        f"<li>{player(row.file, read_audio(path, rate), rate, address, loop=loop)}"
        f'<p><a href="{address}" download>{escape(row.file)}</a>'
        f'<span class="quiet">{" ".join(shown)}</span></p></li>'
    )
