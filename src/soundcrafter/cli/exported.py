"""`generate` with a model that `soundcrafter export` wrote."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from soundcrafter.output_jobs import OutputJob

if TYPE_CHECKING:  # imported late, so that --help is instant
    from soundcrafter.onnx.runtime import OnnxSoundCrafter

# options of `OnnxSoundCrafter.stream`, by their names in the command line
OPTIONS = (
    "seconds",
    "count",
    "seed",
    "steps",
    "guidance",
    "negative",
    "candidates",
    "sampler",
    "fast",
    "trim",
    "batch_size",
)


def exported_options(
    options: Mapping[str, Any], others: Mapping[str, Any], *, device: str, precision: str
) -> dict[str, Any]:
    """The options that an exported model takes.

    `others`: further options of the command. Raises ValueError if one is set that needs torch.
    """
    rest = {f"--{name}".replace("_", "-"): options[name] for name in options.keys() - set(OPTIONS)}
    if given := sorted(name for name, value in {**rest, **others}.items() if value):
        raise ValueError(
            f"{', '.join(given)}: not possible with an exported model; use the model it is of"
        )
    if device not in ("auto", "cpu"):
        raise ValueError(f"device: got {device!r}; allowed with an exported model: auto, cpu")
    if precision not in ("auto", "fp32"):
        raise ValueError(f"precision: got {precision!r}; allowed with an exported model: fp32")
    return {name: options[name] for name in OPTIONS}


def load_exported(model: str, jobs: Sequence[OutputJob]) -> "OnnxSoundCrafter":
    """Load an exported model for these jobs. Raises ValueError if one has an option it lacks."""
    from soundcrafter.onnx.runtime import OnnxSoundCrafter

    if any((job.options.get("reuse") or 1) != 1 for job in jobs):
        raise ValueError("reuse: not possible with an exported model; allowed: 1")
    return OnnxSoundCrafter.from_pretrained(model)
