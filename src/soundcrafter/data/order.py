"""The order of draws: which recording and variant an index stands for. Sounds and Latents share
it, so that training from encoded data sees what training from audio sees."""

from collections.abc import Iterator, Sequence

import numpy as np

# What a random generator is for: each purpose has its own stream.
CHOICE, EPOCH, DRAW, VARIANT = 1, 2, 3, 4


def generator(seed: int, purpose: int, first: int, second: int = 0) -> np.random.Generator:
    """A generator that is a function of its arguments alone."""
    # The purpose leads and is never 0: numpy reads [1, 2] and [1, 2, 0] as the same seed.
    return np.random.default_rng([purpose, first, second, seed])


def kind_of(label: str | None, caption: str | None, file: str) -> str:
    """What counts as one label: the label; without one the caption; without that the file."""
    if label is not None:
        return f"label {label}"
    return f"caption {caption}" if caption is not None else f"file {file}"


class DrawOrder:
    """Draws over recordings of the given kinds; every method is a function of its arguments."""

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
            raise ValueError("there is no recording to draw from")
        groups: dict[str, list[int]] = {}
        for recording, kind in enumerate(kinds):
            groups.setdefault(kind, []).append(recording)
        self._groups = list(groups.values())
        self._group_of = {item: i for i, group in enumerate(self._groups) for item in group}
        self._by_group = [item for group in self._groups for item in group]
        self._starts = np.cumsum([0, *map(len, self._groups)]).tolist()
        # Lots of each group in a balanced draw, cumulated.
        self._lots = np.cumsum([0, *(min(len(group), full_share) for group in self._groups)])
        self._permutation = (-1, np.empty(0, np.int64))
        self.balance, self.variants, self.seed = balance, variants, seed

    def __len__(self) -> int:
        return len(self._by_group)

    def choose(self, index: int) -> tuple[int, int]:
        """(recording, variant) of draw `index`; the variant is 0 where there are none.

        Balanced: a label, by min(its recordings, full_share), then a uniform recording of it.
        Otherwise index // len is an epoch, in which each recording comes once.
        """
        rng = generator(self.seed, CHOICE, index)
        if self.balance == "label":
            group = self._groups[self._group_at(int(rng.integers(self._lots[-1])))]
            recording = group[rng.integers(len(group))]
        else:
            epoch, position = divmod(index, len(self))
            recording = int(self._epoch(epoch)[position])
        return recording, int(rng.integers(self.variants)) if self.variants else 0

    def chances(self) -> np.ndarray:
        """The probability of each recording in a draw, [recordings] float64."""
        chances = np.full(len(self), 1 / len(self))
        if self.balance == "label":
            shares = np.diff(self._lots) / self._lots[-1]
            for group, share in zip(self._groups, shares, strict=True):
                chances[group] = share / len(group)
        return chances

    def from_here(self, recording: int) -> Iterator[int]:
        """The recording and, should it be unreadable, those to try in its place."""
        for offset in range(len(self)):
            yield (recording + offset) % len(self)

    def partners(self, recording: int, rng: np.random.Generator) -> Iterator[int]:
        """Recordings of other kinds than this one's: a random one first, then those to try in
        its place. Empty where there is only one kind."""
        own = self._group_of[recording]
        # Positions in _by_group, counted from the end of the own group round to its start.
        first, others = self._starts[own + 1], len(self) - len(self._groups[own])
        if not others:
            return
        if self.balance == "label":
            own_lots = int(self._lots[own + 1] - self._lots[own])
            lot = int(rng.integers(self._lots[-1] - own_lots))
            group = self._group_at(lot + own_lots if lot >= self._lots[own] else lot)
            member = int(rng.integers(len(self._groups[group])))
            begin = (self._starts[group] + member - first) % len(self)
        else:
            begin = int(rng.integers(others))
        for offset in range(others):
            yield self._by_group[(first + (begin + offset) % others) % len(self)]

    def _group_at(self, lot: int) -> int:
        return int(np.searchsorted(self._lots, lot, side="right")) - 1

    def _epoch(self, epoch: int) -> np.ndarray:
        known, permutation = self._permutation  # one tuple, so that threads see a matching pair
        if known != epoch:
            permutation = generator(self.seed, EPOCH, epoch).permutation(len(self))
            self._permutation = (epoch, permutation)
        return permutation
