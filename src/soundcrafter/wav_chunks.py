"""Chunks of wav files that libsndfile does not handle: loop points, iXML, long comments.

A RIFF file is a list of chunks: four letters, the size in 32 bits, the content, and a zero byte
after an odd size.
"""

import html
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

_MIDDLE_C = 60  # MIDI note
_MOST_TEXT = 2**24  # bytes; a longer chunk is not read as text


def loop_chunk(count: int, sample_rate: int) -> bytes:
    """A sampler chunk: one forward loop over `count` samples, endless."""
    nanoseconds = round(1e9 / sample_rate)
    header = (0, 0, nanoseconds, _MIDDLE_C, 0, 0, 0, 1, 0)  # of one loop
    return _chunk(b"smpl", struct.pack("<9I6I", *header, *(0, 0, 0, count - 1, 0, 0)))


def ixml_chunk(note: str, user: str) -> bytes:
    """An iXML chunk with a note and user data, as sound libraries and recorders read it."""
    # html, because xml.sax.saxutils imports the HTTP client
    note, user = (html.escape(value, quote=False) for value in (note, user))
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<BWFXML><IXML_VERSION>1.61</IXML_VERSION>'
        f"<NOTE>{note}</NOTE><USER>{user}</USER></BWFXML>\n"
    )
    return _chunk(b"iXML", text.encode())


def with_chunks(wav: bytes, chunks: bytes) -> bytes:
    """Append chunks to a wav file, and clear the time of writing that its peak chunk contains."""
    data = bytearray(wav + chunks)
    struct.pack_into("<I", data, 4, len(data) - 8)
    for name, start, _ in _walk(data):
        if name == b"PEAK":
            struct.pack_into("<I", data, start + 4, 0)  # after its version
    return bytes(data)


def wav_comments(path: Path) -> list[str]:
    """The comment (LIST/INFO) and the user data (iXML) of a wav file, as far as it has them."""
    found = []
    # mapped, so that the samples of a long file are not read
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for name, start, size in _walk(data):
            if size > _MOST_TEXT:
                continue
            if name == b"LIST" and data[start : start + 4] == b"INFO":
                info = data[start + 4 : start + size]
                for key, begin, length in _walk(info, 0):
                    if key == b"ICMT":
                        text = info[begin : begin + length].rstrip(b"\0")
                        found.append(text.decode(errors="replace"))
            if name == b"iXML":
                found += _user_data(data[start : start + size])
    return found


def _user_data(ixml: bytes) -> list[str]:
    """The user data of an iXML chunk, found without an XML parser.

    A hostile chunk can make a parser expand entities or fail on its encoding.
    """
    _, opened, rest = ixml.partition(b"<USER>")
    user, closed, _ = rest.partition(b"</USER>")
    return [html.unescape(user.decode(errors="replace"))] if opened and closed else []


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _walk(data: bytes | bytearray | mmap.mmap, start: int = 12) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and size of the content of each chunk; a cut file ends the walk."""
    while start + 8 <= len(data):
        (size,) = struct.unpack_from("<I", data, start + 4)
        yield bytes(data[start : start + 4]), start + 8, min(size, len(data) - start - 8)
        start += 8 + size + size % 2
