"""Shards: what is written and read, foreign ones, URLs, damaged and hostile archives."""

import io
import json
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from soundcrafter.audio import encode_audio, read_audio, write_audio
from soundcrafter.data.dataset import DataConfig, Sounds
from soundcrafter.data.manifest import read_manifest
from soundcrafter.data.shard_writer import write_shards

webdataset = pytest.importorskip("webdataset", reason="needs webdataset: pip install .[dev]")

RATE = 16_000
FACTS = ("caption", "label", "split", "start", "seconds", "group", "sample_rate")


@pytest.fixture
def shards(clips, tmp_path) -> str:
    """The clips in three shards."""
    written, _ = write_shards(clips, tmp_path / "shards", shard_mib=0.06)
    assert [file.name for file in written] == ["000000.tar", "000001.tar", "000002.tar"]
    return str(tmp_path / "shards" / "{000000..000002}.tar")


def facts_of(manifest) -> list[tuple]:
    return [tuple(getattr(r, name) for name in FACTS) for r in manifest.recordings]


def tar(file: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def sound(seconds: float = 0.1, suffix: str = ".wav") -> bytes:
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, int(RATE * seconds))
    return encode_audio(wave.astype(np.float32), RATE, suffix)


def test_shards_hold_what_the_manifest_says_and_the_same_sounds(clips, shards):
    wanted, found = read_manifest(clips), read_manifest(shards)
    assert facts_of(found) == facts_of(wanted)
    assert not found.skipped
    for one, other in zip(found.recordings, wanted.recordings, strict=True):
        assert np.array_equal(read_audio(one.sound, RATE), read_audio(other.sound, RATE))
    assert found.name(found.recordings[0]) == "000000.tar/audio/adafruit_0003.ogg"


def test_draws_from_shards_are_those_of_the_manifest(clips, shards):
    config = DataConfig(balance="none", mix_probability=0.5)
    one, other = (
        Sounds(read_manifest(data), config, sample_rate=RATE, num_samples=4000, seed=3)
        for data in (clips, shards)
    )
    for index in range(12):
        assert np.array_equal(one.draw(index).wave, other.draw(index).wave)
        assert one.draw(index).caption == other.draw(index).caption


def test_sections_captions_dots_and_equal_stems_survive(tmp_path):
    for name in ("a.b.wav", "a.b.flac", "long.wav"):
        write_audio(tmp_path / name, np.linspace(-0.5, 0.5, 3 * RATE, dtype=np.float32), RATE)
    rows = [
        {"file": "a.b.wav", "caption": ["one", "two"]},
        {"file": "a.b.flac", "split": "test", "family": "f"},
        *({"file": "long.wav", "start": i, "seconds": 0.5, "family": i} for i in range(3)),
    ]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_shards(tmp_path, tmp_path / "shards", label_column="family")
    wanted = read_manifest(tmp_path, label_column="family")
    assert facts_of(read_manifest(tmp_path / "shards" / "000000.tar")) == facts_of(wanted)
    with tarfile.open(tmp_path / "shards" / "000000.tar") as archive:
        assert archive.getnames()[::2] == ["a_b.wav", "a_b-2.flac", "long.wav"]
    write_shards(str(tmp_path / "shards" / "000000.tar"), tmp_path / "again")  # from shards
    one, other = (tmp_path / name / "000000.tar" for name in ("shards", "again"))
    assert facts_of(read_manifest(one)) == facts_of(read_manifest(other))


def test_webdataset_reads_ours(clips, shards):
    found = list(webdataset.WebDataset(shards, shardshuffle=False))
    wanted = read_manifest(clips).recordings
    assert len(found) == len(wanted)
    for sample, recording in zip(found, wanted, strict=True):
        assert sample["ogg"] == recording.file.read_bytes()
        assert json.loads(sample["json"])["caption"] == recording.caption


def test_shards_of_webdataset_are_read(tmp_path):
    pattern = str(tmp_path / "%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=2, verbose=0) as writer:
        writer.write({"__key__": "a", "flac": sound(suffix=".flac"), "txt": "a dog", "cls": 3})
        writer.write({"__key__": "b", "wav": sound(), "json": {"text": ["a cat", "a pet"]}})
        writer.write({"__key__": "c", "mic.wav": sound(), "json": {"caption": "c", "split": "dev"}})
        writer.write({"__key__": "d", "txt": "no sound"})
    found = read_manifest(tmp_path / "{000000..000001}.tar")
    assert [r.caption for r in found.recordings] == ["a dog", "a cat", "a pet", "c"]
    assert [r.label for r in found.recordings] == ["3", None, None, None]
    assert all(r.seconds == pytest.approx(0.1) for r in found.recordings)
    assert found.skipped == (("000001.tar/d", "no sound; it has: txt"),)
    assert len(read_manifest(tmp_path / "{000000..000001}.tar", split="dev").recordings) == 1


@pytest.mark.parametrize("lost", [1, 600, 10_240, 20_000])
def test_a_truncated_shard_is_named_and_left_out(lost, shards, tmp_path, caplog):
    whole = read_manifest(shards)
    file = tmp_path / "shards" / "000001.tar"
    end = file.read_bytes().rstrip(b"\0")  # the last member's end, and less
    file.write_bytes(end[: len(end) - lost + 1])
    found = read_manifest(shards)
    ((name, reason),) = found.skipped
    assert name == "000001.tar"
    assert "truncated" in reason
    assert f"{file}: skipped: truncated" in caplog.text
    kept = [r for r in whole.recordings if "000001.tar" not in str(r.file)]
    assert [r.caption for r in found.recordings] == [r.caption for r in kept]


def test_damaged_headers_and_members_are_named(shards, tmp_path):
    first, second = (tmp_path / "shards" / f"00000{i}.tar" for i in range(2))
    content = bytearray(first.read_bytes())
    with tarfile.open(first) as archive:
        members = archive.getmembers()
    content[members[2].offset + 10] ^= 1  # in the header of a member
    first.write_bytes(content)
    content = bytearray(second.read_bytes())
    with tarfile.open(second) as archive:
        entry, text = archive.getmembers()[:2]
    content[entry.offset_data : entry.offset_data + entry.size] = bytes(entry.size)
    second.write_bytes(content)
    sounds = Sounds(
        read_manifest(shards),
        DataConfig(balance="none"),
        sample_rate=RATE,
        num_samples=4000,
        seed=0,
    )
    for index in range(len(sounds)):
        sounds.draw(index)
    assert f"damaged at byte {members[2].offset:,}" in sounds.all_skipped["000000.tar"]
    assert "cannot read" in sounds.all_skipped[f"000001.tar/{entry.name}"]
    assert len(sounds.all_skipped) == 2
    content[text.offset_data] = 0  # no JSON
    second.write_bytes(content)
    assert "not JSON" in dict(read_manifest(shards).skipped)[f"000001.tar/{text.name[:-5]}"]


def test_hostile_members_stay_in_the_archive(tmp_path):
    victim = tmp_path / "secret.wav"
    write_audio(victim, np.full(RATE, 0.1, np.float32), RATE)
    good = {"ok.wav": sound(), "ok.json": b'{"file": "/etc/passwd", "caption": "fine"}'}
    file = tmp_path / "0.tar"
    tar(file, {"/abs.wav": sound(), "../up.wav": sound(), "a/../../up.wav": sound(), **good})
    with tarfile.open(file, "a") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo(f"link{kind!r}.wav")
            entry.type, entry.linkname = kind, str(victim)
            archive.addfile(entry)
    before = sorted(tmp_path.rglob("*"))
    found = read_manifest(file)
    assert [r.caption for r in found.recordings] == ["fine"]
    assert found.name(found.recordings[0]) == "0.tar/ok.wav"
    reasons = [reason for _, reason in found.skipped]
    assert reasons == ["its name leads out of the shard"] * 3 + ["is not a plain file"] * 4
    assert sorted(tmp_path.rglob("*")) == before


def header(name: str, size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    block = bytearray(entry.tobuf()[:512])
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "content",
    [
        header("a.wav", b"77777777777\0"),
        header("a.wav", b"\x80" + b"\xff" * 11),
        header("a.wav", b"\xff" * 11 + b"\x00"),  # less than 0
        header("a", b"77777777777\0", tarfile.GNUTYPE_LONGNAME),
        header("a", b"77777777777\0", tarfile.XHDTYPE),
        header("a", b"\xff" * 12, tarfile.XHDTYPE),
        (header("a", b"00000000014\0", tarfile.XHDTYPE) + b"12 path=abc\n".ljust(512, b"\0"))
        * 2000,
        b"not a tar archive" * 100,
    ],
    ids=["long", "huge", "negative", "name", "attributes", "back", "nested", "text"],
)
def test_absurd_headers_are_refused_in_a_line(content, tmp_path, run):
    (tmp_path / "0.tar").write_bytes(content + bytes(1024))
    message = run("data", "check", tmp_path / "0.tar").refused()
    assert "none of 1 shards can be read; 0.tar: " in message


def test_metadata_of_any_size_is_not_read(tmp_path):
    tar(tmp_path / "0.tar", {"a.wav": sound(), "a.json": b" " * 2**21, "b.wav": sound()})
    found = read_manifest(tmp_path / "0.tar")
    assert [r.file.name for r in found.recordings] == ["b.wav"]
    assert "too large" in found.skipped[0][1]


@pytest.mark.parametrize(
    "braces", ["{000000..000999}.tar", "{000000..}.tar", "{00.tar", "{a,b}.tar"]
)
def test_braces_that_match_nothing_are_refused_in_a_line(braces, run, tiny_recipe, tmp_path):
    arguments = ("train", "vae", "--recipe", tiny_recipe, "--out", tmp_path / "m")
    message = run(*arguments, "--data", tmp_path / braces).refused()
    assert braces in message
    assert not (tmp_path / "m").exists()


@pytest.fixture
def served(shards, tmp_path, monkeypatch):
    """The URL of the shards on a server of this machine, and what was asked of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.command)

    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "shards"))
    )
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def test_shards_of_a_url_are_fetched_once(served, clips):
    pytest.importorskip("aiohttp", reason="needs fsspec[http]: pip install .[dev]")
    url, asked = served
    found = read_manifest(f"{url}/{{000000..000003}}.tar")
    assert facts_of(found) == facts_of(read_manifest(clips))
    assert found.skipped == (("000003.tar", "no such file"),)
    assert asked
    asked.clear()
    again = read_manifest(f"{url}/{{000000..000002}}.tar?signature=1/2")
    assert again.fingerprint() == found.fingerprint()
    assert not asked
    wave = read_audio(found.recordings[0].sound, RATE)
    assert np.array_equal(wave, read_audio(read_manifest(clips).recordings[0].file, RATE))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/{0..1}.tar",
        "http://127.0.0.1:9/{a/,/tmp/,../}0.tar",
        "nothing://a/0.tar",
        "{a,http://b}/0.tar",
    ],
)
def test_urls_that_cannot_be_fetched_are_refused_in_a_line(url, tmp_path, monkeypatch, run):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run("data", "check", url).refused()
    assert not list((tmp_path / "cache").rglob("*.tar"))


def test_any_storage_of_fsspec_does(shards, tmp_path, monkeypatch, clips):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    for file in (tmp_path / "shards").iterdir():
        memory.pipe(f"/bucket/{file.name}", file.read_bytes())
    found = read_manifest("memory://bucket/{000000..000002}.tar")
    assert facts_of(found) == facts_of(read_manifest(clips))


def test_the_command_writes_shards_of_every_split(clips, tmp_path, run):
    arguments = ("data", "pack", clips, "--out", tmp_path / "s", "--shards", "--split", "all")
    result = run(*arguments)
    assert result.code == 0, result.err
    assert "000000.tar" in result.out
    assert "already contains archives" in run(*arguments).refused()
    assert (
        "does not fit"
        in run(*arguments[:4], tmp_path / "t", "--shards", "--part-mib", 0.02).refused()
    )
    assert not list((tmp_path / "t").glob("*.tar"))
