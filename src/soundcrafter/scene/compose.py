"""From a prompt of several events to one sound: its scene is rendered and scored."""

from typing import Any

from soundcrafter.pipeline import SoundCrafter
from soundcrafter.progress import Progress
from soundcrafter.scene.render import Mix, render
from soundcrafter.scene.scene import Scene
from soundcrafter.scene.text import Embed, is_single, scene_from_text
from soundcrafter.sound import Sound


def scene_of_prompt(
    prompt: str,
    *,
    seconds: float | None,
    seed: int,
    fill: bool = False,
    embed: Embed | None = None,
) -> Scene | None:
    """The scene of a prompt with several events; None for a single one, unless it is to `fill`."""
    made = scene_from_text(prompt, seconds=seconds, seed=seed, embed=embed, fill=fill)
    return None if is_single(made) and not fill else made


def compose(
    model: SoundCrafter,
    scene: Scene,
    prompt: str,
    seed: int,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> tuple[Sound, Mix]:
    """Render the scene of a prompt; `options` and errors are those of `render`."""
    mix = render(scene, model, progress=progress, **options)
    score = model.score(mix.wave, prompt)
    made = Sound(mix.wave, mix.sample_rate, prompt, seed, score, provenance=mix.provenance)
    return made, mix
