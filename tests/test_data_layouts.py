"""Names of clips and foreign metadata: what is written in one place is found by every reader."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundcrafter.data.clip_names import (
    clip_name,
    clip_names,
    find_clip,
    index_audio,
    parse_clip_name,
    project_split,
)
from soundcrafter.data.layouts import read_layout
from soundcrafter.data.tables import parse_number

ids = st.text("abcXYZ019-_", min_size=11, max_size=11)
starts = st.integers(0, 3600)


@given(ids, starts)
def test_every_name_of_a_clip_is_found_and_tells_its_id(clip, start):
    names = list(clip_names(clip, start))
    assert len(names) == len(set(names)) or start == 0  # 0 s are 0 ms
    assert {f"Y{clip}", clip, f"{clip}_{start}", f"{clip}_{start}_{start + 10}"} <= set(names)
    assert f"{clip}_{start * 1000}_{start * 1000 + 10000}" in names
    for name in names:
        assert find_clip({name: Path(name)}, clip, start) == Path(name)
        assert parse_clip_name(name)[0] == clip
    assert parse_clip_name(clip_name(clip, start)) == (clip, start)
    assert parse_clip_name(f"Y{clip}_{start * 1000}_{start * 1000 + 10000}") == (clip, start)


@given(ids, starts, starts)
def test_names_do_not_mix_clips_of_one_video(clip, start, other):
    taken = set(clip_names(clip, other, alone=False))
    for name in clip_names(clip, start, alone=False):
        # a start alone may be seconds or thousandths: 7_000 s would be the same as 7 s
        if name in taken:
            assert start == other or start == other * 1000 or other == start * 1000
    assert find_clip({f"Y{clip}": Path("x")}, clip, start, alone=False) is None


def test_telling_names_win_over_bare_ones():
    files = {"Yabc": Path("bare"), "abc_30": Path("told")}
    assert find_clip(files, "abc", 30) == Path("told")
    assert find_clip(files, "abc", 40) == Path("bare")


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        ("YQSuFyFm3Lc_230", ("YQSuFyFm3Lc", 230)),  # an id that begins with Y
        ("YYQSuFyFm3Lc", ("YQSuFyFm3Lc", None)),
        ("Y--PJHxphWEs_30.000_40.000", ("--PJHxphWEs", 30)),
        ("fsBR7e_X_0Y_40", ("fsBR7e_X_0Y", 40)),
        ("rain on a roof", ("rain on a roof", None)),
        ("short_3", ("short_3", None)),
    ],
)
def test_ids_in_names(name, clip):
    assert parse_clip_name(name) == clip


def test_names_of_all_clips_of_audiocaps(data_dir):
    lines = (data_dir / "captions" / "audiocaps_test.csv").read_text().splitlines()[1:]
    for clip, start in {tuple(line.split(",")[1:3]) for line in lines}:
        assert all(parse_clip_name(name)[0] == clip for name in clip_names(clip, float(start)))


def test_index_leaves_out_hidden_and_other_files(tmp_path):
    for name in ("b/one.wav", "a/one.flac", "two.WAV", ".three.wav", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert index_audio(tmp_path) == {
        "one": tmp_path / "a/one.flac",
        "two": tmp_path / "two.WAV",
    }
    assert set(index_audio(tmp_path, recursive=False)) == {"two"}


def test_words_of_tables():
    names = ("audiocaps_val", "valid", "dev", "my_Test", "audiocaps_train", "x")
    assert list(map(project_split, names)) == ["dev", "dev", "dev", "test", "train", "train"]
    cells = ("30", " 1.5", "", None, "x", "-1", "inf", "nan")
    assert list(map(parse_number, cells)) == [30, 1.5, *[None] * 6]


def audioldm(folder: Path) -> Path:
    """The layout of AudioLDM's repository: paths start at its top."""
    files = {
        "train": {"data": [{"wav": "p1/Yaaaaaaaaaaa.wav", "labels": "/m/1,/m/2", "caption": "A"}]},
        "val": {"data": [{"wav": "p1/Ybbbbbbbbbbb.wav", "caption": ["B", " B2 "]}]},
        "test": {"data": [{"wav": "Yccccccccccc.wav", "caption_1": "C", "my_caption": "C2"}]},
    }
    meta = folder / "data/dataset/metadata"
    meta.mkdir(parents=True)
    (folder / "data/dataset/audioset").mkdir()
    for split, content in files.items():
        (meta / f"{split}.json").write_text(json.dumps(content, indent=1))
    paths = {split: f"./data/dataset/metadata/{split}.json" for split in files}
    paths["class_label_indices"] = "classes.csv"
    root = {"audiocaps": "data/dataset/audioset", "metadata": {"path": {"audiocaps": paths}}}
    (meta / "dataset_root.json").write_text(json.dumps(root))
    return meta / "dataset_root.json"


def test_audioldm(tmp_path):
    root = audioldm(tmp_path)
    entries = read_layout(root)
    told = [(e.clip, e.split, e.caption, e.labels) for e in entries]
    assert told == [
        ("aaaaaaaaaaa", "train", "A", "/m/1,/m/2"),
        ("bbbbbbbbbbb", "dev", "B", None),
        ("bbbbbbbbbbb", "dev", "B2", None),
        ("ccccccccccc", "test", "C", None),
        ("ccccccccccc", "test", "C2", None),
    ]
    assert entries[0].file == tmp_path / "data/dataset/audioset/p1/Yaaaaaaaaaaa.wav"
    alone = read_layout(root.parent / "val.json")
    assert [(e.split, e.file) for e in alone] == [
        ("dev", root.parent / "p1/Ybbbbbbbbbbb.wav"),
        ("dev", root.parent / "p1/Ybbbbbbbbbbb.wav"),
    ]


@pytest.mark.parametrize("name", ["valid_audiocaps.json", "valid.jsonl"])
def test_tango(tmp_path, name):
    lines = [
        {"dataset": "audiocaps", "location": "/d/7fmOlUlwoNg_20.wav", "captions": "A"},
        {"dataset": "audiocaps", "location": "sub/7fmOlUlwoNg_50.wav", "captions": ["B", "C"]},
    ]
    (tmp_path / name).write_text("\n".join(map(json.dumps, lines)) + "\n")
    entries = read_layout(tmp_path / name)
    assert [(e.clip, e.start, e.caption, e.split) for e in entries] == [
        ("7fmOlUlwoNg", 20, "A", "dev"),
        ("7fmOlUlwoNg", 50, "B", "dev"),
        ("7fmOlUlwoNg", 50, "C", "dev"),
    ]
    assert [e.file for e in entries[:2]] == [
        Path("/d/7fmOlUlwoNg_20.wav"),
        tmp_path / "sub/7fmOlUlwoNg_50.wav",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", r"x\.json: expected the metadata of AudioLDM .* or TANGO"),
        ("{", r"x\.json: not JSON"),
        ('{"data": 3}', "expected the metadata"),
        ('{"metadata": {"path": [1]}}', '"metadata" needs'),
        ('{"metadata": {"path": {"a": {"train": "t.json"}}}}', "names no audio folder for 'a'"),
        ('{"a": ".", "metadata": {"path": {"a": {"train": "t.json"}}}}', r"t\.json: No such file"),
        ('{"data": [{"caption": "A"}]}', "an item names no audio .'wav'.: .'caption'"),
        ('{"data": [{"wav": "a.wav", "labels": "/m/1"}]}', r"a\.wav has no caption"),
        ('{"location": "a.wav", "captions": [""]}', r"a\.wav has no caption"),
        ('{"location": "a.wav", "captions": "A"}\n{', r"x\.json: not lines of JSON"),
        (None, r"x\.json: No such file"),
    ],
)
def test_bad_metadata_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError) as error:
        read_layout(tmp_path / "x.json")
    assert re.search(message, str(error.value))
    assert "\n" not in str(error.value)
