"""The learning rate by hand-worked values."""

import itertools

import pytest

from soundcrafter.train.recipe import StageConfig
from soundcrafter.train.schedule import learning_rate


def test_warmup_peak_and_cosine():
    config = StageConfig(steps=12, warmup_steps=4, learning_rate=2.0, final_learning_rate=0.1)
    rates = [learning_rate(step, config) for step in range(12)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]  # the last step of the warm-up is at the peak
    assert rates[4] == 2.0  # the cosine starts there
    assert rates[8] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))  # half way
    assert rates[6] == pytest.approx(2.0 * (0.1 + 0.9 * 0.8535533905932737))  # cos(pi/4)
    assert learning_rate(12, config) == pytest.approx(0.2)  # where it would end
    assert learning_rate(100, config) == pytest.approx(0.2)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))


def test_without_warmup_it_starts_at_the_peak_and_ends_near_zero():
    config = StageConfig(steps=1000, learning_rate=1e-3)
    assert learning_rate(0, config) == 1e-3
    assert learning_rate(500, config) == pytest.approx(5e-4)
    assert 0 < learning_rate(999, config) < 1e-8


def test_a_run_that_is_all_warmup():
    config = StageConfig(steps=2, warmup_steps=4, learning_rate=1.0)
    assert [learning_rate(step, config) for step in range(2)] == [0.25, 0.5]
    assert learning_rate(4, config) == 1.0  # no division by zero past the end


def test_a_constant_schedule_decays_at_its_end():
    config = StageConfig(
        steps=20, warmup_steps=4, learning_rate=2.0, schedule="constant", decay=0.25
    )
    rates = [learning_rate(step, config) for step in range(20)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4:17] == [2.0] * 13  # the decay begins after 12 of 16 steps
    assert rates[17:] == pytest.approx([2.0 * (1 - part**0.5) for part in (0.25, 0.5, 0.75)])
    assert learning_rate(20, config) == 0.0
    endless = StageConfig(steps=20, learning_rate=2.0, schedule="constant")
    assert {learning_rate(step, endless) for step in range(20)} == {2.0}


def test_what_a_schedule_does_not_allow():
    with pytest.raises(ValueError, match=r"decay: got 0\.2; allowed with the cosine: 0"):
        StageConfig(decay=0.2)
    with pytest.raises(ValueError, match="decay"):
        StageConfig(schedule="constant", decay=1.5)
