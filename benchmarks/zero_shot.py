"""Do the two towers understand each other? Families of real recordings, and of wordings.

    python benchmarks/zero_shot.py [MODEL] --data DIR [--split test] [--prompts free] [--out FILE]

Recordings of the scored families retrieve the text that is nearest to them: the family's name, or
the mean of its training wordings. Prompts (`free`, `families`, or `dev`: the wordings kept from
training) retrieve a family the same two ways, and by sound: the nearest mean of a family's training
recordings. Chance is 1 / 52.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from soundcrafter.audio import fit_length, normalize_peak, read_audio
from soundcrafter.data.manifest import read_manifest
from soundcrafter.data.wordings import read_wordings
from soundcrafter.evaluate.metrics import wilson_interval
from soundcrafter.evaluate.prompt_sets import Prompt, family_prompts, free_prompts
from soundcrafter.evaluate.tagger_embedder import TaggerEmbedder
from soundcrafter.files import write_json
from soundcrafter.hub import find_model
from soundcrafter.models.clap import Clap
from soundcrafter.store import open_folder

SECONDS = 10.0  # of a recording; a shorter one is followed by silence up to LEAST
LEAST = 5.12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--prompts", choices=("free", "families", "dev"), default="free")
    parser.add_argument("--wordings", type=Path, default=Path("recipes/wordings.csv"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = open_folder(find_model(options.model))
    clap = Clap(folder.load("clap_audio"), folder.load("clap_text"), folder.load_tokenizer())
    families = list(TaggerEmbedder.bundled().classes[:-1])
    wordings = read_wordings(options.wordings)
    texts = {
        "name": clap.embed_text(families),
        "wordings": torch.cat([_mean(clap.embed_text(wordings[family])) for family in families]),
    }
    audio, places = embed_recordings(clap, options.data, options.split, families)
    report: dict[str, Any] = {
        f"{options.split} recordings by {kind}": share(audio, anchors, places)
        for kind, anchors in texts.items()
    }
    train, owners = embed_recordings(clap, options.data, "train", families)
    texts["sound"] = torch.cat([_mean(train[owners == i]) for i in range(len(families))])
    prompts = find_prompts(options.prompts, options.wordings)
    wanted = torch.tensor([families.index(prompt.family) for prompt in prompts])
    asked = clap.embed_text([prompt.text for prompt in prompts])
    report |= {
        f"{options.prompts} prompts by {kind}": share(asked, anchors, wanted)
        for kind, anchors in texts.items()
    }
    print(json.dumps(report, indent=2))
    if options.out is not None:
        write_json(options.out, report)


def find_prompts(name: str, wordings: Path) -> Sequence[Prompt]:
    """The frozen prompts, or the wordings of split dev."""
    if name == "dev":
        scored = {prompt.family for prompt in family_prompts()}
        found = read_wordings(wordings, "dev").items()
        return [
            Prompt(text, family) for family, texts in found if family in scored for text in texts
        ]
    return free_prompts() if name == "free" else family_prompts()


def embed_recordings(
    clap: Clap, data: Path, split: str, families: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Embeddings [N, E] of a split's recordings of the families, and their places [N]."""
    rate = clap.audio.config.mel.sample_rate
    rows, places = [], []
    for recording in read_manifest(data, split=split, label_column="family").recordings:
        if recording.label in families:
            seconds = min(recording.seconds, SECONDS)
            wave = read_audio(recording.file, rate, start=recording.start, seconds=seconds)
            least = max(len(wave), round(LEAST * rate))
            rows.append(clap.embed_audio(fit_length(normalize_peak(wave), least), rate))
            places.append(families.index(recording.label))
    return torch.cat(rows), torch.tensor(places)


def share(rows: Tensor, anchors: Tensor, wanted: Tensor) -> dict[str, Any]:
    """How many rows [N, E] have the wanted [N] of the anchors [K, E] as their nearest."""
    hits = int(((rows @ anchors.T).argmax(1) == wanted).sum())
    interval = list(wilson_interval(hits, len(wanted)))
    return {"first": hits, "n": len(wanted), "share": hits / len(wanted), "interval": interval}


def _mean(rows: Tensor) -> Tensor:
    return F.normalize(rows.mean(0, keepdim=True), dim=-1)


if __name__ == "__main__":
    main()
