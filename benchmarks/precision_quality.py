"""What a lower precision changes in the sounds of a model: the same prompts and seeds in fp32 too.

    python benchmarks/precision_quality.py --precision bf16

One frozen wording of each of the first --count families, one candidate (a choice among several may
tip over by a rounding). Prints how far the sounds of both precisions are apart in log-mel (nats),
beside sounds of another seed, which are as good; how many the tagger takes for their family in
each, and how many it takes for the same thing.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from soundcrafter import SoundCrafter
from soundcrafter.evaluate.metrics import log_mel_distance, wilson_interval
from soundcrafter.evaluate.prompt_sets import Prompt, family_prompts
from soundcrafter.evaluate.tagger_embedder import TaggerEmbedder
from soundcrafter.mel_bands import MelConfig
from soundcrafter.sound import Sound


def first_wordings(count: int) -> list[Prompt]:
    """One frozen wording of each of the first families."""
    families: dict[str, Prompt] = {}
    for prompt in family_prompts():
        families.setdefault(prompt.family, prompt)
    return list(families.values())[:count]


def measure(
    model: str | None, precision: str, count: int, seed: int, device: str
) -> dict[str, Any]:
    """The figures of one model; see the head of this file."""
    prompts, tagger = first_wordings(count), TaggerEmbedder.bundled()
    texts = [prompt.text for prompt in prompts]

    def sounds(name: str, first: int) -> list[Sound]:
        crafter = SoundCrafter.from_pretrained(model, device, precision=name)
        made = []
        for text in texts:
            made += crafter.generate(text, seed=first, candidates=1)
        return made

    exact, rounded, other = sounds("fp32", seed), sounds(precision, seed), sounds("fp32", seed + 1)
    result: dict[str, Any] = {
        "apart": distance(exact, rounded),
        "apart_by_seed": distance(exact, other),
        "n": len(prompts),
    }
    heard = {"fp32": heard_in(tagger, exact), precision: heard_in(tagger, rounded)}
    for name, classes in heard.items():
        hits = sum(c == prompt.family for c, prompt in zip(classes, prompts, strict=True))
        result[name] = {"hits": hits, "interval": wilson_interval(hits, len(prompts))}
    pairs = zip(heard["fp32"], heard[precision], strict=True)
    result["same"] = sum(a == b for a, b in pairs)
    return result


def distance(first: Sequence[Sound], second: Sequence[Sound]) -> float:
    """Mean distance in log-mel of sounds pair by pair."""
    mel = MelConfig(sample_rate=first[0].sample_rate)
    pairs = zip(first, second, strict=True)
    return float(np.mean([log_mel_distance(a.wave, b.wave, mel) for a, b in pairs]))


def heard_in(tagger: TaggerEmbedder, sounds: Sequence[Sound]) -> list[str]:
    """The class that the tagger gives each sound."""
    found = []
    for sound in sounds:
        probabilities = tagger(sound.wave, sound.sample_rate).probabilities
        assert probabilities is not None
        found.append(tagger.classes[int(probabilities.argmax())])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp16"))
    parser.add_argument("--count", type=int, default=52)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    found = measure(options.model, options.precision, options.count, options.seed, options.device)
    print(f"N {found['n']}, seed {options.seed}")
    print(f"log-mel distance of {options.precision} to fp32: {found['apart']:.3f} nats")
    print(f"log-mel distance of another seed to fp32: {found['apart_by_seed']:.3f} nats")
    for name in ("fp32", options.precision):
        low, high = found[name]["interval"]
        share = found[name]["hits"] / found["n"]
        print(f"recognised as their family, {name}: {share:.3f} ({low:.3f} to {high:.3f})")
    print(f"taken for the same in both: {found['same']} of {found['n']}")


if __name__ == "__main__":
    main()
