"""Choose the precision that a network computes in."""

from functools import cache
from typing import Literal, get_args

import torch
from torch import nn

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def choose_precision(name: str, device: torch.device) -> Precision:
    """The precision `name`; "auto" is bf16 if the device has instructions for it, otherwise fp32.

    Raises ValueError for an unknown name, and for fp16 on a CPU, whose convolutions do not
    support it.
    """
    if name == "auto":
        return "bf16" if _has_bf16(device) else "fp32"
    for allowed in get_args(Precision):
        if name == allowed and not (name == "fp16" and device.type == "cpu"):
            return allowed
    raise ValueError(
        f"precision: got {name!r} on {device.type}; allowed: auto, fp32, bf16, fp16 (not on a CPU)"
    )


def cast_weights(module: nn.Module, precision: Precision) -> None:
    """Cast the parameters, but not the buffers: scales, windows and filters stay in float32."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(DTYPES[precision])


@cache
def cpu_has_bf16() -> bool:
    """Whether this CPU has bf16 instructions.

    torch says so for any x86 CPU with AVX-512, but without bf16 instructions it emulates them,
    which is slower than float32.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    supported = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return supported and bool(torch.cpu.get_capabilities().get("avx512_bf16", True))


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_has_bf16()
