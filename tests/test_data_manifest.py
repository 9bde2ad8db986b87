"""The manifest reads tables and folders, names what is wrong, and never loses a row silently."""

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest

from soundcrafter.audio import write_audio
from soundcrafter.data.captions import exclude_captions, normalize_caption, read_excluded
from soundcrafter.data.manifest import read_manifest

RATE = 8000


def sound(path: Path, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.sin(np.arange(round(seconds * RATE)) * 0.1).astype(np.float32)
    write_audio(path, wave, RATE)
    return path


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_csv_columns_fill_the_recording(tmp_path):
    sound(tmp_path / "a" / "one.wav")
    table(
        tmp_path / "x.csv",
        "file,caption,label,family,split,seconds,group",
        'a/one.wav,"A dog, barking",dog bark,dog,dev,0.5,g1',
    )
    (recording,) = read_manifest(tmp_path / "x.csv").recordings
    assert recording.file == tmp_path / "a" / "one.wav"
    assert (recording.caption, recording.label) == ("A dog, barking", "dog bark")
    assert (recording.split, recording.group) == ("dev", "g1")
    assert (recording.start, recording.seconds) == (0.0, 0.5)
    manifest = read_manifest(tmp_path / "x.csv", label_column="family")
    assert manifest.recordings[0].label == "dog"
    assert manifest.name(manifest.recordings[0]) == "a/one.wav"


def test_seconds_come_from_the_header_where_the_table_has_none(tmp_path):
    sound(tmp_path / "one.wav", 0.75)
    table(tmp_path / "x.csv", "file,start", "one.wav,", "one.wav,0.25", "one.wav,0.8")
    manifest = read_manifest(tmp_path / "x.csv")
    assert [(r.start, r.seconds) for r in manifest.recordings] == [(0.0, 0.75), (0.25, 0.5)]
    assert manifest.skipped == (("one.wav", "ends at 0.75 s, before its start"),)


def test_rows_with_a_value_in_a_column(tmp_path):
    rows = [("one", "dev", "2026"), ("two", "dev", "2027"), ("three", "test", "2027")]
    for name, _, _ in rows:
        sound(tmp_path / f"{name}.wav")
    lines = [f"{name}.wav,{split},{added}" for name, split, added in rows]
    table(tmp_path / "x.csv", "file,split,added", *lines)

    def names(**options):
        manifest = read_manifest(tmp_path / "x.csv", **options)
        return [manifest.stem(recording) for recording in manifest.recordings]

    assert names(where={"added": "2027"}) == ["two", "three"]
    assert names(where={"added": "2027"}, split="dev") == ["two"]
    assert names(where={"added": "2027", "file": "three.wav"}) == ["three"]
    with pytest.raises(ValueError, match="no row has added '2028'; it has: 2026, 2027"):
        names(where={"added": "2028"})
    with pytest.raises(ValueError, match="no row has year '2027'; it has: none"):
        names(where={"year": "2027"})
    with pytest.raises(ValueError, match="no split 'test'"):
        names(where={"added": "2026"}, split="test")


def test_jsonl(tmp_path):
    sound(tmp_path / "one.wav")
    rows = [{"file": "one.wav", "caption": "Rain", "seconds": 0.5}, {"file": "one.wav"}]
    table(tmp_path / "manifest.jsonl", *map(json.dumps, rows))
    recordings = read_manifest(tmp_path).recordings
    assert [r.caption for r in recordings] == ["Rain", None]
    assert [r.seconds for r in recordings] == [0.5, 0.5]


def test_unreadable_files_are_skipped_with_the_reason(tmp_path):
    sound(tmp_path / "good.wav")
    (tmp_path / "bad.wav").write_bytes(b"not audio")
    lines = ["good.wav,0.5,Rain", "bad.wav,,Wind", "gone.wav,,Hail", "gone2.wav,1,Snow"]
    lines += ["good.wav,long,Fog", "good.wav,0.5,", ",0.5,Sun"]
    table(tmp_path / "x.csv", "file,seconds,caption", *lines)
    manifest = read_manifest(tmp_path / "x.csv", need_caption=True)
    assert [r.caption for r in manifest.recordings] == ["Rain"]
    reasons = dict(manifest.skipped)
    assert len(manifest.skipped) == 6
    assert "bad.wav" in reasons["bad.wav"]
    assert "no such file" in reasons["gone.wav"]
    assert reasons["gone2.wav"] == "no such file"
    assert ("good.wav", "the row has no caption") in manifest.skipped
    assert reasons["(no name)"] == "the row has no file"
    assert any("'long'" in reason for _, reason in manifest.skipped)


def test_nothing_readable_is_an_error_that_tells_why(tmp_path):
    table(tmp_path / "x.csv", "file", "gone.wav")
    with pytest.raises(ValueError, match=r"no readable recording \(1 skipped.*gone\.wav"):
        read_manifest(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("header", "arguments", "message"),
    [
        ("path,caption", {}, "has columns caption, path; needs file"),
        ("file,label", {"need_caption": True}, "has columns file, label; needs file, caption"),
        ("file,label", {"label_column": "family"}, "has columns file, label; needs file, family"),
    ],
)
def test_missing_columns_are_named(tmp_path, header, arguments, message):
    sound(tmp_path / "one.wav")
    table(tmp_path / "x.csv", header, "one.wav,x")
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / "x.csv", **arguments)


def test_splits(tmp_path):
    sound(tmp_path / "one.wav")
    table(tmp_path / "x.csv", "file,split", "one.wav,train", "one.wav,test", "one.wav,")
    assert len(read_manifest(tmp_path / "x.csv").recordings) == 3
    # a row without a split is training data
    assert len(read_manifest(tmp_path / "x.csv", split="train").recordings) == 2
    with pytest.raises(ValueError, match=r"no split 'dev'; it has: train \(2\), test \(1\)"):
        read_manifest(tmp_path / "x.csv", split="dev")


def test_folder_prefers_its_manifest_then_the_only_table(tmp_path):
    sound(tmp_path / "one.wav")
    sound(tmp_path / "two.wav")
    table(tmp_path / "notes.csv", "word", "hello")
    assert len(read_manifest(tmp_path).recordings) == 2, "no table with files: every file"
    table(tmp_path / "b.csv", "file,caption", "one.wav,b")
    assert [r.caption for r in read_manifest(tmp_path).recordings] == ["b"]
    table(tmp_path / "c.csv", "file,caption", "one.wav,c")
    with pytest.raises(ValueError, match=r"several tables \(b.csv, c.csv\)"):
        read_manifest(tmp_path)
    table(tmp_path / "sounds.csv", "file,caption", "one.wav,s")
    assert [r.caption for r in read_manifest(tmp_path).recordings] == ["s"]
    table(tmp_path / "manifest.csv", "file,caption", "one.wav,m")
    assert [r.caption for r in read_manifest(tmp_path).recordings] == ["m"]


def test_folder_of_files_is_sorted_unlabelled_training_data(tmp_path):
    for name in ("z.wav", "sub/a.flac", "b.ogg"):
        sound(tmp_path / name)
    (tmp_path / "readme.txt").write_text("no sound")
    manifest = read_manifest(tmp_path, split="train")
    assert [manifest.name(r) for r in manifest.recordings] == ["b.ogg", "sub/a.flac", "z.wav"]
    assert all(r.label is None and r.caption is None for r in manifest.recordings)
    with pytest.raises(ValueError, match="captions need one"):
        read_manifest(tmp_path, need_caption=True)


def test_audiocaps_layouts(tmp_path):
    names = ("Yaaa.wav", "audio/bbb_30.flac", "train/-cc.wav", "audio/train/ddd_0.wav")
    for name in names:
        sound(tmp_path / name)
    table(
        tmp_path / "train.csv",
        "audiocap_id,youtube_id,start_time,caption",
        '1,aaa,20,"Rain, then wind"',
        "2,bbb,30,A dog barks",
        "3,-cc,0,Birds sing",
        "4,ddd,0,A car passes",
        "5,eee,0,Nothing there",
    )
    manifest = read_manifest(tmp_path, split="train", need_caption=True)
    assert [manifest.name(r) for r in manifest.recordings] == list(names)
    assert all(r.start == 0 and r.seconds == 0.5 for r in manifest.recordings)
    assert manifest.recordings[0].caption == "Rain, then wind"
    assert [name for name, _ in manifest.skipped] == ["Yeee.wav"]
    sound(tmp_path / "Yval.wav")
    table(tmp_path / "val.csv", "audiocap_id,youtube_id,start_time,caption", "9,val,0,x")
    assert len(read_manifest(tmp_path).recordings) == 5, "both tables of the folder"
    assert [r.caption for r in read_manifest(tmp_path, split="val").recordings] == ["x"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", b"file\n\xff\xfe\n"),
        ("x.jsonl", b"{"),
        ("x.jsonl", b"[1]"),
        ("x.csv", b'file\n"a'),
    ],
)
def test_malformed_tables_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        read_manifest(tmp_path / name)


def test_missing_path():
    with pytest.raises(ValueError, match=r"nowhere.*no such file or folder"):
        read_manifest("nowhere")


@pytest.mark.parametrize(
    "text",
    ["A dog barks, and the rain is falling.", "dog barks rain falling", "DOG barks: Rain—falling"],
)
def test_captions_are_equal_after_normalisation(text):
    assert normalize_caption(text) == "dog barks rain falling"


def test_normalisation_keeps_order_and_joins_apostrophes():
    assert normalize_caption("Rain and a dog") != normalize_caption("A dog and rain")
    assert (
        normalize_caption("The dog's bowl")
        == normalize_caption("the dog\u2019s bowl")
        == "dogs bowl"
    )


@pytest.mark.parametrize("column", ["caption", "prompt"])
def test_excluded_captions(tmp_path, column):
    sound(tmp_path / "one.wav")
    table(tmp_path / "x.csv", "file,caption", "one.wav,A dog barks.", "one.wav,Rain", "one.wav,")
    excluded = table(tmp_path / "out.csv", f"id,{column}", '1,"The dog, barks"', "2,the")
    manifest = exclude_captions(read_manifest(tmp_path / "x.csv"), (str(excluded),))
    assert [r.caption for r in manifest.recordings] == ["Rain", None]
    assert manifest.skipped == (("one.wav", "its caption is excluded"),)


def test_excluded_captions_errors(tmp_path):
    sound(tmp_path / "one.wav")
    manifest = read_manifest(table(tmp_path / "x.csv", "file,caption", "one.wav,Rain"))
    with pytest.raises(ValueError, match=r"gone\.csv"):
        exclude_captions(manifest, (str(tmp_path / "gone.csv"),))
    with pytest.raises(ValueError, match="has columns text; needs caption or prompt"):
        exclude_captions(manifest, (str(table(tmp_path / "t.csv", "text", "Rain")),))
    with pytest.raises(ValueError, match="no recording is left"):
        exclude_captions(manifest, (str(table(tmp_path / "r.csv", "prompt", "rain!")),))


def test_whole_data_in_seconds(data_dir):
    begin = time.perf_counter()
    manifest = read_manifest(data_dir)
    assert time.perf_counter() - begin < 3
    with (data_dir / "sounds.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert (len(manifest.recordings), len(manifest.skipped)) == (len(rows), 0)
    dev = [row for row in rows if row["split"] == "dev"]
    assert len(read_manifest(data_dir, split="dev").recordings) == len(dev)


def test_frozen_prompts_are_left_out_by_name(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "b.wav").touch()
    rows = "file,caption,seconds\na.wav,Puppy yapping!,1\nb.wav,Something else,1\n"
    (tmp_path / "x.csv").write_text(rows)
    manifest = exclude_captions(read_manifest(tmp_path / "x.csv"), ("frozen:free",))
    assert [recording.caption for recording in manifest.recordings] == ["Something else"]
    with pytest.raises(ValueError, match=r"none\.csv"):
        exclude_captions(manifest, ("frozen:none",))


def test_a_frozen_order_is_left_out_in_both_directions():
    excluded = read_excluded(["frozen:composition"])
    assert len(excluded) == 120  # 40 scenes at once, 40 in order, and these reversed
    for caption in ("A dog barks, and then a door slams.", "Wind and ocean waves at the same time"):
        assert normalize_caption(caption) in excluded


@pytest.mark.parametrize("header", ["file,caption,split", "file,caption"])
def test_a_comma_without_quotes_is_an_error_that_names_the_line(header, tmp_path):
    sound(tmp_path / "dog.wav")
    row = "dog.wav,A dog barks, then howls,train" if "split" in header else "dog.wav,A dog, howls"
    table(tmp_path / "sounds.csv", header, "dog.wav,A dog barks", row)
    with pytest.raises(ValueError, match=r"line 3 has more fields than columns .*put quotes"):
        read_manifest(tmp_path)


def test_a_list_of_captions_is_several_captions_of_one_clip(tmp_path):
    sound(tmp_path / "dog.wav")
    rows = [
        {"file": "dog.wav", "caption": ["A dog", "it barks"], "label": "dog"},
        {"file": "dog.wav", "caption": []},
    ]
    table(tmp_path / "manifest.jsonl", *map(json.dumps, rows))
    found = read_manifest(tmp_path).recordings
    assert [r.caption for r in found] == ["A dog", "it barks", None]
    assert [r.group for r in found] == ["dog.wav"] * 3
    assert [r.label for r in found] == ["dog", "dog", None]


def test_names_may_begin_and_end_in_blanks(tmp_path):
    sound(tmp_path / " wind .wav")
    sound(tmp_path / "rain.wav")
    table(tmp_path / "sounds.csv", "file,caption", ' wind .wav,"Wind"', " rain.wav ,Rain")
    manifest = read_manifest(tmp_path)
    assert [r.file.name for r in manifest.recordings] == [" wind .wav", "rain.wav"]
    assert not manifest.skipped


def test_a_folder_is_read_through_links_without_what_is_hidden(tmp_path):
    sound(tmp_path / "data" / "dog.wav")
    sound(tmp_path / "data" / ".ipynb_checkpoints" / "dog.wav")
    sound(tmp_path / "elsewhere" / "cat.wav")
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere")
    manifest = read_manifest(tmp_path / "data")
    assert [manifest.name(r) for r in manifest.recordings] == ["dog.wav", "more/cat.wav"]
