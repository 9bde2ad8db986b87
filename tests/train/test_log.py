"""The log: what it averages, and what of a killed run's log stays."""

import json

import numpy as np

from soundcrafter.train.log import Log, read_log
from soundcrafter.train.stage import Samples


def test_entries_are_means_since_the_last_one(tmp_path):
    told = []
    log = Log(tmp_path, 0, told.append)
    log.add({"loss": 1.0})
    log.add({"loss": 3.0, "hinge": 5.0})
    log.write(2, 8, {"learning_rate": 0.5})
    log.add({"loss": 7.0})
    log.write(3, 4, {"learning_rate": 0.25})
    log.close()
    first, second = read_log(tmp_path)
    assert (first["step"], first["loss"], first["hinge"]) == (2, 2.0, 5.0)
    assert first["samples_per_second"] > 0
    assert (second["step"], second["loss"], second["learning_rate"]) == (3, 7.0, 0.25)
    assert "hinge" not in second
    assert told == [first, second]


def test_a_resumed_log_drops_what_comes_after_the_checkpoint(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (2, 4, 6)))
    Log(tmp_path, 4, None).close()
    assert [entry["step"] for entry in read_log(tmp_path)] == [2, 4]


def test_a_half_written_last_line_is_dropped(tmp_path):
    whole = json.dumps({"step": 2, "loss": 1.0}) + "\n"
    for half in ('{"step": 3, "lo', '{"step": 3, "loss": 1.0}', "{", "\0\0\0"):
        (tmp_path / "log.jsonl").write_text(whole + half)
        assert [entry["step"] for entry in read_log(tmp_path)] == [2]
        log = Log(tmp_path, 2, None)
        log.add({"loss": 2.0})
        log.write(3, 4, {})
        log.close()
        assert [entry["step"] for entry in read_log(tmp_path)] == [2, 3]


def test_no_log_is_an_empty_log(tmp_path):
    assert read_log(tmp_path) == []


def test_tensorboard_keeps_the_checkpoints_own_step(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):  # killed after 3, resumed from 2
        log = Log(tmp_path, start, None)
        for step in steps:
            log.add({"loss": float(10 * start + step)})
            log.write(step, 4, {})
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(1, 1), (2, 2), (3, 23), (4, 24)]


def test_sounds_and_pictures_reach_tensorboard(tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Log(tmp_path, 0, None)
    loud = np.array([0.0, 1.5, -1.5], dtype=np.float32)
    log.show(1, Samples(waves={"a": loud}, mels={"b": np.zeros((4, 2), dtype=np.float32)}))
    log.close()
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Tags()
    assert (found["audio"], found["images"]) == (["a"], ["b"])
    assert capsys.readouterr().out == ""  # only the command line prints
