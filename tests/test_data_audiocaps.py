"""AudioCaps: tables are read, clips found under any name, and training takes the manifest."""

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from soundcrafter.audio import write_audio
from soundcrafter.data.audiocaps import prepare, read_entries
from soundcrafter.data.manifest import read_manifest
from soundcrafter.data.subset import Selection, select
from soundcrafter.data.tables import read_table
from soundcrafter.data.youtube import FetchOptions, VideoClip
from soundcrafter.evaluate.prompt_sets import caption_prompts

FAST = FetchOptions(per_minute=60_000)
HEADER = "audiocap_id,youtube_id,start_time,caption"


def table(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


def sound(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, np.full(800, 0.1, np.float32), 8000)
    return path


def record(clip: VideoClip, target: Path) -> None:
    """A stand-in for the network, where every video is there."""
    sound(target)


@pytest.fixture
def five(tmp_path) -> Path:
    return table(tmp_path / "train.csv", *(f"{n},clip{n},{n * 10},Caption" for n in range(5)))


@pytest.fixture(scope="module")
def tables(data_dir) -> list[Path]:
    folder = data_dir / "captions"
    return [folder / f"audiocaps_{split}.csv" for split in ("train", "val", "test")]


def test_the_first_version(tables):
    entries = read_entries(tables)[0]
    assert Counter(e.split for e in entries) == {"train": 49838, "dev": 2475, "test": 4875}
    clips = Counter(split for _, split in {(e.key, e.split) for e in entries})
    assert clips == {"train": 49838, "dev": 495, "test": 975}
    one, _ = select(entries, Selection(one_caption=True))
    assert Counter(e.split for e in one) == clips
    begin = time.perf_counter()
    drawn, _ = select(read_entries(tables[:1])[0], Selection(random_validation=0.1))
    assert time.perf_counter() - begin < 5
    assert 4700 < sum(e.split == "dev" for e in drawn) < 5270  # 4 standard deviations


def test_clips_of_a_list_are_left_out_with_all_their_captions(tmp_path):
    rows = ("1,aaaaaaaaaaa,0,Rain", "2,aaaaaaaaaaa,0,It rains", "3,bbbbbbbbbbb,30,A guitar")
    entries, _ = read_entries([table(tmp_path / "test.csv", *rows)])
    music = tmp_path / "music.txt"  # as cut from AudioSet's own table; most are not AudioCaps'
    music.write_text("bbbbbbbbbbb\nccccccccccc\n")
    kept, unknown = select(entries, Selection(exclude=music))
    assert ([entry.caption for entry in kept], unknown) == (["Rain", "It rains"], 0)
    one = table(tmp_path / "one.csv", "2", header="audiocap_id")
    kept, _ = select(entries, Selection(exclude=one))
    assert [entry.caption for entry in kept] == ["A guitar"]
    music.write_text("aaaaaaaaaaa bbbbbbbbbbb")
    with pytest.raises(ValueError, match=r"music\.txt: lists all clips in the tables"):
        select(entries, Selection(exclude=music))


def test_the_second_version_has_the_same_columns(tmp_path):
    rows = [f"{n},id{n % 45_000:09d},{n // 45_000 * 10},sound {n}" for n in range(91_256)]
    entries, _ = read_entries([table(tmp_path / "train.csv", *rows)])
    assert len(entries) == len({e.number for e in entries}) == 91_256
    assert {e.split for e in entries} == {"train"}


def test_broken_rows_are_listed_and_the_others_used(tmp_path):
    rows = ("1,aaaaaaaaaaa,30,Rain", "2,,30,Wind", "3,../b,0,Rain", "4,bbbbbbbbbbb,0,Fire")
    broken_table = table(tmp_path / "train.csv", *rows)
    entries, broken = read_entries([broken_table])
    assert [entry.caption for entry in entries] == ["Rain", "Fire"]
    assert [text.partition(",")[0] for text in broken] == [
        f"{broken_table}: row 2: got youtube_id ''",
        f"{broken_table}: row 3: got youtube_id '../b'",
    ]
    sound(tmp_path / "audio" / "aaaaaaaaaaa_30.wav")
    facts = prepare([broken_table], tmp_path / "out", audio=tmp_path / "audio")
    assert (facts["clips"], facts["missing"], facts["broken_rows"]) == (1, 1, broken)


def test_a_manifest_of_clips_elsewhere_serves_evaluation(tmp_path):
    sound(tmp_path / "audio" / "aaaaaaaaaaa_30.wav")
    tests = table(tmp_path / "test.csv", "1,aaaaaaaaaaa,30,Rain")
    prepare([tests], tmp_path / "out", audio=tmp_path / "audio")
    (prompt,) = caption_prompts(tmp_path / "out" / "manifest.csv", "test")
    assert prompt.text == "Rain"
    assert prompt.name.endswith("audio/aaaaaaaaaaa_30")
    assert not Path(prompt.name).is_absolute()


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("youtube_id;start_time;caption", "separate the columns by commas, not by semicolons"),
        ("YouTube_ID,Start_Time,Caption", "write column names in lower case"),
    ],
)
def test_a_hint_where_columns_are_written_otherwise(tmp_path, header, hint):
    with pytest.raises(ValueError, match=hint):
        read_entries([table(tmp_path / "train.csv", "a", header=header)])


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (("1,a,x,Rain",), HEADER, r"train\.csv: row 1: .*start_time 'x'"),
        (("1,a,0,",), HEADER, "row 1: .*caption ''"),
        (("1,a",), "file,caption", "has columns caption, file; needs youtube_id, start_time, cap"),
        ((), HEADER, r"train\.csv: contains no captions"),
    ],
)
def test_bad_tables_are_named(tmp_path, rows, header, message):
    with pytest.raises(ValueError, match=message):
        read_entries([table(tmp_path / "train.csv", *rows, header=header)])


@pytest.mark.parametrize(
    "name",
    [
        "Yaaaaaaaaaaa.wav",
        "aaaaaaaaaaa.flac",
        "aaaaaaaaaaa_30.wav",
        "Yaaaaaaaaaaa_30.ogg",
        "aaaaaaaaaaa_30_40.wav",
        "aaaaaaaaaaa_30000_40000.wav",
        "Yaaaaaaaaaaa_30.000_40.000.wav",
        "aaaaaaaaaaa_000030.wav",
        "train/Yaaaaaaaaaaa.WAV",
        "deep/down/aaaaaaaaaaa_30.wav",
    ],
)
def test_clips_under_any_name(tmp_path, name):
    train = table(tmp_path / "train.csv", "1,aaaaaaaaaaa,30,Rain", "2,bbbbbbbbbbb,0,Wind")
    file = tmp_path / "clips" / name
    sound(file.with_suffix(file.suffix.lower())).rename(file)
    facts = prepare([train], tmp_path / "out", audio=tmp_path / "clips")
    assert (facts["clips"], facts["missing"], facts["fetched"]) == (1, 1, 0)
    (recording,) = read_manifest(tmp_path / "out").recordings
    assert recording.file == file
    (missing,) = read_table(tmp_path / "out/missing.csv")[1]
    expected = ("bbbbbbbbbbb", "0", "train", "not found")
    assert tuple(missing.values()) == expected


def test_unreadable_clips_are_listed(tmp_path):
    train = table(tmp_path / "train.csv", "1,aaaaaaaaaaa,30,Rain", "2,bbbbbbbbbbb,0,Wind")
    sound(tmp_path / "clips/Yaaaaaaaaaaa.wav")
    (tmp_path / "clips/Ybbbbbbbbbbb.wav").write_bytes(b"nothing")
    facts = prepare([train], tmp_path / "clips", audio=tmp_path / "clips")
    assert read_table(tmp_path / "clips/manifest.csv")[1][0]["file"] == "Yaaaaaaaaaaa.wav"
    assert facts["missing"] == 1
    assert "cannot read" in read_table(tmp_path / "clips/missing.csv")[1][0]["reason"]


def test_nothing_there_is_an_error(tmp_path, five):
    (tmp_path / "clips").mkdir()
    with pytest.raises(ValueError, match="clips: none of the 5 clips was found"):
        prepare([five], tmp_path / "out", audio=tmp_path / "clips")
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        prepare([five], tmp_path / "out", audio=tmp_path / "nowhere")


def test_the_names_are_those_that_the_own_tables_reader_finds(tmp_path, five):
    prepare([five], tmp_path, options=FAST, fetch=record)
    (tmp_path / "manifest.csv").unlink()
    assert len(read_manifest(five, need_caption=True).recordings) == 5


def test_clips_of_one_video_are_told_apart(tmp_path):
    two = table(tmp_path / "train.csv", "1,aaaaaaaaaaa,0,Rain", "2,aaaaaaaaaaa,30,Wind")
    sound(tmp_path / "out" / "Yaaaaaaaaaaa.wav")  # does not say which of the two it is
    facts = prepare([two], tmp_path / "out", options=FAST, fetch=record)
    assert facts["fetched"] == 2
    assert [r["file"] for r in read_table(tmp_path / "out" / "manifest.csv")[1]] == [
        "audio/aaaaaaaaaaa_0.wav",
        "audio/aaaaaaaaaaa_30.wav",
    ]


def test_metadata_of_others_becomes_a_manifest(tmp_path):
    data = [
        {"wav": "part1/Yaaaaaaaaaaa.wav", "caption": "Rain", "labels": "/m/1,/m/2"},
        {"wav": "part2/Ybbbbbbbbbbb.wav", "caption": "Wind"},
    ]
    (tmp_path / "test.json").write_text(json.dumps({"data": data}))
    line = {"dataset": "audiocaps", "location": "/gone/ccccccccccc_30.wav", "captions": "Hail"}
    (tmp_path / "train.jsonl").write_text(json.dumps(line))
    sound(tmp_path / "part1/Yaaaaaaaaaaa.wav")
    tables = [tmp_path / "test.json", tmp_path / "train.jsonl"]
    facts = prepare(tables, tmp_path)
    assert (facts["splits"], facts["missing"]) == ({"test": 1}, 2), "no fetching of others' files"
    (row,) = read_table(tmp_path / "manifest.csv")[1]
    assert (row["file"], row["labels"]) == ("part1/Yaaaaaaaaaaa.wav", "/m/1,/m/2")
    sound(tmp_path / "mine/bbbbbbbbbbb_70.wav")
    sound(tmp_path / "mine/Yccccccccccc.wav")
    facts = prepare(tables, tmp_path / "out", audio=tmp_path / "mine")
    assert (facts["splits"], facts["missing"]) == ({"test": 2, "train": 1}, 0)
    recordings = read_manifest(tmp_path / "out").recordings
    assert [r.group for r in recordings] == ["aaaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc"]
