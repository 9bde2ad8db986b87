"""Choose the torch device."""

import torch

DEVICES = ("cpu", "cuda", "mps")


def choose_device(name: str | torch.device) -> torch.device:
    """The torch device of that name; "auto" is the GPU if there is one, otherwise the CPU.

    Raises ValueError for a kind that is not in DEVICES and for a device that is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fault = f"device: {str(name)!r} is not available; allowed: auto, {', '.join(DEVICES)}"
    if str(name).partition(":")[0] not in DEVICES:  # torch knows kinds that hold no data
        raise ValueError(fault)
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # torch asserts where it was built without CUDA
        raise ValueError(fault) from None
    return device
