"""The U-Net's training: latent, condition, noise -> U-Net -> loss; CLAP and VAE are frozen."""

from collections.abc import Callable, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from soundcrafter.config import ModelConfig, latent_frames
from soundcrafter.data.bank import LatentBank
from soundcrafter.diffusion.config import SamplingConfig
from soundcrafter.diffusion.events import frame_conds
from soundcrafter.diffusion.loss import diffusion_loss
from soundcrafter.diffusion.sample import sample
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.models.clap_text import ClapText
from soundcrafter.models.unet import ReusingUNet, UNet, silence_cond
from soundcrafter.models.vae import VAE
from soundcrafter.models.vocoder import Vocoder
from soundcrafter.settings import to_dict
from soundcrafter.store import open_folder, save_part
from soundcrafter.train.recipe import DiffusionStageConfig, Recipe
from soundcrafter.train.sources import (
    AudioSource,
    EncodedSource,
    Encoders,
    Source,
    audio_sources,
    encoded_sources,
    is_encoded,
)
from soundcrafter.train.stage import (
    Batch,
    Losses,
    LossModule,
    PreparedBatch,
    Samples,
    Stage,
    sample_noise,
    sample_uniform,
)

# purpose numbers of a sample's random draws (see stage.sample_noise)
_POSTERIOR, _NOISE, _TIME, _TEXT, _DROP = 10, 20, 21, 22, 23


class DiffusionBatch(PreparedBatch):
    latent: Tensor  # [B, C, T, F]
    noise: Tensor  # [B, C, T, F]
    cond: Tensor  # [B, E], or [B, T, E] with timelines
    drop: Tensor  # [B] bool: conditions to replace by the null condition
    u: Tensor  # [B], uniform in [0, 1): chooses the time step


class UNetLoss(LossModule[UNet, DiffusionBatch]):
    """The denoising loss."""

    def __init__(self, unet: UNet, schedule: Schedule) -> None:
        super().__init__(unet)
        self.schedule = schedule

    def forward(self, batch: DiffusionBatch, step: int) -> tuple[Losses, Batch]:
        return denoising(self.network, self.schedule, batch), {}


def denoising(unet: UNet, schedule: Schedule, batch: DiffusionBatch) -> Losses:
    """The loss of a prepared batch."""
    cond, t = dropped(batch, unet.null_cond), schedule.draw_times(batch["u"])
    loss = diffusion_loss(unet, schedule, batch["latent"], batch["noise"], t, cond)
    return {"denoising": loss.mean()}


def dropped(batch: DiffusionBatch, null_cond: Tensor) -> Tensor:
    """The batch's conditions, some of them replaced by null_cond [E]."""
    drop = batch["drop"].view(-1, *[1] * (batch["cond"].ndim - 1))
    return torch.where(drop, null_cond, batch["cond"])


class DiffusionStage(Stage[nn.Module, DiffusionBatch]):
    """Trains the part `unet`."""

    name = "diffusion"
    parts = ("unet",)

    def __init__(self, recipe: Recipe, data: str | PathLike[str], folder: Path) -> None:
        self.config: DiffusionStageConfig = recipe.diffusion
        self.model_config: ModelConfig = recipe.model
        self.folder = folder
        self.curriculum = self.config.phases()
        with_text = self.config.text_share > 0
        self.sources: Sequence[Source]  # one a phase
        if is_encoded(data):
            self.sources = encoded_sources(recipe, data, self.curriculum, with_text)
        else:
            encoders = Encoders(recipe, folder)
            self.sources = audio_sources(recipe, data, encoders, self.curriculum)
        self.trained_against = self.sources[-1].trained_against
        if (folder / "config.json").is_file():
            open_folder(folder).check_against("the data's encoding", self.trained_against)
        torch.manual_seed(self.config.seed)
        self.schedule = Schedule(self.model_config.diffusion)
        self.loss_modules = self.make_loss_modules()

    def make_loss_modules(self) -> dict[str, LossModule[Any, DiffusionBatch]]:
        """The U-Net with random weights."""
        unet = UNet(self.model_config.unet)
        unet.checkpointing = self.config.checkpointing
        return {"unet": UNetLoss(unet, self.schedule)}

    def identity(self) -> dict[str, Any]:
        return {
            "model": {
                "unet": to_dict(self.model_config.unet),
                "diffusion": to_dict(self.model_config.diffusion),
            },
            "stage": to_dict(self.config),
            "data": {str(i): source.identity() for i, source in enumerate(self.sources)},
            "against": self.trained_against,
        }

    def uses(self) -> list[tuple[Path, str]]:
        # encoded data may come from another machine, and this folder be empty
        parts = ["vae", "clap_audio", *(["clap_text"] if self.config.text_share > 0 else [])]
        return [(self.folder, part) for part in parts]

    def skipped(self) -> dict[str, str]:
        return {file: why for source in self.sources for file, why in source.skipped().items()}

    def sample_indices(self, step: int) -> range:
        return self.curriculum.phase_at(step).samples_at(step)

    def phase_starts(self) -> tuple[int, ...]:
        return tuple(phase.first_step for phase in self.curriculum.phases)

    def facts(self, step: int) -> dict[str, float]:
        return {"phase": self.curriculum.phase_at(step).number + 1} if len(self.sources) > 1 else {}

    def load_batch(self, indices: Sequence[int]) -> Batch:
        number = self.curriculum.phase_of(indices[0]).number  # no batch has samples of two phases
        source, seed, share = self.sources[number], self.config.seed, self.config.text_share
        use_text = [sample_uniform(seed, _TEXT, i) < share for i in indices]
        drop = [sample_uniform(seed, _DROP, i) < self.config.drop_condition for i in indices]
        return {
            **source.load(indices),
            "phase": number,
            "posterior_noise": self._noise(_POSTERIOR, indices, source),
            "noise": self._noise(_NOISE, indices, source),
            "u": torch.tensor([self._time(index) for index in indices]),
            "use_text": torch.tensor(use_text),
            "drop": torch.tensor(drop),
        }

    def resident(self, device: torch.device) -> Callable[[], Batch]:
        source, count, share = self.sources[-1], self.config.batch_size, self.config.text_share
        if len(self.sources) > 1 or not isinstance(source, EncodedSource):
            return super().resident(device)
        bank = LatentBank(source.latents, device)
        shape = (count, *source.latent_shape)

        def draw() -> Batch:
            drawn = bank.draw(count)
            offset = torch.rand(1, device=device)
            return {
                "mean": drawn["mean"],
                "logvar": drawn["logvar"],
                "audio": drawn["audio_embedding"],
                "text": drawn.get("text_embedding"),
                **({"levels": drawn["levels"]} if "levels" in drawn else {}),
                "files": (),
                "phase": 0,
                "posterior_noise": torch.randn(shape, device=device),
                "noise": torch.randn(shape, device=device),
                "u": (offset + torch.arange(count, device=device) / count) % 1.0,  # see _time
                "use_text": torch.rand(count, device=device) < share,
                "drop": torch.rand(count, device=device) < self.config.drop_condition,
            }

        return draw

    def prepare(self, batch: Batch, device: torch.device) -> DiffusionBatch:
        source = self.sources[batch["phase"]]
        encoded = source.encode(batch, device)
        audio, text = encoded.audio, encoded.text
        cond = audio if text is None else text
        assert cond is not None, "a source gives the embedding that the recipe asks for"
        if text is not None and audio is not None:
            use_text = batch["use_text"].to(device)
            cond = torch.where(use_text.view(-1, *[1] * (text.ndim - 1)), text, audio)
        if encoded.levels is not None:
            silence = silence_cond(self.model_config.unet, cond)
            cond = frame_conds(cond, encoded.levels, silence)
        latent = encoded.posterior.sample(batch["posterior_noise"].to(device)) * source.latent_scale
        noise, u, drop = (batch[key].to(device) for key in ("noise", "u", "drop"))
        return DiffusionBatch(
            latent=latent, noise=noise, cond=cond, drop=drop, u=u, files=batch["files"]
        )

    def export(self, network: nn.Module, folder: Path) -> None:
        save_part(
            folder,
            "unet",
            network,
            self.model_config.unet,
            trained_against=self.trained_against,
            diffusion=self.model_config.diffusion,
            sampling=self.model_config.sampling,
        )

    @property
    def sampling(self) -> SamplingConfig:
        """The settings that sounds are generated with."""
        return self.model_config.sampling

    def averaged_unet(self, network: nn.Module) -> UNet:
        """The U-Net to listen to, given the averaged network."""
        return cast(UNet, network)

    @torch.no_grad()
    def samples(self, network: nn.Module, device: torch.device) -> Samples:
        """Sounds that `generate` would make of the noises and conditions of the first four samples
        of full resolution: spectrograms with the folder's VAE, waves with its vocoder; nothing
        without a VAE."""
        vae, vocoder = self._decoders
        if vae is None:
            return Samples()
        unet, sampling = self.averaged_unet(network).to(device), self.sampling
        first = self.curriculum.phases[-1].first_sample
        batch = self.prepare(self.load_batch(range(first, first + 4)), device)
        latent = sample(
            unet if sampling.reuse == 1 else ReusingUNet(unet, sampling.reuse),
            self.schedule,
            sampling,
            batch["noise"],
            batch["cond"],
            uncond=unet.null_cond if self._negative is None else self._negative.to(device),
            seeds=range(first, first + 4),
            window=latent_frames(self.model_config.vae, self.model_config.unet, sampling.window),
        )
        mel = vae.to(device).decode(latent)
        wave = () if vocoder is None else vocoder.to(device)(mel).cpu().numpy()
        return Samples(
            waves={f"{i}/generated": one for i, one in enumerate(wave)},
            mels={f"{i}/generated": one for i, one in enumerate(mel[:, 0].cpu().numpy())},
            sample_rate=vae.config.mel.sample_rate,
        )

    @cached_property
    def _negative(self) -> Tensor | None:
        """The negative prompt's embedding [E]; None without one, and where the model folder has no
        text tower of the CLAP that is trained against."""
        text, clap = self.model_config.sampling.negative.strip(), self.trained_against["clap_audio"]
        parts = open_folder(self.folder)
        tower = parts.parts.get("clap_text")
        if not text or tower is None or tower.trained_against.get("clap_audio", "") != clap:
            return None
        network = cast(ClapText, parts.load("clap_text"))
        return network.embed([text], parts.load_tokenizer())[0]

    @cached_property
    def _decoders(self) -> tuple[VAE | None, Vocoder | None]:
        """VAE and vocoder of the model folder; nothing if the latents are not from its VAE."""
        if not (self.folder / "config.json").is_file():
            return None, None
        parts, made_by = open_folder(self.folder), self.trained_against["vae"]
        if "vae" not in parts.parts or parts.parts["vae"].training_id != made_by:
            return None, None
        source = self.sources[-1]
        loaded = source.encoders.vae if isinstance(source, AudioSource) else None
        vae = loaded or cast(VAE, parts.load("vae"))
        return vae, cast(Vocoder, parts.load("vocoder")) if "vocoder" in parts.parts else None

    def _time(self, index: int) -> float:
        """The uniform number in [0, 1) that determines a sample's time step.

        Stratified over a batch (Kingma et al. 2021, appendix I): one draw a step, then equal
        spacing. The loss varies less, and all time steps stay equally likely.
        """
        phase = self.curriculum.phase_of(index)
        step, place = phase.step_of(index)
        offset = sample_uniform(self.config.seed, _TIME, step)
        return (offset + place / phase.batch_size) % 1.0

    def _noise(self, purpose: int, indices: Sequence[int], source: Source) -> Tensor:
        rows = (sample_noise(self.config.seed, purpose, i, source.latent_shape) for i in indices)
        return torch.stack(list(rows))
