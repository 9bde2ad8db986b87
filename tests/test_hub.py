"""The hub, stood in for by a server on this machine: huggingface_hub's own code fetches from it."""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from soundcrafter.describe import describe
from soundcrafter.hub import import_named

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """Serves folders as the repositories of a hub."""

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = repositories
        self.fetched: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    """What of the hub's interface a snapshot takes."""

    server: Hub

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        for name, folder in self.server.repositories.items():
            files = [f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()]
            if path.startswith(f"/api/models/{name}/tree/"):
                sizes = {f: (folder / f).stat().st_size for f in files}
                tree = [
                    {"type": "file", "path": f, "size": n, "oid": "0" * 40}
                    for f, n in sizes.items()
                ]
                return self.send(json.dumps(tree).encode(), body)
            if path.startswith(f"/api/models/{name}"):
                facts = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
                return self.send(json.dumps(facts).encode(), body)
            file = path.removeprefix(f"/{name}/resolve/{COMMIT}/")
            if file in files:
                if body:
                    self.server.fetched.append(file)
                return self.send((folder / file).read_bytes(), body)
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def send(self, content: bytes, body: bool) -> None:
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Hub]:
    """A hub with an AudioLDM (torch files for the vocoder alone), a CLAP, a model of ours, and
    others' models."""
    sys.path.insert(0, str(Path(__file__).parent / "convert"))
    from checkpoints import diffusers_model, write_clap, write_diffusers
    from wrong_layouts import write_audioldm2, write_stable_diffusion

    place = tmp_path_factory.mktemp("hub")
    model = diffusers_model("narrow")
    write_diffusers(place / "audioldm", model)
    write_diffusers(place / "pickled", model, weights="bin")
    (place / "audioldm" / "vocoder" / "model.safetensors").unlink()
    pickled = place / "pickled" / "vocoder" / "pytorch_model.bin"
    pickled.rename(place / "audioldm" / "vocoder" / "pytorch_model.bin")
    write_clap(place / "clap")
    write_stable_diffusion(place / "sd")
    write_audioldm2(place / "audioldm2")
    (place / "empty").mkdir()
    (place / "empty" / "README.md").write_text("nothing")
    names = {
        "cvssp/audioldm": "audioldm",
        "laion/clap": "clap",
        "someone/sd": "sd",
        "cvssp/ldm2": "audioldm2",
        "someone/empty": "empty",
    }
    server = Hub({**{name: place / at for name, at in names.items()}, "own/tiny": tiny_model})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def surroundings(endpoint: str, caches: Path) -> dict[str, str]:
    """What the environment of a process says of this hub; no cache is from before."""
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(caches / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "XDG_CACHE_HOME": str(caches / "cache"),
    }


@pytest.fixture
def run(tmp_path: Path, hub: Hub, launch):
    """run(*arguments, endpoint=): the command line with caches of its own: what it leaves."""

    def call(*arguments: str, endpoint: str = hub.url) -> tuple[int, str, str]:
        settings = surroundings(endpoint, tmp_path)
        # which reads its settings when it is imported
        return launch(*arguments, unloaded=("huggingface_hub",), **settings).finish()

    return call


def test_an_audioldm_by_its_name_alone(run, hub: Hub, tmp_path: Path) -> None:
    hub.fetched.clear()
    sound = ["generate", "rain", "--seconds", "0.3", "--steps", "1", "--model", "cvssp/audioldm"]
    code, _, said = run(*sound, "-o", str(tmp_path / "first.wav"))
    assert code == 0, said
    assert "cvssp/audioldm: licence of these weights: cc-by-nc-sa-4.0" in said
    assert "unet/diffusion_pytorch_model.safetensors" in hub.fetched
    assert "vocoder/pytorch_model.bin" in hub.fetched
    # the second time without a network, and without a word
    gone = "http://127.0.0.1:9"
    code, _, said = run(*sound, "-o", str(tmp_path / "second.wav"), endpoint=gone)
    assert (code, said) == (0, "")
    assert (tmp_path / "first.wav").read_bytes() == (tmp_path / "second.wav").read_bytes()


def test_a_model_that_only_a_sound_names_is_not_fetched(run, hub: Hub, tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    sound = ("generate", "rain", "--seconds", "0.3", "--steps", "1", "--model", "own/tiny")
    code, _, said = run(*sound, "-o", str(file))
    assert code == 0, said
    again = ("generate", "--from", str(file), "-o", str(tmp_path / "b.wav"))
    assert run(*again)[0] == 0
    assert (tmp_path / "b.wav").read_bytes() == file.read_bytes()
    shutil.rmtree(tmp_path / "hf")
    hub.fetched.clear()
    code, _, said = run(*again[:-1], str(tmp_path / "c.wav"))
    assert code == 2
    assert "own/tiny: not on this machine" in said
    assert "name it by --model" in " ".join(said.split())
    assert not hub.fetched
    assert not (tmp_path / "c.wav").exists()


def test_import_takes_names_too(run, tmp_path: Path) -> None:
    code, out, said = run("import", "laion/clap", "--out", str(tmp_path / "clap"))
    assert code == 0, said
    assert "CLAP in transformers' layout" in out
    assert "apache-2.0" in said
    assert set(describe(str(tmp_path / "clap"))["parameters"]) == {"clap_audio", "clap_text"}


def test_a_model_of_ours_is_used_as_it_is(run) -> None:
    code, out, said = run("info", "own/tiny", "--json")
    assert code == 0, said
    assert json.loads(out)["kind"] == "model"


def test_other_names_are_refused_before_weights_are_fetched(hub: Hub, tmp_path: Path) -> None:
    reasons = {
        "someone/sd": "someone/sd: contains a StableDiffusionPipeline; allowed: AudioLDM",
        "cvssp/ldm2": "cvssp/ldm2: contains a AudioLDM2Pipeline; allowed: AudioLDM",
        "someone/empty": "someone/empty: no config.json or model_index.json",
        "someone/none": "someone/none: no such folder, and not found on the Hub",
    }
    code = (
        "import sys\nfrom soundcrafter.hub import find_model\n"
        "for name in sys.argv[1:]:\n"
        "    try: find_model(name)\n"
        "    except ValueError as error: print(' '.join(str(error).split()))\n"
    )
    hub.fetched.clear()
    done = subprocess.run(
        [sys.executable, "-c", code, *reasons],
        env={**os.environ, **surroundings(hub.url, tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout.splitlines()
    assert len(said) == len(reasons)
    assert all(line.startswith(why) for line, why in zip(said, reasons.values(), strict=True))
    assert not [file for file in hub.fetched if not file.endswith((".json", ".txt", ".md"))]


def test_without_a_network_one_line_says_so(run) -> None:
    code, _, said = run("import", "cvssp/x", "--out", "x", endpoint="http://127.0.0.1:9")
    assert code == 2
    assert said.startswith("error: cvssp/x: no such folder, and not found on the Hub")
    assert said.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, bytes(range(256)) * 9])
def test_a_file_that_is_no_checkpoint_asks_no_hub(tmp_path, monkeypatch, content):
    def fetch_files(*arguments):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("soundcrafter.hub.fetch_files", fetch_files)
    (tmp_path / "random.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"random\.ckpt: neither a torch file nor safetensors"):
        import_named(tmp_path / "random.ckpt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
