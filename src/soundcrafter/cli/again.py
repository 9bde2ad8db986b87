"""Making a sound again from the file of one: `soundcrafter generate --from FILE`."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundcrafter.cli.common import progress
from soundcrafter.cli.jobs import assign_files
from soundcrafter.output import write_mix, write_sound
from soundcrafter.output_jobs import OutputJob

if TYPE_CHECKING:
    from soundcrafter.export import Export
    from soundcrafter.provenance import Provenance

# Options that may be given with --from. The first change the sound, and are arguments of `generate`
# under these names.
CHANGES = {
    "prompt": "prompts",
    **{name: name for name in ("mix", "seconds", "seed", "steps", "guidance", "negative")},
    **{name: name for name in ("candidates", "sampler", "reuse", "fast", "trim", "loop")},
    **{name: name for name in ("like", "like_weight", "more", "less", "steer")},
}
EXPORT = ("rate", "depth", "lufs", "stereo", "metadata")
_OTHERS = ("source", "output", "model", "adapter", "device", "precision")
_OUTPUT = ("overwrite", "plot", "as_json", "sidecar", "stems")


@dataclass(frozen=True, kw_only=True)
class Again:
    """What the command line asks for besides the file."""

    output: Path | None
    model: str | None
    adapters: Mapping[str, float] | None
    device: str
    precision: str | None
    overwrite: bool
    plot: bool
    as_json: bool
    sidecar: bool
    stems: Path | None


def check_given(names: set[str]) -> None:
    """Raise ValueError for an option that --from does not go with."""
    allowed = {*CHANGES, *EXPORT, *_OTHERS, *_OUTPUT}
    for name in sorted(names - allowed):
        raise ValueError(f"--{name.replace('_', '-')} cannot be combined with --from")


def make_again(
    file: Path, options: Again, changes: dict[str, Any], export_changes: dict[str, Any]
) -> None:
    """Make the sound of a file again, with changes, and write it."""
    from soundcrafter.export import Export
    from soundcrafter.provenance import read_provenance
    from soundcrafter.request import RANDOM_SEED
    from soundcrafter.settings import from_dict

    made = read_provenance(file)
    is_scene = made.call == "render"
    if options.stems is not None and not is_scene:
        raise ValueError("stems: the sound is not a mix of several")
    if options.stems is not None and options.stems.is_file():
        raise ValueError(f"{options.stems}: not a folder")
    if changes.get("seed") == RANDOM_SEED:
        changes = {**changes, "seed": secrets.randbits(32)}  # here, to become part of the name
    export = from_dict(Export, {**made.export, **export_changes}, f"{file}: export")
    try:
        job = _job(made, changes)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    (job,) = assign_files(
        [job],
        options.output,
        None,
        overwrite=options.overwrite,
        skip_existing=False,
        plot=options.plot,
    )
    export.check(job.file.suffix)
    facts = _make(file, made, job, options, changes, export)
    if options.as_json:
        print(json.dumps([facts], indent=2))
    else:
        print(f"{job.file}  {facts['seconds']:.2f} s  seed {job.seed}")


def _job(made: "Provenance", changes: Mapping[str, Any]) -> OutputJob:
    """The sound's name and seed. Raises ValueError unless it says how it was made."""
    from soundcrafter.arguments import prompt_from, recorded_call
    from soundcrafter.remake import recorded_render

    prompt = "sound"
    if made.call == "render":
        seed = recorded_render(made).scene.seed
    else:
        call = recorded_call(made)
        seed = call.seed[made.index]
        prompt = str(prompt_from(call.prompts[made.index])) if call.prompts else prompt
    named = changes.get("prompts", prompt)
    return OutputJob(str(named), None, changes.get("seed", seed), {}, 1, 1)


def _make(
    file: Path,
    made: "Provenance",
    job: OutputJob,
    options: Again,
    changes: dict[str, Any],
    export: "Export",
) -> dict[str, Any]:
    """Load the model, make the sound and write it; returns the report entry."""
    from soundcrafter.files import make_folder
    from soundcrafter.hub import find_model
    from soundcrafter.pipeline import SoundCrafter
    from soundcrafter.remake import check_model, remake, remake_mix

    adapters = made.adapters if options.adapters is None else options.adapters
    model = options.model or made.model
    try:
        if options.model is None:
            find_model(model, download=False)  # the file may come from a stranger
        crafter = SoundCrafter.from_pretrained(
            model, options.device, adapters, options.precision or made.precision
        )
    except ValueError as error:
        if options.model is not None:
            raise
        raise ValueError(f"{error} (the model that made {file}; name it by --model)") from None
    if options.model is None and options.adapters is None:
        check_model(crafter, made)
    with progress("generating", show=not options.as_json) as advance:
        if made.call == "render":
            mix = remake_mix(crafter, made, folder=file.parent, progress=advance, **changes)
            make_folder(job.file.parent)
            return write_mix(
                mix,
                job.file,
                export,
                stems=options.stems,
                plot=options.plot,
                sidecar=options.sidecar,
            )
        sound = remake(crafter, made, folder=file.parent, progress=advance, **changes)
    make_folder(job.file.parent)
    return write_sound(sound, job.file, export, plot=options.plot, sidecar=options.sidecar)
