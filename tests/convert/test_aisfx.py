import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from soundcrafter.convert.aisfx_weights import load_aisfx
from soundcrafter.models.aisfx import AiSFX

State = dict[str, torch.Tensor]


def narrow() -> AiSFX:
    """A network of random weights and statistics."""
    torch.manual_seed(0)
    network = AiSFX((4, 4, 6, 8))
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return network


def published(network: AiSFX) -> State:
    """Its weights by the names of the published checkpoint, which also has heads."""
    state = {f"fc.{n}.0.{key}": torch.ones(2) for n in range(9) for key in ("weight", "bias")}
    for name, tensor in network.state_dict().items():
        _, number, rest = name.split(".", 2)
        state[f"embedding_net.conv_block{int(number) + 1}.{rest}"] = tensor
    return state


def write_published(path: Path, state: State) -> None:
    """The pair as numpy before version 2 pickled it."""
    sets = {"library": (np.int64(0), np.float64(78.0))}
    # the format before zip files: no checksums, so that the name may be put in
    torch.save((state, sets), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert b"numpy._core.multiarray\n" in data
    path.write_bytes(data.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"))


def assert_same(found: AiSFX, expected: AiSFX) -> None:
    wanted = expected.state_dict()
    assert found.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.state_dict().items())


def test_the_published_pair_loads(tmp_path):
    allowed = set(torch.serialization.get_safe_globals())
    write_published(tmp_path / "old.pth", published(narrow()))
    assert_same(load_aisfx(tmp_path / "old.pth"), narrow())
    sets = {"library": (np.int64(0), np.float64(78.0))}
    torch.save((published(narrow()), sets), tmp_path / "new.pth")
    assert_same(load_aisfx(tmp_path / "new.pth"), narrow())
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_our_own_half_precision_copy_loads(tmp_path):
    state = {name: tensor.half() for name, tensor in narrow().state_dict().items()}
    save_file(state, tmp_path / "aisfx.safetensors")
    found = load_aisfx(tmp_path / "aisfx.safetensors")
    assert all(parameter.dtype == torch.float32 for parameter in found.parameters())
    x = torch.rand(1, 1, 32, 96)
    torch.testing.assert_close(found(x), narrow()(x), rtol=0.01, atol=0.01)


def test_other_layouts_are_refused(tmp_path):
    file = tmp_path / "x.pth"
    with pytest.raises(ValueError, match="no such checkpoint"):
        load_aisfx(tmp_path / "none.pth")

    def refused(content: object, match: str) -> None:
        torch.save(content, file)
        with pytest.raises(ValueError, match=match) as error:
            load_aisfx(file)
        assert "\n" not in str(error.value)

    state = published(narrow())
    refused(state, "expected a pair")
    refused((state, {}, 0), "expected a pair")
    refused(({"fc.0.0.weight": torch.ones(2)}, {}), r"has no blocks\.0\.conv2\.weight")
    lacking = {k: v for k, v in state.items() if not k.endswith("conv_block3.bn1.weight")}
    refused((lacking, {}), r"blocks\.2\.bn1\.weight")
    refused((state | {"embedding_net.extra": torch.ones(1)}, {}), r"embedding_net\.extra")
    refused((state | {"embedding_net.conv_block1.conv2.weight": torch.ones(4, 9, 3, 3)}, {}), "siz")
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(ValueError, match="not a checkpoint of aiSFX, or truncated"):
        load_aisfx(file)


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def test_no_code_of_a_file_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.pth").write_bytes(pickle.dumps((Harmful(), {})))
    torch.save(({}, Harmful()), "zip.pth")
    for name in ("bad.pth", "zip.pth"):
        with pytest.raises(ValueError, match="not a checkpoint of aiSFX"):
            load_aisfx(Path(name))
    assert not Path("ran").exists()
