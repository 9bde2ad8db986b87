"""Checkpoints appear whole or not at all."""

import pytest
import torch
from safetensors import SafetensorError

from soundcrafter.train import checkpoint
from soundcrafter.train.checkpoint import (
    IDENTITY,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from soundcrafter.train.identity import read_identity


def tensors(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"weights": {"a.b": torch.full((2, 3), value).T}, "optimizer": {"c": torch.ones(())}}


def names(run) -> list[str]:
    return [path.name for path in list_checkpoints(run)]


def test_round_trip_and_keep(tmp_path):
    for step in (2, 4, 10):
        place = save_checkpoint(tmp_path, step, tensors(step), {"extra": [step]}, keep=2)
    assert names(tmp_path) == ["step-00000004", "step-00000010"]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == names(tmp_path)
    loaded, state = load_checkpoint(place)
    assert state == {"step": 10, "extra": [10]}
    assert torch.equal(loaded["weights"]["a.b"], torch.full((3, 2), 10.0))
    assert loaded["optimizer"]["c"].shape == ()


def test_the_same_step_again_replaces_it(tmp_path):
    save_checkpoint(tmp_path, 4, tensors(1), {}, keep=2)
    place = save_checkpoint(tmp_path, 4, tensors(2), {}, keep=2)
    assert names(tmp_path) == ["step-00000004"]
    assert load_checkpoint(place)[0]["weights"]["a.b"].unique().tolist() == [2.0]


def test_an_interrupted_save_is_invisible_and_swept_up(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 2, tensors(2), {}, keep=1)

    def fail(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_json", fail)  # all tensors written, no state yet
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, 4, tensors(4), {}, keep=1)
    leftovers = [p for p in (tmp_path / "checkpoints").iterdir() if p.name.endswith(".tmp")]
    assert len(leftovers) == 1  # as a kill leaves it
    assert names(tmp_path) == ["step-00000002"]
    save_checkpoint(tmp_path, 6, tensors(6), {}, keep=1)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000006"]


@pytest.mark.parametrize("error", [SafetensorError("No space left"), OSError("No space left")])
def test_a_file_that_cannot_be_written_is_named(error, tmp_path, monkeypatch):
    def full(*args):
        raise error

    save_checkpoint(tmp_path, 2, tensors(2), {}, keep=1)
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(ValueError, match=r"weights\.safetensors: cannot write: No space left"):
        save_checkpoint(tmp_path, 4, tensors(4), {}, keep=1)
    assert names(tmp_path) == ["step-00000002"]


@pytest.mark.parametrize("file", ["weights.safetensors", "state.json"])
def test_a_damaged_checkpoint_says_what_to_delete(file, tmp_path):
    place = save_checkpoint(tmp_path, 2, tensors(2), {}, keep=1)
    (place / file).write_bytes((place / file).read_bytes()[:7])
    with pytest.raises(ValueError, match=rf"step-00000002: damaged; delete it .*{file}"):
        load_checkpoint(place)


@pytest.mark.parametrize("content", ["[]", "{}", "null", "5", '{"step": "x"}', "[" * 10**5])
def test_a_state_that_is_none_is_damaged(tmp_path, content):
    place = save_checkpoint(tmp_path, 2, tensors(1), {}, keep=1)
    (place / "state.json").write_text(content)
    with pytest.raises(ValueError, match=r"step-00000002: damaged; delete it .*state\.json"):
        load_checkpoint(place)


def test_a_checkpoint_that_lost_a_file(tmp_path):
    place = save_checkpoint(tmp_path, 2, tensors(1), {}, keep=1)
    (place / "optimizer.safetensors").unlink()
    assert set(load_checkpoint(place)[0]) == {"weights"}
    with pytest.raises(ValueError, match=r"damaged; delete it .*optimizer\.safetensors: missing"):
        load_checkpoint(place, ["weights", "optimizer"])


@pytest.mark.parametrize("content", [None, "[]", "null", "{}", '{"stage": 5}', "{"])
def test_a_run_without_an_identity_says_what_to_do(tmp_path, content):
    if content is not None:
        (tmp_path / IDENTITY).write_text(content)
    with pytest.raises(ValueError, match=r"identity\.json.*delete the folder to train anew"):
        read_identity(tmp_path)
