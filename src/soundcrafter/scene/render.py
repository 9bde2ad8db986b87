"""Render a scene: its takes are generated, levelled, placed and mixed."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundcrafter.arguments import plain_audio
from soundcrafter.audio import Wave, read_audio, sound_end, sound_start, to_mono
from soundcrafter.files import file_sha256
from soundcrafter.loudness import loudness
from soundcrafter.mel_bands import MelConfig
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.progress import Progress
from soundcrafter.provenance import Provenance
from soundcrafter.scene.balance import balance_gains, mel_power
from soundcrafter.scene.plan import Take, filling_takes, place_takes, plan_takes, scene_timeline
from soundcrafter.scene.scene import Scene
from soundcrafter.settings import to_dict

LEVEL = -23.0  # LUFS of an event with gain 0 (EBU R 128)
PEAK = 0.9  # of an event and of the mix
_ATTACK = 0.003  # seconds kept before the start of a sound
FIRST_PASS = 0.8  # of the work, before the takes that fill the time
_CUT = 0.02  # seconds of the fade at a cut


@dataclass(frozen=True)
class PlacedSound:
    """A take on the timeline of a rendered scene."""

    track: str
    what: str  # its prompt or file
    start: float  # seconds
    end: float  # seconds
    seed: int


@dataclass(frozen=True, eq=False)
class Mix:
    """A rendered scene."""

    wave: NDArray[np.float32]  # [N], or [N, 2] if the scene has pans
    sample_rate: int  # Hz
    stems: Mapping[str, NDArray[np.float32]]  # track -> as `wave`; they add up to it
    sounds: tuple[PlacedSound, ...]  # in the order of the scene
    provenance: Provenance | None = None  # how it was made


def render(
    scene: Scene,
    model: SoundCrafter,
    *,
    folder: Path | None = None,
    seconds: float | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Mix:
    """Generate the events of a scene, in batches, and mix them.

    Each take starts at most 3 ms before its onset, with the loudness LEVEL + gain (BS.1770, gated),
    or less if its peak would exceed PEAK. Tracks are then balanced by at most `scene.balance`. If
    the peak of the mix would exceed PEAK, the mix is scaled down.
    Files are relative to `folder`. `seconds` limits events without a length of their own; by
    default those that others wait for share the scene's length among its steps. Events with `fill`
    get more takes where their sound is short. `options` are those of `SoundCrafter.generate` other
    than prompts, seed, seconds and trim. Raises ValueError as that does, and for a file that cannot
    be read.
    """
    rate = model.sample_rate
    takes = plan_takes(scene, model.sampling.seconds, seconds)
    for take in takes:  # files first: a wrong name should not cost the time of the others
        if take.event.file:
            take.wave = read_audio((folder or Path()) / take.event.file, rate)
    first = FIRST_PASS if any(take.event.fill for take in takes) else 1.0
    _generate(takes, model, options, _part(progress, 0.0, first))
    for take in takes:
        take.wave = _shape(take, rate)
    takes, added = filling_takes(takes, scene, rate)
    _generate(added, model, options, _part(progress, first, 1.0))
    for take in added:
        take.wave = _shape(take, rate)
    mix = _mix(scene, takes, model.vae.config.mel)
    return replace(mix, provenance=_provenance(scene, model, folder, seconds, options))


def _provenance(
    scene: Scene,
    model: SoundCrafter,
    folder: Path | None,
    seconds: float | None,
    options: Mapping[str, Any],
) -> Provenance:
    """How a mix is made."""
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("init", "like"):
        if name in given:
            given[name] = plain_audio(given[name])
    names = {event.file for track in scene.tracks for event in track.events if event.file}
    files = {name: file_sha256((folder or Path()) / name) for name in sorted(names)}
    arguments = {"scene": to_dict(scene), "seconds": seconds, "files": files, "options": given}
    return model.provenance(to_dict(model.sampling), arguments, call="render")


def _part(progress: Progress | None, begin: float, end: float) -> Progress | None:
    """Progress of a part of the work, from one share of the whole to another."""
    if progress is None:
        return None
    report = progress
    return lambda done, total: report(round(1000 * (begin + (end - begin) * done / total)), 1000)


def render_in_one_pass(
    scene: Scene, model: SoundCrafter, *, progress: Progress | None = None, **options: Any
) -> Mix:
    """Generate all events of a scene as one sound, each in its time span.

    The mix has no stems. Spans, `options` and errors are those of `scene_timeline` and
    `SoundCrafter.generate`.
    """
    seconds = scene.seconds or model.sampling.seconds
    timeline = scene_timeline(scene, seconds)
    (sound,) = model.generate(
        timeline, seconds=seconds, seed=scene.seed, progress=progress, **options
    )
    sounds = tuple(
        PlacedSound(span.prompt, span.prompt, span.start, span.end, scene.seed)
        for span in timeline.spans
    )
    return Mix(sound.wave, sound.sample_rate, {}, sounds, sound.provenance)


def _generate(
    takes: Sequence[Take],
    model: SoundCrafter,
    options: Mapping[str, Any],
    progress: Progress | None,
) -> None:
    """Generate the waves of the takes with prompts.

    Those of one length share batches, and equal takes are generated once.
    """
    groups: dict[float, dict[tuple[str, int], list[Take]]] = defaultdict(lambda: defaultdict(list))
    for take in takes:
        if take.event.prompt:
            groups[take.length][take.event.prompt, take.seed].append(take)
    done, total = 0, sum(map(len, groups.values()))
    for length, group in groups.items():

        def report(steps: int, all_steps: int, done: int = done, count: int = len(group)) -> None:
            if progress is not None:
                progress(100 * done + round(100 * count * steps / all_steps), 100 * total)

        sounds = model.stream(
            [prompt for prompt, _ in group],
            seed=[seed for _, seed in group],
            seconds=length,
            trim=False,
            progress=report,
            **options,
        )
        for equal, sound in zip(group.values(), sounds, strict=True):
            for take in equal:
                take.wave = sound.wave
        done += len(group)


def _shape(take: Take, rate: int) -> Wave:
    """Cut a take to its sound, set its loudness and fade it."""
    event, wave = take.event, take.wave
    if not wave.any():
        return wave
    wave = wave[max(0, sound_start(wave) - round(_ATTACK * rate)) : sound_end(wave)]
    fade_out = event.fade_out
    if event.seconds is not None and len(wave) > round(event.seconds * rate):
        wave, fade_out = wave[: round(event.seconds * rate)], max(fade_out, _CUT)
    # a sound shorter than a block of the loudness meter is measured repeated
    measured = np.resize(wave, max(len(wave), round(0.4 * rate)))
    scale = 10 ** ((LEVEL + take.gain - loudness(measured, rate)) / 20)
    scale = min(scale, PEAK / np.abs(wave).max()) if math.isfinite(scale) else 1.0
    return _fade(wave * np.float32(scale), event.fade_in, fade_out, rate)


def _fade(wave: Wave, fade_in: float, fade_out: float, rate: int) -> Wave:
    """Return a copy of wave [N] with linear fades, in seconds."""
    wave = wave.copy()
    rise, fall = (min(round(fade * rate), len(wave)) for fade in (fade_in, fade_out))
    wave[:rise] *= np.linspace(0.0, 1.0, rise, dtype=np.float32)
    wave[len(wave) - fall :] *= np.linspace(1.0, 0.0, fall, dtype=np.float32)
    return wave


def _mix(scene: Scene, takes: Sequence[Take], mel: MelConfig) -> Mix:
    """Place, balance and mix the takes."""
    rate = mel.sample_rate
    starts = place_takes(takes, lambda take: len(take.wave) / rate)
    placed = list(zip(takes, starts, strict=True))
    ends = [start + len(take.wave) / rate for take, start in placed]
    seconds = scene.seconds or max(*ends, 0.2)
    stems = _stems(scene, placed, round(seconds * rate), rate)
    if scene.balance and len(stems) > 1:
        powers = [mel_power(to_mono(s) if s.ndim == 2 else s, mel) for s in stems.values()]
        for stem, gain in zip(stems.values(), balance_gains(powers, scene.balance), strict=True):
            stem *= np.float32(10 ** (gain / 20))
    wave: NDArray[np.float32] = sum(stems.values(), np.zeros_like(next(iter(stems.values()))))
    scale = np.float32(min(1.0, PEAK / max(float(np.abs(wave).max(initial=0.0)), 1e-9)))
    sounds = tuple(
        PlacedSound(
            take.track.name,
            take.event.prompt or take.event.file,
            start,
            min(start + len(take.wave) / rate, seconds),
            take.seed,
        )
        for take, start in placed
        if start < seconds
    )
    for layer in (wave, *stems.values()):
        layer *= scale
    return Mix(wave, rate, stems, sounds)


def _stems(
    scene: Scene, placed: Sequence[tuple[Take, float]], length: int, rate: int
) -> dict[str, NDArray[np.float32]]:
    """Mix each track: [N], or with equal-power panning [N, 2] if the scene has pans."""
    shape = (length, 2) if scene.has_pan else (length,)
    stems = {track.name: np.zeros(shape, np.float32) for track in scene.tracks}
    for take, start in placed:
        first = round(start * rate)
        wave = take.wave[: max(0, length - first)]
        if len(wave) < len(take.wave):  # the scene ends before the sound
            wave = _fade(wave, 0.0, _CUT, rate)
        stem = stems[take.track.name]
        if scene.has_pan:
            angle = (min(1.0, max(-1.0, take.event.pan + take.track.pan)) + 1) * math.pi / 4
            sides = np.array([math.cos(angle), math.sin(angle)], np.float32)
            stem[first : first + len(wave)] += wave[:, None] * sides
        else:
            stem[first : first + len(wave)] += wave
    return stems
