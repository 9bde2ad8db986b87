"""Files appear whole or not at all, whatever fails, and never under a temporary name."""

import hashlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from soundcrafter.files import (
    file_sha256,
    locked,
    make_folder,
    read_json,
    read_json_lines,
    replacing,
    to_json,
    write_json,
    write_text,
)


def names(folder) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_replacing_shows_the_file_only_at_the_end(tmp_path):
    target = tmp_path / "a.txt"
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
        assert temporary.parent == target.parent  # a rename across disks would copy
    assert names(tmp_path) == ["a.txt"]
    assert target.read_text() == "new"


@pytest.mark.parametrize("fault", [RuntimeError("halfway"), KeyboardInterrupt(), OSError(28, "x")])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, fault):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half() -> None:
        with replacing(target) as temporary:
            temporary.write_text("ne")
            raise fault

    with pytest.raises((type(fault), ValueError)):
        write_half()
    assert names(tmp_path) == ["a.txt"]
    assert target.read_text() == "old"


def test_an_os_error_becomes_a_value_error_that_names_the_file(tmp_path):
    with (
        pytest.raises(ValueError, match=r"a\.txt: cannot write: No space left"),
        replacing(tmp_path / "a.txt"),
    ):
        raise OSError(28, "No space left on device")
    with (
        pytest.raises(ValueError, match=r"a\.txt: cannot write: no errno here"),
        replacing(tmp_path / "a.txt"),
    ):
        raise OSError("no errno here")


def test_a_missing_folder_is_refused_before_the_work(tmp_path):
    worked = False
    with pytest.raises(ValueError, match="No such file"), replacing(tmp_path / "no" / "a.txt"):
        worked = True
    assert not worked


def test_a_folder_of_that_name_is_kept(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(ValueError, match="cannot write"):
        write_text(tmp_path / "a.txt", "text")
    assert names(tmp_path) == ["a.txt"]


def test_files_get_the_mode_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "ours") as temporary:
        temporary.unlink()  # safetensors makes its file anew, for the owner alone
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_make_folder(tmp_path):
    assert make_folder(tmp_path / "a" / "b").is_dir()
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="cannot create the folder"):
            make_folder(place)


def test_json_keeps_values_and_key_order(tmp_path):
    data = {"z": [1, 2.5, None], "a": {"b": "é"}}
    write_json(tmp_path / "a.json", data)
    assert read_json(tmp_path / "a.json") == data
    assert list(read_json(tmp_path / "a.json")) == ["z", "a"]
    assert (tmp_path / "a.json").read_text() == to_json(data)


def test_json_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no\.json: No such file"):
        read_json(tmp_path / "no.json")
    for content in (b"{", b"\xff\xfe"):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.json: not JSON"):
            read_json(tmp_path / "bad.json")


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"sound" * 100_000)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"sound" * 100_000).hexdigest()


HOLD = """
import sys, time
from soundcrafter.files import locked

with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def neighbour():
    """neighbour(folder): another process that holds the folder."""
    started = []

    def start(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_folder_is_held_by_one_process_until_it_ends(tmp_path, neighbour):
    process = neighbour(tmp_path / "a" / "b")
    pattern = rf"b: process {process.pid} \(since \d{{4}}-\d\d-\d\d \d\d:.*\) is writing to it"
    with pytest.raises(ValueError, match=pattern), locked(tmp_path / "a" / "b"):
        pass
    assert (tmp_path / "a" / "b" / ".lock").exists()  # a refusal takes nothing away
    process.send_signal(signal.SIGKILL)
    process.wait()
    with locked(tmp_path / "a" / "b") as held:
        assert held == tmp_path / "a" / "b"
    assert names(tmp_path / "a" / "b") == []


def test_a_lock_leaves_nothing_but_what_was_written(tmp_path):
    with locked(tmp_path / "a" / "b"):
        assert names(tmp_path / "a" / "b") == [".lock"]
    assert names(tmp_path) == []
    with locked(tmp_path / "a" / "b") as folder:
        (folder / "c").touch()
    assert names(tmp_path / "a" / "b") == ["c"]


def test_a_lock_can_be_waited_for(tmp_path, neighbour):
    process = neighbour(tmp_path)
    threading.Timer(0.3, process.kill).start()
    with locked(tmp_path, wait=True):
        assert process.wait(timeout=10) == -signal.SIGKILL


def test_many_processes_take_turns(tmp_path):
    """No two of them hold a folder at once, although each removes the file that it locked."""
    code = """
import os, sys
from pathlib import Path
from soundcrafter.files import locked
for _ in range(100):
    with locked(sys.argv[1], wait=True) as folder:
        os.mkdir(folder / "inside")  # fails where another one is inside
        os.rmdir(folder / "inside")
"""
    run = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(run, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors


@pytest.mark.parametrize("content", [b"[]\n", b"5\n", b"\xff\n", b"[" * 10**5 + b"\n"])
def test_json_lines_that_are_no_objects_name_the_file(tmp_path, content):
    (tmp_path / "log.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"log\.jsonl: not JSON Lines"):
        read_json_lines(tmp_path / "log.jsonl")
