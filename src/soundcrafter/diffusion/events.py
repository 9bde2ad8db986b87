"""Conditions that change over time, made of events that each have a condition of their own.

The *levels* of events [B, K, T] are their amplitudes in each latent frame, 0 where an event is
silent.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def event_levels(
    spans: Sequence[tuple[float, float]],
    amplitudes: Sequence[float],
    frames: int,
    fades: Sequence[tuple[float, float]] = (),
) -> Tensor:
    """The levels [K, frames] of events that each sound in one span.

    `spans` are (start, end) as fractions of the whole, `amplitudes` above 0, `fades` the fractions
    over which each comes and goes. An event sounds in each frame whose centre is in its span, and
    at least in the frame of its start.
    """
    centres = (torch.arange(frames) + 0.5) / frames
    levels = torch.zeros(len(spans), frames)
    fades = fades or [(0.0, 0.0)] * len(spans)
    for row, (start, end), amplitude, (rise, fall) in zip(
        levels, spans, amplitudes, fades, strict=True
    ):
        inside = (centres >= start) & (centres < end)
        ramp = torch.minimum((centres - start) / max(rise, 1e-9), (end - centres) / max(fall, 1e-9))
        row[inside] = amplitude * ramp[inside].clamp(1e-6, 1.0)
        row[min(max(int(start * frames), 0), frames - 1)] = amplitude
    return levels


def frame_conds(events: Tensor, levels: Tensor, silence: Tensor) -> Tensor:
    """The condition of each frame [B, T, E] of events [B, K, E] with these levels [B, K, T].

    Where one event sounds, it is that event's condition; where several do, the mean of theirs
    weighted by level, scaled to unit length; where none does, `silence` [E].
    """
    total = torch.einsum("bke,bkt->bte", events, levels.to(events))
    return torch.where((levels > 0).any(1)[..., None], F.normalize(total, dim=-1), silence)


def fill_pauses(levels: Tensor) -> Tensor:
    """Levels [B, K, T] in which every event lasts until the next begins, the first from the start.

    Where none sounds, the levels of the last frame with sound go on. Raises ValueError for events
    that are never heard.
    """
    sounding = (levels > 0).any(1)
    if not bool(sounding.any(1).all()):
        raise ValueError("levels: no event is ever heard")
    frames = torch.arange(levels.shape[2], device=levels.device).expand_as(sounding)
    last = torch.where(sounding, frames, -1).cummax(1).values
    first = sounding.int().argmax(1, keepdim=True)
    source = torch.where(last < 0, first, last)
    return levels.gather(2, source[:, None].expand_as(levels))


def with_silence(events: Tensor, levels: Tensor, silence: Tensor) -> tuple[Tensor, Tensor]:
    """Add an event of condition `silence` [E] that sounds where no other does.

    events [B, K, E], levels [B, K, T] -> [B, K + 1, E], [B, K + 1, T].
    """
    rest = 1.0 - (levels > 0).any(1, keepdim=True).to(levels)
    extra = silence.to(events).expand(len(events), 1, -1)
    return torch.cat([events, extra], 1), torch.cat([levels, rest], 1)
