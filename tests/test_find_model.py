"""Where a model comes from: a path, the bundled one, or the hub, which is stood in for."""

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from soundcrafter.hub import find_model
from soundcrafter.pipeline import SoundCrafter


def test_a_path_is_itself_even_where_it_looks_like_a_hub_name(tiny_model, tmp_path, monkeypatch):
    assert find_model(tiny_model) == tiny_model
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: 1 / 0)
    assert find_model("owner/name").resolve() == tmp_path / "owner" / "name"


def test_a_hub_name_is_fetched_and_loaded(tiny_model, monkeypatch):
    asked = []

    def fetch(name, revision, allow_patterns, local_files_only):
        asked.append((name, revision, tuple(allow_patterns)))
        return str(tiny_model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    model = SoundCrafter.from_pretrained("someone/tiny", "cpu")
    assert asked[-1] == ("someone/tiny", None, ("*.json", "*.safetensors"))
    SoundCrafter.from_pretrained("someone/tiny", "cpu", revision="v1")
    assert {revision for _, revision, _ in asked[-2:]} == {"v1"}
    assert len(model.generate("rain", seconds=0.2, steps=1)[0].wave) == 3200


def test_without_a_network_a_hub_name_is_refused_in_one_line(monkeypatch):
    def fail(*_, **__):
        raise LocalEntryNotFoundError("cannot reach the hub\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match=r"someone/nothing: no such folder.*cannot reach the hub$"):
        find_model("someone/nothing")
