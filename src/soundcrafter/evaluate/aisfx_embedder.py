"""aiSFX (Ma and Lerch, ISMIR 2022) as an embedder. It was trained on professional sound-effect
libraries; PANNs was trained on AudioSet."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from soundcrafter.audio import resample
from soundcrafter.convert.aisfx_weights import load_aisfx
from soundcrafter.evaluate.embedding import Embedding
from soundcrafter.files import file_sha256
from soundcrafter.models.aisfx import SAMPLE_RATE, FrontEnd

_BLOCK, _HOP = 100, 50  # frames of a block (2.3 s), and from one to the next, as in its package
_BATCH = 16  # blocks per call, so that a long sound fits in memory


class AiSFXEmbedder:
    """The mean over blocks of aiSFX's 512 features; no classes, because its heads have no names."""

    def __init__(self, checkpoint: Path | None = None, device: str | torch.device = "cpu") -> None:
        if checkpoint is None:
            raise ValueError(
                "aisfx: its weights are not bundled; unpack the wheel that `pip download --no-deps "
                "aisfx==0.1.2` downloads, and give its aisfx/models/checkpoint.pth as --checkpoint"
            )
        self.network = load_aisfx(checkpoint).to(device)
        self.name, self.sha256 = "aisfx", file_sha256(checkpoint)
        self.classes: tuple[str, ...] = ()
        self.sample_rate = SAMPLE_RATE
        self._front_end = FrontEnd().to(device)
        self._device = device

    @torch.inference_mode()
    def __call__(self, wave: np.ndarray, sample_rate: int) -> Embedding:
        """wave [N] -> features [1, 512], of the wave scaled to peak 1. An incomplete last block is
        left out; sounds of less than one block are padded with silence."""
        own = resample(wave, sample_rate, SAMPLE_RATE)
        own = own / (np.abs(own).max(initial=0.0) or 1.0)
        mel = self._front_end(torch.from_numpy(own).to(self._device)[None])[0, 0]
        mel = F.pad(mel, (0, 0, 0, max(_BLOCK - len(mel), 0)))
        blocks = mel.unfold(0, _BLOCK, _HOP).transpose(1, 2).unsqueeze(1)  # [R, 1, 100, 96]
        features = torch.cat([self.network(some) for some in blocks.split(_BATCH)])
        return Embedding(features.mean(0, keepdim=True).cpu().numpy(), None)
