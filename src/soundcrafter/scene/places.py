"""Sounds that stand in a phrase of place: "crows cawing in the rain" is crows and rain.

What stands in such a phrase is most often no sound of its own ("in the snow", "on a tin roof"), or
it is what the sound is made with ("rain on a rattling window"). It is an event where it is heard by
itself: a noun of the weather or of a crowd of sources, a noun whose participle says how it sounds
("a crackling fire"), or what a place is full of ("a pond full of croaking frogs").
"""

import re

from soundcrafter.scene import words as known
from soundcrafter.scene.grammar import Kind, Phrase, Tag

PLACE = re.compile(
    r" (?:(?:right|just|straight|directly) )?(?:"
    r"(?P<full>full of|filled with)"
    r"|(?P<beside>beside|near|next to|close to|by(?= (?:a|an|the) )|behind|in front of|around)"
    r"|(?P<within>in|inside|inside of|outside in|through|throughout|under|underneath|beneath)"
    r"|(?P<upon>on|aboard)"
    r") (?:the )?",
    re.IGNORECASE,
)
TOUCHES = (Tag.VERB, Tag.MAYBE_VERB, Tag.ING, Tag.PAST)
NO_SOURCES = known.NAMED_BY_USE | known.DEVICES | known.MANNER_NOUNS | known.NOISES
MODIFIERS = (Tag.DETERMINER, Tag.ADJECTIVE, Tag.ADVERB)


def split_places(event: str) -> list[str]:
    """An event, and apart from it the sounds in its phrases of place."""
    events: list[str] = []
    match = PLACE.search(event)
    while match:
        left, right = event[: match.start()], event[match.end() :]
        if right and _is_apart(match, Phrase.of(left), Phrase.of(right)):
            events.append(left)
            event, match = right, PLACE.search(right)
        else:
            match = PLACE.search(event, match.end() - 1)
    return [*events, event]


def touches(phrase: Phrase) -> bool:
    """Whether a sound is made with the thing it acts on: knocking on a door, footsteps."""
    return any(
        word in known.TOUCHING or (tag in TOUCHES and known.base_of(word) in known.TOUCHING)
        for word, tag in zip(phrase.lower, phrase.tags, strict=True)
    )


def is_silent(phrase: Phrase) -> bool:
    """Whether somebody does what is not heard: a man sitting."""
    return any(known.base_of(word) in known.SILENT for word in phrase.lower)


def _is_apart(match: re.Match[str], left: Phrase, right: Phrase) -> bool:
    """Whether both what stands before a phrase of place and the noun in it are heard."""
    if is_silent(left) or not (left.sounds or left.is_source) or left.has(known.SUBORDINATORS):
        return False
    if left.lower[-1].endswith(("ed", "following")):  # followed by, interrupted by
        return False
    if Tag.BREAK in right.tags or right.lower[0] in known.POSSESSIVES:
        return False
    if match["full"]:
        return _is_clause(right) or _is_participle(right) or _is_sound(right)
    if left.has(known.FORCES):  # they make the place sound: wind in rustling trees
        return False
    creature = left.has(known.PEOPLE, known.ANIMALS)
    if not match["upon"] and _is_weather(right):
        calm = not right.head.has(known.WINDS) or (creature and not touches(left))
        return calm and not (right.has(known.TRAFFIC) and left.has(known.MACHINES, known.TRAFFIC))
    if touches(left):
        return False
    if match["beside"] and left.kind is not Kind.NOUN and _is_clause(right):
        return True
    return _is_participle(right) and (creature or not match["upon"])


def _is_weather(phrase: Phrase) -> bool:
    return phrase.kind is not Kind.CLAUSE and phrase.head.lower[-1] in known.WEATHER


def _is_participle(phrase: Phrase) -> bool:
    """Whether a participle says how a noun sounds: a crackling fire, loudly singing birds."""
    places = [at for at, tag in enumerate(phrase.tags) if tag is Tag.PREPOSITION]
    noun = phrase[: places[0] if places else len(phrase)]
    if not noun or phrase.predicate is not None or noun.lower[-1] in NO_SOURCES:
        return False
    at = next((at for at, tag in enumerate(noun.tags) if tag not in MODIFIERS), len(noun) - 1)
    if noun.tags[at] is not Tag.ING or Tag.ING in noun.tags[at + 1 :] or at == len(noun) - 1:
        return False
    return _is_heard(noun.lower[at]) or noun.lower[-1] in known.SOUND_NOUNS


def _is_clause(phrase: Phrase) -> bool:
    """Whether a source and a participle tell a sound: birds chirping."""
    at = phrase.predicate
    if at is None or phrase.tags[at] is not Tag.ING:
        return False
    source = (known.PEOPLE, known.ANIMALS, known.MACHINES, known.SOUND_NOUNS)
    return phrase[:at].has(*source) and _is_heard(phrase.lower[at])


def _is_sound(phrase: Phrase) -> bool:
    return phrase.kind is Kind.NOUN and phrase.sounds and not phrase.head.has(known.NAMED_BY_USE)


def _is_heard(participle: str) -> bool:
    return known.base_of(participle) in known.SOUND_VERBS - {"echo"}  # an echoing hall
