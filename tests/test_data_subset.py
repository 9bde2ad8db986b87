"""Choosing among AudioCaps' captions: draws that depend on nothing but seed and clip, and lists."""

import dataclasses
import json
import random
from collections import Counter

import pytest

from soundcrafter.data.layouts import CaptionEntry
from soundcrafter.data.subset import Selection, read_clip_list, select


def caption(
    number: int, clip: str, *, text: str | None = None, split: str = "train"
) -> CaptionEntry:
    words = text or f"caption {number}"
    return CaptionEntry(clip=clip, start=5.0, caption=words, split=split, number=str(number))


def many() -> list[CaptionEntry]:
    return [caption(n, f"clip{n // 5}") for n in range(200)]


SELECTIONS = [
    Selection(one_caption=True),
    Selection(random_validation=0.3),
    Selection(limit=7),
    Selection(limit=20, one_caption=True, random_validation=0.5),
]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_draws_do_not_depend_on_the_order(selection):
    entries = many()
    expected = {(e.number, e.split) for e in select(entries, selection)[0]}
    for shuffle in range(3):
        random.Random(shuffle).shuffle(entries)
        chosen, _ = select(entries, selection)
        assert {(e.number, e.split) for e in chosen} == expected
        places = {e.number: place for place, e in enumerate(entries)}
        assert [places[e.number] for e in chosen] == sorted(places[e.number] for e in chosen)
    other = select(entries, dataclasses.replace(selection, seed=1))[0]
    assert {(e.number, e.split) for e in other} != expected


def test_draws_of_a_clip_do_not_depend_on_the_others():
    entries = many()
    fewer = [e for e in entries if int(e.clip[4:]) % 3 == 0]
    for selection in SELECTIONS[:2]:
        whole = {(e.number, e.split) for e in select(entries, selection)[0]}
        part = {(e.number, e.split) for e in select(fewer, selection)[0]}
        assert part == {pair for pair in whole if int(pair[0]) // 5 % 3 == 0}
    small, large = (select(entries, Selection(limit=n))[0] for n in (5, 12))
    assert len({e.clip for e in small}) == 5
    assert {e.number for e in small} < {e.number for e in large}


def test_random_validation_takes_whole_clips():
    entries, _ = select(many(), Selection(random_validation=0.5))
    for clip in {e.clip for e in entries}:
        assert len({e.split for e in entries if e.clip == clip}) == 1
    assert {e.split for e in entries} == {"train", "dev"}


def test_all_five_captions_are_drawn():
    entries = [caption(n, f"clip{n // 5}") for n in range(5000)]
    chosen, _ = select(entries, Selection(one_caption=True))
    counts = Counter(int(e.number) % 5 for e in chosen)
    assert all(150 < counts[place] < 250 for place in range(5))  # 1000 clips


def test_only(tmp_path):
    entries = [
        caption(1, "aaaaaaaaaaa", text="Rain"),
        caption(2, "aaaaaaaaaaa", text="Rain falls"),
        caption(3, "bbbbbbbbbbb", text="A dog"),
        caption(4, "ccccccccccc", text="Wind"),
    ]

    def numbers(name: str, text: str) -> tuple[list[str], int]:
        (tmp_path / name).write_text(text)
        kept, unknown = read_clip_list(tmp_path / name).choose(entries)
        return [e.number for e in kept], unknown

    assert numbers("a.csv", "youtube_id\naaaaaaaaaaa\nzzzzzzzzzzz\n") == (["1", "2"], 1)
    assert numbers("b.csv", "audiocap_id,youtube_id\n2,aaaaaaaaaaa\n") == (["2"], 0)
    assert numbers("c.csv", "audiocap_id\n3\n9\n") == (["3"], 1)
    assert numbers("d.txt", "Yaaaaaaaaaaa.wav\nccccccccccc\n") == (["1", "2", "4"], 0)
    published = [
        {"wav": "/mnt/p1/Yaaaaaaaaaaa.wav", "caption": "rain falls."},
        {"wav": "/mnt/p2/Ybbbbbbbbbbb.wav", "caption": "another wording"},
    ]
    assert numbers("e.json", json.dumps({"data": published})) == (["2", "3"], 0)
    lines = '{"dataset": "x", "location": "/d/aaaaaaaaaaa_0.wav", "captions": "Rain"}\n'
    assert numbers("f.json", lines) == (["1"], 0)
    assert numbers("g.csv", "youtube_id\nnobody\n") == ([], 1)
    with pytest.raises(ValueError, match="lists none of the clips"):
        select(entries, Selection(only=tmp_path / "g.csv"))
    with pytest.raises(ValueError, match=r"h\.csv: has columns file; needs audiocap_id or"):
        numbers("h.csv", "file\nx\n")
    with pytest.raises(ValueError, match=r"i\.txt: lists no clips"):
        numbers("i.txt", "\n")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Selection(random_validation=1), "random_validation: got 1; allowed: above 0"),
        (lambda: Selection(limit=0), "limit: got 0; allowed: 1 or more"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_two_validation_parts_are_refused():
    both = [caption(1, "a"), caption(2, "b", split="dev")]
    with pytest.raises(ValueError, match="requires a train table and no validation table"):
        select(both, Selection(random_validation=0.1))
