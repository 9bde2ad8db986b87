"""The U-Net: its size, its published layout, its conditioning, and the shapes it takes."""

import dataclasses
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from soundcrafter.models.layers import ResBlock, timestep_embedding
from soundcrafter.models.unet import UNet, UNetConfig
from soundcrafter.settings import from_dict, to_dict

SMALL = UNetConfig(
    in_channels=4,
    channels=8,
    multipliers=(1, 2),
    strides=((1, 1), (2, 2)),
    res_blocks=1,
    attention=(False, True),
    heads=(2, 2),
    dropout=0.0,
    time_dim=8,
    cond_dim=12,
    embed_dim=16,
    norm_groups=4,
)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Leave the zero initialisation, so that every weight matters to the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            is_norm_weight = parameter.ndim == 1 and name.endswith("weight")
            scale = 0.3 if parameter.ndim == 1 else fan_in**-0.5
            parameter.copy_(float(is_norm_weight) + scale * draw)
    return module.eval()


def inputs(config: UNetConfig, batch: int, frames: int, bands: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(batch, config.in_channels, frames, bands, generator=generator)
    t = torch.tensor([0, 999, 417])[:batch]
    cond = torch.randn(batch, config.embed_dim, generator=generator)
    return latent, t, nn.functional.normalize(cond, dim=-1)


def renamed(key: str) -> str:
    """The name in our U-Net of a tensor of the published layout."""
    key = re.sub(r"^(down|up)_blocks\.(\d)\.(?:down|up)samplers\.0\.", r"\1.\2.\1sample.", key)
    key = re.sub(r"^(down|up)_blocks\.(\d)\.resnets\.(\d)", r"\1.\2.stages.\3.res", key)
    key = re.sub(r"^(down|up)_blocks\.(\d)\.attentions\.(\d)", r"\1.\2.stages.\3.attention", key)
    key = re.sub(r"^mid_block\.resnets\.(\d)", r"middle.\1.res", key)
    key = re.sub(r"^mid_block\.attentions\.(\d)", r"middle.\1.attention", key)
    for old, new in {
        "time_embedding.linear_1": "time_in",
        "time_embedding.linear_2": "time_out",
        "class_embedding": "cond_proj",
        "conv_norm_out": "norm_out",
        "time_emb_proj": "emb_proj",
        "conv_shortcut": "shortcut",
        "transformer_blocks.0": "layer",
        "attn1": "attention1",
        "attn2": "attention2",
        "to_q": "query",
        "to_k": "key",
        "to_v": "value",
        "to_out.0": "out",
        "ff.net.0.proj": "expand",
        "ff.net.2": "contract",
    }.items():
        key = key.replace(old, new)
    return key


def test_parameter_counts_of_the_paper_and_of_audioldm() -> None:
    shift = UNetConfig(conditioning="shift", time_dim=512, cond_dim=512)
    with torch.device("meta"):
        counts = [
            sum(parameter.numel() for parameter in UNet(config).parameters())
            for config in (UNetConfig(), shift)
        ]
    assert counts == [184_683_656, 185_036_552]


@pytest.mark.parametrize("frames", [40, 37])  # 37 is odd at each level
def test_shift_layout_equals_diffusers(frames: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    heads = (1, 2, 3, 5)
    reference = diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=8,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3 + ("UpBlock2D",),
        block_out_channels=(16, 32, 48, 80),
        cross_attention_dim=(16, 32, 48, 80),
        layers_per_block=2,
        norm_num_groups=8,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=24,
        class_embeddings_concat=True,
        attention_head_dim=heads,
    )
    randomised(reference)
    config = UNetConfig(
        channels=16,
        conditioning="shift",
        time_dim=64,
        cond_dim=64,
        embed_dim=24,
        heads=heads,
        norm_groups=8,
    )
    unet = UNet(config).eval()
    weights = {renamed(key): value for key, value in reference.state_dict().items()}
    unet.load_state_dict({**weights, "null_cond": torch.zeros(24)}, strict=True)
    latent, t, cond = inputs(config, batch=3, frames=frames, bands=24)
    with torch.no_grad():
        expected = reference(latent, t, encoder_hidden_states=None, class_labels=cond).sample
        ours = unet(latent, t, cond)
    assert (ours - expected).norm() / expected.norm() < 1e-5
    with torch.no_grad():
        assert (unet(latent, t, cond.flip(0)) - expected).norm() / expected.norm() > 1e-3


def test_timestep_embedding_is_float32_with_cosines_first() -> None:
    emb = timestep_embedding(torch.tensor([0, 999, 1000]), 8)
    assert emb.dtype == torch.float32
    torch.testing.assert_close(emb[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    torch.testing.assert_close(emb[1, 5], torch.sin(torch.tensor(99.9)), rtol=0, atol=1e-4)
    assert (emb[1] - emb[2]).abs().max() > 0.1


@pytest.mark.parametrize("conditioning", ["film", "shift"])
def test_a_constant_timeline_equals_the_single_vector(conditioning: str) -> None:
    config = dataclasses.replace(SMALL, conditioning=conditioning)  # type: ignore[arg-type]
    unet = randomised(UNet(config))
    latent, t, cond = inputs(config, batch=2, frames=12, bands=4)
    with torch.no_grad():
        single = unet(latent, t, cond)
        for length in (1, 5, 12):
            timeline = unet(latent, t, cond[:, None].expand(-1, length, -1))
            torch.testing.assert_close(timeline, single, rtol=1e-5, atol=1e-5)


def test_a_timeline_acts_where_it_changes() -> None:
    config = dataclasses.replace(SMALL, attention=(False, False))
    unet = randomised(UNet(config))
    latent, t, cond = inputs(config, batch=2, frames=256, bands=4)
    timeline = cond[:, None].repeat(1, 256, 1)
    changed = timeline.clone()
    changed[:, 128:] = -cond[:, None]
    emb_shift = (unet.embed(t, changed) - unet.embed(t, timeline)).abs().amax(dim=(0, 2))
    assert emb_shift[:128].max() == 0
    assert emb_shift[128:].min() > 0
    with torch.no_grad():
        difference = (unet(latent, t, changed) - unet(latent, t, timeline)).abs().mean((0, 1, 3))
    # The centre block attends and the norms pool over time, so the first half moves a little.
    assert difference[160:].mean() > 1.5 * difference[:96].mean()


def test_film_is_scale_and_shift_after_the_second_norm() -> None:
    block = ResBlock(8, 8, norm_groups=4, eps=1e-5, conditioning="film", emb_dim=6)
    randomised(block)
    x, emb = torch.randn(2, 8, 6, 4), torch.randn(2, 6)
    scale, shift = block.emb_proj(emb)[:, :, None, None].chunk(2, dim=1)
    h = block.norm2(block.conv1(nn.functional.silu(block.norm1(x)))) * (1 + scale) + shift
    expected = x + block.conv2(nn.functional.silu(h))
    torch.testing.assert_close(block(x, emb), expected)


def test_dropout_acts_in_training_only() -> None:
    config = dataclasses.replace(SMALL, dropout=0.5)
    unet = randomised(UNet(config))
    latent, t, cond = inputs(config, batch=2, frames=8, bands=4)
    assert torch.equal(unet(latent, t, cond), unet(latent, t, cond))
    unet.train()
    assert not torch.equal(unet(latent, t, cond), unet(latent, t, cond))


def test_the_output_starts_at_zero_and_trains() -> None:
    unet = UNet(SMALL)
    latent, t, cond = inputs(SMALL, batch=2, frames=8, bands=4)
    assert torch.count_nonzero(unet(latent, t, cond)) == 0
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = nn.functional.mse_loss(unet(latent, t, cond), latent)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_null_cond_is_saved_and_no_parameter() -> None:
    unet = UNet(SMALL)
    assert torch.equal(unet.state_dict()["null_cond"], torch.zeros(SMALL.embed_dim))
    assert "null_cond" not in dict(unet.named_parameters())


def test_checkpointing_gives_the_same_gradients() -> None:
    config = dataclasses.replace(SMALL, dropout=0.1)
    unet = randomised(UNet(config)).train()
    latent, t, cond = inputs(config, batch=2, frames=8, bands=4)
    gradients, kept = [], []
    for checkpointing in (False, True):
        unet.checkpointing = checkpointing
        unet.zero_grad()
        torch.manual_seed(0)
        count = 0

        def count_saved(tensor: Tensor) -> Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count_saved, lambda tensor: tensor):
            loss = unet(latent, t, cond).square().mean()
        kept.append(count)
        loss.backward()
        gradients.append([parameter.grad.clone() for parameter in unet.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert kept[1] < 0.5 * kept[0]


def test_four_levels_fit_a_latent_of_four_rows() -> None:
    config = dataclasses.replace(
        SMALL,
        multipliers=(1, 2, 2, 3),
        strides=((1, 1), (2, 2), (2, 1), (1, 2)),
        attention=(False, True, True, False),
        heads=(1, 2, 2, 3),
    )
    assert config.stride == (4, 4)
    unet = randomised(UNet(config))
    latent, t, cond = inputs(config, batch=3, frames=20, bands=4)
    shapes = []
    unet.middle[0].register_forward_hook(lambda _, given, __: shapes.append(given[0].shape))
    assert unet(latent, t, cond).shape == latent.shape
    assert shapes == [(3, 24, 5, 1)]


@pytest.mark.parametrize(("frames", "bands"), [(1, 1), (7, 3), (9, 4), (18, 2)])
@pytest.mark.parametrize("timeline", [False, True])
def test_any_length_keeps_its_shape(frames: int, bands: int, timeline: bool) -> None:
    unet = randomised(UNet(SMALL))
    latent, t, cond = inputs(SMALL, batch=3, frames=frames, bands=bands)
    cond = torch.stack([cond, cond], dim=1) if timeline else cond
    out = unet(latent, t, cond)
    assert out.shape == latent.shape
    assert out.isfinite().all()
    with pytest.raises(ValueError, match="latent: got the shape"):
        unet(latent[:, :, :0], t, cond)


def test_a_condition_of_another_width_is_refused() -> None:
    latent, t, _ = inputs(SMALL, batch=2, frames=8, bands=4)
    with pytest.raises(ValueError, match="width 16"):
        UNet(SMALL)(latent, t, torch.zeros(2, 12))


@pytest.mark.parametrize("conditioning", ["film", "shift"])
@pytest.mark.parametrize("timeline", [False, True])
def test_memory_format_and_precision_keep_the_answer(conditioning: str, timeline: bool) -> None:
    config = dataclasses.replace(SMALL, conditioning=conditioning)  # type: ignore[arg-type]
    unet = randomised(UNet(config))
    latent, t, cond = inputs(config, batch=2, frames=8, bands=4)
    if timeline:
        cond = torch.stack([cond, cond.flip(0), cond], dim=1)
    expected = unet(latent, t, cond).detach()

    def error(got: Tensor) -> float:
        assert got.dtype == torch.float32
        return float((got.detach() - expected).norm() / expected.norm())

    with torch.autocast("cpu", torch.bfloat16):
        assert 1e-6 < error(unet(latent, t, cond)) < 0.05
    with torch.inference_mode():
        assert error(unet(latent, t, cond)) < 1e-5
        unet.to(memory_format=torch.channels_last)
        last = latent.to(memory_format=torch.channels_last)
        formats = []
        unet.down[1].stages[0].register_forward_hook(
            lambda _, __, x: formats.append(x.is_contiguous(memory_format=torch.channels_last))
        )
        assert error(unet(last, t, cond)) < 1e-5
        assert formats == [True]
        unet.bfloat16()
        assert error(unet(latent, t, cond)) < 0.05
        assert unet(latent.bfloat16(), t, cond.bfloat16()).dtype == torch.bfloat16


def test_each_sample_is_its_own() -> None:
    unet = randomised(UNet(SMALL))
    latent, t, cond = inputs(SMALL, batch=3, frames=8, bands=4)
    with torch.no_grad():
        alone = torch.cat(
            [unet(latent[i : i + 1], t[i : i + 1], cond[i : i + 1]) for i in range(3)]
        )
        torch.testing.assert_close(unet(latent, t.float(), cond), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_groups": 3}, "norm_groups: got 3"),
        ({"channels": 12, "norm_groups": 8}, "norm_groups: got 8"),
        ({"strides": ((2, 2), (2, 2))}, "strides"),
        ({"strides": ((1, 1), (3, 1))}, "strides"),
        ({"strides": ((1, 1),)}, "strides: got 1 for 2 levels"),
        ({"heads": (2, 3)}, "heads: got 3 at level 1"),
        ({"heads": (2,)}, "heads: got 1 values"),
        ({"attention": (True,)}, "attention: got 1 values"),
        ({"res_blocks": 0}, "res_blocks"),
        ({"multipliers": ()}, "multipliers"),
        ({"dropout": 1.0}, "dropout"),
        ({"embed_dim": 0}, "embed_dim"),
    ],
)
def test_impossible_configs_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_config_round_trips() -> None:
    assert from_dict(UNetConfig, to_dict(SMALL)) == SMALL
