"""CLAP: unit vectors that depend on nothing but their input, refused settings, the loss by hand."""

import copy
import math
import time

import numpy as np
import pytest
import torch

from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.clap import Clap, symmetric_cross_entropy
from soundcrafter.models.clap_audio import ClapAudio, ClapAudioConfig
from soundcrafter.models.clap_text import ClapText, ClapTextConfig
from soundcrafter.settings import from_dict, to_dict
from soundcrafter.text import Tokenizer

MEL = MelConfig(num_mels=32)
CONV = ClapAudioConfig(mel=MEL, embed_dim=16, width=8, depths=(1, 1), max_seconds=1.0)
HTSAT = ClapAudioConfig(
    tower="htsat",
    mel=MEL,
    embed_dim=16,
    width=8,
    depths=(2, 2, 2, 2),
    heads=(1, 2, 2, 4),
    spec_size=64,
    window=2,
    max_seconds=1.0,
)
TEXT = ClapTextConfig(embed_dim=16, vocab_size=320, width=16, layers=2, heads=2, max_length=12)
CAPTIONS = ["rain", "a dog barks twice at the door", "wind and ocean waves at the same time", ""]


def audio(config: ClapAudioConfig) -> ClapAudio:
    torch.manual_seed(0)
    return ClapAudio(config).eval()


@pytest.fixture(scope="module")
def clap() -> Clap:
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(CAPTIONS, 300)
    return Clap(ClapAudio(CONV), ClapText(TEXT), tokenizer).eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)) * 0.1


@pytest.mark.parametrize("config", [CONV, HTSAT], ids=["conv", "htsat"])
class TestAudio:
    @pytest.mark.parametrize("num_samples", [1, 100, 5000, 16_000, 16_001, 50_000])
    def test_any_length_gives_unit_vectors(self, config: ClapAudioConfig, num_samples: int) -> None:
        embeddings = audio(config)(noise(2, num_samples))
        assert embeddings.shape == (2, 16)
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))

    def test_does_not_depend_on_its_batch(self, config: ClapAudioConfig) -> None:
        model, wave = audio(config), noise(3, 12_000)
        torch.testing.assert_close(model(wave)[:1], model(wave[:1]), rtol=0, atol=1e-5)

    def test_long_sounds_average_windows(self, config: ClapAudioConfig) -> None:
        model, wave = audio(config), noise(1, 40_000)
        parts = torch.cat([model(wave[:, s : s + 16_000]) for s in (0, 16_000, 24_000)])
        mean = torch.nn.functional.normalize(parts.mean(0, keepdim=True))
        torch.testing.assert_close(model(wave), mean)

    def test_short_sounds_are_repeated(self, config: ClapAudioConfig) -> None:
        model, wave = audio(config), noise(1, 1000)
        # conv: repeated and cut at 2560 samples; htsat: whole repeats, then zeros up to 16,000
        filled = wave.repeat(1, 16) if config.tower == "htsat" else wave.repeat(1, 3)[:, :2560]
        torch.testing.assert_close(model(wave), model(filled))

    def test_learns(self, config: ClapAudioConfig) -> None:
        model = audio(config).train()
        model(noise(2, 8000))[:, 0].sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())

    def test_lower_precision_and_round_trip(self, config: ClapAudioConfig) -> None:
        model, wave = audio(config), noise(1, 8000)
        half = ClapAudio(config).eval()
        half.load_state_dict(model.state_dict(), strict=True)
        half.tower.to(torch.bfloat16)
        embedding = half(wave)
        assert embedding.dtype == torch.float32
        assert torch.cosine_similarity(embedding, model(wave)) > 0.99
        assert from_dict(ClapAudioConfig, to_dict(config)) == config

    def test_refuses_empty(self, config: ClapAudioConfig) -> None:
        for shape in ((1, 0), (100,), (1, 1, 100)):
            with pytest.raises(ValueError, match="expected"):
                audio(config)(torch.zeros(*shape))


def test_conv_normalises_inside_and_hears_height() -> None:
    model = audio(CONV)
    scaled = ClapAudio(
        from_dict(ClapAudioConfig, to_dict(CONV) | {"mel_mean": -5.0, "mel_std": 2.0})
    )
    scaled.load_state_dict(model.state_dict())
    mel = torch.randn(1, 1, 100, 32)
    torch.testing.assert_close(scaled._embed(mel * 2 - 5), model._embed(mel))
    # the same picture eight bands higher is another sound
    low = torch.zeros(1, 1, 100, 32)
    low[..., 10:12] = 3
    high = low.roll(8, dims=3)
    assert (model._embed(low) - model._embed(high)).abs().max() > 1e-3


@pytest.mark.parametrize("config", [CONV, HTSAT], ids=["conv", "htsat"])
def test_checkpointed_towers_give_equal_gradients(config: ClapAudioConfig) -> None:
    towers = [audio(config), audio(config)]
    towers[1].checkpoint_blocks()
    copied = copy.deepcopy(towers[1])  # as EMA does
    mel = torch.randn(2, 1, 101, 32, generator=torch.Generator().manual_seed(0))
    results = []
    for tower in (*towers, copied):
        embedding = tower.embed_mel(mel)
        (embedding[0] * embedding[1]).sum().backward()
        results.append([embedding, *(p.grad for p in tower.parameters() if p.grad is not None)])
    assert towers[1].state_dict().keys() == towers[0].state_dict().keys()
    for result in results[1:]:
        assert len(result) == len(results[0])
        for one, other in zip(results[0], result, strict=True):
            assert torch.allclose(one, other, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(copied.embed_mel(mel), results[0][0], atol=1e-6)


def test_checkpointed_text_tower_gives_equal_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        tower = ClapText(TEXT)
        if checkpointing:
            tower.checkpoint_blocks()
        tokens = torch.tensor([[1, 7, 9, 3], [1, 5, 3, 0]])
        embedding = tower(tokens, (tokens > 0).long())
        (embedding[0] * embedding[1]).sum().backward()
        gradients.append([p.grad for p in tower.parameters() if p.grad is not None])
    assert len(gradients[0]) > 10
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_htsat_batch_norm_freezes() -> None:
    model, wave = audio(HTSAT), noise(2, 8000)
    expected = model(wave)
    model.train()
    assert (model(wave) - expected).abs().max() > 1e-3  # batch statistics
    model = audio(HTSAT)
    model.freeze_norm()
    before = model.tower.audio_model.audio_encoder.batch_norm.running_mean.clone()
    model.train()
    torch.testing.assert_close(model(wave), expected)
    torch.testing.assert_close(
        model.tower.audio_model.audio_encoder.batch_norm.running_mean, before
    )
    assert model.tower.training


def test_htsat_has_the_layout_of_published_weights() -> None:
    """The keys of transformers' ClapModel load by a prefix, and give its own embedding."""
    import transformers

    model = audio(HTSAT)
    published = transformers.ClapModel(
        transformers.ClapConfig(
            text_config=transformers.ClapTextConfig(
                hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
            ),
            audio_config=model.tower.config,
            projection_dim=16,
        )
    ).eval()
    weights = {
        f"tower.{name}": value
        for name, value in published.state_dict().items()
        if name.startswith("audio_")
    }
    model.load_state_dict(weights, strict=True)
    wave = noise(1, 16_000)
    features = published.get_audio_features(model.log_mel(wave)).pooler_output
    torch.testing.assert_close(model(wave), torch.nn.functional.normalize(features))


@pytest.mark.parametrize(("spec_size", "window"), [(256, 8), (128, 4), (64, 2), (128, 2), (64, 1)])
def test_htsat_sizes_that_work(spec_size: int, window: int) -> None:
    changes = {"spec_size": spec_size, "window": window}
    config = from_dict(ClapAudioConfig, to_dict(HTSAT) | changes)
    assert audio(config)(noise(1, 16_000)).shape == (1, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec_size": 64, "window": 4}, "allowed: 1, 2"),
        ({"spec_size": 128, "window": 8}, "allowed: 1, 2, 4"),
        ({"spec_size": 80}, "multiples of mel.num_mels, 32"),
        ({"mel": {"num_mels": 40}}, "multiples of 32"),
        ({"heads": [1, 2, 2]}, "one for each stage"),
        ({"heads": [3, 2, 2, 4]}, "divisors of 8"),
        ({"max_seconds": 1.5}, "up to 1.28"),
        ({"max_seconds": 1.28, "mel": {"num_mels": 32, "framing": "center"}}, "up to 1.27"),
        ({"max_seconds": 0.1}, "0.16 or more"),
        ({"depths": []}, "one or more"),
        ({"mel_std": 0.0}, "mel_std"),
        ({"tower": "conv", "width": 12}, "multiples of 8"),
    ],
)
def test_audio_config_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(ClapAudioConfig, to_dict(HTSAT) | changes)


def test_published_audio_size() -> None:
    config = ClapAudioConfig(tower="htsat")
    model = ClapAudio(config)
    parameters = dict(model.tower.named_parameters())
    projection = sum(p.numel() for n, p in parameters.items() if n.startswith("audio_projection"))
    assert projection == 656_384
    assert round(sum(p.numel() for p in parameters.values()) / 1e6, 2) == 28.19  # 27.53 + .66


def test_compact_sizes_and_speed() -> None:
    config = ClapAudioConfig(width=32, depths=(1, 1, 2, 1))
    model = ClapAudio(config).eval()
    assert sum(p.numel() for p in model.parameters()) == 1_785_728
    with torch.inference_mode():
        model(noise(1, 80_000))
        start = time.perf_counter()
        model(noise(1, 80_000))
    assert time.perf_counter() - start < 1  # 23 ms on one idle core
    text = ClapText(ClapTextConfig(vocab_size=4096, width=192, layers=4, heads=4))
    assert sum(p.numel() for p in text.parameters()) == 2_679_361


class TestText:
    def test_padding_does_not_change_an_embedding(self, clap: Clap) -> None:
        together = clap.embed_text(CAPTIONS)
        alone = torch.cat([clap.embed_text([caption]) for caption in CAPTIONS])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
        torch.testing.assert_close(together.norm(dim=1), torch.ones(4))
        assert (together[0] - together[1]).abs().max() > 1e-2

    def test_what_stands_under_the_padding_does_not_matter(self, clap: Clap) -> None:
        tokens, mask = (torch.from_numpy(x) for x in clap.tokenizer.encode(CAPTIONS, 12))
        other = torch.where(mask.bool(), tokens, torch.full_like(tokens, 50))
        torch.testing.assert_close(clap.text(tokens, mask), clap.text(other, mask))

    def test_pools_at_the_end_token(self, clap: Clap) -> None:
        tokens, mask = (torch.from_numpy(x) for x in clap.tokenizer.encode(CAPTIONS[:2], 12))
        states = clap.text.tower.text_model(tokens, mask)
        ends = states[torch.arange(2), mask.sum(1) - 1]
        expected = torch.nn.functional.normalize(clap.text.tower.text_projection(ends))
        torch.testing.assert_close(clap.text(tokens, mask), expected)

    def test_takes_published_clip_weights(self, clap: Clap) -> None:
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        published = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=320,
                hidden_size=16,
                intermediate_size=64,
                projection_dim=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=12,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=3,
            )
        )
        text = ClapText(TEXT)
        state = {f"tower.{name}": value for name, value in published.state_dict().items()}
        text.load_state_dict(state | {"logit_scale": text.logit_scale}, strict=True)
        tokens, mask = (torch.from_numpy(x) for x in clap.tokenizer.encode(CAPTIONS, 12))
        embeddings = published(input_ids=tokens, attention_mask=mask).text_embeds
        expected = torch.nn.functional.normalize(embeddings)
        torch.testing.assert_close(text(tokens, mask), expected, rtol=0, atol=1e-6)

    def test_long_captions_are_cut(self, clap: Clap) -> None:
        assert clap.embed_text(["a very long caption about rain " * 20]).shape == (1, 16)
        with pytest.raises(ValueError, match="up to 12"):
            clap.text(torch.ones(1, 13, dtype=torch.long), torch.ones(1, 13))

    def test_training_mode_changes_nothing(self, clap: Clap) -> None:
        expected = clap.embed_text(CAPTIONS)
        clap.train()
        torch.testing.assert_close(clap.embed_text(CAPTIONS), expected)
        assert clap.text.training
        clap.eval()

    def test_scale(self) -> None:
        text = ClapText(TEXT)
        assert text.scale.item() == pytest.approx(1 / 0.07)
        for start, expected in ((9.0, 100.0), (-1.0, 1.0)):
            torch.nn.init.constant_(text.logit_scale, start)
            assert text.scale.item() == pytest.approx(expected)
            text.clamp_scale()
            text.scale.backward()
            assert text.logit_scale.grad.item() > 0  # it can come back from the end
            text.logit_scale.grad = None

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"eos_id": 2}, "eos_id: got 2"),
            ({"heads": 3}, "divisors of width"),
            ({"eos_id": 320}, r"0 to 319"),
            ({"max_length": 1}, "max_length"),
            ({"layers": 0}, "layers"),
        ],
    )
    def test_config_refuses(self, changes: dict[str, int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            from_dict(ClapTextConfig, to_dict(TEXT) | changes)


class TestClap:
    def test_embed_audio_takes_arrays_and_tensors(self, clap: Clap) -> None:
        wave = noise(2, 8000)
        expected = clap.audio(wave).detach()
        torch.testing.assert_close(clap.embed_audio(wave, 16_000), expected)
        torch.testing.assert_close(clap.embed_audio(wave.numpy(), 16_000), expected)
        single = clap.embed_audio(wave[0].double().numpy(), 16_000)
        torch.testing.assert_close(single, expected[:1], rtol=0, atol=1e-5)
        assert clap.embed_audio(wave.numpy()[:, ::-1], 16_000).shape == (2, 16)

    def test_embed_audio_resamples(self, clap: Clap) -> None:
        pytest.importorskip("soxr")
        time_48k = np.arange(48_000) / 48_000
        tone = np.sin(2 * np.pi * 1000 * time_48k).astype(np.float32)
        high, low = clap.embed_audio(tone, 48_000), clap.embed_audio(tone[::3], 16_000)
        assert torch.cosine_similarity(high, low) > 0.999
        assert torch.cosine_similarity(high, clap.embed_audio(tone, 16_000)) < 0.999

    def test_result_may_condition_training(self, clap: Clap) -> None:
        layer = torch.nn.Linear(16, 2)
        layer(clap.embed_text(["rain"]) + clap.embed_audio(noise(8000), 16_000)).sum().backward()
        assert layer.weight.grad is not None
        assert clap.text.logit_scale.grad is None

    @pytest.mark.parametrize(
        "wave",
        [np.zeros(0), np.zeros((2, 0)), np.zeros((1, 1, 9)), np.array([0.0, np.nan, 1.0])],
    )
    def test_embed_audio_refuses(self, clap: Clap, wave: np.ndarray) -> None:
        with pytest.raises(ValueError, match="wave"):
            clap.embed_audio(wave, 16_000)

    def test_embed_text_refuses(self, clap: Clap) -> None:
        for captions in ([], "rain"):
            with pytest.raises(ValueError, match="captions"):
                clap.embed_text(captions)

    def test_parts_must_fit(self, clap: Clap) -> None:
        for changes, message in (
            ({"embed_dim": 8}, "embed_dim"),
            ({"vocab_size": 100}, "vocab_size"),
            ({"eos_id": 4}, "eos_id"),
        ):
            text = ClapText(from_dict(ClapTextConfig, to_dict(TEXT) | changes))
            with pytest.raises(ValueError, match=message):
                Clap(clap.audio, text, clap.tokenizer)


class TestLoss:
    def test_two_pairs_by_hand(self) -> None:
        audio_rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        text_rows = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
        # logits 2 A T' = [[2, 1.2], [0, 1.6]]
        rows = math.log(1 + math.exp(-0.8)) + math.log(1 + math.exp(-1.6))
        columns = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-0.4))
        loss = symmetric_cross_entropy(audio_rows, text_rows, 2.0)
        assert loss.item() == pytest.approx((rows / 2 + columns / 2) / 2)

    def test_equal_captions_are_no_negatives(self) -> None:
        audio_rows = torch.nn.functional.normalize(noise(3, 4)).requires_grad_()
        text_rows = torch.nn.functional.normalize(noise(3, 4).flip(0))
        same = torch.eye(3, dtype=torch.bool)
        plain = symmetric_cross_entropy(audio_rows, text_rows, 5.0)
        torch.testing.assert_close(symmetric_cross_entropy(audio_rows, text_rows, 5.0, same), plain)
        same[0, 1] = same[1, 0] = True
        logits = 5 * audio_rows @ text_rows.T
        kept = [(0, [0, 2]), (1, [1, 2]), (2, [0, 1, 2])]
        rows = [logits[i, js].logsumexp(0) - logits[i, i] for i, js in kept]
        columns = [logits[js, i].logsumexp(0) - logits[i, i] for i, js in kept]
        expected = (sum(rows) + sum(columns)) / 6
        loss = symmetric_cross_entropy(audio_rows, text_rows, 5.0, same)
        torch.testing.assert_close(loss, expected)
        everything = torch.ones(3, 3, dtype=torch.bool)
        zero = symmetric_cross_entropy(audio_rows, text_rows, 5.0, everything)
        zero.backward()
        assert zero.item() == 0
        assert torch.isfinite(audio_rows.grad).all()

    def test_gradient_reaches_the_scale_and_autocast_does_not_blur(self) -> None:
        text = ClapText(TEXT)
        rows, columns = (torch.nn.functional.normalize(noise(8, 16).roll(i, 1)) for i in (0, 1))
        expected = symmetric_cross_entropy(rows, columns, text.scale)
        with torch.autocast("cpu", torch.bfloat16):
            loss = symmetric_cross_entropy(rows, columns, text.scale)
        torch.testing.assert_close(loss, expected)
        loss.backward()
        assert text.logit_scale.grad.abs() > 0
