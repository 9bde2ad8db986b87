"""The listening test: one page for blind comparison in pairs or for grades, and the key to it."""

import hashlib
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from soundcrafter.audio import Wave, audio_info, read_audio
from soundcrafter.evaluate.listen_answers import KEY_COLUMNS, QUESTIONS, RESULT_COLUMNS, read_key
from soundcrafter.evaluate.listen_sounds import Stimulus, equally_loud, match_sounds
from soundcrafter.evaluate.page import beside, document, wave_uri
from soundcrafter.files import make_folder, write_csv, write_text

PAGE, KEY = "index.html", "key.csv"

_WORDS = {
    "overall": "Which sound is better overall?",
    "match": "Which sound matches the text better?",
    "quality": "How good is the quality of this sound?",
    "relevance": "How well does this sound match the text?",
}
_OF_TEXT = ("match", "relevance")
_SHOWN = {  # answers from left to right; the grades are those of ITU-T P.800
    "pairs": {"A": "A is better", "tie": "No preference", "B": "B is better"},
    "mos": {"1": "Bad", "2": "Poor", "3": "Fair", "4": "Good", "5": "Excellent"},
}
_DECIDING = 4.0  # seconds a question, in the time that the page foretells


@dataclass(frozen=True, eq=False)
class _Sound:
    stimulus: Stimulus
    wave: Wave


_Item = tuple[_Sound, ...]  # a pair, or one alone


def write_listening_test(
    folders: Mapping[str, Path],
    out: Path,
    *,
    kind: Literal["pairs", "mos"],
    seed: int = 0,
    count: int | None = None,
    questions: Sequence[str] | None = None,
    sample_rate: int | None = None,
) -> dict[str, Any]:
    """Write out/index.html, which listeners get, and out/key.csv, which they do not; returns what
    is in the test.

    `folders` maps a system's name to an evaluation's folder or a folder of sounds, see
    `match_sounds`; real recordings as one more system are a hidden reference. "pairs" asks which of
    two systems' sounds for a prompt is better, for each pair of systems; "mos" asks for a grade
    from 1 to 5 of each sound. `count` prompts are drawn by `seed`, by default all are taken.
    `questions` are some of QUESTIONS[kind], by default all. The sounds of a prompt are made equally
    loud, and all get one `sample_rate` in Hz, by default the highest among them.

    Neither names nor order in the page tell the systems apart. The same call gives the same test.
    Raises ValueError for settings that are not allowed, sounds that do not match or cannot be read,
    questions of a text that is not known, and an `out` that holds the key of another test.
    """
    asked = _check(folders, kind, count, questions)
    prompts = match_sounds(folders)
    if count is not None:
        if count > len(prompts):
            raise ValueError(f"count: got {count}; all systems have only {len(prompts)} sounds")
        prompts = random.Random(seed).sample(prompts, count)
    if set(asked) & set(_OF_TEXT):
        _check_texts(prompts)
    rate = sample_rate or max(
        audio_info(stimulus.file).sample_rate for row in prompts for stimulus in row.values()
    )
    size = 2 if kind == "pairs" else 1
    items = [item for row in prompts for item in itertools.combinations(_level(row, rate), size)]
    test, key = _blind(items, rate, f"{kind} {seed} {asked}")
    seconds = sum(len(sound.wave) / rate for item in items for sound in item)
    test |= {
        "kind": kind,
        "columns": RESULT_COLUMNS,
        "minutes": max(round((seconds + _DECIDING * len(asked) * len(items)) / 60), 1),
        "questions": [
            {"name": name, "text": _WORDS[name], "answers": list(_SHOWN[kind].items())}
            for name in asked
        ],
    }
    _write(out, test, key)
    shown = {name: test[name] for name in ("id", "kind", "minutes")}
    counts = {"prompts": len(prompts), "items": len(items), "sample_rate": rate}
    return {**shown, "systems": list(folders), "questions": asked, **counts}


def _check(
    folders: Mapping[str, Path], kind: str, count: int | None, questions: Sequence[str] | None
) -> list[str]:
    """The questions to ask, in their usual order."""
    if kind not in QUESTIONS:
        raise ValueError(f"kind: got {kind!r}; allowed: {', '.join(QUESTIONS)}")
    least = 2 if kind == "pairs" else 1
    if len(folders) < least or not all(folders):
        raise ValueError(f"folders: got {len(folders)}; {kind}: {least} or more, each with a name")
    if count is not None and count < 1:
        raise ValueError(f"count: got {count}; allowed: 1 or more")
    asked = QUESTIONS[kind] if questions is None else questions
    if not asked or not set(asked) <= set(QUESTIONS[kind]):
        allowed = ", ".join(QUESTIONS[kind])
        raise ValueError(f"questions: got {', '.join(asked) or 'none'}; allowed: {allowed}")
    return [name for name in QUESTIONS[kind] if name in asked]


def _check_texts(prompts: Sequence[Mapping[str, Stimulus]]) -> None:
    """No question of a text that the page cannot show."""
    for stimulus in (next(iter(row.values())) for row in prompts):
        if not stimulus.prompt:
            raise ValueError(
                f"questions: {' and '.join(_OF_TEXT)} need texts, and {stimulus.file} has none; "
                "leave them out, or give an evaluation, whose prompts are the texts"
            )


def _level(row: Mapping[str, Stimulus], rate: int) -> list[_Sound]:
    """The sounds of one prompt, equally loud."""
    waves = equally_loud([read_audio(stimulus.file, rate) for stimulus in row.values()], rate)
    return [_Sound(stimulus, wave) for stimulus, wave in zip(row.values(), waves, strict=True)]


def _blind(
    items: Sequence[_Item], rate: int, settings: str
) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    """Sounds and items under drawn names and sorted by them, and the rows of the key.

    The names are drawn by a hash of the test, so that answers to another test do not pass for
    answers to this one, and begin with a letter, so that no spreadsheet takes them for numbers.
    """
    digest = hashlib.sha256(f"{settings} {rate}".encode())
    for sound in itertools.chain(*items):
        digest.update(sound.wave.tobytes())
    sounds = dict.fromkeys(itertools.chain(*items))
    drawn = random.Random(digest.digest()).sample(range(16**6), len(sounds) + len(items))
    names = {sound: f"s{drawn.pop():06x}" for sound in sounds}
    named = {f"i{drawn.pop():06x}": sorted(item, key=names.__getitem__) for item in items}
    test: dict[str, Any] = {
        "id": digest.hexdigest()[:12],
        "items": [
            {"name": name, "prompt": item[0].stimulus.prompt, "sounds": [names[s] for s in item]}
            for name, item in sorted(named.items())
        ],
        "sounds": {names[s]: wave_uri(s.wave, rate) for s in sorted(sounds, key=names.__getitem__)},
    }
    key: list[tuple[str, ...]] = [
        (name, names[sound], sound.stimulus.system, sound.stimulus.prompt, str(sound.stimulus.file))
        for name, item in sorted(named.items())
        for sound in item
    ]
    return test, key


def _write(out: Path, test: Mapping[str, Any], rows: Sequence[Sequence[str]]) -> None:
    """The key before the page: a page whose key is lost is worthless."""
    key = make_folder(out) / KEY
    if key.is_file() and set(read_key(key)) != {row[0] for row in rows}:
        raise ValueError(f"{key}: the key of another listening test; use another folder")
    write_csv(key, KEY_COLUMNS, rows)
    data = json.dumps(test).replace("<", "\\u003c")  # no prompt ends the element
    body = (
        '<main id="app"><noscript>This page needs JavaScript.</noscript></main>\n'
        f'<script id="test" type="application/json">{data}</script>'
    )
    script = beside("listen_session.js") + beside("listen.js")
    page = document("Listening test", body, script=script, style=beside("listen.css"))
    write_text(out / PAGE, page)
