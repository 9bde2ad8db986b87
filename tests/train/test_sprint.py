"""Training against the clock from the memory of a device (here a CPU)."""

import json
from itertools import count

import pytest
import torch

from soundcrafter.store import open_folder
from soundcrafter.train import build_stage
from soundcrafter.train.report import training_report
from soundcrafter.train.sprint import sprint

SPECTRAL = (
    'model.vocoder={kind="spectral",width=8,blocks=1,iterations=2,mel_mean=-5.0,mel_std=3.0}',
    "vocoder.stft_weight=0.0",
    "vocoder.energy_weight=1.0",
    "vocoder.discriminator.scales=0",
    "vocoder.spectrograms={resolutions=[[256,64],[128,32]],channels=4}",
)


def run(make_recipe, clips, out, stage, *overrides, steps=3, **options):
    """Sprint for so many steps, each of which takes a second by the clock."""
    entries = []
    built = build_stage(stage, make_recipe(*overrides), clips, out)
    settings = {"minutes": steps / 60, "device": "cpu", "log_steps": 1, "clock": count().__next__}
    settings |= options
    done = sprint(built, out, report=lambda entry: entries.append(dict(entry)), **settings)
    return done, entries


def test_a_vae_learns_until_the_time_is_over(make_recipe, clips, tmp_path):
    settings = ("vae.learning_rate=1e-2", "vae.adversarial_start=1000")
    done, entries = run(make_recipe, clips, tmp_path, "vae", *settings, steps=20)
    assert done == 20
    assert [entry["step"] for entry in entries] == list(range(1, 21))
    assert [entry["progress"] for entry in entries] == [i / 20 for i in range(1, 21)]
    assert entries[-1]["reconstruction"] < 0.7 * entries[0]["reconstruction"]
    log = (tmp_path / "training" / "vae" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [entry["step"] for entry in entries]
    vae = open_folder(tmp_path).load("vae")
    assert vae.latent_scale != 1.0
    assert vae.decode(vae.encode(torch.randn(1, 1, 64, 64))).shape == (1, 1, 64, 64)


def test_the_discriminator_learns_from_its_step_on(make_recipe, clips, tmp_path):
    _, entries = run(make_recipe, clips, tmp_path, "vae", "vae.adversarial_start=2")
    assert ["discriminator_hinge" in entry for entry in entries] == [False, False, True]


def test_a_vocoder_learns_from_the_mels_of_the_folders_vae(make_recipe, clips, model_copy):
    before = open_folder(model_copy).load("vae").state_dict()
    settings = (*SPECTRAL, "vocoder.decoded=0.5", "vocoder.seconds=0.64")
    (model_copy / "config.json").write_text(  # of another kind than the folder's vocoder
        json.dumps(_without_vocoder(json.loads((model_copy / "config.json").read_text())))
    )
    _, entries = run(make_recipe, clips, model_copy, "vocoder", *settings)
    assert entries[-1]["energy"] < 10
    folder = open_folder(model_copy)
    assert folder.load("vocoder")(torch.randn(2, 1, 20, 64) - 5).shape == (2, 3200)
    after = folder.load("vae").state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_unet_learns_from_encoded_data(make_recipe, encoded, tiny_model, tmp_path):
    _, entries = run(
        make_recipe, encoded, tmp_path, "diffusion", "diffusion.learning_rate=1e-2", steps=15
    )
    assert entries[-1]["denoising"] < entries[0]["denoising"]
    folder = open_folder(tmp_path)
    assert dict(folder.parts["unet"].trained_against) == {
        name: open_folder(tiny_model).parts[name].training_id for name in ("vae", "clap_audio")
    }


def test_its_draws_are_those_of_the_encoded_data(make_recipe, encoded, tmp_path):
    settings = ("diffusion.condition=mixed", "diffusion.batch_size=64")
    stage = build_stage("diffusion", make_recipe(*settings), encoded, tmp_path)
    torch.manual_seed(0)
    batch = stage.resident(torch.device("cpu"))()
    loaded = stage.load_batch(range(64))
    assert set(batch) == set(loaded)
    for name in ("mean", "logvar", "audio", "text", "noise", "u", "use_text", "drop"):
        assert batch[name].shape == loaded[name].shape, name
        assert batch[name].dtype == loaded[name].dtype, name
    assert 0.3 < batch["use_text"].float().mean() < 0.7
    assert batch["u"].sort().values.diff().sub(1 / 64).abs().max() < 1e-5  # stratified
    rows = {tuple(row) for row in loaded["audio"].tolist()}
    found = {tuple(row) for row in batch["audio"].tolist()}
    assert len(found & rows) > 4


def test_a_unet_takes_encoded_data_alone(make_recipe, clips, tiny_model):
    stage = build_stage("diffusion", make_recipe(), clips, tiny_model)
    with pytest.raises(ValueError, match="diffusion from encoded data"):
        stage.resident(torch.device("cpu"))


def test_it_can_start_from_a_model(make_recipe, clips, tiny_model, tmp_path):
    settings = ("vae.learning_rate=1e-12", "vae.ema_decay=0.0", "vae.adversarial_start=1000")
    run(make_recipe, clips, tmp_path, "vae", *settings, init=tiny_model, steps=1)
    old, new = (open_folder(path).load("vae").state_dict() for path in (tiny_model, tmp_path))
    for key in set(old) - {"latent_scale"}:
        torch.testing.assert_close(old[key], new[key], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("stage", "overrides", "options", "words"),
    [
        ("vae", (), {"steps": 0}, "minutes: got 0"),
        ("vae", (), {"log_steps": 0}, "log_steps: got 0"),
        ("vae", ("vae.accumulate=2",), {}, "accumulate 1"),
        ("clap", (), {}, "clap: cannot train from device memory"),
        ("vae", ("data.pad=repeat",), {}, "pad: got repeat"),
    ],
)
def test_what_cannot_be_trained_so_is_refused(
    stage, overrides, options, words, make_recipe, clips, tmp_path
):
    with pytest.raises(ValueError, match=words):
        run(make_recipe, clips, tmp_path, stage, *overrides, **options)


def test_a_folder_that_it_would_spoil_is_refused(make_recipe, clips, model_copy, trained_copy):
    with pytest.raises(ValueError, match="would invalidate unet, which was"):
        run(make_recipe, clips, model_copy, "vae")
    with pytest.raises(ValueError, match="contains a run with checkpoints"):
        run(make_recipe, clips, trained_copy, "vae")


def test_a_sprint_can_be_plotted(make_recipe, clips, tmp_path):
    run(make_recipe, clips, tmp_path, "vae")
    assert training_report(tmp_path)["stages"]


def test_a_loss_that_is_not_finite_ends_it_with_nothing_saved(make_recipe, clips, tmp_path):
    stage = build_stage("vae", make_recipe(), clips, tmp_path)
    with torch.no_grad():
        stage.network.quant_conv.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"not finite: .*reconstruction"):
        sprint(stage, tmp_path, minutes=1, device="cpu", log_steps=1)
    assert not (tmp_path / "config.json").exists()


def test_an_update_that_is_not_finite_is_left_out(make_recipe, clips, tmp_path, monkeypatch):
    stage = build_stage("vae", make_recipe("vae.ema_decay=0.0"), clips, tmp_path)
    before = {key: value.clone() for key, value in stage.network.state_dict().items()}
    monkeypatch.setattr(stage, "weights", lambda step: {"reconstruction": 1.0, "kl": float("inf")})
    sprint(stage, tmp_path, minutes=1e-9, device="cpu", log_steps=10**9)
    after = stage.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def _without_vocoder(config):
    del config["parts"]["vocoder"]
    return config
