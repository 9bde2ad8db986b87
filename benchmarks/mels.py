"""What a mel spectrogram keeps of real recordings: each turned into it and back by Griffin-Lim.

    python benchmarks/mels.py 32000:1024:320:128 16000:1024:160:64 --data DIR --out SOUNDS

Each mel is RATE:N_FFT:HOP:BANDS, up to half the rate. Recordings of the scored families, as the
chain takes them, are written to SOUNDS/<mel>/<family>/<name>.wav, and as they are to
SOUNDS/real/..., for an outside judge to say how many are still recognised. Prints the time that
each mel took.
"""

import argparse
import time
from pathlib import Path

import torch

from soundcrafter.audio import fit_length, normalize_peak, read_audio, write_audio
from soundcrafter.data.manifest import read_manifest
from soundcrafter.evaluate.chain import LEVEL, MAX_SECONDS
from soundcrafter.evaluate.tagger_embedder import TaggerEmbedder
from soundcrafter.mel import LogMel
from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.griffin_lim import griffin_lim, min_frames


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("mels", nargs="+", help="RATE:N_FFT:HOP:BANDS")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--where", default="", help="COLUMN=VALUE of the table's rows")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=32)
    arguments = parser.parse_args()
    where = dict([arguments.where.split("=", 1)]) if arguments.where else None
    manifest = read_manifest(
        arguments.data, split=arguments.split, label_column="family", where=where
    )
    scored = [r for r in manifest.recordings if r.label in TaggerEmbedder.bundled().classes[:-1]]
    for number, spec in enumerate(arguments.mels):
        rate, n_fft, hop, bands = map(int, spec.split(":"))
        config = MelConfig(sample_rate=rate, n_fft=n_fft, hop=hop, num_mels=bands, fmax=rate / 2)
        log_mel, began = LogMel(config), time.perf_counter()
        for recording in scored:
            seconds = min(recording.seconds, MAX_SECONDS)
            wave = read_audio(recording.file, rate, start=recording.start, seconds=seconds)
            wave = normalize_peak(wave, LEVEL)
            padded = fit_length(wave, max(len(wave), (min_frames(config) + 1) * hop))
            made = griffin_lim(
                log_mel(torch.from_numpy(padded)[None]), config, iterations=arguments.iterations
            )
            name = f"{recording.label}/{manifest.stem(recording).replace('/', '-')}.wav"
            kept = {spec.replace(":", "-"): made[0, : len(wave)].numpy()}
            if number == 0:
                kept["real"] = wave
            for folder, sound in kept.items():
                file = arguments.out / folder / name
                file.parent.mkdir(parents=True, exist_ok=True)
                write_audio(file, sound, rate)
        print(f"{spec}: N {len(scored)}, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
