"""AudioLDM in diffusers with random weights, as the subject of a benchmark."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from soundcrafter.bench.workload import GUIDANCE, PROMPT, OnStep, Workload
from soundcrafter.convert.diffusers import head_counts
from soundcrafter.models.clap_text import ClapTextConfig
from soundcrafter.models.hifigan import HiFiGANConfig
from soundcrafter.models.unet import UNetConfig
from soundcrafter.models.vae import VAEConfig
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.precision import cpu_has_bf16

PEERS = ("diffusers",)
_S = (128, 256, 384, 640)  # widths of AudioLDM-S, the smallest published model
_VOCAB = 261  # of the tokenizer in place of RoBERTa's; its size does not affect speed


@dataclass(frozen=True, kw_only=True)
class AudioLDMConfigs:
    """The configurations of an AudioLDM's parts; the defaults are AudioLDM-S."""

    unet: UNetConfig = field(
        default_factory=lambda: UNetConfig(
            conditioning="shift",
            heads=head_counts(_S),
            dropout=0.0,
            time_dim=4 * _S[0],
            cond_dim=4 * _S[0],
        )
    )
    vae: VAEConfig = field(default_factory=VAEConfig)
    vocoder: HiFiGANConfig = field(default_factory=HiFiGANConfig)
    text: ClapTextConfig = field(
        default_factory=lambda: ClapTextConfig(
            tower="roberta",
            vocab_size=50265,
            width=768,
            heads=12,
            max_length=512,
            pad_id=1,
            bos_id=0,
            eos_id=2,
            norm_eps=1e-12,
        )
    )


def configs_like(crafter: SoundCrafter) -> AudioLDMConfigs:
    """Return the sizes of the model if it is an AudioLDM (an import), else AudioLDM-S."""
    vocoder, text = crafter.vocoder.config, crafter.clap.text.config
    shift = crafter.unet.config.conditioning == "shift"
    if not (shift and isinstance(vocoder, HiFiGANConfig) and text.tower == "roberta"):
        return AudioLDMConfigs()
    return AudioLDMConfigs(
        unet=crafter.unet.config, vae=crafter.vae.config, vocoder=vocoder, text=text
    )


def check_peer(peer: str) -> None:
    """Raise ValueError for an unknown peer and for one that is not installed."""
    if peer not in PEERS:
        raise ValueError(f"peer: got {peer!r}; allowed: {', '.join(PEERS)}")
    if find_spec("diffusers") is None:
        raise ValueError("peer: diffusers is not installed; pip install diffusers")


def peer_dtypes(device: torch.device) -> dict[str, torch.dtype]:
    """Return the precisions to measure a peer in: those that the hardware supports."""
    if device.type == "cuda":
        return {"fp16": torch.float16, "bf16": torch.bfloat16}
    native = device.type == "cpu" and cpu_has_bf16()
    return {"fp32": torch.float32, **({"bf16": torch.bfloat16} if native else {})}


class DiffusersModel:
    """AudioLDMPipeline of given sizes."""

    def __init__(
        self,
        configs: AudioLDMConfigs,
        dtype: torch.dtype,
        workload: Workload,
        device: torch.device,
    ) -> None:
        self.workload, self.device = workload, device
        self.pipeline = build_pipeline(configs).to(device, dtype)
        pipeline = self.pipeline
        self.modules: tuple[nn.Module, ...] = (
            *(pipeline.text_encoder, pipeline.unet, pipeline.vae, pipeline.vocoder),
        )
        self.configs, self.dtype = configs, dtype

    def make(self, on_step: OnStep, *, seconds: float, steps: int, batch: int = 1) -> object:
        """Generate `batch` sounds; `on_step` is called after each sampling step."""
        return self.pipeline(
            [PROMPT] * batch,
            audio_length_in_s=seconds,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(self.workload.seed),
            callback=lambda *_: on_step(),
        )

    @torch.inference_mode()
    def parts(self) -> Mapping[str, Callable[[], object]]:
        """Return each part as a call, on tensors of the same sizes as within `make`."""
        pipeline, mel_config = self.pipeline, self.configs.vae.mel
        stride = self.configs.vae.stride
        seconds = self.workload.seconds
        frames = -(-int(seconds * mel_config.sample_rate / mel_config.hop) // stride[0])
        rows = mel_config.num_mels // stride[1]
        shape = (1, self.configs.vae.latent_channels, frames, rows)
        generator = torch.Generator().manual_seed(self.workload.seed)
        latent = torch.randn(shape, generator=generator).to(self.device, self.dtype)
        pair, t = torch.cat([latent, latent]), torch.tensor(500, device=self.device)

        def embed() -> torch.Tensor:
            return pipeline._encode_prompt(PROMPT, self.device, 1, True)

        cond = embed()
        mel = pipeline.decode_latents(latent)
        return {
            "text": embed,
            "unet_step": lambda: pipeline.unet(
                pair, t, encoder_hidden_states=None, class_labels=cond
            ),
            "vae_decode": lambda: pipeline.decode_latents(latent),
            "vocoder": lambda: pipeline.mel_spectrogram_to_waveform(mel),
        }


def build_pipeline(configs: AudioLDMConfigs) -> Any:
    """Build an AudioLDMPipeline with random weights, which are the same in every call."""
    diffusers: Any = import_module("diffusers")
    transformers: Any = import_module("transformers")
    audioldm: Any = import_module("diffusers.pipelines.deprecated.audioldm")
    diffusers.utils.logging.set_verbosity_error()  # it warns that the pipeline is deprecated
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = audioldm.AudioLDMPipeline(
            vae=_vae(diffusers, configs.vae).eval(),
            text_encoder=_text(transformers, configs.text).eval(),
            tokenizer=_tokenizer(transformers, configs.text),
            unet=_unet(diffusers, configs.unet).eval(),
            scheduler=diffusers.DDIMScheduler(
                num_train_timesteps=1000,
                beta_start=0.0015,
                beta_end=0.0195,
                beta_schedule="scaled_linear",
                steps_offset=1,
                clip_sample=False,
                set_alpha_to_one=False,
            ),
            vocoder=_vocoder(transformers, configs.vocoder).eval(),
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _unet(diffusers: Any, config: UNetConfig) -> Any:
    widths = tuple(config.channels * multiplier for multiplier in config.multipliers)
    kinds = ["CrossAttn" if attends else "" for attends in config.attention]
    return diffusers.UNet2DConditionModel(
        sample_size=128,
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        block_out_channels=widths,
        cross_attention_dim=widths,
        layers_per_block=config.res_blocks,
        norm_num_groups=config.norm_groups,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=config.embed_dim,
        class_embeddings_concat=True,
        attention_head_dim=config.heads,  # in diffusers the name of the number of heads
    )


def _vae(diffusers: Any, config: VAEConfig) -> Any:
    levels = len(config.multipliers)
    return diffusers.AutoencoderKL(
        sample_size=512,
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(config.channels * m for m in config.multipliers),
        latent_channels=config.latent_channels,
        layers_per_block=config.res_blocks,
        norm_num_groups=config.norm_groups,
        scaling_factor=0.9227,
    )


def _vocoder(transformers: Any, config: HiFiGANConfig) -> Any:
    return transformers.SpeechT5HifiGan(
        transformers.SpeechT5HifiGanConfig(
            model_in_dim=config.mel.num_mels,
            sampling_rate=config.mel.sample_rate,
            upsample_initial_channel=config.channels,
            upsample_rates=list(config.ratios),
            upsample_kernel_sizes=list(config.kernels),
            resblock_kernel_sizes=list(config.res_kernels),
            resblock_dilation_sizes=[list(config.dilations)] * len(config.res_kernels),
            normalize_before=False,
        )
    )


def _text(transformers: Any, config: ClapTextConfig) -> Any:
    return transformers.ClapTextModelWithProjection(
        transformers.ClapTextConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.max_length + 2,  # counted from RoBERTa's padding, 1
            projection_dim=config.embed_dim,
            layer_norm_eps=config.norm_eps,
        )
    )


def _tokenizer(transformers: Any, config: ClapTextConfig) -> Any:
    """A RoBERTa tokenizer of single bytes. It pads prompts to the same length as AudioLDM's."""
    tokenizers: Any = import_module("tokenizers")
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    names = ["<s>", "<pad>", "</s>", "<unk>", *letters, "<mask>"]
    assert len(names) == _VOCAB <= config.vocab_size
    return transformers.RobertaTokenizer(
        vocab={name: number for number, name in enumerate(names)},
        merges=[],
        model_max_length=config.max_length,
    )
