"""`python -m soundcrafter.serve.decode FILE OUT`: decodes an upload, within limits.

Decoders are C code that reads what strangers send, so this runs in a process of its own: what
happens to it, or how much memory it asks for, is no matter of the server.
"""

import errno
import resource
import sys
from pathlib import Path

ADDRESS_SPACE = 2 * 2**30  # bytes
CPU_SECONDS = 30
FILE_SIZE = 512 * 2**20  # bytes
MAX_SECONDS = 600.0
REFUSED = 3  # exit status: the reason is in OUT with the suffix .txt
DISK_FULL = 4  # exit status
_TOO_LARGE = "the sound is too large when decoded"


def main(source: Path, out: Path) -> int:
    """Write a sound file as 24-bit wav, its own rate and channels; returns the exit status."""
    for limit, most in (
        (resource.RLIMIT_AS, ADDRESS_SPACE),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, FILE_SIZE),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    from soundcrafter.audio import audio_info, read_channels, write_audio
    from soundcrafter.files import is_disk_full, one_line

    try:
        info = audio_info(source)
        if not 0.2 <= info.seconds <= MAX_SECONDS:
            raise ValueError(f"the sound is {info.seconds:g} s long; allowed: 0.2 to 600 s")
        samples, rate = read_channels(source)
        if not abs(samples).max() > 1e-5:
            raise ValueError("the sound is silent")
        # louder ones exist in float and lossy files, and are not to be clipped
        peak = max(1.0, float(abs(samples).max()))
        write_audio(out, samples[:, :2] / peak, rate, depth="24")
    except ValueError as error:
        if is_disk_full(error):
            return DISK_FULL
        is_large = getattr(error.__context__, "errno", None) == errno.EFBIG
        reason = _TOO_LARGE if is_large else one_line(str(error).replace(f"{source}: ", ""))
    except MemoryError:
        reason = _TOO_LARGE
    else:
        return 0
    out.with_suffix(".txt").write_text(reason, encoding="utf-8")
    return REFUSED


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
