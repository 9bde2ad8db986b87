"""How far the loudness of two composed sounds lies from what was asked: 40 pairs of steady sounds.

Each stem's loudness (BS.1770, gated) is measured in the finished mix. The second sound is asked to
be 0, 4, 8 or 12 LU quieter than the first; scenes from text may deviate from that by BALANCE.

    python benchmarks/scene_balance.py [MODEL] [--seed 0]
"""

import argparse
import itertools

import numpy as np

from soundcrafter import SoundCrafter
from soundcrafter.loudness import loudness
from soundcrafter.scene.render import render
from soundcrafter.scene.scene import Event, Scene, Track
from soundcrafter.scene.text import BALANCE

STEADY = (
    *("rain", "wind", "ocean waves", "a crackling fire", "crickets", "a vacuum cleaner"),
    *("a washing machine", "an airplane", "a helicopter", "an engine idling"),
)
PAIRS, QUIETER = 40, (0.0, -4.0, -8.0, -12.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model = SoundCrafter.from_pretrained(arguments.model)
    errors = []
    for number, pair in enumerate(list(itertools.combinations(STEADY, 2))[:PAIRS]):
        gain = QUIETER[number % len(QUIETER)]
        tracks = tuple(
            Track(name=name, events=(Event(prompt=prompt, gain=level),))
            for name, prompt, level in zip("ab", pair, (0.0, gain), strict=True)
        )
        seed = arguments.seed + number
        mix = render(Scene(tracks=tracks, seconds=5.0, seed=seed, balance=BALANCE), model)
        first, second = (loudness(mix.stems[name], mix.sample_rate) for name in "ab")
        errors.append(abs(second - first - gain))
    print(
        f"N {len(errors)}, seed {arguments.seed}: off by {np.median(errors):.2f} LU (median), "
        f"{np.max(errors):.2f} (worst); within 3 LU: {np.mean(np.array(errors) <= 3):.3f}"
    )


if __name__ == "__main__":
    main()
