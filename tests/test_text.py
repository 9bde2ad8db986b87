"""The tokenizer: its ids, its padding and cutting, and that it is the same every time."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from soundcrafter.text import Tokenizer

CAPTIONS = [
    "A dog barks twice in the distance",
    "Heavy rain falls on a tin roof",
    "A dog barks while rain falls",
    "Birds chirp and a man speaks",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CAPTIONS * 5, 300)


def test_imports_no_torch():
    code = "import sys, soundcrafter.text; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ids(tokenizer):
    inner = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    assert [inner.token_to_id(t) for t in ("<pad>", "<bos>", "<unk>", "<eos>")] == [0, 1, 2, 3]
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 3)
    assert tokenizer.vocab_size == inner.get_vocab_size() == 300


def test_empty_text_is_first_and_last_token(tokenizer):
    tokens, mask = tokenizer.encode(["", "  \n"], 77)
    assert tokens.tolist() == [[1, 3], [1, 3]]
    assert mask.tolist() == [[1, 1], [1, 1]]


def test_pads_to_the_longest(tokenizer):
    tokens, mask = tokenizer.encode(["a dog", CAPTIONS[0], ""], 77)
    assert tokens.dtype == mask.dtype == np.int64
    assert tokens.shape == mask.shape
    lengths = mask.sum(axis=1)
    assert tokens.shape[1] == lengths.max() == lengths[1]
    for row, kept, length in zip(tokens, mask, lengths, strict=True):
        assert row[0] == 1
        assert row[length - 1] == 3
        assert not row[length:].any()
        assert kept.tolist() == [1] * length + [0] * (len(row) - length)


@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=4), max_length=st.integers(2, 12))
@settings(deadline=None)
def test_any_text_is_cut_and_keeps_its_end(tokenizer, texts, max_length):
    tokens, mask = tokenizer.encode(texts, max_length)
    whole, whole_mask = tokenizer.encode(texts, 10_000)
    assert tokens.shape[1] == min(max_length, whole.shape[1])
    for row, kept, full, full_kept in zip(tokens, mask, whole, whole_mask, strict=True):
        body, full_body = row[kept == 1], full[full_kept == 1]
        # the end stands once, last; no special token comes from the text itself
        assert (body < 4).nonzero()[0].tolist() == [0, len(body) - 1]
        assert body[-1] == 3
        assert len(body) == min(max_length, len(full_body))
        assert (body[:-1] == full_body[: len(body) - 1]).all()


def test_a_row_does_not_depend_on_its_batch(tokenizer):
    together, mask = tokenizer.encode(CAPTIONS, 20)
    for caption, row, kept in zip(CAPTIONS, together, mask, strict=True):
        assert tokenizer.encode([caption], 20)[0][0].tolist() == row[kept == 1].tolist()


def test_case_and_white_space_do_not_matter(tokenizer):
    tokens, _ = tokenizer.encode(["a dog barks", " A  DOG\tbarks "], 77)
    assert tokens[0].tolist() == tokens[1].tolist()
    twice, _ = tokenizer.encode(["dog dog"], 77)
    assert twice[0, 1] == twice[0, 2]  # the first word is the same token as a later one


@pytest.mark.parametrize("text", ["<eos>", "<pad> rain", "a <BOS> b", "<unk>"])
def test_spelled_special_tokens_are_text(tokenizer, text):
    tokens, _ = tokenizer.encode([text], 77)
    assert (tokens[0] < 4).sum() == 2


def test_text_survives(tokenizer):
    inner = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    for text in ("a dog barks", "雨 falls, çok güzel!", "🐕"):
        tokens, _ = tokenizer.encode([text], 77)
        assert inner.decode(tokens[0].tolist()).strip() == text


def test_training_is_deterministic_whatever_the_order(tokenizer):
    again = Tokenizer.train(iter(CAPTIONS[::-1] * 5), 300)
    assert again.to_json() == tokenizer.to_json()


def test_json_round_trip(tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    for copy in (
        Tokenizer.from_json(tokenizer.to_json()),
        Tokenizer.load(tmp_path / "tokenizer.json"),
    ):
        assert copy.to_json() == tokenizer.to_json()
        assert copy.encode(CAPTIONS, 9)[0].tolist() == tokenizer.encode(CAPTIONS, 9)[0].tolist()


def test_padding_and_truncation_left_in_a_file_are_ignored(tokenizer):
    inner = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    inner.enable_truncation(4)
    inner.enable_padding(length=32)
    loaded = Tokenizer.from_json(inner.to_str())
    assert loaded.encode(CAPTIONS, 20)[0].tolist() == tokenizer.encode(CAPTIONS, 20)[0].tolist()


def test_faults(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="vocab_size: got 259; allowed: 260 or more"):
        Tokenizer.train(CAPTIONS, 259)
    with pytest.raises(ValueError, match="list"):
        tokenizer.encode("a dog", 77)
    with pytest.raises(ValueError, match="texts"):
        tokenizer.encode([], 77)
    with pytest.raises(ValueError, match="max_length"):
        tokenizer.encode(["a"], 1)
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        Tokenizer.from_json("{}")
    with pytest.raises(ValueError, match="<pad>"):
        Tokenizer.from_json(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str())
    with pytest.raises(ValueError, match=r"none\.json: No such file"):
        Tokenizer.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"bad\.json"):
        Tokenizer.load(tmp_path / "bad.json")


def test_robertas_files_give_its_ids(tmp_path):
    sys.path.insert(0, str(Path(__file__).parent / "convert"))
    from checkpoints import CAPTIONS, roberta_tokenizer

    theirs = roberta_tokenizer()
    theirs.backend_tokenizer.model.save(str(tmp_path))
    ours = Tokenizer.from_roberta(tmp_path / "vocab.json", tmp_path / "merges.txt")
    texts = [*CAPTIONS, "", "Ein Hündchen  bellt; twice!", " \n"]
    expected = theirs(texts, padding=True, return_tensors="np")
    tokens, mask = ours.encode(texts, 512)
    assert tokens.tolist() == expected["input_ids"].tolist()
    assert mask.tolist() == expected["attention_mask"].tolist()
    assert Tokenizer.from_json(ours.to_json()).encode(texts, 512)[0].tolist() == tokens.tolist()
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "<s>": 1, "</s>": 2}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match="not RoBERTa's vocabulary"):
        Tokenizer.from_roberta(tmp_path / "vocab.json", tmp_path / "merges.txt")
    with pytest.raises(ValueError, match="not a BPE vocabulary"):
        Tokenizer.from_roberta(tmp_path / "missing.json", tmp_path / "merges.txt")
