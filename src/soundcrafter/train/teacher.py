"""The sentence encoder that the text tower is distilled from; used in training only."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from soundcrafter.files import make_folder, one_line, replacing

_BATCH = 256
_MAX_TOKENS = 64
_HEADER = "soundcrafter"


class Teacher:
    """A sentence encoder in transformers' layout, mean-pooled as sentence-transformers do."""

    def __init__(self, name: str) -> None:
        """`name`: a folder or hub name. Raises ValueError where it cannot be loaded."""
        # imported here: transformers takes seconds to import
        from transformers import AutoModel, AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
            self.network: Any = AutoModel.from_pretrained(name).eval()
        except (OSError, ValueError, ImportError) as error:
            reason = one_line(str(error).partition("\n")[0] or type(error).__name__)
            raise ValueError(
                f"text.teacher: cannot load {name!r}: {reason}; expected a folder or hub name of "
                "a sentence encoder, such as sentence-transformers/all-MiniLM-L6-v2"
            ) from None

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """N texts -> unit vectors [N, D]."""
        # sorted by length to save padding
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        rows: list[Tensor] = [torch.empty(0)] * len(texts)
        for begin in range(0, len(order), _BATCH):
            places = order[begin : begin + _BATCH]
            batch = self.tokenizer(
                [texts[place] for place in places],
                padding=True,
                truncation=True,
                max_length=_MAX_TOKENS,
                return_tensors="pt",
            )
            states = self.network(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].to(states.dtype)
            pooled = (states * mask).sum(1) / mask.sum(1)
            for place, row in zip(places, F.normalize(pooled, dim=-1), strict=True):
                rows[place] = row
        return torch.stack(rows)

    def words(self) -> list[str]:
        """The words of three letters or more that its WordPiece vocabulary holds whole, sorted."""
        return sorted(
            word for word in self.tokenizer.get_vocab() if re.fullmatch("[a-z]{3,}", word)
        )


def principal(vectors: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """vectors [N, D] -> (mean [D], their first `width` principal directions [D, width]).

    Sentence vectors share a large mean; without it, unlike meanings are nearly orthogonal.
    Raises ValueError for more directions than D or N.
    """
    if width > min(vectors.shape):
        raise ValueError(
            f"embed_dim: got {width}; at most {min(vectors.shape)}, the teacher's width and the "
            "number of captions"
        )
    mean = vectors.mean(0)
    _, directions = torch.linalg.eigh((vectors - mean).T.double() @ (vectors - mean).double())
    return mean, directions.flip(1)[:, :width].to(vectors.dtype)


def cached(teacher: Teacher, name: str, texts: Sequence[str], file: Path) -> Tensor:
    """The teacher's vectors of the texts [N, D]; `file` keeps those of texts it was asked before.

    Raises ValueError where the file contains vectors of another teacher than `name`.
    """
    known: dict[str, int] = {}
    vectors = torch.empty(0, 0)
    if file.is_file():
        with safe_open(file, framework="pt") as opened:
            header = json.loads(opened.metadata()[_HEADER])
            vectors = opened.get_tensor("vectors")
        if header["teacher"] != name:
            raise ValueError(f"{file}: contains vectors of {header['teacher']}, not of {name}")
        known = {text: place for place, text in enumerate(header["texts"])}
    missing = [text for text in dict.fromkeys(texts) if text not in known]
    if missing:
        found = teacher(missing)
        vectors = torch.cat([vectors, found]) if known else found
        known |= {text: len(known) + i for i, text in enumerate(missing)}
        make_folder(file.parent)
        header = json.dumps({"teacher": name, "texts": list(known)})
        try:
            with replacing(file) as temporary:
                save_file({"vectors": vectors}, temporary, {_HEADER: header})
        except SafetensorError as error:
            raise ValueError(f"{file}: cannot write: {error}") from None
    return vectors[[known[text] for text in texts]]
