import csv
import hashlib
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

from soundcrafter.data.captions import normalize_caption, read_captions
from soundcrafter.evaluate.prompt_sets import (
    REVERSED,
    added_family_prompts,
    composition_prompts,
    family_prompts,
    free_prompts,
    read_prompts,
)

FROZEN = {
    "added_families.csv": "8024c7b4a571c1067d34e4abe0c3d80acdec47ebdf09d8c3c95c5b53e3a1c020",
    "families.csv": "8364b3e2f0ee8539cb6be8c4d4eafc692bbbd52c88d1112a28fb99a22e17fb83",
    "composition.csv": "eb48f1836617fe023ee970bb2e2a2e44a625462ee87c55b729e6e871cfd63b05",
    "free.csv": "d87c5e41c62b980583994dc325ab552124c4b487608cb090c2579b47980ff955",
    "figure4.csv": "b8dfe12e002b12b55b34c7e20a929aef18ebdfc24f9ab3cbffdc6967650f638e",
}

WORDINGS = Path(__file__).resolve().parents[2] / "recipes" / "wordings.csv"


@pytest.mark.parametrize("name", FROZEN)
def test_the_files_are_as_they_were_frozen(name):
    file = Path(str(resources.files("soundcrafter"))) / "evaluate" / "prompts" / name
    assert hashlib.sha256(file.read_bytes()).hexdigest() == FROZEN[name]


def test_four_wordings_a_family_and_a_hundred_free_ones(data_dir):
    with open(data_dir / "scored_families.csv", newline="") as stream:
        families = {row["family"] for row in csv.DictReader(stream)}
    assert Counter(p.family for p in family_prompts()) == dict.fromkeys(families, 4)
    with open(data_dir / "added_families.csv", newline="") as stream:
        added = {row["family"] for row in csv.DictReader(stream)}
    assert Counter(p.family for p in added_family_prompts()) == dict.fromkeys(added, 4)
    assert not added & families
    assert len(free_prompts()) == 100
    assert {p.family for p in free_prompts()} == families


def test_forty_scenes_of_each_kind_and_each_order_reversed(data_dir):
    with open(data_dir / "scored_families.csv", newline="") as stream:
        families = {row["family"] for row in csv.DictReader(stream)}
    scenes = composition_prompts()
    assert {f for scene in scenes for f in (scene.first, scene.second)} <= families
    assert Counter(scene.kind for scene in scenes) == {"overlap": 40, "order": 80}
    overlaps = [scene for scene in scenes if scene.kind == "overlap"]
    ordered = [scene for scene in scenes if scene.kind == "order"]
    for pairs in (overlaps, ordered[::2]):
        assert len({frozenset((s.first, s.second)) for s in pairs}) == 40
    for plain, turned in zip(ordered[::2], ordered[1::2], strict=True):
        assert turned.name == plain.name + REVERSED
        assert (turned.first, turned.second) == (plain.second, plain.first)
        assert sorted(turned.text.replace(",", "").split()) == sorted(
            plain.text.replace(",", "").split()
        )
    assert ordered[0].text == "a door slams and then a dog barks"
    assert ordered[1].text == "a dog barks and then a door slams"


def test_no_prompt_is_a_caption_or_stands_twice(data_dir):
    known = set(read_captions(data_dir / "sounds.csv"))
    for table in (data_dir / "captions").glob("audiocaps*.csv"):
        known |= set(read_captions(table))
    with open(WORDINGS, newline="") as stream:
        known |= {row["wording"] for row in csv.DictReader(stream)}
    known = {normalize_caption(caption) for caption in known}
    prompts = [
        normalize_caption(prompt.text)
        for prompt in (
            *family_prompts(),
            *added_family_prompts(),
            *free_prompts(),
            *composition_prompts(),
        )
    ]
    assert len(known) > 50_000
    assert not known & set(prompts)
    assert len(set(prompts)) == len(prompts)


def test_files_of_ones_own(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    assert [p.text for p in read_prompts(tmp_path / "a.txt")] == ["one", "two"]
    (tmp_path / "b.csv").write_text('prompt,family\n"a, b",rain\n')
    assert read_prompts(tmp_path / "b.csv")[0].family == "rain"
    (tmp_path / "c.csv").write_text("text\nx\n")
    with pytest.raises(ValueError, match="needs prompt"):
        read_prompts(tmp_path / "c.csv")
    (tmp_path / "d.txt").write_text("\n")
    with pytest.raises(ValueError, match="it has no prompts"):
        read_prompts(tmp_path / "d.txt")
    with pytest.raises(ValueError, match="cannot read"):
        read_prompts(tmp_path / "e.txt")
