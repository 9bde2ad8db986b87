"""PANNs Cnn14 (Kong et al. 2020, 1912.10211), the usual classifier for FD, IS and KL. The code is
our own, for the layout of the published checkpoints."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.audio import resample
from soundcrafter.convert.checkpoints import Published, find_checkpoint, load_strict, read_state
from soundcrafter.evaluate.embedding import Embedding
from soundcrafter.files import file_sha256

_ZENODO = "https://zenodo.org/record/3987831/files/"
PUBLISHED = {
    "panns-16k": Published(_ZENODO + "Cnn14_16k_mAP%3D0.438.pth"),
    "panns-32k": Published(_ZENODO + "Cnn14_mAP%3D0.431.pth"),
}
_SETTINGS = {"panns-16k": (16_000, 512, 160), "panns-32k": (32_000, 1024, 320)}  # Hz, window, hop
_MIN_FRAMES = 64  # five halvings leave at least one
_UNUSED = ("conv_real.weight", "conv_imag.weight")  # a Fourier transform as convolutions


class _ConvBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Cnn14(nn.Module):
    """Log-mel [B, 1, T, F] -> features [B, D] and logits [B, K]. `widths`: of the six blocks."""

    def __init__(self, mels: int, widths: tuple[int, ...], features: int, classes: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(mels)
        for number, (inputs, outputs) in enumerate(zip((1, *widths), widths, strict=False), 1):
            setattr(self, f"conv_block{number}", _ConvBlock(inputs, outputs))
        self.fc1 = nn.Linear(widths[-1], features)
        self.fc_audioset = nn.Linear(features, classes)
        self.blocks = len(widths)

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        x = self.bn0(mel.transpose(1, 3)).transpose(1, 3)  # normalised band by band
        for number in range(1, self.blocks + 1):
            x = getattr(self, f"conv_block{number}")(x)
            if number < self.blocks:
                x = F.avg_pool2d(x, 2)
        x = x.mean(3)
        features = F.relu(self.fc1(x.amax(2) + x.mean(2)))
        return features, self.fc_audioset(features)


class Panns:
    """Cnn14 as an embedder: 2048 features after the ReLU of fc1, and the softmax over 527 logits,
    which audioldm_eval uses for IS and KL (Cnn14 itself ends in sigmoids)."""

    def __init__(
        self,
        name: str = "panns-16k",
        checkpoint: Path | None = None,
        sha256: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        path = find_checkpoint(PUBLISHED[name], checkpoint, sha256)
        state = read_state(path)
        self.name, self.sha256 = name, file_sha256(path)
        self.classes: tuple[str, ...] = ()
        self.sample_rate, self._size, self._hop = _SETTINGS[name]
        self._mel = _take(state, "logmel_extractor.melW", path).to(device)
        if len(self._mel) != self._size // 2 + 1:
            raise ValueError(
                f"{path}: its mel matrix has {len(self._mel)} rows, {name} has "
                f"{self._size // 2 + 1}"
            )
        state = {key: value for key, value in state.items() if not key.endswith(_UNUSED)}
        blocks = [_shape(state, f"conv_block{n}.conv2.weight", path)[0] for n in range(1, 7)]
        classes, features = _shape(state, "fc_audioset.weight", path)
        self.network = Cnn14(self._mel.shape[1], tuple(blocks), features, classes)
        load_strict(self.network, state, path)
        self.network.to(device).eval()
        self._device = device

    @torch.inference_mode()
    def __call__(self, wave: np.ndarray, sample_rate: int) -> Embedding:
        """wave [N] -> features [1, 2048], probabilities [527]. Sounds of less than 64 frames
        (0.64 s) are padded with silence."""
        own = resample(wave, sample_rate, self.sample_rate)
        short = max(_MIN_FRAMES * self._hop - len(own), 0)
        features, logits = self.network(self.log_mel(np.pad(own, (0, short))))
        return Embedding(features.cpu().numpy(), logits[0].softmax(0).cpu().numpy())

    def log_mel(self, wave: np.ndarray) -> Tensor:
        """wave [N] -> 10 log10 of mel powers [1, 1, T, F], with the checkpoint's own mel matrix."""
        spectrum = torch.stft(
            torch.from_numpy(wave).to(self._device),
            self._size,
            self._hop,
            window=torch.hann_window(self._size, device=self._device),
            return_complex=True,
        )
        power = torch.view_as_real(spectrum).square().sum(-1).T @ self._mel
        return 10.0 * power.clamp(min=1e-10).log10()[None, None]


def _take(state: dict[str, Tensor], key: str, path: Path) -> Tensor:
    if key not in state:
        raise ValueError(f"{path}: not this embedder's layout: it has no {key}")
    return state.pop(key)


def _shape(state: dict[str, Tensor], key: str, path: Path) -> tuple[int, ...]:
    if key not in state:
        raise ValueError(f"{path}: not this embedder's layout: it has no {key}")
    return tuple(state[key].shape)
