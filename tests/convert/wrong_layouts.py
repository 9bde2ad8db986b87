"""Files that an importer has to refuse: other models, cut files, and pickles that would act."""

from pathlib import Path
from typing import Any

import torch
from checkpoints import AudioLdm, edit_json, write_diffusers


def write_stable_diffusion(folder: Path) -> None:
    """Stable Diffusion's layout: the index and configs."""
    _write_pipeline(
        folder,
        "StableDiffusionPipeline",
        unet=("diffusers", "UNet2DConditionModel"),
        vae=("diffusers", "AutoencoderKL"),
        text_encoder=("transformers", "CLIPTextModel"),
        tokenizer=("transformers", "CLIPTokenizer"),
        scheduler=("diffusers", "PNDMScheduler"),
    )
    edit_json(
        folder / "unet" / "config.json",
        in_channels=4,
        out_channels=4,
        sample_size=64,
        block_out_channels=[320, 640, 1280, 1280],
        cross_attention_dim=768,
        attention_head_dim=8,
        layers_per_block=2,
    )
    edit_json(
        folder / "vae" / "config.json",
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=[128, 256, 512, 512],
    )
    edit_json(folder / "text_encoder" / "config.json", model_type="clip_text_model")


def write_audioldm2(folder: Path) -> None:
    """AudioLDM2's layout: two text encoders, a language model, and cross-attention to them."""
    _write_pipeline(
        folder,
        "AudioLDM2Pipeline",
        unet=("audioldm2", "AudioLDM2UNet2DConditionModel"),
        vae=("diffusers", "AutoencoderKL"),
        vocoder=("transformers", "SpeechT5HifiGan"),
        text_encoder=("transformers", "ClapModel"),
        text_encoder_2=("transformers", "T5EncoderModel"),
        language_model=("transformers", "GPT2Model"),
        projection_model=("audioldm2", "AudioLDM2ProjectionModel"),
        tokenizer=("transformers", "RobertaTokenizerFast"),
        tokenizer_2=("transformers", "T5TokenizerFast"),
        feature_extractor=("transformers", "ClapFeatureExtractor"),
        scheduler=("diffusers", "DDIMScheduler"),
    )
    edit_json(
        folder / "unet" / "config.json",
        in_channels=8,
        out_channels=8,
        block_out_channels=[128, 256, 384, 640],
        cross_attention_dim=[[None, 768, 1024]] * 4,
        layers_per_block=2,
    )
    edit_json(
        folder / "vae" / "config.json",
        in_channels=1,
        out_channels=1,
        latent_channels=8,
        block_out_channels=[128, 256, 512],
    )
    edit_json(folder / "vocoder" / "config.json", model_type="speecht5_hifigan", model_in_dim=64)
    edit_json(folder / "text_encoder" / "config.json", model_type="clap")


def _write_pipeline(folder: Path, class_name: str, **parts: tuple[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "model_index.json"
    index.write_text("{}", encoding="utf-8")
    edit_json(index, _class_name=class_name, _diffusers_version="0.21.0", **parts)
    for part, (_, name) in parts.items():
        (folder / part).mkdir()
        is_model = part not in ("tokenizer", "tokenizer_2", "scheduler", "feature_extractor")
        if is_model:
            (folder / part / "config.json").write_text("{}", encoding="utf-8")
            edit_json(folder / part / "config.json", _class_name=name)


def write_stable_diffusion_original(file: Path) -> None:
    """The same outer names as AudioLDM's file, with cross-attention to CLIP and no film_emb."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.diffusion_model.time_embed.0.weight": (128, 32),
        "model.diffusion_model.input_blocks.0.0.weight": (32, 4, 3, 3),
        "model.diffusion_model.input_blocks.1.0.in_layers.2.weight": (32, 32, 3, 3),
        "model.diffusion_model.input_blocks.1.1.proj_in.weight": (32, 32, 1, 1),
        "model.diffusion_model.out.2.weight": (4, 32, 3, 3),
        "first_stage_model.encoder.conv_in.weight": (32, 3, 3, 3),
        "first_stage_model.decoder.conv_out.weight": (3, 32, 3, 3),
        "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (99, 48),
        "cond_stage_model.transformer.text_model.final_layer_norm.weight": (48,),
    }
    block = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0"
    for name in ("to_q", "to_k", "to_v"):
        shapes[f"{block}.attn1.{name}.weight"] = (32, 32)
        shapes[f"{block}.attn2.{name}.weight"] = (32, 32 if name == "to_q" else 48)
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    torch.save({"state_dict": state, "global_step": 1}, file)


def truncate(source: Path, target: Path, *, keep: float = 0.5) -> None:
    """The first part of a file, as an interrupted download leaves it; target may be source."""
    content = source.read_bytes()
    target.write_bytes(content[: int(len(content) * keep)])


class _Touch:
    """Unpickled without care, it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def write_pickle(file: Path, marker: Path, *, legacy: bool = False) -> None:
    """A checkpoint that creates `marker` when unpickled, in torch's zip or its former format."""
    state = {"model.diffusion_model.film_emb.weight": torch.zeros(4, 4), "act": _Touch(marker)}
    torch.save({"state_dict": state}, file, _use_new_zipfile_serialization=not legacy)


def write_diffusers_with_pickle(
    folder: Path, model: AudioLdm, marker: Path, *, legacy: bool = False
) -> None:
    """A diffusers folder of .bin files whose U-Net creates `marker` when unpickled."""
    write_diffusers(folder, model, weights="bin")
    write_pickle(folder / "unet" / "diffusion_pytorch_model.bin", marker, legacy=legacy)
