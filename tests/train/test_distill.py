"""Distillation: a second U-Net in the model folder that samples in a few steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soundcrafter.pipeline import SoundCrafter
from soundcrafter.store import open_folder
from soundcrafter.train import RunOptions, train
from soundcrafter.train.distill import ClapLoss

RECIPE = "recipes/finetune.toml"
SETTINGS = (
    "distill.steps=20",
    "distill.batch_size=4",
    "distill.seconds=0.64",
    "distill.learning_rate=0.003",
)


def distil(
    out: Path, data: Path, init: Path | None, *overrides: str, **options: Any
) -> list[dict[str, Any]]:
    """The entries that were logged."""
    entries: list[dict[str, Any]] = []
    train(
        "distill",
        RECIPE,
        data=data,
        out=out,
        init=init,
        options=RunOptions(device="cpu", log_steps=1, **options),
        report=lambda entry: entries.append(dict(entry)),
        overrides=(*SETTINGS, *overrides),
    )
    return entries


@pytest.fixture(scope="module")
def crafter(distilled: Path) -> SoundCrafter:
    return SoundCrafter.from_pretrained(distilled, "cpu")


def test_the_folder_has_both(distilled: Path, tiny_model: Path) -> None:
    folder, base = open_folder(distilled), open_folder(tiny_model)
    assert {*folder.parts} == {*base.parts, "unet_fast"}
    part = folder.parts["unet_fast"]
    assert part.trained_against == {"unet": base.parts["unet"].training_id}
    assert (part.config.steps, part.config.guidance) == (2, base.sampling.guidance)


def test_fast_sounds_take_its_steps_without_guidance(crafter: SoundCrafter) -> None:
    calls: list[int] = []
    crafter.unet_fast.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    (sound,) = crafter.generate("rain", seconds=1.0, candidates=1, fast=True)
    assert calls == [1, 1]
    assert sound.provenance is not None
    assert sound.provenance.sampling["fast"] is True
    calls.clear()
    (slow,) = crafter.generate("rain", seconds=1.0, candidates=1)
    assert not calls
    assert not np.array_equal(sound.wave, slow.wave)


def test_the_best_draft_is_the_sound(crafter: SoundCrafter) -> None:
    calls: list[int] = []
    crafter.unet_fast.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    seen: list[tuple[int, int]] = []
    (sound,) = crafter.generate(
        "rain", seconds=1.0, candidates=3, fast=True, progress=lambda *n: seen.append(n)
    )
    assert calls == [3, 3]
    assert seen[-1][0] == seen[-1][1]
    noises = crafter.noise(0, 1.0, 3)
    each = [
        crafter.generate("rain", seconds=1.0, candidates=1, noise=noise[None], fast=True)[0]
        for noise in noises
    ]
    best = max(each, key=lambda one: one.score or 0.0)
    np.testing.assert_allclose(sound.latent, best.latent, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": 3.0}, "guidance: got 3.0; allowed with fast: 1"),
        ({"negative": "speech"}, "negative: not possible with fast"),
    ],
)
def test_guidance_is_built_in(crafter: SoundCrafter, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crafter.generate("rain", seconds=1.0, fast=True, **options)


def test_a_model_without_one_says_so(run: Any, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "rain.wav"
    message = run("generate", "rain", "-o", out, "--model", tiny_model, "--fast").refused()
    assert "fast: this model has no unet_fast" in message
    assert not out.exists()


def test_the_command_makes_the_same_sound(run: Any, distilled: Path, tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        run(
            "generate",
            "rain",
            "--seconds",
            1,
            "--fast",
            "--model",
            distilled,
            "-o",
            tmp_path / name,
        )
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    run("generate", "--from", tmp_path / "a.wav", "--model", distilled, "-o", tmp_path / "c.wav")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "c.wav").read_bytes()


def test_a_resumed_run_ends_as_an_unbroken_one(
    distilled: Path, tiny_model: Path, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    distil(out, clips, tiny_model, checkpoint_steps=8, max_minutes=1e-9)
    distil(out, clips, None)  # the model to distil is in the folder now
    wanted, found = (
        open_folder(place).parts["unet_fast"].training_id for place in (distilled, out)
    )
    assert found == wanted


def test_the_loss_falls(tiny_model: Path, clips: Path, tmp_path: Path) -> None:
    entries = distil(
        tmp_path / "model", clips, tiny_model, "distill.steps=60", "distill.segments=1"
    )
    losses = [entry["consistency"] for entry in entries]
    assert np.mean(losses[-15:]) < 0.8 * np.mean(losses[:15])


def test_the_clap_loss_leads_to_sounds_like_the_condition(crafter: SoundCrafter) -> None:
    audio = crafter.clap.audio
    loss = ClapLoss(crafter.vae, audio)
    latent = crafter.noise(0, 1.0, 2).clone().requires_grad_()
    with torch.no_grad():
        other = audio.embed_mel(crafter.vae.decode(crafter.noise(1, 1.0)))
    before = loss(latent, other).mean()
    before.backward()
    with torch.no_grad():
        after = loss(latent - 1e-2 * latent.grad / latent.grad.abs().max(), other).mean()
    assert 0 < float(after) < float(before.detach())


def test_it_is_logged_beside_the_other_loss(tiny_model: Path, clips: Path, tmp_path: Path) -> None:
    settings = ("distill.steps=2", "distill.clap_weight=0.5")
    for entry in distil(tmp_path / "model", clips, tiny_model, *settings):
        assert entry["loss"] == pytest.approx(entry["consistency"] + 0.5 * entry["clap"], rel=1e-3)


def test_without_a_model_there_is_nothing_to_distil(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="distill: requires init, the model to distil"):
        distil(tmp_path / "model", clips, None)


def test_another_teacher_is_refused(distilled: Path, run: Any, clips: Path) -> None:
    message = run(
        "train", "distill", "--recipe", "recipes/tiny.toml", "--data", clips, "--out", distilled,
        "--set", "model.unet.channels=16",
    ).refused()  # fmt: skip
    assert "unet" in message
