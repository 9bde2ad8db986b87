import hashlib
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from soundcrafter.convert.aisfx_weights import load_aisfx
from soundcrafter.evaluate.embedders import open_embedder
from soundcrafter.evaluate.panns import Panns
from soundcrafter.evaluate.vggish import VGGish
from soundcrafter.models.aisfx import FrontEnd

PANNS = {"panns-16k": (512, 160, 16_000, 8000.0), "panns-32k": (1024, 320, 32_000, 14_000.0)}


def tone(rate: int, seconds: float, hertz: float = 700.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype("f4")


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in shapes.items():
        fan = max(1, math.prod(shape[1:]))
        state[key] = torch.randn(shape, generator=generator) / fan**0.5
        if key.endswith("running_var"):
            state[key] = state[key].abs() + 0.5
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
    return state


def norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    keys = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{key}": (width,) for key in keys} | {f"{name}.num_batches_tracked": ()}


def panns_state(name: str) -> dict[str, torch.Tensor]:
    """A narrow checkpoint in the published layout, its mel matrix in librosa's."""
    from transformers.audio_utils import mel_filter_bank

    size, _, rate, fmax = PANNS[name]
    bins, widths = size // 2 + 1, (4, 4, 6, 6, 8, 8)
    shapes: dict[str, tuple[int, ...]] = {
        "spectrogram_extractor.stft.conv_real.weight": (bins, 1, size),
        "spectrogram_extractor.stft.conv_imag.weight": (bins, 1, size),
        "logmel_extractor.melW": (bins, 64),
        **norm_shapes("bn0", 64),
    }
    for number, (inputs, outputs) in enumerate(zip((1, *widths), widths, strict=False), 1):
        block = f"conv_block{number}"
        shapes[f"{block}.conv1.weight"] = (outputs, inputs, 3, 3)
        shapes[f"{block}.conv2.weight"] = (outputs, outputs, 3, 3)
        shapes |= norm_shapes(f"{block}.bn1", outputs) | norm_shapes(f"{block}.bn2", outputs)
    shapes |= {"fc1.weight": (12, 8), "fc1.bias": (12,)}
    shapes |= {"fc_audioset.weight": (527, 12), "fc_audioset.bias": (527,)}
    state = random_state(shapes)
    filters = mel_filter_bank(bins, 64, 50.0, fmax, rate, norm="slaney", mel_scale="slaney")
    state["logmel_extractor.melW"] = torch.from_numpy(filters).float()
    return state


def vggish_state() -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {}
    layers = {0: (1, 4), 3: (4, 4), 6: (4, 6), 8: (6, 6), 11: (6, 8), 13: (8, 8)}
    for number, (inputs, outputs) in layers.items():
        shapes[f"features.{number}.weight"] = (outputs, inputs, 3, 3)
        shapes[f"features.{number}.bias"] = (outputs,)
    for number, (inputs, outputs) in {0: (8 * 24, 16), 2: (16, 16), 4: (16, 128)}.items():
        shapes[f"embeddings.{number}.weight"] = (outputs, inputs)
        shapes[f"embeddings.{number}.bias"] = (outputs,)
    return random_state(shapes)


def aisfx_state() -> dict[str, torch.Tensor]:
    """A narrow network in the published names, with one of its heads."""
    shapes: dict[str, tuple[int, ...]] = {"fc.0.0.weight": (4, 8), "fc.0.0.bias": (4,)}
    for number, (inputs, outputs) in enumerate(((1, 4), (4, 4), (4, 6), (6, 8)), 1):
        block = f"embedding_net.conv_block{number}"
        shapes[f"{block}.conv1.weight"] = (outputs, inputs, 3, 3)
        shapes[f"{block}.conv2.weight"] = (outputs, outputs, 3, 3)
        shapes |= norm_shapes(f"{block}.bn1", outputs) | norm_shapes(f"{block}.bn2", outputs)
    return random_state(shapes)


@pytest.fixture
def panns(tmp_path) -> Path:
    torch.save({"model": panns_state("panns-16k")}, tmp_path / "cnn14.pth")
    return tmp_path / "cnn14.pth"


@pytest.fixture
def vggish(tmp_path) -> Path:
    torch.save(vggish_state(), tmp_path / "vggish.pth")
    return tmp_path / "vggish.pth"


@pytest.fixture
def aisfx(tmp_path) -> Path:
    torch.save((aisfx_state(), {"library": (0, 4)}), tmp_path / "aisfx.pth")
    return tmp_path / "aisfx.pth"


@pytest.mark.parametrize("name", PANNS)
def test_panns_spectrogram_equals_numpy(name, tmp_path):
    size, hop, rate, _ = PANNS[name]
    state = panns_state(name)
    torch.save(state, tmp_path / "x.pth")
    wave = tone(rate, 1.0) + np.random.default_rng(0).standard_normal(rate).astype("f4") * 0.01
    found = Panns(name, tmp_path / "x.pth").log_mel(wave)[0, 0].numpy()
    padded = np.pad(wave, size // 2, mode="reflect")
    window = np.hanning(size + 1)[:-1]
    frames = [padded[i : i + size] * window for i in range(0, len(wave) + 1, hop)]
    power = np.abs(np.fft.rfft(frames)) ** 2 @ state["logmel_extractor.melW"].numpy()
    np.testing.assert_allclose(found, 10 * np.log10(power.clip(1e-10)), atol=2e-3)


def test_panns_equals_a_plain_forward(panns):
    state, embedder = panns_state("panns-16k"), Panns("panns-16k", panns)
    wave = tone(16_000, 2.0)

    def norm(x, name, axis):
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        mean, var, weight, bias = (
            state[f"{name}.{key}"].view(shape)
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    x = norm(embedder.log_mel(wave), "bn0", 3)
    for number in range(1, 7):
        for part in "12":
            weight = state[f"conv_block{number}.conv{part}.weight"]
            x = torch.nn.functional.conv2d(x, weight, padding=1)
            x = norm(x, f"conv_block{number}.bn{part}", 1).clamp(min=0)
        if number < 6:
            x = torch.nn.functional.avg_pool2d(x, 2)
    x = x.mean(3)
    pooled = x.max(2).values + x.mean(2)
    features = (pooled @ state["fc1.weight"].T + state["fc1.bias"]).clamp(min=0)
    logits = features @ state["fc_audioset.weight"].T + state["fc_audioset.bias"]
    found = embedder(wave, 16_000)
    np.testing.assert_allclose(found.features, features.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.probabilities, logits.softmax(1)[0].numpy(), rtol=1e-3)
    assert found.probabilities.sum() == pytest.approx(1.0, abs=1e-5)


def test_vggish_windows(vggish):
    embedder = VGGish(vggish)
    assert embedder(tone(16_000, 0.2), 16_000).features.shape == (1, 128)
    found = embedder(tone(16_000, 10.0), 16_000)
    assert found.features.shape == (10, 128)
    assert (found.features < 0).any()  # before the last ReLU
    assert found.probabilities is None


def test_vggish_spectrogram_equals_numpy(vggish):
    wave = tone(16_000, 1.0)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = [wave[i : i + 400] * window for i in range(0, len(wave) - 399, 160)]
    spectrum = np.abs(np.fft.rfft(frames, 512))
    mel = 1127 * np.log(1 + np.linspace(0, 8000, 257) / 700)
    edges = np.linspace(*(1127 * np.log(1 + f / 700) for f in (125.0, 7500.0)), 66)
    rise = (mel[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[None, 2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    filters = np.minimum(rise, fall).clip(0)
    found = VGGish(vggish).log_mel(wave).numpy()
    np.testing.assert_allclose(found, np.log(spectrum @ filters + 0.01), atol=2e-3)


def test_aisfx_averages_blocks(aisfx):
    embedder = open_embedder("aisfx", checkpoint=aisfx)
    rate, frame = embedder.sample_rate, 1024
    wave = np.random.default_rng(0).standard_normal(160 * frame).astype("f4")
    wave *= np.linspace(0.1, 1.0, len(wave), dtype="f4")
    network, front_end = load_aisfx(aisfx), FrontEnd()
    mel = front_end(torch.from_numpy(wave / np.abs(wave).max())[None])
    expected = (network(mel[:, :, :100]) + network(mel[:, :, 50:150])) / 2  # 11 frames are left
    found = embedder(wave, rate)
    np.testing.assert_allclose(found.features, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert found.probabilities is None
    # the level does not matter, and a short sound is one block that ends in silence
    np.testing.assert_allclose(embedder(wave / 8, rate).features, found.features, rtol=1e-4)
    short = torch.from_numpy(wave[: 29 * frame] / np.abs(wave[: 29 * frame]).max())[None]
    padded = torch.nn.functional.pad(front_end(short), (0, 0, 0, 70))
    np.testing.assert_allclose(
        embedder(wave[: 29 * frame], rate).features, network(padded).numpy(), rtol=1e-4, atol=1e-5
    )


def test_aisfx_must_be_given():
    with pytest.raises(ValueError, match=r"pip download.*--checkpoint"):
        open_embedder("aisfx")


@pytest.mark.parametrize("name", ["panns-16k", "vggish", "aisfx", "clap"])
def test_any_rate_and_length(name, panns, vggish, aisfx, tiny_model):
    files = {"panns-16k": panns, "vggish": vggish, "aisfx": aisfx, "clap": tiny_model}
    embedder = open_embedder(name, checkpoint=files[name])
    low, high = (embedder(tone(rate, 3.0), rate).features for rate in (16_000, 48_000))
    cosine = (low * high).sum() / np.linalg.norm(low) / np.linalg.norm(high)
    assert cosine > 0.99
    assert np.array_equal(low, embedder(tone(16_000, 3.0), 16_000).features)
    for wave in (np.zeros(8000, "f4"), tone(16_000, 0.05)):
        assert np.isfinite(embedder(wave, 16_000).features).all()


@pytest.mark.parametrize("name", ["panns-16k", "aisfx"])
def test_the_hash_is_checked(name, panns, aisfx):
    file = {"panns-16k": panns, "aisfx": aisfx}[name]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert open_embedder(name, checkpoint=file, sha256=digest).sha256 == digest
    with pytest.raises(ValueError, match="its sha256 is"):
        open_embedder(name, checkpoint=file, sha256="0" * 64)


def test_other_layouts_are_refused(panns, vggish, tmp_path):
    with pytest.raises(ValueError, match=r"no features\.0\.weight"):
        open_embedder("vggish", checkpoint=panns)
    with pytest.raises(ValueError, match="no logmel_extractor"):
        open_embedder("panns-16k", checkpoint=vggish)
    with pytest.raises(ValueError, match="mel matrix has 257 rows"):
        open_embedder("panns-32k", checkpoint=panns)
    state = panns_state("panns-16k")
    del state["conv_block3.bn1.weight"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(ValueError, match=r"conv_block3\.bn1\.weight"):
        open_embedder("panns-16k", checkpoint=tmp_path / "less.pth")
    with pytest.raises(ValueError, match="allowed: tagger"):
        open_embedder("vgg")


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def test_no_code_of_a_file_runs(tmp_path, monkeypatch, panns):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"model": Harmful()}))
    torch.save({"model": Harmful()}, tmp_path / "zip.pth")
    (tmp_path / "short.pth").write_bytes(panns.read_bytes()[:5000])
    for name in ("bad.pth", "zip.pth", "short.pth"):
        with pytest.raises(ValueError, match="contains more than tensors"):
            open_embedder("panns-16k", checkpoint=tmp_path / name)
    assert not Path("ran").exists()


def test_without_network_the_message_says_what_to_do(tmp_path, monkeypatch):
    def fail(url, file):
        raise OSError("no network")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlretrieve", fail)
    with pytest.raises(ValueError, match=r"zenodo.*--checkpoint"):
        open_embedder("panns-16k")
    assert not list((tmp_path / "soundcrafter").iterdir())
