"""Two sources in one sound, as the tagger detects them: whether each is present, how loud one is
relative to the other, and when each begins.

A family's score is the natural log of its highest probability in any window. The family is present
where its score exceeds the family's threshold; the difference is its margin. All choices were made
on real recordings of `dev` and on mixes and sequences of them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from soundcrafter.evaluate.metrics import Array
from soundcrafter.evaluate.tagger_embedder import TaggerEmbedder

# Share of single recordings of other families that may exceed a family's threshold. With a second
# source probabilities are low: at 0.025, 0.05 and 0.1 both sources are found in 0.64, 0.82 and 0.95
# of 78 mixes of dev, and in 0.06, 0.08 and 0.17 of the single recordings they are made of.
FALSE_ALARMS = 0.05
MIN_RECORDINGS = 20  # needed to set a threshold: one false alarm in 20

# Decibels per nat of margin between two simultaneous sources, fitted to mixes of dev with known
# levels (-12 to 12 dB).
DECIBELS_PER_NAT = 2.5

# Onsets: windows shorter than the tagger's own locate a source more precisely.
TRACK_WINDOW, TRACK_HOP = 1.28, 0.16  # seconds
DETECTED = 0.35  # of a source's highest probability: the source is detected from here on
FRAME = 0.01  # seconds from one level to the next
LEVEL_FRAMES = 3  # frames that a level is averaged over
RISE_FRAMES = 5  # frames over which the rise of a level is measured
RANGE = 40.0  # dB below the loudest frame; anything quieter counts as silence


def source_scores(tagger: TaggerEmbedder, wave: np.ndarray, sample_rate: int) -> Array:
    """wave [N] at `sample_rate` Hz -> the score of each class [K], 0 or less."""
    return tagger.log_probabilities(wave, sample_rate).max(0).astype(np.float64)


def presence_thresholds(scores: np.ndarray, classes: np.ndarray) -> Array:
    """scores [N, K] of single recordings of `classes` [N] (places of 0 to K - 1) -> thresholds [K].

    A family's threshold is exceeded by FALSE_ALARMS of the recordings of all other families. Its
    own recordings (none to seven) are too few to set one. A common threshold with the same
    FALSE_ALARMS finds both sources in 0.64 of the mixes of dev, these find them in 0.82, because
    the tagger predicts some families more often than others. Raises ValueError if there are
    fewer than MIN_RECORDINGS of other families.
    """
    found = np.empty(scores.shape[1])
    for place in range(scores.shape[1]):
        others = scores[classes != place, place]
        if len(others) < MIN_RECORDINGS:
            raise ValueError(
                f"thresholds: got {len(others)} recordings of other families; "
                f"at least {MIN_RECORDINGS}"
            )
        found[place] = np.quantile(others, 1 - FALSE_ALARMS)
    return found


def level_balance(margins: Sequence[float]) -> float:
    """Margins of two simultaneous sources -> estimated level of the first over the second, in dB.

    The estimate comes from the tagger, because a mix has no stems to measure. On 324 mixes of dev
    its correlation with the true level is 0.70, with a mean error of 5 dB (spectra of the two
    families fitted to the mix by NMF: 0.65 at most). Compare medians of many sounds; single values
    are unreliable.
    """
    first, second = margins
    return DECIBELS_PER_NAT * (first - second)


def source_onsets(
    tagger: TaggerEmbedder, wave: np.ndarray, sample_rate: int, places: Sequence[int]
) -> list[float]:
    """The onsets of the classes at `places` in wave [N], in seconds from its start."""
    found = tagger.log_probabilities(wave, sample_rate, seconds=TRACK_WINDOW, hop=TRACK_HOP)
    rises = level_rises(wave, sample_rate)
    return [onset(np.exp(found[:, place]), rises) for place in places]


def onset(track: np.ndarray, rises: np.ndarray) -> float:
    """A source's probability in windows of TRACK_WINDOW every TRACK_HOP [R] -> its onset in s.

    It is the steepest of `rises` [T], see `level_rises`, within the first window where the source
    is detected; the first of equal ones.
    """
    window = int(np.argmax(track >= DETECTED * track.max()))
    begin = min(round(window * TRACK_HOP / FRAME), len(rises) - 1)
    within = rises[begin : begin + round(TRACK_WINDOW / FRAME)]
    return float((begin + within.argmax() + RISE_FRAMES / 2) * FRAME)


def level_rises(wave: np.ndarray, sample_rate: int) -> Array:
    """wave [N] -> the rise of its level in dB over the RISE_FRAMES after each frame [T]."""
    hop = max(round(FRAME * sample_rate), 1)
    frames = max(len(wave) // hop, 1)
    reach = LEVEL_FRAMES // 2 * hop
    padded = np.zeros(frames * hop + 2 * reach)
    padded[reach : reach + len(wave)] = wave[: frames * hop + reach]
    power = np.square(padded).reshape(-1, hop).sum(1)
    sums: NDArray[np.float64] = np.convolve(power, np.ones(LEVEL_FRAMES), mode="valid")
    levels = 10 * np.log10(np.maximum(sums, sums.max() * 10 ** (-RANGE / 10)) + 1e-20)
    ahead = np.append(levels[RISE_FRAMES:], np.full(min(RISE_FRAMES, frames), levels[-1]))
    return ahead - levels
