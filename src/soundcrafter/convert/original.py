"""AudioLDM's own checkpoint: one file of tensors; the settings follow from their shapes."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from soundcrafter.convert.checkpoints import read_state
from soundcrafter.convert.diffusers import head_counts
from soundcrafter.convert.imported_model import SAMPLING, ImportedModel, set_null_condition
from soundcrafter.convert.names import Names, hifigan_names, unet_names, vae_names
from soundcrafter.convert.weights import Weights, numbers, prefixed
from soundcrafter.diffusion.config import DiffusionConfig
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.clap_audio import ClapAudio, ClapAudioConfig
from soundcrafter.models.clap_text import ClapText, ClapTextConfig
from soundcrafter.models.hifigan import HiFiGAN, HiFiGANConfig
from soundcrafter.models.unet import UNet, UNetConfig
from soundcrafter.models.vae import VAE, VAEConfig
from soundcrafter.text import Tokenizer

UNET, EMA = "model.diffusion_model.", "model_ema.diffusion_model"
VAE_PREFIX, VOCODER = "first_stage_model.", "first_stage_model.vocoder."
CLAP = "cond_stage_model.model."

# Tensors that follow from the settings, belong to training, or are never used (full names).
_IGNORED = (
    r"(log_one_minus_|sqrt_|sqrt_one_minus_|sqrt_recip_|sqrt_recipm1_)?alphas_cumprod(_prev)?",
    r"posterior_(variance|log_variance_clipped|mean_coef[12])|lvlb_weights|logvar",
    r"model_ema\.(decay|num_updates)",
    r"cond_stage_model\.(mel_transform|unconditional_token).*",
    r"cond_stage_model\.model\.(text|audio)_transform\..*|cond_stage_model\.model\.logit_scale_t",
    r"cond_stage_model\.model\.audio_branch\.(spectrogram_extractor|logmel_extractor)\..*",
    r"cond_stage_model\.model\.audio_branch\.(tscam_conv|head)\..*",
    r"cond_stage_model\.model\.audio_branch\..*\.attn_mask",
    r"first_stage_model\.loss\..*",
)
# CLAP's spectrogram in AudioLDM's code, the same as LAION's.
_CLAP_MEL = MelConfig(
    sample_rate=48_000,
    hop=480,
    fmin=50.0,
    fmax=14_000.0,
    power=2,
    log="db",
    floor=1e-10,
    framing="center",
)
_HEAD_WIDTH = 64  # channels of an attention head of RoBERTa


def read_original(file: Path, tokenizer: Tokenizer) -> ImportedModel:
    """Read the model in AudioLDM's .ckpt, or the same tensors in a .safetensors file.

    Averaged (EMA) weights are used if the file has them. The tokenizer is RoBERTa's, which the file
    does not contain. No code of the file runs. Raises ValueError for anything but AudioLDM.
    """
    state = read_state(file)
    if f"{UNET}film_emb.weight" not in state:
        kind = "another" if f"{UNET}out.2.weight" in state else "no"
        raise ValueError(
            f"{file}: contains {kind} latent diffusion model; allowed: AudioLDM's, which has "
            f"{UNET}film_emb.weight"
        )
    weights = Weights(file, state)
    diffusion = _schedule(weights)
    unet, unet_config = _unet(weights)
    vae, vae_config = _vae(weights)
    vocoder, vocoder_config = _vocoder(weights)
    text, text_config = _text(weights)
    parts: dict[str, tuple[nn.Module, Any]] = {
        "clap_text": (text, text_config),
        "vae": (vae, vae_config),
        "unet": (unet, unet_config),
        "vocoder": (vocoder, vocoder_config),
    }
    if any(name.startswith(f"{CLAP}audio_branch.") for name in state):
        parts["clap_audio"] = _audio(weights)
    for pattern in _IGNORED:
        weights.ignore(pattern)
    weights.check_all_used()
    set_null_condition(unet, text, tokenizer)
    return ImportedModel("AudioLDM's own checkpoint", parts, tokenizer, diffusion, SAMPLING)


def _schedule(weights: Weights) -> DiffusionConfig:
    betas = weights.get("betas").double()
    config = DiffusionConfig(
        steps=len(betas),
        betas="scaled_linear",
        beta_start=round(float(betas[0]), 8),
        beta_end=round(float(betas[-1]), 8),
    )
    if not torch.allclose(Schedule(config).betas, betas, rtol=1e-4):
        raise ValueError(f"{weights.file}: allowed: betas with linear square roots, as in AudioLDM")
    return config


def _unet(weights: Weights) -> tuple[UNet, UNetConfig]:
    names = [name.removeprefix(UNET) for name in weights.state if name.startswith(UNET)]
    places = numbers(names, r"input_blocks\.(\d+)\.")
    strided = [n for n in places if f"input_blocks.{n}.0.op.weight" in names]
    ends = [*strided, len(places)]  # of the levels

    def width(place: int) -> int:
        return weights.shape(f"{UNET}input_blocks.{place}.0.out_layers.3.weight")[0]

    time_dim, channels = weights.shape(f"{UNET}time_embed.0.weight")
    cond_dim, embed_dim = weights.shape(f"{UNET}film_emb.weight")
    widths = [width(end - 1) for end in ends]
    config = UNetConfig(
        in_channels=weights.shape(f"{UNET}input_blocks.0.0.weight")[1],
        channels=channels,
        multipliers=tuple(n // channels for n in widths),
        strides=((1, 1), *((2, 2),) * len(strided)),
        res_blocks=ends[0] - 1,
        attention=tuple(f"input_blocks.{end - 1}.1.norm.weight" in names for end in ends),
        heads=head_counts(widths),
        dropout=0.0,
        conditioning="shift",
        time_dim=time_dim,
        cond_dim=cond_dim,
        embed_dim=embed_dim,
    )
    unet = UNet(config)
    _take_average(weights, names)
    paths = {ours: UNET + theirs for ours, theirs in unet_names(config, "original").items()}
    weights.fill(unet, paths, {"null_cond": unet.null_cond})
    return unet, config


def _take_average(weights: Weights, names: list[str]) -> None:
    """Replace the U-Net's weights by averaged ones, whose names contain no dots."""
    averaged = {name: f"{EMA}{name.replace('.', '')}" for name in names}
    if not any(name in weights.state for name in averaged.values()):
        return
    for name, other in averaged.items():
        weights.state[UNET + name] = weights.get(other)


def _vae(weights: Weights) -> tuple[VAE, VAEConfig]:
    names = [name.removeprefix(VAE_PREFIX) for name in weights.state if VAE_PREFIX in name]
    levels = numbers(names, r"encoder\.down\.(\d+)\.")
    widths = [
        weights.shape(f"{VAE_PREFIX}encoder.down.{level}.block.0.conv2.weight")[0]
        for level in levels
    ]
    channels = weights.shape(f"{VAE_PREFIX}encoder.conv_in.weight")[0]
    config = VAEConfig(
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        strides=((1, 1), *((2, 2),) * (len(levels) - 1)),
        res_blocks=len(numbers(names, r"encoder\.down\.0\.block\.(\d+)\.")),
        latent_channels=weights.shape(f"{VAE_PREFIX}post_quant_conv.weight")[0],
    )
    vae = VAE(config)
    paths = {ours: VAE_PREFIX + theirs for ours, theirs in vae_names(config, "original").items()}
    weights.fill(vae, paths, {"latent_scale": weights.get("scale_factor").reshape(())})
    return vae, config


def _vocoder(weights: Weights) -> tuple[HiFiGAN, HiFiGANConfig]:
    pre = f"{VOCODER}conv_pre.weight"
    if pre not in weights.state:
        pre += "_v"  # with weight norm
    channels, bands, _ = weights.shape(pre)
    config = HiFiGANConfig(mel=MelConfig(num_mels=bands), channels=channels)
    vocoder = HiFiGAN(config)
    paths = {ours: VOCODER + theirs for ours, theirs in hifigan_names(config, "original").items()}
    weights.fill(vocoder, paths)
    return vocoder, config


def _text(weights: Weights) -> tuple[ClapText, ClapTextConfig]:
    branch = f"{CLAP}text_branch."
    words = weights.get(f"{branch}embeddings.word_embeddings.weight")
    positions = weights.get(f"{branch}embeddings.position_embeddings.weight")
    config = ClapTextConfig(
        tower="roberta",
        embed_dim=len(weights.get(f"{CLAP}text_projection.2.weight")),
        vocab_size=len(words),
        width=words.shape[1],
        layers=len(numbers(weights.state, re.escape(branch) + r"encoder\.layer\.(\d+)\.")),
        heads=max(1, words.shape[1] // _HEAD_WIDTH),
        max_length=len(positions) - 2,
        pad_id=1,
        bos_id=0,
        eos_id=2,
        norm_eps=1e-5,  # of roberta-base; transformers' CLAP has 1e-12
    )
    text = ClapText(config)
    paths = prefixed(text, branch, "tower.text_model.")
    paths |= _projection("text")
    weights.fill(text, paths, {"logit_scale": weights.get(f"{CLAP}logit_scale_a").reshape(())})
    return text, config


def _audio(weights: Weights) -> tuple[ClapAudio, ClapAudioConfig]:
    branch = f"{CLAP}audio_branch."
    _split_attention(weights, branch)
    names = [name.removeprefix(branch) for name in weights.state if name.startswith(branch)]
    stages = numbers(names, r"layers\.(\d+)\.")
    tables = [
        weights.get(f"{branch}layers.{stage}.blocks.0.attn.relative_position_bias_table")
        for stage in stages
    ]
    config = ClapAudioConfig(
        tower="htsat",
        mel=_CLAP_MEL,
        embed_dim=len(weights.get(f"{CLAP}audio_projection.2.weight")),
        width=len(weights.get(f"{branch}patch_embed.proj.weight")),
        depths=tuple(len(numbers(names, rf"layers\.{s}\.blocks\.(\d+)\.")) for s in stages),
        heads=tuple(table.shape[1] for table in tables),
        window=(int(len(tables[0]) ** 0.5) + 1) // 2,  # a table has (2 window - 1)^2 rows
    )
    audio = ClapAudio(config)
    paths = prefixed(audio, branch, "tower.audio_model.audio_encoder.")
    weights.fill(audio, {**_htsat_names(paths), **_projection("audio")})
    return audio, config


def _projection(tower: str) -> Names:
    return {
        f"tower.{tower}_projection.linear1": f"{CLAP}{tower}_projection.0",
        f"tower.{tower}_projection.linear2": f"{CLAP}{tower}_projection.2",
    }


def _htsat_names(paths: Names) -> Names:
    """Translate transformers' names into HTS-AT's own."""
    table = {  # longer names first
        "attention.output.dense": "attn.proj",
        "attention.self": "attn",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "batch_norm": "bn0",
    }
    renamed = {}
    for ours, theirs in paths.items():
        for new, old in table.items():
            theirs = theirs.replace(new, old)
        renamed[ours] = theirs
    return renamed


def _split_attention(weights: Weights, branch: str) -> None:
    """Split HTS-AT's joint projections into query, key and value."""
    for name in [n for n in weights.state if n.startswith(branch) and ".attn.qkv." in n]:
        parts: tuple[Tensor, ...] = weights.get(name).chunk(3)
        for part, value in zip(("query", "key", "value"), parts, strict=True):
            weights.state[name.replace("qkv", part)] = value
