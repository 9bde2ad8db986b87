"""Training sounds made of several recordings, each in its own time span: in order, at once, or both
by chance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from soundcrafter.audio import Wave, fit_length, sound_end, sound_start
from soundcrafter.data.augment import gain, power
from soundcrafter.diffusion.events import event_levels

MAX_EVENTS = 3  # recordings in one sound
MIN_SHARE = 0.1  # of the whole sound: the least time that a recording gets
CUT_FADE = 0.005  # of the whole sound: fade of a recording that is cut


@dataclass(frozen=True, kw_only=True)
class DrawnEvent:
    """A recording in a training sound."""

    wave: np.ndarray  # [N] float32, what is heard of it, from its start; then silence
    caption: str | None
    file: str  # relative to the manifest's root
    start: float  # as fractions of the sound
    end: float
    amplitude: float  # relative to the other recordings


@dataclass(frozen=True, kw_only=True)
class EventRows:
    """The events of a batch of B sounds in one list, and when they sound."""

    wave: Tensor  # [M, N] float32
    captions: tuple[str | None, ...]  # M
    places: tuple[tuple[int, int], ...]  # M of (sound, event)
    levels: Tensor  # [B, K, T], see `diffusion.events`

    def embed(self, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """Embed the waves: [B, K, E], zero for events that do not exist."""
        return self._spread(embed(self.wave))

    def embed_captions(self, embed: Callable[[list[str]], Tensor]) -> Tensor:
        """Embed the captions, which must all be there: [B, K, E]."""
        captions = [caption for caption in self.captions if caption is not None]
        assert len(captions) == len(self.captions)
        return self._spread(embed(captions))

    def _spread(self, rows: Tensor) -> Tensor:
        spread = rows.new_zeros(*self.levels.shape[:2], rows.shape[1])
        sounds, events = zip(*self.places, strict=True)
        spread[list(sounds), list(events)] = rows
        return spread


def event_rows(
    wave: Tensor,
    captions: Sequence[str | None],
    events: Sequence[Sequence[DrawnEvent]],
    frames: int,
) -> EventRows:
    """List the events of sounds [B, N], with levels in `frames` latent frames.

    A sound without events is one event that lasts from its start to its end.
    """
    rows: list[Tensor] = []
    texts: list[str | None] = []
    places: list[tuple[int, int]] = []
    levels = torch.zeros(len(wave), MAX_EVENTS, frames)
    for sound, (own, caption, found) in enumerate(zip(wave, captions, events, strict=True)):
        rows += [torch.from_numpy(event.wave) for event in found] or [own]
        texts += [event.caption for event in found] or [caption]
        spans = [(event.start, event.end) for event in found] or [(0.0, 1.0)]
        places += [(sound, number) for number in range(len(spans))]
        amplitudes = [event.amplitude for event in found] or [1.0]
        levels[sound, : len(spans)] = event_levels(spans, amplitudes, frames)
    return EventRows(
        wave=torch.stack(rows), captions=tuple(texts), places=tuple(places), levels=levels
    )


def place_events(
    waves: Sequence[Wave],
    captions: Sequence[str | None],
    files: Sequence[str],
    length: int,
    snr_db: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[Wave, tuple[DrawnEvent, ...]]:
    """Mix waves [N], none silent, in time spans drawn by `rng`: the mix [length] and its events.

    Silence before and after each sound is cut first. The levels follow TANGO's rule: every
    recording is scaled to the same sound pressure, and then, here, to a level drawn from `snr_db`.
    """
    mixed, events = np.zeros(length, np.float32), []
    slots = _slots(len(waves), rng)
    for wave, caption, file, slot in zip(waves, captions, files, slots, strict=True):
        start, most = (round(part * length) for part in slot)
        wave = _cut(wave[sound_start(wave) : sound_end(wave)], most, round(CUT_FADE * length))
        # half of the range for each of two makes the whole range for their difference
        level = rng.uniform(*snr_db) / 2
        scaled = gain(wave / np.sqrt(power(wave)), level)
        mixed[start : start + len(wave)] += scaled
        events.append(
            DrawnEvent(
                wave=fit_length(wave, length),
                caption=caption,
                file=file,
                start=start / length,
                end=(start + len(wave)) / length,
                amplitude=float(10 ** (level / 20)),
            )
        )
    return mixed, tuple(events)


def _slots(count: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Draw the start and the longest duration of each event, as fractions of the sound."""
    kind = rng.choice(["in order", "at once", "free"])
    if kind == "at once":
        return [(0.0, 1.0)] * count
    if kind == "in order":
        inner = (np.arange(1, count) + rng.uniform(-0.3, 0.3, count - 1)) / count
        bounds = np.concatenate([[0.0], inner, [1.0]])
        widths = np.diff(bounds)
        pauses = rng.uniform(0.0, 0.3, count) * widths  # before each
        return list(zip(bounds[:-1] + pauses, widths - pauses, strict=True))
    starts = rng.uniform(0.0, 0.8, count)
    return [(start, rng.uniform(MIN_SHARE, 1.0 - start)) for start in starts]


def _cut(wave: Wave, most: int, fade: int) -> Wave:
    """Cut wave [N] to at most `most` samples, with a fade at the cut."""
    if len(wave) <= most:
        return wave
    cut, fade = wave[:most].copy(), min(fade, most)
    cut[most - fade :] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
    return cut
