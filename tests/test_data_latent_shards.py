"""Encoded data in shards: the draws of the folder, what is damaged, and interrupted encoding."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from soundcrafter.data.bank import LatentBank
from soundcrafter.data.latents import Latents
from soundcrafter.files import read_json
from soundcrafter.train import RunOptions, read_recipe, train
from soundcrafter.train.encode import encode_data
from soundcrafter.train.log import MACHINE_FACTS, read_log

SHARD_MIB = 0.06


@pytest.fixture(scope="module")
def both(tmp_path_factory, tiny_recipe, tiny_model, clips) -> tuple[Path, Path]:
    """The clips encoded into a folder, and into shards. Read only."""
    folder = tmp_path_factory.mktemp("encoded")
    recipe = read_recipe(tiny_recipe)
    # batches of 4, as many draws as a shard has: rounding depends on a batch's size
    for name, size in (("folder", None), ("shards", SHARD_MIB)):
        encode_data(recipe, clips, tiny_model, folder / name, batch_size=4, shard_mib=size)
    assert len(list((folder / "shards").glob("*.tar"))) == 3
    return folder / "folder", folder / "shards"


@pytest.fixture
def copy(both, tmp_path) -> Path:
    """The shards, in a folder that a test may change."""
    return Path(shutil.copytree(both[1], tmp_path / "copy"))


def pattern(folder: Path) -> str:
    return str(folder / "{000000..000002}.tar")


def assert_equal_batches(one: Latents, other: Latents, indices=range(20)):
    left, right = one.batch(indices), other.batch(indices)
    for name in ("mean", "logvar", "audio_embedding", "text_embedding"):
        assert torch.equal(getattr(left, name), getattr(right, name)), name
    assert (left.captions, left.labels, left.files) == (right.captions, right.labels, right.files)


def test_shards_have_the_draws_of_the_folder(both):
    folder, shards = both
    wanted = Latents(folder, seed=1)
    for data in (shards, pattern(shards)):
        found = Latents(data, seed=1)
        assert_equal_batches(found, wanted)
        assert len(found) == len(wanted) == 12
        assert (found.metadata, found.skipped) == (wanted.metadata, {})
        for one, other in zip(found.table(), wanted.table(), strict=True):
            torch.testing.assert_close(one, other)
    assert LatentBank(found, torch.device("cpu")).draw(3)["mean"].shape[0] == 3


def losses_of(data, out, tiny_recipe, *overrides: str) -> list[dict]:
    recipe = read_recipe(tiny_recipe, ["diffusion.steps=3", *overrides])
    options = RunOptions(device="cpu", log_steps=1)
    train("diffusion", recipe, data=data, out=out, options=options, allow_unfinished=True)
    entries = read_log(out / "training" / "diffusion")
    return [{k: v for k, v in e.items() if k not in MACHINE_FACTS} for e in entries]


def test_the_unet_trains_from_shards_as_from_the_folder(both, tiny_recipe, tmp_path):
    folder, shards = both
    wanted = losses_of(folder, tmp_path / "a", tiny_recipe)
    assert len(wanted) == 3
    assert losses_of(pattern(shards), tmp_path / "b", tiny_recipe) == wanted


def test_webdataset_reads_ours(both):
    webdataset = pytest.importorskip("webdataset", reason="needs webdataset: pip install .[dev]")
    latents = Latents(both[1], seed=0)
    samples = list(webdataset.WebDataset(pattern(both[1]), shardshuffle=False))
    assert len(samples) == len(latents)
    tensors, _ = latents.table()
    for row, sample in enumerate(samples):
        assert torch.equal(load(sample["safetensors"])["mean"], tensors["mean"][row])
        assert json.loads(sample["json"])["caption"]


def test_a_truncated_shard_is_named_and_the_rest_is_drawn(copy, caplog):
    file = copy / "000001.tar"
    file.write_bytes(file.read_bytes()[:20_000])
    found = Latents(pattern(copy), seed=0)
    assert "truncated" in found.skipped["000001.tar"]
    assert f"{file}: skipped: truncated" in caplog.text
    assert len(found) == 8
    assert len(set(found.batch(range(40)).files)) == 4


def test_a_damaged_draw_is_named_and_replaced(copy):
    with tarfile.open(copy / "000000.tar") as archive:
        entry = archive.getmembers()[1]
    content = bytearray((copy / "000000.tar").read_bytes())
    content[entry.offset_data + entry.size - 1] ^= 1
    (copy / "000000.tar").write_bytes(content)
    found = Latents(copy, seed=0)
    batch = found.batch(range(40))
    assert torch.isfinite(batch.mean).all()
    assert list(found.skipped) == [f"000000.tar/{entry.name}"]
    assert "sha256" in found.skipped[f"000000.tar/{entry.name}"]
    assert len(found.table()[0]["mean"]) == 11


def test_shards_of_another_encoding_and_of_sounds_are_refused(copy, both, clips, tmp_path):
    with tarfile.open(copy / "000001.tar") as archive:
        members = [(entry, archive.extractfile(entry).read()) for entry in archive]
    header = json.loads(members[0][1])
    header["settings"]["metadata"]["vae"] = "another"
    with tarfile.open(copy / "000001.tar", "w") as archive:
        for entry, content in [(members[0][0], json.dumps(header).encode()), *members[1:]]:
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(ValueError, match="encoded with other settings"):
        Latents(pattern(copy), seed=0)
    for damaged in (b"{", b"[]", b'{"settings": {}, "contents": {"entries": [1]}}', b""):
        entry = tarfile.TarInfo("__soundcrafter__")
        entry.size = len(damaged)
        with tarfile.open(tmp_path / "0.tar", "w") as archive:
            archive.addfile(entry, io.BytesIO(damaged))
        with pytest.raises(ValueError, match="no encoded data"):
            Latents(tmp_path / "0.tar", seed=0)


def test_an_interrupted_encoding_goes_on(copy, both, tiny_recipe, tiny_model, clips):
    wanted = {file.name: file.read_bytes() for file in both[1].glob("*.tar")}
    kept = (copy / "000000.tar").stat().st_mtime_ns
    (copy / "000001.tar").unlink()
    (copy / "index.json").unlink()
    recipe = read_recipe(tiny_recipe)
    encode_data(recipe, clips, tiny_model, copy, batch_size=4, shard_mib=SHARD_MIB)
    assert {file.name: file.read_bytes() for file in copy.glob("*.tar")} == wanted
    assert (copy / "000000.tar").stat().st_mtime_ns == kept
    assert read_json(copy / "index.json")["tar"] == sorted(wanted)
    with pytest.raises(ValueError, match="encoded with a different"):
        encode_data(recipe, clips, tiny_model, copy, device="cpu", shard_mib=SHARD_MIB / 2)


def test_the_commands_encode_and_train(tiny_recipe, tiny_model, clips, tmp_path, run):
    out = tmp_path / "enc"
    arguments = ("data", "encode", "--recipe", tiny_recipe, "--data", clips, "--model", tiny_model)
    result = run(*arguments, "--out", out, "--shards", SHARD_MIB, "--device", "cpu")
    assert result.code == 0, result.err
    trained = ("train", "diffusion", "--recipe", tiny_recipe, "--device", "cpu")
    result = run(*trained, "--data", pattern(out), "--out", tmp_path / "m")
    assert result.code == 0, result.err
    assert "shard_mib: got 0" in run(*arguments, "--out", tmp_path / "x", "--shards", 0).refused()
