"""Linear layers and 1x1 convolutions whose weights lie as oneDNN's kernels read them, in bf16 on a
CPU.

A plain weight is rearranged at every call; and what follows a linear layer, a sum or a GELU, is
done here while its results are at hand, before they are rounded. A packed layer is for use alone:
it gives no gradients, and its weight is in no state dict, copy or pickle.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.precision import cpu_has_bf16


class Linear(nn.Linear):
    """nn.Linear, which can be packed."""

    _PARTS = 1  # stretches of rows that the weight is packed in

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias)
        self._packed: list[Tensor] = []

    def pack(self) -> None:
        """Rearrange the weight, which is empty then but within `unpacked`; in bf16, on a CPU that
        has instructions for it, else this does nothing."""
        self._packed = self._packed or _pack(self.weight, self._PARTS)

    @contextmanager
    def unpacked(self) -> Iterator[None]:
        """Within, the weight is there, packed or not, and can be changed."""
        packed = bool(self._packed)
        if packed:
            self.weight.data = torch.cat([rows.to_dense() for rows in self._packed])
            self._packed = []
        try:
            yield
        finally:
            if packed:
                self.pack()

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """x [..., C], and a `plus` [..., C'] to add to the result -> [..., C']."""
        if not self._packed:
            made = F.linear(x, self.weight, self.bias)
            return made if plus is None else plus + made
        (rows,) = self._packed
        if plus is None:
            return packed_linear(x, rows, self.bias)
        return _with(x, rows, self.bias, plus, "add")


class GEGLU(Linear):
    """The first half of a linear layer's results, times the GELU of the second (Shazeer 2020)."""

    _PARTS = 2

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """x [..., C] -> [..., C' / 2]; nothing is added to it."""
        assert plus is None
        if not self._packed:
            value, gate = F.linear(x, self.weight, self.bias).chunk(2, dim=-1)
            return value * F.gelu(gate)
        of_value, of_gate = self._packed
        bias_of_value, bias_of_gate = self.bias.chunk(2)
        gate = packed_linear(x, of_gate, bias_of_gate, "gelu")
        return _with(x, of_value, bias_of_value, gate, "mul")


class Conv1x1(nn.Conv2d):
    """A 1x1 convolution, which can be packed."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)
        self._packed: list[Tensor] = []

    def pack(self) -> None:
        """As `Linear.pack`, for good."""
        self._packed = self._packed or _pack(self.weight)

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """x [B, C, T, F], and a `plus` [B, C', T, F] to add to the result -> [B, C', T, F]."""
        if not self._packed:
            made = F.conv2d(x, self.weight, self.bias)
            return made if plus is None else plus + made
        (rows,) = self._packed
        x = x.permute(0, 2, 3, 1).contiguous()  # no copy where it is channels_last
        if plus is None:
            return packed_linear(x, rows, self.bias).permute(0, 3, 1, 2)
        plus = plus.permute(0, 2, 3, 1).contiguous()
        return _with(x, rows, self.bias, plus, "add").permute(0, 3, 1, 2)


def pack_linears(network: nn.Module) -> None:
    """Pack every linear layer and 1x1 convolution of a network."""
    for module in network.modules():
        if isinstance(module, Linear | Conv1x1):
            module.pack()


@torch.no_grad()
def _pack(weight: Tensor, parts: int = 1) -> list[Tensor]:
    """A weight [C', C] or [C', C, 1, 1], in equal stretches of rows; nothing where it is not to be
    packed, else it is empty then."""
    if not can_pack(weight):
        return []
    packed = [pack_weight(rows) for rows in weight.flatten(1).chunk(parts)]
    weight.data = weight.new_empty(0)
    return packed


def can_pack(weight: Tensor) -> bool:
    """Whether this machine gains from another order of that weight."""
    return weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and cpu_has_bf16()


def pack_weight(weight: Tensor) -> Tensor:
    """The weight [C', C] of a linear layer, for `packed_linear`."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())


def packed_linear(x: Tensor, rows: Tensor, bias: Tensor | None, then: str = "none") -> Tensor:
    """x [..., C], packed rows of C numbers, bias [C'] -> [..., C'], `then` a GELU of that."""
    refuse_gradients()
    exact = "none"  # of GELU
    return torch.ops.mkldnn._linear_pointwise(x, rows, bias, then, [], exact)


def refuse_gradients() -> None:
    """Raise ValueError where torch keeps track of gradients, of which packed layers have none."""
    if torch.is_grad_enabled():
        raise ValueError(
            "this network is packed for use and gives no gradients; "
            "call it within torch.inference_mode() or torch.no_grad()"
        )


def _with(x: Tensor, rows: Tensor, bias: Tensor | None, other: Tensor, how: str) -> Tensor:
    refuse_gradients()
    return torch.ops.mkldnn._linear_pointwise.binary(x, other, rows, bias, how)
