"""LoRA: an adapter changes nothing at first, trains alone, merges exactly, and stacks."""

import dataclasses

import pytest
import torch
from torch import Tensor

from soundcrafter.models.lora import Adapter, AdapterConfig
from soundcrafter.models.unet import UNet, UNetConfig
from soundcrafter.store import count_parameters
from soundcrafter.train import read_recipe

SMALL = UNetConfig(
    in_channels=4,
    channels=8,
    multipliers=(1, 2),
    strides=((1, 1), (2, 2)),
    res_blocks=1,
    attention=(False, True),
    heads=(2, 2),
    time_dim=8,
    cond_dim=12,
    embed_dim=16,
    norm_groups=4,
)
AUDIOLDM_S = UNetConfig(conditioning="shift", time_dim=512, cond_dim=512, heads=(4, 8, 12, 20))


def drawn(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The module with every parameter random, so that each matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def unet() -> UNet:
    network = drawn(UNet(SMALL), 0)
    assert isinstance(network, UNet)
    return network


def adapter(seed: int, rank: int = 2) -> Adapter:
    network = drawn(Adapter(AdapterConfig(unet=SMALL, rank=rank, scale=0.5)), seed)
    assert isinstance(network, Adapter)
    return network


def answer(network: UNet) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    latent = torch.randn(2, 4, 6, 4, generator=generator)
    return network(latent, torch.tensor([3, 900]), torch.randn(2, 16, generator=generator))


def test_a_new_adapter_changes_nothing() -> None:
    network, expected = unet(), answer(unet())
    Adapter(AdapterConfig(unet=SMALL)).merge(network)
    assert torch.equal(answer(network), expected)


def test_attached_and_merged_are_one_and_the_same() -> None:
    attached, merged = unet(), unet()
    adapter(1).attach(attached)
    adapter(1).merge(merged)
    assert torch.equal(answer(attached), answer(merged))
    assert (answer(merged) - answer(unet())).norm() > 0.01 * answer(merged).norm()


def test_by_hand() -> None:
    network, change = unet(), adapter(1)
    path = "middle.0.attention.layer.attention2.query"
    part = change.changes[path.replace(".", "/")]
    expected = network.get_submodule(path).weight + 0.7 * 0.5 * part.up @ part.down
    change.merge(network, 0.7)
    torch.testing.assert_close(network.get_submodule(path).weight, expected)
    assert torch.equal(network.cond_proj.weight, unet().cond_proj.weight)


def test_adapters_stack_and_cancel() -> None:
    orders = []
    for order in ((1, 2), (2, 1)):
        network = unet()
        for seed in order:
            adapter(seed).merge(network, 0.5 * seed)
        orders.append(answer(network))
    torch.testing.assert_close(orders[0], orders[1], rtol=1e-4, atol=1e-4)
    network = unet()
    adapter(1).merge(network, 0.8)
    adapter(1).merge(network, -0.8)
    torch.testing.assert_close(answer(network), answer(unet()), rtol=1e-4, atol=1e-4)


def test_the_adapter_alone_gets_gradients_with_checkpointing_too() -> None:
    found = []
    for checkpointing in (False, True):
        network, change = unet().requires_grad_(False), adapter(1)
        network.checkpointing = checkpointing
        change.attach(network)
        answer(network).square().mean().backward()
        found.append([parameter.grad for parameter in change.parameters()])
        assert all(grad is not None and grad.abs().sum() > 0 for grad in found[-1])
        own = {id(parameter) for parameter in change.parameters()}
        assert all(p.grad is None for p in network.parameters() if id(p) not in own)
    torch.testing.assert_close(found[0], found[1])


def test_another_unet_is_refused() -> None:
    other = UNet(dataclasses.replace(SMALL, res_blocks=2))
    for use in (adapter(1).merge, adapter(1).attach):
        with pytest.raises(ValueError, match="a U-Net with other settings"):
            use(other)


@pytest.mark.parametrize("change", [{"rank": 0}, {"scale": float("nan")}])
def test_impossible_settings_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))}: got"):
        AdapterConfig(unet=SMALL, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mini", "paper", "AudioLDM-S"])
def test_rank_4_is_under_two_percent_of_the_unet(name: str) -> None:
    config = AUDIOLDM_S if name == "AudioLDM-S" else read_recipe(f"recipes/{name}.toml").model.unet
    share = count_parameters("adapter", AdapterConfig(unet=config)) / count_parameters(
        "unet", config
    )
    assert 0.004 < share < 0.007
