"""The text tower's own training, with a small sentence encoder in the published layout."""

import csv
import json
import shutil

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from soundcrafter.data.wordings import read_wordings
from soundcrafter.store import open_folder
from soundcrafter.train import build_stage
from soundcrafter.train.teacher import Teacher, cached, principal
from soundcrafter.train.text import UNALIGNED

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "dog", "barks", "rain", "falls", "loudly", "##s", "of"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A folder in the layout of all-MiniLM-L6-v2, with drawn weights."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    network = BertModel(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
        )
    )
    network.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture
def texts(tmp_path):
    """AudioCaps tables with and without several captions a clip, an ontology, and wordings."""
    data = tmp_path / "captions"
    data.mkdir()
    tables = {
        "audiocaps_train.csv": [("a", "A dog barks"), ("b", "Rain falls"), ("c", "A bell rings")],
        "audiocaps_val.csv": [("d", "A cat meows"), ("d", "The cat is calling"), ("e", "Wind")],
    }
    for name, rows in tables.items():
        with open(data / name, "w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["audiocap_id", "youtube_id", "start_time", "caption"])
            writer.writerows((n, clip, 0, caption) for n, (clip, caption) in enumerate(rows))
    classes = [
        {"name": "Siren", "description": "A loud noise-making device."},
        {"name": "Hum", "description": ""},
        {"name": "Oink", "description": " ".join(["long"] * 40)},
    ]
    (data / "audioset_ontology.json").write_text(json.dumps(classes))
    lines = ["family,split,wording", "dog,train,woof", "dog,train,hound", "dog,dev,puppy yaps"]
    (tmp_path / "wordings.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def overrides(texts, teacher):
    return (
        f"text.teacher={teacher}",
        f"data.wordings={texts / 'wordings.csv'}",
        "model.clap_text.embed_dim=6",
        "model.clap_audio.embed_dim=6",
        "model.unet.embed_dim=6",
    )


def test_the_teacher_is_a_masked_mean_of_unit_norm(teacher):
    found = Teacher(str(teacher))
    alone = found(["dog barks"])
    beside = found(["rain", "dog barks", "rain falls loudly loudly loudly"])
    assert beside.shape == (3, 16)
    torch.testing.assert_close(beside[1:2], alone)
    torch.testing.assert_close(beside.norm(dim=1), torch.ones(3))
    assert found.words() == ["barks", "dog", "falls", "loudly", "rain"]


def test_a_teacher_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"text\.teacher: cannot load"):
        Teacher(str(tmp_path / "nobody"))


def test_principal_directions_of_a_flat_cloud():
    """Points in a plane: two directions lose nothing, and the first is the longer axis."""
    angles = torch.linspace(0, 6.28, 50)
    flat = torch.stack([3 * angles.cos(), angles.sin(), torch.zeros(50)], 1) + 5.0
    mean, directions = principal(flat, 2)
    torch.testing.assert_close(
        (flat - mean) @ directions @ directions.T + mean, flat, atol=1e-4, rtol=1e-4
    )
    assert directions[:, 0].abs().argmax() == 0
    with pytest.raises(ValueError, match="embed_dim"):
        principal(flat, 4)


def test_only_new_texts_are_embedded_and_vectors_keep_their_order(teacher, tmp_path):
    class Counting(Teacher):
        asked: list[str] = []  # noqa: RUF012  # of all its calls

        def __call__(self, texts):
            self.asked.extend(texts)
            return super().__call__(texts)

    found, file = Counting(str(teacher)), tmp_path / "deep" / "vectors.safetensors"
    cached(found, "t", ["dog", "rain"], file)
    vectors = cached(found, "t", ["falls", "rain", "dog", "falls"], file)
    assert found.asked == ["dog", "rain", "falls"]
    torch.testing.assert_close(vectors, found(["falls", "rain", "dog", "falls"]))
    with pytest.raises(ValueError, match="vectors of t, not of other"):
        cached(found, "other", ["dog"], file)


def test_groups_mean_the_same_and_long_texts_are_left_out(make_recipe, texts, overrides):
    stage = build_stage("text", make_recipe(*overrides), texts / "captions", texts / "run")
    assert set(stage.groups) == {
        ("dog", "woof", "hound"),
        ("A cat meows", "The cat is calling"),
        ("Siren", "A loud noise-making device."),
    }
    batch = stage.load_batch(range(16))
    assert len(batch["tokens"]) == 16 + len(batch["second"])
    assert batch["same"].diagonal().all()
    assert len(stage.kinds) == 3
    torch.testing.assert_close(batch["target"].norm(dim=1), torch.ones(len(batch["target"])))
    again = stage.load_batch(range(16))
    assert torch.equal(batch["tokens"], again["tokens"])


def test_it_learns_the_teacher_and_starts_clap(go, texts, overrides, tmp_path):
    out = tmp_path / "text"
    steps = ("text.steps=60", "text.batch_size=8", "text.learning_rate=0.01")
    entries = go("text", out, *overrides, *steps, data=texts / "captions")
    assert entries[-1]["distillation"] < 0.5 * entries[0]["distillation"]
    folder = open_folder(out)
    assert dict(folder.parts["clap_text"].trained_against) == {"clap_audio": UNALIGNED}
    before = folder.load("clap_text")
    clap = ("clap.steps=2", "clap.train_text=false", *overrides)
    go("clap", out, *clap)
    aligned = open_folder(out)
    after = aligned.load("clap_text")
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(old, new) != (name == "logit_scale"), name
    assert aligned.parts["clap_text"].trained_against["clap_audio"] == (
        aligned.parts["clap_audio"].training_id
    )
    # called again, neither stage undoes what the other did
    go("text", out, *overrides, *steps, data=texts / "captions")
    go("clap", out, *clap)
    assert open_folder(out).parts["clap_text"].sha256 == aligned.parts["clap_text"].sha256
    shutil.copytree(out, tmp_path / "used", ignore=shutil.ignore_patterns("training"))
    with pytest.raises(ValueError, match="clap_audio, which was trained against"):
        go("text", tmp_path / "used", *overrides, *steps, data=texts / "captions")


def test_what_cannot_be_read(make_recipe, texts, overrides, tmp_path):
    with pytest.raises(ValueError, match=r"text\.teacher: must not be empty"):
        build_stage("text", make_recipe(), texts / "captions", tmp_path)
    with pytest.raises(ValueError, match="no wording in split 'test'; there are: dev, train"):
        read_wordings(texts / "wordings.csv", "test")
    with pytest.raises(ValueError, match=r"none\.csv: No such file"):
        read_wordings(tmp_path / "none.csv")
    (tmp_path / "bad.csv").write_text("family,wording\ndog,woof\n")
    with pytest.raises(ValueError, match="needs family, split, wording"):
        read_wordings(tmp_path / "bad.csv")


def test_the_shipped_wordings_are_none_of_the_frozen_prompts(tiny_recipe):
    from soundcrafter.data.captions import normalize_caption, read_excluded

    shipped = tiny_recipe.parent / "wordings.csv"
    frozen = read_excluded(["frozen:families", "frozen:free"])
    for split in ("train", "dev"):
        wordings = read_wordings(shipped, split)
        texts = [normalize_caption(w) for found in wordings.values() for w in found]
        assert not frozen.intersection(texts)
    train, dev = (read_wordings(shipped, split) for split in ("train", "dev"))
    for family, wordings in dev.items():
        assert not {w.lower() for w in wordings} & {w.lower() for w in train[family]}
