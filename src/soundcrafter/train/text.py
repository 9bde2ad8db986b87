"""Pretraining of the text tower: distillation of a sentence encoder, without any sound.

caption -> text tower -> embedding, pulled towards the teacher's vector of the caption and the
embeddings of captions with the same meaning. The audio tower is aligned with it afterwards.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from soundcrafter.config import ModelConfig
from soundcrafter.data.captions import (
    normalize_caption,
    read_caption_groups,
    read_captions,
    read_excluded,
)
from soundcrafter.data.wordings import read_wordings
from soundcrafter.files import read_json
from soundcrafter.models.clap import symmetric_cross_entropy
from soundcrafter.models.clap_text import ClapText
from soundcrafter.settings import to_dict
from soundcrafter.store import open_folder, save_part
from soundcrafter.text import Tokenizer
from soundcrafter.train.checkpoint import run_folder
from soundcrafter.train.recipe import Recipe, TextStageConfig
from soundcrafter.train.stage import Batch, Losses, LossModule, PreparedBatch, Stage, load_part
from soundcrafter.train.teacher import Teacher, cached, principal

UNALIGNED = "none"  # audio tower's training id before any audio tower is trained
_DRAW = 50  # purpose number of the choice of texts


class TextBatch(PreparedBatch):
    tokens: Tensor  # [B, L]
    mask: Tensor  # [B, L]
    target: Tensor  # [B, E], the teacher's vectors
    first: Tensor  # [P], rows of the texts that have a partner
    second: Tensor  # [P], rows of these partners
    same: Tensor  # [P, P] bool: pairs of the same group


class TextLoss(LossModule[ClapText, TextBatch]):
    """The text tower's distance from the teacher, and between texts of the same meaning."""

    def forward(self, batch: TextBatch, step: int) -> tuple[Losses, Batch]:
        self.network.clamp_scale()
        embeddings = self.network(batch["tokens"], batch["mask"])
        cosine = (embeddings * batch["target"]).sum(-1)
        losses = {"distillation": (1.0 - cosine).mean()}
        if len(batch["first"]):
            losses["contrastive"] = symmetric_cross_entropy(
                embeddings[batch["first"]],
                embeddings[batch["second"]],
                self.network.scale,
                batch["same"],
            )
        return losses, {}


class TextStage(Stage[ClapText, TextBatch]):
    """Trains the part `clap_text` from text only; `data` is a folder of captions."""

    name = "text"
    parts = ("clap_text",)
    precedes = ("clap_audio",)
    one_process = True  # captions are compared within a batch

    def __init__(self, recipe: Recipe, data: str | PathLike[str], folder: Path) -> None:
        self.config: TextStageConfig = recipe.text
        self.model_config: ModelConfig = recipe.model
        if not self.config.teacher:
            raise ValueError(
                "text.teacher: must not be empty; name the folder of a sentence encoder in "
                "transformers' layout"
            )
        excluded = read_excluded(recipe.data.exclude_captions)

        def keep(text: str) -> bool:
            short = len(text.split()) <= self.config.max_words
            return short and normalize_caption(text) not in excluded

        data = Path(data)
        self.groups = text_groups(recipe, data, keep)
        # a family may be listed several times
        self.kinds = {group: kind for kind, group in enumerate(self.groups)}
        singles = [
            caption
            for name in self.config.captions
            for caption in read_captions(data / name)
            if keep(caption)
        ]
        teacher = Teacher(self.config.teacher)
        words = teacher.words()
        self.pools = {"caption": sorted(set(singles)), "word": words}
        texts = sorted({*singles, *words, *(text for group in self.groups for text in group)})
        self.places = {text: place for place, text in enumerate(texts)}
        cache = run_folder(folder, self.name) / "teacher.safetensors"
        vectors = cached(teacher, self.config.teacher, texts, cache)
        if not words or not self.groups:
            raise ValueError(
                f"text: {len(words)} words of the teacher, {len(self.groups)} groups of texts that "
                "mean the same; at least one of each is needed"
            )
        of_captions = vectors[[self.places[text] for text in self.pools["caption"]]]
        mean, directions = principal(of_captions, self.model_config.clap_text.embed_dim)
        self.targets = F.normalize((vectors - mean) @ directions, dim=-1)
        torch.manual_seed(self.config.seed)
        self.tokenizer = Tokenizer.train(texts, self.model_config.clap_text.vocab_size)
        self.loss_modules = {"text": TextLoss(ClapText(self.model_config.clap_text).train())}

    def identity(self) -> dict[str, Any]:
        return {
            "model": {"clap_text": to_dict(self.model_config.clap_text)},
            "stage": to_dict(self.config),
            "data": {"texts": _fingerprint(self.places), "groups": _fingerprint(self.groups)},
        }

    def skipped(self) -> dict[str, str]:
        return {}

    def weights(self, step: int) -> dict[str, float]:
        return {"distillation": 1.0, "contrastive": self.config.contrastive_weight}

    def load_batch(self, indices: Sequence[int]) -> Batch:
        texts: list[str] = []
        partners: list[str] = []
        first: list[int] = []
        groups: list[int] = []
        for index in indices:
            rng = np.random.default_rng([self.config.seed, _DRAW, index])
            if rng.random() < self.config.pairs:
                group = int(rng.integers(len(self.groups)))
                one, other = rng.permutation(len(self.groups[group]))[:2]
                first.append(len(texts))
                groups.append(self.kinds[self.groups[group]])
                texts.append(self.groups[group][one])
                partners.append(self.groups[group][other])
            else:
                pool = self.pools["word" if rng.random() < self.config.words else "caption"]
                texts.append(pool[int(rng.integers(len(pool)))])
        tokens, mask = self.tokenizer.encode(
            texts + partners, self.model_config.clap_text.max_length
        )
        kinds = torch.tensor(groups)
        return {
            "tokens": torch.from_numpy(tokens),
            "mask": torch.from_numpy(mask),
            "target": self.targets[[self.places[text] for text in texts + partners]],
            "first": torch.tensor(first, dtype=torch.long),
            "second": torch.arange(len(texts), len(texts) + len(partners)),
            "same": kinds[:, None] == kinds[None],
            "files": (),
        }

    def prepare(self, batch: Batch, device: torch.device) -> TextBatch:
        moved: Any = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        return moved

    def initialise(self, folder: Path) -> None:
        load_part(self.network, folder, "clap_text")
        self.tokenizer = open_folder(folder).load_tokenizer()

    def state(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.to_json()}  # may come from `initialise`

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.tokenizer = Tokenizer.from_json(state["tokenizer"])

    def export(self, network: ClapText, folder: Path) -> None:
        save_part(
            folder,
            "clap_text",
            network,
            self.model_config.clap_text,
            trained_against={"clap_audio": UNALIGNED},
            tokenizer=self.tokenizer,
        )


def text_groups(recipe: Recipe, data: Path, keep: Callable[[str], bool]) -> list[tuple[str, ...]]:
    """Groups of two or more texts with the same meaning that `keep` accepts: the wordings of a
    family, the captions of a clip, the name and description of a sound class.

    A family is listed once for every eight of its wordings, so that it is drawn often enough.
    """
    groups: list[tuple[str, ...]] = []
    if recipe.data.wordings:
        for family, wordings in read_wordings(recipe.data.wordings).items():
            groups += [(family, *wordings)] * max(1, len(wordings) // 8)
    for name in recipe.text.captions:
        groups += read_caption_groups(data / name)
    if recipe.text.ontology:
        groups += _described(data / recipe.text.ontology)
    kept = (tuple(text for text in group if keep(text)) for group in groups)
    return [group for group in kept if len(group) > 1]


def _described(path: Path) -> list[tuple[str, str]]:
    """Name and description of each class of an AudioSet ontology that has one."""
    classes = read_json(path)
    try:
        return [(one["name"], one["description"]) for one in classes if one["description"]]
    except (TypeError, KeyError):
        raise ValueError(f"{path}: not a list of classes with name and description") from None


def _fingerprint(texts: Iterable[object]) -> str:
    rows = list(texts)
    return f"{len(rows)}, sha256 {hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]}"
