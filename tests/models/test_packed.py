"""Packed linear layers compute and hold what plain ones do."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from soundcrafter.bench.meter import count_flops
from soundcrafter.models.lora import Adapter, AdapterConfig
from soundcrafter.models.packed import GEGLU, Conv1x1, Linear, pack_linears
from soundcrafter.models.unet import UNet, UNetConfig
from soundcrafter.precision import cast_weights, cpu_has_bf16

needs_bf16 = pytest.mark.skipif(not cpu_has_bf16(), reason="no bf16 instructions here")
ROUNDED = {"rtol": 1e-2, "atol": 1e-2}  # bf16 has 8 bits


@needs_bf16
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 24), (130, 24)])
@torch.no_grad()
def test_packed_is_plain(bias, shape):
    torch.manual_seed(0)
    layer = Linear(24, 40, bias=bias).bfloat16()
    x, plus = torch.randn(shape).bfloat16(), torch.randn(*shape[:-1], 40).bfloat16()
    weight = layer.weight.clone()
    plain = F.linear(x.float(), weight.float(), layer.bias.float() if bias else None)
    torch.testing.assert_close(layer(x).float(), plain, **ROUNDED)
    layer.pack()
    assert layer.weight.numel() == 0, "it is kept once"
    torch.testing.assert_close(layer(x).float(), plain, **ROUNDED)
    torch.testing.assert_close(layer(x, plus).float(), plain + plus.float(), **ROUNDED)
    with layer.unpacked():
        assert torch.equal(layer.weight, weight)
        layer.weight.mul_(2)
    doubled = 2 * F.linear(x.float(), weight.float()) + (layer.bias.float() if bias else 0)
    torch.testing.assert_close(layer(x).float(), doubled, **ROUNDED)


@needs_bf16
@torch.no_grad()
def test_packed_geglu_is_plain():
    torch.manual_seed(0)
    layer, x = GEGLU(24, 64).bfloat16(), torch.randn(2, 9, 24).bfloat16()
    exact = F.linear(x.float(), layer.weight.float(), layer.bias.float())
    wanted = exact[..., :32] * F.gelu(exact[..., 32:])
    weight = layer.weight.clone()
    torch.testing.assert_close(layer(x).float(), wanted, **ROUNDED)
    layer.pack()
    torch.testing.assert_close(layer(x).float(), wanted, **ROUNDED)
    with layer.unpacked():
        assert torch.equal(layer.weight, weight)


@needs_bf16
@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
@torch.no_grad()
def test_a_packed_1x1_convolution_is_plain(order):
    torch.manual_seed(0)
    layer = Conv1x1(24, 40).bfloat16()
    x = torch.randn(2, 24, 5, 3).bfloat16().contiguous(memory_format=order)
    plus = torch.randn(2, 40, 5, 3).bfloat16().contiguous(memory_format=order)
    plain = F.conv2d(x.float(), layer.weight.float(), layer.bias.float())
    torch.testing.assert_close(layer(x, plus).float(), plain + plus.float(), **ROUNDED)
    layer.pack()
    assert layer.weight.numel() == 0
    torch.testing.assert_close(layer(x).float(), plain, **ROUNDED)
    torch.testing.assert_close(layer(x, plus).float(), plain + plus.float(), **ROUNDED)


@torch.no_grad()
def test_float32_stays_as_it_is():
    layer = Linear(8, 8)
    weight = layer.weight.clone()
    layer.pack()
    assert torch.equal(layer.weight, weight)
    with layer.unpacked():
        assert torch.equal(layer.weight, weight)


@needs_bf16
@torch.no_grad()
def test_an_adapter_changes_a_packed_unet_as_a_plain_one():
    torch.manual_seed(0)
    config = UNetConfig(channels=8, in_channels=4, embed_dim=8, norm_groups=4, heads=(2, 2, 2, 2))
    plain = UNet(config).eval()
    cast_weights(plain, "bf16")
    packed = copy.deepcopy(plain)
    pack_linears(packed)
    adapter = Adapter(AdapterConfig(unet=config, rank=2))
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    for unet in (plain, packed):  # the adapter stays in float32, as it is loaded
        adapter.merge(unet, 0.5)
    for path, layer in packed.named_modules():
        if isinstance(layer, Linear):
            with layer.unpacked():
                assert torch.equal(layer.weight, plain.get_submodule(path).weight)


@needs_bf16
@torch.no_grad()
def test_operations_of_a_packed_layer_are_counted():
    layer, x = GEGLU(24, 64).bfloat16(), torch.randn(2, 9, 24).bfloat16()
    plain = count_flops(lambda: layer(x))
    layer.pack()
    assert count_flops(lambda: layer(x)) == plain == 2 * 18 * 24 * 64


@needs_bf16
@pytest.mark.parametrize("added", [False, True])
def test_a_packed_layer_gives_no_gradients(added):
    layer, x = Linear(24, 24).bfloat16(), torch.randn(9, 24).bfloat16()
    layer.pack()
    with pytest.raises(ValueError, match="gives no gradients; call it within"):
        layer(x, x if added else None)
