"""3x3 convolutions, which can be packed for maps of one or two bands."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.models.fast_conv import NARROW, conv2d
from soundcrafter.models.packed import can_pack, pack_rows, pointwise


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with stride 1 and zero padding; see `fast_conv` for what is fast.

    Packed, a map is convolved over time alone: the channels of both bands are those of a frame, and
    the third of the taps, or more, that see nothing but padding fall away.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self._bands = 0  # of the only maps that can be convolved once it is packed
        self._rows: Tensor | None = None

    @torch.no_grad()
    def pack(self, bands: int) -> None:
        """Rearrange the weight, which is empty then, for maps of so many bands, one or two; in
        bf16, on a CPU that has instructions for it, else this does nothing."""
        assert 1 <= bands <= NARROW
        if self._rows is not None or not can_pack(self.weight):
            return
        outputs, inputs = self.weight.shape[:2]
        rows = self.weight.new_zeros(bands, outputs, 3, bands, inputs)
        for made in range(bands):
            for seen in range(bands):
                rows[made, :, :, seen] = self.weight[..., seen - made + 1].mT
        self._rows, self._bands = pack_rows(rows.view(bands * outputs, -1)), bands
        self.weight.data = self.weight.new_empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T, F] -> [B, C', T, F]."""
        if self._rows is None:
            return conv2d(x, self.weight, self.bias, (1, 1))
        assert x.shape[3] == self._bands, "packed for maps of another number of bands"
        frames = x.permute(0, 2, 3, 1).contiguous().flatten(2)  # no copy where channels_last
        seen = F.pad(frames, (0, 0, 1, 1)).unfold(1, 3, 1).mT.flatten(2)
        bias = None if self.bias is None else self.bias.repeat(self._bands)
        made = pointwise(seen, self._rows, bias)
        return made.unflatten(2, (self._bands, -1)).permute(0, 3, 1, 2)
