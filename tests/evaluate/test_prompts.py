import csv
import hashlib
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

from soundcrafter.data.manifest import normalize_caption, read_captions
from soundcrafter.evaluate.prompts import family_prompts, free_prompts, read_prompts

FROZEN = {
    "families.csv": "8364b3e2f0ee8539cb6be8c4d4eafc692bbbd52c88d1112a28fb99a22e17fb83",
    "free.csv": "d87c5e41c62b980583994dc325ab552124c4b487608cb090c2579b47980ff955",
}


@pytest.mark.parametrize("name", FROZEN)
def test_the_files_are_as_they_were_frozen(name):
    file = Path(str(resources.files("soundcrafter"))) / "evaluate" / "prompts" / name
    assert hashlib.sha256(file.read_bytes()).hexdigest() == FROZEN[name]


def test_four_wordings_a_family_and_a_hundred_free_ones(data_dir):
    with open(data_dir / "scored_families.csv", newline="") as stream:
        families = {row["family"] for row in csv.DictReader(stream)}
    assert Counter(p.family for p in family_prompts()) == dict.fromkeys(families, 4)
    assert len(free_prompts()) == 100
    assert {p.family for p in free_prompts()} == families


def test_no_prompt_is_a_caption_or_stands_twice(data_dir):
    known = set(read_captions(data_dir / "sounds.csv"))
    for table in (data_dir / "captions").glob("audiocaps*.csv"):
        known |= set(read_captions(table))
    known = {normalize_caption(caption) for caption in known}
    prompts = [normalize_caption(p.text) for p in (*family_prompts(), *free_prompts())]
    assert len(known) > 50_000
    assert not known & set(prompts)
    assert len(set(prompts)) == len(prompts)


def test_files_of_ones_own(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    assert [p.text for p in read_prompts(tmp_path / "a.txt")] == ["one", "two"]
    (tmp_path / "b.csv").write_text('prompt,family\n"a, b",rain\n')
    assert read_prompts(tmp_path / "b.csv")[0].family == "rain"
    (tmp_path / "c.csv").write_text("text\nx\n")
    with pytest.raises(ValueError, match="no column prompt"):
        read_prompts(tmp_path / "c.csv")
    (tmp_path / "d.txt").write_text("\n")
    with pytest.raises(ValueError, match="no prompt in it"):
        read_prompts(tmp_path / "d.txt")
    with pytest.raises(ValueError, match="cannot read"):
        read_prompts(tmp_path / "e.txt")
