"""Fine-tuning a model that is there, whole or by an adapter beside it (LoRA)."""

import copy
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from soundcrafter.cli import main
from soundcrafter.config import GENERATOR_PARTS
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.files import read_json, write_json
from soundcrafter.models.lora import Adapter, AdapterConfig
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.store import open_folder, save_part
from soundcrafter.train import Recipe, RunOptions, read_recipe, train
from soundcrafter.train.diffusion import DiffusionStage, denoising
from soundcrafter.train.lora import AdapterStage

FINETUNE = "recipes/finetune.toml"
FAST = (
    "diffusion.steps=30",
    "diffusion.batch_size=4",
    "diffusion.seconds=0.64",
    "diffusion.precision='fp32'",
    "diffusion.warmup_steps=0",
)
LORA = (*FAST, "diffusion.learning_rate=0.01")


def recipe(model: Path, *overrides: str) -> Recipe:
    return read_recipe(FINETUNE, overrides, open_folder(model))


def tuned(model: Path, out: Path, data: Path, *overrides: str, **options: Any) -> list[Any]:
    """Train from a model; the entries that were logged."""
    entries: list[Any] = []
    lora = options.pop("lora", None)
    settings = RunOptions(device="cpu", log_steps=1, **options)
    train(
        "diffusion",
        FINETUNE,  # which has no [model]: it is that of `init`
        data=data,
        out=out,
        options=settings,
        init=model,
        lora=lora,
        report=lambda entry: entries.append(dict(entry)),
        overrides=overrides,
    )
    return entries


@torch.no_grad()
def loss(model: Path, data: Path, adapters: Mapping[str, float] | None = None) -> float:
    """Of a model on the same batches, noises and times, whichever model it is."""
    crafter = SoundCrafter.from_pretrained(model, "cpu", adapters)
    settings = recipe(model, *FAST, "diffusion.seed=99", "diffusion.drop_condition=0")
    stage = DiffusionStage(settings, data, model)
    batches = [stage.load_batch(range(i, i + 4)) for i in range(0, 64, 4)]
    prepared = [stage.prepare(batch, torch.device("cpu")) for batch in batches]
    schedule = Schedule(settings.model.diffusion)
    losses = [denoising(crafter.unet, schedule, batch)["denoising"] for batch in prepared]
    return float(torch.stack(losses).mean())


@pytest.fixture(scope="module")
def base(tiny_model: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after some more steps, without which its last layer is about zero and hides
    what an adapter does. Read only."""
    out = tmp_path_factory.mktemp("base") / "model"
    tuned(tiny_model, out, clips, *LORA, "diffusion.steps=60")
    return out


@pytest.fixture(scope="module")
def bark(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of the clips alone."""
    table = tmp_path_factory.mktemp("bark") / "bark.csv"
    clip = (clips / "audio" / "antum_mod_sounds_0090.ogg").resolve()
    table.write_text(f"file,caption\n{clip},A dog barks\n", encoding="utf-8")
    return table


@pytest.fixture(scope="module")
def adapter(base: Path, bark: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter beside the base. Read only."""
    out = tmp_path_factory.mktemp("lora") / "adapter"
    quickly = ("diffusion.steps=40", "diffusion.learning_rate=0.03", "diffusion.ema_decay=0")
    tuned(base, out, bark, *FAST, *quickly, lora=4)
    return out


def test_an_adapter_lowers_the_loss_and_is_all_that_is_saved(
    base: Path, bark: Path, adapter: Path
) -> None:
    before = loss(base, bark)
    assert loss(base, bark, {str(adapter): 1.0}) < 0.997 * before
    assert loss(base, bark, {str(adapter): 0.0}) == before
    names = {file.name for file in adapter.iterdir()}
    assert names == {"adapter.safetensors", "config.json", "training"}
    unet = open_folder(base).parts["unet"].training_id
    assert open_folder(adapter).parts["adapter"].trained_against == {"unet": unet}
    (checkpoint, *_) = sorted((adapter / "training" / "lora" / "checkpoints").iterdir())
    assert all("changes" in name for name in load_file(checkpoint / "weights.safetensors"))


def test_the_round_trip_is_exact(base: Path, adapter: Path) -> None:
    loaded = open_folder(adapter).load("adapter").state_dict()
    stored = load_file(adapter / "adapter.safetensors")
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)
    waves = [
        SoundCrafter.from_pretrained(base, "cpu", {str(adapter): 1.0})
        .generate("rain", seconds=0.3)[0]
        .wave
        for _ in range(2)
    ]
    assert np.array_equal(*waves)


def test_it_resumes_with_the_losses_of_an_uninterrupted_run(
    tiny_model: Path, clips: Path, tmp_path: Path
) -> None:
    short = (*LORA, "diffusion.steps=4")
    whole = tuned(tiny_model, tmp_path / "whole", clips, *short, lora=2)

    class Stopped(Exception):
        pass

    def stop(entry: Mapping[str, Any]) -> None:
        if entry["step"] == 3:
            raise Stopped

    with pytest.raises(Stopped):
        train(
            "diffusion",
            recipe(tiny_model, *short),
            data=clips,
            out=tmp_path / "parts",
            options=RunOptions(device="cpu", log_steps=1, checkpoint_steps=2),
            init=tiny_model,
            lora=2,
            report=stop,
        )
    rest = tuned(tiny_model, tmp_path / "parts", clips, *short, lora=2)
    assert [entry["step"] for entry in rest] == [3, 4]
    assert [e["denoising"] for e in rest] == pytest.approx([e["denoising"] for e in whole[2:]])
    with pytest.raises(
        ValueError, match=r"different settings \(adapter.rank is 2 in that run, 3 now\)"
    ):
        tuned(tiny_model, tmp_path / "parts", clips, *short, lora=3)


def test_whole_fine_tuning_makes_a_whole_model(
    tiny_model: Path, clips: Path, encoded: Path, tmp_path: Path
) -> None:
    before = loss(tiny_model, clips)
    tuned(tiny_model, tmp_path / "new", clips, *FAST, "diffusion.learning_rate=0.003")
    assert loss(tmp_path / "new", clips) < 0.97 * before
    for name in ("clap_audio", "clap_text", "vae", "vocoder"):
        file = f"{name}.safetensors"
        assert (tmp_path / "new" / file).read_bytes() == (tiny_model / file).read_bytes()
    trained = SoundCrafter.from_pretrained(tmp_path / "new", "cpu")
    assert len(trained.generate("rain", seconds=0.3)[0].wave) == 4800
    # a copy of a copy: nothing is copied over what is there
    tuned(tmp_path / "new", tmp_path / "new", clips, *FAST, "diffusion.learning_rate=0.003")


def test_encoded_data_do_too(tiny_model: Path, encoded: Path, tmp_path: Path) -> None:
    like_it = ("data.balance='label'", "data.variants=2", "diffusion.condition='mixed'")
    for lora in (2, None):
        short = (*LORA, *like_it, "diffusion.steps=2")
        assert len(tuned(tiny_model, tmp_path / str(lora), encoded, *short, lora=lora)) == 2


def test_a_model_without_audio_tower_learns_from_words(
    model_copy: Path, clips: Path, tmp_path: Path
) -> None:
    config = read_json(model_copy / "config.json")
    del config["parts"]["clap_audio"]
    for part in ("clap_text", "unet"):
        config["parts"][part]["trained_against"]["clap_audio"] = ""
    write_json(model_copy / "config.json", config)
    short = (*LORA, "diffusion.steps=2")
    tuned(model_copy, tmp_path / "new", clips, *short)
    assert "clap_audio" not in open_folder(tmp_path / "new").parts
    assert SoundCrafter.from_pretrained(tmp_path / "new", "cpu").generate("rain", seconds=0.3)
    tuned(model_copy, tmp_path / "adapter", clips, *short, lora=2)
    with pytest.raises(ValueError, match="this model has no clap_audio yet"):
        tuned(model_copy, tmp_path / "other", clips, *short, "diffusion.condition='mixed'")


def test_a_bare_folder_of_sounds_takes_one_caption(
    tiny_model: Path, clips: Path, tmp_path: Path
) -> None:
    shutil.copytree(clips / "audio", tmp_path / "bare")
    short = (*LORA, "diffusion.steps=2", "data.cache_gb=0")
    with pytest.raises(ValueError, match="captions need one"):
        tuned(tiny_model, tmp_path / "refused", tmp_path / "bare", *short, lora=2)
    said = "data.caption='a door creaks'"
    tuned(tiny_model, tmp_path / "door", tmp_path / "bare", *short, said, lora=2)


def test_wrong_adapters_are_refused(model_copy: Path, adapter: Path, tmp_path: Path) -> None:
    config = read_json(model_copy / "config.json")
    config["parts"]["unet"]["training_id"] = "0123456789abcdef"
    write_json(model_copy / "config.json", config)
    with pytest.raises(ValueError, match=r"was trained for U-Net .* has U-Net 0123456789abcdef"):
        SoundCrafter.from_pretrained(model_copy, "cpu", {str(adapter): 1.0})
    with pytest.raises(ValueError, match="no such model folder"):
        SoundCrafter.from_pretrained(adapters={str(tmp_path / "none"): 1.0})
    with pytest.raises(ValueError, match="has no adapter yet"):
        SoundCrafter.from_pretrained(adapters={str(model_copy): 1.0})
    with pytest.raises(ValueError, match="adapter weight: got nan"):
        SoundCrafter.from_pretrained(adapters={str(adapter): float("nan")})


def test_an_adapter_gets_a_folder_of_its_own(model_copy: Path, clips: Path, adapter: Path) -> None:
    before = {file.name: file.read_bytes() for file in model_copy.iterdir()}
    with pytest.raises(ValueError, match=r"contains clap_audio.*; choose a different"):
        tuned(model_copy, model_copy, clips, *LORA, lora=2)
    assert {file.name: file.read_bytes() for file in model_copy.iterdir()} == before
    assert open_folder(adapter).sampling == open_folder(model_copy).sampling


def test_an_adapter_is_trained_as_its_model_was(
    tiny_model: Path, clips: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="the settings of diffusion differ from the recipe's"):
        tuned(tiny_model, tmp_path, clips, *LORA, "model.diffusion.objective=v", lora=2)


def test_listening_leaves_the_average_where_it_is(tiny_model: Path, clips: Path) -> None:
    stage = AdapterStage(recipe(tiny_model, *LORA), clips, tiny_model, 2)
    network = copy.deepcopy(stage.network).to("meta")  # stands for a GPU
    assert all(parameter.is_meta for parameter in stage.averaged_unet(network).parameters())
    assert all(parameter.is_meta for parameter in network.parameters())
    waves = stage.samples(stage.network, torch.device("cpu")).waves
    assert len(waves) == 4


def test_what_cannot_be_fine_tuned_leaves_nothing(
    model_copy: Path, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new"
    with pytest.raises(ValueError, match="no such file or folder"):
        tuned(model_copy, out, tmp_path / "none", *FAST)
    assert not out.exists()
    with open(model_copy / "vocoder.safetensors", "ab") as stream:
        stream.write(b"damage")
    with pytest.raises(ValueError, match="damaged or was replaced"):
        tuned(model_copy, out, clips, *FAST)
    assert not out.exists()


def test_an_adapter_in_the_models_folder_stays_there(
    model_copy: Path, clips: Path, tmp_path: Path
) -> None:
    unet = open_folder(model_copy).parts["unet"]
    config = AdapterConfig(unet=unet.config)
    against = {"unet": unet.training_id}
    save_part(model_copy, "adapter", Adapter(config), config, trained_against=against)
    tuned(model_copy, tmp_path / "new", clips, *FAST, "diffusion.steps=2")
    assert set(open_folder(tmp_path / "new").parts) == set(GENERATOR_PARTS)


def test_a_model_tells_its_adapters(base: Path, adapter: Path) -> None:
    crafter = SoundCrafter.from_pretrained(base, "cpu", {str(adapter): 0.75})
    name = f"adapter {open_folder(adapter).parts['adapter'].training_id}"
    ids = {part: entry.training_id for part, entry in open_folder(base).parts.items()}
    assert crafter.training_ids == {**ids, name: "0.75"}
    assert crafter.to("cpu").training_ids == {**ids, name: "0.75"}


def test_adapters_are_weighted_anew_and_removed(base: Path, adapter: Path, tmp_path: Path) -> None:
    def wave(crafter: SoundCrafter) -> np.ndarray:
        return crafter.generate("a dog barks", seconds=0.5, steps=2)[0].wave

    plain = SoundCrafter.from_pretrained(base, "cpu")
    wanted = SoundCrafter.from_pretrained(base, "cpu", {str(adapter): 0.5})
    before = wave(plain)
    plain.set_adapters({str(adapter): 2.0})
    assert not np.array_equal(wave(plain), before)
    plain.set_adapters({str(adapter): 0.5})
    assert np.array_equal(wave(plain), wave(wanted))
    with pytest.raises(ValueError, match="no such model folder"):
        plain.set_adapters({str(tmp_path / "none"): 1.0})
    assert plain.adapters == {str(adapter): 0.5}
    merged = SoundCrafter.from_pretrained(plain.save_pretrained(tmp_path / "merged"), "cpu")
    assert np.array_equal(wave(merged), wave(wanted))
    assert merged.training_ids["unet"] != plain.training_ids["unet"]
    plain.set_adapters({})
    assert np.array_equal(wave(plain), before)


def test_the_command_line(run: Callable[..., Any], base: Path, clips: Path, tmp_path: Path) -> None:
    sets = [word for override in (*LORA, "diffusion.steps=2") for word in ("--set", override)]
    make = ["train", "diffusion", "--recipe", FINETUNE, "--data", clips, *sets]
    made = run(*make, "--init", base, "--lora", 2, "--out", tmp_path / "dogs")
    assert made[0] == 0, made
    code, said, _ = run("info", tmp_path / "dogs", "--json")
    assert (code, list(json.loads(said)["parameters"])) == (0, ["adapter"])

    def sound(*adapters: object) -> list[float]:
        file = tmp_path / "a.wav"
        wanted = ["generate", "rain", "--seconds", 0.3, "--model", base, "-o", file]
        assert run(*wanted, *(word for a in adapters for word in ("--adapter", a)))[0] == 0
        return list(soundfile.read(file)[0])

    half = sound(f"{tmp_path / 'dogs'}:0.5")
    assert half != sound()
    assert sound(f"{tmp_path / 'dogs'}:0") == sound()
    assert sound(*[f"{tmp_path / 'dogs'}:0.25"] * 2) == half
    refused = {
        "lora: requires the stage diffusion": [*make, "--lora", 2, "--out", tmp_path / "x"],
        "rank: got 0": [*make, "--init", base, "--lora", 0, "--out", tmp_path / "x"],
        "fsdp: supported only when training the U-Net": [
            *(*make, "--init", base, "--lora", 2, "--out", tmp_path / "x", "--fsdp"),
        ],
        "write FOLDER or FOLDER:WEIGHT": ["generate", "rain", "--adapter", "dogs:loud"],
    }
    for reason, command in refused.items():
        code, _, said = run(*command)
        assert (code, said.count("\n")) == (2, 1)
        assert reason in said
    assert not (tmp_path / "x").exists()


def test_data_is_encoded_for_fine_tuning_without_a_model_in_the_recipe(
    tiny_model, clips, tmp_path, monkeypatch
):
    """The settings of VAE and CLAP are the model's."""
    more = ["--set", "data.variants=1", "--set", "diffusion.seconds=0.64", "--device", "cpu"]

    def run(*line: str) -> int:
        monkeypatch.setattr(sys, "argv", ["soundcrafter", *line, "--recipe", FINETUNE, *more])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    out = ["--out", str(tmp_path / "encoded"), "--data", str(clips)]
    assert run("data", "encode", "--model", str(tiny_model), *out) == 0
    tune = ["--data", str(tmp_path / "encoded"), "--out", str(tmp_path / "m"), "--set"]
    tuned = run("train", "diffusion", "--init", str(tiny_model), *tune, "diffusion.steps=1")
    assert tuned == 0
    assert (tmp_path / "m" / "unet.safetensors").is_file()
