"""CLAP's training: wave, caption -> two embeddings -> symmetric cross-entropy."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from soundcrafter.config import ModelConfig
from soundcrafter.data.augment import distort
from soundcrafter.data.captions import normalize_caption
from soundcrafter.models.clap import Clap, symmetric_cross_entropy
from soundcrafter.models.clap_audio import ClapAudio
from soundcrafter.models.clap_text import ClapText
from soundcrafter.models.tagger import Tagger
from soundcrafter.settings import to_dict
from soundcrafter.store import open_folder, read_parts, save_part
from soundcrafter.text import Tokenizer
from soundcrafter.train.recipe import ClapStageConfig, Recipe
from soundcrafter.train.sounds import data_identity, open_sounds, segment_samples
from soundcrafter.train.stage import (
    Batch,
    Losses,
    LossModule,
    PreparedBatch,
    Stage,
    load_part,
    refuse_other_settings,
)

_DISTORT = 31  # purpose number of the distortion


class ClapBatch(PreparedBatch):
    mel: Tensor  # [B, 1, T, F]
    tokens: Tensor  # [B, L]
    mask: Tensor  # [B, L]
    names: Tensor  # [B, 2], see sound_names


class ClapLoss(LossModule[Clap, ClapBatch]):
    """Both towers and the temperature."""

    def forward(self, batch: ClapBatch, step: int) -> tuple[Losses, Batch]:
        self.network.text.clamp_scale()
        # every sound is compared with the captions of all processes
        audio = self.processes.gather(self.network.audio.embed_mel(batch["mel"]))
        text = self.processes.gather(self.network.text(batch["tokens"], batch["mask"]))
        same = same_sound(self.processes.gather(batch["names"]))
        loss = symmetric_cross_entropy(audio, text, self.network.text.scale, same)
        return {"contrastive": loss}, {}


def sound_names(captions: Sequence[str], labels: Sequence[str | None]) -> Tensor:
    """[B, 2] int64: hashes of each sample's normalised caption and label; 0 for no label. Numbers,
    so that processes can exchange them."""
    rows = zip(captions, labels, strict=True)
    return torch.tensor([[_number(word) for word in row] for row in rows])


def same_sound(names: Tensor) -> Tensor:
    """names [B, 2] of `sound_names` -> [B, B] bool: pairs that must not be negatives, because
    captions or labels are equal, or the caption of one is the label of the other."""
    equal = names[:, None, :, None] == names[None, :, None, :]
    named = (names != 0)[:, None, :, None]
    return (equal & named).flatten(2).any(2)


def _number(words: str | None) -> int:
    if words is None:
        return 0
    digest = hashlib.sha256(normalize_caption(words).encode()).digest()
    return int.from_bytes(digest[:7], "big") + 1


class ClapStage(Stage[Clap, ClapBatch]):
    """Trains `clap_audio` and `clap_text`; without `train_text`, the audio tower only."""

    name = "clap"
    parts = ("clap_audio", "clap_text")

    def __init__(self, recipe: Recipe, data: str | PathLike[str], folder: Path) -> None:
        self.config: ClapStageConfig = recipe.clap
        self.model_config: ModelConfig = recipe.model
        self.folder = folder
        mel = self.model_config.clap_audio.mel
        self.sounds = open_sounds(
            data,
            recipe.data,
            mel=mel,
            num_samples=segment_samples(self.config.seconds, mel),
            seed=self.config.seed,
            need_caption=True,
            pad=self.config.pad,
        )
        self._check_contrast()
        torch.manual_seed(self.config.seed)
        text, tokenizer = self._text_tower(folder)
        audio = ClapAudio(self.model_config.clap_audio)
        if self.config.audio_init:
            _start_from_tagger(audio, Path(self.config.audio_init))
        clap = Clap(audio, text, tokenizer).train()
        if self.config.freeze_norm:
            clap.audio.freeze_norm()
        if self.config.checkpointing:
            clap.audio.checkpoint_blocks()
            clap.text.checkpoint_blocks()
        if not self.config.train_text:
            clap.text.requires_grad_(False).logit_scale.requires_grad_(True)
        self.loss_modules = {"clap": ClapLoss(clap)}

    def identity(self) -> dict[str, Any]:
        return {
            "model": {
                "clap_audio": to_dict(self.model_config.clap_audio),
                "clap_text": to_dict(self.model_config.clap_text),
            },
            "stage": to_dict(self.config),
            "data": data_identity(self.sounds),
        }

    def uses(self) -> list[tuple[Path, str]]:
        init = self.config.audio_init
        text = [] if self.config.train_text else [(self.folder, "clap_text")]
        return [*text, *([(Path(init), "tagger")] if init else [])]

    def load_batch(self, indices: Sequence[int]) -> Batch:
        batch = self.sounds.batch(indices)
        captions = [caption for caption in batch.captions if caption is not None]  # all have one
        tokens, mask = self.network.tokenizer.encode(
            captions, self.model_config.clap_text.max_length
        )
        return {
            "wave": batch.wave,
            "tokens": torch.from_numpy(tokens),
            "mask": torch.from_numpy(mask),
            "names": sound_names(captions, batch.labels),
            "indices": indices,
            "files": batch.files,
        }

    def prepare(self, batch: Batch, device: torch.device) -> ClapBatch:
        audio, distortion = self.network.audio, self.config.distortion
        mel = audio.spectrogram(batch["wave"].to(device))
        for row, index in enumerate(batch["indices"]):
            rng = np.random.default_rng([self.config.seed, _DISTORT, index])
            distort(mel[row, 0], distortion, rng, audio.config.mel_mean)
        tokens, mask, names = (batch[key].to(device) for key in ("tokens", "mask", "names"))
        return {"mel": mel, "tokens": tokens, "mask": mask, "names": names, "files": batch["files"]}

    def initialise(self, folder: Path) -> None:
        clap = self.network
        if self.config.train_text:
            load_part(clap.text, folder, "clap_text")
            clap.tokenizer = open_folder(folder).load_tokenizer()
        load_part(clap.audio, folder, "clap_audio")

    def state(self) -> dict[str, Any]:
        return {"tokenizer": self.network.tokenizer.to_json()}  # may come from `initialise`

    def load_state(self, state: Mapping[str, Any]) -> None:
        if "tokenizer" in state:
            self.network.tokenizer = Tokenizer.from_json(state["tokenizer"])

    def export(self, network: Clap, folder: Path) -> None:
        config = self.model_config
        audio_id = save_part(folder, "clap_audio", network.audio, config.clap_audio)
        save_part(
            folder,
            "clap_text",
            network.text,
            config.clap_text,
            trained_against={"clap_audio": audio_id},
            tokenizer=self.network.tokenizer,
        )

    def _check_contrast(self) -> None:
        """Raise ValueError where no two recordings can be told apart by caption and label: the loss
        takes no two of them for a negative pair, and is 0 from the first step on."""
        recordings, wordings = self.sounds.manifest.recordings, self.sounds.wordings
        # a caption that wordings may replace is not what two recordings share
        rows = {(None if r.label in wordings else r.caption, r.label) for r in recordings}
        names = {frozenset(n for n in map(_number, row) if n) for row in rows}
        if not all(one & other for one, other in combinations(names, 2)):
            return
        first = recordings[0]
        raise ValueError(
            f"clap: all {len(recordings)} recordings share a caption or a label (the first has "
            f"{first.caption!r}, label {first.label!r}); there is nothing to tell apart, so "
            "nothing can be learned; use recordings with different captions and labels"
        )

    def _text_tower(self, folder: Path) -> tuple[ClapText, Tokenizer]:
        """A new tower with its tokenizer, or without `train_text` those of the folder."""
        if self.config.train_text:
            recordings = self.sounds.manifest.recordings
            captions = [r.caption for r in recordings if r.caption is not None]
            tokenizer = Tokenizer.train(captions, self.model_config.clap_text.vocab_size)
            return ClapText(self.model_config.clap_text), tokenizer
        if "clap_text" not in read_parts(folder):
            raise ValueError(
                f"{folder}: clap.train_text=false needs a trained clap_text; first run "
                "`soundcrafter train text`"
            )
        source = open_folder(folder, allow_mismatch=True)  # a kill may have separated the two parts
        tower = cast(ClapText, source.load("clap_text"))
        refuse_other_settings(folder, "clap_text", tower.config, self.model_config.clap_text)
        return tower, source.load_tokenizer()


def _start_from_tagger(audio: ClapAudio, folder: Path) -> None:
    """Copy a tagger's weights into the conv tower, except for the projection to its classes."""
    tagger = cast(Tagger, open_folder(folder).load("tagger"))
    ours, theirs = audio.tower.state_dict(), tagger.tower.state_dict()
    shapes = [
        {name: value.shape for name, value in state.items() if "projection" not in name}
        for state in (ours, theirs)
    ]
    plain = [to_dict(config) for config in (tagger.config, audio.config)]
    shared = ("mel", "mel_mean", "mel_std", "width", "depths")
    there, here = ({name: config[name] for name in shared} for config in plain)
    refuse_other_settings(folder, "tagger", there, here, "model.clap_audio")
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{folder}: the tagger cannot be the trunk of a {audio.config.tower} tower"
        )
    audio.tower.load_state_dict({**ours, **{name: theirs[name] for name in shapes[0]}})
