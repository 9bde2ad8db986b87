"""Weights, gradients and optimiser state sharded over processes: FSDP, by torch itself."""

from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

LARGE = 1_000_000  # parameters from which a block is gathered and freed on its own


def shard(network: nn.Module, device: torch.device) -> None:
    """Shard a network in place: each process keeps a part of every parameter.

    Large members of module lists (its blocks) are gathered for their forward and backward and then
    freed; the rest is gathered once a step.
    """
    # imported here: FSDP takes a second to import, and most runs do without
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    for member in (member for members in lists for member in members):
        inner = sum(parameter.numel() for parameter in member.parameters())
        if inner >= LARGE and not any(isinstance(m, nn.ModuleList) for m in member.modules()):
            fully_shard(member, mesh=mesh)
    fully_shard(network, mesh=mesh)
    assert isinstance(network, FSDPModule), "through Accelerate it would be DDP on a CPU"


def is_sharded(value: Tensor) -> TypeGuard["DTensor"]:
    """Whether a tensor is sharded over processes."""
    return hasattr(value, "full_tensor")


def whole(value: Tensor) -> Tensor:
    """The full tensor of one that may be sharded; a collective call."""
    return value.full_tensor() if is_sharded(value) else value


def shared_as(like: Tensor, value: Tensor) -> Tensor:
    """A full tensor, sharded like `like` if that is."""
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
