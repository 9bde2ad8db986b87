"""The vocoder's training: wave -> mel -> wave; spectral, hinge and feature matching losses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, NotRequired, TypeVar

import numpy as np
import torch
from torch import Tensor

from soundcrafter.data.bank import SoundBank
from soundcrafter.mel import LogMel
from soundcrafter.models.discriminators import (
    VocoderDiscriminator,
    discriminator_hinge,
    feature_energy_distance,
    feature_matching,
    generator_hinge,
)
from soundcrafter.models.hifigan import HiFiGAN
from soundcrafter.models.losses import SUB_BAND, energy_distance, stft_loss
from soundcrafter.models.melgan import MelGAN, apply_weight_norm, fold_weight_norm
from soundcrafter.models.spectral import SpectralConfig, SpectralVocoder
from soundcrafter.models.vae import VAE
from soundcrafter.models.vocoder import VocoderConfig, build_vocoder
from soundcrafter.settings import to_dict
from soundcrafter.store import save_part
from soundcrafter.train.recipe import Recipe, VocoderStageConfig
from soundcrafter.train.sounds import data_identity, open_sounds, segment_samples
from soundcrafter.train.stage import (
    Batch,
    ExternalModule,
    Losses,
    LossModule,
    PreparedBatch,
    Samples,
    Stage,
    load_frozen,
    load_part,
    require_parts,
    sample_uniform,
)

_TURNS, _DECODED = 50, 51  # purpose numbers: Griffin-Lim's phases, which mels are decoded ones
V = TypeVar("V", bound=MelGAN | SpectralVocoder)


class VocoderBatch(PreparedBatch):
    wave: Tensor  # [B, N]
    mel: Tensor  # [B, 1, T, F]
    turns: tuple[Tensor, ...]  # the initial phases of the spectral vocoder's two waves
    fake: NotRequired[Tensor]  # [B, N], for the discriminator


class VocoderLoss(LossModule[V, VocoderBatch]):
    """What the losses of both generators share."""

    def __init__(
        self, vocoder: V, discriminator: VocoderDiscriminator, config: VocoderStageConfig
    ) -> None:
        super().__init__(vocoder)
        self.discriminator, self.config = ExternalModule(discriminator), config
        self.log_mel = ExternalModule(LogMel(vocoder.config.mel))

    def mel_error(self, wave: Tensor, fake: Tensor) -> Tensor:
        """L1 between the log-mels of both [B, N]."""
        log_mel = self.log_mel.module.to(wave.device)
        return (log_mel(fake) - log_mel(wave)).abs().mean()


class MelGANLoss(VocoderLoss[MelGAN]):
    """MelGAN, which generates one wave from a mel."""

    def forward(self, batch: VocoderBatch, step: int) -> tuple[Losses, Batch]:
        wave = batch["wave"]
        sub_bands = self.network.sub_bands(batch["mel"])
        fake = self.network.join_bands(sub_bands).float()
        losses: Losses = {}
        if self.config.stft_weight > 0:
            losses["stft"] = self._stft(wave, fake, sub_bands)
        if self.config.mel_weight > 0:
            losses["mel"] = self.mel_error(wave, fake)
        if step >= self.config.adversarial_start:
            judged = self.discriminator(fake)
            with torch.no_grad():
                real = self.discriminator(wave)
            losses["adversarial"] = generator_hinge(judged)
            losses["features"] = feature_matching(real, judged)
        return losses, {"fake": fake.detach()}

    def _stft(self, wave: Tensor, fake: Tensor, sub_bands: Tensor) -> Tensor:
        """Full band; with sub-bands the mean of both (multi-band MelGAN, arXiv 2005.05106)."""
        full = stft_loss(wave, fake)
        if self.network.pqmf is None:
            return full
        real = self.network.pqmf.analysis(wave)
        return 0.5 * (full + stft_loss(real, sub_bands, SUB_BAND))


class SpectralLoss(VocoderLoss[SpectralVocoder]):
    """The spectral vocoder, which generates two waves from each mel, with different phases."""

    def forward(self, batch: VocoderBatch, step: int) -> tuple[Losses, Batch]:
        wave, mel, turns = batch["wave"], batch["mel"], batch["turns"]
        first, second = self.network(torch.cat([mel, mel]), torch.cat(turns)).chunk(2)
        losses: Losses = {"energy": energy_distance(wave, first, second)}
        if self.config.stft_weight > 0:
            losses["stft"] = stft_loss(wave, first)
        if self.config.mel_weight > 0:
            losses["mel"] = self.mel_error(wave, first)
        if step >= self.config.adversarial_start:
            one, other = self.discriminator(first), self.discriminator(second)
            with torch.no_grad():
                real = self.discriminator(wave)
            losses["adversarial"] = 0.5 * (generator_hinge(one) + generator_hinge(other))
            losses["features"] = feature_energy_distance(real, one, other)
        return losses, {"fake": first.detach()}


class WaveDiscriminatorLoss(LossModule[VocoderDiscriminator, VocoderBatch]):
    """The discriminators, on real and generated waves."""

    def forward(self, batch: VocoderBatch, step: int) -> tuple[Losses, Batch]:
        real, fake = self.network(batch["wave"]), self.network(batch["fake"])
        return {"hinge": discriminator_hinge(real, fake)}, {}


class VocoderStage(Stage[MelGAN | SpectralVocoder, VocoderBatch]):
    """Trains the part `vocoder`; with `decoded`, in a run folder of its own."""

    name = "vocoder"
    parts = ("vocoder",)

    @classmethod
    def run_name(cls, recipe: Recipe) -> str:
        return "vocoder_decoded" if recipe.vocoder.decoded else cls.name

    def __init__(self, recipe: Recipe, data: str | PathLike[str], folder: Path) -> None:
        """With `decoded`, `folder` holds the VAE that decodes the mels."""
        self.config: VocoderStageConfig = recipe.vocoder
        self.model_config = recipe.model.vocoder
        self.folder, self.name = folder, self.run_name(recipe)
        self.spectral = isinstance(self.model_config, SpectralConfig)
        self._check_losses()
        mel = self.model_config.mel
        self.vae: VAE | None = None
        self.vae_id = ""
        if self.config.decoded:
            require_parts(folder, "vae")
            self.vae, self.vae_id = load_frozen(folder, "vae")
        num_samples = segment_samples(
            self.config.seconds, mel, self.vae.config.stride[0] if self.vae else 1
        )
        self.sounds = open_sounds(
            data,
            replace(recipe.data, gain_db=max(recipe.data.gain_db, self.config.gain_db)),
            mel=mel,
            num_samples=num_samples,
            seed=self.config.seed,
        )
        self.frames = mel.num_frames(num_samples)
        torch.manual_seed(self.config.seed)
        vocoder = _trainable(self.model_config)
        discriminator = VocoderDiscriminator(self.config.discriminator, self.config.spectrograms)
        apply_weight_norm(vocoder)
        apply_weight_norm(discriminator)
        module = (
            SpectralLoss(vocoder, discriminator, self.config)
            if isinstance(vocoder, SpectralVocoder)
            else MelGANLoss(vocoder, discriminator, self.config)
        )
        self.loss_modules = {
            "vocoder": module,
            "discriminator": WaveDiscriminatorLoss(discriminator),
        }
        self.log_mel = LogMel(mel)

    def _check_losses(self) -> None:
        config = self.config
        if (config.energy_weight > 0) != self.spectral:
            raise ValueError(
                f"vocoder.energy_weight: got {config.energy_weight}; above 0 for a spectral "
                "vocoder, 0 for MelGAN, which is deterministic"
            )
        if config.stft_weight == config.energy_weight == 0 and config.adversarial_start > 0:
            raise ValueError("vocoder.stft_weight: 0 leaves no loss before adversarial_start")

    def identity(self) -> dict[str, Any]:
        return {
            "model": to_dict(self.model_config),
            "stage": to_dict(self.config),
            "data": data_identity(self.sounds),
            "vae": self.vae_id,
        }

    def uses(self) -> list[tuple[Path, str]]:
        return [(self.folder, "vae")] if self.vae is not None else []

    def updates(self, name: str, step: int) -> bool:
        return name == "vocoder" or step >= self.config.adversarial_start

    def weights(self, step: int) -> Mapping[str, float]:
        return {
            "hinge": 1.0,  # the discriminators' own loss
            "stft": self.config.stft_weight,
            "energy": self.config.energy_weight,
            "mel": self.config.mel_weight,
            "adversarial": self.config.adversarial_weight,
            "features": self.config.feature_weight,
        }

    def load_batch(self, indices: Sequence[int]) -> Batch:
        batch = self.sounds.batch(indices)
        loaded = {"wave": batch.wave, "files": batch.files}
        if self.vae is not None:
            share, seed = self.config.decoded, self.config.seed
            chosen = [sample_uniform(seed, _DECODED, i) < share for i in indices]
            loaded["decoded"] = torch.tensor(chosen).nonzero()[:, 0]
        if self.spectral:
            loaded["turns"] = tuple(self._turns(indices, fake) for fake in range(2))
        return loaded

    def resident(self, device: torch.device) -> Callable[[], Batch]:
        bank, count = SoundBank(self.sounds, device), self.config.batch_size
        turns = (count, self.frames + 2, self.model_config.mel.n_fft // 2 + 1)
        # draws are independent: it does not matter which of them are decoded
        decoded = torch.arange(round(self.config.decoded * count), device=device)

        def draw() -> Batch:
            batch: Batch = {"wave": bank.draw(count), "decoded": decoded, "files": ()}
            if self.spectral:
                batch["turns"] = tuple(torch.rand(turns, device=device) for _ in range(2))
            return batch

        return draw

    def _turns(self, indices: Sequence[int], fake: int) -> Tensor:
        """Initial phases of Griffin-Lim for the first or second fake of each sample."""
        shape = (self.frames + 2, self.model_config.mel.n_fft // 2 + 1)
        rows = (
            np.random.default_rng([self.config.seed, _TURNS, fake, i]).random(shape, np.float32)
            for i in indices
        )
        return torch.from_numpy(np.stack(list(rows)))

    def prepare(self, batch: Batch, device: torch.device) -> VocoderBatch:
        wave = batch["wave"].to(device)
        mel = self.log_mel.to(device)(wave)
        if self.vae is not None:
            chosen = batch["decoded"].to(device)
            if len(chosen):
                vae = self.vae.to(device)
                mel[chosen] = vae.decode(vae.encode(mel[chosen]))
        turns = tuple(turns.to(device) for turns in batch.get("turns", ()))
        return {"wave": wave, "mel": mel, "turns": turns, "files": batch["files"]}

    def initialise(self, folder: Path) -> None:
        vocoder = _trainable(self.model_config)
        load_part(vocoder, folder, "vocoder")
        apply_weight_norm(vocoder)
        self.network.load_state_dict(vocoder.state_dict())

    def export(self, network: MelGAN | SpectralVocoder, folder: Path) -> None:
        # not a deep copy: parametrised modules share their class with it, which folding changes
        vocoder = _trainable(self.model_config)
        apply_weight_norm(vocoder)
        vocoder.load_state_dict(network.state_dict())
        fold_weight_norm(vocoder)
        save_part(folder, "vocoder", vocoder, self.model_config)

    @torch.no_grad()
    def samples(self, network: MelGAN | SpectralVocoder, device: torch.device) -> Samples:
        batch = self.prepare(self.load_batch(range(2)), device)
        fake = network(batch["mel"])
        waves = {f"{i}/real": wave.cpu().numpy() for i, wave in enumerate(batch["wave"])}
        waves |= {f"{i}/vocoder": wave.cpu().numpy() for i, wave in enumerate(fake)}
        return Samples(waves=waves, sample_rate=self.model_config.mel.sample_rate)


def _trainable(config: VocoderConfig) -> MelGAN | SpectralVocoder:
    """A new vocoder. Raises ValueError for HiFi-GAN, which is imported and not trained."""
    vocoder = build_vocoder(config)
    if isinstance(vocoder, HiFiGAN):
        raise ValueError("vocoder.kind: hifigan cannot be trained; allowed: melgan, spectral")
    return vocoder
