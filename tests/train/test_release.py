"""A release: fewer bits, the same training ids, a card and credits from real logs."""

import csv

import pytest
import torch
from safetensors.torch import load_file

from soundcrafter.config import GENERATOR_PARTS
from soundcrafter.files import read_json, write_json
from soundcrafter.store import open_folder
from soundcrafter.train.release import release


def test_a_release_is_the_same_model_in_half_the_bits(tiny_model, clips, tmp_path):
    out = release(tiny_model, tmp_path / "out", data=clips, figures={"accuracy": 0.5})
    before, after = open_folder(tiny_model), open_folder(out)
    for name in GENERATOR_PARTS:
        assert after.parts[name].training_id == before.parts[name].training_id
        wanted, found = (load_file(f / f"{name}.safetensors") for f in (tiny_model, out))
        assert wanted.keys() == found.keys()
        for key, value in found.items():
            assert value.dtype == torch.float16
            assert torch.equal(value, wanted[key].half())
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_card_states_what_the_logs_and_the_table_hold(tiny_model, clips, tmp_path):
    card = (release(tiny_model, tmp_path, data=clips, figures={"n": 3}) / "README.md").read_text()
    with open(clips / "sounds.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert f"{len(rows)} recordings" in card
    assert f"CC0 {len(rows)}." in card
    for stage in ("clap", "vae", "vocoder", "diffusion"):
        assert f"| {stage} | 6 |" in card
    assert "- n: 3" in card
    with open(tmp_path / "CREDITS.csv", newline="") as stream:
        credits = list(csv.DictReader(stream))
    assert [row["file"] for row in credits] == [row["file"] for row in rows]
    assert all(row["attribution"] and row["licence"] and row["source"] for row in credits)


def test_a_table_without_credits_and_an_unknown_dtype_are_refused(tiny_model, clips, tmp_path):
    bare = tmp_path / "bare.csv"
    file = next((clips / "audio").iterdir())
    bare.write_text(f"file,caption\n{file},a sound\n")
    with pytest.raises(ValueError, match="attribution, licence, source"):
        release(tiny_model, tmp_path / "a", data=bare)
    with pytest.raises(ValueError, match="dtype: got 'int8'"):
        release(tiny_model, tmp_path / "b", dtype="int8")
    assert not (tmp_path / "b").exists()


def test_a_model_that_lacks_parts_can_be_released_as_such(tiny_model, tmp_path):
    for name in ("config.json", "vae.safetensors"):
        (tmp_path / name).write_bytes((tiny_model / name).read_bytes())
    config = read_json(tmp_path / "config.json")
    config["parts"] = {"vae": config["parts"]["vae"]}
    config["tokenizer_sha256"] = None
    write_json(tmp_path / "config.json", config)
    with pytest.raises(ValueError, match="has no clap_audio, clap_text, unet, vocoder yet"):
        release(tmp_path, tmp_path / "out")
    out = release(tmp_path, tmp_path / "out", partial=True)
    assert list(open_folder(out).parts) == ["vae"]
    card = (out / "README.md").read_text()
    assert "Not complete yet: it has no clap_audio, clap_text, unet, vocoder." in card
