"""The model folder: bit for bit there and back, strict, and whole after whatever fails."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from soundcrafter import store
from soundcrafter.config import GENERATOR_PARTS, PARTS, ModelConfig
from soundcrafter.files import file_sha256, write_json
from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.clap_audio import ClapAudioConfig
from soundcrafter.models.clap_text import ClapTextConfig
from soundcrafter.models.melgan import MelGANConfig
from soundcrafter.models.unet import UNetConfig
from soundcrafter.models.vae import VAEConfig
from soundcrafter.store import fingerprint, open_folder, save_part
from soundcrafter.text import Tokenizer

FILES = {"config.json", "tokenizer.json", *(f"{name}.safetensors" for name in GENERATOR_PARTS)}


def read_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def flip_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def save_again(folder: Path, name: str, module: torch.nn.Module, **options) -> str:
    """Save a part with the settings and dependencies it has in the folder."""
    entry = open_folder(folder).parts[name]
    against = dict(entry.trained_against)
    return save_part(folder, name, module, entry.config, trained_against=against, **options)


def changed(module: torch.nn.Module) -> torch.nn.Module:
    """The module after a training step, as it were."""
    with torch.no_grad():
        next(module.parameters()).add_(0.01)
    return module


def test_a_trained_folder_holds_these_files(tiny_model):
    assert {file.name for file in tiny_model.iterdir()} == FILES | {"training"}


@pytest.mark.parametrize("name", GENERATOR_PARTS)
def test_each_part_comes_back_bit_for_bit(model_copy, tmp_path, name):
    folder = open_folder(model_copy)
    module, entry = folder.load(name), folder.parts[name]
    assert not module.training
    # weights that only fp32 holds exactly: a detour over another dtype would show
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape) * 1e-3)
    other = tmp_path / "other"
    against = dict(entry.trained_against)
    training_id = save_part(other, name, module, entry.config, trained_against=against)
    again = open_folder(other)
    state, loaded = module.state_dict(), again.load(name).state_dict()
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert again.parts[name].config == entry.config
    assert again.parts[name].training_id == training_id == fingerprint(state)
    assert again.parts[name].trained_against == against


def test_the_tokenizer_and_the_defaults_come_back(tiny_model, tmp_path):
    folder = open_folder(tiny_model)
    tokenizer = folder.load_tokenizer()
    sampling = store.SamplingConfig(steps=7, guidance=1.5)
    diffusion = store.DiffusionConfig(objective="v", steps=10)
    other = {"tokenizer": tokenizer, "sampling": sampling, "diffusion": diffusion}
    entry = folder.parts["vae"]
    save_part(tmp_path / "new", "vae", folder.load("vae"), entry.config, **other)
    again = open_folder(tmp_path / "new")
    assert (again.sampling, again.diffusion) == (sampling, diffusion)
    assert again.load_tokenizer().to_json() == tokenizer.to_json()
    # a part saved without them leaves them alone
    config = folder.parts["vocoder"].config
    save_part(tmp_path / "new", "vocoder", folder.load("vocoder"), config)
    again = open_folder(tmp_path / "new")
    assert (again.sampling, again.diffusion) == (sampling, diffusion)
    assert set(again.parts) == {"vae", "vocoder"}
    assert again.load_tokenizer().to_json() == tokenizer.to_json()


def test_half_precision_keeps_the_training_id(model_copy):
    before = open_folder(model_copy)
    vae, training_id = before.load("vae"), before.parts["vae"].training_id
    size = (model_copy / "vae.safetensors").stat().st_size
    save_again(model_copy, "vae", vae, dtype=torch.float16, training_id=training_id)
    assert (model_copy / "vae.safetensors").stat().st_size < 0.6 * size
    stored = load_file(model_copy / "vae.safetensors")
    assert all(value.dtype == torch.float16 for value in stored.values())
    after = open_folder(model_copy)  # the U-Net still belongs to it
    assert after.parts["vae"].training_id == training_id
    loaded = after.load("vae").state_dict()
    for key, value in vae.state_dict().items():
        assert loaded[key].dtype == torch.float32
        torch.testing.assert_close(loaded[key], value, rtol=1e-3, atol=1e-6)


def test_the_training_id_tells_names_shapes_and_values_apart():
    base = {"a": torch.arange(6.0), "b": torch.zeros(1)}
    assert fingerprint(base) == fingerprint(dict(reversed(base.items())))
    assert fingerprint(base) == fingerprint({k: v.to(torch.float16) for k, v in base.items()})
    others = [
        {**base, "a": torch.arange(6.0).reshape(2, 3)},
        {**base, "a": torch.arange(6.0) + 1e-6},
        {"c": base["a"], "b": base["b"]},
        {"a": base["a"]},
    ]
    assert len({fingerprint(state) for state in [base, *others]}) == 5


@pytest.mark.parametrize("name", GENERATOR_PARTS)
def test_a_flipped_byte_is_found(model_copy, name):
    flip_byte(model_copy / f"{name}.safetensors")
    folder = open_folder(model_copy)
    with pytest.raises(ValueError, match=rf"{name}\.safetensors: its sha256"):
        folder.load(name)


def test_a_flipped_byte_in_the_tokenizer_is_found(model_copy):
    flip_byte(model_copy / "tokenizer.json")
    with pytest.raises(ValueError, match=r"tokenizer\.json: its sha256"):
        open_folder(model_copy).load_tokenizer()


@pytest.mark.parametrize("file", sorted(FILES))
def test_a_missing_file_is_named_at_once(model_copy, file):
    (model_copy / file).unlink()
    with pytest.raises(ValueError, match=file):
        open_folder(model_copy)


def test_no_folder_or_another_one(tmp_path):
    with pytest.raises(ValueError, match="no such model folder"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"not a model folder.* no config\.json"):
        open_folder(tmp_path)


def test_a_file_that_vanishes_after_opening(model_copy):
    folder = open_folder(model_copy)
    (model_copy / "vae.safetensors").unlink()
    with pytest.raises(ValueError, match=r"vae\.safetensors: the file is missing"):
        folder.load("vae")


@pytest.mark.parametrize(
    "where",
    [
        (),
        ("diffusion",),
        ("sampling",),
        ("parts", "vae"),
        ("parts", "vae", "config"),
        ("parts", "vae", "config", "mel"),
        ("parts", "unet", "trained_against"),
    ],
    ids=".".join,
)
def test_an_unknown_key_is_an_error_wherever_it_is(model_copy, where):
    data = read_config(model_copy)
    table = data
    for key in where:
        table = table[key]
    table["surprise"] = 1
    write_json(model_copy / "config.json", data)
    with pytest.raises(ValueError, match=r"config\.json.*surprise"):
        open_folder(model_copy)


@pytest.mark.parametrize("part", GENERATOR_PARTS)
@pytest.mark.parametrize("key", ["config", "sha256", "training_id", "trained_against"])
def test_a_key_that_is_not_there_is_an_error(model_copy, part, key):
    data = read_config(model_copy)
    del data["parts"][part][key]
    write_json(model_copy / "config.json", data)
    with pytest.raises(ValueError, match=f"{part}: missing or unknown keys: {key}"):
        open_folder(model_copy)


def test_an_unknown_part_is_an_error(model_copy):
    data = read_config(model_copy)
    data["parts"]["upsampler"] = data["parts"]["vae"]
    write_json(model_copy / "config.json", data)
    with pytest.raises(ValueError, match="unknown part upsampler; allowed: clap_audio"):
        open_folder(model_copy)


@pytest.mark.parametrize("number", [0, 2, "1", None])
def test_another_format_is_an_error(model_copy, number):
    write_json(model_copy / "config.json", {**read_config(model_copy), "format": number})
    with pytest.raises(ValueError, match="this version reads format 1"):
        open_folder(model_copy)


def test_whatever_config_json_holds_the_fault_is_a_value_error(model_copy):
    good = read_config(model_copy)
    wrong = (None, [], {}, "x", -1, 1.5, True)

    def variants(node, path=()):
        if path:
            yield from ((path, value) for value in wrong)
        if isinstance(node, dict) and len(path) < 4:
            for key in node:
                yield from variants(node[key], (*path, key))

    for path, value in variants(good):
        data = json.loads(json.dumps(good))
        table = data
        for key in path[:-1]:
            table = table[key]
        table[path[-1]] = value
        (model_copy / "config.json").write_text(json.dumps(data))
        with suppress(ValueError):  # a few are allowed values; any other error fails the test
            open_folder(model_copy)


def test_a_unet_beside_another_vae_is_refused(model_copy):
    folder = open_folder(model_copy)
    ids = {name: entry.training_id for name, entry in folder.parts.items()}
    new = save_again(model_copy, "vae", changed(folder.load("vae")))
    fault = f"unet was trained against vae {ids['vae']}, but this folder contains vae {new}"
    with pytest.raises(ValueError, match=fault):
        open_folder(model_copy)


def test_a_unet_beside_another_audio_tower_is_refused(model_copy):
    save_again(model_copy, "clap_audio", changed(open_folder(model_copy).load("clap_audio")))
    with pytest.raises(ValueError, match=r"trained against clap_audio"):
        open_folder(model_copy)


def test_a_vae_exchanged_by_hand_is_refused(model_copy, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(model_copy, other)
    with suppress(ValueError):
        save_again(other, "vae", changed(open_folder(other).load("vae")))
    shutil.copy(other / "vae.safetensors", model_copy)
    with pytest.raises(ValueError, match=r"vae\.safetensors: its sha256"):
        open_folder(model_copy).load("vae")
    data = read_config(model_copy)
    data["parts"]["vae"] = read_config(other)["parts"]["vae"]
    write_json(model_copy / "config.json", data)
    with pytest.raises(ValueError, match="unet was trained against vae"):
        open_folder(model_copy)


def test_a_text_tower_retrained_alone_stays_valid(model_copy):
    before = open_folder(model_copy)
    new = save_again(model_copy, "clap_text", changed(before.load("clap_text")))
    after = open_folder(model_copy)
    assert after.parts["clap_text"].training_id == new
    assert new != before.parts["clap_text"].training_id
    for name in GENERATOR_PARTS:
        after.load(name)


def test_weights_that_disagree_with_their_config_are_refused(model_copy):
    data = read_config(model_copy)
    data["parts"]["vocoder"]["config"]["channels"] *= 2
    write_json(model_copy / "config.json", data)
    with pytest.raises(ValueError, match=r"vocoder\.safetensors: does not match its config"):
        open_folder(model_copy).load("vocoder")


@pytest.mark.parametrize("fault", ["extra", "missing", "no tensors"])
def test_loading_is_strict(model_copy, fault):
    file = model_copy / "vocoder.safetensors"
    tensors = load_file(file)
    if fault == "extra":
        tensors["surprise"] = torch.zeros(1)
    else:
        tensors.popitem()
    save_file(tensors, file)
    if fault == "no tensors":
        file.write_bytes(b"not safetensors")
    data = read_config(model_copy)
    data["parts"]["vocoder"]["sha256"] = file_sha256(file)
    write_json(model_copy / "config.json", data)
    with pytest.raises(ValueError, match=r"vocoder\.safetensors: does not match its config"):
        open_folder(model_copy).load("vocoder")


def test_a_part_that_is_not_there_yet(model_copy):
    data = read_config(model_copy)
    del data["parts"]["vocoder"]
    write_json(model_copy / "config.json", data)
    folder = open_folder(model_copy)
    with pytest.raises(ValueError, match="has no vocoder yet"):
        folder.require("vae", "vocoder")
    with pytest.raises(ValueError, match="has no vocoder yet"):
        folder.load("vocoder")
    data["tokenizer_sha256"] = None
    write_json(model_copy / "config.json", data)
    with pytest.raises(ValueError, match=r"has no tokenizer\.json"):
        open_folder(model_copy).load_tokenizer()


def _full_disk(tensors, file) -> None:
    Path(file).write_bytes(b"half")
    raise SafetensorError("I/O error: No space left on device")


def _killed(tensors, file) -> None:
    Path(file).write_bytes(b"half")
    raise KeyboardInterrupt


def _fails(*_args) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("what", "fault", "error"),
    [
        ("save_file", _full_disk, ValueError),
        ("save_file", _killed, KeyboardInterrupt),
        ("to_json", _fails, ValueError),  # after the weights, before config.json
    ],
)
def test_a_save_that_fails_changes_nothing(model_copy, monkeypatch, what, fault, error):
    folder = open_folder(model_copy)
    text = changed(folder.load("clap_text"))
    before = contents(model_copy)
    monkeypatch.setattr(store, what, fault)
    with pytest.raises(error):
        save_again(model_copy, "clap_text", text, tokenizer=folder.load_tokenizer())
    assert contents(model_copy) == before
    monkeypatch.undo()
    for name in GENERATOR_PARTS:
        open_folder(model_copy).load(name)


def test_a_first_save_that_fails_leaves_an_empty_folder(tiny_model, tmp_path, monkeypatch):
    folder = open_folder(tiny_model)
    monkeypatch.setattr(store, "save_file", _full_disk)
    with pytest.raises(ValueError, match="No space left"):
        save_part(tmp_path / "new", "vae", folder.load("vae"), folder.parts["vae"].config)
    assert contents(tmp_path / "new") == {}


def test_a_config_that_cannot_be_read_is_not_written_over(model_copy):
    folder = open_folder(model_copy)
    vae, config = folder.load("vae"), folder.parts["vae"].config
    for text in ("{", '{"format": 2}'):
        (model_copy / "config.json").write_text(text)
        before = contents(model_copy)
        with pytest.raises(ValueError, match=r"config\.json"):
            save_part(model_copy, "vae", vae, config)
        assert contents(model_copy) == before


def test_weights_can_be_read_by_whom_every_file_can(tiny_model):
    modes = {(tiny_model / file).stat().st_mode for file in FILES}
    assert len(modes) == 1


def test_dependencies_must_be_named(tiny_model, tmp_path):
    folder = open_folder(tiny_model)
    with pytest.raises(AssertionError):
        save_part(tmp_path / "new", "unet", folder.load("unet"), folder.parts["unet"].config)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"clap_text": ClapTextConfig(embed_dim=8, width=8, heads=2)}, "clap_audio.embed_dim"),
        ({"unet": UNetConfig(embed_dim=64)}, "unet.embed_dim is 64, clap_audio.embed_dim is 512"),
        ({"unet": UNetConfig(in_channels=4)}, "unet.in_channels is 4, vae.latent_channels is 8"),
        ({"vae": VAEConfig(mel=MelConfig(fmin=50.0))}, "vocoder.mel is"),
        (
            {"vae": VAEConfig(multipliers=(1,) * 5, strides=((1, 1), *[(2, 2)] * 4))},
            "unet.strides: 8 in frequency does not divide the latent's 4 rows",
        ),
    ],
)
def test_settings_that_contradict_each_other(changes, fault):
    ModelConfig()  # the defaults agree
    with pytest.raises(ValueError, match=fault):
        ModelConfig(**changes)


def test_parts_that_contradict_each_other_are_refused_in_a_folder(model_copy):
    data = read_config(model_copy)
    data["parts"]["vocoder"]["config"]["mel"]["fmin"] = 50.0
    write_json(model_copy / "config.json", data)
    with pytest.raises(ValueError, match=r"vocoder\.mel is .* vae\.mel is"):
        open_folder(model_copy)


def test_a_model_config_builds_its_parts():
    config = ModelConfig(
        clap_audio=ClapAudioConfig(embed_dim=16, width=8, depths=(1,)),
        clap_text=ClapTextConfig(embed_dim=16, vocab_size=16, width=8, layers=1, heads=2),
        vae=VAEConfig(channels=8, norm_groups=4),
        unet=UNetConfig(channels=8, embed_dim=16, norm_groups=4),
        vocoder=MelGANConfig(channels=32),
    )
    for name, settings in ((n, PARTS[n].config) for n in GENERATOR_PARTS):
        assert isinstance(getattr(config, name), settings)
        assert config.build(name).config is getattr(config, name)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"guidance": -1.0}, {"seconds": 0.0}, {"window": 0.0}]
)
def test_sampling_defaults_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        store.SamplingConfig(**wrong)


def test_a_tokenizer_that_is_too_large_for_its_tower(model_copy):
    """Strict to the end: parts that fit the config but not each other."""
    from soundcrafter.pipeline import SoundCrafter

    words = [f"word{i} sound{i * 7} noise{i * 13}" for i in range(400)]
    tokenizer = Tokenizer.train(words, 400)
    save_again(
        model_copy, "clap_text", open_folder(model_copy).load("clap_text"), tokenizer=tokenizer
    )
    with pytest.raises(ValueError, match="vocab_size"):
        SoundCrafter.from_pretrained(model_copy, "cpu")
