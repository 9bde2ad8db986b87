"""Writing sounds and mixes, with what belongs to them: pictures, stems, a JSON file."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported late, so that --help is instant
    from soundcrafter.export import Export
    from soundcrafter.output_jobs import Made
    from soundcrafter.provenance import Provenance
    from soundcrafter.scene.render import Mix
    from soundcrafter.sound import Sound


def write_made(
    made: "Made", file: Path, export: "Export", *, stems: Path | None, plot: bool, sidecar: bool
) -> dict[str, Any]:
    """Write the sound of a job, its stems and its spectrogram; returns the report entry."""
    job, sound = made.job, made.sound
    if made.mix is None:
        facts = write_sound(sound, file, export, plot=plot, sidecar=sidecar)
        given = {"prompt": job.prompt}  # where the model got a timeline
        return facts if made.timeline is None else facts | given | {"timeline": str(made.timeline)}
    score = None if sound.score is None else round(sound.score, 4)
    facts = {"file": str(file), "prompt": job.prompt}
    facts |= {"seed": sound.seed, "seconds": sound.seconds, "score": score}
    return facts | write_mix(made.mix, file, export, stems=stems, plot=plot, sidecar=sidecar)


def write_sound(
    sound: "Sound", file: Path, export: "Export", *, plot: bool, sidecar: bool
) -> dict[str, Any]:
    """Write a sound, and its spectrogram and JSON file if wanted; returns the report entry."""
    score = None if sound.score is None else round(sound.score, 4)
    sound.save(file, export)
    facts = {"file": str(file), "prompt": sound.prompt, "seed": sound.seed}
    facts |= {"seconds": sound.seconds, "score": score}
    if plot:
        sound.plot(file.with_suffix(".png"))
        facts["spectrogram"] = str(file.with_suffix(".png"))
    return facts | _provenance(sound.provenance, file, export, sidecar)


def write_mix(
    mix: "Mix", file: Path, export: "Export", *, stems: Path | None, plot: bool, sidecar: bool
) -> dict[str, Any]:
    """Write a mix, a stem per track and the picture; returns what was written, for JSON.

    Stems are named after their tracks, in the format of `file`, and add up to the mix.
    """
    import numpy as np

    from soundcrafter.audio import to_mono
    from soundcrafter.export import PEAK
    from soundcrafter.files import make_folder
    from soundcrafter.plots import plot_timeline
    from soundcrafter.stereo import widen

    files = {name: stems / f"{name}{file.suffix}" for name in mix.stems} if stems else {}
    if file.resolve() in {each.resolve() for each in files.values()}:
        raise ValueError(f"{file}: a stem would have this name; choose another folder for stems")
    wave, parts = mix.wave, dict(mix.stems)
    if export.stereo and wave.ndim == 1:
        # widened apart, so that the stems still add up to the mix
        parts = {name: widen(part, mix.sample_rate) for name, part in parts.items()}
        stems_sum = np.sum(list(parts.values()), axis=0)
        wave = stems_sum if parts else widen(wave, mix.sample_rate)
    # one factor for the mix and its stems, none of which may clip
    peak = max(float(np.abs(each).max(initial=0.0)) for each in (wave, *parts.values()))
    factor = min(export.gain(wave, mix.sample_rate), PEAK / max(peak, 1e-9))
    raw = replace(export, lufs=None)
    made = mix.provenance
    comment = "" if made is None else made.with_export(export).to_json()
    raw.write(file, wave * np.float32(factor), mix.sample_rate, comment=comment)
    facts: dict[str, Any] = {"file": str(file), "seconds": len(mix.wave) / mix.sample_rate}
    facts["sounds"] = [asdict(sound) for sound in mix.sounds]
    if stems is not None:
        make_folder(stems)
        facts["stems"] = {}
        for name, part in parts.items():
            raw.write(files[name], part * np.float32(factor), mix.sample_rate, title=name)
            facts["stems"][name] = str(files[name])
    if plot:
        spans = [(sound.track, sound.what, sound.start, sound.end) for sound in mix.sounds]
        mono = to_mono(mix.wave) if mix.wave.ndim == 2 else mix.wave
        plot_timeline(spans, mono, mix.sample_rate, file.with_suffix(".png"))
        facts["spectrogram"] = str(file.with_suffix(".png"))
    return facts | _provenance(made, file, export, sidecar)


def _provenance(
    made: "Provenance | None", file: Path, export: "Export", sidecar: bool
) -> dict[str, Any]:
    """How the sound was made, for the report; with `sidecar` also as a JSON file beside it."""
    from soundcrafter.files import write_json
    from soundcrafter.settings import to_dict

    if made is None:
        return {}
    data = to_dict(made.with_export(export))
    if sidecar:
        write_json(file.with_suffix(".json"), data)
    return {"provenance": data}
