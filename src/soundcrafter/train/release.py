"""A release of a trained model: a copy in half precision, with a model card and credits."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from soundcrafter.config import EXTRA_PARTS, GENERATOR_PARTS
from soundcrafter.data.manifest import Manifest, read_manifest
from soundcrafter.files import make_folder, replacing, write_text
from soundcrafter.store import ModelFolder, open_folder, save_part
from soundcrafter.train.log import NOT_LOSSES, logged_runs, plot_losses, read_log

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CREDITS = "CREDITS.csv"
CREDIT_COLUMNS = ("file", "attribution", "licence", "source")


def release(
    source: Path,
    out: Path,
    *,
    data: Path | None = None,
    dtype: str = "float16",
    figures: Mapping[str, Any] | None = None,
    notes: str = "",
    partial: bool = False,
) -> Path:
    """Copy a model folder into `out` in `dtype`, with README.md (the model card) and curves.png.

    `data` is the manifest it was trained on: its columns licence, attribution and source become
    CREDITS.csv. `figures` are measurements for the card, name -> value; `notes` are copied into it
    verbatim (limits, licence terms of the data). `partial` allows a model that lacks parts. Raises
    ValueError for an incomplete model otherwise, for a manifest without credits and an unknown
    dtype, before anything is written.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype: got {dtype!r}; allowed: {', '.join(DTYPES)}")
    folder = open_folder(source)
    if not partial:
        folder.require(*GENERATOR_PARTS)
    names = [name for name in (*GENERATOR_PARTS, *EXTRA_PARTS) if name in folder.parts]
    sections = []
    if data is not None:
        manifest, rows = _read_credits(data)
        make_folder(out)
        _write_credits(rows, out / CREDITS)
        sections.append(_data_section(manifest, rows))
    for name in names:
        _copy_part(folder, name, out, DTYPES[dtype])
    logs = {stage: read_log(run) for stage, run in logged_runs(source).items()}
    if logs:
        plot_losses(logs, out / "curves.png")
    sections = [_head(folder, out, dtype), *sections, _training(logs)]
    sections += [_figures(figures or {}), notes]
    write_text(out / "README.md", "\n".join(section for section in sections if section))
    return out


def _copy_part(folder: ModelFolder, name: str, out: Path, dtype: torch.dtype) -> None:
    entry = folder.parts[name]
    save_part(
        out,
        name,
        folder.load(name),
        entry.config,
        trained_against=entry.trained_against,
        training_id=entry.training_id,
        tokenizer=folder.load_tokenizer() if name == "clap_text" else None,
        diffusion=folder.diffusion,
        sampling=folder.sampling,
        dtype=dtype,
    )


def _head(folder: ModelFolder, out: Path, dtype: str) -> str:
    missing = [name for name in GENERATOR_PARTS if name not in folder.parts]
    incomplete = f"Not complete yet: it has no {', '.join(missing)}. " if missing else ""
    counts = {name: sum(p.numel() for p in folder.load(name).parameters()) for name in folder.parts}
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    rows = [f"| {name} | {count:,} |" for name, count in counts.items()]
    return "\n".join(
        [
            "# SoundCrafter model card",
            "",
            "Text in, sound effect out: CLAP, a mel VAE, a FiLM-conditioned latent diffusion U-Net "
            f"and a vocoder. {incomplete}{sum(counts.values()):,} parameters, "
            f"{size / 1e6:.1f} MB in {dtype}.",
            "",
            "| part | parameters |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def _read_credits(data: Path) -> tuple[Manifest, list[dict[str, str]]]:
    """The training recordings, and the credits of each from the manifest's columns."""
    table = data / "sounds.csv" if data.is_dir() else data
    manifest = read_manifest(data, split="train")
    used = {manifest.name(recording) for recording in manifest.recordings}
    with open(table, newline="", encoding="utf-8") as stream:
        found = csv.DictReader(stream)
        if not set(CREDIT_COLUMNS) <= set(found.fieldnames or ()):
            needed = ", ".join(CREDIT_COLUMNS)
            raise ValueError(f"{table}: has no credits; needed columns: {needed}")
        rows = [{key: row[key] for key in CREDIT_COLUMNS} for row in found]
    return manifest, [row for row in rows if row["file"] in used]


def _write_credits(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, CREDIT_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _data_section(manifest: Manifest, rows: Sequence[Mapping[str, str]]) -> str:
    minutes = sum(recording.seconds for recording in manifest.recordings) / 60
    licences = Counter(row["licence"] for row in rows).most_common()
    sources = Counter(row["source"] for row in rows).most_common()
    return "\n".join(
        [
            "## Training data",
            f"{len(manifest.recordings):,} recordings, {minutes:.0f} minutes. Every recording with "
            f"its author, licence and source is listed in {CREDITS}.",
            "",
            "Licences: " + ", ".join(f"{name} {count:,}" for name, count in licences) + ".",
            "",
            "Sources: " + ", ".join(f"{name} ({count:,})" for name, count in sources) + ".",
            "",
        ]
    )


def _training(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    if not logs:
        return ""
    lines = [
        "## Training",
        "| stage | steps | minutes | loss, first and last log entry |",
        "|---|---|---|---|",
    ]
    for stage, entries in logs.items():
        first, last = entries[0], entries[-1]
        minutes = f"{last['seconds'] / 60:.0f}" if "seconds" in last else "-"
        names = [name for name in first if name in last and name not in NOT_LOSSES]
        losses = ", ".join(f"{name} {first[name]:.3g} -> {last[name]:.3g}" for name in names)
        lines.append(f"| {stage} | {last['step']:,} | {minutes} | {losses} |")
    return "\n".join([*lines, "", "![training losses](curves.png)", ""])


def _figures(figures: Mapping[str, Any]) -> str:
    if not figures:
        return ""
    return "\n".join(["## Figures", *(f"- {n}: {_words(v)}" for n, v in figures.items()), ""])


def _words(value: Any) -> str:
    """A measurement, or a table of them, on one line; floats with three digits."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(inner)}" for name, inner in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)
