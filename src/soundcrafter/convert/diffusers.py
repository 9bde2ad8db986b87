"""AudioLDM in diffusers' layout: a folder of parts, each with its own config.json."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soundcrafter.convert.imported_model import SAMPLING, ImportedModel, set_null_condition
from soundcrafter.convert.laion_clap import find_weights, read_text_tower, read_tokenizer
from soundcrafter.convert.names import hifigan_names, unet_names, vae_names
from soundcrafter.convert.published_config import PublishedConfig
from soundcrafter.convert.weights import Weights
from soundcrafter.diffusion.config import DiffusionConfig, SamplingConfig
from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.hifigan import HiFiGAN, HiFiGANConfig
from soundcrafter.models.unet import UNet, UNetConfig
from soundcrafter.models.vae import VAE, VAEConfig

# Part -> the possible names of its weights; the first that exists is read.
WEIGHTS = {
    "unet": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "vae": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "vocoder": ("model.safetensors", "pytorch_model.bin"),
    "text_encoder": ("model.safetensors", "pytorch_model.bin"),
}
_HEADS = 8  # a mistake in the published configs, see `head_counts`

_UNET = {
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "transformer_layers_per_block": 1,
    "class_embed_type": "simple_projection",
    "class_embeddings_concat": True,
    "resnet_time_scale_shift": "default",
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
}
_UNET_READ = (
    *("in_channels", "out_channels", "block_out_channels", "layers_per_block", "norm_num_groups"),
    *("attention_head_dim", "cross_attention_dim", "down_block_types", "up_block_types"),
    *("projection_class_embeddings_input_dim", "dropout"),
    *("sample_size", "addition_embed_type_num_heads"),  # no effect
)
_VAE = {
    "in_channels": 1,
    "out_channels": 1,
    "act_fn": "silu",
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
_VAE_READ = (
    *("block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups"),
    *("down_block_types", "up_block_types", "scaling_factor"),
    *("sample_size", "force_upcast"),  # no effect
)
_HIFIGAN = {
    "leaky_relu_slope": 0.1,
    "normalize_before": False,
    "sampling_rate": 16000,  # all published AudioLDM models have this spectrogram
}
_SCHEDULER = {
    "trained_betas": None,
    "clip_sample": False,
    "thresholding": False,
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


def read_diffusers(folder: Path) -> ImportedModel:
    """Read the model in a folder that AudioLDMPipeline wrote.

    Raises ValueError, naming the file and the setting or tensor, for anything but AudioLDM.
    """
    unet, unet_config = _read_unet(folder / "unet")
    vae, vae_config = _read_vae(folder / "vae")
    vocoder, vocoder_config = _read_hifigan(folder / "vocoder")
    text, text_config = read_text_tower(folder / "text_encoder", _weights(folder, "text_encoder"))
    tokenizer = read_tokenizer(folder / "tokenizer")
    set_null_condition(unet, text, tokenizer)
    diffusion, sampling = _read_scheduler(folder / "scheduler" / "scheduler_config.json")
    return ImportedModel(
        "AudioLDM in diffusers' layout",
        {
            "clap_text": (text, text_config),
            "vae": (vae, vae_config),
            "unet": (unet, unet_config),
            "vocoder": (vocoder, vocoder_config),
        },
        tokenizer,
        diffusion,
        sampling,
    )


def head_counts(widths: Sequence[int]) -> tuple[int, ...]:
    """The attention heads of each level in AudioLDM's own code.

    A head has 32 channels, or 64 in the large model, whose first level has 256 channels.
    """
    width = 64 if widths[0] >= 256 else 32
    return tuple(max(1, channels // width) for channels in widths)


def _weights(folder: Path, part: str) -> Weights:
    return find_weights(folder / part, WEIGHTS[part])


def _read_unet(folder: Path) -> tuple[UNet, UNetConfig]:
    data = PublishedConfig(folder / "config.json")
    widths = tuple(data["block_out_channels"])
    cross_dim = data.get("cross_attention_dim")
    if cross_dim is not None and tuple(_each(cross_dim, widths)) != widths:
        raise ValueError(
            f"{data.file}: cross_attention_dim is {cross_dim}, which attends to the words of a "
            f"prompt; allowed: AudioLDM's, {list(widths)}"
        )
    for key in ("class_embed_type", "class_embeddings_concat"):
        data[key]  # must be present: without it, diffusers does not condition at all
    data.expect(_UNET)
    data.check_all_known({*_UNET, *_UNET_READ})
    blocks = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
    attention = tuple(blocks.get(name) for name in data["down_block_types"])
    if None in attention:
        raise ValueError(
            f"{data.file}: down_block_types is {data['down_block_types']}; "
            f"allowed: {', '.join(blocks)}"
        )
    mirrored = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in attention[::-1]]
    data.expect({"up_block_types": mirrored, "out_channels": data["in_channels"]})
    heads = data["attention_head_dim"]  # diffusers' name for the number of heads
    multipliers = tuple(width // widths[0] for width in widths)
    config = UNetConfig(
        in_channels=data["in_channels"],
        channels=widths[0],
        multipliers=multipliers,
        strides=((1, 1), *((2, 2),) * (len(widths) - 1)),
        res_blocks=data["layers_per_block"],
        attention=tuple(map(bool, attention)),
        heads=head_counts(widths) if heads == _HEADS else tuple(_each(heads, widths)),
        dropout=float(data.get("dropout", 0.0)),
        conditioning="shift",
        time_dim=4 * widths[0],
        cond_dim=4 * widths[0],
        embed_dim=data["projection_class_embeddings_input_dim"],
        norm_groups=data.get("norm_num_groups", 32),
    )
    weights, unet = _weights(folder.parent, "unet"), UNet(config)
    weights.fill(unet, unet_names(config, "diffusers"), {"null_cond": unet.null_cond})
    weights.check_all_used()
    return unet, config


def _read_vae(folder: Path) -> tuple[VAE, VAEConfig]:
    data = PublishedConfig(folder / "config.json")
    widths = tuple(data["block_out_channels"])
    data.expect(_VAE)
    data.expect({"down_block_types": ["DownEncoderBlock2D"] * len(widths)})
    data.expect({"up_block_types": ["UpDecoderBlock2D"] * len(widths)})
    data.check_all_known({*_VAE, *_VAE_READ})
    config = VAEConfig(
        channels=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        strides=((1, 1), *((2, 2),) * (len(widths) - 1)),
        res_blocks=data["layers_per_block"],
        latent_channels=data["latent_channels"],
        norm_groups=data["norm_num_groups"],
    )
    weights, vae = _weights(folder.parent, "vae"), VAE(config)
    old = "encoder.mid_block.attentions.0.query.weight" in weights.state
    scale = vae.latent_scale.new_tensor(data["scaling_factor"])
    weights.fill(vae, vae_names(config, "diffusers", old=old), {"latent_scale": scale})
    weights.check_all_used()
    return vae, config


def _read_hifigan(folder: Path) -> tuple[HiFiGAN, HiFiGANConfig]:
    data = PublishedConfig(folder / "config.json")
    data.expect(_HIFIGAN)
    dilations = data["resblock_dilation_sizes"]
    data.expect({"resblock_dilation_sizes": [dilations[0]] * len(dilations)})
    config = HiFiGANConfig(
        mel=MelConfig(num_mels=data["model_in_dim"]),
        channels=data["upsample_initial_channel"],
        ratios=tuple(data["upsample_rates"]),
        kernels=tuple(data["upsample_kernel_sizes"]),
        res_kernels=tuple(data["resblock_kernel_sizes"]),
        dilations=tuple(dilations[0]),
    )
    weights, vocoder = _weights(folder.parent, "vocoder"), HiFiGAN(config)
    weights.fill(vocoder, hifigan_names(config, "diffusers"))
    weights.ignore("mean|scale")  # only used with normalize_before
    weights.check_all_used()
    return vocoder, config


def _read_scheduler(file: Path) -> tuple[DiffusionConfig, SamplingConfig]:
    data = PublishedConfig(file)
    data.expect(_SCHEDULER)
    diffusion = DiffusionConfig(
        steps=data["num_train_timesteps"],
        betas=data["beta_schedule"],
        beta_start=data["beta_start"],
        beta_end=data["beta_end"],
    )
    if data.get("set_alpha_to_one", True):
        return diffusion, dataclasses.replace(SAMPLING, end="clean")
    return diffusion, SAMPLING


def _each(value: Any, levels: Sequence[int]) -> list[Any]:
    """A setting for every level; a single value applies to all."""
    return list(value) if isinstance(value, list | tuple) else [value] * len(levels)
