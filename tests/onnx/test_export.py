"""Exports are checked, complete, or not there at all."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from soundcrafter.mel_bands import MelConfig  # noqa: E402
from soundcrafter.models.griffin_lim import random_phases  # noqa: E402
from soundcrafter.models.spectral import SpectralConfig, SpectralVocoder  # noqa: E402
from soundcrafter.onnx import OnnxSoundCrafter  # noqa: E402
from soundcrafter.onnx.convert import half_weights  # noqa: E402
from soundcrafter.onnx.export import export_onnx  # noqa: E402
from soundcrafter.onnx.graphs import Dft  # noqa: E402
from soundcrafter.onnx.quantize import LIMIT, quantize, runner, trajectories  # noqa: E402
from soundcrafter.onnx.spectral_graph import spectral_to_onnx  # noqa: E402
from soundcrafter.store import open_folder  # noqa: E402


def test_an_export_says_what_it_is(exported, tiny_model):
    settings = json.loads((exported / "settings.json").read_text())
    model = json.loads((tiny_model / "config.json").read_text())
    assert settings["diffusion"] == model["diffusion"]
    assert settings["sampling"]["steps"] == model["sampling"]["steps"]
    assert settings["weights"] == "fp32"
    for name, part in settings["parts"].items():
        source = "vae" if name == "vae_decoder" else name
        assert part["training_id"] == model["parts"][source]["training_id"]
    assert (exported / "tokenizer.json").is_file()


def test_half_precision_weights_take_less_space(exported):
    proto = onnx.load(exported / "unet.onnx")
    whole = proto.SerializeToString()
    half_weights(proto)
    half = proto.SerializeToString()
    assert len(half) < len(whole)  # most of the tiny model's tensors are too small to be halved
    inputs = {
        "latent": np.ones((1, 4, 8, 16), np.float32),
        "t": np.array([500], np.float32),
        "cond": np.ones((1, 16), np.float32),
    }
    exact, rounded = (onnxruntime.InferenceSession(m).run(None, inputs)[0] for m in (whole, half))
    np.testing.assert_allclose(rounded, exact, atol=1e-2 * np.abs(exact).max())


@pytest.mark.long
def test_a_part_that_differs_is_refused_and_nothing_is_left(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(export_onnx.__globals__["TOLERANCES"], "fp32", 0.0)
    with pytest.raises(ValueError, match=r"clap_text: .* differs from torch by .* of its peak"):
        export_onnx(tiny_model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_refused(run, tiny_model, tmp_path):
    out = tmp_path / "out"
    message = run("export", tiny_model, "--out", out, "--weights", "int3").refused()
    assert "weights: got 'int3'; allowed: fp32, fp16, int8" in message
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "exists already" in run("export", tiny_model, "--out", tmp_path / "full").refused()
    assert "no such model folder" in run("export", tmp_path / "no", "--out", out).refused()
    assert not out.exists()


@pytest.mark.parametrize("size", [6, 12, 128, 640, 1024])
def test_the_transform_is_that_of_fft(size):
    frames, dft = torch.randn(2, 3, size), Dft(size)
    folded = dft(frames)
    wanted = torch.fft.rfft(frames)
    for found, part in zip(dft.unfold(folded), (wanted.real, wanted.imag), strict=True):
        torch.testing.assert_close(found, part, rtol=0, atol=1e-6 * size)
    again = dft.inverse(folded * dft.both_weights)
    torch.testing.assert_close(again, frames, rtol=0, atol=1e-5)
    for part in (wanted.real, wanted.imag):
        back = dft.fold(part).transpose(-1, -2).flatten(-2)[..., : size // 2 + 1]
        torch.testing.assert_close(back, part)


@pytest.mark.long
def test_the_spectral_vocoder_with_its_rounds(tmp_path):
    mel_config = MelConfig(n_fft=256, hop=64, num_mels=16)
    config = SpectralConfig(mel=mel_config, n_fft=128, iterations=3, width=8, blocks=1)
    vocoder = SpectralVocoder(config).eval()
    torch.nn.init.normal_(vocoder.output.weight, std=0.02)
    mels = [torch.randn(batch, 1, frames, 16) - 4 for batch, frames in ((2, 24), (1, 41))]
    inputs = [(mel, random_phases(mel.shape[2], mel_config)) for mel in mels]
    proto = spectral_to_onnx(vocoder, inputs[0])
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    for mel, phases in inputs:
        named = {"mel": mel.numpy(), "phases": phases.numpy()}
        for rounds in (None, 1):
            if rounds is not None:
                vocoder.config, named["rounds"] = replace(config, iterations=1), np.array(1)
            with torch.no_grad():
                wanted = vocoder(mel).numpy()
            vocoder.config = config
            (found,) = session.run(None, named)
            np.testing.assert_allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())


def test_an_int8_unet_makes_nearly_the_same_sounds(exported, tiny_model, tmp_path):
    folder = open_folder(tiny_model)
    ways = trajectories(folder, "unet", folder.load("unet"))
    quantized = quantize(onnx.load(exported / "unet.onnx"), ways.inputs)
    types = {tensor.data_type for tensor in quantized.graph.initializer}
    assert onnx.TensorProto.INT8 in types
    onnx.save(quantized, tmp_path / "int8.onnx")
    assert ways.moved_by(runner(exported / "unet.onnx")) < 1e-3
    assert 1e-3 < ways.moved_by(runner(tmp_path / "int8.onnx")) < LIMIT


@pytest.mark.long
def test_an_export_in_int8(tiny_model, tmp_path, monkeypatch):
    seen = []
    export_onnx(tiny_model, tmp_path / "int8", "int8", seen.append)
    assert [part.name for part in seen if part.moved is not None] == ["unet"]
    runtime = OnnxSoundCrafter.from_pretrained(tmp_path / "int8", threads=1)
    assert runtime.generate("rain", seconds=1.0)[0].wave.any()
    monkeypatch.setitem(export_onnx.__globals__, "LIMIT", 0.0)
    with pytest.raises(ValueError, match=r"unet: in int8 its latents are moved by .* in fp16"):
        export_onnx(tiny_model, tmp_path / "out", "int8")
    assert not (tmp_path / "out").exists()
