"""A model folder with random weights, to measure a size that is not shipped.

    python benchmarks/random_model.py --layout audioldm-s --out DIR
    soundcrafter bench DIR --peer diffusers

audioldm-s is AudioLDM-S as an import of it would be; paper is recipes/paper.toml's model. Both have
the bundled model's tokenizer. --width makes every part narrower (8: in seconds). Speed does not
depend on the values of weights as long as none are zero: all get some noise.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from soundcrafter.bench.diffusers_model import AudioLDMConfigs
from soundcrafter.config import GENERATOR_PARTS, PARTS, ModelConfig
from soundcrafter.convert.diffusers import head_counts
from soundcrafter.convert.imported_model import SAMPLING
from soundcrafter.hub import find_model
from soundcrafter.models.clap_text import ClapTextConfig
from soundcrafter.store import open_folder, save_part
from soundcrafter.text import Tokenizer
from soundcrafter.train import read_recipe

PAPER = Path(__file__).resolve().parents[1] / "recipes" / "paper.toml"
LAYOUTS = ("audioldm-s", "paper")
FULL = 128  # channels of the published U-Nets


def audioldm_s(width: int) -> ModelConfig:
    """AudioLDM-S with the settings that an import gets; it has no audio tower."""
    full = AudioLDMConfigs()
    widths = [width * multiplier for multiplier in full.unet.multipliers]
    groups = min(full.unet.norm_groups, width)
    unet = replace(
        full.unet,
        channels=width,
        heads=head_counts(widths),
        time_dim=4 * width,
        cond_dim=4 * width,
        norm_groups=groups,
    )
    return ModelConfig(
        clap_text=narrower(full.text, width),
        vae=replace(full.vae, channels=width, norm_groups=groups),
        unet=unet,
        vocoder=replace(full.vocoder, channels=8 * width),
        sampling=SAMPLING,
    )


def paper(width: int) -> ModelConfig:
    """The paper's model, with its audio tower."""
    full = read_recipe(PAPER).model
    groups = min(full.unet.norm_groups, width)
    audio = full.clap_audio
    if width < FULL:
        audio = replace(audio, width=16, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8))
    return replace(
        full,
        clap_audio=audio,
        clap_text=narrower(full.clap_text, width),
        vae=replace(full.vae, channels=width, norm_groups=groups),
        unet=replace(full.unet, channels=width, norm_groups=groups),
        vocoder=replace(full.vocoder, channels=4 * width),
    )


def narrower(text: ClapTextConfig, width: int) -> ClapTextConfig:
    """The text tower at width / FULL of its heads and layers; all heads keep their width."""
    heads, layers = (max(1, count * width // FULL) for count in (text.heads, text.layers))
    return replace(text, width=text.width // text.heads * heads, heads=heads, layers=layers)


def with_tokenizer(text: ClapTextConfig, tokenizer: Tokenizer) -> ClapTextConfig:
    return replace(
        text,
        vocab_size=max(text.vocab_size, tokenizer.vocab_size),
        pad_id=tokenizer.pad_id,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
    )


@torch.no_grad()
def stir(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Add noise to every parameter: a tenth of what a layer of its inputs usually starts with."""
    for parameter in module.parameters():
        std = 0.1 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.02
        parameter.add_(std * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def write(layout: str, out: Path, width: int = FULL, seed: int = 0) -> None:
    """Write the model folder. ValueError where it cannot be written or the width does not fit."""
    if width < 8 or width % 8:
        raise ValueError(f"width: got {width}; allowed: multiples of 8")
    tokenizer = open_folder(find_model(None)).load_tokenizer()
    model = audioldm_s(width) if layout == "audioldm-s" else paper(width)
    model = replace(model, clap_text=with_tokenizer(model.clap_text, tokenizer))
    generator = torch.Generator().manual_seed(seed)
    ids: dict[str, str] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in GENERATOR_PARTS:
            if part == "clap_audio" and layout == "audioldm-s":
                continue
            ids[part] = save_part(
                out,
                part,
                stir(model.build(part), generator),
                getattr(model, part),
                trained_against={other: ids.get(other, "") for other in PARTS[part].depends_on},
                tokenizer=tokenizer if part == "clap_text" else None,
                diffusion=model.diffusion,
                sampling=model.sampling,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--layout", choices=LAYOUTS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=FULL, help="channels of the U-Net (128)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(arguments.layout, arguments.out, arguments.width, arguments.seed)
    print(arguments.out)


if __name__ == "__main__":
    main()
