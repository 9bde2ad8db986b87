"""The VAE's training: mel -> posterior -> mel; reconstruction + KL + adversarial."""

import copy
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NotRequired

import torch
from torch import Tensor, nn

from soundcrafter.convert.aisfx_weights import load_aisfx
from soundcrafter.data.bank import SoundBank
from soundcrafter.mel import LogMel
from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.aisfx import AiSFX, MelReader
from soundcrafter.models.discriminators import (
    PatchDiscriminator,
    discriminator_hinge,
    feature_matching,
    generator_hinge,
)
from soundcrafter.models.losses import multi_scale_l1, perceptual_distance
from soundcrafter.models.tagger import Tagger
from soundcrafter.models.vae import VAE
from soundcrafter.settings import to_dict
from soundcrafter.store import save_part
from soundcrafter.train.recipe import Recipe, VAEStageConfig
from soundcrafter.train.sounds import data_identity, open_sounds, segment_samples
from soundcrafter.train.stage import (
    Batch,
    ExternalModule,
    Losses,
    LossModule,
    PreparedBatch,
    Processes,
    Samples,
    Stage,
    load_frozen,
    refuse_other_settings,
    sample_noise,
)

_NOISE = 10  # purpose number of the posterior's noise
_MAX_ADAPTIVE = 1e4  # as in VQGAN's code


class VAEBatch(PreparedBatch):
    mel: Tensor  # [B, 1, T, F]
    noise: Tensor  # [B, C, T, F] of the latent
    maps: NotRequired[list[Tensor]]  # the tagger's
    teacher_maps: NotRequired[list[Tensor]]
    decoded: NotRequired[Tensor]  # [B, 1, T, F], for the discriminator


class VAELoss(LossModule[VAE, VAEBatch]):
    """L1, KL, perceptual losses, and adversarial ones from `adversarial_start` on.

    `perceptual` is the frozen tagger of the perceptual loss, `teacher` the frozen aiSFX.
    """

    def __init__(
        self,
        vae: VAE,
        discriminator: PatchDiscriminator,
        perceptual: Tagger | None,
        teacher: "AiSFXMaps | None",
        config: VAEStageConfig,
    ) -> None:
        super().__init__(vae)
        self.discriminator, self.config = ExternalModule(discriminator), config
        self.perceptual = ExternalModule(perceptual) if perceptual is not None else None
        self.teacher = ExternalModule(teacher) if teacher is not None else None

    def forward(self, batch: VAEBatch, step: int) -> tuple[Losses, Batch]:
        mel = batch["mel"]
        posterior = self.network.posterior(mel)
        # decode() divides by the latent scale, which is not 1 after `initialise`
        decoded = self.network.decode(posterior.sample(batch["noise"]) * self.network.latent_scale)
        losses = {
            "reconstruction": multi_scale_l1(mel, decoded, self.config.reconstruction_scales),
            "kl": posterior.kl().mean() / mel[0].numel(),
        }
        if self.perceptual is not None:
            # in fp32 like the maps of the real mel; narrow convolutions are no faster in bf16
            with torch.autocast(mel.device.type, enabled=False):
                maps = self.perceptual.module.maps(decoded)
            losses["perceptual"] = perceptual_distance(batch["maps"], maps)
        if self.teacher is not None:
            losses["teacher"] = perceptual_distance(batch["teacher_maps"], self.teacher(decoded))
        if step >= self.config.adversarial_start:
            judged = self.discriminator(self._normal(decoded))
            adversarial = generator_hinge(judged)
            balance = adaptive_weight(
                losses["reconstruction"],
                adversarial,
                self.network.last_layer,
                maximum=_MAX_ADAPTIVE,
                processes=self.processes,
            )
            losses["adversarial"] = balance * adversarial
            if self.config.feature_weight > 0:
                with torch.no_grad():
                    real = self.discriminator(self._normal(mel))
                losses["features"] = feature_matching(real, judged)
        return losses, {"decoded": decoded.detach()}

    def _normal(self, mel: Tensor) -> Tensor:
        return (mel - self.network.config.mel_mean) / self.network.config.mel_std


class AiSFXMaps(nn.Module):
    """The first feature maps of aiSFX (Ma and Lerch, ISMIR 2022) for a log-mel."""

    def __init__(self, network: AiSFX, mel: MelConfig) -> None:
        super().__init__()
        self.network, self.reader = network, MelReader(mel)

    def forward(self, mel: Tensor) -> list[Tensor]:
        """mel [B, 1, T, F] -> feature maps [B, C, T', F'], finest first."""
        return self.network.maps(self.reader(mel))


class PatchDiscriminatorLoss(LossModule[PatchDiscriminator, VAEBatch]):
    """The discriminator on real and decoded spectrograms, normalised as the VAE's input."""

    def __init__(self, discriminator: PatchDiscriminator, vae: VAE) -> None:
        super().__init__(discriminator)
        self.mean, self.std = vae.config.mel_mean, vae.config.mel_std

    def forward(self, batch: VAEBatch, step: int) -> tuple[Losses, Batch]:
        real, fake = (
            self.network((mel - self.mean) / self.std) for mel in (batch["mel"], batch["decoded"])
        )
        return {"hinge": discriminator_hinge(real, fake)}, {}


def adaptive_weight(
    reconstruction: Tensor,
    adversarial: Tensor,
    last_layer: Tensor,
    *,
    maximum: float,
    processes: Processes,
) -> Tensor:
    """Ratio of the two losses' gradient norms at the last layer (Esser et al. 2021, eq. 7).

    Gradients are averaged over processes, but not over micro-batches: with adversarial training,
    accumulation is not exact.
    """
    (wanted,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (found,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    wanted, found = processes.average(wanted), processes.average(found)
    return (wanted.norm() / (found.norm() + 1e-4)).clamp(0.0, maximum).detach()


def _load_perceptual(folder: str, mel: MelConfig) -> tuple[Tagger | None, str]:
    """Load the frozen tagger of a model folder, if any, and its training id.

    Raises ValueError if its mel settings differ from the VAE's.
    """
    if not folder:
        return None, ""
    tagger, training_id = load_frozen(Path(folder), "tagger")
    refuse_other_settings(Path(folder), "tagger", tagger.config.mel, mel, "model.vae.mel")
    return tagger, training_id


class VAEStage(Stage[VAE, VAEBatch]):
    """Trains the part `vae`."""

    name = "vae"
    parts = ("vae",)

    def __init__(self, recipe: Recipe, data: str | PathLike[str], folder: Path) -> None:
        self.config: VAEStageConfig = recipe.vae
        self.model_config = recipe.model.vae
        mel = self.model_config.mel
        num_samples = segment_samples(self.config.seconds, mel, self.model_config.stride[0])
        self.sounds = open_sounds(
            data, recipe.data, mel=mel, num_samples=num_samples, seed=self.config.seed
        )
        torch.manual_seed(self.config.seed)
        vae = VAE(self.model_config)
        vae.checkpointing = self.config.checkpointing
        discriminator = PatchDiscriminator(self.config.discriminator)
        self.perceptual, self.perceptual_id = _load_perceptual(self.config.perceptual, mel)
        self.teacher: AiSFXMaps | None = None
        if self.config.teacher:
            self.teacher = AiSFXMaps(load_aisfx(self.config.teacher), mel).requires_grad_(False)
        self.loss_modules = {
            "vae": VAELoss(vae, discriminator, self.perceptual, self.teacher, self.config),
            "discriminator": PatchDiscriminatorLoss(discriminator, vae),
        }
        self.log_mel = LogMel(mel)
        self._draw: Callable[[], Batch] | None = None  # draws batches on a device
        self._scale: float | None = None  # of the latents, as last measured
        time, frequency = self.model_config.stride
        grid = mel.num_frames(num_samples) // time, mel.num_mels // frequency
        self.latent_shape = (self.model_config.latent_channels, *grid)

    def identity(self) -> dict[str, Any]:
        return {
            "model": to_dict(self.model_config),
            "stage": to_dict(self.config),
            "data": data_identity(self.sounds),
            "perceptual": self.perceptual_id,
        }

    def uses(self) -> list[tuple[Path, str]]:
        return [(Path(self.config.perceptual), "tagger")] if self.config.perceptual else []

    def updates(self, name: str, step: int) -> bool:
        return name == "vae" or step >= self.config.adversarial_start

    def weights(self, step: int) -> Mapping[str, float]:
        return {
            "reconstruction": 1.0,
            "hinge": 1.0,  # the discriminator's own loss
            "kl": self.config.kl_weight,
            "adversarial": self.config.adversarial_weight,
            "perceptual": self.config.perceptual_weight,
            "teacher": self.config.teacher_weight,
            "features": self.config.feature_weight,
        }

    def load_batch(self, indices: Sequence[int]) -> Batch:
        batch = self.sounds.batch(indices)
        noise = [sample_noise(self.config.seed, _NOISE, i, self.latent_shape) for i in indices]
        return {"wave": batch.wave, "noise": torch.stack(noise), "files": batch.files}

    def resident(self, device: torch.device) -> Callable[[], Batch]:
        bank, count = SoundBank(self.sounds, device), self.config.batch_size

        def draw() -> Batch:
            noise = torch.randn(count, *self.latent_shape, device=device)
            return {"wave": bank.draw(count), "noise": noise, "files": ()}

        self._draw = draw
        return draw

    def prepare(self, batch: Batch, device: torch.device) -> VAEBatch:
        mel = self.log_mel.to(device)(batch["wave"].to(device))
        noise = batch["noise"].to(device)
        prepared: VAEBatch = {"mel": mel, "noise": noise, "files": batch["files"]}
        if self.perceptual is not None:
            prepared["maps"] = self.perceptual.to(device).maps(mel)
        if self.teacher is not None:
            prepared["teacher_maps"] = self.teacher.to(device)(mel)
        return prepared

    def finish(self) -> None:
        self._scale = None  # the last export measures it

    def export(self, network: VAE, folder: Path) -> None:
        """The latent scale is measured at the first and the last export of a process; those in
        between, at checkpoints, keep the first one's."""
        vae = copy.deepcopy(network)
        self._scale = self._scale or 1.0 / self._latent_std(vae)
        vae.latent_scale.fill_(self._scale)
        save_part(folder, "vae", vae, self.model_config)

    @torch.no_grad()
    def _latent_std(self, vae: VAE) -> float:
        """Standard deviation of sampled latents over the first batches (unscaled)."""
        count = total = square = 0.0
        for number in range(self.config.scale_batches):
            size = self.config.batch_size // self.config.accumulate
            indices = range(number * size, (number + 1) * size)
            loaded = self._draw() if self._draw is not None else self.load_batch(indices)
            batch = self.prepare(loaded, vae.latent_scale.device)
            latent = vae.posterior(batch["mel"]).sample(batch["noise"]).double()
            count += latent.numel()
            total += float(latent.sum())
            square += float(latent.square().sum())
        return max((square / count - (total / count) ** 2) ** 0.5, 1e-8)

    @torch.no_grad()
    def samples(self, network: VAE, device: torch.device) -> Samples:
        batch = self.prepare(self.load_batch(range(2)), device)
        decoded = network.decode(network.encode(batch["mel"]))
        mels = {f"{i}/real": mel[0].cpu().numpy() for i, mel in enumerate(batch["mel"])}
        mels |= {f"{i}/decoded": mel[0].cpu().numpy() for i, mel in enumerate(decoded)}
        return Samples(mels=mels)
