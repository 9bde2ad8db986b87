"""What VAEs and vocoders keep of real recordings, side by side, while they are being made.

    python benchmarks/decoders.py MODEL [MODEL ...] --data DIR [--split dev] [--out FILE.json]

Each MODEL is a folder with a `vae`, a `vocoder` or both (`soundcrafter evaluate chain` measures
whole models). Recordings of the scored families, as the chain takes them. A row for the recordings
themselves and one for Griffin-Lim on their mel (64 iterations); then for each folder its vocoder
on the real mel, its VAE with Griffin-Lim (16 iterations) and its VAE with its vocoder. Columns:
share taken for its family by the frozen tagger, STFT and log-mel distance to the recording, grain
(how much neighbouring bins differ, of what they do in the recording: below 1 is smooth, above it
is rough), and for a VAE the L1 of its mel. `--pictures FILE.png` draws some of the recordings, a
row each. `--with FOLDER` takes the VAE or vocoder that a folder lacks from another one.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from soundcrafter.audio import fit_length, normalize_peak, read_audio
from soundcrafter.data.manifest import Recording, read_manifest
from soundcrafter.evaluate.chain import LEVEL, MAX_SECONDS, MIN_SAMPLES
from soundcrafter.evaluate.metrics import log_mel_distance, stft_distance
from soundcrafter.evaluate.tagger import Tagger
from soundcrafter.mel import LogMel, MelConfig
from soundcrafter.models.griffin_lim import griffin_lim
from soundcrafter.models.losses import log_magnitude
from soundcrafter.plots import plot_grid
from soundcrafter.store import open_folder

MEL = MelConfig()
UNIT = 32 * MEL.hop  # whatever the VAE, a recording is padded to this
Link = Callable[[Tensor], Tensor]  # mel [1, 1, T, F] -> wave [1, N]


def links_of(folder: Path, other: Path | None) -> tuple[dict[str, Link], torch.nn.Module | None]:
    """The resyntheses of a model folder, and its VAE."""
    parts = {}
    for place in [other, folder] if other else [folder]:
        opened = open_folder(place)
        parts |= {name: opened.load(name) for name in ("vae", "vocoder") if name in opened.parts}
    vae, vocoder = parts.get("vae"), parts.get("vocoder")
    links: dict[str, Link] = {}
    if vocoder is not None:
        links["vocoder"] = vocoder
    if vae is not None:
        links["vae + griffin-lim"] = lambda mel: griffin_lim(
            vae.decode(vae.encode(mel)), MEL, iterations=16
        )
    if vae is not None and vocoder is not None:
        links["vae + vocoder"] = lambda mel: vocoder(vae.decode(vae.encode(mel)))
    return links, vae


def grain(wave: np.ndarray, real: np.ndarray, n_fft: int = 1024) -> float:
    """Mean absolute difference of log magnitudes from bin to bin over that of `real`, where `real`
    is loud (within 52 dB of its loudest bin)."""
    pair = torch.from_numpy(np.stack([wave, real]))
    logs = log_magnitude(pair, n_fft, n_fft // 4, torch.hann_window(n_fft))
    loud = logs[1, 1:] > logs[1].amax() - 6.0
    steps = (logs[:, 1:] - logs[:, :-1]).abs()[:, loud].mean(1)
    return float(steps[0] / steps[1])


def recordings(data: Path, split: str, tagger: Tagger) -> Iterator[tuple[Recording, np.ndarray]]:
    """Recordings of the scored families, levelled."""
    for recording in read_manifest(data, split=split, label_column="family").recordings:
        if recording.label in tagger.classes[:-1]:
            seconds = min(recording.seconds, MAX_SECONDS)
            wave = read_audio(
                recording.file, MEL.sample_rate, start=recording.start, seconds=seconds
            )
            yield recording, normalize_peak(wave, LEVEL)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--with", dest="other", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pictures", type=Path)
    arguments = parser.parse_args()
    tagger, log_mel = Tagger.bundled(), LogMel(MEL)
    links: dict[str, Link] = {"griffin-lim": lambda mel: griffin_lim(mel, MEL)}
    vaes = {}
    for model in arguments.models:
        found, vae = links_of(model, arguments.other)
        links |= {f"{model.name}: {name}": link for name, link in found.items()}
        if vae is not None:
            vaes[model.name] = vae
    drawn = [name for name in links if name == "griffin-lim" or name.endswith("vocoder")]
    rows: dict[str, dict[str, list[float]]] = {}

    def note(name: str, **figures: float) -> None:
        for key, value in figures.items():
            rows.setdefault(name, {}).setdefault(key, []).append(float(value))

    def heard(wave: np.ndarray) -> str:
        return tagger.classes[int(tagger(wave, MEL.sample_rate).probabilities.argmax())]

    pictures: dict[str, np.ndarray] = {}
    for recording, wave in recordings(arguments.data, arguments.split, tagger):
        note("real", accuracy=heard(wave) == recording.label)
        mel = log_mel(torch.from_numpy(fit_length(wave, -(-len(wave) // UNIT) * UNIT))[None])
        for name, vae in vaes.items():
            l1 = (vae.decode(vae.encode(mel)) - mel).abs().mean()
            note(f"{name}: vae + griffin-lim", mel_l1=l1)
        length = max(len(wave), MIN_SAMPLES)
        # one of every twentieth recording, those with something to see
        shown = len(rows["real"]["accuracy"]) % 20 == 5 and len(wave) > MEL.sample_rate
        if shown:
            pictures[f"{recording.label}: real"] = wave
        for name, link in links.items():
            begin = time.perf_counter()
            made = link(mel)[0, : len(wave)].numpy()
            seconds = time.perf_counter() - begin
            pair = fit_length(wave, length), fit_length(made, length)
            note(
                name,
                accuracy=heard(made) == recording.label,
                stft=stft_distance(*pair),
                log_mel=log_mel_distance(*pair, tagger.network.config.mel),
                grain=grain(pair[1], pair[0]),
                seconds=seconds,
            )
            if shown and name in drawn:
                pictures[f"{recording.label}: {name}"] = made
    print(f"{arguments.split}, N {len(rows['real']['accuracy'])}, tagger {tagger.sha256[:12]}")
    means = {n: {k: float(np.mean(v)) for k, v in row.items()} for n, row in rows.items()}
    for name, row in means.items():
        print(f"{name:40}", "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    if arguments.out:
        arguments.out.write_text(json.dumps(means, indent=1) + "\n", encoding="utf-8")
    if arguments.pictures:
        plot_grid(pictures, MEL.sample_rate, arguments.pictures, columns=1 + len(drawn))


if __name__ == "__main__":
    main()
