"""What a terminal shows of a training: its first step at once, then speed and the time left."""

import os
import re
import time
from pathlib import Path

import pytest

pty = pytest.importorskip("pty", reason="terminals are Unix's")


def shown(launch, line: list[str]) -> tuple[int, str, str]:
    """The exit status, what stderr, a terminal, showed, and what stdout got."""
    ours, theirs = pty.openpty()
    process = launch(*line, stderr=theirs, TERM="xterm", COLUMNS="100")
    os.close(theirs)
    text = b""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            read = os.read(ours, 65536)
        except OSError:  # Linux's way of saying that the other end is closed
            break
        if not read:
            break
        text += read
    os.close(ours)
    code, printed, _ = process.finish()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode())
    return code, plain, printed


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["text", "json"])
def test_steps_speed_and_time_left(more, launch, tiny_recipe: Path, clips: Path, tmp_path: Path):
    line = ["train", "vae", "--recipe", str(tiny_recipe), "--device", "cpu"]
    line += ["--data", str(clips), "--out", str(tmp_path), "--log-steps", "1000", *more]
    code, terminal, printed = shown(launch, line)
    assert code == 0, terminal
    assert len(printed.splitlines()) == (1 if more else 2)  # the last step's entry, and the end
    if more:
        assert terminal == ""
        return
    assert "vae 1/6" in terminal  # long before the first log entry
    assert re.search(r"\d steps/s", terminal)
    assert re.search(r"\d:\d\d:\d\d", terminal)  # the time left
