"""The figures and tables of the chain, from its logged results."""

from collections.abc import Mapping, Sequence
from typing import Any

from soundcrafter.evaluate.metrics import wilson_interval
from soundcrafter.markdown import format_interval, format_number, markdown_table

LINKS = ("real", "vocoder", "griffin_lim", "vae_vocoder", "generated")
DISTANCES = {
    "stft": "STFT",
    "log_mel": "log-mel",
    "lsd_low": "LSD to 8 kHz, dB",
    "lsd_high": "LSD 8 to 16 kHz, dB",
}


def summarise(rows: Sequence[Mapping[str, Any]], families: Sequence[str]) -> dict[str, Any]:
    """Return the figures of each link, and the hits of each family, worst first."""
    by_link = {link: [row for row in rows if row["link"] == link] for link in LINKS}
    real = _share(by_link["real"])
    links = {}
    for link, found in by_link.items():
        hits = sum(row["heard"] == row["family"] for row in found)
        links[link] = {
            "accuracy": _share(found) if found else None,
            "interval": list(wilson_interval(hits, len(found))) if found else None,
            "of_real": _share(found) / real if found and real else None,
            "n": len(found),
            "families_at_zero": sum(
                hits == 0 for hits, n in _by_family(found, families).values() if n
            ),
            **{name: _mean(found, name) for name in DISTANCES},
            "n_lsd_high": sum("lsd_high" in row for row in found),
        }
    tables = {link: _by_family(found, families) for link, found in by_link.items()}

    def badness(family: str) -> list[float]:
        counts = [tables[link][family] for link in ("generated", "vae_vocoder", "real")]
        return [hits / n if n else 1.0 for hits, n in counts]

    ordered = sorted(families, key=badness)
    return {
        "links": links,
        "families": {f: {link: list(tables[link][f]) for link in LINKS} for f in ordered},
        "skipped": [row["key"] for row in rows if row["link"] == "skipped"],
    }


def _share(rows: Sequence[Mapping[str, Any]]) -> float:
    return sum(row["heard"] == row["family"] for row in rows) / len(rows) if rows else 0.0


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    found = [row[name] for row in rows if name in row]
    return sum(found) / len(found) if found else None


def _by_family(
    rows: Sequence[Mapping[str, Any]], families: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Family -> (hits, rows)."""
    counts = dict.fromkeys(families, (0, 0))
    for row in rows:
        hits, n = counts[row["family"]]
        counts[row["family"]] = (hits + (row["heard"] == row["family"]), n + 1)
    return counts


def card_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of each link for a model card: name -> figures."""
    facts = ("accuracy", "of_real", "n", "families_at_zero")
    return {
        f"recognised as their family by the tagger, {_data(report)}, {link.replace('_', ' ')}": {
            fact: found[fact] for fact in facts if found[fact] is not None
        }
        for link, found in report["links"].items()
        if found["n"]
    }


def chain_markdown(report: Mapping[str, Any]) -> str:
    """Return the report as two tables: the links, and the families, worst first."""
    links = report["links"]
    columns = {**DISTANCES, "n_lsd_high": "N of LSD 8 to 16 kHz"}
    columns = {n: c for n, c in columns.items() if any(found[n] for found in links.values())}
    generated = f"generated from seed {report['seed']}, {report['seeds']} per wording"
    if not links["generated"]["n"]:
        generated = "nothing generated"
    lines = [
        f"Tagger {report['tagger'][:12]}, split {_data(report)}, {generated}.",
        "",
        *markdown_table(
            [
                *("link", "accuracy", "95% interval", "of real", "N", "families at 0"),
                *columns.values(),
            ],
            [
                [
                    link.replace("_", " "),
                    format_number(found["accuracy"]),
                    format_interval(found["interval"]),
                    *(
                        format_number(found[name])
                        for name in ("of_real", "n", "families_at_zero", *columns)
                    ),
                ]
                for link, found in links.items()
            ],
        ),
        "",
        *markdown_table(
            ["family", *(link.replace("_", " ") for link in LINKS)],
            [
                [family, *(f"{hits}/{n}" for hits, n in (found[link] for link in LINKS))]
                for family, found in report["families"].items()
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def _data(report: Mapping[str, Any]) -> str:
    """The split, and the other conditions on its recordings."""
    return ", ".join([report["split"], *(f"{k} {value}" for k, value in report["where"].items())])
