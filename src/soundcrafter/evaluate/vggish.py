"""VGGish (Hershey et al. 2017, 1609.09430): the features of the Fréchet audio distance. Our own
code for the layout of its PyTorch port."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.audio import resample
from soundcrafter.convert.checkpoints import Published, find_checkpoint, load_strict, read_state
from soundcrafter.evaluate.embedding import Embedding
from soundcrafter.files import file_sha256

PUBLISHED = Published(  # the file's name carries the beginning of its hash
    "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
    "10086976",
)
_RATE, _SIZE, _HOP, _FFT, _MELS = 16_000, 400, 160, 512, 64  # Hz, samples, samples, bins, bands
_FRAMES = 96  # of an example, 0.96 s
_POOLED = (0, 3, 8, 13)  # convolutions that are followed by max-pooling


class _Network(nn.Module):
    """Log-mel examples [R, 1, 96, 64] -> features [R, D]."""

    def __init__(self, widths: dict[int, tuple[int, ...]], linear: dict[int, tuple[int, ...]]):
        super().__init__()
        self.features = nn.ModuleDict(
            {str(n): nn.Conv2d(i, o, 3, padding=1) for n, (o, i) in widths.items()}
        )
        self.embeddings = nn.ModuleDict({str(n): nn.Linear(i, o) for n, (o, i) in linear.items()})

    def forward(self, x: Tensor) -> Tensor:
        for name, layer in self.features.items():
            x = F.relu(layer(x))
            if int(name) in _POOLED:
                x = F.max_pool2d(x, 2)
        x = x.permute(0, 2, 3, 1).flatten(1)  # channels last, as TensorFlow flattened it
        first, second, last = self.embeddings.values()
        return last(F.relu(second(F.relu(first(x)))))


class VGGish:
    """VGGish as an embedder: 128 features every 0.96 s, before the last ReLU and without PCA, as
    FAD tools compute them; no classes."""

    def __init__(
        self,
        checkpoint: Path | None = None,
        sha256: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        # imported here: transformers takes seconds to import
        from transformers.audio_utils import mel_filter_bank

        path = find_checkpoint(PUBLISHED, checkpoint, sha256)
        state = {k: v for k, v in read_state(path).items() if not k.startswith("pproc.")}
        self.name, self.sha256 = "vggish", file_sha256(path)
        self.classes: tuple[str, ...] = ()
        self.sample_rate = _RATE
        convolutions, linear = (0, 3, 6, 8, 11, 13), (0, 2, 4)
        wanted = [f"features.{n}.weight" for n in convolutions]
        wanted += [f"embeddings.{n}.weight" for n in linear]
        for key in wanted:
            if key not in state:
                raise ValueError(f"{path}: not this embedder's layout: it has no {key}")
        shapes = {key: tuple(state[key].shape[:2]) for key in wanted}
        self.network = _Network(
            {n: shapes[f"features.{n}.weight"] for n in convolutions},
            {n: shapes[f"embeddings.{n}.weight"] for n in linear},
        )
        load_strict(self.network, state, path)
        self.network.to(device).eval()
        self._device = device
        self._filters = torch.from_numpy(
            mel_filter_bank(
                num_frequency_bins=_FFT // 2 + 1,
                num_mel_filters=_MELS,
                min_frequency=125.0,
                max_frequency=7500.0,
                sampling_rate=_RATE,
                norm=None,
                mel_scale="htk",
                triangularize_in_mel_space=True,
            )
        ).float()

    @torch.inference_mode()
    def __call__(self, wave: np.ndarray, sample_rate: int) -> Embedding:
        """wave [N] -> features [R, 128], one row for each whole 0.96 s. A shorter sound is padded
        with silence to one row."""
        own = resample(wave, sample_rate, _RATE)
        least = (_FRAMES - 1) * _HOP + _SIZE
        mel = self.log_mel(np.pad(own, (0, max(least - len(own), 0))))
        examples = mel[: len(mel) // _FRAMES * _FRAMES].reshape(-1, 1, _FRAMES, _MELS)
        return Embedding(self.network(examples.to(self._device)).cpu().numpy(), None)

    def log_mel(self, wave: np.ndarray) -> Tensor:
        """wave [N] at 16 kHz -> log-mel [T, 64].

        Not LogMel: a window of 400 samples in a transform of 512, no padding, ln(value + .01).
        """
        frames = torch.from_numpy(wave).unfold(0, _SIZE, _HOP) * torch.hann_window(_SIZE)
        return (torch.fft.rfft(frames, _FFT).abs() @ self._filters + 0.01).log()
