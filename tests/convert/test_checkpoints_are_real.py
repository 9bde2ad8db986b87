"""The synthetic checkpoints are what their publishers' own readers take."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from checkpoints import AudioLdm, write_clap, write_diffusers
from original_layout import another_unet, write_original
from wrong_layouts import write_pickle

State = dict[str, torch.Tensor]


def assert_same(state: State, expected: State) -> None:
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def sound(pipeline: diffusers.AudioLDMPipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    result = pipeline(
        "rain",
        audio_length_in_s=0.64,
        num_inference_steps=2,
        generator=generator,
        output_type="pt",
    )
    return torch.as_tensor(result.audios[0])


def test_the_folder_loads_and_sounds(narrow: AudioLdm, tmp_path: Path) -> None:
    write_diffusers(tmp_path, narrow)
    wave = sound(diffusers.AudioLDMPipeline.from_pretrained(tmp_path))
    assert torch.isfinite(wave).all()
    assert wave.std() > 0.03
    assert wave.abs().max() < 0.99
    torch.testing.assert_close(wave, sound(narrow.pipeline()))


def test_the_files_of_2023_load(narrow: AudioLdm, tmp_path: Path) -> None:
    write_diffusers(
        tmp_path,
        narrow,
        weights="bin",
        old_names=True,
        attention_head_dim=(1, 2, 3, 5),
        text_buffers=("position_ids",),
    )
    assert not list(tmp_path.rglob("*.safetensors"))
    loaded = diffusers.AudioLDMPipeline.from_pretrained(tmp_path, use_safetensors=False)
    torch.testing.assert_close(sound(loaded), sound(narrow.pipeline()))


def test_the_original_names_are_those_that_diffusers_reads(
    narrow: AudioLdm, tmp_path: Path
) -> None:
    file = tmp_path / "audioldm.ckpt"
    other = another_unet(narrow)
    written = write_original(file, narrow, ema=other)
    state = torch.load(file, weights_only=True)["state_dict"]
    assert_same(state, written)
    readers = diffusers.loaders.single_file_utils
    config = {**narrow.unet.config, "class_embed_type": None}  # unknown to this reader
    for unet, ema in ((narrow.unet, False), (other, True)):
        found = readers.convert_ldm_unet_checkpoint(dict(state), config, extract_ema=ema)
        expected = unet.state_dict()
        film = [expected.pop(f"class_embedding.{leaf}") for leaf in ("weight", "bias")]
        assert_same(found, expected)
        prefix = "model_ema.diffusion_modelfilm_emb" if ema else "model.diffusion_model.film_emb."
        assert torch.equal(state[f"{prefix}weight"], film[0])
        assert torch.equal(state[f"{prefix}bias"], film[1])
    first_stage = {name: v for name, v in state.items() if "vocoder" not in name}
    found = readers.convert_ldm_vae_checkpoint(first_stage, narrow.vae.config)
    assert_same(found, narrow.vae.state_dict())


def test_every_tensor_is_written_once(narrow: AudioLdm, tmp_path: Path) -> None:
    state = write_original(tmp_path / "audioldm.ckpt", narrow, ema=None)
    counts = {
        "model.": len(narrow.unet.state_dict()),
        "first_stage_model.vocoder.": len(narrow.vocoder.state_dict()) - 2,  # mean and scale
        "first_stage_model.": len(narrow.vae.state_dict()) + len(narrow.vocoder.state_dict()) - 2,
    }
    for prefix, count in counts.items():
        tensors = [tensor for name, tensor in state.items() if name.startswith(prefix)]
        assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors) == count


def test_weight_norm_is_torchs(narrow: AudioLdm, tmp_path: Path) -> None:
    state = write_original(tmp_path / "audioldm.ckpt", narrow, ema=None, weight_norm=True)
    for ours, theirs in (("conv_pre", "conv_pre"), ("ups.1", "upsampler.1")):
        prefix = f"first_stage_model.vocoder.{ours}.weight"
        weight = torch._weight_norm(state[f"{prefix}_v"], state[f"{prefix}_g"], 0)
        expected = narrow.vocoder.get_parameter(f"{theirs}.weight")
        torch.testing.assert_close(weight, expected)


def test_the_audio_half_has_hts_ats_buffers(narrow: AudioLdm, tmp_path: Path) -> None:
    state = write_original(tmp_path / "audioldm.ckpt", narrow, ema=None)
    encoder = narrow.audio.audio_model.audio_encoder
    block = encoder.layers[2].blocks[1]
    mask = block.get_attn_mask(16, 16, dtype=torch.float32, device="cpu")
    prefix = "cond_stage_model.model.audio_branch"
    assert torch.equal(state[f"{prefix}.layers.2.blocks.1.attn_mask"], mask)
    assert [name for name in state if name.endswith("attn_mask")] == [
        f"{prefix}.layers.2.blocks.1.attn_mask"
    ]
    qkv = state[f"{prefix}.layers.2.blocks.1.attn.qkv.weight"]
    expected = [getattr(block.attention.self, n).weight for n in ("query", "key", "value")]
    assert torch.equal(qkv, torch.cat(expected))


def test_clap_loads(tmp_path: Path) -> None:
    model, features = write_clap(tmp_path)
    assert_same(transformers.ClapModel.from_pretrained(tmp_path).state_dict(), model.state_dict())
    processor = transformers.ClapProcessor.from_pretrained(tmp_path)
    assert processor.feature_extractor.to_dict() == features.to_dict()
    text = processor.tokenizer(["rain", "a dog barks"], padding=True, return_tensors="pt")
    noise = 0.1 * torch.randn(48_000, generator=torch.Generator().manual_seed(0))
    tone = 0.1 * torch.sin(torch.arange(48_000.0) / 10)
    waves = [noise.numpy(), tone.numpy()]
    audio = processor.feature_extractor(waves, sampling_rate=48_000, return_tensors="pt")
    with torch.no_grad():
        result = model(**text, **audio)
    assert torch.isfinite(result.logits_per_audio).all()
    assert (result.text_embeds[0] - result.text_embeds[1]).norm() > 0.05
    assert (result.audio_embeds[0] - result.audio_embeds[1]).norm() > 0.01


@pytest.mark.parametrize("legacy", [False, True])
def test_the_pickle_would_act(tmp_path: Path, legacy: bool) -> None:
    marker, file = tmp_path / "marker", tmp_path / "file.ckpt"
    write_pickle(file, marker, legacy=legacy)
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists()
