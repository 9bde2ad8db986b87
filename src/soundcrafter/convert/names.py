"""The names of the U-Net's, VAE's and HiFi-GAN's modules in published checkpoints.

Each function returns a dict from our module paths to the published ones. "diffusers" is the layout
of diffusers and transformers, "original" that of AudioLDM's own code.
"""

from typing import Literal

from soundcrafter.models.hifigan import HiFiGANConfig
from soundcrafter.models.unet import UNetConfig
from soundcrafter.models.vae import VAEConfig

Layout = Literal["diffusers", "original"]
Names = dict[str, str]

_RES: dict[Layout, Names] = {
    "diffusers": {
        "norm1": "norm1",
        "conv1": "conv1",
        "emb_proj": "time_emb_proj",
        "norm2": "norm2",
        "conv2": "conv2",
        "shortcut": "conv_shortcut",
    },
    "original": {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "shortcut": "skip_connection",
    },
}
_VAE_RES: dict[Layout, Names] = {
    "diffusers": _RES["diffusers"],
    "original": {
        "norm1": "norm1",
        "conv1": "conv1",
        "norm2": "norm2",
        "conv2": "conv2",
        "shortcut": "nin_shortcut",
    },
}
_TRANSFORMER = {  # the same in both layouts
    "norm": "norm",
    "proj_in": "proj_in",
    "proj_out": "proj_out",
    "layer.norm1": "transformer_blocks.0.norm1",
    "layer.norm2": "transformer_blocks.0.norm2",
    "layer.norm3": "transformer_blocks.0.norm3",
    "layer.expand": "transformer_blocks.0.ff.net.0.proj",
    "layer.contract": "transformer_blocks.0.ff.net.2",
    **{
        f"layer.attention{i}.{ours}": f"transformer_blocks.0.attn{i}.{theirs}"
        for i in (1, 2)
        for ours, theirs in (
            ("query", "to_q"),
            ("key", "to_k"),
            ("value", "to_v"),
            ("out", "to_out.0"),
        )
    },
}
# The VAE's attention: norm, query, key, value, out. diffusers renamed them in 2023.
_VAE_ATTENTION = {
    "diffusers": ("group_norm", "to_q", "to_k", "to_v", "to_out.0"),
    "diffusers before 0.18": ("group_norm", "query", "key", "value", "proj_attn"),
    "original": ("norm", "q", "k", "v", "proj_out"),
}


def unet_names(config: UNetConfig, layout: Layout) -> Names:
    """The names of the U-Net. The original numbers its blocks and strides consecutively."""
    diffusers, levels, each = layout == "diffusers", len(config.multipliers), config.res_blocks
    names = {
        "time_in": "time_embedding.linear_1" if diffusers else "time_embed.0",
        "time_out": "time_embedding.linear_2" if diffusers else "time_embed.2",
        "cond_proj": "class_embedding" if diffusers else "film_emb",
        "conv_in": "conv_in" if diffusers else "input_blocks.0.0",
        "norm_out": "conv_norm_out" if diffusers else "out.0",
        "conv_out": "conv_out" if diffusers else "out.2",
    }

    def block(ours: str, res: str, attention: str) -> None:
        names.update(_below(f"{ours}.res", res, _RES[layout]))
        names.update(_below(f"{ours}.attention", attention, _TRANSFORMER))

    for i, place in enumerate((0, 2)):
        res = f"mid_block.resnets.{i}" if diffusers else f"middle_block.{place}"
        block(f"middle.{i}", res, "mid_block.attentions.0" if diffusers else "middle_block.1")
    for level in range(levels):
        attends = config.attention[levels - 1 - level]  # on the way up, from the deepest level
        for side, count in (("down", each), ("up", each + 1)):
            for i in range(count):
                place = level * (each + 1) + i + (side == "down")
                where = f"{'input' if side == 'down' else 'output'}_blocks.{place}"
                theirs = f"{side}_blocks.{level}"
                block(
                    f"{side}.{level}.stages.{i}",
                    f"{theirs}.resnets.{i}" if diffusers else f"{where}.0",
                    f"{theirs}.attentions.{i}" if diffusers else f"{where}.1",
                )
        place = (level + 1) * (each + 1)
        names[f"down.{level}.downsample.conv"] = (
            f"down_blocks.{level}.downsamplers.0.conv"
            if diffusers
            else f"input_blocks.{place}.0.op"
        )
        names[f"up.{level}.upsample.conv"] = (
            f"up_blocks.{level}.upsamplers.0.conv"
            if diffusers
            else f"output_blocks.{place - 1}.{1 + attends}.conv"  # after the block's attention
        )
    return names


def vae_names(config: VAEConfig, layout: Layout, *, old: bool = False) -> Names:
    """The names of the VAE. `old`: with the attention of diffusers before 0.18."""
    diffusers, levels = layout == "diffusers", len(config.multipliers)
    attention = _VAE_ATTENTION["diffusers before 0.18" if old else layout]
    names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        up = side == "decoder"
        names[f"{side}.conv_in"] = f"{side}.conv_in"
        names[f"{side}.norm_out"] = f"{side}.{'conv_norm_out' if diffusers else 'norm_out'}"
        names[f"{side}.conv_out"] = f"{side}.conv_out"
        for i in (0, 1):
            res = f"mid_block.resnets.{i}" if diffusers else f"mid.block_{i + 1}"
            ours, theirs = f"{side}.middle.{i}.res", f"{side}.{res}"
            names.update(_below(ours, theirs, _VAE_RES[layout]))
        theirs = f"{side}.{'mid_block.attentions.0' if diffusers else 'mid.attn_1'}"
        names[f"{side}.middle.0.attention.norm"] = f"{theirs}.{attention[0]}"
        for ours, name in zip(("query", "key", "value", "out"), attention[1:], strict=True):
            names[f"{side}.middle.0.attention.attention.{ours}"] = f"{theirs}.{name}"
        count = config.res_blocks + up
        way, change = ("up", "upsample") if up else ("down", "downsample")
        for level in range(levels):
            # the original numbers the decoder's levels like the encoder's
            number = level if diffusers or not up else levels - 1 - level
            theirs = f"{side}.{way}_blocks.{number}" if diffusers else f"{side}.{way}.{number}"
            for i in range(count):
                res = f"{theirs}.{'resnets' if diffusers else 'block'}.{i}"
                names.update(_below(f"{side}.levels.{level}.{i}.res", res, _VAE_RES[layout]))
            names[f"{side}.levels.{level}.{count}.conv"] = (
                f"{theirs}.{change}rs.0.conv" if diffusers else f"{theirs}.{change}.conv"
            )
    return names


def hifigan_names(config: HiFiGANConfig, layout: Layout) -> Names:
    """The names of HiFi-GAN. Both layouts have one list of residual blocks for all stages."""
    each = len(config.res_kernels)
    names = {"conv_pre": "conv_pre", "conv_post": "conv_post"}
    for stage in range(len(config.ratios)):
        upsample = "upsampler" if layout == "diffusers" else "ups"
        names[f"stages.{stage}.upsample"] = f"{upsample}.{stage}"
        for i in range(each):
            for convs in ("convs1", "convs2"):
                for j in range(len(config.dilations)):
                    theirs = f"resblocks.{stage * each + i}.{convs}.{j}"
                    names[f"stages.{stage}.blocks.{i}.{convs}.{j}"] = theirs
    return names


def _below(ours: str, theirs: str, table: Names) -> Names:
    return {f"{ours}.{key}": f"{theirs}.{value}" for key, value in table.items()}
