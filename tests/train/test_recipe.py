"""Every recipe parses and builds; settings that cannot be trained are refused by name."""

from pathlib import Path

import pytest
import torch

from soundcrafter.cli.train import StageName
from soundcrafter.config import GENERATOR_PARTS
from soundcrafter.models.discriminators import PatchDiscriminator, VocoderDiscriminator
from soundcrafter.train import STAGES, build_stage, read_recipe
from soundcrafter.train.sounds import segment_samples

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.toml"))


def test_recipes_are_found():
    assert {"mini.toml", "tiny.toml"} <= {path.name for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses_and_every_part_builds(path):
    recipe = read_recipe(path)
    with torch.device("meta"):
        networks = [recipe.model.build(part) for part in GENERATOR_PARTS]
        networks.append(PatchDiscriminator(recipe.vae.discriminator))
        networks.append(
            VocoderDiscriminator(recipe.vocoder.discriminator, recipe.vocoder.spectrograms)
        )
    for network in networks:
        assert sum(parameter.numel() for parameter in network.parameters()) > 0
        assert all(parameter.is_meta for parameter in network.parameters())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipes_segments_fit_its_strides(path):
    recipe = read_recipe(path)
    vae, unet = recipe.model.vae, recipe.model.unet
    multiple = vae.stride[0] * unet.stride[0]
    samples = segment_samples(recipe.diffusion.seconds, vae.mel, multiple)
    assert vae.mel.num_frames(samples) % multiple == 0
    # a segment is rounded to the nearest that fits: the recipe should name one that nearly does
    assert samples / vae.mel.sample_rate == pytest.approx(recipe.diffusion.seconds, rel=0.05)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("vae.learning_rate=-1e-3", "learning_rate"),
        ("vae.learning_rate=nan", "learning_rate"),
        ("vae.steps=0", "steps"),
        ("vae.batch_size=0", "batch_size"),
        ("vae.accumulate=3", "batch_size"),
        ("vae.ema_decay=1.0", "ema_decay"),
        ("vae.precision=half", "precision"),
        ("vae.seed=-1", "seed"),
        ("clap.accumulate=2", "clap: accumulate"),
        ("vocoder.stft_weight=-1.0", "stft_weight"),
        ("vocoder.adversarial_weight=-1.0", "adversarial_weight"),
        ("vocoder.feature_weight=-1.0", "feature_weight"),
        ("vocoder.adversarial_start=-1", "adversarial_start"),
        ("vae.scale_batches=0", "scale_batches"),
        ("vae.kl_weight=-1e-6", "kl_weight"),
        ("vae.adversarial_weight=-0.5", "adversarial_weight"),
        ("vae.adversarial_start=-1", "adversarial_start"),
        ("vocoder.checkpointing=true", "vocoder.checkpointing: unknown setting"),
        ("model.diffusion.steps=2", "sampling.steps: got 3; allowed: up to diffusion.steps, 2"),
        ("diffusion.drop_condition=1.5", "drop_condition"),
        ("diffusion.condition=image", "condition"),
        ("vae.learningrate=1e-3", "did you mean learning_rate"),
        ("model.unet.in_channels=5", "latent_channels"),
    ],
)
def test_bad_settings_are_refused_by_name(make_recipe, tiny_recipe, override, named):
    with pytest.raises(ValueError, match=named) as caught:
        make_recipe(override)
    assert str(tiny_recipe) in str(caught.value)


def test_flow_is_sampled_at_its_only_spacing(make_recipe):
    flow = "model.diffusion.objective=flow"
    with pytest.raises(ValueError, match=r"sampling\.spacing: got leading; allowed with flow"):
        make_recipe(flow, "model.sampling.spacing=leading")
    # and at any number of steps: its time is continuous
    assert make_recipe(flow, "model.diffusion.steps=2").model.sampling.steps == 3


def test_checkpointing_reaches_the_networks_that_have_it(make_recipe, clips, encoded, tmp_path):
    for name, data in (("vae", clips), ("diffusion", encoded)):
        stage = build_stage(name, make_recipe(f"{name}.checkpointing=true"), data, tmp_path)
        assert stage.network.checkpointing is True


def test_segment_samples_is_the_nearest_multiple(make_recipe):
    mel = make_recipe().model.vae.mel  # hop 160 at 16 kHz
    assert segment_samples(0.64, mel, 16) == 64 * 160
    assert segment_samples(0.70, mel, 16) == 64 * 160
    assert segment_samples(0.75, mel, 16) == 80 * 160
    assert segment_samples(0.001, mel, 16) == 16 * 160


def test_the_command_line_names_every_stage():
    assert [name.value for name in StageName] == list(STAGES)
