"""The four stages: what they export, and that their samples depend on nothing but their index."""

import copy
import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from soundcrafter.models.tagger import Tagger, TaggerConfig
from soundcrafter.models.vae import VAE
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.store import open_folder, save_part
from soundcrafter.text import Tokenizer
from soundcrafter.train import GENERATOR_STAGES, build_stage
from soundcrafter.train.checkpoint import list_checkpoints, load_checkpoint, run_folder
from soundcrafter.train.clap import ClapStage, same_sound, sound_names
from soundcrafter.train.encode import encode_data

PARTS = {
    "clap": ("clap_audio", "clap_text"),
    "vae": ("vae",),
    "vocoder": ("vocoder",),
    "diffusion": ("unet",),
}
SOURCES = [*GENERATOR_STAGES, "encoded"]


@pytest.fixture
def make_stage(make_recipe, clips, encoded, tiny_model):
    """make_stage(name or "encoded", *overrides) over the clips, or their latents."""

    def make(source, *overrides):
        data = encoded if source == "encoded" else clips
        name = "diffusion" if source == "encoded" else source
        return build_stage(name, make_recipe(*overrides), data, tiny_model)

    return make


@pytest.mark.parametrize("stage", GENERATOR_STAGES)
def test_each_stage_exports_parts_that_load(stage, tiny_model, make_recipe):
    model, folder = make_recipe().model, open_folder(tiny_model)
    for part in PARTS[stage]:
        entry, network = folder.parts[part], folder.load(part)
        assert entry.config == getattr(model, part)
        assert {p.dtype for p in network.parameters()} == {torch.float32}
        assert all(bool(p.isfinite().all()) for p in network.parameters())
    if stage == "clap":
        assert folder.load_tokenizer().vocab_size <= model.clap_text.vocab_size
    if stage == "diffusion":
        assert dict(folder.parts["unet"].trained_against) == {
            part: folder.parts[part].training_id for part in ("vae", "clap_audio")
        }
        assert (folder.diffusion, folder.sampling) == (model.diffusion, model.sampling)


def test_diffusion_trains_from_encoded_data_alone(encoded, tiny_model, tmp_path, go):
    entries = go("diffusion", tmp_path, "diffusion.steps=2", data=encoded)
    assert [entry["step"] for entry in entries] == [1, 2]
    made, parts = open_folder(tmp_path), open_folder(tiny_model).parts
    assert set(made.parts) == {"unet"}
    made.load("unet")
    assert made.parts["unet"].trained_against["vae"] == parts["vae"].training_id


def test_encoded_training_equals_training_on_the_fly(encoded, clips, model_copy, tmp_path, go):
    # a U-Net starts by predicting zero: a high rate, so that latents and conditions matter soon
    settings = ("diffusion.steps=6", "diffusion.learning_rate=0.01")
    live = go("diffusion", model_copy, *settings, data=clips)
    stored = go("diffusion", tmp_path / "stored", *settings, data=encoded)
    assert [entry["loss"] for entry in stored] == pytest.approx(
        [entry["loss"] for entry in live], rel=1e-5
    )
    assert len({round(entry["loss"], 5) for entry in live}) == 6  # six different batches


def test_encoded_data_beside_another_vae_is_refused(encoded, tmp_path, go):
    go("vae", tmp_path, "vae.steps=1", "vae.seed=5")
    with pytest.raises(ValueError, match="was trained against vae"):
        go("diffusion", tmp_path, data=encoded)


def test_text_condition_needs_encoded_captions(make_recipe, clips, tiny_model, tmp_path, go):
    recipe = make_recipe("diffusion.condition=audio")
    encode_data(recipe, clips, tiny_model, tmp_path / "bare", device="cpu")
    with pytest.raises(ValueError, match="without captions"):
        go("diffusion", tmp_path / "out", data=tmp_path / "bare")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("diffusion.seconds=0.96", "samples of a segment is 10240, not 15360"),
        ("data.variants=3", "data.variants is 2, not 3"),
        ("data.balance=none", "data.balance is label, not none"),
        ("data.split=test", "data.split is train, not test"),
        ("data.label_column=kind", "data.label_column is label, not kind"),
    ],
)
def test_encoded_data_of_other_settings_is_refused(override, message, make_stage):
    make_stage("encoded", "data.cache_gb=1.0")  # memory decides nothing
    with pytest.raises(ValueError, match=message):
        make_stage("encoded", override)


def test_latents_of_another_shape_are_refused(make_recipe, encoded, tmp_path):
    overrides = ("model.vae.latent_channels=2", "model.unet.in_channels=2")
    with pytest.raises(ValueError, match=r"latent shape is \(4, 16, 16\), not \(2, 16, 16\)"):
        build_stage("diffusion", make_recipe(*overrides), encoded, tmp_path)


def test_data_encoded_anew_with_other_settings_does_not_resume(
    make_recipe, clips, encoded, tiny_model, tmp_path, go
):
    other = tmp_path / "encoded"  # as many latents, drawn by another seed
    encode_data(make_recipe("diffusion.seed=8"), clips, tiny_model, other, device="cpu")
    go("diffusion", tmp_path / "out", "diffusion.steps=2", data=encoded, max_minutes=1e-9)
    with pytest.raises(ValueError, match=r"different settings \(data\.sha256"):
        go("diffusion", tmp_path / "out", "diffusion.steps=2", data=other)


@pytest.mark.parametrize("source", ["diffusion", "encoded"])
def test_skipped_files_are_told(source, make_recipe, clips, tiny_model, tmp_path):
    data, recipe = Path(shutil.copytree(clips, tmp_path / "clips")), make_recipe()
    gone, broken, *_ = sorted((data / "audio").iterdir())
    gone.unlink()
    broken.write_bytes(b"broken")
    if source == "encoded":
        data = encode_data(recipe, data, tiny_model, tmp_path / "encoded", device="cpu").parent
    stage = build_stage("diffusion", recipe, data, tiny_model)
    stage.load_batch(range(32))
    assert set(stage.skipped()) == {f"audio/{file.name}" for file in (gone, broken)}
    assert all(stage.skipped().values())


@pytest.mark.parametrize("source", ["diffusion", "encoded"])
def test_samples_are_seen_and_heard(source, make_stage, tiny_model):
    stage = make_stage(source)
    samples = stage.samples(stage.network, torch.device("cpu"))
    names = [f"{i}/generated" for i in range(4)]
    assert list(samples.mels) == list(samples.waves) == names
    assert samples.sample_rate == 16_000
    mels = torch.stack([torch.from_numpy(samples.mels[name]) for name in names])[:, None]
    assert mels.shape == (4, 1, 64, 64)
    with torch.no_grad():
        waves = open_folder(tiny_model).load("vocoder")(mels)
    for name, wave in zip(names, waves, strict=True):
        assert torch.allclose(torch.from_numpy(samples.waves[name]), wave, atol=1e-6)


AUDIOLDM_LIKE = (
    *("model.sampling.spacing='leading'", "model.sampling.end='first_step'"),
    *("model.sampling.guidance_from=0.2", "model.sampling.guidance_until=0.8"),
)


@pytest.mark.parametrize(
    "overrides",
    [
        AUDIOLDM_LIKE,
        ("model.sampling.sampler='dpmpp'", "model.sampling.reuse=2"),
        ("model.sampling.window=0.32",),
    ],
    ids=["end and interval", "reuse", "windows"],
)
@pytest.mark.parametrize("source", ["diffusion", "encoded"])
def test_a_preview_is_what_generate_makes_of_its_noise_and_condition(
    make_recipe, clips, encoded, model_copy, monkeypatch, source, overrides
):
    sampling = ("model.sampling.steps=6", "model.sampling.negative='rain'", *overrides)
    data = encoded if source == "encoded" else clips
    stage = build_stage("diffusion", make_recipe(*sampling), data, model_copy)
    network, generator = stage.network.eval(), torch.Generator().manual_seed(0)
    for parameter in network.parameters():  # a new U-Net predicts zero
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5, generator=generator)
    latents, decode = [], VAE.decode
    monkeypatch.setattr(VAE, "decode", lambda vae, x: latents.append(x) or decode(vae, x))
    assert stage.samples(network, torch.device("cpu")).mels
    stage.export(network, model_copy)
    crafter = SoundCrafter.from_pretrained(model_copy, "cpu", precision="fp32")
    assert crafter.sampling == stage.model_config.sampling
    first = stage.prepare(stage.load_batch(range(4)), torch.device("cpu"))
    embed = crafter.clap.embed_text

    def condition(texts):
        return embed(texts) if texts == ["rain"] else first["cond"][[int(text) for text in texts]]

    monkeypatch.setattr(crafter.clap, "embed_text", condition)
    for i in range(4):
        crafter.generate(str(i), seed=i, seconds=0.64, noise=first["noise"][[i]])
    shown, *made = latents
    assert (shown - torch.cat(made)).abs().max() < 1e-5 * shown.abs().max()


@pytest.mark.parametrize("sampler", ["ddpm", "lcm"])
def test_samplers_that_add_noise_can_be_trained_with(make_stage, sampler):
    def mels():
        stage = make_stage("encoded", f"model.sampling.sampler='{sampler}'")
        return stage.samples(stage.network, torch.device("cpu")).mels

    first, again = mels(), mels()
    assert len(first) == 4
    assert all((first[name] == again[name]).all() for name in first)


def test_samples_show_what_the_folder_allows(make_recipe, encoded, tiny_model, tmp_path):
    def show(folder):
        stage = build_stage("diffusion", make_recipe(), encoded, folder)
        return stage.samples(stage.network, torch.device("cpu"))

    bare = show(tmp_path / "empty")
    assert not bare.mels
    assert not bare.waves
    vae = open_folder(tiny_model).load("vae")
    save_part(tmp_path / "vae", "vae", vae, vae.config)
    assert len(show(tmp_path / "vae").mels) == 4
    assert not show(tmp_path / "vae").waves
    stage = build_stage("diffusion", make_recipe(), encoded, tmp_path / "later")
    with torch.no_grad():
        vae.decoder.conv_out.bias += 1
    save_part(tmp_path / "later", "vae", vae, vae.config)  # another one, made meanwhile
    assert not stage.samples(stage.network, torch.device("cpu")).mels


def test_parts_of_other_settings_are_refused(model_copy, go):
    with pytest.raises(ValueError, match="the settings of vae differ"):
        go("diffusion", model_copy, "model.vae.mel_std=2.0")


@pytest.mark.parametrize("source", SOURCES)
def test_a_sample_is_a_function_of_its_index_alone(source, make_stage):
    first, second = make_stage(source), make_stage(source)
    together = first.load_batch([9, 2, 17])
    again = second.load_batch([2, 9])
    _assert_rows_equal(together, again, {0: 1, 1: 0})
    _assert_rows_equal(second.load_batch([17]), together, {0: 2})


@pytest.mark.parametrize("source", SOURCES)
def test_another_seed_draws_other_samples(source, make_stage):
    section = "diffusion" if source == "encoded" else source
    indices = list(range(4))
    one = make_stage(source).load_batch(indices)
    other = make_stage(source, f"{section}.seed=1").load_batch(indices)
    names = {"wave", "noise", "posterior_noise", "u", "mean"} & set(one)
    assert names
    for name in names:
        assert not torch.equal(one[name], other[name]), name


def _assert_rows_equal(one, other, rows):
    assert set(one) == set(other)
    for here, there in rows.items():
        for name in one:
            if name == "phase":  # of the whole batch
                assert one[name] == other[name]
                continue
            left, right = one[name][here], other[name][there]
            if name in ("tokens", "mask"):  # padded to the longest caption of the batch
                left, right = left[: one["mask"][here].sum()], right[: other["mask"][there].sum()]
            same = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
            assert same, name


def test_conditions_are_dropped_and_mixed_at_their_rates(make_stage):
    stage = make_stage("encoded", "diffusion.drop_condition=0.25", "diffusion.text_probability=0.6")
    batch = stage.load_batch(range(2000))
    assert float(batch["drop"].float().mean()) == pytest.approx(0.25, abs=0.04)
    assert float(batch["use_text"].float().mean()) == pytest.approx(0.6, abs=0.04)
    times = batch["u"].reshape(-1, 4).sort().values  # equally spaced within each batch of 4
    assert torch.allclose(times.diff(), torch.tensor(0.25), atol=1e-5)
    assert float(batch["u"].mean()) == pytest.approx(0.5, abs=0.02)


def test_equal_captions_are_marked(make_stage):
    stage = make_stage("clap")
    batch = stage.load_batch(range(24))  # of 6 recordings
    files = [names[0] for names in batch["files"]]
    assert same_sound(batch["names"]).tolist() == [[a == b for b in files] for a in files]


def test_exported_vae_scales_its_latents_to_one(make_stage, tiny_model):
    stage, vae = make_stage("vae"), open_folder(tiny_model).load("vae")
    size = stage.config.batch_size
    batches = [
        stage.prepare(stage.load_batch(range(i * size, (i + 1) * size)), torch.device("cpu"))
        for i in range(stage.config.scale_batches)
    ]
    with torch.no_grad():
        latents = torch.cat([vae.encode(batch["mel"], batch["noise"]) for batch in batches])
    assert float(latents.std()) == pytest.approx(1.0, rel=0.02)
    assert float(vae.latent_scale) != 1.0
    assert float(stage.network.latent_scale) == 1.0  # training itself works unscaled


def test_the_latent_scale_is_measured_at_the_first_and_the_last_export(go, tmp_path):
    scales = []

    def look(entry):
        if entry["step"] > 1:  # what was exported after the step before
            scales.append(float(open_folder(tmp_path).load("vae").latent_scale))

    go("vae", tmp_path, "vae.steps=4", checkpoint_steps=1, report=look)
    assert len(scales) == 3
    assert len({1.0, *scales}) == 2  # measured, and kept
    assert float(open_folder(tmp_path).load("vae").latent_scale) != scales[0]


def test_exported_vocoder_is_folded_and_sounds_the_same(make_stage, tiny_model):
    exported, stage = open_folder(tiny_model).load("vocoder"), make_stage("vocoder")
    assert not [key for key in exported.state_dict() if "parametrizations" in key]
    tensors, _ = load_checkpoint(list_checkpoints(run_folder(tiny_model, "vocoder"))[-1])
    assert [key for key in tensors["ema"] if "parametrizations" in key]
    stage.network.load_state_dict(tensors["ema"])
    mel = stage.prepare(stage.load_batch([0]), torch.device("cpu"))["mel"]
    with torch.no_grad():
        expected = stage.network(mel)
        assert float((exported(mel) - expected).norm() / expected.norm()) <= 1e-6


def test_exporting_leaves_the_network_able_to_go_on(make_stage, tmp_path):
    stage = make_stage("vocoder")
    average = copy.deepcopy(stage.network)
    mel = stage.prepare(stage.load_batch([0]), torch.device("cpu"))["mel"]
    expected = stage.network(mel)
    for _ in range(2):
        stage.export(average, tmp_path)
    assert torch.equal(stage.network(mel), expected)
    assert torch.equal(average(mel), expected)


@pytest.mark.parametrize("name", GENERATOR_STAGES)
def test_initialise_takes_the_weights_of_a_model(name, make_stage, tiny_model, tmp_path):
    folder, stage = open_folder(tiny_model), make_stage(name, f"{name}.seed=9")
    stage.initialise(tiny_model)
    if name == "vocoder":
        stage.export(stage.network, tmp_path)
        folded = open_folder(tmp_path).load("vocoder")
        wanted = folder.load("vocoder").state_dict()
        for key, value in folded.state_dict().items():
            assert torch.allclose(value, wanted[key], rtol=1e-6, atol=1e-8), key
        return
    networks = (
        [("clap_audio", stage.network.audio), ("clap_text", stage.network.text)]
        if name == "clap"
        else [(PARTS[name][0], stage.network)]
    )
    for part, network in networks:
        wanted = folder.load(part).state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("stage", "override"),
    [
        ("clap", "model.clap_audio.width=16"),
        ("clap", "model.clap_text.width=32"),
        ("vae", "model.vae.channels=16"),
        ("vocoder", "model.vocoder.channels=32"),
        ("diffusion", "model.unet.channels=16"),
    ],
)
def test_init_from_a_model_of_another_size_is_refused(stage, override, tiny_model, make_stage):
    with pytest.raises(ValueError, match="does not fit the recipe"):
        make_stage(stage, override).initialise(tiny_model)


def test_init_keeps_the_models_tokenizer_through_a_resume(tiny_model, tmp_path, go, clips):
    data, steps = tmp_path / "zebras.csv", "clap.steps=3"
    files = sorted((clips / "audio").iterdir())
    rows = [f"{file},zebra quagga {n},zebra {n}" for n, file in enumerate(files)]
    data.write_text("\n".join(["file,caption,label", *rows]) + "\n")
    whole = go("clap", tmp_path / "whole", steps, data=data, init=tiny_model)
    go("clap", tmp_path / "parts", steps, data=data, init=tiny_model, max_minutes=1e-9)
    rest = go("clap", tmp_path / "parts", steps, data=data, init=tiny_model)
    assert [entry["step"] for entry in rest] == [2, 3]
    assert [e["loss"] for e in rest] == pytest.approx([e["loss"] for e in whole[1:]], rel=1e-6)
    wanted = Tokenizer.load(tiny_model / "tokenizer.json").to_json()
    assert open_folder(tmp_path / "parts").load_tokenizer().to_json() == wanted
    go("clap", tmp_path / "own", steps, data=data)  # without init these captions give another one
    assert open_folder(tmp_path / "own").load_tokenizer().to_json() != wanted


def test_unlabelled_audio_trains_what_needs_no_caption(clips: Path, tmp_path, go):
    for stage in ("vae", "vocoder"):
        go(stage, tmp_path, f"{stage}.steps=1", data=clips / "audio", sample_steps=1)
    with pytest.raises(ValueError, match="caption"):
        go("clap", tmp_path, data=clips / "audio")


def test_a_label_stands_for_every_caption_of_its_kind():
    names = sound_names(
        ["A dog barks", "dog", "the dog barks!", "Rain", "rain falls"],
        ["dog", "dog", "wolf", None, "rain"],
    )
    same = same_sound(names)
    pairs = {(i, j) for i in range(5) for j in range(i) if same[i, j]}
    assert pairs == {(1, 0), (2, 0), (4, 3)}
    assert torch.equal(same, same.T)
    assert same.diagonal().all()


def test_recordings_of_one_label_are_no_negatives():
    same = same_sound(sound_names(["woof", "a hound", "rain"], ["dog", "dog", "rain"]))
    assert same.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_clap_hears_distorted_spectrograms_that_depend_on_the_index_alone(make_stage):
    plain = make_stage("clap")
    stage = make_stage("clap", "clap.distortion.time_mask=0.5", "clap.distortion.tilt=0.5")
    first, again = (
        stage.prepare(stage.load_batch(indices), torch.device("cpu"))["mel"]
        for indices in (range(4), range(2, 4))
    )
    clean = plain.prepare(plain.load_batch(range(4)), torch.device("cpu"))["mel"]
    assert first.shape == clean.shape
    assert not torch.equal(first, clean)
    torch.testing.assert_close(first[2:], again)


def test_the_audio_tower_starts_from_a_tagger_that_fits(make_recipe, clips, tmp_path):
    recipe = make_recipe()
    config = recipe.model.clap_audio
    tagger = Tagger(
        TaggerConfig(
            mel=config.mel,
            classes=("a", "b"),
            width=config.width,
            depths=config.depths,
            mel_mean=config.mel_mean,
            mel_std=config.mel_std,
        )
    )
    save_part(tmp_path, "tagger", tagger, tagger.config)
    stage = ClapStage(make_recipe(f"clap.audio_init={tmp_path}"), clips, tmp_path)
    started = stage.network.audio.tower.state_dict()
    for name, value in tagger.tower.state_dict().items():
        assert torch.equal(started[name], value) != name.startswith("projection"), name
    other = dataclasses.replace(tagger.config, depths=(*config.depths, 1))
    save_part(tmp_path / "deep", "tagger", Tagger(other), other)
    with pytest.raises(ValueError, match=r"differ from .*model\.clap_audio\.depths is"):
        ClapStage(make_recipe(f"clap.audio_init={tmp_path / 'deep'}"), clips, tmp_path)
