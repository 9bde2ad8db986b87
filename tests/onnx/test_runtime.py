"""Sounds of an exported model are those of the model."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from soundcrafter import SoundCrafter
from soundcrafter.blend import Blend
from soundcrafter.mel import LogMel
from soundcrafter.mel_bands import MelConfig, log_mel
from soundcrafter.onnx import OnnxSoundCrafter
from soundcrafter.provenance import read_provenance
from soundcrafter.timeline import Timeline

CALLS = {
    "defaults": {},
    "long": {"seconds": 25.0, "steps": 1, "candidates": 1},
    "trimmed": {"seconds": None, "candidates": 2, "count": 2},
    "batch": {"count": 3, "batch_size": 2, "negative": "speech", "guidance": 3.0},
    "stochastic": {"sampler": "ddpm", "steps": 4, "seed": 2**40},
    "multistep": {"sampler": "dpmpp", "steps": 5, "candidates": 3, "draft_steps": 2},
}
# makes a sound where importing torch or transformers fails
WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "safetensors"):
    sys.modules[name] = None
from soundcrafter.onnx import OnnxSoundCrafter
(sound,) = OnnxSoundCrafter.from_pretrained(sys.argv[1]).generate("rain", seconds=1.0, seed=3)
sound.save(sys.argv[2])
"""
COMMAND = """
import sys
for name in ("torch", "transformers", "safetensors"):
    sys.modules[name] = None
sys.argv[0] = "soundcrafter"
from soundcrafter.cli import main
main()
"""


@pytest.fixture(scope="module")
def crafter(tiny_model):
    return SoundCrafter.from_pretrained(tiny_model, "cpu", precision="fp32")


@pytest.fixture(scope="module")
def runtime(exported):
    return OnnxSoundCrafter.from_pretrained(exported, threads=1)


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
    )


@pytest.mark.parametrize("call", CALLS)
def test_sounds_equal_those_of_torch(crafter, runtime, call):
    options = {"seconds": 1.0, **CALLS[call]}
    wanted = crafter.generate(["rain", "a dog barks"], **options)
    found = runtime.generate(["rain", "a dog barks"], **options)
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.prompt, ours.seed) == (theirs.prompt, theirs.seed)
        assert ours.score == pytest.approx(theirs.score, abs=1e-3)
        assert ours.wave.dtype == np.float32
        for mine, other in ((ours.latent, theirs.latent), (ours.wave, theirs.wave)):
            np.testing.assert_allclose(mine, other, rtol=0, atol=1e-3 * np.abs(other).max())


def test_a_mix_of_prompts(crafter, runtime):
    blend = Blend.of({"rain": 0.7, "fire": 0.3})
    (ours,), (theirs,) = (each.generate(blend, seconds=1.0) for each in (runtime, crafter))
    np.testing.assert_allclose(ours.wave, theirs.wave, atol=1e-3 * np.abs(theirs.wave).max())


def test_the_noise_of_a_seed_is_the_same(crafter, runtime):
    wanted = crafter.noise(5, 1.0, 2).numpy()
    np.testing.assert_allclose(runtime.noise(5, 1.0, 2), wanted, atol=5e-6)


def test_progress_reaches_its_total(runtime):
    seen = []
    runtime.generate("rain", seconds=1.0, count=2, batch_size=1, progress=lambda *n: seen.append(n))
    done, totals = zip(*seen, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == totals[-1]


def test_what_it_cannot_do_is_refused(runtime):
    with pytest.raises(ValueError, match="an exported model makes no timelines"):
        runtime.generate(Timeline.morph("rain", "fire", 1.0))
    with pytest.raises(ValueError, match="seconds: got 0"):
        runtime.generate("rain", seconds=0.0)


def test_no_torch_is_imported(exported, runtime, tmp_path):
    done = python(WITHOUT_TORCH, exported, tmp_path / "rain.wav")
    assert done.returncode == 0, done.stderr
    made = read_provenance(tmp_path / "rain.wav")
    assert made.arguments["seed"] == [3]
    (sound,) = runtime.generate("rain", seconds=1.0, seed=3)
    sound.save(tmp_path / "same.wav")
    assert (tmp_path / "same.wav").stat().st_size == (tmp_path / "rain.wav").stat().st_size


def test_the_command_line_without_torch(exported, tmp_path):
    file = tmp_path / "rain.wav"
    arguments = ("generate", "rain, then thunder", "--seconds", "1", "-o", file)
    done = python(COMMAND, *arguments, "--model", exported)
    assert done.returncode == 0, done.stderr
    assert file.is_file()
    refused = python(COMMAND, *arguments)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: this needs torch")
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--loop",), "--loop: not possible with an exported model"),
        (("--more", "bright"), "--more: not possible"),
        (("--morph-to", "fire"), "--morph-to: not possible"),
        (("--reuse", "2"), "--reuse: not possible"),
        (("--device", "cuda"), "device: got 'cuda'"),
        (("--precision", "bf16"), "precision: got 'bf16'"),
    ],
)
def test_options_that_need_torch_are_refused(run, exported, tmp_path, option, message):
    file = tmp_path / "x.wav"
    assert message in run("generate", "rain", "-o", file, "--model", exported, *option).refused()
    assert not file.exists()


@pytest.mark.parametrize("damage", ["missing", "changed", "format", "setting", "outside"])
def test_a_damaged_export_is_refused(exported, tmp_path, damage):
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    settings = json.loads((folder / "settings.json").read_text())
    if damage == "missing":
        (folder / "unet.onnx").unlink()
    elif damage == "changed":
        (folder / "vocoder.onnx").write_bytes(b"no model")
    elif damage == "format":
        settings["format"] = 99
    elif damage == "setting":
        settings["latent"]["rowss"] = 1
    else:
        settings["parts"]["unet"]["file"] = "../unet.onnx"
    (folder / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=str(folder)) as refused:
        OnnxSoundCrafter.from_pretrained(folder)
    assert len(str(refused.value).splitlines()) == 1


def test_a_folder_that_is_no_export_is_refused(tiny_model):
    with pytest.raises(ValueError, match=r"not an exported model: no settings\.json"):
        OnnxSoundCrafter.from_pretrained(tiny_model)


@pytest.mark.slow
def test_the_bundled_model(tmp_path):
    pytest.importorskip("onnxscript")
    from soundcrafter.onnx.export import export_onnx

    export_onnx(None, tmp_path / "bundled")
    crafter = SoundCrafter.from_pretrained(device="cpu", precision="fp32")
    runtime = OnnxSoundCrafter.from_pretrained(tmp_path / "bundled", threads=1)
    (ours,), (theirs,) = (each.generate("rain", seconds=3.0) for each in (runtime, crafter))
    assert ours.score == pytest.approx(theirs.score, abs=1e-3)
    wanted = crafter.decode(torch.from_numpy(theirs.latent)[None]).numpy()
    found = runtime.decode(ours.latent[None])
    np.testing.assert_allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())
    # Griffin-Lim amplifies rounding, so waves are compared as they are heard
    ours_mel, theirs_mel = (log_mel(s.wave, runtime.settings.vocoder.mel) for s in (ours, theirs))
    loud = theirs_mel > theirs_mel.max() - np.log(1000)  # down to 60 dB below the peak
    difference = np.abs(ours_mel - theirs_mel)[loud]
    assert np.quantile(difference, 0.95) < 0.05  # 0.4 dB


@pytest.mark.parametrize(
    "config",
    [MelConfig(), MelConfig(power=2, log="db", framing="center", scale="htk", norm="none")],
    ids=["exact", "center"],
)
def test_the_spectrogram_is_that_of_torch(config):
    wave = np.random.default_rng(0).standard_normal(8_000, np.float32)
    with torch.no_grad():
        wanted = LogMel(config)(torch.from_numpy(wave)[None])[0, 0].numpy()
    np.testing.assert_allclose(log_mel(wave, config), wanted, rtol=1e-4, atol=1e-4)


def test_an_export_without_a_distilled_unet_says_so(runtime):
    with pytest.raises(ValueError, match="fast: this model has no unet_fast"):
        runtime.generate("rain", seconds=1.0, fast=True)


@pytest.mark.long
def test_the_distilled_unet(distilled, tmp_path):
    from soundcrafter.onnx.export import export_onnx

    export_onnx(distilled, tmp_path / "fast")
    crafter = SoundCrafter.from_pretrained(distilled, "cpu", precision="fp32")
    runtime = OnnxSoundCrafter.from_pretrained(tmp_path / "fast", threads=1)
    for given in ({}, {"candidates": 3}, {"steps": 1, "sampler": "lcm"}):
        options = {"seconds": 1.0, "seed": 5, "fast": True, **given}
        (ours,), (theirs,) = (each.generate("rain", **options) for each in (runtime, crafter))
        np.testing.assert_allclose(ours.wave, theirs.wave, atol=1e-3 * np.abs(theirs.wave).max())
        assert ours.provenance.sampling["fast"] is True
