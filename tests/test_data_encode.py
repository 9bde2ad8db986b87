"""Encoded data equals what Sounds draws, survives interruption, and refuses what does not fit."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from soundcrafter.audio import write_audio
from soundcrafter.data.dataset import DataConfig, Sounds
from soundcrafter.data.latent_writer import encode_latents
from soundcrafter.data.latents import Latents
from soundcrafter.data.manifest import Manifest, Recording

RATE = 4000
META = {"vae": "id-1", "clap": "id-2"}


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    folder = tmp_path / "sounds"
    folder.mkdir()
    recordings = []
    for i in range(6):
        wave = np.random.default_rng(i).uniform(-0.5, 0.5, RATE * (1 + i) // 2).astype(np.float32)
        write_audio(folder / f"{i}.wav", wave, RATE)
        recordings.append(
            Recording(
                file=folder / f"{i}.wav",
                caption=f"Sound {i}",
                label="aabbbc"[i],
                seconds=(1 + i) / 2,
            )
        )
    return Manifest(root=folder, recordings=tuple(recordings))


def sounds(manifest, *, seed=3, **config) -> Sounds:
    config = {"variants": 3, "mix_probability": 0.4, **config}
    return Sounds(manifest, DataConfig(**config), sample_rate=RATE, num_samples=RATE, seed=seed)


def posterior(wave):
    mean = wave.reshape(len(wave), 1, 40, 100)
    return mean, -mean.abs()


def embed_audio(wave):
    return wave[:, :8]


def embed_text(captions):
    return torch.tensor([[len(text), sum(map(ord, text)) % 97] for text in captions]).float()


def run(drawn: Sounds, out: Path, **changes) -> Path:
    arguments = {
        "posterior": posterior,
        "embed_audio": embed_audio,
        "embed_text": embed_text,
        "metadata": META,
        "batch_size": 4,
        "shard_size": 5,
    }
    return encode_latents(drawn, out, **{**arguments, **changes})


@pytest.mark.parametrize("balance", ["label", "none"])
def test_latents_draw_as_sounds_do(manifest, tmp_path, balance):
    drawn = sounds(manifest, balance=balance, gain_db=6.0)
    index = run(drawn, tmp_path / "out")
    assert index == tmp_path / "out" / "index.json"
    latents = Latents(tmp_path / "out", seed=3)
    assert len(latents) == 18
    indices = list(range(50, 90))
    audio, encoded = drawn.batch(indices), latents.batch(indices)
    mean, logvar = posterior(audio.wave)
    assert torch.equal(encoded.mean, mean)
    assert torch.equal(encoded.logvar, logvar)
    assert torch.equal(encoded.audio_embedding, embed_audio(audio.wave))
    assert torch.equal(encoded.text_embedding, embed_text(audio.captions))
    assert encoded.captions == audio.captions
    assert encoded.labels == audio.labels
    assert encoded.files == audio.files
    assert encoded.indices == tuple(indices)
    assert any(len(files) == 2 for files in encoded.files), "mixes are encoded as drawn"
    other = Latents(tmp_path / "out", seed=4).batch(indices)
    assert other.files != encoded.files


def test_index_says_what_made_it(manifest, tmp_path):
    run(sounds(manifest), tmp_path / "out")
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert index["format"] == 1
    assert index["metadata"] == META
    assert (index["seed"], index["sample_rate"], index["num_samples"]) == (3, RATE, RATE)
    assert index["data"]["variants"] == 3
    assert len(index["shards"]) == 4
    pairs = [(e["recording"], e["variant"]) for e in index["entries"]]
    assert pairs == [(r, v) for r in range(6) for v in range(3)]
    assert {"caption", "label", "files"} <= set(index["entries"][0])
    latents = Latents(tmp_path / "out", seed=0)
    assert (latents.metadata, latents.sample_rate, latents.num_samples) == (META, RATE, RATE)


def test_without_text(manifest, tmp_path):
    run(sounds(manifest), tmp_path / "out", embed_text=None)
    assert Latents(tmp_path / "out", seed=0).batch([0, 1]).text_embedding is None


def test_float16_halves_the_shards(manifest, tmp_path):
    run(sounds(manifest), tmp_path / "full")
    run(sounds(manifest), tmp_path / "half", dtype="float16")
    full, half = (Latents(tmp_path / name, seed=0).batch([0, 1, 2]) for name in ("full", "half"))
    assert half.mean.dtype == torch.float32
    assert 0 < (full.mean - half.mean).abs().max() < 1e-3
    sizes = [
        sum(f.stat().st_size for f in (tmp_path / n).glob("*.safe*")) for n in ("full", "half")
    ]
    assert sizes[1] < 0.6 * sizes[0]


def test_an_interrupted_run_goes_on(manifest, tmp_path):
    run(sounds(manifest), tmp_path / "straight")
    calls = 0

    def failing(wave):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return posterior(wave)

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(sounds(manifest), out, posterior=failing)
    assert sorted(f.name for f in out.iterdir()) == [
        "latents-00000.safetensors",
        "latents-00001.safetensors",
    ]
    with pytest.raises(ValueError, match=r"index\.json"):
        Latents(out, seed=0)
    done, told = [], []
    run(
        sounds(manifest),
        out,
        posterior=lambda wave: (done.append(len(wave)), posterior(wave))[1],
        progress=lambda *n: told.append(n),
    )
    assert sum(done) == 8, "only the last two shards"
    assert told == [(5, 18), (10, 18), (14, 18), (15, 18), (18, 18)]
    for file in (tmp_path / "straight").iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()


def test_progress_is_told_by_the_batch_and_counts_what_is_skipped(manifest, tmp_path):
    (manifest.root / "5.wav").write_bytes(b"broken")
    told = []
    drawn = sounds(manifest, mix_probability=0.0)
    run(drawn, tmp_path / "out", shard_size=512, progress=lambda *n: told.append(n))
    assert told == [(4, 18), (8, 18), (12, 18), (15, 18), (18, 18)]


def test_the_fingerprint_is_of_what_the_data_holds(manifest, tmp_path):
    def fingerprint(name, **config):
        run(sounds(manifest, **config), tmp_path / name)
        return Latents(tmp_path / name, seed=0).fingerprint

    first = fingerprint("a")
    assert first == fingerprint("b"), "the same data elsewhere"
    others = [
        fingerprint("c", seed=4),
        fingerprint("d", gain_db=3.0),
        fingerprint("e", pad="repeat"),
    ]
    assert len({first, *others}) == 4


def test_files_the_manifest_left_out_are_listed_too(manifest, tmp_path):
    (manifest.root / "2.wav").write_bytes(b"broken")
    left_out = dataclasses.replace(manifest, skipped=(("gone.wav", "no such file"),))
    run(sounds(left_out), tmp_path / "out")
    skipped = Latents(tmp_path / "out", seed=0).skipped
    assert list(skipped) == ["gone.wav", "2.wav"]
    assert skipped["gone.wav"] == "no such file"


@pytest.mark.parametrize(
    ("change", "config", "name"),
    [
        ({"metadata": {"vae": "other"}}, {}, "metadata"),
        ({"dtype": "float16"}, {}, "dtype"),
        ({"embed_text": None}, {}, "text"),
        ({}, {"mix_probability": 0.0}, "data"),
        ({}, {"seed": 4}, "seed"),
    ],
)
def test_other_settings_do_not_mix_into_a_folder(manifest, tmp_path, change, config, name):
    run(sounds(manifest), tmp_path / "out")
    with pytest.raises(ValueError, match=f"encoded with a different {name};"):
        run(sounds(manifest, **config), tmp_path / "out", **change)
    run(sounds(manifest, cache_gb=0.0), tmp_path / "out")  # memory decides nothing


def test_other_recordings_do_not_mix_into_a_folder(manifest, tmp_path):
    run(sounds(manifest), tmp_path / "out")
    fewer = Manifest(root=manifest.root, recordings=manifest.recordings[:5])
    with pytest.raises(ValueError, match="different manifest"):
        run(sounds(fewer), tmp_path / "out")


def test_unreadable_recordings_are_listed_and_replaced_alike(manifest, tmp_path):
    (manifest.root / "2.wav").write_bytes(b"broken")
    drawn = sounds(manifest)
    run(drawn, tmp_path / "out", shard_size=3)  # one shard has no readable recording at all
    latents = Latents(tmp_path / "out", seed=3)
    assert list(latents.skipped) == ["2.wav"]
    assert len(latents) == 15
    audio, encoded = drawn.batch(range(60)), latents.batch(range(60))
    assert torch.equal(encoded.mean, posterior(audio.wave)[0])
    assert encoded.files == audio.files


def test_refuses(manifest, tmp_path):
    with pytest.raises(ValueError, match="variants: got 0"):
        run(sounds(manifest, variants=0), tmp_path / "out")
    with pytest.raises(ValueError, match="dtype: got 'bfloat16'; allowed: float32, float16"):
        run(sounds(manifest), tmp_path / "out", dtype="bfloat16")
    with pytest.raises(
        ValueError, match=r"mean: contains NaN or infinity \(float32\) in a batch with .*\.wav"
    ):
        run(sounds(manifest), tmp_path / "out", posterior=lambda w: (posterior(w)[0] / 0, w))
    bare = Recording(file=manifest.root / "0.wav", seconds=0.5)
    with pytest.raises(ValueError, match=r"1 recordings have no caption \(first: .*0\.wav"):
        run(sounds(Manifest(root=manifest.root, recordings=(bare,))), tmp_path / "out")
    for recording in manifest.recordings:
        recording.file.write_bytes(b"broken")
    with pytest.raises(ValueError, match="no recording could be decoded"):
        run(sounds(manifest), tmp_path / "none")


def test_damage_is_found(manifest, tmp_path):
    out = tmp_path / "out"
    run(sounds(manifest), out)
    file = out / "latents-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"latents-00001\.safetensors.*sha256"):
        Latents(out, seed=0)
    Latents(out, seed=0, verify=False)
    file.write_bytes(data[:50])
    with pytest.raises(ValueError, match="latents-00001"):
        Latents(out, seed=0, verify=False)
    file.unlink()
    with pytest.raises(ValueError, match="latents-00001"):
        Latents(out, seed=0)
    (out / "index.json").write_text('{"format": 1}')
    with pytest.raises(ValueError, match="damaged"):
        Latents(out, seed=0)
    (out / "index.json").write_text('{"format": 2}')
    with pytest.raises(ValueError, match="format 1"):
        Latents(out, seed=0)


def test_no_temporary_files_are_left(manifest, tmp_path):
    run(sounds(manifest), tmp_path / "out")
    assert all(not file.name.startswith(".") for file in (tmp_path / "out").iterdir())
    with safe_open(tmp_path / "out" / "latents-00000.safetensors", framework="pt") as shard:
        assert sorted(shard.keys()) == ["audio_embedding", "logvar", "mean", "text_embedding"]


def test_maps_of_any_memory_layout_are_stored(manifest, tmp_path):
    """Wide convolutions give channels-last maps on CPUs without bf16."""

    def channels_last(wave):
        mean = wave.reshape(len(wave), 2, 20, 100).to(memory_format=torch.channels_last)
        return mean, -mean.abs()

    index = run(sounds(manifest), tmp_path / "last", posterior=channels_last)
    plain = run(
        sounds(manifest),
        tmp_path / "plain",
        posterior=lambda wave: tuple(part.contiguous() for part in channels_last(wave)),
    )
    found, wanted = (Latents(file.parent, seed=0).table()[0] for file in (index, plain))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
