"""The loop: it stops and resumes, refuses what would break a model, and survives a bad loss."""

import csv
import json
import os
import shutil
import signal
import threading

import pytest
import torch

from soundcrafter import cli
from soundcrafter.files import file_sha256, read_json, write_json
from soundcrafter.store import open_folder
from soundcrafter.train import GENERATOR_STAGES, RunOptions, TrainingInterrupted, clap
from soundcrafter.train.checkpoint import list_checkpoints, load_checkpoint, run_folder
from soundcrafter.train.engine import LossNotFiniteError
from soundcrafter.train.log import MACHINE_FACTS, Log, read_log
from soundcrafter.train.vae import VAELoss


def steps_of(entries):
    return [entry["step"] for entry in entries]


def checkpoint_steps(folder, stage):
    return [int(path.name[5:]) for path in list_checkpoints(run_folder(folder, stage))]


def hashes(folder):
    return {p.name: file_sha256(p) for p in sorted(folder.iterdir()) if p.is_file()}


def assert_equal_losses(found, wanted):
    assert steps_of(found) == steps_of(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert set(one) == set(other)
        for key in set(one) - set(MACHINE_FACTS):
            assert one[key] == pytest.approx(other[key], rel=1e-6), (one["step"], key)


def trap_at(monkeypatch, bad_step):
    """The VAE's loss is nan at the step with this number in the log."""
    forward = VAELoss.forward

    def trapped(self, batch, step):
        losses, extras = forward(self, batch, step)
        if step + 1 == bad_step:
            losses["reconstruction"] = losses["reconstruction"] * float("nan")
        return losses, extras

    monkeypatch.setattr(VAELoss, "forward", trapped)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_in_peace_and_it_goes_on(stop, go, tmp_path):
    handler = signal.getsignal(stop)

    def interrupt(entry):
        if entry["step"] == 3:
            os.kill(os.getpid(), stop)

    whole = go("vae", tmp_path / "whole", "vae.steps=7")
    parts = tmp_path / "parts"
    with pytest.raises(TrainingInterrupted, match="run the same command to resume") as caught:
        go("vae", parts, "vae.steps=7", report=interrupt)
    assert caught.value.exit_code == 128 + stop
    first = read_log(run_folder(parts, "vae"))
    assert caught.value.step == len(first)
    assert 3 <= len(first) <= 4  # the step in progress ends
    assert checkpoint_steps(parts, "vae") == [len(first)]
    assert signal.getsignal(stop) == handler
    rest = go("vae", parts, "vae.steps=7")
    assert rest[0]["step"] == len(first) + 1
    assert_equal_losses(first + rest, whole)
    assert_equal_losses(read_log(run_folder(parts, "vae")), whole)


def test_max_minutes_stops_resumably(go, tmp_path):
    for step in (1, 2):
        assert steps_of(go("vae", tmp_path, "vae.steps=9", max_minutes=1e-9)) == [step]
    assert checkpoint_steps(tmp_path, "vae") == [1, 2]
    open_folder(tmp_path).load("vae")


def test_a_torn_log_and_a_stale_checkpoint_do_not_stop_a_resume(go, tmp_path):
    go("vae", tmp_path, "vae.steps=4", max_minutes=1e-9)
    place = run_folder(tmp_path, "vae")
    with open(place / "log.jsonl", "a") as stream:
        stream.write('{"step": 2, "loss": 99.0}\n{"step": 3, "lo')
    stale = place / "checkpoints" / ".step-00000003.tmp"
    stale.mkdir()
    (stale / "weights.safetensors").write_bytes(b"half")
    assert steps_of(go("vae", tmp_path, "vae.steps=4")) == [2, 3, 4]
    log = read_log(place)
    assert steps_of(log) == [1, 2, 3, 4]
    assert all(entry["loss"] < 99 for entry in log)
    assert not stale.exists()


def test_loading_threads_change_nothing(go, tmp_path):
    runs = [go("vae", tmp_path / str(n), "vae.steps=3", workers=n) for n in (0, 3)]
    assert_equal_losses(*runs)


def test_log_entries_average_the_steps_between(go, tmp_path):
    each = go("vae", tmp_path / "1", "vae.steps=5")
    few = go("vae", tmp_path / "2", "vae.steps=5", log_steps=2)
    assert steps_of(few) == [2, 4, 5]
    mean = (each[0]["reconstruction"] + each[1]["reconstruction"]) / 2
    assert few[0]["reconstruction"] == pytest.approx(mean, rel=1e-6)


def test_a_nan_loss_stops_the_run_and_keeps_the_last_checkpoint(go, tmp_path, monkeypatch):
    whole = go("vae", tmp_path / "whole", "vae.steps=5")
    parts, closed = tmp_path / "parts", []
    close = Log.close
    monkeypatch.setattr(Log, "close", lambda self: (closed.append(self.file), close(self)))
    with monkeypatch.context() as patch:
        trap_at(patch, 4)
        with pytest.raises(LossNotFiniteError, match="step 4: the loss is not finite") as caught:
            go("vae", parts, "vae.steps=5", checkpoint_steps=1)
    assert "audio/" in str(caught.value)
    assert ".ogg" in str(caught.value)
    assert closed == [run_folder(parts, "vae") / "log.jsonl"]
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]
    assert checkpoint_steps(parts, "vae") == [2, 3]
    tensors, _ = load_checkpoint(list_checkpoints(run_folder(parts, "vae"))[-1])
    assert all(bool(value.isfinite().all()) for value in tensors["weights"].values())
    open_folder(parts).load("vae")
    assert_equal_losses(go("vae", parts, "vae.steps=5"), whole[3:])  # mended, it goes on


def test_an_error_in_the_loop_closes_everything(go, tmp_path):
    def fail(entry):
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        go("vae", tmp_path, "vae.steps=5", report=fail, workers=2)
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]
    assert signal.getsignal(signal.SIGTERM) == handler


def test_the_command_line_reports_a_nan_in_one_line(
    tiny_recipe, clips, tmp_path, monkeypatch, capsys
):
    wild = ["--set", "vae.learning_rate=1e30", "--set", "vae.steps=9"]
    where = ["--recipe", str(tiny_recipe), "--data", str(clips), "--out", str(tmp_path / "m")]
    often = ["--device", "cpu", "--checkpoint-steps", "1"]
    monkeypatch.setattr("sys.argv", ["soundcrafter", "train", "vae", *where, *wild, *often])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not finite" in line
    assert "step" in line
    assert ".ogg" in line
    assert checkpoint_steps(tmp_path / "m", "vae")  # the last good one stays


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("vae.learning_rate=0.5", "vae.learning_rate"),
        ("vae.steps=5", "vae.steps"),
        ("model.vae.mel_std=2.0", "model.vae.mel_std"),
        ("data.gain_db=3.0", "data.gain_db"),
    ],
)
def test_other_settings_are_refused_by_name(override, key, trained_copy, go):
    before = (run_folder(trained_copy, "vae") / "identity.json").read_bytes()
    with pytest.raises(
        ValueError, match=rf"different settings \({key} is .* in that run, .* now\)"
    ):
        go("vae", trained_copy, override)
    assert (run_folder(trained_copy, "vae") / "identity.json").read_bytes() == before


def test_settings_that_are_gone_do_not_block_a_resume(trained_copy, go):
    file = run_folder(trained_copy, "vocoder") / "identity.json"
    identity = json.loads(file.read_text())
    identity["stage"]["discriminator_every"] = 1  # the default
    file.write_text(json.dumps(identity))
    assert go("vocoder", trained_copy) == []
    identity["stage"]["discriminator_every"] = 2
    file.write_text(json.dumps(identity))
    with pytest.raises(
        ValueError, match=r"different settings \(vocoder.discriminator_every is 2 in that"
    ):
        go("vocoder", trained_copy)


@pytest.mark.parametrize("stage", ["clap", "vae", "vocoder"])
def test_files_passed_over_are_listed_with_the_run(stage, clips, tmp_path, go):
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(clips, data)
    with open(data / "sounds.csv") as stream:
        header, first = next(stream), next(stream)
    columns, values = header.strip().split(","), next(csv.reader([first]))
    damaged = values[columns.index("file")]
    sound = (data / damaged).read_bytes()
    (data / damaged).write_bytes(sound[: len(sound) // 8] + bytes(len(sound) // 8))
    values[columns.index("file")] = "audio/gone.ogg"
    with open(data / "sounds.csv", "a", newline="") as stream:
        csv.writer(stream).writerow(values)
    place = run_folder(out, stage)
    file = place / "skipped.json"
    seen = []

    def look(entry):
        assert "skipped" not in entry
        seen.append(set(json.loads(file.read_text())))

    settings = (f"{stage}.steps=12", "data.balance=none")
    go(stage, out, *settings, data=data, report=look, max_minutes=1e-9)
    assert seen == [{"audio/gone.ogg"}]  # known from the start
    go(stage, out, *settings, data=data)
    skipped = json.loads(file.read_text())
    assert set(skipped) == {"audio/gone.ogg", damaged}
    assert skipped["audio/gone.ogg"] == "no such file"
    assert go(stage, out, *settings, data=data) == []
    assert json.loads(file.read_text()) == skipped  # of the whole run, not of its last start


def test_nothing_passed_over_leaves_no_list(trained_copy):
    assert not list(trained_copy.rglob("skipped.json"))


def test_other_recordings_are_refused(trained_copy, clips, tmp_path, go):
    shutil.copytree(clips, tmp_path / "other")
    lines = (clips / "sounds.csv").read_text().splitlines(keepends=True)
    (tmp_path / "other" / "sounds.csv").write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"data\.recordings"):
        go("vocoder", trained_copy, data=tmp_path / "other")


@pytest.mark.parametrize(("stage", "dependent"), [("vae", "unet"), ("clap", "unet")])
def test_what_a_part_depends_on_is_not_trained_further(stage, dependent, trained_copy, go):
    shutil.rmtree(run_folder(trained_copy, stage))
    before = hashes(trained_copy)
    with pytest.raises(
        ValueError, match=f"would invalidate {dependent}, which was trained against"
    ):
        go(stage, trained_copy)
    assert hashes(trained_copy) == before
    assert not run_folder(trained_copy, stage).exists()


def test_finished_stages_called_again_change_nothing(trained_copy, go):
    before = hashes(trained_copy)
    for stage in GENERATOR_STAGES:
        assert go(stage, trained_copy) == []
    assert hashes(trained_copy) == before


def test_a_finished_stage_called_again_writes_a_missing_part(go, tmp_path):
    go("vae", tmp_path, "vae.steps=2")
    before = hashes(tmp_path)
    (tmp_path / "vae.safetensors").unlink()  # as if killed before the part was in place
    assert go("vae", tmp_path, "vae.steps=2") == []
    assert hashes(tmp_path) == before


def test_a_kill_between_two_parts_of_an_export_is_mended(go, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    go("clap", whole, "clap.steps=3")
    go("clap", parts, "clap.steps=3", max_minutes=1e-9)
    save = clap.save_part

    def killed(folder, name, *args, **kwargs):
        if name == "clap_text":
            raise KeyboardInterrupt
        return save(folder, name, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(clap, "save_part", killed)
        with pytest.raises(KeyboardInterrupt):
            go("clap", parts, "clap.steps=3", max_minutes=1e-9)
    with pytest.raises(ValueError, match="was trained against"):
        open_folder(parts)  # such a folder is loud
    assert steps_of(go("clap", parts, "clap.steps=3")) == [3]
    found, wanted = open_folder(parts).parts, open_folder(whole).parts
    assert found["clap_text"].training_id == wanted["clap_text"].training_id


@pytest.mark.parametrize("stage", GENERATOR_STAGES)
def test_init_starts_from_a_models_weights(stage, tiny_model, encoded, clips, tmp_path, go):
    data = encoded if stage == "diffusion" else clips
    fresh = go(stage, tmp_path / "fresh", f"{stage}.steps=1", data=data)
    tuned = go(stage, tmp_path / "tuned", f"{stage}.steps=1", data=data, init=tiny_model)
    assert tuned[0]["loss"] != fresh[0]["loss"]
    (name,) = [p for p in open_folder(tmp_path / "fresh").parts if p != "clap_audio"]
    wanted = open_folder(tiny_model).load(name).state_dict()
    found = open_folder(tmp_path / "tuned").load(name).state_dict()
    far = open_folder(tmp_path / "fresh").load(name).state_dict()
    weights = [key for key in wanted if key.endswith("weight") and wanted[key].ndim > 1]

    def distance(state):
        return sum(float((state[key] - wanted[key]).norm()) for key in weights)

    # one step from the model's, and (each seed starts alike) fresh ones are six steps away
    assert 0 < distance(found) < distance(far)


def test_samples_of_the_stages_are_shown(go, model_copy):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kinds = {"vocoder": "audio", "vae": "images", "diffusion": "images"}
    for stage, kind in kinds.items():
        # diffusion needs the other parts, which may not change under its U-Net
        folder = model_copy if stage == "diffusion" else model_copy / "new"
        go(stage, folder, f"{stage}.steps=1", sample_steps=1)
        place = run_folder(folder, stage) / "tensorboard"
        assert EventAccumulator(str(place)).Reload().Tags()[kind], stage


@pytest.mark.parametrize(
    "options",
    [{"keep": 0}, {"log_steps": 0}, {"workers": -1}, {"max_minutes": 0.0}, {"sample_steps": -1}],
)
def test_bad_options_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        RunOptions(**options)


def test_the_resolved_settings_are_saved_with_the_run(trained_copy, make_recipe):
    saved = json.loads((run_folder(trained_copy, "vae") / "identity.json").read_text())
    assert saved["stage"]["learning_rate"] == make_recipe().vae.learning_rate
    assert saved["model"]["channels"] == 8


def test_the_exported_part_is_the_average_of_the_weights(trained_copy):
    tensors, state = load_checkpoint(list_checkpoints(run_folder(trained_copy, "diffusion"))[-1])
    exported = open_folder(trained_copy).load("unet").state_dict()
    assert state["ema_updates"] == state["step"] == 6
    assert all(torch.equal(value, tensors["ema"][key]) for key, value in exported.items())
    assert any(
        not torch.equal(value, tensors["weights"][f"unet.{key}"]) for key, value in exported.items()
    )


def test_a_run_from_before_a_setting_existed_resumes_with_its_default(go, tmp_path):
    settings = ("vae.steps=3",)
    go("vae", tmp_path, *settings, max_minutes=1e-9)
    file = tmp_path / "training" / "vae" / "identity.json"
    identity = read_json(file)
    del identity["stage"]["feature_weight"]
    write_json(file, identity)
    with pytest.raises(ValueError, match=r"vae\.feature_weight is 0\.0 in that run, 2\.0 now"):
        go("vae", tmp_path, *settings, "vae.feature_weight=2.0")
    assert [entry["step"] for entry in go("vae", tmp_path, *settings)] == [2, 3]
