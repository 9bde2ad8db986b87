"""Do prompts matter? Sounds are generated for the names of sound families; the CLAP audio
embedding of each sound then retrieves a family among all of them by the CLAP text embeddings of
the names. Chance is 1 / families. With --unseen, captions that training never saw take the names'
place, for the families that have one. Real recordings of a split, retrieved alike, show how far
this CLAP can be trusted.

    python benchmarks/family_retrieval.py --model MODEL --data DIR --count 4 --unseen
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

import torch

from soundcrafter.audio import fit_length, normalize_peak, read_audio
from soundcrafter.data.manifest import normalize_caption, read_manifest
from soundcrafter.pipeline import SoundCrafter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path, help="folder with scored_families.csv")
    parser.add_argument("--split", default="test", help="of the real recordings")
    parser.add_argument(
        "--unseen", action="store_true", help="prompts: captions of the split that train lacks"
    )
    parser.add_argument("--count", default=2, type=int, help="sounds a family")
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    with open(options.data / "scored_families.csv", newline="", encoding="utf-8") as stream:
        families = [row["family"] for row in csv.DictReader(stream)]
    model = SoundCrafter.from_pretrained(options.model, "cpu")
    prompts = {family: family for family in families}
    if options.unseen:
        prompts = unseen_captions(options.data, options.split, families)
        families = list(prompts)
    anchors = model.clap.embed_text(list(prompts.values()))
    figures = {
        "generated sounds that retrieve their own prompt's family": generated_rate(
            model, prompts, anchors, options
        ),
        "real recordings that retrieve their family": real_rate(model, families, anchors, options),
        "chance": {"top1": 1 / len(families), "families": len(families)},
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


def generated_rate(
    model: SoundCrafter,
    prompts: dict[str, str],
    anchors: torch.Tensor,
    options: argparse.Namespace,
) -> dict[str, object]:
    """Share of generated sounds that retrieve the family whose prompt was theirs."""
    sounds = model.generate(
        list(prompts.values()),
        count=options.count,
        seed=options.seed,
        steps=options.steps,
        guidance=options.guidance,
        batch_size=16,
    )
    ranks: dict[str, list[int]] = defaultdict(list)
    for number, sound in enumerate(sounds):
        wanted = number // options.count
        audio = model.clap.embed_audio(sound.wave, sound.sample_rate)
        ranks[list(prompts)[wanted]].append(rank(anchors, audio, wanted))
    return {**summary(ranks), "seed": options.seed}


def real_rate(
    model: SoundCrafter, families: list[str], anchors: torch.Tensor, options: argparse.Namespace
) -> dict[str, object]:
    """The same share for real recordings, cut and padded to the model's default length."""
    manifest = read_manifest(options.data, split=options.split, label_column="family")
    length = round(model.sampling.seconds * model.sample_rate)
    ranks: dict[str, list[int]] = defaultdict(list)
    for recording in manifest.recordings:
        if recording.label in families:
            wave = read_audio(recording.file, model.sample_rate)
            wave = fit_length(normalize_peak(wave[:length]), length)
            audio = model.clap.embed_audio(wave, model.sample_rate)
            ranks[recording.label].append(rank(anchors, audio, families.index(recording.label)))
    return {**summary(ranks), "split": options.split}


def unseen_captions(data: Path, split: str, families: list[str]) -> dict[str, str]:
    """For each family the first caption of the split that no training recording has, if any."""
    known = {
        normalize_caption(r.caption or "") for r in read_manifest(data, split="train").recordings
    }
    found: dict[str, str] = {}
    recordings = read_manifest(data, split=split, label_column="family").recordings
    for recording in sorted(recordings, key=lambda r: r.caption or ""):
        caption = recording.caption or ""
        if recording.label in families and normalize_caption(caption) not in known:
            found.setdefault(recording.label, caption)
    return found


def rank(anchors: torch.Tensor, audio: torch.Tensor, wanted: int) -> int:
    """0 where the wanted family is the nearest."""
    similarity = (anchors @ audio[0]).tolist()
    return sum(value > similarity[wanted] for value in similarity)


def summary(ranks: dict[str, list[int]]) -> dict[str, object]:
    """Pooled rates, and the number of families that are never retrieved first."""
    pooled = [value for values in ranks.values() for value in values]
    return {
        "top1": sum(value == 0 for value in pooled) / len(pooled),
        "top5": sum(value < 5 for value in pooled) / len(pooled),
        "n": len(pooled),
        "families_at_zero": sum(all(value > 0 for value in values) for values in ranks.values()),
    }


if __name__ == "__main__":
    main()
