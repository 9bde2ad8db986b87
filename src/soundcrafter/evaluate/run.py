"""What the command `soundcrafter evaluate` does: folders, a model on prompts, the chain."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soundcrafter.evaluate.chain import recognised
from soundcrafter.evaluate.compare import (
    SoundFiles,
    compare,
    compare_markdown,
    embed,
    find_sounds,
)
from soundcrafter.evaluate.embedding import Embedder
from soundcrafter.evaluate.generate import generate_prompts
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
from soundcrafter.pipeline import Progress, SoundCrafter
from soundcrafter.version import __version__


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
    data: Path | None = None,
    split: str = "test",
    seeds: int = 1,
    seed: int = 0,
    splits: int = 10,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Generate for prompts into out/generated, compare with real sounds; where the
    prompts name families, the tagger says how many it recognises, and with the manifest `data`
    how varied they are, and how many are copies of its training recordings."""
    stems = generate_prompts(
        model, prompts, out / "generated", seeds=seeds, seed=seed, progress=progress
    )
    found = find_sounds(out / "generated")
    made = SoundFiles({s: found.files[s] for s in stems}, found.sample_rate, found.skipped)
    texts = {stem: prompt.text for stem, prompt in stems.items()}
    report = compare(
        made, reference, embedders, prompts=texts, splits=splits, seed=seed, progress=progress
    )
    taggers = [embedder for embedder in embedders if isinstance(embedder, Tagger)]
    if taggers and all(prompt.family in taggers[0].classes for prompt in prompts):
        heard = embed(taggers[0], made).probabilities
        families = [prompt.family for prompt in stems.values()]
        report["recognised"] = recognised(heard, families, taggers[0].classes)
        if data is not None:
            files = list(made.files.values())
            report |= variety_report(model.clap.audio, files, families, data, split)
    return _write(out, {"model": dict(model.training_ids), **report})


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
