"""Our CLIP text tower against transformers': the same weights, the same vectors and gradients."""

import os
import subprocess
import sys

import pytest
import torch

from soundcrafter.models.clip_text import ClipText

SIZES = {"vocab_size": 64, "width": 32, "layers": 3, "heads": 4, "embed_dim": 16}
PAD, BOS = 0, 1


def own(eos: int = 3, **changes: int) -> ClipText:
    torch.manual_seed(0)
    return ClipText(**SIZES | {"max_length": 20} | changes, eos_id=eos, norm_eps=1e-5)


def transformers_own(eos: int = 3, **changes: int) -> torch.nn.Module:
    """transformers' tower of the same sizes, with biases and norms as training leaves them."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    sizes = SIZES | changes
    torch.manual_seed(1)
    model = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=sizes["vocab_size"],
            hidden_size=sizes["width"],
            intermediate_size=4 * sizes["width"],
            projection_dim=sizes["embed_dim"],
            num_hidden_layers=sizes["layers"],
            num_attention_heads=sizes["heads"],
            max_position_embeddings=20,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=eos,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def pair(eos: int = 3) -> tuple[ClipText, torch.nn.Module]:
    ours, theirs = own(eos), transformers_own(eos)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def batch(lengths: list[int], eos: int, pad: int = PAD) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of random words between bos and eos, filled up with `pad`: tokens and mask [B, L]."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.full((len(lengths), max(lengths)), pad)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = torch.randint(4, 60, (length,), generator=generator)
        row[0], row[length - 1] = BOS, eos
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return tokens, mask.long()


@pytest.mark.parametrize("lengths", [[2], [20], [7, 7], [20, 13, 5, 2]], ids=str)
@pytest.mark.parametrize(("eos", "pad"), [(3, PAD), (63, PAD), (63, 63)])
def test_equals_transformers(lengths: list[int], eos: int, pad: int) -> None:
    ours, theirs = pair(eos)
    tokens, mask = batch(lengths, eos, pad)
    expected = theirs(input_ids=tokens, attention_mask=mask)
    torch.testing.assert_close(ours(tokens, mask), expected.text_embeds, rtol=0, atol=1e-6)
    states, kept = ours.text_model(tokens, mask), mask.bool()
    torch.testing.assert_close(states[kept], expected.last_hidden_state[kept], rtol=1e-6, atol=2e-6)


def test_gradients_equal_transformers() -> None:
    ours, theirs = pair()
    tokens, mask = batch([20, 13, 5, 2], 3)
    target = torch.randn(4, 16, generator=torch.Generator().manual_seed(3))
    (ours.train()(tokens, mask) * target).mean().backward()
    outputs = theirs.train()(input_ids=tokens, attention_mask=mask)
    (outputs.text_embeds * target).mean().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[name].grad, rtol=1e-5, atol=1e-6, msg=name
        )


def test_weights_have_transformers_names_shapes_and_order() -> None:
    ours, theirs = own(), transformers_own()
    shapes = [(name, value.shape) for name, value in theirs.state_dict().items()]
    assert [(name, value.shape) for name, value in ours.state_dict().items()] == shapes
    # an optimizer's state goes by the order of the parameters
    names = [name for name, _ in theirs.named_parameters()]
    assert [name for name, _ in ours.named_parameters()] == names


def test_weights_are_drawn_as_transformers_does() -> None:
    sizes = {"width": 256, "layers": 2, "vocab_size": 512, "embed_dim": 128}
    ours = own(**sizes)
    expected = dict(transformers_own(**sizes).named_parameters())
    for name, value in ours.named_parameters():
        if name.endswith(".bias"):
            assert not value.any(), name
        elif "norm" in name:
            assert (value == 1).all(), name
        else:
            # of 5,000 values or more: the deviation is known to 1 % each
            assert value.std().item() == pytest.approx(expected[name].std().item(), rel=0.05), name
            assert abs(value.mean().item()) < 0.05 * value.std().item(), name
            ratio = (value.abs() > value.std()).float().mean().item()
            assert ratio == pytest.approx(0.317, abs=0.02), f"{name} is not normal"


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_padding_gives_no_nan(left: bool) -> None:
    tokens, mask = batch([9, 3, 2], 3)
    if left:  # there the first rows of attention have no token to attend to
        tokens, mask = tokens.flip(1), mask.flip(1)
    model = own()
    states = model.text_model(tokens, mask)
    states.square().sum().backward()
    assert states.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.text_model.parameters())


def test_batch_does_not_change_a_row() -> None:
    model = own()
    tokens, mask = batch([9, 3], 3)
    alone = model(tokens[1:, :3], mask[1:, :3])
    torch.testing.assert_close(model(tokens, mask)[1:], alone, rtol=0, atol=1e-5)


def test_bundled_model_generates_without_transformers() -> None:
    """Importing it takes longer than the sound does."""
    code = """
import sys
from soundcrafter import SoundCrafter

(sound,) = SoundCrafter.from_pretrained().generate("rain", steps=1, candidates=1, seconds=0.5)
assert sound.score is not None, "both towers of CLAP are part of it"
slow = ("transformers", "scipy", "sympy", "accelerate", "huggingface_hub", "torch._dynamo")
found = [name for name in slow if name in sys.modules]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], env=os.environ, check=True, timeout=120)
