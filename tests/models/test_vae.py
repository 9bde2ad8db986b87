"""The VAE: its size, its published layout, its posterior, and the shapes it takes."""

import dataclasses
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.vae import VAE, Posterior, VAEConfig
from soundcrafter.settings import from_dict, to_dict

SMALL = VAEConfig(
    mel=MelConfig(num_mels=16),
    channels=8,
    multipliers=(1, 2),
    strides=((1, 1), (2, 2)),
    res_blocks=1,
    latent_channels=4,
    norm_groups=4,
)


def randomised(module: nn.Module) -> nn.Module:
    """Norm weights and biases start at 1 and 0: move them, so that each matters to the output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def log_mel(batch: int, frames: int, bands: int) -> Tensor:
    return torch.randn(batch, 1, frames, bands, generator=torch.Generator().manual_seed(1))


def renamed(key: str, res_blocks: int) -> str:
    """The name in our VAE of a tensor of diffusers' AutoencoderKL."""
    key = re.sub(r"(?:down|up)_blocks\.(\d)\.resnets\.(\d)", r"levels.\1.\2.res", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", rf"levels.\1.{res_blocks}", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", rf"levels.\1.{res_blocks + 1}", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", r"middle.\1.res", key)
    key = key.replace("mid_block.attentions.0.group_norm", "middle.0.attention.norm")
    key = key.replace("mid_block.attentions.0", "middle.0.attention.attention")
    for old, new in {
        "conv_norm_out": "norm_out",
        "conv_shortcut": "shortcut",
        "to_q": "query",
        "to_k": "key",
        "to_v": "value",
        "to_out.0": "out",
    }.items():
        key = key.replace(old, new)
    return key


def test_parameter_count_of_audioldm() -> None:
    with torch.device("meta"):
        vae = VAE(VAEConfig(mel=MelConfig()))
    assert sum(parameter.numel() for parameter in vae.parameters()) == 55_376_873


def test_layout_equals_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    reference = diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=2,
        latent_channels=8,
        norm_num_groups=8,
    )
    randomised(reference)
    vae = VAE(VAEConfig(mel=MelConfig(num_mels=24), channels=16, norm_groups=8)).eval()
    weights = {renamed(key, 2): value for key, value in reference.state_dict().items()}
    vae.load_state_dict({**weights, "latent_scale": torch.tensor(0.9)}, strict=True)
    mel = log_mel(3, 44, 24)
    with torch.no_grad():
        expected = reference.encode(mel).latent_dist
        posterior = vae.posterior(mel)
        pairs = [
            (posterior.mean, expected.mean),
            (posterior.logvar, expected.logvar),
            (vae.encode(mel), 0.9 * expected.mean),
            (vae.decode(0.9 * expected.mean), reference.decode(expected.mean).sample),
        ]
    for ours, theirs in pairs:
        assert (ours - theirs).norm() / theirs.norm() < 1e-5


def test_posterior_sample_and_kl_in_nats() -> None:
    mean = torch.full((2, 3, 4, 5), 2.0)
    posterior = Posterior(mean, torch.full_like(mean, math.log(9.0)))
    noise = torch.full_like(mean, -1.0)
    torch.testing.assert_close(posterior.sample(noise), torch.full_like(mean, -1.0))
    each = 0.5 * (4.0 + 9.0 - 1.0 - math.log(9.0))
    torch.testing.assert_close(posterior.kl(), torch.full((2,), 60 * each))
    normal = torch.distributions.Normal(mean, 3.0)
    other = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(posterior.kl(), other.sum(dim=(1, 2, 3)))


def test_logvar_is_clamped() -> None:
    vae = VAE(SMALL)
    with torch.no_grad():
        vae.quant_conv.bias[4:6] = 1e3
        vae.quant_conv.bias[6:] = -1e3
    logvar = vae.posterior(log_mel(1, 8, 16)).logvar
    assert logvar[:, :2].eq(20.0).all()
    assert logvar[:, 2:].eq(-30.0).all()


def test_normalisation_and_latent_scale_are_inside() -> None:
    vae = randomised(VAE(SMALL))
    scaled = VAE(dataclasses.replace(SMALL, mel_mean=-5.0, mel_std=2.0)).eval()
    scaled.load_state_dict({**vae.state_dict(), "latent_scale": torch.tensor(0.5)})
    mel = log_mel(2, 8, 16)
    with torch.no_grad():
        noise = torch.randn_like(vae.encode(mel))
        posterior = vae.posterior(mel)
        torch.testing.assert_close(scaled.encode(2.0 * mel - 5.0), 0.5 * posterior.mean)
        torch.testing.assert_close(
            scaled.encode(2.0 * mel - 5.0, noise), 0.5 * posterior.sample(noise)
        )
        torch.testing.assert_close(scaled.decode(0.5 * noise), 2.0 * vae.decode(noise) - 5.0)
    assert "latent_scale" not in dict(vae.named_parameters())


def test_last_layer_is_the_weight_nearest_the_output() -> None:
    vae = VAE(SMALL)
    assert isinstance(vae.last_layer, nn.Parameter)
    (gradient,) = torch.autograd.grad(vae.decode(torch.randn(1, 4, 4, 8)).sum(), vae.last_layer)
    assert vae.last_layer is vae.decoder.conv_out.weight
    assert gradient.abs().max() > 0


def test_checkpointing_gives_the_same_gradients() -> None:
    vae = randomised(VAE(SMALL)).train()
    mel = log_mel(2, 8, 16)
    gradients, kept = [], []
    for checkpointing in (False, True):
        vae.checkpointing = checkpointing
        vae.zero_grad()
        count = 0

        def count_saved(tensor: Tensor) -> Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count_saved, lambda tensor: tensor):
            posterior = vae.posterior(mel)
            loss = (vae.decode(posterior.mean) - mel).abs().mean() + posterior.kl().mean()
        kept.append(count)
        loss.backward()
        gradients.append([parameter.grad.clone() for parameter in vae.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.parametrize("stride", [(2, 2), (2, 1), (1, 2), (1, 1)])
def test_any_stride_round_trips_shapes(stride: tuple[int, int]) -> None:
    config = dataclasses.replace(SMALL, strides=((1, 1), stride))
    vae = VAE(config)
    mel = log_mel(3, 10, 16)
    latent = vae.encode(mel)
    assert latent.shape == (3, 4, 10 // stride[0], 16 // stride[1])
    assert vae.decode(latent).shape == mel.shape


def test_patches_are_channels_of_the_outer_convolutions() -> None:
    vae = VAE(dataclasses.replace(SMALL, patch=4))
    assert vae.config.stride == (8, 8)
    mel = log_mel(2, 16, 16)
    latent = vae.encode(mel)
    assert latent.shape == (2, 4, 2, 2)
    assert vae.decode(latent).shape == mel.shape
    assert vae.encoder.conv_in.in_channels == vae.decoder.conv_out.out_channels == 16
    changed = mel.clone()
    changed[:, :, 5, 6] += 1.0  # one cell: in the patch at (1, 1)
    seen = []
    vae.encoder.conv_in.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    vae.encode(mel), vae.encode(changed)
    difference = (seen[1] - seen[0])[0].abs()
    assert difference.nonzero().tolist() == [[6, 1, 1]]  # row 1, column 2 of 4 in that patch


def test_sides_that_do_not_divide_are_refused() -> None:
    for mel in (log_mel(1, 9, 16), log_mel(1, 8, 15), log_mel(1, 8, 16)[0]):
        with pytest.raises(ValueError, match="time a multiple of 2 and frequency a multiple of 2"):
            VAE(SMALL).encode(mel)


def test_attention_can_be_left_out() -> None:
    vae = VAE(dataclasses.replace(SMALL, attention=False))
    assert not [name for name in vae.state_dict() if "attention" in name]
    assert vae.decode(vae.encode(log_mel(1, 8, 16))).shape == (1, 1, 8, 16)


def test_memory_format_and_precision_keep_the_answer() -> None:
    torch.manual_seed(0)
    vae = randomised(VAE(SMALL))
    mel = log_mel(2, 8, 16)
    expected = vae.decode(vae.encode(mel)).detach()

    def error() -> float:
        latent = vae.encode(mel)
        got = vae.decode(latent)
        assert latent.dtype == got.dtype == torch.float32
        return float((got.detach() - expected).norm() / expected.norm())

    with torch.autocast("cpu", torch.bfloat16):
        assert 1e-6 < error() < 0.05
    with torch.inference_mode():
        assert error() < 1e-5
        vae.to(memory_format=torch.channels_last)
        assert error() < 1e-5
        vae.bfloat16()
        assert error() < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_groups": 3}, "norm_groups: got 3"),
        ({"strides": ((1, 1), (4, 1))}, "strides"),
        ({"mel": MelConfig(num_mels=15)}, "a divisor of the 15 mel bands"),
        ({"mel_std": 0.0}, "mel_std"),
        ({"latent_channels": 0}, "latent_channels"),
        ({"patch": 0}, "patch"),
        ({"patch": 16}, "a divisor of the 16 mel bands"),
    ],
)
def test_impossible_configs_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_config_round_trips() -> None:
    assert from_dict(VAEConfig, to_dict(SMALL)) == SMALL
