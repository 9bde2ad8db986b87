"""The tokenizer: captions to padded rows of token ids, using byte-level BPE."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from soundcrafter.byte_bpe import pad_rows

SPECIAL_TOKENS = ("<pad>", "<bos>", "<unk>", "<eos>")
"""Their ids are 0 to 3, because transformers' CLIP treats an end id of 2 differently."""

_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


class Tokenizer:
    """Wraps a `tokenizers.Tokenizer` that adds a first (bos) and a last (eos) token.

    `pad_id`, `bos_id` and `eos_id` come from the wrapped tokenizer: 0, 1 and 3 if `train` made it.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        # `encode` truncates and pads; settings stored in a file must not do so as well
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # a caption that contains "<eos>" is text, not the end
        tokenizer.encode_special_tokens = True
        pad_id, ends = tokenizer.token_to_id("<pad>"), tokenizer.encode("").ids
        if pad_id is None or len(ends) != 2:
            raise ValueError("tokenizer: expected a <pad> token, and a first and a last token")
        self.pad_id: int = pad_id
        self.bos_id: int = ends[0]
        self.eos_id: int = ends[1]
        self._tokenizer = tokenizer

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn at most `vocab_size` tokens; the order of the captions does not matter.

        Every byte is a token, so any prompt can be encoded. Case and runs of white space are
        normalized. Raises ValueError if `vocab_size` is too small for the bytes.
        """
        smallest = len(SPECIAL_TOKENS) + len(_ALPHABET)
        if vocab_size < smallest:
            raise ValueError(f"vocab_size: got {vocab_size}; allowed: {smallest} or more")
        tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Sequence(
            [
                normalizers.NFC(),
                normalizers.Lowercase(),
                normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
                normalizers.Strip(),
            ]
        )
        # with a prefix space the first word gets the same token as elsewhere
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=_ALPHABET,
            show_progress=False,
        )
        tokenizer.train_from_iterator(captions, trainer)
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>",
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("<bos>", "<eos>")],
        )
        return cls(tokenizer)

    @classmethod
    def from_roberta(
        cls, vocab: str | os.PathLike[str], merges: str | os.PathLike[str]
    ) -> "Tokenizer":
        """RoBERTa's tokenizer (arXiv 1907.11692) from its vocab.json and merges.txt.

        It is byte-level BPE between <s> and </s>. Raises ValueError naming a file of another kind.
        """
        try:
            bpe = models.BPE.from_file(str(vocab), str(merges), unk_token="<unk>")
        except Exception as error:  # tokenizers raises nothing more specific
            raise ValueError(f"{vocab}, {merges}: not a BPE vocabulary: {error}") from None
        tokenizer = tokenizers.Tokenizer(bpe)
        ends = {name: tokenizer.token_to_id(name) or 0 for name in ("<s>", "<pad>", "</s>")}
        if list(ends.values()) != [0, 1, 2]:
            raise ValueError(f"{vocab}: not RoBERTa's vocabulary: <s>, <pad>, </s> are not 0, 1, 2")
        tokenizer.add_special_tokens(list(ends))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.RobertaProcessing(
            ("</s>", ends["</s>"]), ("<s>", ends["<s>"]), add_prefix_space=False
        )
        return cls(tokenizer)

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """Read what `to_json` wrote. Raises ValueError for anything else."""
        try:
            tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises nothing more specific
            raise ValueError(f"tokenizer: not a tokenizer.json: {error}") from None
        return cls(tokenizer)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Read a tokenizer.json. Raises ValueError naming the file."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def to_json(self) -> str:
        """The whole tokenizer as the compact text of a tokenizer.json."""
        text: str = self._tokenizer.to_str(pretty=False)
        return text

    @property
    def vocab_size(self) -> int:
        """The number of ids; with a small corpus, `train` may learn fewer than requested."""
        size: int = self._tokenizer.get_vocab_size()
        return size

    def encode(
        self, texts: Sequence[str], max_length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """B texts -> (tokens [B, L], mask [B, L]), int64; the mask is 1 for tokens, 0 for padding.

        L is the length of the longest row, at most `max_length`, including bos and eos; longer
        texts are truncated before eos. "" is bos and eos alone. Raises ValueError for a single
        string instead of a list, for no texts, and for a max_length below 2.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError(f"texts: got {texts!r}; expected a list of one or more strings")
        if max_length < 2:
            raise ValueError(f"max_length: got {max_length}; allowed: 2 or more")
        rows = [row.ids for row in self._tokenizer.encode_batch(list(texts))]
        return pad_rows(rows, max_length, pad_id=self.pad_id, eos_id=self.eos_id)

    def count(self, text: str) -> int:
        """The number of tokens of a text that is not truncated, including bos and eos."""
        return len(self._tokenizer.encode(text).ids)
