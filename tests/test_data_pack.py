"""Packed recordings: parts of bounded size that unpack into data to train from."""

import shutil
import tarfile

import numpy as np
import pytest

from soundcrafter.audio import write_audio
from soundcrafter.cli import main
from soundcrafter.data.manifest import read_manifest
from soundcrafter.data.pack import pack


def test_parts_hold_the_split_and_unpack_into_the_same_manifest(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    rows = ["file,caption,family,split,sample_rate"]
    for i in range(12):
        write_audio(tmp_path / f"data/{i}.wav", rng.uniform(-1, 1, 9000).astype(np.float32), 8000)
        rows.append(f'{i}.wav,"Sound {i}, heard",{"ab"[i % 2]},{"test" if i > 9 else "train"},8000')
    (tmp_path / "data/sounds.csv").write_text("\n".join(rows))
    (tmp_path / "data/3.wav").rename(tmp_path / "elsewhere.wav")
    (tmp_path / "data/3.wav").symlink_to(tmp_path / "elsewhere.wav")  # packed as the sound it is
    parts, skipped = pack(
        tmp_path / "data", tmp_path / "parts", label_column="family", part_mib=0.08
    )
    assert not skipped
    assert [part.name for part in parts] == [f"part-{i:02d}.tar" for i in range(1, len(parts) + 1)]
    assert len(parts) > 2
    assert all(part.stat().st_size <= 0.08 * 2**20 for part in parts)
    (tmp_path / "elsewhere.wav").rename(tmp_path / "gone.wav")
    for part in reversed(parts):
        with tarfile.open(part) as archive:
            archive.extractall(tmp_path / "there", filter="data")
    found = read_manifest(tmp_path / "there", split="train")
    assert not found.skipped
    (tmp_path / "gone.wav").rename(tmp_path / "elsewhere.wav")
    wanted = read_manifest(tmp_path / "data", split="train", label_column="family")
    for one, other in zip(wanted.recordings, found.recordings, strict=True):
        assert one.file.read_bytes() == other.file.read_bytes()
        for name in ("caption", "label", "seconds", "sample_rate"):
            assert getattr(one, name) == getattr(other, name)


def test_what_does_not_fit_and_a_used_folder_are_refused(clips, tmp_path):
    with pytest.raises(ValueError, match=r"part_mib: got 0.02; audio/\S+ does not fit"):
        pack(clips, tmp_path / "small", split=None, part_mib=0.02)
    assert not list((tmp_path / "small").iterdir())
    pack(clips, tmp_path / "parts", split=None)
    with pytest.raises(ValueError, match="already contains archives"):
        pack(clips, tmp_path / "parts", split=None)


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_sizes_are_refused(size, clips, tmp_path):
    with pytest.raises(ValueError, match="part_mib: got"):
        pack(clips, tmp_path / "parts", split=None, part_mib=size)


def test_files_outside_are_refused_and_missing_ones_are_told(clips, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    shutil.copy(clips / "audio" / "adafruit_0003.ogg", tmp_path / "data" / "in.ogg")
    shutil.copy(clips / "audio" / "adafruit_0003.ogg", tmp_path / "out.ogg")
    (tmp_path / "data" / "sounds.csv").write_text("file\nin.ogg\n../out.ogg\n")
    with pytest.raises(ValueError, match="is outside"):
        pack(tmp_path / "data", tmp_path / "parts")
    assert not list((tmp_path / "parts").iterdir())
    (tmp_path / "data" / "sounds.csv").write_text("file\nin.ogg\ngone.ogg\n")
    arguments = ["data", "pack", str(tmp_path / "data"), "--out", str(tmp_path / "parts")]
    monkeypatch.setattr("sys.argv", ["soundcrafter", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert "skipped gone.ogg: " in capsys.readouterr().err


def test_the_command_lists_the_parts(clips, tmp_path, monkeypatch, capsys):
    arguments = ["soundcrafter", "data", "pack", str(clips), "--out", str(tmp_path / "parts")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert "part-01.tar" in capsys.readouterr().out
