"""Sounds that clients upload, decoded in a process of their own with limits."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from soundcrafter.audio import audio_info
from soundcrafter.files import file_sha256, make_folder
from soundcrafter.serve.decode import DISK_FULL, REFUSED
from soundcrafter.serve.errors import refused
from soundcrafter.serve.requests import Upload

PATH = "/v1/uploads"
SECONDS = 60.0  # that decoding may take
DECODERS = 2  # at once: each may take gigabytes of memory
_INCOMING = ".incoming-"
FORM_BYTES = 64 * 2**10  # of a form around its file
_BLOCK = 2**20
# What files begin with. The name says less: it is the client's.
_BEGINNINGS = (
    (b"RIFF", ".wav"),
    (b"RF64", ".wav"),
    (b"fLaC", ".flac"),
    (b"OggS", ".ogg"),
    (b"ID3", ".mp3"),
    (b"FORM", ".aiff"),
    (b"caff", ".caf"),
    (b".snd", ".au"),
)


def remove_incoming(folder: Path) -> None:
    """Remove what a server that was killed had not yet received."""
    for place in folder.glob(f"{_INCOMING}*"):
        shutil.rmtree(place, ignore_errors=True)


async def receive(request: Request, folder: Path, decoders: anyio.CapacityLimiter) -> Upload:
    """Store the sound in a request: the file of a form, or the body itself.

    `decoders` counts those at work. Raises HTTPException 413, 415, 422 and 507.
    """
    with tempfile.TemporaryDirectory(dir=make_folder(folder), prefix=_INCOMING) as place:
        file = Path(place) / "upload"
        with open(file, "wb") as stream:
            async with _blocks(request) as blocks:
                async for block in blocks:
                    await run_in_threadpool(stream.write, block)
        return await anyio.to_thread.run_sync(_store, file, folder, limiter=decoders)


@asynccontextmanager
async def _blocks(request: Request) -> AsyncIterator[AsyncIterator[bytes]]:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        yield request.stream()
        return
    async with request.form(max_files=1, max_fields=4, max_part_size=FORM_BYTES) as form:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        if not files:
            raise refused(422, "file: the form contains no file")
        yield _blocks_of(files[0])


async def _blocks_of(file: UploadFile) -> AsyncIterator[bytes]:
    while block := await file.read(_BLOCK):
        yield block


def _store(file: Path, folder: Path) -> Upload:
    """Decode a file and keep it under its sha256."""
    with open(file, "rb") as stream:
        beginning = stream.read(12)
    suffix = next((end for start, end in _BEGINNINGS if beginning.startswith(start)), "")
    if not suffix and beginning[:1] == b"\xff" and len(beginning) > 1 and beginning[1] >= 0xE0:
        suffix = ".mp3"
    if not suffix:
        raise refused(415, "not a sound file; allowed: wav, flac, ogg, mp3, aiff, au, caf")
    source, decoded = file.with_suffix(suffix), file.with_name("decoded.wav")
    file.rename(source)
    _decode(source, decoded)
    info = audio_info(decoded)
    upload = file_sha256(decoded)
    os.replace(decoded, folder / f"{upload}.wav")
    return Upload(id=upload, seconds=info.seconds, sample_rate=info.sample_rate)


def _decode(source: Path, out: Path) -> None:
    """Run the decoder. Raises HTTPException if it refuses, dies or takes too long."""
    command = [sys.executable, "-m", "soundcrafter.serve.decode", str(source), str(out)]
    # the memory limit counts the stacks of threads
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    options: dict[str, Any] = {"env": {**os.environ, **single}, "stdin": subprocess.DEVNULL}
    try:
        ended = subprocess.run(command, capture_output=True, timeout=SECONDS, **options)
    except subprocess.TimeoutExpired:
        raise refused(422, "the sound takes too long to decode") from None
    if ended.returncode == REFUSED:
        raise refused(422, out.with_suffix(".txt").read_text(encoding="utf-8"))
    if ended.returncode == DISK_FULL:
        raise refused(507, "the server's disk is full")
    if ended.returncode != 0:
        raise refused(422, "the sound cannot be decoded: it is damaged, or too large")
