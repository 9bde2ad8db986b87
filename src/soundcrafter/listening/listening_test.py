"""Writing a listening test: a page for blind comparisons of pairs or for grades, and its key."""

import hashlib
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from soundcrafter.audio import Wave, audio_info, read_audio
from soundcrafter.files import make_folder, write_csv, write_text
from soundcrafter.listening.answers import KEY_COLUMNS, QUESTIONS, RESULT_COLUMNS, read_key
from soundcrafter.listening.stimuli import Stimulus, equally_loud, match_sounds
from soundcrafter.reports.document import document, package_text, wave_uri

PAGE, KEY = "index.html", "key.csv"

_QUESTION_TEXTS = {
    "overall": "Which sound is better overall?",
    "match": "Which sound matches the text better?",
    "quality": "How good is the quality of this sound?",
    "relevance": "How well does this sound match the text?",
}
_TEXT_QUESTIONS = ("match", "relevance")
_ANSWER_TEXTS = {  # answers from left to right; the grades are those of ITU-T P.800
    "pairs": {"A": "A is better", "tie": "No preference", "B": "B is better"},
    "mos": {"1": "Bad", "2": "Poor", "3": "Fair", "4": "Good", "5": "Excellent"},
}
_DECISION_SECONDS = 4.0  # per question, in the estimate of the test's length


@dataclass(frozen=True, eq=False)
class _Sound:
    stimulus: Stimulus
    wave: Wave


_Item = tuple[_Sound, ...]  # a pair, or a single sound


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
    """Write out/index.html for the listeners and out/key.csv for the analysis; returns a summary.

    `folders` maps the name of a system to the folder of an evaluation or of sounds, see
    `match_sounds`. Real recordings as an additional system are a hidden reference. "pairs" asks
    which of two systems' sounds for a prompt is better, for each pair of systems; "mos" asks for a
    grade from 1 to 5 for each sound. `count` prompts are drawn by `seed`, by default all are used.
    `questions` are some of QUESTIONS[kind], by default all. The sounds of a prompt are scaled to
    equal loudness, and all sounds are resampled to one `sample_rate` in Hz, by default the highest.

    Nothing in the page reveals the systems. The same call writes the same test. Raises ValueError
    for settings that are not allowed, sounds that do not match or cannot be read, questions about
    an unknown text, and an `out` that contains the key of another test.
    """
    chosen = _check(folders, kind, count, questions)
    prompts = match_sounds(folders)
    if count is not None:
        if count > len(prompts):
            raise ValueError(f"count: got {count}; allowed: 1 to {len(prompts)}, the common sounds")
        prompts = random.Random(seed).sample(prompts, count)
    if set(chosen) & set(_TEXT_QUESTIONS):
        _check_texts(prompts)
    rate = sample_rate or max(
        audio_info(stimulus.file).sample_rate for row in prompts for stimulus in row.values()
    )
    size = 2 if kind == "pairs" else 1
    items = [
        item for row in prompts for item in itertools.combinations(_equalised(row, rate), size)
    ]
    test, key = _blind(items, rate, f"{kind} {seed} {chosen}")
    seconds = sum(len(sound.wave) / rate for item in items for sound in item)
    test |= {
        "kind": kind,
        "columns": RESULT_COLUMNS,
        "minutes": max(round((seconds + _DECISION_SECONDS * len(chosen) * len(items)) / 60), 1),
        "questions": [
            {
                "name": name,
                "text": _QUESTION_TEXTS[name],
                "answers": list(_ANSWER_TEXTS[kind].items()),
            }
            for name in chosen
        ],
    }
    _write(out, test, key)
    shown = {name: test[name] for name in ("id", "kind", "minutes")}
    counts = {"prompts": len(prompts), "items": len(items), "sample_rate": rate}
    return {**shown, "systems": list(folders), "questions": chosen, **counts}


def _check(
    folders: Mapping[str, Path], kind: str, count: int | None, questions: Sequence[str] | None
) -> list[str]:
    """The questions in their usual order."""
    if kind not in QUESTIONS:
        raise ValueError(f"kind: got {kind!r}; allowed: {', '.join(QUESTIONS)}")
    least = 2 if kind == "pairs" else 1
    if len(folders) < least or not all(folders):
        raise ValueError(f"folders: got {len(folders)}; {kind} needs {least} or more, all named")
    if count is not None and count < 1:
        raise ValueError(f"count: got {count}; allowed: 1 or more")
    chosen = QUESTIONS[kind] if questions is None else questions
    if not chosen or not set(chosen) <= set(QUESTIONS[kind]):
        allowed = ", ".join(QUESTIONS[kind])
        raise ValueError(f"questions: got {', '.join(chosen) or 'none'}; allowed: {allowed}")
    return [name for name in QUESTIONS[kind] if name in chosen]


def _check_texts(prompts: Sequence[Mapping[str, Stimulus]]) -> None:
    """Raise ValueError if a question needs a text that is not known."""
    for stimulus in (next(iter(row.values())) for row in prompts):
        if not stimulus.prompt:
            raise ValueError(
                f"questions: {' and '.join(_TEXT_QUESTIONS)} need texts, but {stimulus.file} has "
                f"none; ask only {QUESTIONS['pairs'][0]} or {QUESTIONS['mos'][0]}, or give an "
                "evaluation, whose prompts are known"
            )


def _equalised(row: Mapping[str, Stimulus], rate: int) -> list[_Sound]:
    """The sounds of one prompt, at equal loudness."""
    waves = equally_loud([read_audio(stimulus.file, rate) for stimulus in row.values()], rate)
    return [_Sound(stimulus, wave) for stimulus, wave in zip(row.values(), waves, strict=True)]


def _blind(
    items: Sequence[_Item], rate: int, settings: str
) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    """The test, with sounds and items under random names and sorted by them, and its key.

    The names are drawn by a hash of the test, so that answers to another test are not mistaken for
    answers to this one. They begin with a letter, so that spreadsheets do not read them as numbers.
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
    """Write the key before the page, because a page without its key is useless."""
    key = make_folder(out) / KEY
    if key.is_file() and set(read_key(key)) != {row[0] for row in rows}:
        raise ValueError(f"{key}: belongs to another listening test; use another folder")
    write_csv(key, KEY_COLUMNS, rows)
    data = json.dumps(test).replace("<", "\\u003c")  # so that no prompt can end the element
    body = (
        '<main id="app"><noscript>This page needs JavaScript.</noscript></main>\n'
        f'<script id="test" type="application/json">{data}</script>'
    )
    script = package_text("listening/session.js") + package_text("listening/screens.js")
    style = package_text("listening/page.css")
    page = document("Listening test", body, script=script, style=style)
    write_text(out / PAGE, page)
