"""`data encode` and `evaluate captions` on Ray: the results of the runs without it."""

import json

import pytest
from safetensors.numpy import load_file

pytestmark = pytest.mark.long


def test_encoded_data_is_the_same(nodes, run, clips, tiny_recipe, tiny_model, tmp_path):
    call = ("data", "encode", "--recipe", tiny_recipe, "--data", clips, "--model", tiny_model)
    call += ("--set", "data.variants=200", "--device", "cpu", "--batch-size", 64)
    plain, out = tmp_path / "plain", tmp_path / "out"
    assert run(*call, "--out", plain).code == 0
    files = sorted(file.name for file in plain.glob("*.safetensors"))
    assert len(files) > 1
    out.mkdir()
    (out / files[0]).write_bytes((plain / files[0]).read_bytes())  # as if it went on
    ended = run(*call, "--out", out, "--ray", nodes.address)
    assert ended.code == 0, ended.err
    for name in files:
        wanted, found = load_file(plain / name), load_file(out / name)
        assert wanted.keys() == found.keys()
        for key, tensor in wanted.items():
            assert abs(found[key] - tensor).max() <= 1e-5 * abs(tensor).max()
    indices = [json.loads((folder / "index.json").read_text()) for folder in (plain, out)]
    assert indices[0]["entries"] == indices[1]["entries"]


def test_an_evaluation_is_the_same(nodes, run, clips, tiny_model, tmp_path):
    call = ("evaluate", "captions", tiny_model, "--data", clips, "--split", "train")
    call += ("--embedder", "tagger", "--splits", 1, "--device", "cpu", "--json")
    reports = []
    for name, others in (("plain", ("--processes", 1)), ("ray", ("--ray", nodes.address))):
        ended = run(*call, "--out", tmp_path / name, *others)
        assert ended.code == 0, ended.err
        reports.append(json.loads(ended.out))
    assert reports[0] == reports[1]
    refused = run(*call, "--out", tmp_path / "both", "--ray", "--processes", 2).refused()
    assert "--processes cannot be combined with --ray" in refused
