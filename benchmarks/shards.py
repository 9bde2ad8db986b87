"""How long shards take to index at the start of a training: CPU seconds and memory.

python benchmarks/shards.py --shards 10 --samples 1000
"""

import argparse
import io
import json
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from soundcrafter.audio import encode_audio
from soundcrafter.data.manifest import read_manifest


def write(folder: Path, shards: int, samples: int) -> str:
    """Shards of samples that are all the same half second; returns the data's name."""
    sound = encode_audio(np.zeros(8000, np.float32), 16_000)
    facts = json.dumps({"caption": "a dog barks", "label": "dog", "seconds": 0.5}).encode()
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:06d}.tar", "w") as archive:
            for sample in range(samples):
                for suffix, content in (("wav", sound), ("json", facts)):
                    entry = tarfile.TarInfo(f"{shard:06d}-{sample:06d}.{suffix}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return str(folder / f"{{000000..{shards - 1:06d}}}.tar")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--samples", type=int, default=1000, help="in a shard")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = write(Path(folder), given.shards, given.samples)
        before, began = psutil.Process().memory_info().rss, time.process_time()
        manifest = read_manifest(data)
        seconds = time.process_time() - began
        megabytes = (psutil.Process().memory_info().rss - before) / 1e6
    count = len(manifest.recordings)
    print(f"{count} samples in {given.shards} shards: {seconds:.2f} s CPU, {megabytes:.0f} MB")


if __name__ == "__main__":
    main()
