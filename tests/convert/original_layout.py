"""AudioLDM's original checkpoint file, written from the published classes by the inverse names."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import diffusers
import torch
import transformers
from checkpoints import AudioLdm, randomised
from torch import Tensor, nn

State = dict[str, Tensor]

_RES_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def write_original(
    file: Path,
    model: AudioLdm,
    *,
    audio: bool = True,
    ema: diffusers.UNet2DConditionModel | Literal["same"] | None = "same",
    weight_norm: bool = False,
    position_ids: bool = True,
    lvlb_weights: bool = False,
    seed: int = 0,
) -> State:
    """Write the .ckpt and return its state dict.

    `ema`: the U-Net whose weights are under model_ema, by default the model's own; None for none.
    `audio`: whether CLAP's audio half is there. `weight_norm`: the vocoder in two tensors a
    weight. `seed` draws what no inference uses.
    """
    unet = {f"model.diffusion_model.{k}": v for k, v in original_unet(model.unet).items()}
    averaged = model.unet if ema == "same" else ema
    vocoder = original_vocoder(model)
    state = original_schedule(lvlb_weights=lvlb_weights)
    state["scale_factor"] = torch.tensor(model.vae.config.scaling_factor)
    state |= unet | (original_ema(averaged) if averaged is not None else {})
    state |= {f"first_stage_model.{k}": v for k, v in original_vae(model.vae).items()}
    vocoder = weight_normed(vocoder, seed) if weight_norm else vocoder
    state |= {f"first_stage_model.vocoder.{k}": v for k, v in vocoder.items()}
    clap = original_clap(model, audio=audio, position_ids=position_ids, seed=seed)
    state |= {f"cond_stage_model.model.{k}": v for k, v in clap.items()}
    torch.save({"state_dict": state, "epoch": 0, "global_step": 1}, file)
    return state


def another_unet(model: AudioLdm, seed: int = 100) -> diffusers.UNet2DConditionModel:
    """A U-Net of the same shape with other weights."""
    return randomised(copy.deepcopy(model.unet), seed)


def _at(places: Mapping[str, str], name: str) -> tuple[str, str, str]:
    """The place that a name begins with, the original's name of it, and the rest of the name."""
    (place,) = [place for place in places if name.startswith(place + ".")]
    return place, places[place], name[len(place) + 1 :]


def _rename(inner: Mapping[str, str], rest: str) -> str:
    module, _, leaf = rest.rpartition(".")
    return f"{inner.get(module, module)}.{leaf}"


def original_unet(unet: nn.Module) -> State:
    places = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "class_embedding": "film_emb",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    for level in range(4):
        places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{3 * level + 3}.0.op"
        # the last position of the level's last block: after a resnet and its attention
        places[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{3 * level + 2}.2.conv"
        for kind, position in (("resnets", 0), ("attentions", 1)):
            for i in range(2):
                old = f"input_blocks.{1 + 3 * level + i}.{position}"
                places[f"down_blocks.{level}.{kind}.{i}"] = old
            for i in range(3):
                old = f"output_blocks.{3 * level + i}.{position}"
                places[f"up_blocks.{level}.{kind}.{i}"] = old
    state = {}
    for name, tensor in unet.state_dict().items():
        place, old, rest = _at(places, name)
        if ".resnets." in place:
            old += "." + _rename(_RES_BLOCK, rest)
        else:
            old += "." + rest
        state[old] = tensor
    return state


def original_ema(unet: nn.Module) -> State:
    """The moving average, which keeps names without dots."""
    state = {
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(800_000, dtype=torch.int32),
    }
    for name, tensor in original_unet(unet).items():
        state["model_ema.diffusion_model" + name.replace(".", "")] = tensor.clone()
    return state


def original_vae(vae: nn.Module) -> State:
    places = {name: name for name in ("quant_conv", "post_quant_conv")}
    for side in ("encoder", "decoder"):
        places[f"{side}.conv_in"] = f"{side}.conv_in"
        places[f"{side}.conv_out"] = f"{side}.conv_out"
        places[f"{side}.conv_norm_out"] = f"{side}.norm_out"
        places[f"{side}.mid_block.attentions.0"] = f"{side}.mid.attn_1"
        for i in range(2):
            places[f"{side}.mid_block.resnets.{i}"] = f"{side}.mid.block_{i + 1}"
    for level in range(3):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{level}"
        places[f"{down}.downsamplers.0.conv"] = f"encoder.down.{level}.downsample.conv"
        places[f"{up}.upsamplers.0.conv"] = f"decoder.up.{2 - level}.upsample.conv"
        for i in range(3):
            places[f"{down}.resnets.{i}"] = f"encoder.down.{level}.block.{i}"
            places[f"{up}.resnets.{i}"] = f"decoder.up.{2 - level}.block.{i}"
    state = {}
    for name, tensor in vae.state_dict().items():
        place, old, rest = _at(places, name)
        if ".attentions." in place:
            rest = _rename(_VAE_ATTENTION, rest)
            if tensor.ndim == 2:  # 1x1 convolutions
                tensor = tensor[:, :, None, None]
        elif ".resnets." in place:
            rest = _rename({"conv_shortcut": "nin_shortcut"}, rest)
        state[f"{old}.{rest}"] = tensor
    return state


def original_vocoder(model: AudioLdm) -> State:
    state = model.vocoder.state_dict()
    del state["mean"], state["scale"]  # transformers' own
    return {re.sub(r"^upsampler\.", "ups.", name): tensor for name, tensor in state.items()}


def weight_normed(state: State, seed: int) -> State:
    """Each weight as a direction of any length and its norm over all dimensions but the first."""
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, tensor in state.items():
        if name.endswith(".weight"):
            norm = tensor.flatten(1).norm(dim=1)[:, None, None]
            result[f"{name}_g"] = norm
            result[f"{name}_v"] = tensor * (0.5 + torch.rand(norm.shape, generator=generator))
        else:
            result[name] = tensor
    return result


def original_clap(
    model: AudioLdm, *, audio: bool = True, position_ids: bool = True, seed: int = 0
) -> State:
    """CLAP with both towers; the transforms after the projections serve its training alone."""
    generator = torch.Generator().manual_seed(seed)
    dim = model.text.config.projection_dim
    state = {name: torch.tensor(2.6593) for name in ("logit_scale_a", "logit_scale_t")}
    for name, tensor in model.text.state_dict().items():
        if name.endswith("token_type_ids") or (name.endswith("position_ids") and not position_ids):
            continue
        name = name.replace("text_model.", "text_branch.")
        state[_original_projection(name)] = tensor
    for tower in ("text_transform", *(["audio_transform"] if audio else [])):
        for layer in (0, 3):
            weight = torch.randn(dim, dim, generator=generator) * dim**-0.5
            state[f"{tower}.sequential.{layer}.weight"] = weight
            state[f"{tower}.sequential.{layer}.bias"] = torch.randn(dim, generator=generator)
    return state | (original_audio(model.audio, seed) if audio else {})


def _original_projection(name: str) -> str:
    return name.replace("_projection.linear1.", "_projection.0.").replace(
        "_projection.linear2.", "_projection.2."
    )


def original_audio(audio: transformers.ClapAudioModelWithProjection, seed: int = 0) -> State:
    """HTS-AT's own names, with the buffers and the classifier that transformers leaves out."""
    state: State = {}
    for name, tensor in audio.state_dict().items():
        if name.startswith("audio_projection."):
            state[_original_projection(name)] = tensor
            continue
        name = name.removeprefix("audio_model.audio_encoder.")
        for new, old in (
            (r"^batch_norm\.", "bn0."),
            (r"\.layernorm_before\.", ".norm1."),
            (r"\.layernorm_after\.", ".norm2."),
            (r"\.attention\.output\.dense\.", ".attn.proj."),
            (r"\.attention\.self\.(query|key|value)\.", r".attn.\1."),
            (r"\.attention\.self\.", ".attn."),
            (r"\.intermediate\.dense\.", ".mlp.fc1."),
            (r"\.output\.dense\.", ".mlp.fc2."),
        ):
            name = re.sub(new, old, name)
        state["audio_branch." + name] = tensor
    for name in [name for name in state if ".attn.query." in name]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        merged = torch.cat([state.pop(part) for part in parts])
        state[name.replace(".query.", ".qkv.")] = merged
    extras = {**_spectrogram(), **_classifier(audio, seed), **_shift_masks(audio)}
    return state | {f"audio_branch.{name}": tensor for name, tensor in extras.items()}


def _spectrogram() -> State:
    """torchlibrosa's STFT as two convolutions, and its mel matrix."""
    angle = 2 * torch.pi * torch.outer(torch.arange(513.0), torch.arange(1024.0)) / 1024
    window = torch.hann_window(1024)
    from transformers.audio_utils import mel_filter_bank

    mel = mel_filter_bank(513, 64, 50, 14_000, 48_000, norm="slaney", mel_scale="slaney")
    stft = "spectrogram_extractor.stft"
    return {
        f"{stft}.conv_real.weight": (angle.cos() * window)[:, None],
        f"{stft}.conv_imag.weight": (-angle.sin() * window)[:, None],
        "logmel_extractor.melW": torch.tensor(mel, dtype=torch.float32),
    }


def _classifier(audio: transformers.ClapAudioModelWithProjection, seed: int) -> State:
    width, classes = audio.config.hidden_size, audio.config.num_classes
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "tscam_conv.weight": (classes, width, 2, 3),
        "tscam_conv.bias": (classes,),
        "head.weight": (classes, classes),
        "head.bias": (classes,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _shift_masks(audio: transformers.ClapAudioModelWithProjection) -> State:
    """attn_mask of the blocks with shifted windows: 0 within a region, -100 across."""
    state, window = {}, audio.config.window_size
    for level, depth in enumerate(audio.config.depths):
        side = audio.config.spec_size // 4 // 2**level
        if side <= window:
            continue
        part = torch.zeros(side)
        part[side - window :], part[side - window // 2 :] = 1, 2
        region = part[:, None] * 3 + part[None]
        windows = region.unfold(0, window, window).unfold(1, window, window).reshape(-1, window**2)
        mask = -100.0 * (windows[:, None] != windows[:, :, None])
        for block in range(1, depth, 2):
            state[f"layers.{level}.blocks.{block}.attn_mask"] = mask
    return state


def original_schedule(*, lvlb_weights: bool = False) -> State:
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
    alphas = 1 - betas
    product = alphas.cumprod(0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), product[:-1]])
    variance = betas * (1 - before) / (1 - product)
    state = {
        "betas": betas,
        "alphas_cumprod": product,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": product.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - product).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - product).log(),
        "sqrt_recip_alphas_cumprod": (1 / product).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / product - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * before.sqrt() / (1 - product),
        "posterior_mean_coef2": (1 - before) * alphas.sqrt() / (1 - product),
        "logvar": torch.zeros(1000),
    }
    if lvlb_weights:
        weights = betas**2 / (2 * variance.clamp(min=1e-20) * alphas * (1 - product))
        weights[0] = weights[1]
        state["lvlb_weights"] = weights
    return {name: tensor.float() for name, tensor in state.items()}
