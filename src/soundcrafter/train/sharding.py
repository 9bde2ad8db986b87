"""Weights, gradients and optimiser state shared out over processes: FSDP, by torch itself."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

LARGE = 1_000_000  # parameters of a block that is gathered and freed by itself


def shard(player: nn.Module, device: torch.device) -> None:
    """Share out a player in place: each process keeps its part of every parameter.

    The large members of module lists (a network's blocks) are gathered when they are computed and
    freed after; what is left is gathered once a step.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    lists = [module for module in player.modules() if isinstance(module, nn.ModuleList)]
    for member in (member for members in lists for member in members):
        inner = sum(parameter.numel() for parameter in member.parameters())
        if inner >= LARGE and not any(isinstance(m, nn.ModuleList) for m in member.modules()):
            fully_shard(member, mesh=mesh)
    fully_shard(player, mesh=mesh)
    assert isinstance(player, FSDPModule), "through Accelerate it would be DDP on a CPU"


def whole(value: Tensor) -> Tensor:
    """All of a tensor that may be shared out; every process has to ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def shared_as(like: Tensor, value: Tensor) -> Tensor:
    """A whole tensor, shared out as `like` is where that is."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
