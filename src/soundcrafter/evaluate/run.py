"""What the command `soundcrafter evaluate` does: folders, a model on prompts, the chain."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soundcrafter.audio import audio_info
from soundcrafter.evaluate.chain import recognised
from soundcrafter.evaluate.compare import (
    SoundFiles,
    card_figures,
    compare,
    compare_markdown,
    find_sounds,
)
from soundcrafter.evaluate.embedders import ClapEmbedder
from soundcrafter.evaluate.embedding import Embedder
from soundcrafter.evaluate.embeddings import embed
from soundcrafter.evaluate.generate import Batch, draw_prompts, plan_batches
from soundcrafter.evaluate.html import write_html
from soundcrafter.evaluate.jobs import EMBEDDINGS, GENERATED, Tools, make_and_embed, threads_of
from soundcrafter.evaluate.kept import claim_families, keep_by_family
from soundcrafter.evaluate.metrics import clap_score
from soundcrafter.evaluate.prompts import (
    Prompt,
    caption_prompts,
    family_prompts,
    free_prompts,
    read_prompts,
)
from soundcrafter.evaluate.tagger import Tagger
from soundcrafter.evaluate.variety import variety_report
from soundcrafter.files import make_folder, write_json, write_text
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.progress import Progress
from soundcrafter.version import __version__
from soundcrafter.workers import Workers


def evaluate_folders(
    generated: Path,
    reference: SoundFiles,
    embedders: Sequence[Embedder],
    out: Path,
    *,
    splits: int = 10,
    seed: int = 0,
    paired: bool = False,
    mixed_rates: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare a folder with real sounds; writes report.json and report.md into `out`."""
    report = compare(
        find_sounds(generated, mixed_rates=mixed_rates),
        reference,
        embedders,
        splits=splits,
        seed=seed,
        paired=paired,
        progress=progress,
    )
    return _write(out, report)


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
    workers: Workers[Tools] | None = None,
    machine: Mapping[str, Any] | None = None,
    page: bool = True,
    keep: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Generate for prompts into out/generated, compare with real sounds; where the
    prompts name families, the tagger says how many it recognises, and with the manifest `data`
    how varied they are, and how many are copies of its training recordings.

    Writes report.json, report.md, figures.json (for a model card), timing.json and, unless `page`
    is False, report.html. `name` is the model's in tables; `limit`: see `draw_prompts`; `workers`
    open the same model and embedders; `machine`: facts for timing.json; `keep`: a folder that gets
    a copy of each sound, <family>/<name>.wav. Called again after a kill it goes on where it was,
    and writes the same report. Raises ValueError where `out` or `keep` holds sounds of another
    model or other prompts, and for `keep` with prompts that name no family.
    """
    batches = plan_batches(draw_prompts(prompts, limit, seed), seeds, seed)
    tools = Tools(model, tuple(embedders))
    if keep is not None:
        claim_families(model, batches, keep, threads_of(workers))
    seconds = make_and_embed(tools, batches, reference.files.values(), out, workers, progress)
    if keep is not None:
        keep_by_family(batches, out / GENERATED, keep)
    stems = {planned.stem: planned.prompt for batch in batches for planned in batch}
    made = SoundFiles({s: out / GENERATED / f"{s}.wav" for s in stems}, model.sample_rate, {})
    kept = out / EMBEDDINGS
    texts = {stem: prompt.text for stem, prompt in stems.items()}
    figures = compare(
        made, reference, embedders, prompts=texts, splits=splits, seed=seed, kept=kept
    )
    families = [prompt.family for prompt in stems.values()]
    report = _write(
        out,
        {
            "name": name,
            "model": dict(model.training_ids),
            "parameters": _parameters(model),
            "split": None if data is None else split,
            "limit": limit,
            **figures,
            **_by_family(tools, families, made, kept, data, split),
            "sounds": _rows(batches, made, reference, embedders, kept),
        },
    )
    write_json(out / "figures.json", card_figures(report))
    write_json(out / "timing.json", _timing(model, seconds, workers, machine or {}))
    if page:
        write_html([out], out / "report.html", progress)
    return report


def _by_family(
    tools: Tools,
    families: Sequence[str],
    made: SoundFiles,
    kept: Path,
    data: Path | None,
    split: str,
) -> dict[str, Any]:
    """How many sounds are taken for their family, and with `data` their variety and how many are
    copies; nothing where no tagger knows the families [N]."""
    tagger = next((found for found in tools.embedders if isinstance(found, Tagger)), None)
    if tagger is None or not set(families) <= set(tagger.classes):
        return {}
    files = list(made.files.values())
    heard = embed(tagger, files, kept=kept).probabilities
    report: dict[str, Any] = {"recognised": recognised(heard, families, tagger.classes)}
    if data is not None:
        report |= variety_report(tools.model.clap.audio, files, families, data, split)
    return report


def _rows(
    batches: Sequence[Batch],
    made: SoundFiles,
    reference: SoundFiles,
    embedders: Sequence[Embedder],
    kept: Path,
) -> list[dict[str, Any]]:
    """What is known of each sound, in the order in which they were planned."""
    planned = [one for batch in batches for one in batch]
    partners = {stem: f"{stem}{file.suffix}" for stem, file in reference.files.items()}
    rows: list[dict[str, Any]] = [
        {
            "file": f"{GENERATED}/{one.stem}.wav",
            "prompt": one.prompt.text,
            "family": one.prompt.family,
            "seed": one.seed,
            "seconds": audio_info(made.files[one.stem]).seconds,
            "reference": partners.get(one.prompt.name or one.stem),
            **dict.fromkeys(("clap", "heard", "probability", "expected")),
        }
        for one in planned
    ]
    for embedder in embedders:
        found = embed(embedder, made.files.values(), kept=kept)
        if isinstance(embedder, ClapEmbedder):
            texts = embedder.embed_text([one.prompt.text for one in planned])
            for row, text, audio in zip(rows, texts, found.rows, strict=True):
                row["clap"] = clap_score(text[None], audio)
        if isinstance(embedder, Tagger) and found.probabilities is not None:
            for row, shares in zip(rows, found.probabilities, strict=True):
                shown = dict(zip(embedder.classes, shares.tolist(), strict=True))
                row["heard"] = max(shown, key=shown.__getitem__)
                row["probability"] = shown[row["heard"]]
                row["expected"] = shown.get(row["family"])
    return rows


def _parameters(model: SoundCrafter) -> int:
    """The parameters of all parts that make a sound from a text."""
    parts = (model.clap.text, model.unet, model.vae, model.vocoder)
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def _timing(
    model: SoundCrafter,
    seconds: float | None,
    workers: Workers[Tools] | None,
    machine: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        **machine,
        "seconds_per_clip": seconds,
        "processes": workers.processes if workers else 1,
        "threads": threads_of(workers),
        "device": machine.get("gpu") or model.device.type,
    }


def prompts_named(name: str, data: Path | None, split: str) -> tuple[Prompt, ...]:
    """The frozen prompts `families` or `free`, the `captions` of a split of `data`, or a file's."""
    if name == "captions":
        if data is None:
            raise ValueError("--prompts captions: needs --data, whose captions they are")
        return caption_prompts(data, split)
    known = {"families": family_prompts, "free": free_prompts}
    return known[name]() if name in known else read_prompts(name)


def _write(out: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    report = {"version": __version__, **report}
    make_folder(out)
    write_json(out / "report.json", report)
    write_text(out / "report.md", compare_markdown(report))
    return report
