"""What edits do, on recordings: how far variations go, whether seams can be told, what steers.

    python benchmarks/editing.py [MODEL] --data DIR [--split dev] [--count 40] [--keep DIR]

Vary: CLAP distance to the recording at each strength. Seams: the share of seams of inpainting,
extending and looping whose spectral flux lies within the 95th percentile of the flux elsewhere in
the same sound (95% would be a seam like any other place). Like: whether the sound is nearer to the
recording it should resemble than to another. More: whether "bright" raises the spectral centroid,
and "reverberant" the decay time. --keep writes takes of each recording, by family.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from soundcrafter import Sound, SoundCrafter
from soundcrafter.audio import Wave, fit_length, read_audio
from soundcrafter.data.manifest import read_manifest
from soundcrafter.editing import VARY, Region
from soundcrafter.evaluate.metrics import wilson_interval
from soundcrafter.markdown import format_interval

SECONDS = 5.0
STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
WINDOW, HOP = 512, 160  # samples, of the spectral flux
NEAR = 1  # frames on both sides of a seam


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    model = SoundCrafter.from_pretrained(options.model)
    waves = recordings(options.data, options.split, options.count, options.seed, model.sample_rate)
    print(f"N {len(waves)} recordings of {options.split}, seed {options.seed}")
    vary(model, waves, options.seed, options.keep)
    for name, make in SEAMS.items():
        shares = [
            seam_is_hidden(*make(model, wave, options.seed + i))
            for i, (_, wave) in enumerate(waves)
        ]
        print(f"seam of {name}: {share(shares)}")
    like(model, [wave for _, wave in waves], options.seed)
    for word, measure in (("bright", centroid), ("reverberant", decay_time)):
        prompts = [family for family, _ in waves]
        print(f"more {word}: {share(steered(model, prompts, word, measure, options.seed))}")


def recordings(data: Path, split: str, count: int, seed: int, rate: int) -> list[tuple[str, Wave]]:
    """Families and waves of recordings drawn at random, 1 to SECONDS long."""
    found = read_manifest(data, split=split, label_column="family").recordings
    long = [r for r in found if r.label and r.seconds >= 1.0]
    chosen = np.random.default_rng(seed).permutation(len(long))[:count]
    waves = []
    for recording in (long[i] for i in chosen):
        seconds = min(recording.seconds, SECONDS)
        wave = read_audio(recording.file, rate, start=recording.start, seconds=seconds)
        waves.append((str(recording.label), wave))
    return waves


def vary(
    model: SoundCrafter, waves: Sequence[tuple[str, Wave]], seed: int, keep: Path | None
) -> None:
    rate, distances, between = model.sample_rate, [], []
    for number, (family, wave) in enumerate(waves):
        source, row = embed(model, wave), []
        for strength in (0.0, *STRENGTHS):
            (made,) = model.generate(init=(wave, rate), strength=strength, seed=seed + number)
            row.append(1 - float(source @ embed(model, made.wave)))
            if strength == VARY:
                (other,) = model.generate(init=(wave, rate), seed=1000 + seed + number)
                apart = embed(model, made.wave) @ embed(model, other.wave)
                between.append(1 - float(apart))
            if keep is not None:
                folder = keep / f"{strength:g}" / family
                folder.mkdir(parents=True, exist_ok=True)
                made.save(folder / f"{number:02}.wav")
        distances.append(row)
    means = np.mean(distances, axis=0)
    for strength, mean in zip((0.0, *STRENGTHS), means, strict=True):
        print(f"vary, strength {strength:g}: CLAP distance {mean:.3f}")
    print(f"takes at strength {VARY:g}: CLAP distance from each other {np.mean(between):.3f}")


def inpainted(model: SoundCrafter, wave: Wave, seed: int) -> tuple[Sound, list[float]]:
    length = len(wave) / model.sample_rate
    region = Region(start=0.3 * length, end=0.7 * length)
    (made,) = model.generate(init=(wave, model.sample_rate), regions=[region], seed=seed)
    return made, [region.start, region.end]


def extended(model: SoundCrafter, wave: Wave, seed: int) -> tuple[Sound, list[float]]:
    length = len(wave) / model.sample_rate
    (made,) = model.generate(init=(wave, model.sample_rate), seconds=length + 2.0, seed=seed)
    return made, [length]


def looped(model: SoundCrafter, wave: Wave, seed: int) -> tuple[Sound, list[float]]:
    (made,) = model.generate(init=(wave, model.sample_rate), loop=True, seed=seed)
    twice = np.concatenate([made.wave, made.wave])
    return Sound(twice, made.sample_rate, "", seed, None), [made.seconds]


Maker = Callable[[SoundCrafter, Wave, int], tuple[Sound, list[float]]]
SEAMS: dict[str, Maker] = {"inpainting": inpainted, "extending": extended, "looping": looped}


def seam_is_hidden(sound: Sound, seams: Sequence[float]) -> bool:
    """Whether the highest flux near the seams lies within the 95th percentile of that elsewhere."""
    spectra = np.abs(
        np.fft.rfft(
            np.lib.stride_tricks.sliding_window_view(np.pad(sound.wave, WINDOW // 2), WINDOW)[::HOP]
            * np.hanning(WINDOW)
        )
    )
    flux = np.maximum(np.diff(spectra, axis=0, prepend=spectra[:1]), 0).sum(1)
    highest = np.array([flux[max(0, i - NEAR) : i + NEAR + 1].max() for i in range(len(flux))])
    at = [min(round(seam * sound.sample_rate / HOP), len(flux) - 1) for seam in seams]
    return bool(max(highest[at]) <= np.quantile(np.delete(highest, at), 0.95))


def like(model: SoundCrafter, waves: Sequence[Wave], seed: int) -> None:
    rate, nearer = model.sample_rate, []
    for i, wave in enumerate(waves):
        (made,) = model.generate(like=(wave, rate), seconds=SECONDS, seed=seed + i)
        found, other = embed(model, made.wave), waves[(i + 1) % len(waves)]
        nearer.append(bool(found @ embed(model, wave) > found @ embed(model, other)))
    print(f"like: nearer to its recording than to another: {share(nearer)}")


def steered(
    model: SoundCrafter,
    prompts: Sequence[str],
    word: str,
    measure: Callable[[Wave, int], float],
    seed: int,
) -> list[bool]:
    raised = []
    for i, prompt in enumerate(prompts):
        plain, more = (
            model.generate(prompt, more=more, seconds=SECONDS, seed=seed + i)[0]
            for more in ((), (word,))
        )
        rate = model.sample_rate
        raised.append(measure(more.wave, rate) > measure(plain.wave, rate))
    return raised


def centroid(wave: Wave, rate: int) -> float:
    """The spectral centroid in Hz."""
    power = np.abs(np.fft.rfft(wave)) ** 2
    return float((power * np.fft.rfftfreq(len(wave), 1 / rate)).sum() / power.sum())


def decay_time(wave: Wave, rate: int) -> float:
    """The time in which the level falls by 60 dB at the rate that 90% of its falls do not exceed.

    No sound in a room falls faster than the room's reverberation. Levels are those of 10 ms, falls
    those over 100 ms within 30 dB of the highest level.
    """
    frames = wave[: len(wave) // (rate // 100) * (rate // 100)].reshape(-1, rate // 100)
    level = 10 * np.log10(np.square(frames, dtype=np.float64).mean(1) + 1e-10)
    fall = (level[:-10] - level[10:]) / 0.1
    counted = fall[(level[:-10] > level.max() - 30) & (fall > 0)]
    return 60 / max(float(np.quantile(counted, 0.9)), 1.0) if len(counted) else np.inf


def embed(model: SoundCrafter, wave: Wave) -> np.ndarray:
    found = model.clap.embed_audio(fit_length(wave, max(len(wave), 8000)), model.sample_rate)
    return found[0].float().cpu().numpy()


def share(hits: Sequence[bool]) -> str:
    interval = wilson_interval(sum(hits), len(hits))
    return f"{np.mean(hits):.3f} ({format_interval(list(interval))}), N {len(hits)}"


if __name__ == "__main__":
    main()
