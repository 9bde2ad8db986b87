"""Light grammar for the prompt parser: the part of speech of each word, and what a phrase is."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

from soundcrafter.scene import words as known


class Tag(Enum):
    """The parts of speech that the parser tells apart."""

    NOUN = auto()
    PRONOUN = auto()
    DETERMINER = auto()
    ADJECTIVE = auto()
    ADVERB = auto()
    PREPOSITION = auto()
    BREAK = auto()  # "and", "but" and commas
    AUXILIARY = auto()
    VERB = auto()  # finite: barks
    MAYBE_VERB = auto()  # finite or a noun, with no subject before it to tell: barks
    ING = auto()
    PAST = auto()  # participle
    OTHER = auto()


class Kind(Enum):
    """What a phrase is, as far as splitting needs to know."""

    CLAUSE = auto()  # a subject and its verb: a dog barks, a dog barking
    VERBAL = auto()  # a verb without a subject: barks loudly, barking, is shut
    NOUN = auto()  # a noun without a verb: a loud bark
    OTHER = auto()  # a place, a manner, an adjective


FINITE = (Tag.VERB, Tag.AUXILIARY)
PREDICATES = (*FINITE, Tag.ING, Tag.PAST)
SUBJECTS = (Tag.NOUN, Tag.PRONOUN, Tag.MAYBE_VERB)
# What may follow a verb, and no noun's modifier; the empty word stands for the end.
COMPLETES = known.PREPOSITIONS | known.ADVERBS | known.DETERMINERS | {"", "and", ",", ";", "."}


@dataclass(frozen=True)
class Phrase:
    """Some words of a prompt, each with its part of speech."""

    words: tuple[str, ...]
    tags: tuple[Tag, ...]

    @classmethod
    def of(cls, text: str) -> "Phrase":
        """Tag the words of a text in which spaces separate words and commas."""
        words = text.split()
        tags: list[Tag] = []
        lower = [word.lower() for word in words]
        for at in range(len(words)):
            tags.append(_tag(lower[at], lower[:at], tags, "".join(lower[at + 1 : at + 2])))
        return cls(tuple(words), tuple(tags))

    def __getitem__(self, part: slice) -> "Phrase":
        return Phrase(self.words[part], self.tags[part])

    def __len__(self) -> int:
        return len(self.words)

    def __str__(self) -> str:
        return " ".join(self.words)

    @cached_property
    def lower(self) -> tuple[str, ...]:
        return tuple(word.lower() for word in self.words)

    @cached_property
    def predicate(self) -> int | None:
        """Where the verb of the subject begins; None where no verb has a subject."""
        subject = False
        for at, tag in enumerate(self.tags):
            if self.lower[at] in known.SUBORDINATORS:
                return None
            if subject and tag in FINITE:
                return at
            if subject and tag in (Tag.ING, Tag.PAST) and self._ends_noun(at):
                return at
            noun = tag in (*SUBJECTS, Tag.ING) or self.lower[at] in known.PRONOUNS
            keeps = tag is Tag.MAYBE_VERB and not known.names_a_sound(self.lower[at])
            subject = subject or (noun and not keeps)  # keeps barking: no subject
        return None

    def _ends_noun(self, at: int) -> bool:
        """Whether a noun, perhaps with adverbs after it, stands before a place."""
        while at and self.tags[at - 1] is Tag.ADVERB:
            at -= 1
        return at > 0 and (
            self.tags[at - 1] in SUBJECTS or self.lower[at - 1] in known.PRONOUNS | known.PARTICLES
        )

    @property
    def finite(self) -> bool:
        return any(tag in FINITE for tag in self.tags)

    @cached_property
    def kind(self) -> Kind:
        tags = [tag for tag in self.tags if tag is not Tag.ADVERB]
        if not tags:
            return Kind.OTHER
        if tags[0] in (*FINITE, Tag.PAST):
            return Kind.VERBAL
        if self.predicate is not None:
            return Kind.CLAUSE
        if tags[0] is Tag.PREPOSITION or self.lower[0] in known.SUBORDINATORS:
            return Kind.OTHER
        if tags[0] is Tag.ING and len(tags) > 1 and self.lower[-1] in known.NOISES:
            return Kind.NOUN  # clanging sounds
        if tags[0] in (Tag.ING, Tag.MAYBE_VERB):
            return Kind.VERBAL
        nouns = (*SUBJECTS, Tag.ING)
        return Kind.NOUN if any(tag in nouns for tag in tags) else Kind.OTHER

    @property
    def head(self) -> "Phrase":
        """A noun phrase without what follows its noun; what follows "of" stays."""
        for at, (word, tag) in enumerate(zip(self.lower, self.tags, strict=True)):
            place = at > 0 and tag is Tag.PREPOSITION and word != "of"
            verb = tag is Tag.BREAK and self.tags[at + 1 : at + 2] == (Tag.MAYBE_VERB,)
            if place or verb:
                return self[:at]
        return self

    def has(self, *lists: frozenset[str]) -> bool:
        return any(word in words for word in self.lower for words in lists)

    @property
    def sounds(self) -> bool:
        """Whether the phrase is heard: it says what somebody does, or it names a sound."""
        if self.kind is Kind.VERBAL and self.tags[0] is Tag.MAYBE_VERB:
            return known.names_a_sound(self.lower[0])
        if self.kind in (Kind.CLAUSE, Kind.VERBAL):
            return True
        head = self.head
        if self.kind is not Kind.NOUN or not head or head.tags[-1] is Tag.ADJECTIVE:  # sound asleep
            return False
        return any(
            tag is Tag.ING or (tag in SUBJECTS and known.names_a_sound(word))
            for word, tag in zip(head.lower, head.tags, strict=True)
        )

    @property
    def is_source(self) -> bool:
        """Whether it is a source of sound without a verb: a dog, a truck. A person is none."""
        return self.kind is Kind.NOUN and self.head.has(known.ANIMALS, known.MACHINES)


def is_plural(word: str) -> bool:
    return word in known.PLURALS or (word.endswith("s") and not word.endswith(("ss", "us", "'s")))


def _tag(word: str, before: list[str], tags: Sequence[Tag], after: str) -> Tag:
    """The part of speech of a word, told from the words before it, their tags and the next word."""
    only = word == "but" and before[-1:] in (["nothing"], ["all"])  # nothing but crickets
    if word in (",", ";", ".", "and", "&", "but") and not only:
        return Tag.BREAK
    if word in known.CONJUNCTIONS | known.SUBORDINATORS:
        return Tag.OTHER
    at = len(before) - 1
    while at >= 0 and tags[at] is Tag.ADVERB:
        at -= 1
    last = tags[at] if at >= 0 else Tag.BREAK
    if word in known.PEOPLE and word in known.ADJECTIVES:  # an adult female voice
        modifies = after in known.PEOPLE or after in known.SOUND_NOUNS
        return Tag.ADJECTIVE if modifies else Tag.NOUN
    if word in known.THIRD_PERSON and word not in known.AUXILIARIES:
        return _third_person(word, before, tags, last, after)
    if word == "there" and after in known.BE:
        return Tag.PRONOUN
    if word in known.PRONOUNS and word not in known.DETERMINERS:
        return Tag.PRONOUN
    if word in known.DETERMINERS:
        return Tag.DETERMINER
    if word in known.AUXILIARIES:
        return Tag.AUXILIARY
    if word in known.PREPOSITIONS:
        return Tag.PREPOSITION
    after_verb = last in (*PREDICATES, Tag.MAYBE_VERB)
    if word in known.ADVERBS and (after_verb or word not in known.ADJECTIVES):
        return Tag.ADVERB
    if word in known.VERBS:
        return _base_form(word, before, tags, at, after)
    if word in known.ADJECTIVES:
        return Tag.ADJECTIVE
    if word.endswith("ly") and word not in known.ANIMALS:
        return Tag.ADVERB
    if word.endswith("ing") and word not in known.NOT_ING:
        return Tag.ING
    if word in known.PAST or (word.endswith("ed") and len(word) > 4):
        verb = last in (Tag.AUXILIARY, *SUBJECTS) or (last is Tag.BREAK and after in COMPLETES)
        return Tag.PAST if verb else Tag.ADJECTIVE
    if _is_unlisted_verb(word, before, tags, after):
        return Tag.VERB if last in SUBJECTS else Tag.MAYBE_VERB
    return Tag.NOUN if any(letter.isalpha() for letter in word) else Tag.OTHER


def _is_unlisted_verb(word: str, before: list[str], tags: Sequence[Tag], after: str) -> bool:
    """A word in -s is a verb in "a snake squirms", and before a noun's article: refills the gun."""
    if not is_plural(word) or _in_clause(tags):
        return False
    if not tags or tags[-1] is Tag.BREAK:
        return after in ("a", "an", "the", "its", "his", "her")
    start = max((at for at, tag in enumerate(tags) if tag is Tag.BREAK), default=-1) + 1
    few = {"few", "couple", "dozen"} & set(before)
    return before[start] in ("a", "an", "another") and tags[-1] is Tag.NOUN and not few


def _in_clause(tags: Sequence[Tag]) -> bool:
    """Whether a finite verb stands before, with no break since."""
    breaks = [at for at, tag in enumerate(tags) if tag is Tag.BREAK]
    return any(tag in FINITE for tag in tags[breaks[-1] if breaks else 0 :])


def _third_person(word: str, before: list[str], tags: Sequence[Tag], last: Tag, after: str) -> Tag:
    """A verb with -s: barks. Most are plural nouns too."""
    if last is Tag.BREAK:
        insects = word in known.ANIMALS and after not in known.PARTICLES  # flies by
        return Tag.NOUN if insects or after == "of" else Tag.MAYBE_VERB  # gusts of wind
    if last is Tag.DETERMINER:
        return Tag.VERB if before[-1] in known.PRONOUNS else Tag.NOUN  # another laughs
    if last not in (*SUBJECTS, Tag.ING, Tag.PAST) or _in_clause(tags):
        return Tag.NOUN
    if word in ("sounds", "noises") and before[0] not in ("a", "an", "the"):
        return Tag.NOUN  # engine sounds; but: an alarm sounds
    return Tag.VERB


def _base_form(word: str, before: list[str], tags: Sequence[Tag], at: int, after: str) -> Tag:
    """A verb without an ending: bark. Most are nouns too. at: of the last word but adverbs."""
    if at < 0 or tags[at] is Tag.BREAK:
        if (after in COMPLETES or after.endswith("ly")) and word not in known.SOUND_NOUNS:
            return Tag.MAYBE_VERB
        return Tag.ADJECTIVE if word in known.ADJECTIVES else Tag.NOUN
    if tags[at] is Tag.PRONOUN or before[at] in ("to", "do", "can", "will"):
        return Tag.VERB
    finite = max((at for at, tag in enumerate(tags) if tag in FINITE), default=-1)
    noun = after in known.THIRD_PERSON or before[at].endswith("'s")  # and a train whistle blows
    joint = Tag.BREAK in tags[finite + 2 :] and not noun  # a man and a woman talk
    plural = is_plural(before[at]) or joint or before[at] in known.CROWDS
    sure = word in known.NEVER_NOUNS and tags[at] in (*SUBJECTS, Tag.ING)
    if (sure or (plural and tags[at] in SUBJECTS)) and not _in_clause(tags):
        return Tag.VERB
    return Tag.ADJECTIVE if word in known.ADJECTIVES else Tag.NOUN
