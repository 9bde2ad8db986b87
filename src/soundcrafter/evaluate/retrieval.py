"""Retrieval with the CLAP of a model: sounds by caption, and captions by sound."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soundcrafter.audio import audio_info, normalize_peak, read_audio
from soundcrafter.data.captions import normalize_caption
from soundcrafter.data.manifest import Recording, read_manifest
from soundcrafter.device import choose_device
from soundcrafter.evaluate.clap_embedder import load_clap
from soundcrafter.evaluate.metrics import retrieval, wilson_interval
from soundcrafter.files import make_folder, write_json, write_text
from soundcrafter.markdown import format_interval, markdown_table
from soundcrafter.models.clap import Clap
from soundcrafter.progress import Progress
from soundcrafter.store import ModelFolder
from soundcrafter.version import __version__

LEVEL = 0.5  # peak of a recording, as in training
TEXT_BATCH_SIZE = 256
DECIMALS = 6  # of a cosine: float32 embeddings are no more precise, and equal ones must tie
DIRECTIONS = ("text_to_audio", "audio_to_text")
FIGURES = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "map10": "mAP@10", "median_rank": "median rank"}


@dataclass(frozen=True)
class CaptionedClip:
    """A recording with all its captions."""

    name: str  # of its file, the same on every machine
    recording: Recording
    captions: Mapping[str, str]  # normalised -> as first written


def evaluate_retrieval(
    folder: ModelFolder,
    data: Path,
    out: Path,
    *,
    split: str = "test",
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure retrieval on a split of a manifest with captions and return the report.

    Writes report.json and report.md into `out`. Queries and candidates are the clips and the
    distinct captions (`normalize_caption`). Rows with the same section of a file are captions of
    one clip. A clip and a caption are relevant to each other if the clip has that caption. Only the
    folder's CLAP is loaded. The similarities of all clips and captions are kept in memory. Raises
    ValueError if the folder has no CLAP, the data has no captions, or no clip can be read.
    """
    folder.require("clap_audio", "clap_text")
    clips, skipped = read_clips(data, split)
    make_folder(out)
    clap = load_clap(folder, choose_device(device))
    audio, clips, unread = embed_clips(clap, clips, progress)
    skipped |= unread
    if not clips:
        raise ValueError(f"{data}: no readable recording with a caption ({len(skipped)} skipped)")
    captions: dict[str, str] = {}
    for clip in reversed(clips):
        captions |= clip.captions  # reversed: the wording of the first clip wins
    texts = _embed_texts(clap, list(captions.values()))
    relevant = np.array([[caption in clip.captions for caption in captions] for clip in clips])
    report = {
        "version": __version__,
        "model": {name: folder.parts[name].training_id for name in ("clap_audio", "clap_text")},
        "split": split,
        "sample_rate": clap.audio.config.mel.sample_rate,
        "resampler": "soxr HQ",
        "level": LEVEL,
        "clips": len(clips),
        "captions": len(captions),
        "pairs": int(relevant.sum()),
        "skipped": skipped,
        **retrieval_both_ways(audio, texts, relevant),
    }
    write_json(out / "report.json", report)
    write_text(out / "report.md", retrieval_markdown(report))
    return report


def read_clips(data: Path, split: str) -> tuple[list[CaptionedClip], dict[str, str]]:
    """Return the clips of a split with their captions, and file -> reason for skipped files.

    Raises ValueError as `read_manifest`.
    """
    manifest = read_manifest(data, split=split, need_caption=True)
    skipped = dict(manifest.skipped)
    sections: dict[tuple[Path, float, float], list[Recording]] = {}
    for recording in manifest.recordings:
        if normalize_caption(recording.caption or ""):
            section = recording.file, recording.start, recording.seconds
            sections.setdefault(section, []).append(recording)
        else:
            skipped[manifest.name(recording)] = "its caption contains only stop words"
    clips = []
    for rows in sections.values():
        written = [row.caption or "" for row in reversed(rows)]
        captions = {normalize_caption(text): text for text in written}
        clips.append(CaptionedClip(manifest.name(rows[0]), rows[0], captions))
    return clips, skipped


def embed_clips(
    clap: Clap, clips: Sequence[CaptionedClip], progress: Progress | None = None
) -> tuple[np.ndarray, list[CaptionedClip], dict[str, str]]:
    """Return embeddings [N, E] of the readable clips, those clips, and file -> reason for the rest.

    Each is read at its own rate, normalised to a peak of LEVEL, and embedded in full length.
    """
    rows: list[np.ndarray] = []
    kept: list[CaptionedClip] = []
    skipped: dict[str, str] = {}
    for done, clip in enumerate(clips, 1):
        one = clip.recording
        try:
            rate = audio_info(one.sound).sample_rate
            wave = read_audio(one.sound, rate, start=one.start, seconds=one.seconds)
        except ValueError as error:
            skipped[clip.name] = str(error)
        else:
            rows.append(clap.embed_audio(normalize_peak(wave, LEVEL), rate)[0].cpu().numpy())
            kept.append(clip)
        if progress is not None:
            progress(done, len(clips))
    return np.array(rows), kept, skipped


def _embed_texts(clap: Clap, texts: Sequence[str]) -> np.ndarray:
    """Texts -> embeddings [M, E]."""
    batches = [texts[i : i + TEXT_BATCH_SIZE] for i in range(0, len(texts), TEXT_BATCH_SIZE)]
    return np.concatenate([clap.embed_text(batch).cpu().numpy() for batch in batches])


def retrieval_both_ways(
    audio: np.ndarray, texts: np.ndarray, relevant: np.ndarray
) -> dict[str, Any]:
    """Return the figures of both directions.

    audio [N, E] and texts [M, E]: unit-norm rows; relevant [N, M] bool: the captions of each clip.
    Raises ValueError as `metrics.retrieval`.
    """
    cosines = np.round(audio.astype(np.float64) @ texts.astype(np.float64).T, DECIMALS)
    pairs = {"text_to_audio": (cosines.T, relevant.T), "audio_to_text": (cosines, relevant)}
    return {name: _direction(*pairs[name]) for name in DIRECTIONS}


def _direction(similarity: np.ndarray, relevant: np.ndarray) -> dict[str, Any]:
    """The figures of Q queries over C candidates [Q, C]; shares have a 95% interval."""
    queries, candidates = relevant.shape
    found: dict[str, Any] = {"queries": queries, "candidates": candidates}
    for name, (value, chance) in retrieval(similarity, relevant).items():
        found[name] = {"value": value, "chance": chance}
        if name in ("r1", "r5", "r10"):
            found[name]["interval"] = list(wilson_interval(round(value * queries), queries))
    return found


def retrieval_markdown(report: Mapping[str, Any]) -> str:
    """Return the report as a table, one row per figure."""
    parts = ", ".join(f"{name} {identity}" for name, identity in report["model"].items())
    rows = []
    for direction in DIRECTIONS:
        found = report[direction]
        for name, title in FIGURES.items():
            spec = "g" if name == "median_rank" else ".3f"
            rows.append(
                [
                    direction.replace("_", " "),
                    str(found["queries"]),
                    str(found["candidates"]),
                    title,
                    f"{found[name]['value']:{spec}}",
                    format_interval(found[name].get("interval")),
                    f"{found[name]['chance']:{spec}}",
                ]
            )
    columns = ("direction", "queries", "candidates", "figure", "value", "95% interval", "chance")
    lines = [
        f"Model {parts}; split {report['split']}: {report['clips']} clips, {report['captions']} "
        f"distinct captions, {report['pairs']} pairs, skipped {len(report['skipped'])}; "
        f"{report['sample_rate']} Hz, resampler {report['resampler']}, peak {report['level']:g}.",
        "",
        *markdown_table(columns, rows),
    ]
    return "\n".join(lines) + "\n"
