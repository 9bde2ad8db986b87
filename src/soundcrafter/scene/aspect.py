"""Whether a sound goes on or happens once, judged by the grammar of its phrase (its aspect)."""

from soundcrafter.scene import words as known
from soundcrafter.scene.grammar import PREDICATES, SUBJECTS, Kind, Phrase, Tag, is_plural

PLURAL_AUXILIARIES = frozenset({"are", "were", "have", "do"})


def is_ongoing(phrase: Phrase) -> bool:
    """Whether a sound goes on, or comes again, for as long as there is time.

    A participle goes on ("a dog barking"), and so do several sources ("cars honk") and what is
    continuous by itself ("rain"). One source with a finite verb ("a dog barks") and the noun of a
    single sound ("a splash") happen once.
    """
    if "once" in phrase.lower:
        return False
    at = phrase.predicate
    if at is None and phrase.kind is Kind.VERBAL:
        at = 0
    if at is None:
        return _is_ongoing_noun(phrase)
    if _has_participle(phrase[at:]):
        return True
    verb = phrase.lower[at]
    plural = verb in PLURAL_AUXILIARIES or (at > 0 and verb in known.VERBS)  # birds chirp
    barks = at == 0 and phrase.tags[0] is Tag.MAYBE_VERB and is_plural(verb)
    return plural or barks or (at > 0 and _is_ongoing_noun(phrase[:at]))


def _has_participle(verbs: Phrase) -> bool:
    """Whether a participle is among the verbs that a phrase begins with: is loudly barking."""
    for word, tag in zip(verbs.lower, verbs.tags, strict=True):
        if tag is Tag.ING or word == "being":
            return True
        if tag not in (*PREDICATES, Tag.ADVERB):
            return False
    return False


def _is_ongoing_noun(phrase: Phrase) -> bool:
    """Whether what a noun names goes on: several sources, or something continuous."""
    stop = next((at for at in range(1, len(phrase)) if _ends_noun(phrase, at)), len(phrase))
    if phrase.lower[stop - 1] in known.NOISES and phrase.lower[stop : stop + 1] == ("of",):
        return stop + 1 < len(phrase) and is_ongoing(phrase[stop + 1 :])  # the sound of rain
    nouns = [at for at in range(stop) if phrase.tags[at] in (*SUBJECTS, Tag.ING)]
    if not nouns:
        return False
    if Tag.ING in phrase.tags[:stop]:  # a crackling fire
        return True
    if phrase.lower[nouns[-1]] in known.NOISES and len(nouns) > 1:
        nouns.pop()  # wind noise
    noun = phrase.lower[nouns[-1]]
    if {noun, noun.removesuffix("s")} & known.CONTINUOUS:
        return True
    counted = phrase.lower[0] in known.NUMBERS or phrase.lower[0].isdigit()
    if counted and known.names_a_sound(noun):  # two beeps
        return False
    return is_plural(noun) or noun in known.GROUPS


def _ends_noun(phrase: Phrase, at: int) -> bool:
    """Whether a place, or a clause about the noun, begins here: a bird that chirps."""
    return phrase.tags[at] is Tag.PREPOSITION or phrase.lower[at] in ("that", "which", "who")
