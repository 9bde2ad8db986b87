import json
import sys

import numpy as np
import pytest

from soundcrafter.audio import audio_info, normalize_peak, read_audio, write_audio
from soundcrafter.cli import main
from soundcrafter.evaluate import chain
from soundcrafter.evaluate.chain import distances, evaluate_chain
from soundcrafter.evaluate.chain_report import summarise
from soundcrafter.evaluate.codec import open_codec, resynthesise
from soundcrafter.evaluate.prompt_sets import family_prompts
from soundcrafter.evaluate.tagger_embedder import TaggerEmbedder
from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.melgan import MelGAN, MelGANConfig
from soundcrafter.models.vae import VAE, VAEConfig
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.store import copy_parts, open_folder, save_part


@pytest.fixture(scope="module")
def model(tiny_model):
    return SoundCrafter.from_pretrained(tiny_model, "cpu")


@pytest.fixture
def recordings(tmp_path):
    """Three real-looking recordings of two families, one corrupt file, one unscored label."""
    rng = np.random.default_rng(0)
    rows = ["file,family,split,seconds"]
    for name, family, seconds in (
        ("a.wav", "rain", 1.0),
        ("b.wav", "rain", 0.05),
        ("c.wav", "dog bark", 0.5),
        ("d.wav", "kazoo", 0.5),
    ):
        wave = rng.standard_normal(int(16_000 * seconds)).astype(np.float32) * 0.1
        write_audio(tmp_path / name, wave, 16_000)
        rows.append(f"{name},{family},test,{seconds}")
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    (tmp_path / "sounds.csv").write_text("\n".join([*rows, "bad.wav,rain,test,1"]) + "\n")
    return tmp_path


def test_every_link_is_measured_and_a_kill_loses_nothing(model, recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(chain, "family_prompts", lambda: family_prompts()[:10])
    out = tmp_path / "out"
    report = evaluate_chain(model, recordings, out, seeds=1)
    counts = {link: found["n"] for link, found in report["links"].items()}
    assert counts == {"real": 3, "vocoder": 3, "griffin_lim": 3, "vae_vocoder": 3, "generated": 10}
    assert report["skipped"] == ["skipped/bad.wav"]
    assert report["tagger"] == TaggerEmbedder.bundled().sha256
    assert (out / "chain.md").read_text().count("\n| ") > 50
    card = json.loads((out / "figures.json").read_text())
    assert card["recognised as their family by the tagger, test, vae vocoder"] == {
        key: report["links"]["vae_vocoder"][key]
        for key in ("accuracy", "of_real", "n", "families_at_zero")
        if report["links"]["vae_vocoder"][key] is not None
    }
    lines = (out / "chain.jsonl").read_text().splitlines()
    (out / "chain.jsonl").write_text("\n".join(lines[:6]) + '\n{"key": "gener')
    assert evaluate_chain(model, recordings, out, seeds=1) == report
    assert json.loads((out / "chain.json").read_text()) == report
    with pytest.raises(ValueError, match="other settings"):
        evaluate_chain(model, recordings, out, seeds=2)


def test_every_judged_sound_is_kept(model, recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(chain, "family_prompts", lambda: family_prompts()[:2])
    table = recordings / "sounds.csv"
    later = "c.wav,dog bark,test,0.2,0.3"
    table.write_text("".join(f"{line}\n" for line in add_start(table, later)))
    out, keep = tmp_path / "out", tmp_path / "keep"
    report = evaluate_chain(model, recordings, out, seeds=2)  # nothing is kept, then everything
    assert evaluate_chain(model, recordings, out, seeds=2, keep=keep) == report
    found = {file.relative_to(keep).as_posix(): file for file in keep.rglob("*.wav")}
    counts = {link: sum(name.startswith(f"{link}/") for name in found) for link in report["links"]}
    assert counts == {link: figures["n"] for link, figures in report["links"].items()}
    assert {name.rpartition("/")[0] for name in found} == {
        *(f"{link}/{f}" for link in list(counts)[:-1] for f in ("rain", "dog bark")),
        "generated/airplane",
    }
    assert {audio_info(file).sample_rate for file in found.values()} == {model.sample_rate}
    (first,) = (keep / "real" / "rain").glob("a-wav-*.wav")
    wave = normalize_peak(read_audio(recordings / "a.wav", 16_000), chain.LEVEL)
    np.testing.assert_allclose(read_audio(first, 16_000), wave, atol=2**-15)
    lengths = {audio_info(file).seconds for file in (keep / "vocoder" / "dog bark").iterdir()}
    assert lengths == {0.5, 0.2}  # two stretches of one file
    before = {name: file.read_bytes() for name, file in found.items()}
    for name in list(found)[::3]:
        found[name].unlink()
    assert evaluate_chain(model, recordings, out, seeds=2, keep=keep) == report
    assert {name: file.read_bytes() for name, file in found.items()} == before
    with pytest.raises(ValueError, match=r"keep.*other settings"):
        evaluate_chain(model, recordings, tmp_path / "other", seeds=1, keep=keep)


def add_start(table, row):
    """The lines of a table with a column start, and one more row."""
    head, *lines = table.read_text().splitlines()
    return [f"{head},start", *(f"{line}," for line in lines), row]


@pytest.fixture
def codec_folder(tmp_path):
    """VAE and vocoder at 32 kHz, untrained, and no other part."""
    mel = MelConfig(sample_rate=32_000, n_fft=2048, hop=320, num_mels=128, fmax=16_000.0)
    vae = VAEConfig(
        mel=mel, channels=8, res_blocks=1, latent_channels=4, attention=False, norm_groups=4
    )
    vocoder = MelGANConfig(mel=mel, channels=16, ratios=(5, 4, 4), bands=4, res_layers=1)
    folder = tmp_path / "next"
    save_part(folder, "vae", VAE(vae), vae)
    save_part(folder, "vocoder", MelGAN(vocoder), vocoder)
    return folder


def test_a_codec_alone_at_32_khz(codec_folder, recordings, tmp_path):
    wave = np.random.default_rng(1).standard_normal(32_000).astype(np.float32) * 0.1
    write_audio(recordings / "a.wav", wave, 32_000)  # the only one that holds the upper band
    codec = open_codec(open_folder(codec_folder))
    report = evaluate_chain(codec, recordings, tmp_path / "out", keep=tmp_path / "keep")
    assert set(report["model"]) == {"vae", "vocoder"}
    links = report["links"]
    assert [links[link]["n"] for link in links] == [3, 3, 3, 3, 0]
    assert links["generated"]["accuracy"] is links["generated"]["of_real"] is None
    for link in ("vocoder", "griffin_lim", "vae_vocoder"):
        assert links[link]["n_lsd_high"] == 1
        assert all(links[link][name] > 0 for name in ("stft", "log_mel", "lsd_low", "lsd_high"))
    # nothing that an untrained vocoder makes is as near as the inverted spectrogram
    for name in ("log_mel", "lsd_low", "lsd_high"):
        assert links["griffin_lim"][name] < links["vocoder"][name]
    written = (tmp_path / "out" / "chain.md").read_text()
    assert "nothing generated" in written
    assert "| LSD 8 to 16 kHz, dB | N of LSD 8 to 16 kHz |" in written
    assert "| generated | - | - | - | 0 |" in written
    assert not any("generated" in name for name in chain.card_figures(report))
    kept = list((tmp_path / "keep").rglob("*.wav"))
    assert len(kept) == 12
    assert {audio_info(file).sample_rate for file in kept} == {32_000}


def test_the_command_on_a_codec_alone(tiny_model, recordings, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "codec"
    copy_parts(open_folder(tiny_model), folder, ["vae", "vocoder"])
    words = ["chain", folder, "--data", recordings, "--out", tmp_path / "out", "--device", "cpu"]
    words += ["--keep", tmp_path / "keep"]
    code, printed, _ = call(monkeypatch, capsys, *words, "--where", "family=rain")
    assert code == 0
    assert "split test, family rain, nothing generated" in printed
    assert "LSD" not in printed  # it has no band above 8 kHz
    assert len(list((tmp_path / "keep" / "vae_vocoder" / "rain").iterdir())) == 2
    for extra, fault in (
        ([], "kept.jsonl"),
        (["--where", "family=dragon"], "no row has family 'dragon'; it has: dog bark, kazoo, rain"),
        (["--where", "family"], "--where: got 'family'; expected NAME=VALUE"),
    ):
        again = [*words[:4], "--out", tmp_path / "again", *words[6:], *extra]
        code, printed, errors = call(monkeypatch, capsys, *again)
        assert (code, printed) == (2, "")
        assert fault in errors
        assert errors.count("\n") == 1
    without = tmp_path / "vae"
    copy_parts(open_folder(tiny_model), without, ["vae"])
    code, _, errors = call(monkeypatch, capsys, "chain", without, "--data", recordings)
    assert (code, "has no vocoder yet" in errors) == (2, True)


def call(monkeypatch, capsys, *words):
    """Exit status and what the command prints, on stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["soundcrafter", "evaluate", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, *capsys.readouterr()


def test_distances_of_two_rates_compare():
    """The same sound at 16 and 32 kHz is as far from its quieter copy in log-mel."""
    mel = TaggerEmbedder.bundled().network.config.mel
    noise = np.random.default_rng(0).standard_normal(32_000).astype(np.float32) * 0.1
    found = {rate: distances(noise, noise / 2, rate, rate, mel) for rate in (16_000, 32_000)}
    assert set(found[16_000]) == {"stft", "log_mel"}
    assert set(found[32_000]) == {"stft", "log_mel", "lsd_low", "lsd_high"}
    for figures in found.values():
        assert figures["log_mel"] == pytest.approx(np.log(2), rel=1e-3)
    assert found[32_000]["lsd_high"] == pytest.approx(20 * np.log10(2), rel=1e-3)
    assert "lsd_high" not in distances(noise, noise / 2, 32_000, 22_050, mel)
    silence = np.zeros(32_000, np.float32)
    assert set(distances(silence, noise, 32_000, 32_000, mel)) == {"stft", "log_mel"}


def test_data_without_scored_families(model, recordings, tmp_path):
    table = "file,family,split\nd.wav,kazoo,test\n"
    (recordings / "sounds.csv").write_text(table)
    with pytest.raises(ValueError, match="no recording of the tagger's 52 families"):
        evaluate_chain(model, recordings, tmp_path / "out")


@pytest.mark.parametrize("samples", [300, 1600, 16_001])
def test_resyntheses_keep_the_length(model, samples):
    wave = np.random.default_rng(0).standard_normal(samples).astype(np.float32) * 0.1
    found = resynthesise(model, wave)
    assert set(found) == {"vocoder", "griffin_lim", "vae_vocoder"}
    assert all(len(made) == samples and np.isfinite(made).all() for made in found.values())


def row(link, family, heard):
    return {"link": link, "key": f"{link}{family}{heard}", "family": family, "heard": heard}


def test_figures_by_hand():
    rows = [row("real", "a", "a"), row("real", "a", "b"), row("real", "b", "b")]
    rows += [row("generated", "a", "b"), row("generated", "b", "b"), row("real", "b", "b")]
    report = summarise(rows, ["b", "a"])
    assert report["links"]["real"]["accuracy"] == 0.75
    assert report["links"]["generated"]["of_real"] == pytest.approx(0.5 / 0.75)
    assert report["links"]["generated"]["families_at_zero"] == 1
    assert list(report["families"]) == ["a", "b"]  # the worst first
    assert report["families"]["a"]["real"] == [1, 2]


class TestTagger:
    def test_real_recordings_of_dev_are_recognised(self, data_dir):
        """As many as its card says, on a part of them."""
        from soundcrafter.audio import read_audio
        from soundcrafter.data.manifest import read_manifest

        tagger = TaggerEmbedder.bundled()
        found = read_manifest(data_dir, split="dev", label_column="family").recordings
        found = [r for r in found if r.label in tagger.classes[:-1]][::3]
        hits = 0
        for recording in found:
            wave = read_audio(recording.file, 16_000, seconds=10.24)
            heard = tagger(wave, 16_000).probabilities.argmax()
            hits += tagger.classes[heard] == recording.label
        assert hits / len(found) > 0.65

    def test_level_and_padding_do_not_matter(self):
        tagger = TaggerEmbedder.bundled()
        wave = np.random.default_rng(0).standard_normal(40_960).astype(np.float32) * 0.1
        wave -= wave.mean()
        found = tagger(wave, 16_000)
        assert found.features.shape[0] == 1
        assert found.probabilities.sum() == pytest.approx(1.0, abs=1e-5)
        quiet = tagger(wave * 0.01, 16_000).probabilities
        np.testing.assert_allclose(quiet, found.probabilities, atol=1e-3)
        padded = np.concatenate([wave, np.zeros(81_920, np.float32)])
        heard = [embedding.probabilities.argmax() for embedding in (found, tagger(padded, 16_000))]
        assert heard[0] == heard[1]

    def test_odd_input(self):
        tagger = TaggerEmbedder.bundled()
        for wave in (np.zeros(5), np.ones(3), np.zeros(100_000)):
            assert np.isfinite(tagger(wave, 16_000).probabilities).all()
        for wave in (np.zeros(0), np.zeros((2, 9)), np.full(9, np.nan)):
            with pytest.raises(ValueError, match="expected finite samples"):
                tagger(wave, 16_000)

    def test_size_and_classes(self):
        from importlib import resources
        from pathlib import Path

        folder = Path(str(resources.files("soundcrafter"))) / "assets" / "tagger"
        assert sum(file.stat().st_size for file in folder.iterdir()) < 4e6
        assert len(TaggerEmbedder.bundled().classes) == 53
        assert TaggerEmbedder.bundled().sha256[:16] in (folder / "README.md").read_text()
