"""Evaluation of prompts for two sources at once and two in order, for which the paper reports
failures (Fig. 5).

The scenes are those of `composition_prompts`, and the tagger detects the sources, see `presence`.
Sounds generated for the prompts are compared with mixes and sequences of two real recordings and of
two single generations, and with chance, see `composition_report`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from soundcrafter.audio import Wave, fit_length, limit_peak, normalize_peak, read_audio, write_audio
from soundcrafter.data.manifest import Manifest, Recording, read_manifest
from soundcrafter.evaluate.composition_report import composition_markdown, summarise
from soundcrafter.evaluate.generate import BATCH_SIZE, check_seeds, generate_prompts
from soundcrafter.evaluate.mixing import at_once, in_order
from soundcrafter.evaluate.presence import (
    Array,
    presence_thresholds,
    source_onsets,
    source_scores,
)
from soundcrafter.evaluate.prompt_sets import (
    REVERSED,
    CompositionPrompt,
    Prompt,
    composition_prompts,
    family_prompts,
)
from soundcrafter.evaluate.result_log import ResultLog
from soundcrafter.evaluate.tagger_embedder import TaggerEmbedder
from soundcrafter.files import make_folder, write_json, write_text
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.progress import Progress, step_counter
from soundcrafter.scene.render import Mix, render, render_in_one_pass
from soundcrafter.scene.scene import Scene
from soundcrafter.scene.text import is_single, scene_from_text
from soundcrafter.version import __version__

SECONDS = 10.0  # of every sound: room for two events
SUITE = 2  # raised when the sounds for the same prompts change
DEV = "dev"  # the split whose single recordings set the thresholds

Families = dict[str, list[Recording]]
Pair = tuple[Wave, Wave]


def evaluate_composition(
    model: SoundCrafter,
    data: Path,
    out: Path,
    *,
    split: str = "test",
    seeds: int = 1,
    seed: int = 0,
    limit: int | None = None,
    tagger: TaggerEmbedder | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model on two sources at once and in order, and return the report.

    Writes composition.json, composition.md and the sounds, below generated/, into `out`. `data` is
    a manifest or folder whose column family contains the tagger's classes: the real recordings come
    from its `split`, the thresholds from its dev split. `limit`: only this many pairs of each kind.
    An interrupted call is resumed by the same call. Raises ValueError if the data lacks a family,
    and if `out` contains results of another model or other settings.
    """
    check_seeds(seeds, seed)
    tagger = tagger or TaggerEmbedder.bundled()
    scenes = _scenes(limit)
    recordings = _families(read_manifest(data, split=split, label_column="family"))
    for family in sorted({family for scene in scenes for family in (scene.first, scene.second)}):
        if family not in recordings:
            raise ValueError(f"{data}: no recording of {family} in {split}")
    identity = {
        "suite": SUITE,
        "model": dict(model.training_ids),
        "sampling": {**vars(model.sampling), "seconds": SECONDS},
        "tagger": tagger.sha256,
        "split": split,
        "seeds": seeds,
        "seed": seed,
        "limit": limit,
    }
    log = ResultLog(out / "composition.jsonl", identity)
    results = SceneResults(tagger, _thresholds(tagger, data, log), log)
    advance = step_counter(
        progress, seeds * (5 * len(scenes) + sum(map(_batches, _prompts(scenes))))
    )
    for own in range(seed, seed + seeds):
        folder = out / "generated" / str(own)
        for scene in scenes:
            _measure_real(results, scene, recordings, model.sample_rate, own, folder)
            advance(1)
        _measure_generated(results, model, scenes, own, folder, advance)
    report = {"version": __version__, **identity, **summarise(list(log.rows.values()))}
    write_json(out / "composition.json", report)
    write_text(out / "composition.md", composition_markdown(report))
    return report


class SceneResults:
    """Measures the sounds of scenes with the tagger, and logs the results."""

    def __init__(self, tagger: TaggerEmbedder, thresholds: Array, log: ResultLog) -> None:
        self.tagger, self.thresholds, self.log = tagger, thresholds, log

    def margins(self, scene: CompositionPrompt, wave: Wave, sample_rate: int) -> list[float]:
        """Return how far the scores of the scene's families in wave [N] exceed their thresholds."""
        above = source_scores(self.tagger, wave, sample_rate) - self.thresholds
        return [float(above[place]) for place in self._places(scene)]

    def add_sound(
        self,
        baseline: str,
        scene: CompositionPrompt,
        seed: int,
        wave: Wave,
        sample_rate: int,
        starts: tuple[float, float] | None = None,
    ) -> None:
        """Log a sound that should contain both families; `starts`: their true onsets if known."""
        row: dict[str, Any] = {"margins": self.margins(scene, wave, sample_rate)}
        if scene.kind == "order":
            places = self._places(scene)
            row["onsets"] = source_onsets(self.tagger, wave, sample_rate, places)
            if starts is not None:
                row["starts"] = list(starts)
        self.add(baseline, scene, seed, row)

    def add(self, baseline: str, scene: CompositionPrompt, seed: int, row: dict[str, Any]) -> None:
        """Log a result."""
        head = {"baseline": baseline, "kind": scene.kind, "name": scene.name, "seed": seed}
        self.log.add(_key(baseline, scene, seed), {**head, **row})

    def has(self, baseline: str, scene: CompositionPrompt, seed: int) -> bool:
        return _key(baseline, scene, seed) in self.log

    def _places(self, scene: CompositionPrompt) -> list[int]:
        return [self.tagger.classes.index(family) for family in (scene.first, scene.second)]


def _key(baseline: str, scene: CompositionPrompt, seed: int) -> str:
    return f"{baseline}/{seed}/{scene.name}"


def _scenes(limit: int | None) -> list[CompositionPrompt]:
    """The scenes of the first `limit` pairs of each kind, reversals included; None: all."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit: got {limit}; at least 1")
    scenes = composition_prompts()
    overlaps = [scene for scene in scenes if scene.kind == "overlap"]
    orders = [scene for scene in scenes if scene.kind == "order"]
    return overlaps[:limit] + orders[: None if limit is None else 2 * limit]


def _families(manifest: Manifest) -> Families:
    found: Families = {}
    for recording in manifest.recordings:
        if recording.label is not None:
            found.setdefault(recording.label, []).append(recording)
    return found


def _thresholds(tagger: TaggerEmbedder, data: Path, log: ResultLog) -> Array:
    """The threshold of each class [K], set once from single recordings as long as a scene."""
    if "thresholds" not in log:
        rate, scores, places = tagger.sample_rate, [], []
        for family, found in _families(
            read_manifest(data, split=DEV, label_column="family")
        ).items():
            for recording in found if family in tagger.classes[:-1] else ():
                wave = normalize_peak(_read(recording, rate))
                wave = fit_length(wave, round(SECONDS * rate), "repeat")
                scores.append(source_scores(tagger, wave, rate))
                places.append(tagger.classes.index(family))
        rows = np.stack(scores) if scores else np.empty((0, len(tagger.classes)))
        found_thresholds = presence_thresholds(rows, np.array(places))
        log.add("thresholds", {"values": list(found_thresholds), "n": len(places)})
    return np.array(log.rows["thresholds"]["values"])


def _read(recording: Recording, sample_rate: int) -> Wave:
    seconds = min(recording.seconds, SECONDS)
    return read_audio(recording.sound, sample_rate, start=recording.start, seconds=seconds)


def _measure_real(
    results: SceneResults,
    scene: CompositionPrompt,
    recordings: Families,
    rate: int,
    seed: int,
    folder: Path,
) -> None:
    """Log two real recordings: combined, each alone, and each measured for both families."""
    if results.has("real", scene, seed):
        return
    pair = _draw(scene, recordings, rate, seed)
    layers, starts = _layers(scene, pair, rate)
    first, second = (results.margins(scene, layer, rate) for layer in layers)
    results.add("apart", scene, seed, {"margins": [first[0], second[1]]})
    results.add("first alone", scene, seed, {"margins": first})
    results.add("second alone", scene, seed, {"margins": second})
    mixed = _save(layers[0] + layers[1], folder / "real" / f"{scene.name}.wav", rate)
    results.add_sound("real", scene, seed, mixed, rate, starts)


def _draw(scene: CompositionPrompt, recordings: Families, rate: int, seed: int) -> Pair:
    """One recording of each of a scene's families, the same for a scene and its reversal."""
    name = scene.name.removesuffix(REVERSED)
    rng = np.random.default_rng([seed, *name.encode()])
    waves = {
        family: _first_readable([recordings[family][i] for i in order], rate)
        for family in sorted((scene.first, scene.second))
        for order in [rng.permutation(len(recordings[family]))]
    }
    return waves[scene.first], waves[scene.second]


def _first_readable(recordings: Sequence[Recording], rate: int) -> Wave:
    for recording in recordings:
        try:
            return _read(recording, rate)
        except ValueError:  # one corrupt file must not end the run
            continue
    raise ValueError(
        f"{recordings[0].file}: neither this nor another recording of {recordings[0].label} is "
        "readable"
    )


def _layers(
    scene: CompositionPrompt, pair: Pair, rate: int
) -> tuple[Pair, tuple[float, float] | None]:
    """The layers of a scene combined by hand, and the onsets of its sources if it is ordered."""
    if scene.kind == "overlap":
        return at_once(*pair, rate, SECONDS), None
    first, second, starts = in_order(*pair, rate, SECONDS)
    return (first, second), starts


def _save(wave: Wave, file: Path, rate: int) -> Wave:
    """Write a sound, for listening, and return it, limited to full scale."""
    mixed = limit_peak(wave)
    make_folder(file.parent)
    write_audio(file, mixed, rate)
    return mixed


def _prompts(scenes: Sequence[CompositionPrompt]) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts to generate: each scene, and the first frozen prompt of each of its families."""
    wanted = {family for scene in scenes for family in (scene.first, scene.second)}
    singles: dict[str, Prompt] = {}
    for prompt in family_prompts():
        if prompt.family in wanted:
            name = prompt.family.replace(" ", "-")
            singles.setdefault(prompt.family, Prompt(prompt.text, prompt.family, name))
    return [Prompt(scene.text, "", scene.name) for scene in scenes], list(singles.values())


def _batches(prompts: Sequence[Prompt]) -> int:
    return -(-len(prompts) // BATCH_SIZE)


def _measure_generated(
    results: SceneResults,
    model: SoundCrafter,
    scenes: Sequence[CompositionPrompt],
    seed: int,
    folder: Path,
    advance: Callable[[int], None],
) -> None:
    """Log the prompts plain, composed and as timelines, and single generations combined by hand."""
    plain, singles = _prompts(scenes)
    for prompts, name in ((plain, "prompt"), (singles, "single")):
        generate_prompts(
            model,
            prompts,
            folder / name,
            seed=seed,
            seconds=SECONDS,
            progress=lambda *_: advance(1),
        )
    rate = model.sample_rate
    files = {prompt.family: folder / "single" / f"{prompt.name}.wav" for prompt in singles}
    for scene in scenes:
        plain_wave = read_audio(folder / "prompt" / f"{scene.name}.wav", rate)
        if not results.has("prompt", scene, seed):
            results.add_sound("prompt", scene, seed, plain_wave, rate)
        advance(1)
        for name, make in (("composed", render), ("timeline", render_in_one_pass)):
            if not results.has(name, scene, seed):
                wave, starts = _from_events(scene, make, model, seed, plain_wave)
                _save(wave, folder / name / f"{scene.name}.wav", rate)
                results.add_sound(name, scene, seed, wave, rate, starts)
            advance(1)
        if not results.has("singles", scene, seed):
            pair = read_audio(files[scene.first], rate), read_audio(files[scene.second], rate)
            layers, starts = _layers(scene, pair, rate)
            mixed = _save(layers[0] + layers[1], folder / "singles" / f"{scene.name}.wav", rate)
            results.add_sound("singles", scene, seed, mixed, rate, starts)
        advance(1)


def _from_events(
    scene: CompositionPrompt,
    make: Callable[[Scene, SoundCrafter], Mix],
    model: SoundCrafter,
    seed: int,
    plain: Wave,
) -> tuple[Wave, tuple[float, float] | None]:
    """What `generate` makes of a prompt by its events, and the onsets of the sources of an ordered
    one; the plain sound if it finds a single event."""
    parsed = scene_from_text(scene.text, seconds=SECONDS, seed=seed, embed=model.clap.embed_text)
    if is_single(parsed):
        return plain, None
    mix = make(parsed, model)
    return mix.wave, _starts(mix, scene)


def _starts(mix: Mix, scene: CompositionPrompt) -> tuple[float, float] | None:
    """Where the two sources of an ordered scene begin, if it was composed of two sounds."""
    first: dict[str, float] = {}
    for sound in mix.sounds:
        first.setdefault(sound.track, sound.start)
    if scene.kind != "order" or len(first) != 2:
        return None
    one, other = first.values()
    return one, other
