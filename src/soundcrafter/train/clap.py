"""CLAP's training: wave, caption -> two embeddings -> symmetric cross-entropy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from soundcrafter.data.manifest import normalize_caption, read_captions
from soundcrafter.models.clap import Clap, ClapAudio, ClapText, symmetric_cross_entropy
from soundcrafter.settings import to_dict
from soundcrafter.store import ModelConfig, open_folder, save_part
from soundcrafter.text import Tokenizer
from soundcrafter.train.recipe import ClapStageConfig, Recipe
from soundcrafter.train.sounds import data_identity, open_sounds, segment_samples
from soundcrafter.train.stage import Batch, Player, Stage, Terms, load_part


class ClapPlayer(Player):
    """Both towers and the temperature."""

    def __init__(self, clap: Clap) -> None:
        super().__init__(clap)
        self.clap = cast(Clap, self.network)

    def forward(self, batch: Batch, step: int) -> tuple[Terms, Batch]:
        self.clap.text.clamp_scale()
        audio = self.clap.audio(batch["wave"])
        text = self.clap.text(batch["tokens"], batch["mask"])
        loss = symmetric_cross_entropy(audio, text, self.clap.text.scale, batch["same"])
        return {"contrastive": loss}, {}


class ClapStage(Stage):
    """Trains the parts `clap_audio` and `clap_text`, or the text tower alone."""

    name = "clap"

    def __init__(self, recipe: Recipe, data: Path, folder: Path) -> None:
        self.config: ClapStageConfig = recipe.clap
        self.model_config: ModelConfig = recipe.model
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
        self.parts = ("clap_audio", "clap_text") if self.config.train_audio else ("clap_text",)
        torch.manual_seed(self.config.seed)
        tokenizer = self._train_tokenizer()
        audio, self.audio_id = self._audio_tower(folder)
        clap = Clap(audio, ClapText(self.model_config.clap_text), tokenizer)
        clap.train()
        if not self.config.train_audio:
            clap.audio.eval().requires_grad_(False)
        elif self.config.freeze_norm:
            clap.audio.freeze_norm()
        self.players = {"clap": ClapPlayer(clap)}

    def identity(self) -> dict[str, Any]:
        return {
            "model": {
                "clap_audio": to_dict(self.model_config.clap_audio),
                "clap_text": to_dict(self.model_config.clap_text),
            },
            "stage": to_dict(self.config),
            "data": data_identity(self.sounds),
            "against": {"clap_audio": self.audio_id},
        }

    def load_batch(self, indices: Sequence[int]) -> Batch:
        batch = self.sounds.batch(indices)
        captions = [caption for caption in batch.captions if caption is not None]
        assert len(captions) == len(indices)
        tokens, mask = self._clap().tokenizer.encode(
            captions, self.model_config.clap_text.max_length
        )
        keys = [normalize_caption(caption) for caption in captions]
        return {
            "wave": batch.wave,
            "tokens": torch.from_numpy(tokens),
            "mask": torch.from_numpy(mask),
            "same": torch.tensor([[left == right for right in keys] for left in keys]),
            "files": batch.files,
        }

    def prepare(self, batch: Batch, device: torch.device) -> Batch:
        return {
            key: value.to(device) if isinstance(value, torch.Tensor) else value
            for key, value in batch.items()
        }

    def initialise(self, folder: Path) -> None:
        clap = self._clap()
        load_part(clap.text, folder, "clap_text")
        clap.tokenizer = open_folder(folder).load_tokenizer()
        if self.config.train_audio:
            load_part(clap.audio, folder, "clap_audio")

    def state(self) -> dict[str, Any]:
        return {"tokenizer": self._clap().tokenizer.to_json()}  # not the recipe's after initialise

    def load_state(self, state: Mapping[str, Any]) -> None:
        if "tokenizer" in state:
            self._clap().tokenizer = Tokenizer.from_json(state["tokenizer"])

    def export(self, network: nn.Module, folder: Path) -> None:
        clap, config, audio_id = cast(Clap, network), self.model_config, self.audio_id
        if audio_id is None:
            audio_id = save_part(folder, "clap_audio", clap.audio, config.clap_audio)
        save_part(
            folder,
            "clap_text",
            clap.text,
            config.clap_text,
            trained_against={"clap_audio": audio_id},
            tokenizer=self._clap().tokenizer,
        )

    def _clap(self) -> Clap:
        return cast(Clap, self.network)

    def _audio_tower(self, folder: Path) -> tuple[ClapAudio, str | None]:
        """The tower to train, or the folder's own and its training id where it stays as it is."""
        if self.config.train_audio:
            return ClapAudio(self.model_config.clap_audio), None
        source = open_folder(folder)
        tower = cast(ClapAudio, source.load("clap_audio"))
        if tower.config != self.model_config.clap_audio:
            raise ValueError(f"{folder}: its clap_audio has other settings than the recipe's")
        return tower, source.parts["clap_audio"].training_id

    def _train_tokenizer(self) -> Tokenizer:
        captions = [r.caption for r in self.sounds.manifest.recordings if r.caption is not None]
        for table in self.config.tokenizer_captions:
            captions += read_captions(Path(table))
        return Tokenizer.train(captions, self.model_config.clap_text.vocab_size)
