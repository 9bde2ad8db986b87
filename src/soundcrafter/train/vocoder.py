"""The vocoder's training: segment -> mel -> wave; STFT loss, hinge, feature matching."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from soundcrafter.mel import LogMel
from soundcrafter.models.discriminators import (
    WaveDiscriminator,
    feature_matching,
    hinge_discriminator,
    hinge_generator,
)
from soundcrafter.models.losses import SUB_BAND, stft_loss
from soundcrafter.models.melgan import MelGAN, apply_weight_norm, fold_weight_norm
from soundcrafter.settings import to_dict
from soundcrafter.store import save_part
from soundcrafter.train.recipe import Recipe, VocoderStageConfig
from soundcrafter.train.sounds import data_identity, open_sounds, segment_samples
from soundcrafter.train.stage import (
    Batch,
    Player,
    Samples,
    Stage,
    Terms,
    Unregistered,
    load_part,
)


class VocoderPlayer(Player):
    """The generator's side."""

    def __init__(
        self, vocoder: MelGAN, discriminator: WaveDiscriminator, config: VocoderStageConfig
    ) -> None:
        super().__init__(vocoder)
        self.vocoder = cast(MelGAN, self.network)
        self.discriminator, self.config = Unregistered(discriminator), config

    def forward(self, batch: Batch, step: int) -> tuple[Terms, Batch]:
        wave = batch["wave"]
        sub_bands = self.vocoder.sub_bands(batch["mel"])
        fake = self.vocoder.join_bands(sub_bands).float()
        terms: Terms = {}
        if self.config.stft_weight > 0:
            terms["stft"] = self._stft(wave, fake, sub_bands)
        if step >= self.config.adversarial_start:
            judged = self.discriminator(fake)
            with torch.no_grad():
                real = self.discriminator(wave)
            terms["adversarial"] = hinge_generator(judged)
            terms["features"] = feature_matching(real, judged)
        return terms, {"fake": fake.detach()}

    def _stft(self, wave: Tensor, fake: Tensor, sub_bands: Tensor) -> Tensor:
        """Full band; with sub-bands the mean of both (multi-band MelGAN, arXiv 2005.05106)."""
        full = stft_loss(wave, fake)
        if self.vocoder.pqmf is None:
            return full
        real = self.vocoder.pqmf.analysis(wave)
        return 0.5 * (full + stft_loss(real, sub_bands, SUB_BAND))


class WaveJudge(Player):
    """The discriminator's side."""

    def forward(self, batch: Batch, step: int) -> tuple[Terms, Batch]:
        real, fake = self.network(batch["wave"]), self.network(batch["fake"])
        return {"hinge": hinge_discriminator(real, fake)}, {}


class VocoderStage(Stage):
    """Trains the part `vocoder`."""

    name = "vocoder"
    parts = ("vocoder",)

    def __init__(self, recipe: Recipe, data: Path) -> None:
        self.config: VocoderStageConfig = recipe.vocoder
        if self.config.stft_weight == 0 and self.config.adversarial_start > 0:
            raise ValueError("vocoder: no loss before adversarial_start while stft_weight is 0")
        self.model_config = recipe.model.vocoder
        mel = self.model_config.mel
        self.sounds = open_sounds(
            data,
            recipe.data,
            mel=mel,
            num_samples=segment_samples(self.config.seconds, mel),
            seed=self.config.seed,
        )
        torch.manual_seed(self.config.seed)
        vocoder, discriminator = (
            MelGAN(self.model_config),
            WaveDiscriminator(self.config.discriminator),
        )
        apply_weight_norm(vocoder)
        apply_weight_norm(discriminator)
        self.players = {
            "vocoder": VocoderPlayer(vocoder, discriminator, self.config),
            "discriminator": WaveJudge(discriminator),
        }
        self.log_mel = LogMel(mel)

    def identity(self) -> dict[str, Any]:
        return {
            "model": to_dict(self.model_config),
            "stage": to_dict(self.config),
            "data": data_identity(self.sounds),
        }

    def plays(self, player: str, step: int) -> bool:
        past_start = step - self.config.adversarial_start
        if player == "vocoder":
            return True
        return past_start >= 0 and past_start % self.config.discriminator_every == 0

    def weights(self, step: int) -> Mapping[str, float]:
        return {
            "stft": self.config.stft_weight,
            "adversarial": self.config.adversarial_weight,
            "features": self.config.feature_weight,
        }

    def skipped(self) -> dict[str, str]:
        return self.sounds.all_skipped

    def load_batch(self, indices: Sequence[int]) -> Batch:
        batch = self.sounds.batch(indices)
        return {"wave": batch.wave, "files": batch.files}

    def prepare(self, batch: Batch, device: torch.device) -> Batch:
        wave = batch["wave"].to(device)
        return {"wave": wave, "mel": self.log_mel.to(device)(wave), "files": batch["files"]}

    def initialise(self, folder: Path) -> None:
        vocoder = MelGAN(self.model_config)
        load_part(vocoder, folder, "vocoder")
        apply_weight_norm(vocoder)
        self.network.load_state_dict(vocoder.state_dict())

    def export(self, network: nn.Module, folder: Path) -> None:
        # not a deep copy: it shares its class with the network, and folding takes away from that
        vocoder = MelGAN(self.model_config)
        apply_weight_norm(vocoder)
        vocoder.load_state_dict(network.state_dict())
        fold_weight_norm(vocoder)
        save_part(folder, "vocoder", vocoder, self.model_config)

    @torch.no_grad()
    def samples(self, network: nn.Module, device: torch.device) -> Samples:
        batch = self.prepare(self.load_batch(range(2)), device)
        fake = network(batch["mel"])
        waves = {f"{i}/real": wave.cpu().numpy() for i, wave in enumerate(batch["wave"])}
        waves |= {f"{i}/vocoder": wave.cpu().numpy() for i, wave in enumerate(fake)}
        return Samples(waves=waves, sample_rate=self.model_config.mel.sample_rate)
