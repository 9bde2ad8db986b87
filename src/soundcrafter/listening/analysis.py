"""The analysis of listening tests: win rates and mean opinion scores, with intervals that account
for the correlation of answers by one listener or to one prompt."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from soundcrafter.evaluate.metrics import wilson_interval
from soundcrafter.listening.answers import Answer, Items, read_key, read_results
from soundcrafter.markdown import format_interval, format_number, markdown_table

Rating = tuple[str, str, float]  # listener, prompt, value


class _Bootstrap:
    """The pigeonhole bootstrap (Owen 2007, 0712.1111): listeners and prompts are both drawn with
    replacement. It assumes neither that the answers of one listener are independent, nor those to
    one prompt."""

    def __init__(self, answers: Sequence[Answer], items: Items, samples: int, seed: int) -> None:
        listeners = sorted({answer.listener for answer in answers})
        prompts = sorted({items[answer.item].prompt for answer in answers})
        self._rows = {name: place for place, name in enumerate(listeners)}
        self._columns = {name: place for place, name in enumerate(prompts)}
        rng = np.random.default_rng(seed)
        self._times = [  # how often each is drawn, [S, L] and [S, P]
            rng.multinomial(len(names), np.full(len(names), 1 / len(names)), samples)
            for names in (listeners, prompts)
        ]

    def means(self, ratings: Iterable[Rating]) -> np.ndarray:
        """The mean in each draw [S]; NaN in a draw without any of the ratings."""
        sums = np.zeros((2, len(self._rows), len(self._columns)))
        for listener, prompt, value in ratings:
            sums[:, self._rows[listener], self._columns[prompt]] += value, 1.0
        rows, columns = self._times
        total, count = (((rows @ table) * columns).sum(1) for table in sums)
        return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def analyse_listening(
    results: Sequence[Path], key: Path, *, seed: int = 0, samples: int = 2000
) -> dict[str, Any]:
    """Return the results of a listening test from the csv files that its listeners saved.

    Pairs: for each question and pair of systems the wins, ties and losses; the win rate of each
    system, with ties as half a win, and its 95% interval by bootstrap over listeners and prompts
    (`samples` draws); the share of wins among answers without ties, with Wilson's interval, and the
    two-sided sign test, which both assume independent answers.
    MOS: for each question and system the mean with its interval by the same bootstrap, and the
    differences between systems in the same draws.

    Of several answers to the same question the last one counts. Raises ValueError for a file that
    cannot be read, and with file and line for a row that is not an answer to an item of the key.
    """
    if samples < 1 or seed < 0:
        raise ValueError(f"samples, seed: got {samples}, {seed}; at least 1 and 0")
    items = read_key(key)
    answers, duplicates = read_results(results, items)
    draws = _Bootstrap(answers, items, samples, seed)
    by_question: dict[str, list[Answer]] = defaultdict(list)
    for answer in sorted(answers, key=lambda answer: answer.question):
        by_question[answer.question].append(answer)
    summary = {
        "kind": answers[0].kind,
        "listeners": len({answer.listener for answer in answers}),
        "items": len({answer.item for answer in answers}),
        "prompts": len({items[answer.item].prompt for answer in answers}),
        "answers": len(answers),
        "duplicates": duplicates,
        "samples": samples,
        "seed": seed,
        "median_seconds": float(np.median([answer.seconds for answer in answers])),
    }
    if summary["kind"] == "mos":
        found = {q: _mos(part, items, draws) for q, part in by_question.items()}
        return {**summary, "questions": found}
    return {
        **summary,
        "first_side": _first_side(answers),
        "questions": {q: _pairs(part, items, draws) for q, part in by_question.items()},
    }


def sign_test(wins: int, losses: int) -> float:
    """Return the two-sided p-value of wins and losses if both are equally likely."""
    total = wins + losses
    tail = sum(math.comb(total, count) for count in range(min(wins, losses) + 1))
    return min(2 * tail / 2**total, 1.0)


def _first_side(answers: Sequence[Answer]) -> dict[str, Any]:
    """How often side A was preferred: half the time if listeners favour neither side."""
    hits = sum(answer.answer == "A" for answer in answers)
    total = sum(answer.answer != "tie" for answer in answers)
    return {"share": hits / total if total else None, **_wilson(hits, total), "n": total}


def _pairs(answers: Sequence[Answer], items: Items, draws: _Bootstrap) -> dict[str, Any]:
    """The figures of one question: of each pair of systems, and of each system over all pairs."""
    scores: dict[tuple[str, str], list[Rating]] = defaultdict(list)  # of the first system
    for answer in answers:
        item = items[answer.item]
        first, second = (item.systems[sound] for sound in answer.sounds)
        value = {"A": 1.0, "tie": 0.5, "B": 0.0}[answer.answer]
        scores[first, second].append((answer.listener, item.prompt, value))
        scores[second, first].append((answer.listener, item.prompt, 1.0 - value))
    systems = sorted({first for first, _ in scores})
    return {
        "pairs": [
            {"systems": [first, second], **_against(scores[first, second], draws)}
            for first, second in sorted(scores)
            if first < second
        ],
        "systems": {
            system: _mean(
                [r for (first, _), part in scores.items() if first == system for r in part],
                draws,
            )
            for system in systems
        },
    }


def _against(ratings: Sequence[Rating], draws: _Bootstrap) -> dict[str, Any]:
    """One system against another, with ratings of 1 for a win, 0.5 for a tie and 0 for a loss."""
    counts = Counter(value for _, _, value in ratings)
    wins, losses = counts[1.0], counts[0.0]
    rate = _mean(ratings, draws)
    return {
        "wins": wins,
        "ties": counts[0.5],
        "losses": losses,
        "win_rate": rate["mean"],
        "interval": rate["interval"],
        "n": len(ratings),
        "untied": {
            "win_rate": wins / (wins + losses) if wins + losses else None,
            **_wilson(wins, wins + losses),
            "p": sign_test(wins, losses),
        },
    }


def _mos(answers: Sequence[Answer], items: Items, draws: _Bootstrap) -> dict[str, Any]:
    """The figures of one question: of each system, and the difference of each pair of systems."""
    ratings: dict[str, list[Rating]] = defaultdict(list)
    for answer in answers:
        item = items[answer.item]
        (system,) = item.systems.values()
        ratings[system].append((answer.listener, item.prompt, float(answer.answer)))
    systems = sorted(ratings)
    drawn = {system: draws.means(ratings[system]) for system in systems}
    means = {system: _mean(ratings[system], draws) for system in systems}
    return {
        "systems": {
            system: {
                **means[system],
                "given": [sum(v == grade for _, _, v in ratings[system]) for grade in range(1, 6)],
            }
            for system in systems
        },
        "differences": [
            {
                "systems": [first, second],
                "difference": means[first]["mean"] - means[second]["mean"],
                "interval": _interval(drawn[first] - drawn[second]),
            }
            for first, second in itertools.combinations(systems, 2)
        ],
    }


def _mean(ratings: Sequence[Rating], draws: _Bootstrap) -> dict[str, Any]:
    return {
        "mean": float(np.mean([value for _, _, value in ratings])),
        "interval": _interval(draws.means(ratings)),
        "n": len(ratings),
        "listeners": len({listener for listener, _, _ in ratings}),
        "prompts": len({prompt for _, prompt, _ in ratings}),
    }


def _interval(drawn: np.ndarray) -> list[float] | None:
    """The middle 95% of the draws that have a value; None if no draw has one."""
    drawn = drawn[~np.isnan(drawn)]
    return [float(bound) for bound in np.percentile(drawn, (2.5, 97.5))] if len(drawn) else None


def _wilson(hits: int, total: int) -> dict[str, Any]:
    return {"interval": list(wilson_interval(hits, total)) if total else None}


def listening_markdown(report: Mapping[str, Any]) -> str:
    """Return the report as tables, with the method of each interval."""
    lines = [
        f"{_count(report['answers'], 'answer')} by {_count(report['listeners'], 'listener')} to "
        f"{_count(report['items'], 'item')} ({_count(report['prompts'], 'prompt')}), median "
        f"{report['median_seconds']:.1f} s per answer; "
        f"{_count(report['duplicates'], 'duplicate')}, of which the last one counts."
    ]
    if report["listeners"] < 2:
        lines += ["", "With one listener, the intervals do not apply to other listeners."]
    table = _mos_table if report["kind"] == "mos" else _pairs_table
    return "\n".join([*lines, "", *table(report)]) + "\n"


def _pairs_table(report: Mapping[str, Any]) -> list[str]:
    pairs, systems = [], []
    for question, found in report["questions"].items():
        for pair in found["pairs"]:
            untied = pair["untied"]
            pairs.append(
                [
                    *(question, *pair["systems"]),
                    *(str(pair[name]) for name in ("wins", "ties", "losses")),
                    format_number(pair["win_rate"]),
                    format_interval(pair["interval"]),
                    format_number(untied["win_rate"]),
                    format_interval(untied["interval"]),
                    f"{untied['p']:.3f}" if untied["p"] >= 0.001 else "< .001",
                ]
            )
        for system, rate in _best_first(found["systems"]):
            cells = [format_number(rate["mean"]), format_interval(rate["interval"])]
            systems.append([question, system, *cells, str(rate["n"])])
    side = report["first_side"]
    return [
        *markdown_table(
            [
                *("question", "system", "against", "wins", "ties", "losses", "win rate"),
                *("95% interval", "without ties", "95% interval (Wilson)"),
                "p-value (sign test)",
            ],
            pairs,
        ),
        "",
        *markdown_table(
            ["question", "system", "win rate over all", "95% interval", "answers"], systems
        ),
        "",
        "A tie is half a win. Intervals of win rates: bootstrap over listeners and prompts, "
        f"{report['samples']} draws, seed {report['seed']}. Wilson's interval and the sign test "
        "leave out ties and assume independent answers, so they are too narrow if few listeners "
        "gave many answers.",
        f"Side A was preferred in {format_number(side['share'])} of {side['n']} answers without "
        f"ties ({format_interval(side['interval'])}); without a bias it is 0.5.",
    ]


def _mos_table(report: Mapping[str, Any]) -> list[str]:
    scores, differences = [], []
    for question, found in report["questions"].items():
        for system, mos in _best_first(found["systems"]):
            scores.append(
                [
                    *(question, system, f"{mos['mean']:.2f}"),
                    format_interval(mos["interval"], ".2f"),
                    *(str(mos[name]) for name in ("n", "listeners", "prompts")),
                    " / ".join(map(str, mos["given"])),
                ]
            )
        for pair in found["differences"]:
            cells = [f"{pair['difference']:+.2f}", format_interval(pair["interval"], ".2f")]
            differences.append([question, *pair["systems"], *cells])
    lines = markdown_table(
        [
            *("question", "system", "MOS", "95% interval", "answers", "listeners", "prompts"),
            "1 / 2 / 3 / 4 / 5",
        ],
        scores,
    )
    if differences:
        columns = ("question", "system", "minus", "difference", "95% interval")
        lines += ["", *markdown_table(columns, differences)]
    return [
        *lines,
        "",
        "Grades: 1 bad, 2 poor, 3 fair, 4 good, 5 excellent (ITU-T P.800). Intervals: bootstrap "
        f"over listeners and prompts, {report['samples']} draws, seed {report['seed']}.",
    ]


def _best_first(systems: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(systems.items(), key=lambda entry: -entry[1]["mean"])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
