"""Random-weight models in the layouts that others publish: what the importer is tested against.

Built from the published classes and file names alone; nothing here is the importer's own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import diffusers  # which, like transformers, imports what is used of it when it is used
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn

Size = Literal["narrow", "s", "m", "l"]
Module = TypeVar("Module", bound=nn.Module)

MULTIPLIERS = (1, 2, 3, 5)
CHANNELS: dict[Size, int] = {"narrow": 32, "s": 128, "m": 192, "l": 256}
HEAD_WIDTH: dict[Size, int] = {"narrow": 32, "s": 32, "m": 32, "l": 64}
SCALING: dict[Size, float] = {"narrow": 0.9, "s": 0.9227, "m": 0.9136, "l": 0.9653}
NARROW_DIM = 16
VOCAB = 300

CAPTIONS = (
    "rain on a tin roof",
    "a dog barks twice at the door",
    "wind and ocean waves at the same time",
    "birds chirping while rain falls heavily",
    "a man is speaking as a train passes by",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioLdm:
    """The parts of one AudioLDM, as the published classes; `audio` is in original files alone."""

    unet: diffusers.UNet2DConditionModel
    vae: diffusers.AutoencoderKL
    vocoder: transformers.SpeechT5HifiGan
    text: transformers.ClapTextModelWithProjection
    tokenizer: transformers.RobertaTokenizer
    scheduler: diffusers.DDIMScheduler
    audio: transformers.ClapAudioModelWithProjection

    def pipeline(self) -> diffusers.AudioLDMPipeline:
        pipeline = diffusers.AudioLDMPipeline(
            vae=self.vae,
            text_encoder=self.text,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            vocoder=self.vocoder,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors [B, E]."""
        inputs = self.tokenizer(list(prompts), padding=True, return_tensors="pt")
        return nn.functional.normalize(self.text(**inputs).text_embeds, dim=-1)


def diffusers_model(
    size: Size = "narrow",
    *,
    seed: int = 0,
    layer_norm_eps: float = 1e-12,
    norm_groups: int = 32,
) -> AudioLdm:
    """An AudioLDM of a published size, or a narrow one; the same weights for the same seed.

    `layer_norm_eps` is the text tower's: 1e-12 in the diffusers layout, 1e-5 (roberta-base's) in
    the original code. `norm_groups` of U-Net and VAE is 32 in all that is published; where the
    narrow ones have 32 channels, a norm of 32 groups takes out every bias and the time embedding
    before it, so that only fewer groups let each tensor there matter to the output.
    """
    narrow = size == "narrow"
    embed_dim = NARROW_DIM if narrow else 512
    text = narrow_text_config() if narrow else transformers.ClapTextConfig()
    text.layer_norm_eps = layer_norm_eps
    audio = narrow_audio_config(embed_dim)
    with torch.random.fork_rng(devices=[]):
        return AudioLdm(
            unet=randomised(_unet(size, embed_dim, norm_groups), seed),
            vae=randomised(_vae(size, norm_groups), seed + 1),
            vocoder=randomised(_vocoder(64 if narrow else 1024), seed + 2),
            text=randomised(transformers.ClapTextModelWithProjection(text), seed + 3),
            tokenizer=roberta_tokenizer(),
            scheduler=diffusers.DDIMScheduler(
                num_train_timesteps=1000,
                beta_start=0.0015,
                beta_end=0.0195,
                beta_schedule="scaled_linear",
                steps_offset=1,
                clip_sample=False,
                set_alpha_to_one=False,
            ),
            audio=randomised(transformers.ClapAudioModelWithProjection(audio), seed + 4),
        )


def _unet(size: Size, embed_dim: int, norm_groups: int) -> diffusers.UNet2DConditionModel:
    channels = tuple(CHANNELS[size] * multiplier for multiplier in MULTIPLIERS)
    return diffusers.UNet2DConditionModel(
        sample_size=128,
        in_channels=8,
        out_channels=8,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
        up_block_types=(*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
        block_out_channels=channels,
        cross_attention_dim=channels,
        layers_per_block=2,
        norm_num_groups=norm_groups,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=embed_dim,
        class_embeddings_concat=True,
        attention_head_dim=tuple(width // HEAD_WIDTH[size] for width in channels),
    )


def _vae(size: Size, norm_groups: int) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        sample_size=512,
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 128) if size == "narrow" else (128, 256, 512),
        latent_channels=8,
        layers_per_block=2,
        norm_num_groups=norm_groups,
        scaling_factor=SCALING[size],
    )


def _vocoder(channels: int) -> transformers.SpeechT5HifiGan:
    return transformers.SpeechT5HifiGan(
        transformers.SpeechT5HifiGanConfig(
            model_in_dim=64,
            sampling_rate=16_000,
            upsample_initial_channel=channels,
            upsample_rates=[5, 4, 2, 2, 2],
            upsample_kernel_sizes=[16, 16, 8, 4, 4],
            resblock_kernel_sizes=[3, 7, 11],
            resblock_dilation_sizes=[[1, 3, 5]] * 3,
            normalize_before=False,
        )
    )


def narrow_text_config() -> transformers.ClapTextConfig:
    return transformers.ClapTextConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,  # of width 64, as all of RoBERTa's
        intermediate_size=256,
        projection_dim=NARROW_DIM,
    )


def narrow_audio_config(embed_dim: int = NARROW_DIM) -> transformers.ClapAudioConfig:
    """HTS-AT of width 16; the third level's second block is the one with shifted windows."""
    return transformers.ClapAudioConfig(
        patch_embeds_hidden_size=16,
        depths=(1, 1, 2, 1),
        num_attention_heads=(1, 2, 4, 8),
        hidden_size=128,
        projection_dim=embed_dim,
    )


@torch.no_grad()
def randomised(module: Module, seed: int) -> Module:
    """The module with every parameter drawn anew, so that each tensor matters to the output."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 0:  # CLAP's logit scales
            parameter.add_(0.1 * draw)
        elif parameter.ndim == 1:
            is_vocoder = isinstance(module, transformers.SpeechT5HifiGan)
            parameter.copy_((0.03 if is_vocoder else 0.3) * draw + float(name.endswith("weight")))
        elif "embeddings." in name:  # its own size: a layer norm follows, whose eps then matters
            parameter.copy_(0.02 * draw)
        else:
            gain = 0.6 if name.startswith("conv_post.") else 1.0  # short of the vocoder's tanh
            parameter.copy_(gain * parameter[0].numel() ** -0.5 * draw)
    for name, buffer in module.named_buffers():
        if name.endswith("batch_norm.running_mean"):  # of mel bands in dB
            buffer.copy_(-30 + 5 * torch.randn(buffer.shape, generator=generator))
        elif name.endswith("batch_norm.running_var"):
            buffer.copy_(200 * (1 + torch.rand(buffer.shape, generator=generator)))
    return module.eval()


def roberta_tokenizer() -> transformers.RobertaTokenizer:
    """Byte-level BPE with RoBERTa's special tokens at their places, trained on a few captions."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 1,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CAPTIONS, trainer)
    model = json.loads(backend.to_str())["model"]
    tokenizer = transformers.RobertaTokenizer(
        vocab={**model["vocab"], "<mask>": VOCAB - 1},
        merges=[tuple(pair) for pair in model["merges"]],
        mask_token=AddedToken("<mask>", lstrip=True),
        model_max_length=512,
    )
    assert len(tokenizer) == VOCAB
    return tokenizer


def write_tokenizer(folder: Path, model: AudioLdm) -> None:
    """The tokenizer alone, as roberta-base's folder has it."""
    _save_tokenizer(model.tokenizer, folder)


def _save_tokenizer(tokenizer: transformers.RobertaTokenizer, folder: Path) -> None:
    """All five files that were usual in 2023, of which transformers 5 writes two."""
    tokenizer.save_pretrained(folder)
    tokenizer.backend_tokenizer.model.save(str(folder))
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    _write_json(folder / "special_tokens_map.json", special)


def write_diffusers(
    folder: Path,
    model: AudioLdm,
    *,
    weights: Literal["safetensors", "bin"] = "safetensors",
    attention_head_dim: int | Sequence[int] | None = None,
    old_names: bool = False,
    text_buffers: Sequence[str] = ("position_ids", "token_type_ids"),
) -> None:
    """The folder that `AudioLDMPipeline.save_pretrained` writes, with a model card.

    `attention_head_dim` replaces the U-Net config's, not what `model` computes. `old_names`: as
    published in 2023, the VAE's attention under its former names and attention_head_dim 8.
    `text_buffers` are the text tower's buffers that its file holds.
    """
    model.pipeline().save_pretrained(folder, safe_serialization=True)
    _save_tokenizer(model.tokenizer, folder / "tokenizer")
    if attention_head_dim is None and old_names:
        attention_head_dim = 8
    if attention_head_dim is not None:
        edit_json(folder / "unet" / "config.json", attention_head_dim=attention_head_dim)
    for file in sorted(folder.rglob("*.safetensors")):
        state, part = load_file(file), file.parent.name
        if part == "vae" and old_names:
            state = {_old_vae_name(name): tensor for name, tensor in state.items()}
        if part == "text_encoder":
            buffers = {f"text_model.embeddings.{name}" for name in text_buffers}
            kept = {name: tensor for name, tensor in state.items() if not name.endswith("_ids")}
            state = kept | {
                name: tensor for name, tensor in model.text.state_dict().items() if name in buffers
            }
        file.unlink()
        if weights == "safetensors":
            save_file(state, file, metadata={"format": "pt"})
        else:
            old = {"model.safetensors": "pytorch_model.bin"}
            torch.save(state, file.with_name(old.get(file.name, f"{file.stem}.bin")))
    _write_card(folder, "cc-by-nc-sa-4.0")


def _old_vae_name(name: str) -> str:
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in former.items():
        name = name.replace(f".{new}.", f".{old}.")
    return name


def write_clap(
    folder: Path, *, seed: int = 0
) -> tuple[transformers.ClapModel, transformers.ClapFeatureExtractor]:
    """A narrow unfused CLAP in transformers' layout: the reference model and its features."""
    config = transformers.ClapConfig(
        text_config=narrow_text_config().to_dict(),
        audio_config=narrow_audio_config().to_dict(),
        projection_dim=NARROW_DIM,
    )
    with torch.random.fork_rng(devices=[]):
        model = randomised(transformers.ClapModel(config), seed)
    features = transformers.ClapFeatureExtractor(
        feature_size=64,
        sampling_rate=48_000,
        hop_length=480,
        fft_window_size=1024,
        frequency_min=50,
        frequency_max=14_000,
        truncation="rand_trunc",
        padding="repeatpad",
    )
    tokenizer = roberta_tokenizer()
    model.save_pretrained(folder)
    transformers.ClapProcessor(feature_extractor=features, tokenizer=tokenizer).save_pretrained(
        folder
    )
    features.save_pretrained(folder)
    _save_tokenizer(tokenizer, folder)
    _write_card(folder, "apache-2.0")
    return model, features


def edit_json(file: Path, **values: Any) -> None:
    """Replace or add entries of a JSON file."""
    _write_json(file, json.loads(file.read_text(encoding="utf-8")) | values)


def _write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_card(folder: Path, licence: str) -> None:
    card = f"---\nlicense: {licence}\ntags:\n- audio\n---\n\n# A model with random weights\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
