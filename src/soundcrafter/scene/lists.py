"""Events joined by "and" and commas: which of them are sounds of their own."""

from soundcrafter.scene import words as known
from soundcrafter.scene.grammar import FINITE, Kind, Phrase, Tag

PRESENT = frozenset({"present", "occur", "occurs", "occurring"})


def split_list(clause: str) -> list[str]:
    """Split a clause at "and" and commas where both sides are sounds of their own."""
    phrase = Phrase.of(clause)
    parts: list[slice] = []
    begin = 0
    for at, tag in enumerate((*phrase.tags, Tag.BREAK)):
        if tag is Tag.BREAK:
            if at > begin:
                parts.append(slice(begin, at))
            begin = at + 1
    for at in range(len(parts) - 2, -1, -1):
        if _is_unfinished(phrase[parts[at]]):
            parts[at : at + 2] = [slice(parts[at].start, parts[at + 1].stop)]
    for at in range(len(parts) - 2, 0, -1):  # a man speaks, a woman and a child laugh
        if _is_subject(phrase, parts[at], parts[at + 1]):
            parts[at : at + 2] = [slice(parts[at].start, parts[at + 1].stop)]
    events: list[str] = []
    event = parts[0] if parts else slice(0, len(phrase))
    for number, part in enumerate(parts[1:], start=2):
        following = phrase[parts[number]] if number < len(parts) else None
        by_and = phrase.lower[part.start - 1] == "and"
        if _is_new(phrase[event], phrase[part], following, by_and):
            events.append(str(phrase[event]))
            event = part
        event = slice(event.start, part.stop)
    return [*events, str(phrase[event])]


def _is_unfinished(part: Phrase) -> bool:
    """Whether a part is an article and adjectives of the noun after it: a brief, loud horn."""
    return part.tags[0] is Tag.DETERMINER and set(part.tags[1:]) == {Tag.ADJECTIVE}


def _is_subject(phrase: Phrase, part: slice, clause: slice) -> bool:
    """Whether a part of a list shares the verb of the part after it."""
    left, right = phrase[part], phrase[clause]
    by_and = phrase.lower[part.stop : clause.start] == ("and",)
    noun = left.kind is Kind.NOUN or (left.kind is Kind.VERBAL and by_and and len(left) == 1)
    return noun and right.kind is Kind.CLAUSE and not _is_new_clause(left, right)


def _is_new(left: Phrase, right: Phrase, following: Phrase | None, by_and: bool) -> bool:
    """Whether a part of a list is a sound of its own, or belongs to the event before it."""
    pair = frozenset((left.lower[-1], right.lower[0]))
    if pair in known.PAIRS or len(pair) == 1 or not (left.sounds or left.is_source):
        return False
    if right.tags[0] is Tag.MAYBE_VERB and not right.finite and left.finite:
        return False  # a baby coos and laughs at a woman speaking
    if right.kind is Kind.CLAUSE:
        return _is_new_clause(left, right)
    alike = len(left) == 1 or ("of" not in left.lower and is_noise(left))
    if alike and "of" in right.lower and right.tags[0] in (Tag.NOUN, Tag.ING):
        return False  # the humming and vibrations of a machine, small groans and beeps of birds
    if right.kind is Kind.OTHER:
        return False
    if is_noise(left) and is_noise(right) and _is_plain(right):
        far = left.has(frozenset({"background", "distant"}))  # both may be
        return not (far or _shares_noun(right) or _is_one_source(left, right))
    if left.lower[-1] in PRESENT and right.tags[0] is Tag.ING:
        return True  # snoring is present, and rustling
    if right.kind is Kind.VERBAL:
        return _is_new_verb(left, right, by_and)
    if left.kind is not Kind.NOUN:
        return right.sounds and not _has_object(left)
    if (
        following
        and following.kind in (Kind.CLAUSE, Kind.NOUN)
        and not (left.sounds or right.sounds)
    ):
        return False  # a dog, a cat and a bird make noise
    return right.sounds or right.is_source


def _is_new_clause(left: Phrase, right: Phrase) -> bool:
    """Whether a part with its own subject and verb is new: not so in "a man and a woman talk"."""
    first = right.lower[0]
    if first == "it" or (first in known.POSSESSIVES and right.has(known.MANNER_NOUNS)):
        return False
    at = right.predicate
    if left.predicate is not None or left.finite or at is None:
        return True
    subject = right[:at]
    if len(left) == 1 and "of" in subject.lower and subject.tags[0] is not Tag.DETERMINER:
        return False  # horns and sirens of a firetruck blare
    if right.tags[at] not in FINITE:  # rain and a dog barking; but: a man and a dog barking
        return left.sounds
    verb = right.lower[at]
    if verb in known.THIRD_PERSON or verb in ("is", "was"):
        return left.sounds or not left.has(known.PEOPLE, known.ANIMALS)
    return left.sounds and subject.has(known.PEOPLE, known.ANIMALS)


def _is_new_verb(left: Phrase, right: Phrase, by_and: bool) -> bool:
    """Whether a part that begins with a verb is a noun of its own: a man speaks and rustling."""
    first = next(tag for tag in right.tags if tag is not Tag.ADVERB)
    if len(right) == 1 and right.lower[0] in known.SOUND_VERBS and not by_and:
        return False  # a clock, tick
    if left.kind is Kind.NOUN:
        noise = is_noise(left) or known.base_of(left.head.lower[-1]) in known.SOUND_VERBS
        return left.sounds and first in (Tag.ING, Tag.MAYBE_VERB) and not noise
    if first is Tag.ING:
        return by_and and left.finite and not {Tag.ING, Tag.PAST} & set(left.tags)
    return right.sounds and first is Tag.MAYBE_VERB and not left.finite


def is_noise(phrase: Phrase) -> bool:
    """Whether a phrase names noises without their source: loud bangs, clicking."""
    shared = phrase.lower[-1] in known.NOISES  # a mixing sound
    return phrase.kind is not Kind.CLAUSE and all(
        known.base_of(word) in known.SOUND_VERBS
        or word in known.NOISES
        or (tag is Tag.ING and shared)
        for word, tag in zip(phrase.lower, phrase.tags, strict=True)
        if tag in (Tag.NOUN, Tag.MAYBE_VERB, Tag.ING)
    )


def _shares_noun(phrase: Phrase) -> bool:
    """Whether the noise before a phrase belongs to its noun, too: a clanking and scraping noise."""
    noise = phrase.tags[0] in (Tag.ING, Tag.MAYBE_VERB, Tag.NOUN)
    return noise and phrase.lower[-1] in known.NOISES


def _is_one_source(left: Phrase, right: Phrase) -> bool:
    """Whether one source may well make both noises: oinking and squealing."""
    first, second = ({known.base_of(word) or word for word in part.lower} for part in (left, right))
    return any(first & source and second & source for source in known.ONE_SOURCE)


def _is_plain(phrase: Phrase) -> bool:
    """Whether a phrase is one noun with nothing of its own before it: clicks, clicking noises."""
    return len(phrase) - (phrase.lower[-1] in known.NOISES) <= 1


def _has_object(phrase: Phrase) -> bool:
    """Whether a verb that takes sounds as its object ends a phrase: plays the drums."""
    bases = [known.base_of(word) for word in phrase.lower]
    return any(base in ("play", "imitate", "hear", "use") for base in bases[:-1])
