"""Evaluations against real sounds: of a folder of sounds, and of a model on prompts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from soundcrafter.audio import audio_info
from soundcrafter.evaluate.clap_embedder import ClapEmbedder
from soundcrafter.evaluate.compare import EmbeddedSounds, card_figures, compare, compare_markdown
from soundcrafter.evaluate.embedding import Embedded, Embedder, collect, embed_files
from soundcrafter.evaluate.generate import (
    PlannedSound,
    check_seeds,
    draw_prompts,
    plan_batches,
    sound_file,
)
from soundcrafter.evaluate.jobs import GENERATED, EvaluationModels, generate_and_embed, threads_of
from soundcrafter.evaluate.kept import claim_families, keep_by_family
from soundcrafter.evaluate.metrics import check_splits, clap_score
from soundcrafter.evaluate.prompt_sets import Prompt
from soundcrafter.evaluate.sound_files import SoundFiles
from soundcrafter.evaluate.tagger_embedder import TaggerEmbedder, recognition
from soundcrafter.evaluate.variety import variety_report
from soundcrafter.files import make_folder, write_json, write_text
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.progress import Progress
from soundcrafter.version import __version__
from soundcrafter.workers import Pool


def evaluate_folders(
    generated: SoundFiles,
    reference: SoundFiles,
    embedders: Sequence[Embedder],
    out: Path,
    *,
    splits: int = 10,
    seed: int = 0,
    paired: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare sounds with real ones and return the report.

    Writes report.json and report.md into `out`. Files that cannot be decoded are skipped and
    counted. Raises ValueError if no sound can be decoded, and with `paired` if a sound has no
    partner of the same name.
    """
    check_splits(splits)
    check_seeds(1, seed)
    make_folder(out)
    if paired:
        _check_pairs(generated, reference)
    sides = [_embed(sounds, embedders, progress) for sounds in (generated, reference)]
    if paired:  # again, without the files that cannot be decoded
        _check_pairs(*(side.sounds for side in sides))
    return _write(out, compare(sides[0], sides[1], embedders, splits=splits, seed=seed))


def _check_pairs(generated: SoundFiles, reference: SoundFiles) -> None:
    if lonely := sorted(set(generated.files) ^ set(reference.files)):
        raise ValueError(f"sounds without a partner: {len(lonely)}, the first: {lonely[0]}")


def _embed(
    sounds: SoundFiles, embedders: Sequence[Embedder], progress: Progress | None
) -> EmbeddedSounds:
    found, unreadable = embed_files(embedders, sounds.files.values(), progress=progress)
    return EmbeddedSounds(sounds.without(unreadable), collect(embedders, found.values()))


def evaluate_prompts(
    model: SoundCrafter,
    prompts: Sequence[Prompt],
    reference: SoundFiles,
    embedders: Sequence[Embedder],
    out: Path,
    *,
    name: str = "model",
    limit: int | None = None,
    data: Path | None = None,
    split: str = "test",
    seeds: int = 1,
    seed: int = 0,
    splits: int = 10,
    workers: Pool[EvaluationModels] | None = None,
    machine: Mapping[str, Any] | None = None,
    keep: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Generate sounds for prompts, compare them with real sounds and return the report.

    Writes the sounds into out/generated, and report.json, report.md, figures.json (for a model
    card) and timing.json. If all prompts name families that the tagger knows, the report also says
    how many sounds it recognises, and with the manifest `data` how varied they are and how many are
    copies of its training recordings.

    `name`: of the model in tables; `limit`: see `draw_prompts`; `workers`: processes that open the
    same model and embedders; `machine`: facts for timing.json; `keep`: a folder for a copy of each
    sound, <family>/<name>.wav. An interrupted call is resumed by the same call, which writes the
    same report. Raises ValueError if `out` or `keep` contains sounds of another model or other
    prompts, and for `keep` if a prompt has no family.
    """
    check_splits(splits)
    batches = plan_batches(draw_prompts(prompts, limit, seed), seeds, seed)
    planned = [one for batch in batches for one in batch]
    if keep is not None:
        claim_families(model, batches, keep, threads_of(workers))
    models = EvaluationModels(model, tuple(embedders))
    files = reference.files.values()
    results = generate_and_embed(models, batches, files, out, workers, progress)
    reference = reference.without(results.unreadable)
    if keep is not None:
        keep_by_family(batches, out / GENERATED, keep)
    made = {one.stem: sound_file(one, out / GENERATED) for one in planned}
    texts = [one.prompt.text for one in planned]
    generated = EmbeddedSounds(
        SoundFiles(made, model.sample_rate, {}),
        results.generated,
        [e.embed_text(texts) if isinstance(e, ClapEmbedder) else None for e in embedders],
    )
    real = EmbeddedSounds(reference, results.reference)
    report = _write(
        out,
        {
            "name": name,
            "model": dict(model.training_ids),
            "parameters": _parameters(model.clap.text, model.unet, model.vae, model.vocoder),
            "unet_parameters": _parameters(model.unet),
            "split": None if data is None else split,
            "limit": limit,
            **compare(generated, real, embedders, splits=splits, seed=seed),
            **_by_family(models, planned, generated, data, split),
            "sounds": _sound_rows(planned, generated, reference, embedders),
        },
    )
    write_json(out / "figures.json", card_figures(report))
    timing = _timing(model, results.seconds_per_clip, workers, machine or {})
    write_json(out / "timing.json", timing)
    return report


def _by_family(
    models: EvaluationModels,
    planned: Sequence[PlannedSound],
    generated: EmbeddedSounds,
    data: Path | None,
    split: str,
) -> dict[str, Any]:
    """How many sounds are recognised as their family, and with `data` their variety and the number
    of copies; nothing if no tagger knows the families."""
    families = [one.prompt.family for one in planned]
    for embedder, embedded in zip(models.embedders, generated.embedded, strict=True):
        if isinstance(embedder, TaggerEmbedder):
            if not set(families) <= set(embedder.classes):
                return {}
            shares = embedded.probabilities
            report: dict[str, Any] = {"recognised": recognition(shares, families, embedder.classes)}
            if data is not None:
                files = list(generated.sounds.files.values())
                report |= variety_report(models.model.clap.audio, files, families, data, split)
            return report
    return {}


def _sound_rows(
    planned: Sequence[PlannedSound],
    generated: EmbeddedSounds,
    reference: SoundFiles,
    embedders: Sequence[Embedder],
) -> list[dict[str, Any]]:
    """The facts and scores of each sound, in the order in which they were planned."""
    partners = {stem: f"{stem}{file.suffix}" for stem, file in reference.files.items()}
    rows: list[dict[str, Any]] = [
        {
            "file": f"{GENERATED}/{one.stem}.wav",
            "prompt": one.prompt.text,
            "family": one.prompt.family,
            "seed": one.seed,
            "seconds": audio_info(generated.sounds.files[one.stem]).seconds,
            "reference": partners.get(one.prompt.name or one.stem),
            **dict.fromkeys(("clap", "heard", "probability", "expected")),
        }
        for one in planned
    ]
    sides = zip(embedders, generated.embedded, generated.texts, strict=True)
    for embedder, embedded, texts in sides:
        if texts is not None:
            _add_clap_scores(rows, texts, embedded)
        if isinstance(embedder, TaggerEmbedder) and embedded.probabilities is not None:
            _add_predictions(rows, embedder.classes, embedded.probabilities)
    return rows


def _add_clap_scores(rows: list[dict[str, Any]], texts: np.ndarray, embedded: Embedded) -> None:
    for row, text, audio in zip(rows, texts, embedded.rows, strict=True):
        row["clap"] = clap_score(text[None], audio)


def _add_predictions(
    rows: list[dict[str, Any]], classes: Sequence[str], probabilities: np.ndarray
) -> None:
    """Add the predicted class and its probability, and the probability of the sound's family."""
    for row, shares in zip(rows, probabilities, strict=True):
        named = dict(zip(classes, shares.tolist(), strict=True))
        row["heard"] = max(named, key=named.__getitem__)
        row["probability"] = named[row["heard"]]
        row["expected"] = named.get(row["family"])


def _parameters(*parts: nn.Module) -> int:
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def _timing(
    model: SoundCrafter,
    seconds: float | None,
    workers: Pool[EvaluationModels] | None,
    machine: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        **machine,
        "seconds_per_clip": seconds,
        "processes": workers.processes if workers else 1,
        "threads": threads_of(workers),
        "device": machine.get("gpu") or model.device.type,
    }


def _write(out: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    report = {"version": __version__, **report}
    write_json(out / "report.json", report)
    write_text(out / "report.md", compare_markdown(report))
    return report
