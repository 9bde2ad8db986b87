"""Byte-level BPE in Python: the tokens of a tokenizer.json without the package tokenizers."""

import json
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_SPACES = re.compile(f"[{_SPACE}]+")
_ENDS = re.compile(rf"\A[{_SPACE}]+|[{_SPACE}]+\Z")
# GPT-2's pieces of a text
_PIECES = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII
)
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_LETTERS = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(256 + number) for number, byte in enumerate(_OTHERS)
}


class ByteBpe:
    """The tokens of `text.Tokenizer`, of those that it trains and of RoBERTa's."""

    def __init__(self, data: Any) -> None:
        """`data`: the contents of a tokenizer.json. Raises ValueError for another kind."""
        try:
            self._normalize = _normalizers(data["normalizer"])
            self._prefix = _prefix_of(data["pre_tokenizer"])
            self._vocab, self._ranks = _bpe_of(data["model"], data["added_tokens"])
            self.pad_id: int = self._vocab["<pad>"]
            self.bos_id, self.eos_id = _ends_of(data["post_processor"])
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"not a byte-level BPE: {error!r}") from None
        self._unknown = self._vocab.get(data["model"].get("unk_token"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ByteBpe":
        """Read a tokenizer.json. Raises ValueError naming the file."""
        try:
            return cls(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def encode(
        self, texts: Sequence[str], max_length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `text.Tokenizer.encode`."""
        rows = [self._ids(text) for text in texts]
        return pad_rows(rows, max_length, pad_id=self.pad_id, eos_id=self.eos_id)

    def count(self, text: str) -> int:
        """The number of tokens of a text that is not truncated, including bos and eos."""
        return len(self._ids(text))

    def _ids(self, text: str) -> list[int]:
        for normalize in self._normalize:
            text = normalize(text)
        if self._prefix and text and not text.startswith(" "):
            text = f" {text}"
        ids = [self.bos_id]
        for piece in _PIECES.finditer("".join(map(_kind, text))):
            ids += self._merged(text[slice(*piece.span())])
        return [*ids, self.eos_id]

    def _merged(self, piece: str) -> list[int]:
        parts = [_LETTERS[byte] for byte in piece.encode("utf-8", "replace")]
        never = len(self._ranks)
        while True:
            ranks = [self._ranks.get(pair, never) for pair in pairwise(parts)]
            best = min(ranks, default=never)
            if best == never:
                ids = [self._vocab.get(part, self._unknown) for part in parts]
                return [token for token in ids if token is not None]
            parts = _merge(parts, [rank == best for rank in ranks])


def pad_rows(
    rows: Sequence[Sequence[int]], max_length: int, *, pad_id: int, eos_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of token ids -> (tokens [B, L], mask [B, L]), int64; the mask is 0 for padding.

    L is the length of the longest row, at most `max_length`; longer rows are truncated before eos.
    """
    rows = [row if len(row) <= max_length else [*row[: max_length - 1], eos_id] for row in rows]
    length = max(len(row) for row in rows)
    tokens = np.full((len(rows), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return tokens, mask


def _merge(parts: list[str], wanted: list[bool]) -> list[str]:
    """Join the parts i and i + 1 where wanted[i], from left to right, each at most once."""
    joined, at = [], 0
    while at < len(parts):
        is_pair = at < len(wanted) and wanted[at]
        joined.append("".join(parts[at : at + 1 + is_pair]))
        at += 1 + is_pair
    return joined


def _kind(letter: str) -> str:
    """An ASCII letter of the same kind: letters, numbers, spaces, the rest."""
    if letter.isascii():
        return letter
    if _SPACES.match(letter):
        return "\t"
    return {"L": "x", "N": "0"}.get(unicodedata.category(letter)[0], ".")


def _normalizers(data: Any) -> list[Callable[[str], str]]:
    steps: dict[str, Callable[[str], str]] = {
        "NFC": partial(unicodedata.normalize, "NFC"),
        # letter by letter: a sigma at the end of a word is no special case
        "Lowercase": lambda text: "".join(letter.lower() for letter in text),
        "Replace": lambda text: _SPACES.sub(" ", text),
        "Strip": lambda text: _ENDS.sub("", text),
    }
    if data is None:
        return []
    for step in data["normalizers"]:
        is_replace = step["type"] == "Replace"
        if is_replace and (step["pattern"], step["content"]) != ({"Regex": r"\s+"}, " "):
            raise ValueError(f"normalizer: unsupported: {step}")
    return [steps[step["type"]] for step in data["normalizers"]]


def _prefix_of(data: Any) -> bool:
    """Whether a space is put before a text."""
    if data["type"] != "ByteLevel" or not data.get("use_regex", True):
        raise ValueError(f"pre_tokenizer: unsupported: {data}")
    return bool(data["add_prefix_space"])


def _bpe_of(model: Any, added: Any) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """The ids of the tokens, and the rank of each merge."""
    off = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if model["type"] != "BPE" or any(model.get(name) for name in (*off, "ignore_merges")):
        raise ValueError("model: unsupported; allowed: plain BPE")
    # special tokens in a text are text, as in `text.Tokenizer`
    if not all(token["special"] for token in added):
        raise ValueError("added_tokens: unsupported; allowed: special ones")
    vocab = {**model["vocab"], **{token["content"]: token["id"] for token in added}}
    merges = [each.split(" ") if isinstance(each, str) else each for each in model["merges"]]
    return vocab, {(left, right): rank for rank, (left, right) in enumerate(merges)}


def _ends_of(data: Any) -> tuple[int, int]:
    """The first and the last token."""
    if data["type"] == "RobertaProcessing":
        return data["cls"][1], data["sep"][1]
    names = [data["single"][i]["SpecialToken"]["id"] for i in (0, -1)]
    if data["type"] != "TemplateProcessing" or len(data["single"]) != 3:
        raise ValueError(f"post_processor: unsupported: {data['type']}")
    first, last = (data["special_tokens"][name]["ids"] for name in names)
    return first[0], last[0]
