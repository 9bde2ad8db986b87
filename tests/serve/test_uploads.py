"""Uploads: what is kept, what is refused, and that no file harms the server."""

import io
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import soundfile

from soundcrafter.serve.uploads import DECODERS, remove_incoming

RATE = 8000
REQUEST = {"steps": 1, "seed": 3}


def tone(seconds: float = 0.5, kind: str = "WAV", channels: int = 1) -> bytes:
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)
    stream = io.BytesIO()
    soundfile.write(stream, np.stack([wave] * channels, 1), RATE, format=kind)
    return stream.getvalue()


def refused(answer: Any, *statuses: int) -> str:
    assert answer.status_code in statuses, answer.text
    message: str = answer.json()["error"]
    assert "/" not in message  # no path
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "CAF", "AU"])
def test_a_sound_is_kept_as_wav_whatever_it_is_called(idle_client, kind):
    client = idle_client
    before = {*client.settings.uploads.iterdir()}
    answer = client.post("/v1/uploads", files={"file": ("../../evil.exe", tone(kind=kind))})
    assert answer.status_code == 201, answer.text
    found = answer.json()
    assert found["sample_rate"] == RATE
    assert found["seconds"] == pytest.approx(0.5, abs=0.15)
    kept = client.settings.uploads / f"{found['id']}.wav"
    assert {*client.settings.uploads.iterdir()} - before <= {kept}
    wave, rate = soundfile.read(kept)
    assert rate == RATE
    assert abs(wave).max() == pytest.approx(0.5, abs=0.1)


def test_the_same_sound_is_kept_once_as_a_form_or_a_body(make_client):
    client = make_client()
    answers = [
        client.post("/v1/uploads", files={"file": ("a.wav", tone())}),
        client.post("/v1/uploads", content=tone()),
        client.post("/v1/uploads", content=iter([tone()[:99], tone()[99:]])),
    ]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(list(client.settings.uploads.iterdir())) == 1


def test_an_upload_is_edited_resembled_and_placed_in_a_scene(client):
    upload = client.post("/v1/uploads", content=tone(1.0)).json()["id"]
    event = {"file": upload, "seconds": 0.5}
    scene = {"seconds": 1.0, "tracks": [{"name": "tone", "events": [event]}]}
    for request in (
        {"init": upload, "strength": 0.3},
        {"init": upload, "prompt": "rain", "regions": [{"start": 0.2, "end": 0.5}]},
        {"init": upload, "prompt": "rain", "seconds": 2, "at": 0.5},
        {"like": upload, "seconds": 0.5},
        {"like": upload, "prompt": "rain", "like_weight": 0.2, "seconds": 0.5},
        {"scene": scene},
    ):
        own = {"steps": 1} if "scene" in request else REQUEST
        job = client.post("/v1/sounds", json=own | request).json()["id"]
        found = client.store.wait(job, 30)
        assert found.state == "done", found.error
        assert client.get(f"/v1/sounds/{job}/audio?format=mp3").status_code == 200
    beyond = {"init": upload, "prompt": "rain", "regions": [{"start": 3, "end": 4}], "wait": True}
    message = refused_by_model(client.post("/v1/sounds", json=REQUEST | beyond))
    assert "region" in message
    assert str(client.settings.folder) not in message


def refused_by_model(answer: Any) -> str:
    assert answer.status_code == 422
    message: str = answer.json()["error"]
    return message


@pytest.mark.parametrize(
    ("content", "statuses", "message"),
    [
        (b"", (415,), "not a sound file"),
        (b"<html>", (415,), "not a sound file"),
        (b"RIFF", (422,), "cannot read"),
        (tone()[:40], (422,), ""),
        (tone(0.1), (422,), "0.2 to 600"),
        (tone(601.0), (422,), "0.2 to 600"),
        (tone(1.0).replace(tone(1.0)[44:], bytes(16000)), (422,), "silent"),
    ],
    ids=["empty", "html", "riff", "cut", "short", "long", "silent"],
)
def test_what_is_no_sound_is_refused(idle_client, content, statuses, message):
    before = {*idle_client.settings.uploads.iterdir()}
    assert message in refused(idle_client.post("/v1/uploads", content=content), *statuses)
    assert {*idle_client.settings.uploads.iterdir()} == before


def test_a_form_without_a_file_is_refused(idle_client):
    client = idle_client
    refused(client.post("/v1/uploads", data={"file": "text"}, files={"": ("", b"")}), 400, 422)
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(client.post("/v1/uploads", content=b"--y", headers=broken), 400, 422)
    refused(client.post("/v1/uploads", headers={"Content-Type": "multipart/form-data"}), 400, 422)


def test_what_is_too_large_is_refused_while_it_arrives(make_client):
    client = make_client(max_upload_mib=1)
    sent = 0

    def blocks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(64):
            sent += 1
            yield bytes(2**16)

    refused(client.post("/v1/uploads", content=blocks()), 413)
    refused(client.post("/v1/uploads", content=bytes(2**21)), 413)
    refused(client.post("/v1/uploads", files={"file": ("a.wav", bytes(2**21))}), 413)
    assert list(client.settings.uploads.iterdir()) == []


def test_a_file_that_is_large_when_decoded_is_refused_without_a_path(idle_client, monkeypatch):
    code = "import resource, sys; from pathlib import Path; from soundcrafter.serve import decode; "
    code += "decode.FILE_SIZE = 4096; sys.exit(decode.main(*map(Path, sys.argv[-2:])))"
    run = subprocess.run

    def limited(command: list[str], **options: Any) -> Any:
        return run([command[0], "-c", code, *command[-2:]], **options)

    monkeypatch.setattr("subprocess.run", limited)
    answer = idle_client.post("/v1/uploads", content=tone(1.0))
    assert refused(answer, 422) == "the sound is too large when decoded"


def test_few_files_are_decoded_at_once(idle_client, monkeypatch):
    now, most, lock = 0, 0, threading.Lock()

    def decode(*_: Any, **__: Any) -> Any:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.1)
        with lock:
            now -= 1
        return subprocess.CompletedProcess([], 1)

    monkeypatch.setattr("subprocess.run", decode)
    with ThreadPoolExecutor(8) as clients:
        send = partial(idle_client.post, "/v1/uploads", content=tone())
        for answer in [clients.submit(send) for _ in range(8)]:
            refused(answer.result(), 422)
    assert most == DECODERS


def test_what_a_killed_server_had_half_received_is_removed(tmp_path):
    (tmp_path / ".incoming-x").mkdir()
    (tmp_path / ".incoming-x" / "upload").write_bytes(b"RIFF")
    (tmp_path / "kept.wav").touch()
    remove_incoming(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.wav"]


def test_damaged_files_never_end_the_server(idle_client):
    client, chance = idle_client, random.Random(1)
    kinds = ("WAV", "FLAC", "OGG", "MP3", "AIFF")
    for number in range(10):
        data = bytearray(tone(0.3, kinds[number % len(kinds)], 1 + number % 2))
        header = 64 if number % 3 else len(data)
        for _ in range(chance.choice((1, 4, 32))):
            data[chance.randrange(4, min(header, len(data)))] = chance.randrange(256)
        if number % 4 == 0:
            del data[chance.randrange(20, len(data)) :]
        answer = client.post("/v1/uploads", content=bytes(data))
        if answer.status_code != 201:
            refused(answer, 415, 422)
    assert client.get("/healthz").status_code == 200
    assert not [path for path in client.settings.uploads.iterdir() if path.suffix != ".wav"]
