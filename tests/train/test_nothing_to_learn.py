"""Data from which a stage cannot learn anything is refused before training."""

import sys
from pathlib import Path

import pytest

from soundcrafter import cli
from soundcrafter.train import build_stage

LABELS = ["dog", "rain", "train", "bell", "cow", "wind"]
CAPTIONS = [f"A {label} is heard" for label in LABELS]
SAME = ["dog"] * len(LABELS)


def table(clips: Path, file: Path, captions, labels) -> Path:
    sounds = sorted((clips / "audio").iterdir())
    rows = zip(sounds, captions, labels, strict=True)
    file.write_text("\n".join(["file,caption,label", *(",".join(map(str, r)) for r in rows)]))
    return file


@pytest.mark.parametrize(
    ("captions", "labels"),
    [
        (["A dog barks"] * 6, SAME),
        (["A dog barks", "the dog barks!"] * 3, [""] * 6),  # equal but for articles and marks
        (["A dog barks"] * 6, LABELS),
        (CAPTIONS, SAME),  # equal labels are no negatives either
        (["dog", *CAPTIONS[1:]], ["", *["dog"] * 5]),  # the caption of one, the label of others
    ],
    ids=["both", "caption", "caption, other labels", "label", "caption and label"],
)
def test_recordings_that_are_all_alike_teach_clap_nothing(
    captions, labels, clips, tiny_recipe, tmp_path, monkeypatch, capsys
):
    data = table(clips, tmp_path / "sounds.csv", captions, labels)
    line = ["--recipe", str(tiny_recipe), "--data", str(data), "--out", str(tmp_path / "m")]
    monkeypatch.setattr(sys, "argv", ["soundcrafter", "train", "clap", *line])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "all 6 recordings share a caption or a label" in error
    assert "nothing can be learned" in error
    assert not (tmp_path / "m").exists()


def test_one_other_recording_is_enough(clips, make_recipe, tmp_path):
    data = table(clips, tmp_path / "s.csv", [*["A dog"] * 5, "Rain"], [*["dog"] * 5, "rain"])
    build_stage("clap", make_recipe(), data, tmp_path / "m")


def test_wordings_tell_equal_captions_of_other_labels_apart(clips, make_recipe, tmp_path):
    wordings = tmp_path / "wordings.csv"
    rows = [f"{label},train,{label} noise" for label in LABELS]
    wordings.write_text("\n".join(["family,split,wording", *rows]))
    data = table(clips, tmp_path / "s.csv", ["A sound"] * 6, LABELS)
    build_stage("clap", make_recipe(f"data.wordings={wordings}"), data, tmp_path / "m")


def test_a_single_caption_in_a_batch_teaches_nothing(make_recipe):
    with pytest.raises(ValueError, match="clap: batch_size: got 1; at least 2"):
        make_recipe("clap.batch_size=1")


def test_a_tagger_needs_two_classes(clips, make_recipe, tmp_path):
    data = table(clips, tmp_path / "s.csv", CAPTIONS, SAME)
    with pytest.raises(ValueError, match="with one class nothing can be learned"):
        build_stage(
            "tagger", make_recipe("tagger.network.classes=['dog','other']"), data, tmp_path / "m"
        )
