"""Choose the torch device."""

import torch

DEVICES = ("cpu", "cuda", "mps")


def choose_device(name: str | torch.device) -> torch.device:
    """The torch device of that name; "auto" is a CUDA GPU, else Apple's (MPS), else the CPU.

    Raises ValueError for a kind that is not in DEVICES and for a device that is not available.
    """
    if name == "auto":
        found = (kind for kind in ("cuda", "mps") if getattr(torch, kind).is_available())
        return torch.device(next(found, "cpu"))
    fault = f"device: {str(name)!r} is not available; allowed: auto, {', '.join(DEVICES)}"
    if str(name).partition(":")[0] not in DEVICES:  # torch knows kinds that hold no data
        raise ValueError(fault)
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # torch asserts where it was built without CUDA
        raise ValueError(fault) from None
    return device
