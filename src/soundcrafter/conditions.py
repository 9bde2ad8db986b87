"""Conditions for the U-Net and for CLAP's ranking, from prompts and timelines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from soundcrafter.blend import Blend
from soundcrafter.diffusion.events import event_levels, fill_pauses, frame_conds, with_silence
from soundcrafter.models.unet import UNetConfig, silence_cond
from soundcrafter.timeline import Timeline

MIN_SCORED = 0.2  # seconds; the least of a sound that a span is scored by


@dataclass(frozen=True, eq=False)
class EmbeddedSpan:
    """An embedded prompt, and when its sound is heard."""

    cond: Tensor  # [E]
    start: float  # seconds
    end: float
    amplitude: float = 1.0  # relative to other events
    fades: tuple[float, float] = (0.0, 0.0)  # seconds over which it comes and goes

    def within(self, rate: float, length: int) -> slice:
        """The part of `length` frames or samples, `rate` a second, in which it is heard."""
        least = round(MIN_SCORED * rate)
        start = max(0, min(round(self.start * rate), length - least))
        return slice(start, max(round(self.end * rate), start + least))


@dataclass(frozen=True, eq=False)
class Conditions:
    """The conditions of B sounds, as `sample` takes them."""

    events: tuple[tuple[EmbeddedSpan, ...], ...]  # of each sound
    cond: Tensor  # [B, E]; with timelines [B, T, E]; masked [B, K, E]
    levels: Tensor | None = None  # masked: [B, K, T]

    def repeat(self, count: int) -> "Conditions":
        """Repeat each sound."""
        levels = None if self.levels is None else self.levels.repeat_interleave(count, 0)
        events = tuple(row for row in self.events for _ in range(count))
        return Conditions(events, self.cond.repeat_interleave(count, 0), levels)


def embed_prompts(
    prompts: Sequence[str | Blend | Timeline],
    embed: Callable[[str | Blend], Tensor],
    seconds: float,
) -> tuple[tuple[EmbeddedSpan, ...], ...]:
    """The events of each prompt, given `embed`: prompt -> [E]. All but timelines are heard for all
    of the `seconds`."""
    rows: list[tuple[EmbeddedSpan, ...]] = []
    for prompt in prompts:
        if not isinstance(prompt, Timeline):
            rows.append((EmbeddedSpan(embed(prompt), 0.0, seconds),))
            continue
        rows.append(
            tuple(
                EmbeddedSpan(
                    embed(span.prompt),
                    span.start,
                    min(span.end, seconds),
                    10 ** (span.gain / 20),
                    (span.fade_in, span.fade_out),
                )
                for span in prompt.spans
            )
        )
    return tuple(rows)


def conditions(
    rows: tuple[tuple[EmbeddedSpan, ...], ...],
    config: UNetConfig,
    *,
    frames: int,
    seconds: float,
    heard: float,
    masked: bool | None,
) -> Conditions:
    """The conditions of sounds with these events, in `frames` latent frames lasting `seconds`, of
    which the sound keeps `heard`.

    `masked`: see `SamplingConfig`. A U-Net that was not trained on timelines knows no silence, so
    its events last until the next one.
    """
    first, most = rows[0][0].cond, max(map(len, rows))
    events = first.new_zeros(len(rows), most, len(first))
    levels = first.new_zeros(len(rows), most, frames)
    for i, row in enumerate(rows):
        events[i, : len(row)] = torch.stack([event.cond for event in row])
        # what lasts to the end of the sound lasts to that of the latent, which is longer
        ends = [seconds if event.end >= heard else event.end for event in row]
        spans = [(e.start / seconds, end / seconds) for e, end in zip(row, ends, strict=True)]
        amplitudes = [event.amplitude for event in row]
        fades = [(rise / seconds, fall / seconds) for rise, fall in (e.fades for e in row)]
        levels[i, : len(row)] = event_levels(spans, amplitudes, frames, fades).to(levels)
    silence = silence_cond(config, events)
    if not config.timelines:
        levels = fill_pauses(levels)
        if masked is not False:
            return Conditions(rows, events, levels)
    if masked:
        return Conditions(rows, *with_silence(events, levels, silence))
    return Conditions(rows, frame_conds(events, levels, silence))
