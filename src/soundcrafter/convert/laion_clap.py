"""LAION's CLAP in transformers' layout, whose text tower is also part of AudioLDM."""

from pathlib import Path

from soundcrafter.convert.imported_model import ImportedModel
from soundcrafter.convert.published_config import PublishedConfig
from soundcrafter.convert.weights import Weights, prefixed
from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.clap_audio import ClapAudio, ClapAudioConfig
from soundcrafter.models.clap_text import ClapText, ClapTextConfig
from soundcrafter.text import Tokenizer

WEIGHTS = ("model.safetensors", "pytorch_model.bin")

_TEXT = {"hidden_act": "gelu", "projection_hidden_act": "relu", "type_vocab_size": 1}
_AUDIO = {
    "enable_fusion": False,  # fused models have more layers, for several crops of a long sound
    "hidden_act": "gelu",
    "projection_hidden_act": "relu",
    "patch_size": 4,
    "patch_stride": [4, 4],
    "patch_embed_input_channels": 1,
    "flatten_patch_embeds": True,
    "enable_patch_layer_norm": True,
    "qkv_bias": True,
    "mlp_ratio": 4.0,
    "layer_norm_eps": 1e-5,
}
_EXTRACTOR = {"truncation": "rand_trunc", "padding": "repeatpad", "top_db": None}


def read_clap(folder: Path) -> ImportedModel:
    """Both towers from a folder that ClapModel and ClapProcessor wrote.

    The settings of the spectrogram come from the folder's feature extractor. Raises ValueError,
    naming the file and the setting or tensor, for anything but an unfused CLAP.
    """
    weights = find_weights(folder, WEIGHTS)
    file = folder / "config.json"
    audio_config = _audio_config(
        PublishedConfig(file, "audio_config"), PublishedConfig(folder / "preprocessor_config.json")
    )
    text, text_config = _text_tower(PublishedConfig(file, "text_config"), weights)
    audio = ClapAudio(audio_config)
    weights.fill(audio, prefixed(audio, "", "tower."))
    weights.ignore("logit_scale_t")  # of the loss; we have one for both directions
    weights.check_all_used()
    return ImportedModel(
        "CLAP in transformers' layout",
        {"clap_audio": (audio, audio_config), "clap_text": (text, text_config)},
        read_tokenizer(folder),
    )


def read_text_tower(folder: Path, weights: Weights) -> tuple[ClapText, ClapTextConfig]:
    """The text tower from a folder of ClapTextModelWithProjection; it must use all weights."""
    tower = _text_tower(PublishedConfig(folder / "config.json"), weights)
    weights.check_all_used()
    return tower


def read_tokenizer(folder: Path) -> Tokenizer:
    """RoBERTa's tokenizer, from tokenizer.json or from vocab.json and merges.txt.

    Raises ValueError if there is neither, and for another tokenizer.
    """
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return Tokenizer.from_roberta(folder / "vocab.json", folder / "merges.txt")
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.load(folder / "tokenizer.json")
    raise ValueError(f"{folder}: expected vocab.json and merges.txt, or tokenizer.json")


def find_weights(folder: Path, names: tuple[str, ...]) -> Weights:
    """Read the first of these files that exists. Raises ValueError if none does."""
    for name in names:
        if (folder / name).is_file():
            return Weights.read(folder / name)
    raise ValueError(f"{folder}: expected {' or '.join(names)}")


def _text_tower(data: PublishedConfig, weights: Weights) -> tuple[ClapText, ClapTextConfig]:
    data.expect(_TEXT)
    width, pad = data.get("hidden_size", 768), data.get("pad_token_id", 1)
    data.expect({"intermediate_size": 4 * width})
    config = ClapTextConfig(
        tower="roberta",
        embed_dim=data.get("projection_dim", 512),
        vocab_size=data.get("vocab_size", 50265),
        width=width,
        layers=data.get("num_hidden_layers", 12),
        heads=data.get("num_attention_heads", 12),
        max_length=data.get("max_position_embeddings", 514) - pad - 1,
        pad_id=pad,
        bos_id=data.get("bos_token_id", 0),
        eos_id=data.get("eos_token_id", 2),
        norm_eps=data.get("layer_norm_eps", 1e-12),
    )
    text = ClapText(config)
    own = {"logit_scale": text.logit_scale.detach()}
    if "logit_scale_a" in weights.state:
        own["logit_scale"] = weights.get("logit_scale_a").reshape(())
    weights.fill(text, prefixed(text, "", "tower."), own)
    return text, config


def _audio_config(data: PublishedConfig, extractor: PublishedConfig) -> ClapAudioConfig:
    data.expect(_AUDIO)
    extractor.expect(_EXTRACTOR)
    mel = MelConfig(
        sample_rate=extractor["sampling_rate"],
        n_fft=extractor["fft_window_size"],
        hop=extractor["hop_length"],
        num_mels=extractor["feature_size"],
        fmin=float(extractor["frequency_min"]),
        fmax=float(extractor["frequency_max"]),
        power=2,
        log="db",
        floor=1e-10,
        framing="center",
    )
    return ClapAudioConfig(
        tower="htsat",
        mel=mel,
        embed_dim=data.get("projection_dim", 512),
        width=data.get("patch_embeds_hidden_size", 96),
        depths=tuple(data.get("depths", (2, 2, 6, 2))),
        heads=tuple(data.get("num_attention_heads", (4, 8, 16, 32))),
        spec_size=data.get("spec_size", 256),
        window=data.get("window_size", 8),
        max_seconds=float(extractor["max_length_s"]),
    )
