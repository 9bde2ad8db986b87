"""What VAEs and vocoders keep of real recordings, side by side, while they are being made.

    python benchmarks/decoders.py MODEL [MODEL ...] --data DIR [--split dev] [--out FILE.json]

Each MODEL is a folder with a `vae`, a `vocoder` or both, of any sample rate and mel. Recordings of
the scored families, as the chain takes them. A row for the recordings themselves; then for each
folder Griffin-Lim on its mel (64 iterations), its vocoder on the real mel, its VAE with Griffin-Lim
(16 iterations) and its VAE with its vocoder. Columns: share taken for its family by the frozen
tagger, STFT distance at the folder's rate and log-mel distance at the tagger's, grain (how much
neighbouring bins differ, relative to the recording: below 1 is smooth, above it is rough), and for
a VAE the L1 of its mel. `--pictures FILE.png` draws recordings, a row each: the first
of each family that `--show` names, or every twentieth. `--with FOLDER` takes the VAE or vocoder
that a folder lacks from another one.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from soundcrafter.audio import fit_length, normalize_peak, read_audio, resample
from soundcrafter.data.manifest import Recording, read_manifest
from soundcrafter.evaluate.chain import LEVEL, MAX_SECONDS, MIN_SAMPLES
from soundcrafter.evaluate.metrics import log_mel_distance, stft_distance
from soundcrafter.evaluate.tagger_embedder import TaggerEmbedder
from soundcrafter.mel import LogMel
from soundcrafter.models.griffin_lim import griffin_lim
from soundcrafter.models.losses import log_magnitude
from soundcrafter.plots import plot_grid
from soundcrafter.store import open_folder

PICTURE_RATE = 32_000  # Hz, whatever the models' own
Link = Callable[[Tensor], Tensor]  # mel [1, 1, T, F] -> wave [1, N]


class Model:
    """The resyntheses of a model folder, its mel and its VAE."""

    def __init__(self, folder: Path, other: Path | None) -> None:
        parts = {}
        for place in [other, folder] if other else [folder]:
            opened = open_folder(place)
            parts |= {
                name: opened.load(name) for name in ("vae", "vocoder") if name in opened.parts
            }
        vae, vocoder = parts.get("vae"), parts.get("vocoder")
        mel = (vae or vocoder).config.mel
        self.name, self.vae, self.mel, self.log_mel = folder.name, vae, mel, LogMel(mel)
        self.unit = mel.hop * (vae.config.stride[0] if vae else 1)
        self.links: dict[str, Link] = {"griffin-lim": lambda x: griffin_lim(x, mel)}
        if vocoder is not None:
            self.links["vocoder"] = vocoder
        if vae is not None:
            self.links["vae + griffin-lim"] = lambda x: griffin_lim(
                vae.decode(vae.encode(x)), mel, iterations=16
            )
        if vae is not None and vocoder is not None:
            self.links["vae + vocoder"] = lambda x: vocoder(vae.decode(vae.encode(x)))

    def read(self, recording: Recording) -> np.ndarray:
        """The recording at the model's rate, levelled."""
        seconds = min(recording.seconds, MAX_SECONDS)
        rate = self.mel.sample_rate
        wave = read_audio(recording.file, rate, start=recording.start, seconds=seconds)
        return normalize_peak(wave, LEVEL)

    def spectrogram(self, wave: np.ndarray) -> Tensor:
        """wave [N], padded to whole latent positions -> mel [1, 1, T, F]."""
        padded = fit_length(wave, -(-len(wave) // self.unit) * self.unit)
        return self.log_mel(torch.from_numpy(padded)[None])


def grain(wave: np.ndarray, real: np.ndarray, n_fft: int = 1024) -> float:
    """Mean absolute difference of log magnitudes from bin to bin over that of `real`, where `real`
    is loud (within 52 dB of its loudest bin)."""
    pair = torch.from_numpy(np.stack([wave, real]))
    logs = log_magnitude(pair, n_fft, n_fft // 4, torch.hann_window(n_fft))
    loud = logs[1, 1:] > logs[1].amax() - 6.0
    steps = (logs[:, 1:] - logs[:, :-1]).abs()[:, loud].mean(1)
    return float(steps[0] / steps[1])


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--with", dest="other", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--show", nargs="+", default=[], metavar="FAMILY")
    arguments = parser.parse_args()
    tagger = TaggerEmbedder.bundled()
    models = [Model(folder, arguments.other) for folder in arguments.models]
    rows: dict[str, dict[str, list[float]]] = {}
    pictures: dict[str, np.ndarray] = {}

    def note(name: str, **figures: float) -> None:
        for key, value in figures.items():
            rows.setdefault(name, {}).setdefault(key, []).append(float(value))

    def measure(model: Model, recording: Recording, shown: bool) -> None:
        rate, wave = model.mel.sample_rate, model.read(recording)
        length = max(len(wave), MIN_SAMPLES)

        def heard(sound: np.ndarray) -> bool:
            probabilities = tagger(sound, rate).probabilities
            return tagger.classes[int(probabilities.argmax())] == recording.label

        def draw(name: str, sound: np.ndarray) -> None:
            if shown:
                pictures[f"{recording.label}: {name}"] = resample(sound, rate, PICTURE_RATE)

        if model is models[0]:
            note("real", accuracy=heard(wave))
            draw("real", wave)
        mel = model.spectrogram(wave)
        if model.vae is not None:
            l1 = (model.vae.decode(model.vae.encode(mel)) - mel).abs().mean()
            note(f"{model.name}: vae + griffin-lim", mel_l1=l1)
        for link, make in model.links.items():
            begin = time.perf_counter()
            made = make(mel)[0, : len(wave)].numpy()
            seconds = time.perf_counter() - begin
            pair = fit_length(wave, length), fit_length(made, length)
            at_tagger = [resample(one, rate, tagger.network.config.mel.sample_rate) for one in pair]
            note(
                f"{model.name}: {link}",
                accuracy=heard(made),
                stft=stft_distance(*pair),
                log_mel=log_mel_distance(*at_tagger, tagger.network.config.mel),
                grain=grain(pair[1], pair[0]),
                seconds=seconds,
            )
            if link.endswith("vocoder"):
                draw(f"{model.name}, {link}", made)

    manifest = read_manifest(arguments.data, split=arguments.split, label_column="family")
    scored = [r for r in manifest.recordings if r.label in tagger.classes[:-1]]
    first = {recording.label: recording for recording in reversed(scored)}
    shown = [first[family] for family in arguments.show] if arguments.show else scored[5::20]
    for recording in scored:
        for model in models:
            measure(model, recording, recording in shown)
    print(f"{arguments.split}, N {len(scored)}, tagger {tagger.sha256[:12]}")
    means = {n: {k: float(np.mean(v)) for k, v in row.items()} for n, row in rows.items()}
    for name, row in means.items():
        print(f"{name:40}", "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    if arguments.out:
        arguments.out.write_text(json.dumps(means, indent=1) + "\n", encoding="utf-8")
    if arguments.pictures:
        columns = 1 + sum(link.endswith("vocoder") for model in models for link in model.links)
        plot_grid(pictures, PICTURE_RATE, arguments.pictures, columns=columns)


if __name__ == "__main__":
    main()
