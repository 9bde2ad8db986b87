"""Tokens in Python are those of the package tokenizers."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundcrafter.byte_bpe import ByteBpe
from soundcrafter.hub import find_model
from soundcrafter.text import Tokenizer

TEXTS = (
    "",
    " ",
    "A dog barks; it's 3 o'clock!!",
    "  many\t\n spaces\u3000and\u2009others \x1c \x85 ",
    "<eos> <pad> are text</s>",
    "Äpfel e\u0301te\u0301 ΟΔΟΣ İstanbul ǅ ﬁ",
    "風 と 雨 ١٢٣ ½ ⅷ 🎧🏽‍♀️",
    "they'll've SHE'S 'tis don't'",
    "word" * 2_000,
    "a" * 2_001,
)


@pytest.fixture(scope="module")
def bundled() -> str:
    return (find_model(None) / "tokenizer.json").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def roberta(bundled, tmp_path_factory) -> str:
    """A tokenizer of RoBERTa's kind: no normalizer, no space before a text."""
    model = json.loads(bundled)["model"]
    words = [word for word in model["vocab"] if not (word[0] == "<" and word[-1] == ">")]
    folder = tmp_path_factory.mktemp("roberta")
    vocab = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *words])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    merges = [" ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    return Tokenizer.from_roberta(folder / "vocab.json", folder / "merges.txt").to_json()


@pytest.fixture(scope="module", params=["bundled", "roberta"])
def both(request) -> tuple[ByteBpe, Tokenizer]:
    text = request.getfixturevalue(request.param)
    return ByteBpe(json.loads(text)), Tokenizer.from_json(text)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=40), min_size=1, max_size=8
    )
)
def test_the_same_tokens(both, texts):
    compare(*both, texts)


def test_the_same_tokens_of_chosen_texts(both):
    ours, theirs = both
    assert (ours.pad_id, ours.bos_id, ours.eos_id) == (theirs.pad_id, theirs.bos_id, theirs.eos_id)
    compare(ours, theirs, TEXTS)


def compare(ours, theirs, texts):
    for found, wanted in zip(ours.encode(texts, 30), theirs.encode(texts, 30), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert [ours.count(text) for text in texts] == [theirs.count(text) for text in texts]


@pytest.mark.parametrize("change", ["model", "normalizer", "pre_tokenizer", "added", "text"])
def test_another_kind_is_refused(bundled, tmp_path, change):
    data = json.loads(bundled)
    if change == "model":
        data["model"] = {"type": "WordLevel", "vocab": {}}
    elif change == "normalizer":
        data["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFD"}]}
    elif change == "pre_tokenizer":
        data["pre_tokenizer"] = {"type": "Whitespace"}
    elif change == "added":
        data["added_tokens"][0]["special"] = False
    else:
        data = "text"
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"tokenizer\.json: "):
        ByteBpe.load(file)
