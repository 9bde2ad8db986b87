"""File names of the Universal Category System (UCS 8.2), by which sound designers sort effects.

A name is CatID_FXName_CreatorID_SourceID_UserData: "_" stands between fields and nowhere else, and
"-" only before parts that we do not write. The list of categories, ucs.csv, is in the public
domain. Its column `words` is ours: what prompts call the sounds of a category.
"""

import csv
import difflib
import math
import re
import unicodedata
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources

from soundcrafter.filenames import check_name

AUTO = "auto"  # instead of a CatID: the category that fits the prompt
CREATOR = "SNDCRFT"  # CreatorID: who made the sound
SOURCE = "NONE"  # SourceID: the project or library; UCS writes NONE for neither
MOST_LETTERS = 25  # of an FXName
_APOSTROPHE = "['\u2019]"
_MOST_ID_LETTERS = 20  # of a CreatorID or SourceID; UCS only asks for short ones

# What a match says for a row: its own words, the most telling first, then its category and its
# subcategory. A category is in all of its rows, and a material is a subcategory of many.
_WORD, _EACH_LATER_WORD, _LEAST_WORD = 1.0, 0.03, 0.6
_CATEGORY, _SUBCATEGORY, _BOTH = 0.8, 0.7, 0.2
# What a word of the prompt counts: what makes the sound is more telling than what it does, how it
# is and where.
_PARTICIPLE, _QUALIFIER, _PLACE, _LATER_CLAUSE = 0.7, 0.3, 0.4, 0.75
# Categories that a prompt has to name: a dog in a forest is a dog, and a creak is no cartoon.
_NAMED = frozenset({"AMBIENCE", "ARCHIVED", "CARTOON", "DESIGNED", "FOLEY"})
_TO_BE_NAMED = 0.5


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words in names of subcategories that say nothing there: a small crackle is no small creature, and
# a CAT WILD is no cat.
_NOT_INDEXED = _words("misc general real source small large high by of cat designed domestic")
# How a sound is, who causes it, and verbs of anything: they decide only if nothing else does.
_QUALIFIERS = _words(
    """
    air angry antique automatic back big blow boy build builder building burst child close
    closed dark distant dropped dry dull eerie electric electronic emergency empty evil fall
    fast fi forth game ghostly girl guy hard heavy hit hollow home house huge human impact
    interior kid lady light little loud low man mechanical men metallic military noise old open
    opened passing people person play played playing police press pull pulled push quick quiet
    recreational rumble rumbling run running school sci short shut single slow soft sound spooky
    start tonal traditional turbulent underwater urban vintage voice wet wild woman women
    """
)
_PREPOSITIONS = _words(
    """
    above across against along amid among around at behind below beneath beside between beyond by
    during for from in inside into near on onto outside over past through toward towards under
    underneath until upon with within without
    """
)
_CLAUSE_WORDS = _words("after and as before followed plus then when while")
_ARTICLES = _words("a an the")
_NEVER_LAST = _ARTICLES | _PREPOSITIONS | _CLAUSE_WORDS | _words("her his its of or their to")


@dataclass(frozen=True)
class Category:
    """A row of the list: a subcategory of sounds."""

    cat_id: str  # GLASBrk: the category's letters in capitals, then the subcategory's
    category: str  # GLASS
    subcategory: str  # BREAK
    words: tuple[str, ...] = ()  # what prompts call these sounds, the most telling first


@cache
def categories() -> tuple[Category, ...]:
    """All categories of UCS 8.2.1, in the order of the list."""
    text = resources.files("soundcrafter").joinpath("ucs.csv").read_text(encoding="utf-8")
    return tuple(
        Category(row["cat_id"], row["category"], row["subcategory"], tuple(row["words"].split()))
        for row in csv.DictReader(text.splitlines())
    )


def cat_id(prompt: str) -> str:
    """The CatID whose words fit a prompt best; rare words count more, and places count less.

    Raises ValueError if the prompt has no word of any category.
    """
    scores: defaultdict[str, float] = defaultdict(float)
    for word, weight in _weigh(prompt).items():
        said: dict[str, float] = {}
        for form in _forms(word):
            for name, relevance in _index().get(form, {}).items():
                said[name] = max(relevance, said.get(name, 0))
        for name, relevance in said.items():
            scores[name] += weight * relevance
    if not scores:
        raise ValueError(f"ucs: no category fits {prompt!r}; choose one: --ucs CATID")
    return max(_by_id(), key=lambda name: scores[name])  # the first of equals


def check_cat_id(given: str) -> None:
    """Raise ValueError unless UCS has this CatID; the message suggests one."""
    if given in _by_id():
        return
    names = {name.lower(): name for name in _by_id()}
    close = [names[name] for name in difflib.get_close_matches(given.lower(), names, n=1)]
    if not close:
        with suppress(ValueError):
            close = [cat_id(given)]  # an everyday word: dog
    advice = f"did you mean {close[0]}?" if close else "a CatID looks like ANMLDog or RAINMetl"
    raise ValueError(f"ucs: UCS has no CatID {given!r}; {advice}")


def ucs_name(
    cat_id: str, fx_name: str, creator: str = CREATOR, source: str = SOURCE, user_data: str = ""
) -> str:
    """Build a file name without its suffix.

    `fx_name` may be any text, such as a prompt: it becomes at most 25 letters in title case.
    `user_data` makes names unique. Raises ValueError for an unknown CatID, and for another field
    that is not made of letters and digits.
    """
    check_cat_id(cat_id)
    for option, value in (("ucs-creator", creator), ("ucs-source", source)):
        if not value.isalnum() or len(value) > _MOST_ID_LETTERS:
            allowed = f"1 to {_MOST_ID_LETTERS} letters and digits"
            raise ValueError(f"{option}: got {value!r}; allowed: {allowed}")
    if user_data and not user_data.isalnum():
        raise ValueError(f"user_data: got {user_data!r}; allowed: letters and digits")
    fields = (cat_id, _fx_name(fx_name), creator, source, user_data)
    name = "_".join(field for field in fields if field)
    check_name(name)
    return name


@dataclass(frozen=True)
class UcsNaming:
    """How the files of one command are named."""

    cat_id: str = AUTO
    creator: str = CREATOR
    source: str = SOURCE

    def __post_init__(self) -> None:
        if self.cat_id != AUTO:
            check_cat_id(self.cat_id)
        ucs_name("RAIN", "rain", self.creator, self.source)  # checks both

    def name(self, prompt: str, seed: int, title: str = "") -> str:
        """The file name, without its suffix, of a sound. `title`: its FXName, if not the prompt."""
        chosen = cat_id(prompt) if self.cat_id == AUTO else self.cat_id
        return ucs_name(chosen, title or prompt, self.creator, self.source, f"s{seed}")


@cache
def _by_id() -> dict[str, Category]:
    """By CatID. A category's general row comes before its others, so that it wins a draw."""
    ordered = sorted(categories(), key=lambda row: not _is_general(row))
    return {row.cat_id: row for row in ordered}


def _is_general(row: Category) -> bool:
    return row.subcategory in ("MISC", "GENERAL")


@cache
def _index() -> dict[str, dict[str, float]]:
    """The CatIDs of each word, and how much the word says for each of them."""
    index: dict[str, dict[str, float]] = {}
    for row in categories():
        scale = _TO_BE_NAMED if row.category in _NAMED else 1.0
        for word, weight in _words_of(row).items():
            index.setdefault(word, {})[row.cat_id] = weight * scale
    all_categories = len({row.category for row in categories()})
    for rows in index.values():
        spread = len({_by_id()[name].category for name in rows})
        for name in rows:
            rows[name] *= math.log(1 + all_categories / spread)  # a rare word is more telling
    return index


def _words_of(row: Category) -> dict[str, float]:
    """The words of a row and of its names, each with its weight."""
    weights: dict[str, float] = {}
    for number, word in enumerate(row.words):
        weights[word] = max(_WORD - number * _EACH_LATER_WORD, _LEAST_WORD)
    shared = _WORD if _is_general(row) else _CATEGORY
    for text, weight in ((row.subcategory, _SUBCATEGORY), (row.category, shared)):
        for name in _plain_words(text):
            for word in _forms(name) - _NOT_INDEXED:
                both = _BOTH if word in weights else 0
                weights[word] = max(weight, weights.get(word, 0)) + both
    return weights


def _weigh(prompt: str) -> dict[str, float]:
    """The words of a prompt, each with its weight in the sentence."""
    weights: dict[str, float] = {}
    clause, place = 1.0, 1.0
    for token in re.findall(r"[,;.:!?]|[^\s,;.:!?]+", prompt):
        if token in ",;.:!?" or token.lower() in _CLAUSE_WORDS:
            clause, place = clause * (_LATER_CLAUSE if weights else 1), 1.0
            continue
        for word in _plain_words(token):
            kind = 1.0
            if word in _PREPOSITIONS:
                place = _PLACE
            elif _forms(word) & _QUALIFIERS:
                kind = _QUALIFIER
            elif word.endswith(("ing", "ed")):
                kind = _PARTICIPLE
            weights[word] = max(clause * place * kind, weights.get(word, 0))
    return weights


def _plain_words(text: str) -> list[str]:
    """Words in lower case, without accents and the possessive 's."""
    plain = re.sub(rf"{_APOSTROPHE}s?\b", "", _without_accents(text).lower())
    return re.findall(r"[^\W_]+", plain)


def _without_accents(text: str) -> str:
    """Latin letters without their accents; other scripts stay as they are."""
    apart = unicodedata.normalize("NFKD", text)
    kept = re.sub(r"(?<=[A-Za-z])[\u0300-\u036f]+", "", apart)
    return unicodedata.normalize("NFC", kept)


def _forms(word: str) -> set[str]:
    """A word and what it may be a plural, a participle or a past tense of."""
    forms = {word}
    if word.endswith("s") and not word.endswith("ss"):
        forms |= {word[:-1], word.removesuffix("es")}
    if word.endswith(("ies", "ied")):
        forms.add(word[:-3] + "y")
    for suffix in ("ing", "ed"):
        if word.endswith(suffix) and not word.endswith("eed"):
            base = word.removesuffix(suffix)
            forms |= {base, base + "e"}
            if base[-1:] == base[-2:-1]:
                forms.add(base[:-1])  # dripping
    return {form for form in forms if len(form) > 1}


def _fx_name(text: str) -> str:
    """At most 25 letters in title case, cut at a word; letters and digits of any script."""
    plain = re.sub(_APOSTROPHE, "", _without_accents(text))
    kept = [c if unicodedata.category(c)[0] in "LNM" else " " for c in plain]
    words = [word[:1].upper() + word[1:] for word in "".join(kept).split()]
    if len(words) > 1 and words[0].lower() in _ARTICLES:
        words = words[1:]
    while len(" ".join(words)) > MOST_LETTERS and len(words) > 1:
        words.pop()
        while len(words) > 1 and words[-1].lower() in _NEVER_LAST:
            words.pop()  # not "Rain On A"
    return " ".join(words)[:MOST_LETTERS].strip() or "Sound"
