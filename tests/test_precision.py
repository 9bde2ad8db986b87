"""The numbers that networks compute in: what is allowed where, and what stays in fp32."""

import numpy as np
import pytest
import torch

from soundcrafter import precision
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.precision import cast_weights, choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("native", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_cpu_has_it(monkeypatch, native, chosen):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: native)
    assert choose_precision("auto", CPU) == chosen


@pytest.mark.parametrize("name", ["fp16", "float32", ""])
def test_what_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match="allowed: auto, fp32, bf16"):
        choose_precision(name, CPU)


def test_buffers_keep_their_precision():
    module = torch.nn.BatchNorm1d(3)
    module.running_var.fill_(1.001)  # bf16 would make it 1
    cast_weights(module, "bf16")
    assert module.weight.dtype == torch.bfloat16
    assert module.running_var[0] == torch.tensor(1.001)


def test_bf16_makes_the_same_sound_of_the_bundled_model():
    waves = {}
    for name in ("fp32", "bf16"):
        crafter = SoundCrafter.from_pretrained(device="cpu", precision=name)
        assert crafter.precision == name
        assert next(crafter.unet.parameters()).dtype == precision.DTYPES[name]
        (sound,) = crafter.generate("rain", seconds=0.6, steps=3, candidates=1)
        assert sound.wave.dtype == np.float32
        waves[name] = torch.from_numpy(sound.wave)
    a, b = (
        torch.stft(w, 512, return_complex=True, window=torch.hann_window(512)).abs() + 1e-3
        for w in waves.values()
    )
    assert not torch.equal(waves["fp32"], waves["bf16"])
    assert (a.log() - b.log()).abs().mean() < 0.5  # nats; two seeds are about 1.3 apart
