"""The prompt parser: which events it finds, their order, and their marks."""

import csv
import itertools
import random
import re
import subprocess
import sys
from collections import Counter
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundcrafter.scene.parse import (
    BACKGROUND_GAIN,
    DISTANT_GAIN,
    ParsedEvent,
    events_notation,
    parse_events,
)

EXAMPLES = """
a dog barks and birds chirp -> a dog barks + birds chirp
a man and a woman talk -> a man and a woman talk
a man talking and laughing -> a man talking and laughing
an engine revs, then idles -> an engine revs | an engine idles
a man speaks while birds chirp in the background -> a man speaks + birds chirp ~
wind blows with faint thunder in the distance -> wind blows + faint thunder ^
a door slams followed by footsteps -> a door slams | footsteps
thunder after rain -> rain | thunder
a click before a beep -> a click | a beep
a man speaks as rain falls, then a door closes -> a man speaks + rain falls | a door closes
rain, thunder, and wind -> rain + thunder + wind
at first a bell rings, and finally a crowd cheers -> a bell rings | a crowd cheers
a dog barks twice -> a dog barks x2
a dog barks three times -> a dog barks x3
a dog barks 12 times -> a dog barks x12
a dog barks repeatedly -> a dog barks x*
a bell rings several times, then a man coughs -> a bell rings x* | a man coughs
knocking three times on a wooden door -> knocking on a wooden door x3
a man speaking with birds chirping -> a man speaking + birds chirping
an audience applauds as a man speaks -> an audience applauds + a man speaks
a man speaks over a cheering crowd -> a man speaks + a cheering crowd
music plays along with a beeping alarm -> music plays + a beeping alarm
rain falls, accompanied by distant thunder -> rain falls + distant thunder ^
a background hum with a man speaking -> a background hum ~ + a man speaking
a machine runs until a bell rings -> a machine runs | a bell rings
after a loud bang, a baby cries -> a loud bang | a baby cries
before a car honks, a dog barks -> a dog barks | a car honks
while rain falls, a man speaks -> rain falls + a man speaks
a truck idles before slowly accelerating -> a truck idles | a truck slowly accelerating
birds tweet then slow down -> birds tweet | birds slow down
rain falls, wood is then sawed -> rain falls | wood is sawed
a dog barks, a man then laughs -> a dog barks | a man laughs
a man speaks, a woman and a child laugh -> a man speaks + a woman and a child laugh
a man speaks, rattling and clicking occur -> a man speaks + rattling and clicking occur
man talking, a machine whirring and a dog barks -> man talking + a machine whirring + a dog barks
mechanical humming and light rattling -> mechanical humming + light rattling
traffic in background and man speaking -> traffic ~ + man speaking
in the distance, sirens wail -> sirens wail ^
steady typing is in the background while a man talks -> steady typing ~ + a man talks
a snake squirms and a man speaks -> a snake squirms + a man speaks
A door slams. A dog barks. -> A door slams + A dog barks
clinking and rustling -> clinking + rustling
a man speaks with some loud snoring and clicking -> a man speaks + some loud snoring + clicking
snoring is present, and rustling -> snoring is present + rustling
bells ringing and a brief, loud horn -> bells ringing + a brief, loud horn
a dog barks followed later by a man coughing -> a dog barks | a man coughing
a siren with a man talking on a loudspeaker -> a siren + a man talking on a loudspeaker
"""

PLACES = """
crows cawing in the rain -> crows cawing + rain
cars honking in the pouring rain -> cars honking + pouring rain
a woman sings in the rain on a tin roof -> a woman sings + rain on a tin roof
somebody snores right through a thunderstorm -> somebody snores + a thunderstorm
birds chirp in a light wind -> birds chirp + a light wind
a siren wailing in heavy traffic -> a siren wailing + heavy traffic
a campfire beside a rushing river -> a campfire + a rushing river
someone coughing beside a crackling fire -> someone coughing + a crackling fire
a baby crying on a rattling train -> a baby crying + a rattling train
a dog barks next to a running engine -> a dog barks + a running engine
a man speaking in front of a cheering crowd -> a man speaking + a cheering crowd
a man talking near birds chirping -> a man talking + birds chirping
a chainsaw in a forest full of singing birds -> a chainsaw in a forest + singing birds
water pouring into a pond full of croaking frogs -> water pouring into a pond + croaking frogs
frogs croak in a barn filled with laughter -> frogs croak in a barn + laughter
a man talks in the rain near a crackling fire -> a man talks + rain near a crackling fire
a man talks by a barking dog, then coughs -> a man talks + a barking dog | a man coughs
"""

AT_ONCE = """
a rooster crowing and a cow mooing together -> a rooster crowing + a cow mooing
a dog barks and a bell rings at once -> a dog barks + a bell rings
someone coughing and knocking on a door at once -> someone coughing + someone knocking on a door
a man is talking and typing at the same time -> a man is talking + a man typing
a man speaks and metal is clanking together -> a man speaks + metal is clanking together
"""

ONE_EVENT = """
rain on a tin roof
footsteps in a large empty hall
a car passing by on a wet road
a man speaking with a echo
a man speaking with an accent
a woman speaks over a loudspeaker
water running into a sink with a splash
an emergency vehicle with its siren on
salt and pepper being shaken
thunder and lightning
hustle and bustle
a horse and carriage
pots and pans clanking
a dog, a cat and a bird make noise
high pitched, continuous drilling
loud and annoying alarm
sirens getting closer and closer
humming and revving of an idling engine
a clanking and scraping noise
opening and closing a kitchen cabinet
a person whistles loudly and sharply
a toilet flushes loudly then softly
a car engine vibrates as it idles
drops of water falling one after another
birds singing next to a stream
a crowd clapping after the show
a bird that chirps and flaps its wings
in a quiet room, a clock ticks
rain falling for 2.5 seconds
a flag flapping in the wind
leaves rustling in the wind
footsteps in the snow
footsteps on crunching leaves
a car driving on a wet road
cars driving in traffic
a man speaking in a crowded room
a dog barking in a room full of people
a boat in the water
water splashing in a running river
rain in a thunderstorm
thunder in a storm
wind blowing through rustling leaves
a man sitting by a crackling fire
wood burning in a crackling fire
food sizzling in a frying pan
knocking on a rattling door
a woman speaking in a laughing voice
a man talking in an echoing hall
a train goes by blowing its horn
a forest full of singing birds
two men laugh together
a man talking and laughing at the same time
oinking and squealing
"""

ONGOING = """
a dog barking
birds chirping
coughing
knocking on a door
cars honk
dogs bark loudly
three dogs bark
church bells toll
footsteps
slow footsteps in the snow
crows
loud bangs
rain
heavy rain on a tin roof
wind blows in the trees
wind noise
waves crash on a beach
traffic
applause
music plays
an engine idles
a crackling fire
singing birds
a man is speaking
dishes are being washed
a man and a woman laugh
a crowd cheers
a flock of geese
the sound of rain
a siren wails
a dog barks repeatedly
"""

HAPPENS_ONCE = """
a dog barks
a dog barks twice
a bell rings three times
a bell rings once
a door slams
a door is closed
the toilet flushes
a baby cries
a man coughs loudly
a car passes by on a wet road
a bird that chirps
a gunshot
a splash of water
an explosion
a thud
a bark
a beep
two beeps
a car horn
a loud bang in a crowded hall
"""

# Family and free prompts that name two sounds, or whose grammar does.
TWO_EVENTS = {
    "somebody pulls the tab and a beer can hisses open",
    "a cat that keeps meowing until somebody feeds it",
    "someone doing the dishes, knives and plates knocking together",
    "a drawer is pulled out and then pushed back in",
    "a vehicle's motor running in neutral, then revving",
    "the clicky keys of a keyboard while someone writes",
    "farm waking up as the rooster crows",
    "ambulance rushing by, siren blaring",
    "thunder crashing overhead after a flash of lightning",
    "the toilet is flushed and water swirls down the bowl",
    "long inhale, long exhale",
}

# Of what the parser may take out of a prompt: connectives and marks.
CONSUMED = """
and but then while as with along followed by before after until finally over at first in the
background distance accompanied during repeatedly twice times three several is
"""

CLAUSES = (
    "a dog barks loudly",
    "two men are talking",
    "rain falls on a roof",
    "a sewing machine runs",
    "birds chirp and sing",
    "water is splashing",
    "a man and a woman laugh",
    "an engine idles nearby",
)
NOUNS = ("loud footsteps", "a car horn", "music", "a baby crying", "wind blowing in the trees")
WITH = (" while ", " as ", " and ", ", and ", ", ")
NEXT = (" then ", ", then ", " and then ", ", and finally ", " before ", " until ")
NOUN_WITH = (" with ", " along with ", ", accompanied by ", " and ", " over ")
NOUN_NEXT = (" followed by ", ", followed by ", " before ", " then ")


def notation(prompt: str) -> str:
    return events_notation(parse_events(prompt))


def prompts_of(name: str) -> list[dict[str, str]]:
    file = resources.files("soundcrafter.evaluate.prompts").joinpath(f"{name}.csv")
    with file.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def composed() -> list[tuple[str, str]]:
    """Sentences of two and three events, each with the notation of its events."""
    made = []
    for links, separator, seconds in (
        (WITH, " + ", CLAUSES),
        (NEXT, " | ", CLAUSES),
        (NOUN_WITH, " + ", NOUNS),
        (NOUN_NEXT, " | ", NOUNS),
    ):
        for first, link, second in itertools.product(CLAUSES, links, seconds):
            if first != second:
                made.append((f"{first}{link}{second}", f"{first}{separator}{second}"))
    for first, second, third in itertools.permutations(CLAUSES[:5], 3):
        made.append((f"{first} while {second} then {third}", f"{first} + {second} | {third}"))
        made.append((f"{first}, {second}, and {third}", f"{first} + {second} + {third}"))
        made.append((f"{first} after {second}", f"{second} | {first}"))
    return made


def lines_of(*tables: str) -> list[str]:
    return [line for table in tables for line in table.strip().splitlines()]


@pytest.mark.parametrize("line", lines_of(EXAMPLES, PLACES, AT_ONCE))
def test_finds_the_events(line):
    prompt, _, expected = line.partition(" -> ")
    assert notation(prompt) == expected


@pytest.mark.parametrize("prompt", ONE_EVENT.strip().splitlines())
def test_one_sound_stays_one_event(prompt):
    assert notation(prompt) == prompt


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a dog barks, birds chirp", 0.0),
        ("a dog barks, birds chirp in the background", BACKGROUND_GAIN),
        ("a dog barks, background music", BACKGROUND_GAIN),
        ("a dog barks, birds chirp in the distance", DISTANT_GAIN),
        ("a dog barks and a distant siren", DISTANT_GAIN),
    ],
)
def test_marks_set_the_gain_of_their_event_alone(prompt, expected):
    first, second = parse_events(prompt)
    assert (first.gain, second.gain) == (0.0, expected)


def test_reads_the_lists_of_make_an_audio_2():
    events = parse_events("<dog barking& start> <rain& all> <a door slams & End>")
    assert events == (
        ParsedEvent("dog barking", 0),
        ParsedEvent("rain", 0, throughout=True),
        ParsedEvent("a door slams", 1),
    )
    assert [e.step for e in parse_events("<a& start>, <b& mid>, <c twice& end>")] == [0, 1, 2]


def test_composed_sentences_come_apart_where_they_were_joined():
    wrong = [(p, notation(p), e) for p, e in composed() if notation(p) != e]
    assert not wrong


def lost_words(prompt: str) -> set[str]:
    """The words of a prompt that are in none of its events, or less often."""

    def counted(text: str) -> Counter[str]:
        return Counter(re.findall(r"[\w'-]+", text.lower()))

    events = " ".join(event.text for event in parse_events(prompt))
    return set(counted(prompt) - counted(events))


def test_no_word_is_lost():
    for prompt, _ in composed():
        assert lost_words(prompt) <= set(CONSUMED.split()), prompt


def test_no_word_is_lost_of_sounds_in_places():
    places = {"beside", "by", "full", "filled", "front", "near", "next", "of", "on", "right"}
    for line in lines_of(PLACES):
        prompt = line.split(" -> ")[0]
        assert lost_words(prompt) <= {*CONSUMED.split(), *places, "through", "to"}, prompt


@pytest.mark.parametrize(
    ("prompt", "ongoing"),
    [(prompt, True) for prompt in lines_of(ONGOING)]
    + [(prompt, False) for prompt in lines_of(HAPPENS_ONCE)],
)
def test_grammar_tells_what_goes_on(prompt, ongoing):
    (event,) = parse_events(prompt)
    assert event.ongoing is ongoing


@given(words=st.lists(st.sampled_from(f"{CONSUMED} {' '.join(CLAUSES)} , , ; two".split())))
def test_no_word_is_lost_of_nonsense(words):
    prompt = " ".join(["rain", *words])
    events = parse_events(prompt)
    assert all(re.search(r"\w", event.text) for event in events)
    assert lost_words(prompt) <= {*CONSUMED.split(), "two"}  # two times
    assert parse_events(prompt) == events


def test_long_prompts_are_parsed():
    events = parse_events(" while ".join(["a dog barks"] * 50))
    assert len(events) == 50


def test_an_event_is_one_event():
    lines = [line.split(" -> ")[0] for line in lines_of(EXAMPLES, PLACES, AT_ONCE)]
    for prompt in [*lines, *(prompt for prompt, _ in composed())]:
        for event in parse_events(prompt):
            assert [again.text for again in parse_events(event.text)] == [event.text], prompt


def test_the_steps_are_numbered_in_order():
    for prompt, _ in composed():
        steps = [event.step for event in parse_events(prompt)]
        assert steps == sorted(steps)
        assert set(steps) == set(range(len(set(steps))))


def test_spacing_and_case_do_not_matter():
    for prompt, expected in composed()[::7]:
        assert notation("  " + prompt.replace(" ", "  ") + " . ") == expected
        assert notation(prompt.upper()) == notation(prompt).upper()


def test_composition_prompts():
    for row in prompts_of("composition"):
        events = parse_events(row["prompt"])
        if row["kind"] == "overlap":
            assert {event.step for event in events} == {0}, row["prompt"]
            continue
        assert [event.step for event in events] == [0, 1], row["prompt"]
        texts = [event.text for event in events]
        assert [event.text for event in parse_events(row["reversed"])] == texts[::-1]


def test_family_prompts_are_one_event():
    prompts = [row["prompt"] for name in ("families", "free") for row in prompts_of(name)]
    assert {prompt for prompt in prompts if len(parse_events(prompt)) > 1} == TWO_EVENTS


def test_an_empty_prompt_is_refused():
    for prompt in ("", "  \n"):
        with pytest.raises(ValueError, match="at least one word"):
            parse_events(prompt)
    for prompt in (" , . ", "🔥"):  # the model may make something of it
        assert [event.text for event in parse_events(prompt)] == [prompt]


@pytest.mark.parametrize(
    "prompt",
    [
        "then",
        "and",
        "twice",
        "in the background",
        "while",
        "a, then",
        "<&start>",
        "with with",
        "☂ 7",
    ],
)
def test_odd_prompts_keep_at_least_one_event(prompt):
    events = parse_events(prompt)
    assert events
    assert all(event.text for event in events)


def test_needs_no_torch():
    code = "import sys, soundcrafter.scene.parse\nassert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


WORDS = (
    "a the dog door rain wind thunder fire barks barking slams and , . then while with over is are",
    "after before which until in of on near background distance someone coughing bells two times",
    "twice followed by as at first finally it its his crackling full train sound once not",
)


def test_any_words_are_parsed():
    words, rng = " ".join(WORDS).split(), random.Random(0)
    for _ in range(3000):
        prompt = " ".join(rng.choice(words) for _ in range(rng.randint(1, 9)))
        if any(word not in ",." for word in prompt.split()):
            assert all(event.ongoing in (True, False) for event in parse_events(prompt))
