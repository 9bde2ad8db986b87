"""A small tagger: classifies sounds, to evaluate generated ones and as a teacher in training."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.conv_tower import ConvTower

# not the generator's spectrogram, so that the tagger also hears what that one cannot represent
_MEL = MelConfig(n_fft=640, hop=320, fmin=50.0)


@dataclass(frozen=True, kw_only=True)
class TaggerConfig:
    """The size of a tagger and the classes it knows."""

    mel: MelConfig = field(default_factory=lambda: _MEL)  # the spectrogram it reads
    classes: tuple[str, ...] = ()  # names; the last one is for everything else
    width: int = 32  # channels of the first stage, a multiple of 8
    depths: tuple[int, ...] = (1, 1, 2, 1)  # residual blocks of each stage
    dropout: float = 0.3  # before the logits, in training
    mel_mean: float = -5.0  # about that of the log-mel over the training data
    mel_std: float = 3.0  # about that of the log-mel over the training data

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: the names are not unique")
        if self.width < 8 or self.width % 8:
            raise ValueError(f"width: got {self.width}; allowed: multiples of 8")
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"depths: got {self.depths}; allowed: one or more positive numbers")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: got {self.dropout}; allowed: 0 to below 1")
        if not self.mel_std > 0:
            raise ValueError(f"mel_std: got {self.mel_std}; allowed: above 0")


class Tagger(nn.Module):
    """Log-mel -> logits of the classes; the network is a `ConvTower`."""

    def __init__(self, config: TaggerConfig) -> None:
        super().__init__()
        if len(config.classes) < 2:
            raise ValueError(f"classes: got {len(config.classes)}; allowed: 2 or more")
        self.config = config
        self.tower = ConvTower(
            config.mel.num_mels, config.width, config.depths, len(config.classes)
        )
        self.dropout = nn.Dropout(config.dropout)
        # narrow convolutions are faster in this memory format on a CPU
        self.tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def maps(self, mel: Tensor) -> list[Tensor]:
        """mel [B, 1, T, F] (as `config.mel` makes it) -> the tower's feature maps."""
        return self.tower.maps((mel - self.config.mel_mean) / self.config.mel_std)

    def features(self, mel: Tensor) -> Tensor:
        """mel [B, 1, T, F] (as `config.mel` makes it) -> features [B, D], float32."""
        return self.tower.pool((mel - self.config.mel_mean) / self.config.mel_std).float()

    def logits(self, features: Tensor) -> Tensor:
        """features [B, D] -> logits [B, K] over `config.classes`."""
        return self.tower.projection(self.dropout(features)).float()

    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, 1, T, F] -> logits [B, K]."""
        return self.logits(self.features(mel))
