"""What each way of computing gains on a CPU: the same network with it and without it.

    python benchmarks/switches.py
    python benchmarks/switches.py --precision bf16

times networks for 10.24 s of sound; both ways take turns, the median of --repeats. Prints the ratio
without / with (above 1: it gains) and the largest difference of what they make. Rows in fp32: 1D
convolutions as flat 2D ones in channels-last order and transposed ones by phases (HiFi-GAN,
MelGAN); channels-last order, upsampling by phases, slabs, little freed memory kept (VAE decoder);
prompt and no prompt as one batch, channels-last order, the vectors of FiLM known before the loop,
narrow maps by columns (U-Net); and for all of these convolutions by fewer products, which the other
rows do without. In bf16, for a CPU with instructions for it: packed linear layers, packed 3x3
convolutions, attention by matrix products (U-Net), and convolutions by fewer products (decoders).
Decoders have AudioLDM-S's size and random weights; U-Nets are the paper's, of random weights, and
the bundled model's. --compile adds torch.compile of the U-Nets, minutes each.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType

import torch
import torch.nn.functional as F
from fast_conv import gain
from torch import Tensor, nn

from soundcrafter.bench.meter import in_turns, timed
from soundcrafter.memory import little_kept
from soundcrafter.models import attention, conv1d, fast_conv, layers
from soundcrafter.models.hifigan import HiFiGAN, HiFiGANConfig
from soundcrafter.models.melgan import MelGAN, MelGANConfig
from soundcrafter.models.packed import pack_linears
from soundcrafter.models.unet import UNet, UNetConfig
from soundcrafter.models.vae import VAE, VAEConfig
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.precision import cast_weights, cpu_has_bf16

FRAMES = 1024  # of the mel, 10.24 s


@contextmanager
def plain_convolutions() -> Iterator[None]:
    """torch's own 1D convolutions for a while."""
    ours = conv1d.Conv1d.forward, conv1d.ConvTranspose1d.forward
    conv1d.Conv1d.forward = nn.Conv1d.forward
    conv1d.ConvTranspose1d.forward = nn.ConvTranspose1d.forward
    try:
        yield
    finally:
        conv1d.Conv1d.forward, conv1d.ConvTranspose1d.forward = ours


@contextmanager
def patched(module: ModuleType, name: str, value: object) -> Iterator[None]:
    """Another value of a module's name for a while."""
    ours = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, ours)


def fewer_products(name: str, call: Callable[[], Tensor], repeats: int) -> None:
    def without() -> Tensor:
        with gain(0.0):
            return call()

    compare(f"fewer products, {name}", without, call, repeats)


def decoder(*, channels_last: bool, folded: bool) -> VAE:
    torch.manual_seed(0)
    vae = VAE(VAEConfig()).eval()
    if channels_last:
        vae.to(memory_format=torch.channels_last)
    for module in vae.modules():
        if folded and isinstance(module, layers.Upsample):
            module.fold()
    return vae


def vocoder_row(vocoder: nn.Module, mel: Tensor, repeats: int) -> None:
    def plain() -> Tensor:
        with plain_convolutions():
            return vocoder(mel)

    compare(f"1D convolutions, {type(vocoder).__name__}", plain, partial(vocoder, mel), repeats)


def decoder_rows(folded: VAE, latent: Tensor, repeats: int) -> None:
    torchs = decoder(channels_last=False, folded=False)
    ordered = decoder(channels_last=True, folded=False)
    in_torchs, in_ordered = partial(torchs.decode, latent), partial(ordered.decode, latent)
    in_folded = partial(folded.decode, latent)

    def whole() -> Tensor:
        with patched(layers, "_SLABS_FROM", 2**62):
            return in_folded()

    def keeping_little() -> Tensor:
        with little_kept(folded):
            return in_folded()

    with patched(layers, "_SLABS_FROM", 2**62):
        compare("channels-last, VAE decoder", in_torchs, in_ordered, repeats)
        compare("upsampling by phases, VAE decoder", in_ordered, in_folded, repeats)
    compare("slabs, VAE decoder", whole, in_folded, repeats)
    compare("little kept, VAE decoder", in_folded, keeping_little, repeats)


class Known(nn.Module):
    """A layer whose result is known: what a sampler that computed it before its loop would read."""

    def __init__(self, layer: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.result = layer(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.result


def unet_rows(name: str, unet: UNet, latent: Tensor, repeats: int, *, compiling: bool) -> None:
    """The ways of a guided step: latent [1, C, T, F] with a prompt and without one."""
    pair, t = latent.repeat(2, 1, 1, 1), torch.full((2,), 500.0)
    cond = torch.randn(2, unet.config.embed_dim)
    own = copy.deepcopy(unet).to(memory_format=torch.contiguous_format)
    last = copy.deepcopy(unet).to(memory_format=torch.channels_last)

    def one_by_one() -> Tensor:
        return torch.cat([last(pair[i : i + 1], t[:1], cond[i : i + 1]) for i in range(2)])

    def together() -> Tensor:
        return last(pair, t, cond)

    compare(f"prompt and no prompt at once, {name}", one_by_one, together, repeats)
    compare(f"channels-last, {name}", lambda: own(pair, t, cond), together, repeats)
    columns(name, together, repeats)
    known, emb = copy.deepcopy(last), last.embed(t, cond)
    for module in known.modules():
        if isinstance(module, layers.ResBlock):
            module.emb_proj = Known(module.emb_proj, emb)
    compare(f"FiLM vectors known, {name}", together, lambda: known.denoise(pair, emb), repeats)
    if compiling:
        faster = torch.compile(last)
        began = time.perf_counter()
        faster(pair, t, cond)
        print(f"compiling, {name}: {time.perf_counter() - began:.0f} s")
        compare(f"torch.compile, {name}", together, lambda: faster(pair, t, cond), repeats)


def unet_rows_in_bf16(name: str, unet: UNet, latent: Tensor, repeats: int) -> None:
    """What is done in bf16 alone; latent [1, C, T, F] with a prompt and without one."""
    pair, t = latent.repeat(2, 1, 1, 1), torch.full((2,), 500.0)
    cond = torch.randn(2, unet.config.embed_dim)
    loose, linears, packed = copy.deepcopy(unet), copy.deepcopy(unet), copy.deepcopy(unet)
    packed.pack_convolutions(latent.shape[3])
    for network in (linears, packed):
        pack_linears(network)

    def ours() -> Tensor:
        return packed(pair, t, cond)

    def without_convolutions() -> Tensor:
        return linears(pair, t, cond)

    def fused_attention() -> Tensor:
        with patched(attention, "attend", F.scaled_dot_product_attention):
            return ours()

    compare(
        f"packed linear layers, {name}", lambda: loose(pair, t, cond), without_convolutions, repeats
    )
    compare(f"packed 3x3 convolutions, {name}", without_convolutions, ours, repeats)
    if any(isinstance(module, attention.SelfAttention) for module in packed.modules()):
        compare(f"attention by matrix products, {name}", fused_attention, ours, repeats)


def columns(name: str, call: Callable[[], Tensor], repeats: int) -> None:
    def without() -> Tensor:
        with patched(fast_conv, "NARROW", 0):
            return call()

    compare(f"narrow maps by columns, {name}", without, call, repeats)


def compare(
    name: str, without: Callable[[], Tensor], with_it: Callable[[], Tensor], repeats: int
) -> None:
    difference = float((without() - with_it()).abs().max())
    cpu = torch.device("cpu")
    jobs = {key: partial(timed, way, cpu) for key, way in enumerate((without, with_it))}
    seconds = in_turns(jobs, repeats)
    before, after = (statistics.median(runs) for runs in seconds.values())
    print(f"{name:44} {before / after:5.2f}  {before:7.3f} s -> {after:7.3f} s  {difference:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    if options.precision == "bf16" and not cpu_has_bf16():
        parser.error("--precision: this CPU has no bf16 instructions")
    repeats = options.repeats
    torch.manual_seed(0)
    mel, latent = torch.randn(1, 1, FRAMES, 64), torch.randn(1, 8, FRAMES // 4, 16)
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    print(f"{'':44} ratio, seconds, largest difference; N {repeats} (median), seed 0")
    vocoders = (HiFiGAN(HiFiGANConfig()).eval(), MelGAN(MelGANConfig()).eval())
    folded = decoder(channels_last=True, folded=True)
    bundled = SoundCrafter.from_pretrained(device="cpu", precision="fp32")
    paper = UNet(UNetConfig()).eval().to(memory_format=torch.channels_last)
    for network in paper.modules():  # else its branches are zero, and any way would be equal
        if isinstance(network, nn.Conv2d):
            nn.init.normal_(network.weight, std=network.weight[0].numel() ** -0.5)
    unets = (
        ("paper's U-Net", paper, latent),
        ("bundled U-Net", bundled.unet, bundled.noise(0, FRAMES / 100)),
    )
    if options.precision == "bf16":
        for network in (*vocoders, folded, paper, bundled.unet):
            cast_weights(network, "bf16")
            for module in network.modules():  # folded in fp32
                if isinstance(module, layers.Upsample):
                    module.fold()
    with torch.inference_mode():
        if options.precision == "bf16":
            for name, unet, noise in unets:
                unet_rows_in_bf16(name, unet, noise, repeats)
        else:
            with gain(0.0):
                for vocoder in vocoders:
                    vocoder_row(vocoder, mel, repeats)
                decoder_rows(folded, latent, repeats)
                for name, unet, noise in unets:
                    unet_rows(name, unet, noise, repeats, compiling=options.compile)
        for vocoder in vocoders:
            fewer_products(type(vocoder).__name__, partial(vocoder, mel), repeats)
        fewer_products("VAE decoder", partial(folded.decode, latent), repeats)
        for name, unet, noise in unets if options.precision == "fp32" else ():
            cond = torch.randn(2, unet.config.embed_dim)
            pair = noise.repeat(2, 1, 1, 1)
            fewer_products(name, partial(unet, pair, torch.full((2,), 500.0), cond), repeats)


if __name__ == "__main__":
    main()
