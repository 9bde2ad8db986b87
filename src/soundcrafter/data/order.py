"""The order of draws: which recording and variant belong to an index. `Sounds` and `Latents` share
it, so that training on encoded data sees the same draws as training on audio."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

# The purposes of random generators. Each has its own stream.
CHOICE, EPOCH, DRAW, VARIANT = 1, 2, 3, 4


def generator(seed: int, purpose: int, first: int, second: int = 0) -> np.random.Generator:
    """Return a generator that depends only on its arguments."""
    # The purpose, which is never 0, comes first: numpy treats [1, 2] and [1, 2, 0] alike.
    return np.random.default_rng([purpose, first, second, seed])


def kind_of(label: str | None, caption: str | None, file: str) -> str:
    """Return the class for balancing: the label, else the caption, else the file."""
    if label is not None:
        return f"label {label}"
    return f"caption {caption}" if caption is not None else f"file {file}"


class DrawOrder:
    """The order of draws of recordings of the given kinds, as pure functions of the index."""

    def __init__(
        self,
        kinds: Sequence[str],
        *,
        balance: str,
        variants: int,
        seed: int,
        full_share: int = 1,
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed: got {seed}; must be 0 or more")
        if not kinds:
            raise ValueError("no recordings to draw from")
        groups: dict[str, list[int]] = {}
        for recording, kind in enumerate(kinds):
            groups.setdefault(kind, []).append(recording)
        self._groups = list(groups.values())
        self._group_of = {item: i for i, group in enumerate(self._groups) for item in group}
        self._by_group = [item for group in self._groups for item in group]
        self._starts = np.cumsum([0, *map(len, self._groups)]).tolist()
        # Cumulative weights of the groups in balanced draws.
        self._weights = np.cumsum([0, *(min(len(group), full_share) for group in self._groups)])
        self._permutation = (-1, np.empty(0, np.int64))
        self.balance, self.variants, self.seed = balance, variants, seed

    def __len__(self) -> int:
        return len(self._by_group)

    def choose(self, index: int) -> tuple[int, int]:
        """Return (recording, variant) of draw `index`; the variant is 0 if there are none.

        Balanced draws choose a label with weight min(its recordings, full_share), and then one of
        its recordings. Otherwise index // len is the epoch, in which each recording occurs once.
        """
        rng = generator(self.seed, CHOICE, index)
        if self.balance == "label":
            group = self._groups[self._group_at(int(rng.integers(self._weights[-1])))]
            recording = group[rng.integers(len(group))]
        else:
            epoch, position = divmod(index, len(self))
            recording = int(self._epoch(epoch)[position])
        return recording, int(rng.integers(self.variants)) if self.variants else 0

    def chances(self) -> np.ndarray:
        """Return the probability of each recording in a draw, [recordings] float64."""
        chances = np.full(len(self), 1 / len(self))
        if self.balance == "label":
            shares = np.diff(self._weights) / self._weights[-1]
            for group, share in zip(self._groups, shares, strict=True):
                chances[group] = share / len(group)
        return chances

    def from_here(self, recording: int) -> Iterator[int]:
        """Yield the recording, then the ones to try instead if it is unreadable."""
        for offset in range(len(self)):
            yield (recording + offset) % len(self)

    def partners(self, recording: int, rng: np.random.Generator) -> Iterator[int]:
        """Yield recordings of other kinds for a mix: a random one, then the ones to try instead if
        it is unreadable. Yields nothing if there is only one kind."""
        own = self._group_of[recording]
        # Positions in _by_group, counted from the end of this group around to its start.
        first, others = self._starts[own + 1], len(self) - len(self._groups[own])
        if not others:
            return
        if self.balance == "label":
            own_weight = int(self._weights[own + 1] - self._weights[own])
            drawn = int(rng.integers(self._weights[-1] - own_weight))
            group = self._group_at(drawn + own_weight if drawn >= self._weights[own] else drawn)
            member = int(rng.integers(len(self._groups[group])))
            begin = (self._starts[group] + member - first) % len(self)
        else:
            begin = int(rng.integers(others))
        for offset in range(others):
            yield self._by_group[(first + (begin + offset) % others) % len(self)]

    def same_kind(self, recording: int, others: Iterable[int]) -> bool:
        """Whether a recording is of the same kind as any of the others."""
        return self._group_of[recording] in {self._group_of[other] for other in others}

    def _group_at(self, position: int) -> int:
        return int(np.searchsorted(self._weights, position, side="right")) - 1

    def _epoch(self, epoch: int) -> np.ndarray:
        known, permutation = self._permutation  # one tuple, so that threads see a matching pair
        if known != epoch:
            permutation = generator(self.seed, EPOCH, epoch).permutation(len(self))
            self._permutation = (epoch, permutation)
        return permutation
