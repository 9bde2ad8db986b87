"""The modules of the page find the numbers that Python finds."""

import io
import json
from dataclasses import asdict, replace

import numpy as np
import soundfile
import torch

from soundcrafter.audio import limit_peak, trim_silence
from soundcrafter.diffusion.config import DiffusionConfig, SamplingConfig
from soundcrafter.hub import find_model
from soundcrafter.mel_bands import MelConfig
from soundcrafter.onnx.audio_tower import log_mel
from soundcrafter.onnx.sampling import ArraySchedule, sample
from soundcrafter.sound import Sound
from soundcrafter.text import SPECIAL_TOKENS, Tokenizer

ODD_TEXTS = (
    "",
    " ",
    "A Dog  Barks\tTwice\n",
    "don't, it's they're we've I'm I'll he'd 'S",
    "1234 birds; 5½ crows & 3rd owl…",
    "naïve café: cafe\u0301",
    "雨が降っている",
    "дождь идёт, ΣΙΣΥΦΟΣ",
    "İstanbul ǅ ﬁre",
    "👩‍👩‍👧 laughs 🐕",
    "no\u00a0break\u2009thin\u3000wide\u0085next\ufeffmark",
    "<eos> <pad> is text",
    "rain " * 100,
    "x" * 300,
    "!!! ??? ... ---",
    "  leading and trailing  ",
    "a\u200bb\u200d\u0301c",
)
SEEDS = (0, 1, 7, 123_456_789, 2**32 - 1)
COUNTS = (16, 17, 31, 1600)
SAMPLES = {
    "dpmpp, v": ({"objective": "v"}, {"sampler": "dpmpp", "guidance": 4.0}),
    "dpmpp, epsilon": ({"betas": "scaled_linear"}, {"sampler": "dpmpp"}),
    "dpmpp, flow": ({"objective": "flow"}, {"sampler": "dpmpp"}),
    "dpmpp, half steps": ({}, {"sampler": "dpmpp", "steps": 16}),
    "ddim, first step": ({}, {"end": "first_step"}),
    "ddim, leading": ({"objective": "v"}, {"spacing": "leading"}),
    "ddim, linspace": ({}, {"spacing": "linspace"}),
    "ddim, flow": ({"objective": "flow"}, {}),
    "no guidance": ({}, {"guidance": 1.0}),
    "guidance in the middle": ({}, {"guidance_from": 0.3, "guidance_until": 0.7}),
}
MELS = {
    "exact": MelConfig(),
    "center": MelConfig(power=2, log="db", framing="center", scale="htk", norm="none"),
}


def texts() -> list[str]:
    """Odd texts, and words in many orders, cases and punctuations."""
    words = "rain Thunder dog's BARKS on a tin-roof, heavily; 3 bells! église ночь".split()  # noqa: SIM905
    picks = np.random.default_rng(0).integers(0, len(words), (300, 8))
    return [*ODD_TEXTS, *(" ".join(words[i] for i in row[: 1 + row[0]]) for row in picks)]


def roberta(tmp_path) -> Tokenizer:
    """A tokenizer of the kind that imported models have."""
    own = json.loads(Tokenizer.train(texts(), 400).to_json())["model"]
    ends = ("<s>", "<pad>", "</s>", "<unk>")
    tokens = [token for token in own["vocab"] if token not in SPECIAL_TOKENS]
    vocab = {token: i for i, token in enumerate((*ends, *tokens))}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    merges = "\n".join(" ".join(pair) for pair in own["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    return Tokenizer.from_roberta(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_the_tokenizer(node_tests, tmp_path):
    bundled = Tokenizer.load(find_model(None) / "tokenizer.json")
    cases = []
    for name, tokenizer in (("bundled", bundled), ("roberta", roberta(tmp_path))):
        rows = {}
        for length in (10_000, 48):
            # one at a time, so that no row is padded
            rows[length] = [tokenizer.encode([text], length)[0][0].tolist() for text in texts()]
        case = {"name": name, "json": json.loads(tokenizer.to_json()), "texts": texts()}
        cases.append({**case, "ids": rows[10_000], "cut": rows[48], "length": 48})
    node_tests("tokenizer.test.mjs", cases)


def array_model(latent, t, cond):
    """That of sampling.test.mjs: a function of everything that a U-Net sees."""
    flat = latent.reshape(-1)
    found = np.sin(flat + np.resize(cond.reshape(-1), len(flat)) + t[0] / np.float32(500))
    return found.reshape(latent.shape).astype(np.float32)


def test_noise_and_samplers(node_tests):
    noises = []
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        normal = [torch.randn(count, generator=generator).tolist() for count in COUNTS]
        uniform = torch.rand(40, generator=generator).tolist()
        noises.append({"seed": seed, "counts": COUNTS, "normal": normal, "uniform": uniform})
    random = np.random.default_rng(0)
    noise = random.standard_normal((2, 4, 8, 4), np.float32)
    cond, uncond = random.standard_normal((2, 2, 4), np.float32)
    samples = []
    for name, (diffusion, changes) in SAMPLES.items():
        config = DiffusionConfig(**diffusion)
        sampling = replace(SamplingConfig(steps=6, guidance=3.0), **changes)
        latent = sample(
            array_model,
            ArraySchedule(config),
            sampling,
            noise,
            cond,
            uncond,
            seeds=[0, 1],
            window=64,
            batch_limit=8,
        )
        arrays = {"noise": noise, "cond": cond, "uncond": uncond, "latent": latent}
        flat = {key: array.reshape(-1).tolist() for key, array in arrays.items()}
        settings = {"diffusion": asdict(config), "sampling": asdict(sampling)}
        samples.append({"name": name, **settings, **flat})
    node_tests("sampling.test.mjs", {"noise": noises, "samples": samples})


def waves() -> dict[str, np.ndarray]:
    """Waves with and without silence around them."""
    loud = np.random.default_rng(0).standard_normal(3000).astype(np.float32) * 0.5
    silence = np.zeros(4000, np.float32)
    return {
        "loud": loud * 4,
        "quiet": loud / 100,
        "in silence": np.concatenate([silence, loud, silence]),
        "at the start": np.concatenate([loud, silence]),
        "at the end": np.concatenate([silence, loud]),
        "a click": np.concatenate([silence, loud[:1], silence]),
        "short": loud[:100],
        "silent": silence,
    }


def test_waves_and_spectrograms(node_tests):
    cases = []
    for name, wave in waves().items():
        limited = limit_peak(wave)
        file = io.BytesIO(Sound(limited, 16_000, "x", 0, None).to_bytes())
        arrays = {
            "wave": wave,
            "limited": limited,
            "trimmed": trim_silence(wave, 16_000),
            "wav": soundfile.read(file, dtype="int16")[0],
        }
        lists = {key: array.tolist() for key, array in arrays.items()}
        cases.append({"name": name, "rate": 16_000, **lists})
    wave = np.random.default_rng(1).standard_normal(4_000).astype(np.float32)
    mels = [
        {
            "name": name,
            "wave": wave.tolist(),
            "config": asdict(config),
            "mel": log_mel(wave, config).reshape(-1).tolist(),
        }
        for name, config in MELS.items()
    ]
    node_tests("audio.test.mjs", {"waves": cases, "mels": mels})
