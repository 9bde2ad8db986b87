"""From text to a scene: when each event begins, how long it lasts, and which are one sound."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from soundcrafter.scene.scene import GAP, Event, Scene
from soundcrafter.scene.text import SAME_SOUND, is_single, scene_from_text


def events(scene: Scene) -> list[Event]:
    return [event for track in scene.tracks for event in track.events]


def test_steps_share_the_length_of_a_scene() -> None:
    door, dog, rain = events(
        scene_from_text("a door slams, then a dog barks, then rain falls", seconds=12.0)
    )
    assert [door.earliest, dog.earliest, rain.earliest] == [0.0, 4.0, 8.0]
    assert dog.after == ("a-door-slams",)
    assert dog.start == GAP


def test_without_a_length_steps_follow_each_other() -> None:
    door, dog = events(scene_from_text("a door slams, then dogs are barking"))
    assert (door.earliest, dog.earliest, dog.start) == (0.0, 0.0, GAP)
    assert not dog.fill


def test_what_goes_on_lasts_as_long_as_its_step() -> None:
    dog, door, bells = events(
        scene_from_text("a dog barking, then a door slams and church bells ring", seconds=10.0)
    )
    assert (dog.fill, dog.seconds) == (True, 5.0 - GAP)
    assert (door.fill, door.seconds) == (False, None)
    assert (bells.fill, bells.seconds) == (True, None)  # until the scene ends
    (times, _) = events(scene_from_text("a dog barks three times while it rains", seconds=10.0))
    assert (times.fill, times.repeats) == (False, 3)
    short, _ = events(scene_from_text("a dog barking, then rain", seconds=0.8))
    assert (short.fill, short.seconds) == (False, None)  # there is no time to fill


def embedder(**directions: Sequence[float]):
    """A text tower in which texts that contain a word lie in its direction."""

    def embed(texts: Sequence[str]) -> Tensor:
        rows = [next(v for word, v in directions.items() if word in text) for text in texts]
        return torch.nn.functional.normalize(torch.tensor(rows), dim=1)

    return embed


@pytest.mark.parametrize(("angle", "count"), [(SAME_SOUND + 0.02, 2), (SAME_SOUND - 0.02, 3)])
def test_events_of_one_step_that_sound_the_same_are_one(angle: float, count: int) -> None:
    embed = embedder(
        duck=(1.0, 0.0), quack=(angle, (1 - angle**2) ** 0.5), speaks=(-0.5, -0.5), bees=(0.0, 1.0)
    )
    prompt = "a duck call is blown, a man speaks, and geese quack"
    tracks = scene_from_text(prompt, embed=embed).tracks
    assert len(tracks) == count
    words = " ".join(event.prompt for track in tracks for event in track.events)
    assert set(prompt.replace(",", "").split()) - {"and"} <= set(words.split()), "no word is lost"
    assert len(scene_from_text(prompt).tracks) == 3


def test_events_of_different_steps_or_levels_stay_apart() -> None:
    same = embedder(a=(1.0, 0.0))
    for prompt in ("a dog barks, then a dog barks", "a dog barks and a dog barks in the distance"):
        assert len(scene_from_text(prompt, embed=same).tracks) == 2


def test_the_background_lasts_through_all_steps() -> None:
    prompt = "a door slams, then a dog barks twice while rain falls in the background"
    door, dog, rain = events(scene_from_text(prompt, seconds=10.0))
    assert (rain.start, rain.earliest, rain.after, rain.seconds) == (0.0, 0.0, (), None)
    assert (rain.gain, rain.fill) == (-8.0, True)
    assert (dog.after, dog.earliest) == (("a-door-slams",), 5.0)
    assert door.start == 0.0
    bells, crow = starts("church bells in the background while a crow caws")
    assert (bells, crow) == (0.0, 1.5)


def test_fill_repeats_what_happens_once() -> None:
    prompt = "a dog barks twice, then a door slams"
    dog, door = events(scene_from_text(prompt, seconds=10.0, fill=True))
    assert (dog.fill, dog.repeats, door.fill) == (False, 2, True)


def test_one_event_is_no_scene() -> None:
    assert is_single(scene_from_text("a dog barks", seconds=5.0))
    assert not is_single(scene_from_text("a dog barks twice"))
    assert not is_single(scene_from_text("rain and thunder"))


def starts(prompt: str, seconds: float | None = 10.0) -> list[float]:
    return [event.start for event in events(scene_from_text(prompt, seconds=seconds))]


def test_what_goes_on_begins_and_the_others_enter_later() -> None:
    assert starts("a dog barks while church bells ring") == [1.5, 0.0]
    assert starts("rain and wind") == [0.0, 1.5]
    assert starts("rain and wind", None) == [0.0, 0.75]
    assert starts("a dog barks and a door slams") == [0.0, 0.0]  # at once, as the prompt says
    later = scene_from_text("a door slams, then rain and wind", seconds=10.0)
    assert [(event.start, event.earliest) for event in events(later)] == [
        (0.0, 0.0),
        (GAP, 5.0),
        (GAP + 0.75, 5.75),
    ]
    many = starts("rain, wind, thunder, traffic, crickets, birdsong and frogs croaking")
    assert len(set(many)) == 7
    assert max(many) == many[2] <= 5.0  # thunder, which happens once
