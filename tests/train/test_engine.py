"""The engine: precision, micro-batches, and losses that are not finite."""

import pytest
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState

from soundcrafter.store import open_folder
from soundcrafter.train import GENERATOR_STAGES, build_stage, engine
from soundcrafter.train.checkpoint import list_checkpoints, load_checkpoint, run_folder
from soundcrafter.train.engine import Engine, LossNotFiniteError
from soundcrafter.train.log import MACHINE_FACTS

PARTS = {"clap": "clap_text", "vae": "vae", "vocoder": "vocoder", "diffusion": "unet"}


def last_checkpoint(folder, stage):
    return load_checkpoint(list_checkpoints(run_folder(folder, stage))[-1])


@pytest.mark.parametrize("stage", GENERATOR_STAGES)
def test_bf16_learns_in_fp32_weights(stage, go, encoded, clips, tmp_path):
    overrides = [f"{stage}.steps=2"]
    if stage in ("vae", "vocoder"):
        overrides.append(f"{stage}.adversarial_start=0")
    data = encoded if stage == "diffusion" else clips
    entries = go(stage, tmp_path / "b", f"{stage}.precision=bf16", *overrides, data=data)
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in entries)
    plain = go(stage, tmp_path / "f", *overrides, data=data)
    # near fp32 but not equal to it: the forward did run in bf16 (its rounding noise fills the
    # empty bins of a STFT, which is why it is no nearer)
    assert entries[0]["loss"] == pytest.approx(plain[0]["loss"], rel=0.2)
    assert [e["loss"] for e in entries] != [e["loss"] for e in plain]
    tensors, _ = last_checkpoint(tmp_path / "b", stage)
    for name in ("weights", "ema", "optimizer"):
        floating = [value for value in tensors[name].values() if value.is_floating_point()]
        assert floating
        assert {value.dtype for value in floating} == {torch.float32}, name
    exported = open_folder(tmp_path / "b").load(PARTS[stage]).state_dict()
    assert torch.bfloat16 not in {value.dtype for value in exported.values()}


@pytest.mark.parametrize(
    ("stage", "overrides", "near"),  # near: far less than a step of the optimiser
    [
        ("vae", ("vae.steps=3", "vae.adversarial_start=100"), 1e-5),
        # a U-Net starts by predicting zero: a high rate, so that its input matters soon
        (
            "diffusion",
            ("diffusion.steps=3", "diffusion.learning_rate=0.01", "model.unet.dropout=0.0"),
            1e-4,
        ),
    ],
)
def test_accumulation_changes_nothing(stage, overrides, near, go, encoded, clips, tmp_path):
    data = encoded if stage == "diffusion" else clips
    one = go(stage, tmp_path / "1", *overrides, data=data)
    two = go(stage, tmp_path / "2", f"{stage}.accumulate=2", *overrides, data=data)
    for left, right in zip(one, two, strict=True):
        for key in set(left) - set(MACHINE_FACTS):
            assert right[key] == pytest.approx(left[key], rel=1e-5), key
    weights = [last_checkpoint(tmp_path / name, stage)[0]["weights"] for name in "12"]
    for key, value in weights[0].items():
        assert torch.allclose(value, weights[1][key], rtol=0, atol=near), key


def test_shards_cover_a_step_in_order(make_recipe, clips, tmp_path):
    stage = build_stage("vae", make_recipe("vae.accumulate=2"), clips, tmp_path)
    engine = Engine(stage.loss_modules, stage.config, "cpu")
    assert engine.shard(range(4)) == [[0, 1], [2, 3]]
    assert engine.shard(range(20, 24)) == [[20, 21], [22, 23]]


def test_unknown_device_is_refused(go, tmp_path):
    for device in ("tpu",) if torch.cuda.is_available() else ("tpu", "cuda"):
        with pytest.raises(ValueError, match=f"device: .*{device}"):
            go("vae", tmp_path, "vae.steps=1", device=device)


def test_two_trainings_in_one_process_are_each_as_asked(go, tmp_path):
    entries = {}
    for device, precision in (("cpu", "bf16"), ("cpu:0", "fp32"), ("cpu", "fp32")):
        settings = ("vae.steps=2", f"vae.precision={precision}")
        run = go("vae", tmp_path / f"{device}-{precision}", *settings, device=device)
        entries[device, precision] = [entry["loss"] for entry in run]
    assert entries["cpu:0", "fp32"] == entries["cpu", "fp32"]
    assert entries["cpu", "bf16"] != entries["cpu", "fp32"]


@pytest.fixture
def other_device():
    """Accelerate's state as a training on another device leaves it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    state = PartialState(cpu=True)
    state.device = torch.device("meta")
    yield state
    AcceleratorState._reset_state(reset_partial_state=True)


def test_the_device_of_an_earlier_training_is_forgotten(other_device, make_recipe, clips, tmp_path):
    stage = build_stage("vae", make_recipe(), clips, tmp_path)
    engine = Engine(stage.loss_modules, stage.config, "cpu")
    assert engine.device.type == engine.accelerator.device.type == "cpu"
    assert {value.device.type for value in engine.weights().values()} == {"cpu"}


def test_a_process_group_on_another_device_is_refused(
    other_device, make_recipe, clips, tmp_path, monkeypatch
):
    other_device.num_processes = 2
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    stage = build_stage("vae", make_recipe(), clips, tmp_path)
    with pytest.raises(ValueError, match=r"device: asked for cpu, but this process .* meta"):
        Engine(stage.loss_modules, stage.config, "cpu")


@pytest.fixture
def engine_and_batch(make_recipe, clips, tmp_path):
    """An engine for the VAE, and the batch of its first step."""

    def make(*overrides):
        recipe = make_recipe("vae.adversarial_start=0", *overrides)
        stage = build_stage("vae", recipe, clips, tmp_path)
        engine = Engine(stage.loss_modules, stage.config, "cpu")
        batches = [
            stage.prepare(stage.load_batch(i), engine.device) for i in engine.shard(range(4))
        ]
        return engine, batches

    return make


@pytest.mark.parametrize("trap", ["loss", "gradient"])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_what_is_not_finite_changes_no_weights(trap, clip_norm, engine_and_batch, monkeypatch):
    engine, batches = engine_and_batch(f"vae.clip_norm={clip_norm}", "vae.accumulate=2")
    module = engine.loss_modules["vae"]
    forward, calls = module.forward, []

    def trapped(batch, step):
        losses, extras = forward(batch, step)
        calls.append(step)
        if len(calls) == 2:  # the second micro-batch: the first one's gradients are there
            zero = (module.network.last_layer * 0).sum()
            # the square root of 0 is 0, its gradient infinite
            losses["trap"] = zero.sqrt() if trap == "gradient" else zero / zero.detach()
        return losses, extras

    monkeypatch.setattr(module, "forward", trapped)
    before = {key: value.clone() for key, value in engine.weights().items()}
    with pytest.raises(LossNotFiniteError, match=rf"step 8: the {trap}\b") as caught:
        engine.update("vae", batches, 7, {})
    assert "trap" in str(caught.value)
    named = batches[1:] if trap == "loss" else batches
    for file in {file for batch in named for files in batch["files"] for file in files}:
        assert file in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in engine.weights().items())
    assert engine.optimizer_state() == {}


def test_only_the_network_that_is_updated_learns(engine_and_batch):
    engine, batches = engine_and_batch()
    before = {key: value.clone() for key, value in engine.weights().items()}
    weights = {"reconstruction": 1.0, "kl": 0.0, "adversarial": 0.5}
    losses, batches = engine.update("vae", batches, 0, weights)
    assert losses["loss"] == pytest.approx(losses["reconstruction"] + 0.5 * losses["adversarial"])
    changed = {k for k, value in engine.weights().items() if not torch.equal(value, before[k])}
    assert {key.partition(".")[0] for key in changed} == {"vae"}
    discriminator = engine.loss_modules[
        "discriminator"
    ]  # part of the loss, but no gradient is left in it
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    engine.update("discriminator", batches, 0, {})
    changed = {k for k, value in engine.weights().items() if not torch.equal(value, before[k])}
    assert {key.partition(".")[0] for key in changed} == {"vae", "discriminator"}


def test_a_loss_without_a_weight_is_noticed(engine_and_batch):
    engine, batches = engine_and_batch()
    with pytest.raises(AssertionError, match="no weight for: adversarial"):
        engine.update("vae", batches, 0, {"reconstruction": 1.0, "kl": 0.0})


@pytest.mark.parametrize("has_bf16", [False, True])
def test_a_cpu_that_computes_bf16_in_software_is_named(
    has_bf16, go, encoded, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(engine, "cpu_has_bf16", lambda: has_bf16)
    bf16 = ("diffusion.precision=bf16", "diffusion.steps=1")
    go("diffusion", tmp_path / "b", *bf16, data=encoded)
    assert ("many times slower" in caplog.text) != has_bf16
    caplog.clear()
    go("diffusion", tmp_path / "f", "diffusion.steps=1", data=encoded)
    assert "bf16" not in caplog.text
