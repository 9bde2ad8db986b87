"""Published checkpoints in our networks, against diffusers' and transformers' own."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import (
    CAPTIONS,
    AudioLdm,
    diffusers_model,
    edit_json,
    roberta_tokenizer,
    write_clap,
    write_diffusers,
    write_tokenizer,
)
from original_layout import another_unet, write_original
from torch import Tensor, nn
from wrong_layouts import (
    truncate,
    write_audioldm2,
    write_diffusers_with_pickle,
    write_pickle,
    write_stable_diffusion,
    write_stable_diffusion_original,
)

from soundcrafter.cli import main
from soundcrafter.convert.diffusers import head_counts
from soundcrafter.convert.importer import import_model
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.settings import to_dict
from soundcrafter.store import open_folder
from soundcrafter.train import RunOptions, build_stage, read_recipe, train

FRAMES = 37  # odd at each level
PROMPT = "rain on a tin roof"


def error(ours: Tensor, theirs: Tensor) -> float:
    """Relative, by norms; neither may be constant."""
    assert ours.shape == theirs.shape
    assert theirs.std() > 0
    return float((ours - theirs).norm() / theirs.norm())


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def part_errors(folder: Path, model: AudioLdm, frames: int = FRAMES) -> dict[str, float]:
    """Each part's relative error on a batch of three of odd lengths."""
    parts = open_folder(folder)
    unet, vae, vocoder = (parts.load(name) for name in ("unet", "vae", "vocoder"))
    text, tokenizer = parts.load("clap_text"), parts.load_tokenizer()
    latent, t = drawn(3, 8, frames, 16), torch.tensor([0, 417, 999])
    cond = nn.functional.normalize(drawn(3, unet.config.embed_dim), dim=-1)
    mel = drawn(3, 1, frames, 64)
    wave = model.vocoder(mel[:, 0])[:, : frames * 160]
    captions = [*CAPTIONS[:2], ""]
    return {
        "unet": error(unet(latent, t, cond), model.unet(latent, t, None, class_labels=cond).sample),
        "vae": error(
            vae.decode(latent[:, :, : frames // 2]),
            model.vae.decode(latent[:, :, : frames // 2] / model.vae.config.scaling_factor).sample,
        ),
        "vocoder": error(vocoder(mel), wave),
        "text": error(text.embed(captions, tokenizer), model.embed_text(captions)),
        "null": error(unet.null_cond, model.embed_text([""])[0]),
    }


def pipeline_error(folder: Path, model: AudioLdm, seconds: float) -> float:
    """Of the whole waveform: the same noise, 4 steps of DDIM, guidance 2.5."""
    crafter = SoundCrafter.from_pretrained(folder, "cpu", precision="fp32")
    (sound,) = crafter.generate(PROMPT, seconds=seconds, steps=4, guidance=2.5, seed=3)
    theirs = model.pipeline()(
        PROMPT,
        audio_length_in_s=seconds,
        num_inference_steps=4,
        guidance_scale=2.5,
        latents=crafter.noise(3, seconds),
    ).audios[0]
    assert np.abs(theirs).max() < 0.99  # the vocoder's tanh does not hide differences
    return error(torch.from_numpy(sound.wave), torch.from_numpy(theirs))


@pytest.fixture(scope="module")
def imported(narrow: AudioLdm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The narrow model, published as in 2023 and imported by the command line. Read only."""
    folder = tmp_path_factory.mktemp("narrow")
    write_diffusers(folder / "published", narrow, old_names=True)
    import_model(folder / "published", folder / "model")
    return folder / "model"


class TestDiffusersLayout:
    def test_parts_agree(self, imported: Path, narrow: AudioLdm) -> None:
        assert all(value < 1e-4 for value in part_errors(imported, narrow).values())

    def test_the_whole_pipeline_agrees(self, imported: Path, narrow: AudioLdm) -> None:
        assert pipeline_error(imported, narrow, seconds=1.28) < 1e-3

    def test_without_audio_tower_there_is_no_score(self, imported: Path) -> None:
        crafter = SoundCrafter.from_pretrained(imported, "cpu")
        assert crafter.generate(PROMPT, seconds=0.3, steps=1)[0].score is None
        with pytest.raises(ValueError, match="candidates: got 2; allowed: 1"):
            crafter.generate(PROMPT, candidates=2)
        with pytest.raises(ValueError, match="clap_audio"):
            crafter.clap.embed_audio(np.zeros(16000), 16000)

    def test_defaults_are_audioldms(self, imported: Path) -> None:
        folder = open_folder(imported)
        assert folder.diffusion.betas == "scaled_linear"
        assert (folder.sampling.sampler, folder.sampling.end) == ("ddim", "first_step")
        assert folder.parts["unet"].config.heads == (1, 2, 3, 5)
        card = (imported / "README.md").read_text(encoding="utf-8")
        assert "cc-by-nc-sa-4.0" in card

    @pytest.mark.parametrize("buffers", [(), ("position_ids",)])
    def test_torch_files_with_few_groups(self, tmp_path: Path, buffers: tuple[str, ...]) -> None:
        model = diffusers_model("narrow", norm_groups=8, seed=5)
        write_diffusers(tmp_path / "published", model, weights="bin", text_buffers=buffers)
        import_model(tmp_path / "published", tmp_path / "model")
        assert all(value < 1e-4 for value in part_errors(tmp_path / "model", model).values())

    def test_other_heads_are_heard(self, tmp_path: Path, narrow: AudioLdm) -> None:
        # shapes cannot tell: the counts are part of the settings
        write_diffusers(tmp_path / "published", narrow, attention_head_dim=(1, 1, 1, 1))
        import_model(tmp_path / "published", tmp_path / "model")
        assert part_errors(tmp_path / "model", narrow)["unet"] > 1e-3

    @pytest.mark.parametrize(
        ("file", "changes", "message"),
        [
            ("unet/config.json", {"cross_attention_dim": 768}, "cross_attention_dim is 768"),
            ("unet/config.json", {"resnet_skip_time_act": True}, "unknown setting resnet_skip"),
            ("unet/config.json", {"class_embed_type": None}, "class_embed_type is None"),
            ("unet/config.json", {"layers_per_block": 1}, "norm1.weight has the shape"),
            ("vae/config.json", {"latent_channels": 4}, "conv_out.weight has the shape"),
            ("vocoder/config.json", {"sampling_rate": 24000}, "sampling_rate is 24000"),
            ("vocoder/config.json", {"upsample_rates": [5, 4, 2, 2]}, "a product of the hop"),
            ("text_encoder/config.json", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
            ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "prediction_type"),
        ],
    )
    def test_other_settings_are_refused(
        self, tmp_path: Path, narrow: AudioLdm, file: str, changes: dict[str, Any], message: str
    ) -> None:
        write_diffusers(tmp_path / "published", narrow)
        edit_json(tmp_path / "published" / file, **changes)
        with pytest.raises(ValueError, match=message):
            import_model(tmp_path / "published", tmp_path / "model")
        assert [path.name for path in tmp_path.iterdir()] == ["published"]

    def test_an_existing_folder_is_left_alone(self, imported: Path, tmp_path: Path) -> None:
        (tmp_path / "kept.txt").write_text("mine")
        with pytest.raises(ValueError, match="already exists"):
            import_model(imported.parent / "published", tmp_path)
        with pytest.raises(ValueError, match="is already a model folder"):
            import_model(imported, tmp_path / "new")


@pytest.mark.parametrize(
    ("channels", "heads"),
    [(128, (4, 8, 12, 20)), (192, (6, 12, 18, 30)), (256, (4, 8, 12, 20))],
)
def test_heads_of_the_published_sizes(channels: int, heads: tuple[int, ...]) -> None:
    assert head_counts([channels * multiplier for multiplier in (1, 2, 3, 5)]) == heads


class TestOriginalLayout:
    @pytest.mark.parametrize(("ema", "weight_norm"), [("other", True), (None, False)])
    def test_parts_agree(
        self, tmp_path: Path, narrow_original: AudioLdm, weight_norm: bool, ema: str | None
    ) -> None:
        model = narrow_original
        last = another_unet(model) if ema else model.unet
        # the averaged weights are the ones that count
        raw = AudioLdm(**{**vars(model), "unet": last})
        write_original(
            tmp_path / "audioldm.ckpt",
            raw,
            ema=model.unet if ema else None,
            weight_norm=weight_norm,
            lvlb_weights=weight_norm,
        )
        write_tokenizer(tmp_path / "words", model)
        import_model(tmp_path / "audioldm.ckpt", tmp_path / "model", tokenizer=tmp_path / "words")
        assert all(value < 1e-4 for value in part_errors(tmp_path / "model", model).values())
        audio = open_folder(tmp_path / "model").load("clap_audio")
        mel = -30 + 10 * drawn(3, 1, 1001, 64)
        with torch.no_grad():
            theirs = model.audio(input_features=mel).audio_embeds
            assert error(audio.embed_mel(mel), nn.functional.normalize(theirs, dim=-1)) < 1e-5
        assert pipeline_error(tmp_path / "model", model, seconds=1.28) < 1e-3

    def test_without_the_audio_half(self, tmp_path: Path, narrow_original: AudioLdm) -> None:
        write_original(tmp_path / "audioldm.ckpt", narrow_original, audio=False)
        write_tokenizer(tmp_path / "words", narrow_original)
        command = ["import", str(tmp_path / "audioldm.ckpt"), "--out", str(tmp_path / "model")]
        run(*command, "--tokenizer", str(tmp_path / "words"))
        assert "clap_audio" not in open_folder(tmp_path / "model").parts

    @pytest.mark.parametrize(
        "name",
        [
            "betas",
            "model.diffusion_model.time_embed.0.weight",
            "first_stage_model.vocoder.conv_pre.weight",
            "cond_stage_model.model.audio_branch.patch_embed.proj.weight",
        ],
    )
    def test_what_is_missing_or_left_over_is_named(
        self, tmp_path: Path, narrow_original: AudioLdm, name: str
    ) -> None:
        state = write_original(tmp_path / "whole.ckpt", narrow_original, ema=None)
        write_tokenizer(tmp_path / "words", narrow_original)
        for reason, change in (
            (name, {}),
            (f"unexpected tensors: {name}_2", {f"{name}_2": state[name]}),
        ):
            kept = {key: value for key, value in state.items() if change or key != name}
            torch.save({"state_dict": kept | change}, tmp_path / "changed.ckpt")
            with pytest.raises(ValueError, match=re.escape(reason)):
                import_model(
                    tmp_path / "changed.ckpt", tmp_path / "model", tokenizer=tmp_path / "words"
                )
            assert not (tmp_path / "model").exists()


class TestClap:
    def test_both_towers_agree(self, tmp_path: Path) -> None:
        clap, features = write_clap(tmp_path / "published")
        import_model(tmp_path / "published", tmp_path / "model")
        folder = open_folder(tmp_path / "model")
        audio, text = folder.load("clap_audio"), folder.load("clap_text")
        captions = [*CAPTIONS[:2], ""]
        for seconds in (10.0, 3.3, 1.0):
            wave = 0.1 * drawn(2, round(48_000 * seconds))
            inputs = features(list(wave.numpy()), sampling_rate=48_000, return_tensors="pt")
            theirs = clap.get_audio_features(input_features=inputs["input_features"].float())
            assert error(audio.embed(wave, 48_000), theirs.pooler_output.detach()) < 1e-5
        words = roberta_tokenizer()(captions, padding=True, return_tensors="pt")
        theirs = clap.get_text_features(**words).pooler_output.detach()
        assert error(text.embed(captions, folder.load_tokenizer()), theirs) < 1e-5
        assert text.logit_scale == clap.logit_scale_a

    def test_it_gives_a_model_its_audio_tower(self, tmp_path: Path, narrow: AudioLdm) -> None:
        clap, _ = write_clap(tmp_path / "clap")
        write_diffusers(tmp_path / "other", narrow)
        import_model(tmp_path / "other", tmp_path / "stranger")
        with pytest.raises(ValueError, match="not the text tower of this CLAP"):
            import_model(tmp_path / "clap", tmp_path / "stranger")
        narrow_text = narrow.text.state_dict()
        own = {name: clap.state_dict()[name] for name in narrow_text}
        narrow_with = diffusers_model("narrow")
        narrow_with.text.load_state_dict(own)
        write_diffusers(tmp_path / "published", narrow_with)
        import_model(tmp_path / "published", tmp_path / "model")
        import_model(tmp_path / "clap", tmp_path / "model")
        crafter = SoundCrafter.from_pretrained(tmp_path / "model", "cpu")
        (sound,) = crafter.generate(PROMPT, seconds=0.3, steps=1, candidates=2)
        assert sound.score is not None
        with pytest.raises(ValueError, match="already has a clap_audio"):
            import_model(tmp_path / "clap", tmp_path / "model")

    def test_a_fused_one_is_refused(self, tmp_path: Path) -> None:
        write_clap(tmp_path / "published")
        file = tmp_path / "published" / "config.json"
        audio = json.loads(file.read_text())["audio_config"]
        edit_json(file, audio_config={**audio, "enable_fusion": True})
        with pytest.raises(ValueError, match="enable_fusion is True; allowed: False"):
            import_model(tmp_path / "published", tmp_path / "model")


@pytest.mark.long
def test_a_unet_is_trained_beside_an_imported_clap(
    clips: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    write_clap(tmp_path / "published")
    import_model(tmp_path / "published", tmp_path / "model")
    towers = open_folder(tmp_path / "model").parts
    assert towers["clap_audio"].config.mel.sample_rate == 48_000
    sets = [
        f"model.{part}.{key}={json.dumps(value)}"
        for part in ("clap_audio", "clap_text")
        for key, value in leaves(to_dict(towers[part].config))
    ]
    recipe = read_recipe(tiny_recipe, sets)
    assert recipe.model.vae.mel.sample_rate == 16_000
    for stage in ("vae", "vocoder", "diffusion"):
        train(stage, recipe, data=clips, out=tmp_path / "model", options=RunOptions(device="cpu"))
    trained = open_folder(tmp_path / "model").parts
    assert trained["unet"].trained_against["clap_audio"] == towers["clap_audio"].training_id
    (sound,) = SoundCrafter.from_pretrained(tmp_path / "model", "cpu").generate(PROMPT, seconds=1)
    assert sound.score is not None
    for override, difference in (
        ("model.vae.channels=4", "vae .*: model.vae.channels is 8 there, 4 here"),
        ("model.clap_audio.mel.fmin=0", "clap_audio.mel.fmin is 50.0 there, 0.0 here"),
    ):
        other = read_recipe(tiny_recipe, [*sets, override])
        with pytest.raises(ValueError, match=f"{difference}$"):
            build_stage("diffusion", other, clips, tmp_path / "model")


def test_the_recipe_beside_laions_clap_describes_the_published_one() -> None:
    model = read_recipe("recipes/paper-laion.toml").model
    audio, text = (
        transformers.ClapAudioConfig(),
        transformers.ClapTextConfig(),
    )  # the defaults are clap-htsat-unfused's
    tower, words = model.clap_audio, model.clap_text
    assert tower.depths == tuple(audio.depths)
    assert tower.heads == tuple(audio.num_attention_heads)
    assert (tower.width, tower.spec_size) == (audio.patch_embeds_hidden_size, audio.spec_size)
    assert (tower.window, tower.embed_dim) == (audio.window_size, audio.projection_dim)
    assert (words.vocab_size, words.width) == (text.vocab_size, text.hidden_size)
    assert (words.layers, words.heads) == (text.num_hidden_layers, text.num_attention_heads)
    assert words.max_length + words.pad_id + 1 == text.max_position_embeddings
    ids = (text.pad_token_id, text.bos_token_id, text.eos_token_id)
    assert (words.pad_id, words.bos_id, words.eos_id) == ids
    assert (words.norm_eps, words.embed_dim) == (text.layer_norm_eps, text.projection_dim)


@pytest.mark.long
@pytest.mark.parametrize("lora", [None, 4])
def test_an_imported_model_can_be_fine_tuned(
    imported: Path, clips: Path, tmp_path: Path, lora: int | None
) -> None:
    sets = ["diffusion.steps=6", "diffusion.batch_size=2", "diffusion.seconds=1.28"]
    sets += ["diffusion.warmup_steps=0", "diffusion.learning_rate=0.001", "diffusion.ema_decay=0"]
    losses: list[float] = []
    train(
        "diffusion",
        read_recipe("recipes/finetune.toml", sets, open_folder(imported)),
        data=clips,
        out=tmp_path / "tuned",
        options=RunOptions(device="cpu", log_steps=1),
        init=imported,
        lora=lora,
        report=lambda entry: losses.append(entry["loss"]),
    )
    assert np.mean(losses[3:]) < np.mean(losses[:3])
    if lora is None:
        crafter = SoundCrafter.from_pretrained(tmp_path / "tuned", "cpu")
    else:
        crafter = SoundCrafter.from_pretrained(imported, "cpu", {str(tmp_path / "tuned"): 1.0})
    (sound,) = crafter.generate(PROMPT, seconds=0.3, steps=2)
    (before,) = SoundCrafter.from_pretrained(imported, "cpu").generate(PROMPT, seconds=0.3, steps=2)
    assert np.isfinite(sound.wave).all()
    assert not np.array_equal(sound.wave, before.wave)


def leaves(table: dict[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """The settings of a nested table with their dotted names."""
    found = []
    for key, value in table.items():
        inner = isinstance(value, dict)
        found += leaves(value, f"{path}{key}.") if inner else [(f"{path}{key}", value)]
    return found


def run(*arguments: str) -> int:
    """The command line's exit status."""
    before, sys.argv = sys.argv, ["soundcrafter", *arguments]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


def _cut(name: str) -> Callable[[Path, AudioLdm], Path]:
    def write(folder: Path, model: AudioLdm) -> Path:
        write_diffusers(folder, model, weights="bin" if name.endswith("bin") else "safetensors")
        truncate(folder / name, folder / name)
        return folder

    return write


def _cut_original(folder: Path, model: AudioLdm) -> Path:
    folder.mkdir()
    write_original(folder / "a.ckpt", model)
    truncate(folder / "a.ckpt", folder / "a.ckpt")
    return folder / "a.ckpt"


def _pickle(legacy: bool) -> Callable[[Path, AudioLdm], Path]:
    def write(folder: Path, model: AudioLdm) -> Path:
        folder.mkdir()
        write_pickle(folder / "a.ckpt", folder / "marker", legacy=legacy)
        return folder / "a.ckpt"

    return write


def _pickle_inside(folder: Path, model: AudioLdm) -> Path:
    write_diffusers_with_pickle(folder, model, folder.parent / "marker")
    return folder


def _written(write: Callable[[Path], None], name: str = "") -> Callable[[Path, AudioLdm], Path]:
    def make(folder: Path, model: AudioLdm) -> Path:
        if name:
            folder.mkdir()
        write(folder / name if name else folder)
        return folder / name if name else folder

    return make


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_written(write_stable_diffusion), "contains a StableDiffusionPipeline; allowed: AudioLDM"),
        (_written(write_audioldm2), "contains a AudioLDM2Pipeline; allowed: AudioLDM"),
        (
            _written(write_stable_diffusion_original, "sd.ckpt"),
            "allowed: AudioLDM.*film_emb.weight",
        ),
        (
            _cut("unet/diffusion_pytorch_model.safetensors"),
            "contains more than tensors",
        ),
        (_cut("vae/diffusion_pytorch_model.bin"), "contains more than tensors"),
        (_cut("unet/config.json"), "not JSON"),
        (_cut_original, "contains more than tensors"),
        (_pickle(legacy=False), "contains more than tensors"),
        (_pickle(legacy=True), "contains more than tensors"),
        (_pickle_inside, "contains more than tensors"),
    ],
)
def test_wrong_checkpoints_are_refused(
    make: Callable[[Path, AudioLdm], Path],
    reason: str,
    narrow: AudioLdm,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = make(tmp_path / "source", narrow)
    write_tokenizer(tmp_path / "words", narrow)
    words = ["--tokenizer", str(tmp_path / "words")]
    capsys.readouterr()  # what writing said
    assert run("import", str(source), "--out", str(tmp_path / "model"), *words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(reason, said), said
    assert not (tmp_path / "model").exists()
    assert not list(tmp_path.rglob("marker"))


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("layout", ["diffusers", "original"])
@pytest.mark.parametrize("size", ["s", "m", "l"])
def test_published_sizes_agree(
    size: Any, layout: str, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    eps = 1e-12 if layout == "diffusers" else 1e-5
    model = diffusers_model(size, layer_norm_eps=eps)
    write_diffusers(tmp_path / "published", model, old_names=True)
    if layout == "diffusers":
        import_model(tmp_path / "published", tmp_path / "model")
    else:
        words = tmp_path / "published" / "tokenizer"
        write_original(tmp_path / "audioldm.ckpt", model, ema=None)
        import_model(tmp_path / "audioldm.ckpt", tmp_path / "model", tokenizer=words)
    errors = part_errors(tmp_path / "model", model)
    errors["pipeline"] = pipeline_error(tmp_path / "model", model, seconds=5.12)
    record_property("errors", {name: f"{value:.1e}" for name, value in errors.items()})
    assert all(value < 1e-4 for name, value in errors.items() if name != "pipeline")
    assert errors["pipeline"] < 1e-3
