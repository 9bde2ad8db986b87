"""What the prompt parser knows about English words: the lists of words.toml, and verb forms."""

import tomllib
from importlib import resources

_LISTS = tomllib.loads(
    resources.files("soundcrafter.scene").joinpath("words.toml").read_text(encoding="utf-8")
)


def _words(name: str) -> frozenset[str]:
    return frozenset(_LISTS[name].split())


DETERMINERS = _words("determiners")
PRONOUNS = _words("pronouns")
POSSESSIVES = frozenset({"his", "her", "its", "their"})
PREPOSITIONS = _words("prepositions")
CONJUNCTIONS = _words("conjunctions")
SUBORDINATORS = _words("subordinators")
PARTICLES = _words("particles")
BE = frozenset({"is", "are", "was", "were", "be", "been", "being"})
AUXILIARIES = _words("auxiliaries")
ADVERBS = _words("adverbs")
ADJECTIVES = _words("adjectives")
PEOPLE = _words("people")
ANIMALS = _words("animals")
MACHINES = _words("machines")
SOUND_NOUNS = _words("sound_nouns")
MANNER_NOUNS = _words("manner_nouns")
NOISES = frozenset({"noise", "noises", "sound", "sounds", "vibration", "vibrations"})
DEVICES = _words("devices")
CROWDS = _words("crowds")
PLURALS = _words("plurals")
SOUND_VERBS = _words("sound_verbs")
VERBS = SOUND_VERBS | _words("other_verbs")
NEVER_NOUNS = _words("never_nouns")
NOT_ING = _words("not_ing")
TOUCHING = _words("touching")
SILENT = _words("silent")
FORCES = _words("forces")
WEATHER = _words("weather")
WINDS = _words("winds")
TRAFFIC = _words("traffic")
NAMED_BY_USE = _words("named_by_use")
ONE_SOURCE = [frozenset(verbs.split()) for verbs in _LISTS["one_source"]]
CONTINUOUS = _words("continuous")
GROUPS = _words("groups")
PAIRS = frozenset(frozenset(pair.split()) for pair in _LISTS["pairs"])
NUMBERS = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
    "fifteen": 15,
    "twenty": 20,
}


def _third_person(base: str) -> str:
    if base.endswith("y") and base[-2] not in "aeiou":
        return base[:-1] + "ies"
    return base + ("es" if base.endswith(("s", "x", "z", "ch", "sh", "go")) else "s")


def _past(base: str) -> set[str]:
    """The regular past forms; with a doubled and with a plain consonant, of which one is right."""
    if base.endswith("e"):
        return {base + "d"}
    if base.endswith("y") and base[-2] not in "aeiou":
        return {base[:-1] + "ied"}
    return {base + "ed", base + base[-1] + "ed"}


# From a form to its base. "leaves" are those of trees.
THIRD_PERSON = {_third_person(base): base for base in VERBS - {"leave"}}
PAST = {form: base for base in VERBS for form in _past(base)}
PAST |= {form: base for base, forms in _LISTS["irregular"].items() for form in forms.split()}


def base_of(word: str) -> str | None:
    """The base form of a known verb in any form; None for other words."""
    if word in VERBS:
        return word
    if word.endswith("ing"):
        stem = word[:-3]
        bases = [stem, stem + "e", *([stem[:-1]] if stem[-1:] == stem[-2:-1] else [])]
        return next((base for base in bases if base in VERBS), None)
    return THIRD_PERSON.get(word) or PAST.get(word)


def names_a_sound(word: str) -> bool:
    """Whether a noun, or a form of a verb used as one, is heard by itself."""
    return word in SOUND_NOUNS or base_of(word) in SOUND_VERBS
