"""Split a sound prompt into its events: which sounds, which of them together, in which order.

A prompt is split at words of order into steps, a step at words such as "while" into clauses, and
a clause at "and" and commas (lists.py) and at phrases of place (places.py) into events, where the
grammar says that both sides are sounds of their own. In doubt, one event stays one. Nested prompts
are read from left to right.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from soundcrafter.scene import words as known
from soundcrafter.scene.aspect import is_ongoing
from soundcrafter.scene.grammar import FINITE, Kind, Phrase, Tag, is_plural
from soundcrafter.scene.lists import is_noise, split_list
from soundcrafter.scene.places import is_silent, split_places, touches

BACKGROUND_GAIN = -8.0  # LU
DISTANT_GAIN = -12.0  # LU
COUNTS = (None, *range(1, 21))  # what may be repeated; other numbers stay in the text
MAX_LENGTH = 1000  # letters; longer prompts are not split, because long lists take seconds


@dataclass(frozen=True)
class ParsedEvent:
    """One sound of a prompt.

    text: its words as the prompt has them; a subject carried over is added in front.
    step: events of one step sound together; steps follow each other: 0, 1, ...
    gain: LU relative to the other events.
    repeats: how often it sounds; None for an unstated number ("repeatedly").
    throughout: it lasts through all steps, as what is in the background does.
    """

    text: str
    step: int
    gain: float = 0.0
    repeats: int | None = 1
    throughout: bool = False

    @property
    def ongoing(self) -> bool:
        """Whether it goes on or comes again for as long as there is time, not once or N times."""
        if self.repeats != 1:
            return self.repeats is None
        return is_ongoing(Phrase.of(self.text))


def parse_events(prompt: str) -> tuple[ParsedEvent, ...]:
    """The events of a prompt, in the order of their steps; at least one.

    Also reads lists such as `<dog barking& start> <rain& all>`, with start, mid, end or all
    (Make-An-Audio 2). Raises ValueError for an empty prompt.
    """
    if not prompt.strip():
        raise ValueError("a prompt needs at least one word")
    if len(prompt) > MAX_LENGTH or not re.search(r"\w", prompt):
        return (ParsedEvent(prompt, 0),)
    tagged = TAGGED.findall(prompt)
    if tagged and not TAGGED.sub("", prompt).strip(" ,;."):
        return _tagged_events(tagged)
    # Spaces around commas and full stops make them words of their own; decimal points stay.
    text = " ".join(re.sub(r"\s*([,;]|\.(?!\w))", r" \1 ", prompt).split()).strip(" ,;.")
    steps = [_at_once(_together(step)) for step in _steps(text)]
    return tuple(
        _marked(ParsedEvent(event, number)) for number, step in enumerate(steps) for event in step
    )


def events_notation(events: Iterable[ParsedEvent]) -> str:
    """One line that shows events, steps and marks: `a dog barks x2 + rain ~ | thunder ^`."""
    steps: dict[int, list[str]] = {}
    for event in events:
        mark = {BACKGROUND_GAIN: " ~", DISTANT_GAIN: " ^"}.get(event.gain, "")
        times = "" if event.repeats == 1 else f" x{event.repeats or '*'}"
        steps.setdefault(event.step, []).append(event.text + mark + times)
    return " | ".join(" + ".join(steps[step]) for step in sorted(steps))


# --- the list of Make-An-Audio 2 ---

TAGGED = re.compile(r"<([^<>&]*\w[^<>&]*)&\s*(start|mid|end|all)\s*>", re.IGNORECASE)


def _tagged_events(tagged: list[tuple[str, str]]) -> tuple[ParsedEvent, ...]:
    order = [when for when in ("start", "mid", "end") if any(t.lower() == when for _, t in tagged)]
    events = [
        _marked(
            ParsedEvent(
                " ".join(text.split()),
                0 if when.lower() == "all" else order.index(when.lower()),
                throughout=when.lower() == "all",
            )
        )
        for text, when in tagged
    ]
    return tuple(sorted(events, key=lambda event: event.step))


# --- steps ---

# Connectives match whole words of a text in which spaces separate words and commas.
_LINK = r"(?:(?:and|but|which|that|it|is|are|was|were|being|then|afterwards?) ){0,4}"
_HOW = r"(?:(?:closely|shortly|immediately|soon|directly|just|right|then) ){0,4}"
ORDER = re.compile(
    rf"(?:(?<= )|^)(?:[,;.] )?(?:"
    rf"(?P<before>{_HOW}before(?! and after))"
    rf"|(?P<after>{_HOW}(?<!before and )after(?! (?:another|the other|one|which|that)\b))"
    rf"|(?P<noun>{_LINK}{_HOW}(?:followed|following|proceeded|succeeded)"
    rf" (?:\w+ly |later |again )?{_HOW}by"
    rf"|(?:and |which )?(?:ending|ends) (?:with|in)|(?:which )?(?:leading|leads) (?:up )?to)"
    rf"|after which|after that|at which point|until"
    rf"|(?P<then>(?:and |but |which )?then(?: (?:finally|eventually|later))?)"
    rf"|(?:and |but )?(?:finally|eventually|afterwards?)|(?:and|,) (?:later(?: on)?|next)(?= )"
    rf")(?: ,)?(?: |$)",
    re.IGNORECASE,
)
OPENING = re.compile(r"^(?:at first|firstly|first|initially|to begin with)(?: ,)? ", re.IGNORECASE)
AT_FIRST = re.compile(r" (?:,  )?(?:at first|initially)$", re.IGNORECASE)


def _steps(text: str) -> list[str]:
    """The texts of the steps, in the order in which they sound."""
    leading = re.match(r"(?:shortly )?(after|before) (.+?) , (.+)$", text, re.IGNORECASE)
    if leading and Phrase.of(leading[2]).sounds:
        word, first, second = leading.groups()
        text = f"{first} then {second}" if word.lower() == "after" else f"{second} then {first}"
    steps: list[str] = []
    for link, step in _in_order(text):
        if link and steps and not link["noun"]:
            step = _with_subject(step, _clauses(steps[-1])[-1], link)
        at = len(steps) - 1 if link and link["after"] else len(steps)
        steps.insert(at, step)
    if len(steps) > 1:
        steps = [AT_FIRST.sub("", OPENING.sub("", step)) for step in steps]
    return steps


def _in_order(text: str) -> list[tuple[re.Match[str] | None, str]]:
    """The steps as the text has them, each with the word of order in front of it."""
    found: list[tuple[re.Match[str] | None, str]] = []
    link = None  # the word of order in front of `text`
    match = ORDER.search(text)
    while match:
        left, right = text[: match.start()].strip(), text[match.end() :].strip()
        if not right or not _separates(match, left, right):
            match = ORDER.search(text, match.end())
            continue
        if match["then"] and (moved := _moved_then(left, right)):
            left, right = moved
        if left:
            found.append((link, left))
        text, link = right, match
        match = ORDER.search(text)
    return [*found, (link, text)]


def _separates(match: re.Match[str], left: str, right: str) -> bool:
    """Whether a word of order has a sound on either side; most need not be looked at."""
    following = ORDER.search(right)
    after = Phrase.of(right[: following.start()] if following else right)
    if match["before"] or match["after"]:
        return Phrase.of(left).sounds and after.sounds
    return not (match["then"] and after and after.kind is Kind.OTHER)  # loudly then softly


def _moved_then(left: str, right: str) -> tuple[str, str] | None:
    """Put "then" in front of its clause: in "rain and a man then laughs", "a man" is no sound."""
    match = re.match(r"(.+?) (?:, and|and|[,;.]) ((?:(?!and\b|,).)+)$", left, re.IGNORECASE)
    if not match or Phrase.of(right).tags[0] not in (*FINITE, Tag.MAYBE_VERB, Tag.PAST):
        return None
    subject = Phrase.of(match[2])
    bare = subject.kind is Kind.NOUN and subject.tags[0] is Tag.DETERMINER
    unfinished = subject.lower[-1] in known.BE
    return (match[1], f"{match[2]} {right}") if bare or unfinished else None


def _with_subject(step: str, previous: str, link: re.Match[str]) -> str:
    """A step that begins with its verb, with the subject of the clause before it in front."""
    phrase, before = Phrase.of(_together(step)[0]), Phrase.of(previous)
    at = before.predicate
    if at is None or phrase.kind is not Kind.VERBAL:
        return step
    subject = before[:at]
    if subject.tags[0] is Tag.PREPOSITION and "," in subject.words:  # in a hall, a dog barks
        subject = subject[len(subject) - subject.words[::-1].index(",") :]
    while subject and subject.tags[-1] is Tag.ADVERB:
        subject = subject[:-1]
    verbs = [tag for tag in phrase.tags if tag is not Tag.ADVERB]
    form = verbs[0]
    if form is Tag.MAYBE_VERB:  # barks: a verb if one dog barked before it, a noun after two
        plural = is_plural(subject.lower[-1]) or "and" in subject.lower
        third = phrase.lower[phrase.tags.index(form)] in known.THIRD_PERSON
        carried = before.tags[at] in FINITE and third is not plural
    elif form is Tag.ING:  # not: rustling leaves
        alike = Tag.ING in before.tags[at:] or not link["then"]  # speaks before coughing
        carried = alike and verbs[1:2] not in ([Tag.NOUN], [Tag.ING])
    else:
        carried = True
    return f"{subject} {step}" if carried else step


# --- clauses that sound together ---

TOGETHER = re.compile(
    r"(?:(?<= )|^)(?:[,;.] )?(?:and |but |all )?(?:"
    r"(?P<clause>(?<!a )while|whilst|as(?! if| well| though| a result)(?: meanwhile)?)"
    r"|(?P<always>(?:is |are |being )?(?:accompanied|punctuated|interspersed|mixed) (?:by|with)"
    r"|along with|together with|as well as"
    r"|during which|(?:all )?the while|meanwhile|at the same time(?: as)?|simultaneously with)"
    r"|(?P<sound>(?<!over and )over(?! and over)|above|amid|amidst|among|amongst|alongside|during)"
    r"|(?P<manner>(?<!filled )with)"
    r")(?: ,)?(?: |$)",
    re.IGNORECASE,
)


LEADING = re.compile(  # while it rains, a man speaks
    r"(?:while|whilst|as) (.+?(?: in the background)?)(?: ,|(?<=in the background)) (.+)$",
    re.IGNORECASE,
)
AT_ONCE = re.compile(
    r"(?: ,)?(?: all| both)? (?:at the same time|simultaneously|at once|(?P<joint>together))$",
    re.IGNORECASE,
)


def _together(step: str) -> list[str]:
    """The texts of the events of a step."""
    return [event for clause in _clauses(step) for event in split_places(clause)]


def _clauses(step: str) -> list[str]:
    """The events of a step, with their phrases of place."""
    events: list[str] = []
    while (leading := LEADING.match(step)) and Phrase.of(leading[1]).kind is Kind.CLAUSE:
        events += _apart(leading[1])
        step = leading[2]
    return events + _apart(step)


def _at_once(step: list[str]) -> list[str]:
    """A step without the words "at the same time" at its end, if it has several events."""
    *others, last = step
    match = AT_ONCE.search(last)
    if not match:
        return step
    text = last[: match.start()].strip()
    if verbs := _verbs_at_once(text):
        return [*others, *verbs]
    if not others or not text or (match["joint"] and not _is_alone(Phrase.of(text))):
        return step
    return [*others, text]


def _is_alone(clause: Phrase) -> bool:
    """Whether its subject cannot sound "together" by itself: a cow moos; not: metal clanks."""
    return clause.lower[0] in ("a", "an") and clause.predicate == len(clause) - 1


def _verbs_at_once(text: str) -> list[str]:
    """Two participles of one subject that say two sounds: coughing and knocking on a door."""
    left, _, right = text.rpartition(" and ")
    first, second = Phrase.of(left), Phrase.of(right)
    if not left or second.kind is not Kind.VERBAL or second.tags[0] is not Tag.ING:
        return []
    if Tag.ING not in first.tags or touches(first) is touches(second):
        return []  # talking and laughing is one sound
    return [left, f"{first[: first.predicate or 0]} {right}".strip()]


def _apart(step: str) -> list[str]:
    """Split a text at words such as "while" that do not open it."""
    events: list[str] = []
    match = TOGETHER.search(step)
    while match:
        left, right = step[: match.start()].strip(), step[match.end() :].strip()
        if left and right and _is_apart(match, left, right):
            events += split_list(left)
            step, match = right, TOGETHER.search(right)
        else:
            match = TOGETHER.search(step, match.end())
    return events + split_list(step)


def _is_apart(match: re.Match[str], left: str, right: str) -> bool:
    """Whether what follows a word of simultaneity is a sound of its own."""
    if match["always"]:
        return True
    following = TOGETHER.search(right)
    scope = right[: following.start()].strip() if following else right
    phrase = Phrase.of(split_list(scope)[0] if scope else right)
    before = Phrase.of(split_list(left)[-1])
    if match["clause"]:
        if is_silent(phrase):
            return False
        if phrase.kind is Kind.VERBAL:  # while typing; but: while cooking
            heard = any(known.names_a_sound(word) for word in phrase.lower)
            return phrase.tags[0] is Tag.ING and heard
        kinds = (Kind.CLAUSE,) if match["clause"].lower() == "as" else (Kind.CLAUSE, Kind.NOUN)
        return phrase.kind in kinds and not _is_same_source(phrase)
    if not (phrase.sounds and before.sounds) or phrase.kind is Kind.OTHER:
        return False
    words = re.split(" (?:and|,)(?: |$)| in ", scope)[0].split() or scope.split()
    last = words[-1].lower() if words else ""
    if last in known.DEVICES and not (match["manner"] and phrase.kind is Kind.CLAUSE):
        return False  # over a loudspeaker
    if match["sound"] or phrase.kind is Kind.CLAUSE:
        return phrase.lower[0] not in ("its", "it")
    manner = phrase.has(known.MANNER_NOUNS) and not phrase.has(known.PEOPLE, known.ANIMALS)
    if phrase.lower[0] in known.POSSESSIVES or manner:
        return bool(BACKGROUND.search(scope) or DISTANT.search(scope))
    # "with a splash" says how the sound before it ends, not that a second source splashes.
    modifiers = {Tag.DETERMINER, Tag.ADJECTIVE, Tag.ADVERB}
    splash = phrase.lower[0] in ("a", "an") and set(phrase.tags[:-1]) <= modifiers
    splash = splash and phrase.lower[-1] in known.SOUND_VERBS and scope == str(phrase)
    return not splash or before.kind is Kind.NOUN or is_noise(before)


def _is_same_source(clause: Phrase) -> bool:
    """Whether a clause says more about a sound before it: as it passes; but: as it rains."""
    bases = {known.base_of(word) for word in clause.lower[:3]}
    if clause.lower[0] in ("he", "she", "they"):  # as they pass; but: as she types
        return not bases & known.SOUND_VERBS
    return clause.lower[0] in ("it", "its") and not bases & {"rain", "hail", "storm", "thunder"}


# --- marks: how loud, how far, how often ---

BACKGROUND = re.compile(r" ?\b(?:far )?[io]n (?:the |a )?background\b(?! of)", re.IGNORECASE)
DISTANT = re.compile(
    r" ?\b(?:(?:(?<!go )(?<!goes )(?<!going )off )?in the (?:far )?distance"
    r"|(?:from|at) (?:a|the) distance|from afar|(?:from )?far away|far off)\b(?! from)",
    re.IGNORECASE,
)
REPEATS = re.compile(
    rf" ?\b(?:(twice)|(thrice)|(\d+|{'|'.join(known.NUMBERS)}) times|repeatedly"
    r"|(?:several|many|multiple|numerous|some|a few|a couple(?: of)?|a number of) times"
    r"|over and over(?: again)?|again and again)\b",
    re.IGNORECASE,
)


def _marked(event: ParsedEvent) -> ParsedEvent:
    """Take the marks out of the text of an event; "distant thunder" keeps its adjective."""
    text, gain, repeats, throughout = event.text, 0.0, event.repeats, event.throughout
    for pattern, value in ((BACKGROUND, BACKGROUND_GAIN), (DISTANT, DISTANT_GAIN)):
        if not pattern.search(text):
            continue
        without = re.sub(r" (?:is|are|was|were)$", "", pattern.sub("", text).strip(" ,;."))
        if without:
            text, gain = without, value
            throughout = throughout or pattern is BACKGROUND
    if (match := REPEATS.search(text)) and _number(match) in COUNTS:
        without = (text[: match.start()] + text[match.end() :]).strip(" ,;.")
        if without:
            text, repeats = without, _number(match)
    for word in _leading_adjectives(text):
        gain = min(gain, {"background": BACKGROUND_GAIN, "distant": DISTANT_GAIN}.get(word, 0.0))
    text = re.sub(
        r"^(?:and |but )+|(?: and| but|[,;. ])+$", "", text.strip(" ,;."), flags=re.IGNORECASE
    )
    text = re.sub(r" (?=[,;.])", "", text)
    return replace(event, text=text, gain=gain, repeats=repeats, throughout=throughout)


def _number(match: re.Match[str]) -> int | None:
    twice, thrice, number = match.groups()
    if twice or thrice:
        return 2 if twice else 3
    if number:
        return known.NUMBERS.get(number.lower()) or int(number)
    return None


def _leading_adjectives(text: str) -> list[str]:
    phrase = Phrase.of(text)
    found = []
    for word, tag in zip(phrase.lower, phrase.tags, strict=True):
        if tag not in (Tag.DETERMINER, Tag.ADJECTIVE, Tag.ADVERB, Tag.BREAK):
            break
        found.append(word)
    return found
