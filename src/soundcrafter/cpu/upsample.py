"""Upsampling fused with the convolution that follows it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from soundcrafter.cpu.fast_conv import conv2d
from soundcrafter.models.layers import Upsample


class PolyphaseUpsample(Upsample):
    """`Upsample` as smaller convolutions of the input, one for each phase of the output.

    On an axis that is doubled, the three taps of the convolution cover only two different values,
    so even and odd positions each need two taps. For a stride of (2, 2) this takes 4/9 of the
    multiplications.
    """

    _folded: dict[tuple[int, int], Tensor]  # (time, frequency) phase -> weight

    @torch.no_grad()
    def fold(self) -> None:
        """Compute the weights of the phases."""
        self._folded = {
            (i, j): part.contiguous(memory_format=torch.channels_last)
            for i, rows in enumerate(_phases(self.conv.weight, 2, self.stride[0]))
            for j, part in enumerate(_phases(rows, 3, self.stride[1]))
        }

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """See `Upsample`, whose code is used for an odd `size` and with gradients."""
        frames, bands = x.shape[2:]
        whole = (frames * self.stride[0], bands * self.stride[1])
        if size not in (None, whole) or torch.is_grad_enabled():
            return super().forward(x, size)
        shape = (len(x), self.conv.out_channels, *whole)
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        padded = F.pad(x, (1, 1, 1, 1))
        for (i, j), weight in self._folded.items():
            seen = padded[:, :, i : i + frames - 1 + weight.shape[2]]
            seen = seen[..., j : j + bands - 1 + weight.shape[3]]
            out[:, :, i :: self.stride[0], j :: self.stride[1]] = conv2d(
                seen, weight, self.conv.bias
            )
        return out


def _phases(weight: Tensor, dim: int, stride: int) -> list[Tensor]:
    """The weight's taps along `dim`, merged for each of the `stride` phases of this axis."""
    if stride == 1:
        return [weight]
    before, here, after = weight.unbind(dim)
    return [torch.stack([before, here + after], dim), torch.stack([before + here, after], dim)]
