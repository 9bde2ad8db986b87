"""The composition suite: two sources at once and two in order, which the paper shows to fail
(Fig. 5), as numbers.

Scenes are the frozen ones of `prompts.composition_prompts`; the tagger says what is in a sound, see
`presence`. Beside the model on the plain prompt stand mixes and sequences made by hand of two real
recordings and of two single generations, and what chance gives, see `composition_report`.
"""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from soundcrafter.audio import Wave, fit_length, limit_peak, normalize_peak, read_audio, write_audio
from soundcrafter.data.manifest import Manifest, Recording, read_manifest
from soundcrafter.evaluate.chain import counter
from soundcrafter.evaluate.composition_report import composition_markdown, summarise
from soundcrafter.evaluate.generate import AT_ONCE, generate_prompts
from soundcrafter.evaluate.ledger import Ledger
from soundcrafter.evaluate.mixing import at_once, in_order
from soundcrafter.evaluate.presence import (
    Array,
    presence_thresholds,
    source_onsets,
    source_scores,
)
from soundcrafter.evaluate.prompts import (
    REVERSED,
    Prompt,
    Scene,
    composition_prompts,
    family_prompts,
)
from soundcrafter.evaluate.tagger import Tagger
from soundcrafter.files import make_folder, write_json, write_text
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.progress import Progress
from soundcrafter.version import __version__

SECONDS = 10.0  # of every sound: room for two events
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
    tagger: Tagger | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model on two sources at once and in order; writes composition.json and
    composition.md into `out`, the sounds below out/generated, and returns the report.

    `data` is a manifest or folder whose column family holds the tagger's classes: its `split`
    gives the real recordings, its dev the thresholds. `limit`: the first so many pairs of each
    kind. Called again after a kill it goes on where it was. Raises ValueError where the data lacks
    a family, and where `out` holds results of another model or other settings.
    """
    if seeds < 1 or seed < 0:
        raise ValueError(f"seeds, seed: got {seeds}, {seed}; at least 1 and 0")
    tagger = tagger or Tagger.bundled()
    scenes = _scenes(limit)
    recordings = _families(read_manifest(data, split=split, label_column="family"))
    for family in sorted({family for scene in scenes for family in (scene.first, scene.second)}):
        if family not in recordings:
            raise ValueError(f"{data}: no recording of {family} in {split}")
    maker = copy.copy(model)
    maker.sampling = dataclasses.replace(model.sampling, seconds=SECONDS)
    identity = {
        "model": dict(model.training_ids),
        "sampling": vars(maker.sampling),
        "tagger": tagger.sha256,
        "split": split,
        "seeds": seeds,
        "seed": seed,
        "limit": limit,
    }
    ledger = Ledger(out / "composition.jsonl", identity)
    judge = Judge(tagger, _thresholds(tagger, data, ledger), ledger)
    advance = counter(progress, seeds * (3 * len(scenes) + sum(map(_batches, _prompts(scenes)))))
    for own in range(seed, seed + seeds):
        folder = out / "generated" / str(own)
        for scene in scenes:
            _measure_real(judge, scene, recordings, model.sample_rate, own, folder)
            advance(1)
        _measure_generated(judge, maker, scenes, own, folder, advance)
    report = {"version": __version__, **identity, **summarise(list(ledger.rows.values()))}
    write_json(out / "composition.json", report)
    write_text(out / "composition.md", composition_markdown(report))
    return report


class Judge:
    """Writes down what the tagger hears in the sounds of scenes."""

    def __init__(self, tagger: Tagger, thresholds: Array, ledger: Ledger) -> None:
        self.tagger, self.thresholds, self.ledger = tagger, thresholds, ledger

    def margins(self, scene: Scene, wave: Wave, sample_rate: int) -> list[float]:
        """How far the scene's two families are above their thresholds in wave [N]."""
        above = source_scores(self.tagger, wave, sample_rate) - self.thresholds
        return [float(above[place]) for place in self._places(scene)]

    def hear(
        self,
        baseline: str,
        scene: Scene,
        seed: int,
        wave: Wave,
        sample_rate: int,
        starts: tuple[float, float] | None = None,
    ) -> None:
        """A row of a sound that should hold both; `starts`: when they begin, where it is known."""
        row: dict[str, Any] = {"margins": self.margins(scene, wave, sample_rate)}
        if scene.kind == "order":
            places = self._places(scene)
            row["onsets"] = source_onsets(self.tagger, wave, sample_rate, places)
            if starts is not None:
                row["starts"] = list(starts)
        self.note(baseline, scene, seed, row)

    def note(self, baseline: str, scene: Scene, seed: int, row: dict[str, Any]) -> None:
        """A row that was measured elsewhere."""
        head = {"baseline": baseline, "kind": scene.kind, "name": scene.name, "seed": seed}
        self.ledger.add(_key(baseline, scene, seed), {**head, **row})

    def has(self, baseline: str, scene: Scene, seed: int) -> bool:
        return _key(baseline, scene, seed) in self.ledger

    def _places(self, scene: Scene) -> list[int]:
        return [self.tagger.classes.index(family) for family in (scene.first, scene.second)]


def _key(baseline: str, scene: Scene, seed: int) -> str:
    return f"{baseline}/{seed}/{scene.name}"


def _scenes(limit: int | None) -> list[Scene]:
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


def _thresholds(tagger: Tagger, data: Path, ledger: Ledger) -> Array:
    """The threshold of each class [K], set once on single recordings as long as a scene."""
    if "thresholds" not in ledger:
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
        ledger.add("thresholds", {"values": list(found_thresholds), "n": len(places)})
    return np.array(ledger.rows["thresholds"]["values"])


def _read(recording: Recording, sample_rate: int) -> Wave:
    seconds = min(recording.seconds, SECONDS)
    return read_audio(recording.file, sample_rate, start=recording.start, seconds=seconds)


def _measure_real(
    judge: Judge, scene: Scene, recordings: Families, rate: int, seed: int, folder: Path
) -> None:
    """Two real recordings: put together, each for itself, and each for itself taken for both."""
    if judge.has("real", scene, seed):
        return
    pair = _draw(scene, recordings, rate, seed)
    layers, starts = _layers(scene, pair, rate)
    (own, other), (strange, second) = (judge.margins(scene, layer, rate) for layer in layers)
    judge.note("apart", scene, seed, {"margins": [own, second]})
    judge.note("first alone", scene, seed, {"margins": [own, other]})
    judge.note("second alone", scene, seed, {"margins": [strange, second]})
    mixed = _save(layers, folder / "real" / f"{scene.name}.wav", rate)
    judge.hear("real", scene, seed, mixed, rate, starts)


def _draw(scene: Scene, recordings: Families, rate: int, seed: int) -> Pair:
    """A recording of each of a scene's families, the same for a scene and its reversal."""
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
        except ValueError:  # one corrupt file must not end it
            continue
    raise ValueError(f"{recordings[0].file}: neither it nor another of {recordings[0].label} opens")


def _layers(scene: Scene, pair: Pair, rate: int) -> tuple[Pair, tuple[float, float] | None]:
    """The layers of a scene made by hand, and when its sources begin where it has an order."""
    if scene.kind == "overlap":
        return at_once(*pair, rate, SECONDS), None
    first, second, starts = in_order(*pair, rate, SECONDS)
    return (first, second), starts


def _save(layers: Pair, file: Path, rate: int) -> Wave:
    """Write the sum of layers to listen to; returns it."""
    mixed = limit_peak(layers[0] + layers[1])
    make_folder(file.parent)
    write_audio(file, mixed, rate)
    return mixed


def _prompts(scenes: Sequence[Scene]) -> tuple[list[Prompt], list[Prompt]]:
    """What to generate: each scene, and each of its families alone by its first frozen wording."""
    wanted = {family for scene in scenes for family in (scene.first, scene.second)}
    singles: dict[str, Prompt] = {}
    for prompt in family_prompts():
        if prompt.family in wanted:
            name = prompt.family.replace(" ", "-")
            singles.setdefault(prompt.family, Prompt(prompt.text, prompt.family, name))
    return [Prompt(scene.text, "", scene.name) for scene in scenes], list(singles.values())


def _batches(prompts: Sequence[Prompt]) -> int:
    return -(-len(prompts) // AT_ONCE)


def _measure_generated(
    judge: Judge,
    model: SoundCrafter,
    scenes: Sequence[Scene],
    seed: int,
    folder: Path,
    advance: Callable[[int], None],
) -> None:
    """Rows of the plain prompts, and of single generations put together by hand."""
    plain, singles = _prompts(scenes)
    for prompts, name in ((plain, "prompt"), (singles, "single")):
        generate_prompts(model, prompts, folder / name, seed=seed, progress=lambda *_: advance(1))
    rate = model.sample_rate
    files = {prompt.family: folder / "single" / f"{prompt.name}.wav" for prompt in singles}
    for scene in scenes:
        if not judge.has("prompt", scene, seed):
            wave = read_audio(folder / "prompt" / f"{scene.name}.wav", rate)
            judge.hear("prompt", scene, seed, wave, rate)
        advance(1)
        if not judge.has("singles", scene, seed):
            pair = read_audio(files[scene.first], rate), read_audio(files[scene.second], rate)
            layers, starts = _layers(scene, pair, rate)
            mixed = _save(layers, folder / "singles" / f"{scene.name}.wav", rate)
            judge.hear("singles", scene, seed, mixed, rate, starts)
        advance(1)
