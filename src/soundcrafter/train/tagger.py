"""The tagger's training: sound -> class; cross-entropy on mixed and masked spectrograms. With a
teacher, the similarities between its embeddings of the sounds are learned too."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NotRequired, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.convert.aisfx_weights import load_aisfx
from soundcrafter.data.augment import distort
from soundcrafter.mel import LogMel
from soundcrafter.models.aisfx import MelReader
from soundcrafter.models.losses import similarity_distance
from soundcrafter.models.tagger import Tagger
from soundcrafter.settings import to_dict
from soundcrafter.store import save_part
from soundcrafter.train.recipe import Recipe, TaggerStageConfig
from soundcrafter.train.sounds import data_identity, open_sounds, segment_samples
from soundcrafter.train.stage import Batch, Losses, LossModule, PreparedBatch, Stage

_MIX, _MASK = 40, 41  # purpose numbers of the augmentation's draws


class TaggerBatch(PreparedBatch):
    mel: Tensor  # [B, 1, T, F]
    target: Tensor  # [B, classes], shares of each class
    taught: NotRequired[Tensor]  # [B, E], the teacher's embeddings


class TaggerLoss(LossModule[Tagger, TaggerBatch]):
    """The tagger and its loss."""

    def __init__(self, tagger: Tagger, config: TaggerStageConfig) -> None:
        super().__init__(tagger)
        self.config = config

    def forward(self, batch: TaggerBatch, step: int) -> tuple[Losses, Batch]:
        tagger, target = self.network, batch["target"]
        features = tagger.features(batch["mel"])
        logits = tagger.logits(features)
        loss = F.cross_entropy(logits, target, label_smoothing=self.config.label_smoothing)
        hit = (logits.argmax(1) == target.argmax(1)).float().mean()
        losses = {"cross_entropy": loss, "accuracy": hit.detach()}
        if "taught" in batch:
            losses["teacher"] = similarity_distance(features, batch["taught"])
        return losses, {}


class TaggerStage(Stage[Tagger, TaggerBatch]):
    """Trains the part `tagger`."""

    name = "tagger"
    parts = ("tagger",)
    one_process = True  # sounds are mixed with their neighbours in the batch

    def __init__(self, recipe: Recipe, data: str | PathLike[str], folder: Path) -> None:
        self.config: TaggerStageConfig = recipe.tagger
        self.model_config = self.config.network
        classes, mel = self.model_config.classes, self.model_config.mel
        torch.manual_seed(self.config.seed)
        tagger = Tagger(self.model_config)
        self.loss_modules = {"tagger": TaggerLoss(tagger, self.config)}
        self.sounds = open_sounds(
            data,
            recipe.data,
            mel=mel,
            num_samples=segment_samples(self.config.seconds, mel),
            seed=self.config.seed,
            labels=lambda label: label if label in classes else classes[-1],
        )
        found = {recording.label for recording in self.sounds.manifest.recordings}
        if len(found) == 1 and not self.config.teacher:
            raise ValueError(
                f"tagger: all recordings are of the class {found.pop()!r} by the column "
                f"{recipe.data.label_column!r}; with one class nothing can be learned"
            )
        self.log_mel = LogMel(mel)
        self.teacher: nn.Module | None = None
        if self.config.teacher:
            self.teacher = nn.Sequential(MelReader(mel), load_aisfx(self.config.teacher))

    def identity(self) -> dict[str, Any]:
        return {"stage": to_dict(self.config), "data": data_identity(self.sounds)}

    def weights(self, step: int) -> dict[str, float]:
        # accuracy is only logged
        return {"cross_entropy": 1.0, "accuracy": 0.0, "teacher": self.config.teacher_weight}

    def load_batch(self, indices: Sequence[int]) -> Batch:
        batch = self.sounds.batch(indices)
        places = [self.model_config.classes.index(cast(str, label)) for label in batch.labels]
        return {
            "wave": batch.wave,
            "class": torch.tensor(places),
            "indices": indices,
            "files": batch.files,
        }

    def prepare(self, batch: Batch, device: torch.device) -> TaggerBatch:
        target = F.one_hot(batch["class"], len(self.model_config.classes)).float()
        shares = torch.tensor([self._share(index) for index in batch["indices"]])[:, None]
        wave = mix_with_next(batch["wave"], shares)
        mel = self.log_mel(wave)
        # the teacher hears the sounds before they are distorted
        taught = None if self.teacher is None else self.teacher.to(device)(mel.to(device))
        for row, index in enumerate(batch["indices"]):
            rng = np.random.default_rng([self.config.seed, _MASK, index])
            distort(mel[row, 0], self.config.distortion, rng, self.model_config.mel_mean)
        mixed = mix_with_next(target, shares).to(device)
        prepared: TaggerBatch = {"mel": mel.to(device), "target": mixed, "files": batch["files"]}
        if taught is not None:
            prepared["taught"] = taught
        return prepared

    def _share(self, index: int) -> float:
        """The share of its neighbour that is mixed into a sound: 0, or up to a half."""
        rng = np.random.default_rng([self.config.seed, _MIX, index])
        mixed = rng.random() < self.config.mixup
        return float(rng.uniform(0.0, 0.5)) if mixed else 0.0

    def export(self, network: Tagger, folder: Path) -> None:
        save_part(folder, "tagger", network, self.model_config)


def mix_with_next(rows: Tensor, shares: Tensor) -> Tensor:
    """(1 - share) of each row [B, N] plus share [B, 1] of the next one (mixup, 1710.09412)."""
    return (1.0 - shares) * rows + shares * rows.roll(-1, 0)
