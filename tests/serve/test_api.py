"""The API: sounds that are made, sent, listed, removed; what is refused, and how."""

import errno
import io
import json
import sqlite3
import time
import zipfile
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile
import sqlalchemy as sa
from starlette.routing import Mount

from soundcrafter.export import Export
from soundcrafter.provenance import read_provenance
from soundcrafter.serve.refusals import MOST_LINES

RAIN = {"prompt": "rain", "seconds": 0.5, "steps": 1, "seed": 3}
TWO = {"prompt": "a dog barks, then a door slams", "seconds": 1.5, "steps": 1, "seed": 1}


def make(client: Any, **request: Any) -> dict[str, Any]:
    """Make a sound and return its job when it is done."""
    answer = client.post("/v1/sounds", json=request)
    assert answer.status_code == 202, answer.text
    job = client.store.wait(answer.json()["id"], 30)
    assert job is not None
    assert job.state == "done", job.error
    return client.get(f"/v1/sounds/{job.id}").json()


def opened(data: bytes) -> tuple[np.ndarray, int]:
    return soundfile.read(io.BytesIO(data), dtype="float32")


def refused(answer: Any, status: int) -> str:
    """The message of a refusal as it should be: one line, and no more."""
    assert answer.status_code == status, answer.text
    (message,) = answer.json().values()
    assert list(answer.json()) == ["error"]
    assert message
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def test_a_waiting_request_gets_the_sound_that_generate_makes(client, crafter):
    answer = client.post("/v1/sounds", json=RAIN | {"wait": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "audio/wav"
    wave, rate = opened(answer.content)
    (sound,) = crafter.generate("rain", seconds=0.5, steps=1, seed=3)
    assert rate == crafter.sample_rate
    np.testing.assert_allclose(wave, sound.wave, atol=2**-23)


def test_a_job_is_followed_to_its_end(client):
    answer = client.post("/v1/sounds", json=RAIN | {"count": 2})
    job = answer.json()
    assert answer.headers["location"] == f"/v1/sounds/{job['id']}"
    assert (job["state"], job["seeds"], job["sounds"]) == ("queued", [3, 4], [])
    events = client.get(f"/v1/sounds/{job['id']}/events").text.split("\n\n")
    name, data = [event for event in events if event][-1].split("\n")
    assert name == "event: end"
    done = json.loads(data.removeprefix("data: "))
    assert (done["state"], done["progress"]) == ("done", 1.0)
    assert [sound["seed"] for sound in done["sounds"]] == [3, 4]
    for sound in done["sounds"]:
        assert len(opened(client.get(sound["url"]).content)[0]) / 16000 == sound["seconds"] == 0.5


def test_a_client_may_wait_for_the_end_of_a_job(client):
    job = client.post("/v1/sounds", json=RAIN).json()["id"]
    done = client.get(f"/v1/sounds/{job}", params={"wait": 30}).json()
    assert (done["state"], len(done["sounds"])) == ("done", 1)


def test_who_has_waited_long_enough_gets_the_job_as_it_is(make_client):
    idle = make_client()
    job = idle.post("/v1/sounds", json=RAIN).json()["id"]
    began = time.monotonic()
    assert idle.get(f"/v1/sounds/{job}", params={"wait": 0.3}).json()["state"] == "queued"
    assert time.monotonic() - began >= 0.3
    assert "wait" in refused(idle.get(f"/v1/sounds/{job}", params={"wait": 61}), 422)


def test_a_random_seed_is_told_and_makes_the_sound_again(client):
    first = make(client, **{name: RAIN[name] for name in ("prompt", "seconds", "steps")})
    again = make(client, **RAIN | {"seed": first["seeds"][0]})
    waves = [client.get(job["sounds"][0]["url"]).content for job in (first, again)]
    assert np.array_equal(opened(waves[0])[0], opened(waves[1])[0])
    assert make(client, prompt="rain", seconds=0.5, steps=1)["seeds"] != first["seeds"]


@pytest.mark.parametrize(
    ("query", "kind", "rate"),
    [
        ("", "WAV", 16000),
        ("format=wav&depth=16&rate=48000", "WAV", 48000),
        ("format=flac&lufs=-23&stereo=true", "FLAC", 16000),
        ("format=ogg&rate=44100", "OGG", 44100),
        ("format=mp3", "MP3", 16000),
    ],
)
def test_a_sound_in_other_formats(client, tmp_path, query, kind, rate):
    job = make(client, **RAIN)
    answer = client.get(f"/v1/sounds/{job['id']}/audio?{query}")
    assert answer.status_code == 200
    with soundfile.SoundFile(io.BytesIO(answer.content)) as file:
        assert (file.format, file.samplerate) == (kind, rate)
        assert file.channels == 1 + ("stereo" in query)
        assert file.frames / rate == pytest.approx(0.5, abs=0.1 if kind == "MP3" else 1e-3)
    if kind == "MP3":
        return
    file = tmp_path / f"sound.{kind.lower()}"
    file.write_bytes(answer.content)
    assert read_provenance(file).arguments["prompts"] == ["rain"]


def test_a_depth_or_rate_that_a_format_lacks_is_refused(client):
    url = f"/v1/sounds/{make(client, **RAIN)['id']}/audio"
    assert "allowed: 16, 24" in refused(client.get(f"{url}?format=flac&depth=float"), 422)
    assert "96000" in refused(client.get(f"{url}?format=mp3&rate=96000"), 422)
    assert "format" in refused(client.get(f"{url}?format=aac"), 422)
    refused(client.get(f"{url}?index=1"), 404)


def test_a_client_that_has_the_file_or_a_part_gets_no_more(client):
    url = make(client, **RAIN)["sounds"][0]["url"]
    whole = client.get(url)
    part = client.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert client.get(url, headers={"Range": "bytes=99999999-"}).status_code == 416
    known = client.get(url, headers={"If-None-Match": whole.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")


def test_a_prompt_of_several_events_has_stems_that_add_up(client):
    job = make(client, **TWO)
    assert job["stems"] == ["a-dog-barks", "a-door-slams"]
    mix = opened(client.get(job["sounds"][0]["url"]).content)[0]
    archive = zipfile.ZipFile(io.BytesIO(client.get(f"/v1/sounds/{job['id']}/stems.zip").content))
    stems = [opened(archive.read(name))[0] for name in archive.namelist()]
    assert len(stems) == 2
    np.testing.assert_allclose(sum(stems), mix, atol=1e-5)
    alone = make(client, **TWO | {"compose": "off"})
    assert alone["stems"] == []
    refused(client.get(f"/v1/sounds/{alone['id']}/stems.zip"), 404)


@pytest.mark.parametrize(
    "options",
    [
        {"mix": {"rain": 1, "fire": 2}, "prompt": None},
        {"morph_to": "fire"},
        {"loop": True},
        {"more": ["bright"], "less": ["a dog"], "steer": 1},
        {"candidates": 2, "sampler": "euler", "guidance": 3, "negative": "voices"},
        {"scene": {"seconds": 1, "tracks": [{"name": "a", "events": [{"prompt": "rain"}]}]}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_every_way_to_ask(client, options):
    scene = "scene" in options
    request = {"steps": 1, **options} if scene else RAIN | options
    job = make(client, **{name: value for name, value in request.items() if value is not None})
    assert job["sounds"][0]["seconds"] == pytest.approx(1 if scene else 0.5, abs=0.1)


def test_files_of_a_batch_say_nothing_of_other_jobs(make_client, run_worker, tmp_path):
    client = make_client()
    jobs = [client.post("/v1/sounds", json=RAIN | {"prompt": p}).json() for p in ("one", "two")]
    run_worker(client)
    done = [client.store.wait(job["id"], 30) for job in jobs]
    assert done[0].batch == done[1].batch
    for job, prompt in zip(done, ("one", "two"), strict=True):
        arguments = read_provenance(client.store.sound_file(job.id, 0)).arguments
        assert (arguments["prompts"], arguments["seed"]) == ([prompt], [3])


def test_pages_search_favourites_and_removal(make_client, run_worker):
    client = make_client()
    run_worker(client)
    jobs = [make(client, **RAIN | {"prompt": prompt})["id"] for prompt in ("rain", "wind", "fog")]
    page = client.get("/v1/sounds?limit=2").json()
    assert [job["id"] for job in page["jobs"]] == jobs[:0:-1]
    rest = client.get(f"/v1/sounds?before={page['next']}").json()
    assert [job["id"] for job in rest["jobs"]] == jobs[:1]
    assert rest["next"] is None
    found = client.get("/v1/sounds?search=wi").json()["jobs"]
    assert [job["id"] for job in found] == [jobs[1]]
    assert client.patch(f"/v1/sounds/{jobs[0]}", json={"favourite": True}).json()["favourite"]
    found = client.get("/v1/sounds?favourite=true").json()["jobs"]
    assert [job["id"] for job in found] == [jobs[0]]
    assert client.delete(f"/v1/sounds/{jobs[0]}").status_code == 204
    refused(client.get(f"/v1/sounds/{jobs[0]}"), 404)
    refused(client.get(f"/v1/sounds/{jobs[0]}/audio"), 404)
    refused(client.delete(f"/v1/sounds/{jobs[0]}"), 404)
    assert not client.store.sounds_folder(jobs[0]).exists()


def test_a_spectrogram_is_a_picture(client):
    job = make(client, **RAIN)
    answer = client.get(f"/v1/sounds/{job['id']}/spectrogram.png")
    assert answer.content.startswith(b"\x89PNG")


# --- what is refused ---


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": "a\x00b"}, "U\\+0000"),
        ({"prompt": "x" * 2001}, "prompt"),
        ({"prompt": "rain", "seconds": 61}, "up to 60"),
        ({"prompt": "rain", "seconds": "long"}, "seconds"),
        ({"prompt": "rain", "steps": 101}, "up to 100"),
        ({"prompt": "rain", "count": 9}, "up to 8"),
        ({"prompt": "rain", "seed": -2}, "seed"),
        ({"prompt": "rain", "seed": 2**64}, "seed"),
        ({"prompt": "rain", "sampler": "magic"}, "sampler.*allowed"),
        ({"prompt": "rain", "unknown": 1}, "unknown"),
        ({"prompt": "rain", "mix": {"a": 1}}, "mix"),
        ({"mix": {"a": -1}}, "mix"),
        ({"mix": {}}, "mix"),
        ({"morph_to": "rain"}, "morph_to"),
        ({"prompt": "rain", "strength": 0.5}, "init"),
        ({"prompt": "rain", "like_weight": 0.5}, "like"),
        ({"prompt": "rain", "steer": 1}, "more or less"),
        ({"prompt": "rain", "init": "0" * 64}, "no upload"),
        ({"prompt": "rain", "like": "../../etc/passwd"}, "like"),
        ({"prompt": "rain", "loop": True, "trim": True}, "trim"),
        ({"prompt": "a dog barks, then a door slams", "trim": True}, "trim"),
        ({"scene": {}}, "tracks"),
        ({"scene": {"tracks": []}}, "tracks"),
        ({"scene": {"tracks": [{"name": "a", "events": [{"file": "/etc/passwd"}]}]}}, "no upload"),
        (
            {"scene": {"tracks": [{"name": "a", "events": [{"prompt": "x"}]}], "seconds": 3600}},
            "60",
        ),
        (
            {"scene": {"tracks": [{"name": "a", "events": [{"prompt": "x", "start": 3000}]}]}},
            "length",
        ),
        ({"scene": {"tracks": [{"name": "a", "events": [{"prompt": "x"}]}]}, "loop": True}, "loop"),
    ],
)
def test_a_request_that_cannot_be_made_is_refused_at_once(idle_client, request_, message):
    client = idle_client
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(refused(client.post("/v1/sounds", json=request_), 422))
    assert client.store.counts()["queued"] == 0


def test_a_request_that_the_model_refuses_fails_with_its_reason(make_client, run_worker):
    client = make_client(max_steps=9999)
    run_worker(client)
    answer = client.post("/v1/sounds", json=RAIN | {"steps": 9000, "wait": True})
    assert "steps" in refused(answer, 422)
    failed = client.get("/v1/sounds").json()["jobs"][0]
    assert (failed["state"], "steps" in failed["error"]) == ("failed", True)


def test_a_body_that_is_no_json_or_too_large(idle_client):
    client = idle_client
    kind = {"Content-Type": "application/json"}
    refused(client.post("/v1/sounds", content=b"{", headers=kind), 400)
    refused(client.post("/v1/sounds", content=b" " * (2**20 + 1), headers=kind), 413)
    chunks = (b" " * 2**16 for _ in range(17))
    refused(client.post("/v1/sounds", content=chunks, headers=kind), 413)


def test_a_full_queue_says_when_to_come_back(make_client):
    client = make_client(max_queue=2)
    assert [client.post("/v1/sounds", json=RAIN).status_code for _ in range(3)] == [202, 202, 429]
    assert int(client.post("/v1/sounds", json=RAIN).headers["retry-after"]) > 0


def test_a_full_disk_takes_no_jobs_and_no_uploads(make_client):
    client = make_client(min_free_mib=2**40)
    refused(client.post("/v1/sounds", json=RAIN), 507)
    refused(client.post("/v1/uploads", content=b"RIFF"), 507)
    assert client.get("/v1/sounds").json()["jobs"] == []


def test_a_waiting_job_is_cancelled(make_client):
    client = make_client()
    job = client.post("/v1/sounds", json=RAIN).json()["id"]
    assert client.delete(f"/v1/sounds/{job}").json()["state"] == "cancelled"
    assert client.delete(f"/v1/sounds/{job}").status_code == 204


def test_a_running_job_is_cancelled_between_two_steps(client):
    slow = {"prompt": "rain", "seconds": 10, "steps": 100, "count": 4}
    job = client.post("/v1/sounds", json=slow).json()["id"]
    client.store.wait(job, 30, until=lambda found: found.progress > 0)
    began = time.monotonic()
    assert client.delete(f"/v1/sounds/{job}").json()["state"] == "running"
    assert client.store.wait(job, 30).state == "cancelled"
    assert time.monotonic() - began < 10
    make(client, **RAIN)  # the worker goes on


def test_an_error_of_ours_is_told_without_its_details(make_client, monkeypatch):
    client = make_client()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(client.store, "list", fail)
    assert "secret" not in refused(client.get("/v1/sounds"), 500)


def test_a_failure_of_the_worker_is_told_without_its_details(make_client, run_worker, monkeypatch):
    client = make_client()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr("soundcrafter.serve.making.make", fail)
    run_worker(client)
    answer = client.post("/v1/sounds", json=RAIN | {"wait": True})
    assert "secret" not in refused(answer, 500)


def disk_is_full(*_: Any, **__: Any) -> None:
    """As `replacing` does it."""
    try:
        raise OSError(errno.ENOSPC, "No space left on device", "/secret/path")
    except OSError as error:
        raise ValueError("/secret/path: cannot write") from error


def test_a_disk_that_fills_up_is_no_fault_of_the_client(make_client, run_worker, monkeypatch):
    client = make_client()
    run_worker(client)
    job = make(client, **RAIN)["id"]
    monkeypatch.setattr("soundcrafter.serve.service.encode", disk_is_full)
    message = refused(client.get(f"/v1/sounds/{job}/audio?format=mp3"), 507)
    assert message == "the server's disk is full"


@pytest.mark.parametrize("fault", ["disk", "database"])
def test_jobs_wait_until_they_can_be_stored(make_client, run_worker, monkeypatch, fault):
    client = make_client(min_free_mib=0)
    monkeypatch.setattr("soundcrafter.serve.worker.LATER", 0.05)
    with monkeypatch.context() as broken:
        if fault == "disk":
            broken.setattr(Export, "write", disk_is_full)
        else:
            error = sa.exc.OperationalError("", {}, sqlite3.OperationalError("disk I/O error"))
            broken.setattr(client.store, "finish", Mock(side_effect=error))
        job = client.post("/v1/sounds", json=RAIN).json()["id"]
        run_worker(client)
        client.store.wait(job, 10, until=lambda found: found.state == "running")
        assert client.store.wait(job, 0.5).state in ("queued", "running")
        assert not [*client.store.folder.rglob(f".{job}")]
    assert client.store.wait(job, 30).state == "done"


def test_a_database_that_is_gone_is_told_without_its_details(make_client, monkeypatch):
    client = make_client()
    error = sa.exc.OperationalError("SELECT secret", {}, Exception("at /secret/path"))
    monkeypatch.setattr(client.store, "list", Mock(side_effect=error))
    answer = client.get("/v1/sounds")
    assert "secret" not in refused(answer, 503)
    assert int(answer.headers["retry-after"]) > 0


# --- the log ---


def test_a_refusal_is_logged_in_one_line_with_who_and_why(idle_client, caplog):
    refused(idle_client.post("/v1/uploads", content=b"<html>"), 415)
    (line,) = caplog.messages
    assert line.startswith("testclient POST /v1/uploads: 415 ")
    assert "not a sound file" in line
    idle_client.get("/v1/a%0Ab%1B[2J")
    assert caplog.messages[1].isprintable()


def test_many_refusals_are_counted(make_client, caplog, monkeypatch):
    client = make_client()
    for _ in range(MOST_LINES + 7):
        client.get("/v1/sounds/x")
    assert len(caplog.messages) == MOST_LINES
    later = time.monotonic() + 100
    monkeypatch.setattr("time.monotonic", lambda: later)
    client.get("/v1/sounds/x")
    assert caplog.messages[MOST_LINES] == "7 more refusals, 7 of them for testclient"


# --- tokens, probes, browsers ---


def test_browsers_ask_for_the_token(make_client, tmp_path):
    (tmp_path / "tokens").write_text("one\n")
    answer = make_client(token_file=tmp_path / "tokens").get("/")
    # each way in a header of its own, or Chromium does not ask
    assert answer.headers.get_list("www-authenticate") == ['Basic realm="SoundCrafter"', "Bearer"]


def test_nothing_of_the_studio_is_open_to_who_has_no_token(make_client, tmp_path):
    pytest.importorskip("gradio", reason="needs the studio: pip install .[serve]")
    (tmp_path / "tokens").write_text("one\n")
    client = make_client(token_file=tmp_path / "tokens", studio=True)
    (studio,) = [
        route for route in client.app.routes if isinstance(route, Mount) and not route.path
    ]
    paths = {getattr(route, "path", "") for route in studio.app.routes}
    assert len(paths) > 20
    for path in paths:
        for method in ("GET", "POST"):
            assert client.request(method, path or "/").status_code == 401, path
    known = {"Authorization": "Bearer one"}
    for file in (client.settings.folder / "jobs.sqlite", tmp_path / "tokens"):
        assert file.is_file()
        url = f"/gradio_api/file={file.absolute()}"
        assert client.get(url, headers=known).status_code in (403, 404)


def test_who_has_no_token_is_told_so_everywhere_but_at_healthz(make_client, tmp_path):
    file = tmp_path / "tokens"
    file.write_text("one\ntwo\n")
    client = make_client(token_file=file)
    assert client.get("/healthz").status_code == 200
    for path in ("/v1/sounds", "/metrics", "/readyz", "/openapi.json", "/anything"):
        refused(client.get(path), 401)
    for headers, status in (
        ({"Authorization": "Bearer one"}, 200),
        ({"Authorization": "bearer two"}, 200),
        ({"xi-api-key": "two"}, 200),
        ({"Authorization": "Basic dXNlcjpvbmU="}, 200),  # user:one
        ({"Authorization": "Bearer three"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "Basic ?"}, 401),
        ({"xi-api-key": "ön".encode().decode("latin-1")}, 401),
    ):
        sent = {name: value.encode("latin-1") for name, value in headers.items()}
        assert client.get("/v1/sounds", headers=sent).status_code == status, headers


def test_probes(make_client):
    client = make_client()
    assert client.get("/readyz").json() == {"status": "ready"}
    client.post("/v1/sounds", json=RAIN)
    text = client.get("/metrics").text
    assert 'soundcrafter_jobs{state="queued"} 1.0' in text
    assert 'route="/v1/sounds"' in text


def test_browsers_are_told_to_trust_nothing(idle_client):
    headers = idle_client.get("/v1/sounds").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in headers["content-security-policy"]


def test_pages_of_other_origins_need_leave(make_client):
    client = make_client(origins=("https://friend.example",))
    for origin, status in (
        ("https://friend.example", 202),
        ("http://testserver", 202),
        ("https://other.example", 403),
        ("null", 403),
    ):
        answer = client.post("/v1/sounds", json=RAIN, headers={"Origin": origin})
        assert answer.status_code == status
    answer = client.get("/v1/sounds", headers={"Origin": "https://friend.example"})
    assert answer.headers["access-control-allow-origin"] == "https://friend.example"
    answer = client.get("/v1/sounds", headers={"Origin": "https://other.example"})
    assert "access-control-allow-origin" not in answer.headers
