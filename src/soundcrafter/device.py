"""Choose the torch device."""

import torch

DEVICES = ("cpu", "cuda", "mps")


def choose_device(name: str | torch.device) -> torch.device:
    """The torch device `name`; "auto" is a CUDA GPU, else an Apple GPU (MPS), else the CPU.

    Raises ValueError for a type that is not in DEVICES and for a device that is not available.
    """
    if name == "auto":
        found = (kind for kind in ("cuda", "mps") if getattr(torch, kind).is_available())
        return torch.device(next(found, "cpu"))
    message = f"device: {str(name)!r} is not available; allowed: auto, {', '.join(DEVICES)}"
    if str(name).partition(":")[0] not in DEVICES:  # such as meta, which holds no data
        raise ValueError(message)
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # a torch without CUDA raises AssertionError
        raise ValueError(message) from None
    return device
