"""What each optimization for a CPU gains: the same network with it and without it.

    python benchmarks/switches.py
    python benchmarks/switches.py --precision bf16

Networks are timed for 10.24 s of sound; both ways take turns, and the median of --repeats counts.
Prints the ratio without / with (above 1: it gains) and the largest difference of the results.
In fp32 only the rows "fewer products" use fewer products. Decoders
have AudioLDM-S's size and random weights; U-Nets are the paper's, with random weights, and the
bundled model's. --compile adds torch.compile of the U-Nets, minutes each.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from fast_conv import gain
from torch import Tensor, nn

from soundcrafter.bench.meters import interleaved, timed
from soundcrafter.cpu import fast_conv, slabs
from soundcrafter.cpu.blocked_attention import BlockedAttention
from soundcrafter.cpu.convolutions import FastConv1d, FastConvTranspose1d
from soundcrafter.cpu.memory import limit_heap
from soundcrafter.cpu.optimize import optimize
from soundcrafter.cpu.upsample import PolyphaseUpsample
from soundcrafter.models.attention import SelfAttention
from soundcrafter.models.hifigan import HiFiGAN, HiFiGANConfig
from soundcrafter.models.layers import ResBlock, Upsample
from soundcrafter.models.melgan import MelGAN, MelGANConfig
from soundcrafter.models.unet import UNet, UNetConfig
from soundcrafter.models.vae import VAE, VAEConfig
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.precision import cast_weights, cpu_has_bf16

FRAMES = 1024  # of the mel, 10.24 s
Call = Callable[[], Tensor]


@contextmanager
def patched(owner: Any, name: str, value: object) -> Iterator[None]:
    """Within, another value of an attribute of a module or class."""
    ours = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, ours)


@contextmanager
def plain_1d() -> Iterator[None]:
    """Within, torch's own 1D convolutions."""
    with (
        patched(FastConv1d, "forward", nn.Conv1d.forward),
        patched(FastConvTranspose1d, "forward", nn.ConvTranspose1d.forward),
    ):
        yield


class Known(nn.Module):
    """A layer whose result is known, as if a sampler had computed it before its loop."""

    def __init__(self, layer: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.result = layer(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.result


class Comparison:
    """Prints a row for each optimization."""

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats

    def __call__(self, name: str, without: Call, with_it: Call) -> None:
        difference = float((without() - with_it()).abs().max())
        cpu = torch.device("cpu")
        jobs = {key: partial(timed, way, cpu) for key, way in enumerate((without, with_it))}
        seconds = interleaved(jobs, self.repeats)
        before, after = (statistics.median(runs) for runs in seconds.values())
        print(
            f"{name:44} {before / after:5.2f}  {before:7.3f} s -> {after:7.3f} s  {difference:.1e}"
        )

    def within(self, name: str, context: Callable[[], AbstractContextManager], call: Call) -> None:
        """The call within a context that switches the optimization off, and without it."""

        def without() -> Tensor:
            with context():
                return call()

        self(name, without, call)


def plain_decoder() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig()).eval()


def decoder_rows(compare: Comparison, fast: VAE, latent: Tensor) -> None:
    plain = plain_decoder()
    ordered = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    call = partial(fast.decode, latent)

    def heap_limited() -> Tensor:
        with limit_heap(fast):
            return call()

    without_slabs = partial(patched, slabs, "_SLABS_FROM", 2**62)
    in_order = partial(ordered.decode, latent)
    compare("channels-last, VAE decoder", partial(plain.decode, latent), in_order)
    with without_slabs():
        without_phases = partial(patched, PolyphaseUpsample, "forward", Upsample.forward)
        compare.within("upsampling by phases, VAE decoder", without_phases, call)
    compare.within("slabs, VAE decoder", without_slabs, call)
    compare("heap limited, VAE decoder", call, heap_limited)


def unet_rows(
    compare: Comparison, name: str, unet: UNet, latent: Tensor, *, compiling: bool
) -> None:
    """The ways of a guided step: latent [1, C, T, F] with a prompt and without one."""
    pair, t = latent.repeat(2, 1, 1, 1), torch.full((2,), 500.0)
    cond = torch.randn(2, unet.config.embed_dim)
    own = copy.deepcopy(unet).to(memory_format=torch.contiguous_format)
    together = partial(unet, pair, t, cond)

    def one_by_one() -> Tensor:
        return torch.cat([unet(pair[i : i + 1], t[:1], cond[i : i + 1]) for i in range(2)])

    compare(f"prompt and no prompt at once, {name}", one_by_one, together)
    compare(f"channels-last, {name}", partial(own, pair, t, cond), together)
    without_columns = partial(patched, fast_conv, "_NARROW", 0)
    compare.within(f"narrow maps by columns, {name}", without_columns, together)
    known, emb = copy.deepcopy(unet), unet.embed(t, cond)
    for module in known.modules():
        if isinstance(module, ResBlock):
            module.emb_proj = Known(module.emb_proj, emb)
    compare(f"FiLM vectors known, {name}", together, partial(known.denoise, pair, emb))
    if compiling:
        faster = torch.compile(unet)
        began = time.perf_counter()
        faster(pair, t, cond)
        print(f"compiling, {name}: {time.perf_counter() - began:.0f} s")
        compare(f"torch.compile, {name}", together, partial(faster, pair, t, cond))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    if options.precision == "bf16" and not cpu_has_bf16():
        parser.error("--precision: this CPU has no bf16 instructions")
    in_bf16 = options.precision == "bf16"
    compare = Comparison(options.repeats)
    torch.manual_seed(0)
    mel, latent = torch.randn(1, 1, FRAMES, 64), torch.randn(1, 8, FRAMES // 4, 16)
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    print(f"{'':44} ratio, seconds, largest difference; N {options.repeats} (median), seed 0")
    bundled = SoundCrafter.from_pretrained(device="cpu", precision=options.precision)
    paper = UNet(UNetConfig()).eval()
    for network in paper.modules():  # its branches start at zero, which would make any way equal
        if isinstance(network, nn.Conv2d):
            nn.init.normal_(network.weight, std=network.weight[0].numel() ** -0.5)
    vocoders = (HiFiGAN(HiFiGANConfig()).eval(), MelGAN(MelGANConfig()).eval())
    decoder = plain_decoder()
    for network in (*vocoders, decoder, paper):
        cast_weights(network, options.precision)
        optimize(network)
    unets = (
        ("paper's U-Net", paper, latent),
        ("bundled U-Net", bundled.unet, bundled.noise(0, FRAMES / 100)),
    )
    calls: dict[str, Call] = {type(net).__name__: partial(net, mel) for net in vocoders}
    calls["VAE decoder"] = partial(decoder.decode, latent)
    steps: dict[str, Call] = {}
    for name, unet, noise in unets:
        cond = torch.randn(2, unet.config.embed_dim)
        steps[name] = partial(unet, noise.repeat(2, 1, 1, 1), torch.full((2,), 500.0), cond)
    without_blocks = partial(patched, BlockedAttention, "attend", SelfAttention.attend)
    with torch.inference_mode():
        with nullcontext() if in_bf16 else gain(0.0):
            if in_bf16:
                for name, call in steps.items():
                    compare.within(f"attention by matrix products, {name}", without_blocks, call)
            else:
                for net in vocoders:
                    name = type(net).__name__
                    compare.within(f"1D convolutions, {name}", plain_1d, calls[name])
                decoder_rows(compare, decoder, latent)
                for name, unet, noise in unets:
                    unet_rows(compare, name, unet, noise, compiling=options.compile)
        for name, call in (calls if in_bf16 else calls | steps).items():
            compare.within(f"fewer products, {name}", partial(gain, 0.0), call)


if __name__ == "__main__":
    main()
