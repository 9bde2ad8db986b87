import numpy as np
import pytest
import torch

from soundcrafter.convert.aisfx_weights import load_aisfx
from soundcrafter.mel import LogMel
from soundcrafter.models.aisfx import MelReader
from soundcrafter.models.losses import similarity_distance
from soundcrafter.models.tagger import Tagger, TaggerConfig
from soundcrafter.store import open_folder
from soundcrafter.train import build_stage
from soundcrafter.train.tagger import mix_with_next

NETWORK = (
    "tagger.network.width=8",
    "tagger.network.depths=[1,1]",
    'tagger.network.classes=["dog bark","rain","other"]',
    "tagger.steps=4",
    "tagger.batch_size=4",
    "tagger.seconds=0.64",
    "tagger.accumulate=1",
)


def test_it_trains_resumes_and_is_exported(go, tmp_path):
    whole = go("tagger", tmp_path / "whole", *NETWORK)
    assert [entry["step"] for entry in whole] == [1, 2, 3, 4]
    assert all(np.isfinite(entry["cross_entropy"]) for entry in whole)
    go("tagger", tmp_path / "cut", *NETWORK, max_minutes=1e-9)
    rest = go("tagger", tmp_path / "cut", *NETWORK)
    assert [entry["step"] for entry in rest] == [2, 3, 4]
    for one, other in zip(whole[1:], rest, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
    tagger = open_folder(tmp_path / "whole").load("tagger")
    assert tagger(torch.randn(2, 1, 50, 64)).shape == (2, 3)


def test_labels_outside_the_classes_are_the_last_one(make_recipe, clips):
    stage = build_stage("tagger", make_recipe(*NETWORK), clips, clips)
    batch = stage.load_batch(range(12))
    assert set(batch["class"].tolist()) >= {2}
    prepared = stage.prepare(batch, torch.device("cpu"))
    assert prepared["target"].sum(1) == pytest.approx(1.0)
    again = stage.prepare(stage.load_batch(range(12)), torch.device("cpu"))
    assert torch.equal(prepared["mel"], again["mel"])


def test_mixing_by_hand():
    rows, shares = torch.tensor([[0.0, 2.0], [4.0, 6.0]]), torch.tensor([[0.5], [0.0]])
    assert mix_with_next(rows, shares).tolist() == [[2.0, 4.0], [4.0, 6.0]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": ("a", "a")}, "not unique"),
        ({"width": 12}, "multiples of 8"),
        ({"depths": ()}, "depths"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        TaggerConfig(**settings)
    with pytest.raises(ValueError, match="classes: got 1; allowed: 2 or more"):
        Tagger(TaggerConfig(classes=("one",)))


def test_a_teacher_says_which_sounds_are_alike(teacher, go, make_recipe, clips, tmp_path):
    settings = (*NETWORK, f"tagger.teacher={teacher}", "tagger.teacher_weight=3.0")
    stage = build_stage("tagger", make_recipe(*settings), clips, clips)
    batch = stage.prepare(stage.load_batch(range(4)), torch.device("cpu"))
    wave = stage.load_batch(range(4))["wave"]
    network = load_aisfx(teacher)
    shares = (batch["target"] > 0).sum(1)
    plain = int((shares == 1).nonzero()[0])  # one that nothing was mixed into
    expected = network(MelReader(stage.model_config.mel)(LogMel(stage.model_config.mel)(wave)))
    torch.testing.assert_close(batch["taught"][plain], expected[plain], atol=1e-4, rtol=1e-4)
    stage.network.eval()
    losses, _ = stage.loss_modules["tagger"](batch, 0)
    wanted = similarity_distance(stage.network.features(batch["mel"]), batch["taught"])
    assert losses["teacher"].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert stage.weights(0)["teacher"] == 3.0
    entries = go("tagger", tmp_path, *settings)
    assert all(np.isfinite(entry["teacher"]) for entry in entries)
