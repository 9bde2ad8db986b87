"""The bundled tagger as an embedder: it classifies a sound of any length into families."""

from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from soundcrafter.audio import fit_length, normalize_peak, resample
from soundcrafter.evaluate.embedding import Embedding
from soundcrafter.evaluate.metrics import wilson_interval
from soundcrafter.mel import LogMel
from soundcrafter.models.tagger import Tagger
from soundcrafter.store import open_folder

WINDOW = 2.56  # seconds, the length of the crops that it was trained on
QUIET = 0.05  # windows with a lower peak, relative to the peak of the sound, do not count


class TaggerEmbedder:
    """Probabilities and features of a sound, averaged over half-overlapping windows of 2.56 s.

    A sound is normalised to a peak of 0.5 and padded with silence if it is short, as in training.
    Windows more than 26 dB below the loudest one do not count.
    """

    def __init__(self, folder: Path, device: str | torch.device = "cpu") -> None:
        opened = open_folder(folder)
        opened.require("tagger")
        self.name = "tagger"
        self.sha256 = opened.parts["tagger"].sha256
        self.network = cast(Tagger, opened.load("tagger")).to(device)
        self.classes = self.network.config.classes
        self.sample_rate = self.network.config.mel.sample_rate
        self._log_mel = LogMel(self.network.config.mel).to(device)
        self._device = device

    @classmethod
    def bundled(cls, device: str | torch.device = "cpu") -> "TaggerEmbedder":
        """Return the frozen tagger that comes with the package, loaded once per device."""
        return _bundled(str(device))

    @torch.inference_mode()
    def __call__(self, wave: np.ndarray, sample_rate: int) -> Embedding:
        """wave [N] at `sample_rate` Hz -> features [1, D] and probabilities [K].

        Probabilities are the softmax of the windows' mean logits. Raises ValueError for a wave
        that is empty, has other dimensions, or is not finite.
        """
        windows, loud = self._windows(self._prepared(wave, sample_rate), WINDOW, WINDOW / 2)
        features = self._features(windows[loud])
        logits = self.network.logits(features).mean(0)
        return Embedding(
            features.mean(0, keepdim=True).cpu().numpy(), logits.softmax(0).cpu().numpy()
        )

    @torch.inference_mode()
    def log_probabilities(
        self,
        wave: np.ndarray,
        sample_rate: int,
        *,
        seconds: float = WINDOW,
        hop: float = WINDOW / 2,
    ) -> np.ndarray:
        """wave [N] at `sample_rate` Hz -> ln of each class's probability in each window [R, K].

        Window r begins at r * hop s and is `seconds` long, padded with silence to WINDOW. Windows
        that do not count are -inf. Raises ValueError as a call does, for windows longer than WINDOW
        and for a hop of 0 or less.
        """
        if not 0 < seconds <= WINDOW or hop <= 0:
            raise ValueError(
                f"seconds, hop: got {seconds:g}, {hop:g}; allowed: 0 to {WINDOW:g}, and above 0"
            )
        windows, loud = self._windows(self._prepared(wave, sample_rate), seconds, hop)
        found = np.full((len(windows), len(self.classes)), -np.inf, dtype=np.float32)
        logits = self.network.logits(self._features(windows[loud]))
        found[loud] = logits.log_softmax(1).cpu().numpy()
        return found

    def _prepared(self, wave: np.ndarray, sample_rate: int) -> np.ndarray:
        """wave [N] at the network's rate and with a peak of 0.5, as in training."""
        wave = np.asarray(wave, dtype=np.float32)
        if wave.ndim != 1 or not len(wave) or not np.isfinite(wave).all():
            raise ValueError(f"wave: got shape {wave.shape}; expected finite samples [N], N >= 1")
        return normalize_peak(resample(wave, sample_rate, self.sample_rate))

    def _features(self, windows: np.ndarray) -> torch.Tensor:
        """Windows [R, N] -> features [R, D]."""
        return self.network.features(self._log_mel(torch.from_numpy(windows).to(self._device)))

    def _windows(
        self, wave: np.ndarray, seconds: float, hop: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """All windows [R, N], and whether each of them counts [R]."""
        size, step = round(seconds * self.sample_rate), max(round(hop * self.sample_rate), 1)
        full = round(WINDOW * self.sample_rate)
        starts = range(0, max(len(wave) - size + step, 1), step)
        windows = np.stack([fit_length(wave[start : start + size], full) for start in starts])
        peaks = np.abs(windows).max(1)
        return windows, peaks >= QUIET * peaks.max()


def recognition(
    probabilities: np.ndarray | None, families: Sequence[str], classes: Sequence[str]
) -> dict[str, Any]:
    """How many sounds are recognised as their family, by probabilities [N, K], with a 95%
    interval."""
    assert probabilities is not None
    pairs = zip(probabilities.argmax(1), families, strict=True)
    hits = sum(classes[int(place)] == family for place, family in pairs)
    interval = wilson_interval(hits, len(families))
    return {"accuracy": hits / len(families), "interval": list(interval), "n": len(families)}


@lru_cache(maxsize=2)
def _bundled(device: str) -> TaggerEmbedder:
    folder = Path(str(resources.files("soundcrafter"))) / "assets" / "tagger"
    return TaggerEmbedder(folder, device)
