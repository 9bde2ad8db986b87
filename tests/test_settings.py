"""Settings are read strictly, say what is wrong, and come back from JSON as they were."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundcrafter.files import read_json, write_json, write_text
from soundcrafter.mel_bands import MelConfig
from soundcrafter.settings import differences, from_dict, read_toml, to_dict


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 4
    rate: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size: got {self.size}; allowed: 1 or more")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    flag: bool = False
    mode: Literal["fast", "slow"] = "fast"
    power: Literal[1, 2] = 1
    widths: tuple[int, ...] = (1, 2)
    range: tuple[float, float] = (0.0, 1.0)
    strides: tuple[tuple[int, int], ...] = ((1, 1),)
    peak: float | None = None
    inner: Inner = dataclasses.field(default_factory=Inner)
    parts: tuple[Inner, ...] = ()
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)


integers = st.integers(-(2**63), 2**64 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(Inner, size=st.integers(1, 10**9), rate=finite)
outers = st.builds(
    Outer,
    name=st.text(),
    flag=st.booleans(),
    mode=st.sampled_from(["fast", "slow"]),
    power=st.sampled_from([1, 2]),
    widths=st.lists(integers, max_size=4).map(tuple),
    range=st.tuples(finite, finite),
    strides=st.lists(st.tuples(integers, integers), max_size=3).map(tuple),
    peak=st.none() | finite,
    inner=inners,
    parts=st.lists(inners, max_size=3).map(tuple),
    shares=st.dictionaries(st.text(), finite, max_size=3),
)


def test_differences_are_named_by_their_path():
    there = Outer(name="a", inner=Inner(size=2), widths=(1,))
    here = Outer(name="b", inner=Inner(size=3, rate=0.25), widths=(1, 2))
    assert differences(there, there, "model") == []
    assert differences(there, here, "model") == [
        "model.name is a there, b here",
        "model.widths is [1] there, [1, 2] here",
        "model.inner.size is 2 there, 3 here",
        "model.inner.rate is 0.5 there, 0.25 here",
    ]


@given(outers)
def test_round_trip(settings):
    plain = to_dict(settings)
    assert from_dict(Outer, plain) == settings
    assert from_dict(Outer, json.loads(json.dumps(plain))) == settings


def test_round_trip_of_a_real_config():
    config = MelConfig(num_mels=32, log="db", framing="center", power=2)
    assert from_dict(MelConfig, to_dict(config)) == config


def test_defaults_and_conversions():
    settings = from_dict(Outer, {"name": "x", "peak": 1, "inner": {"rate": 2}, "widths": [3]})
    assert settings == Outer(name="x", peak=1.0, inner=Inner(rate=2.0), widths=(3,))
    assert type(settings.peak) is float
    assert type(settings.inner.rate) is float


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"nmae": "x"}, "nmae: unknown setting; did you mean name?"),
        ({"name": "x", "inner": {"sise": 3}}, "inner.sise: unknown setting; did you mean size?"),
        ({"name": "x", "inner": {"zzz": 3}}, "inner.zzz: unknown setting; allowed: size, rate"),
        ({}, "name: this setting is required"),
        ({"name": 3}, "name: expected str, got 3"),
        ({"name": "x", "flag": 1}, "flag: expected bool, got 1"),
        ({"name": "x", "inner": {"size": True}}, "inner.size: expected int, got True"),
        ({"name": "x", "inner": {"size": 2.0}}, "inner.size: expected int, got 2.0"),
        ({"name": "x", "inner": {"rate": True}}, "inner.rate: expected float, got True"),
        ({"name": "x", "inner": {"rate": "1"}}, "inner.rate: expected float, got '1'"),
        ({"name": "x", "inner": {"rate": float("nan")}}, "inner.rate: got nan; expected a finite"),
        ({"name": "x", "inner": {"size": 0}}, "inner: size: got 0; allowed: 1 or more"),
        ({"name": "x", "inner": 3}, "inner: expected a table, got 3"),
        ({"name": "x", "mode": "medium"}, "mode: got 'medium'; allowed: fast, slow"),
        ({"name": "x", "power": True}, "power: got True; allowed: 1, 2"),
        ({"name": "x", "power": 1.0}, "power: got 1.0; allowed: 1, 2"),
        ({"name": "x", "widths": 3}, "widths: expected a list, got 3"),
        ({"name": "x", "widths": "12"}, "widths: expected a list, got '12'"),
        ({"name": "x", "widths": [1, True]}, "widths[1]: expected int, got True"),
        ({"name": "x", "range": [1]}, "range: expected 2 values, got 1"),
        ({"name": "x", "strides": [[1, 2], [1]]}, "strides[1]: expected 2 values, got 1"),
        ({"name": "x", "parts": [{"sise": 1}]}, "parts[0].sise: unknown setting; did you mean"),
        ({"name": "x", "shares": [1]}, "shares: expected a table, got [1]"),
        ({"name": "x", "shares": {"a": "b"}}, "shares.a: expected float, got 'b'"),
        ({"name": None}, "name: expected str, got None"),
    ],
)
def test_refused(data, message):
    with pytest.raises(ValueError) as caught:
        from_dict(Outer, data)
    assert str(caught.value).startswith(message)
    with pytest.raises(ValueError) as caught:
        from_dict(Outer, data, "train")
    assert str(caught.value).startswith(f"train.{message}")


@pytest.mark.parametrize("data", [None, 3, [("name", "x")]])
def test_not_a_table(data):
    with pytest.raises(ValueError, match="Outer: expected a table"):
        from_dict(Outer, data)


def test_base_is_merged_below(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.toml").write_text("a = 1\nlist = [1, 2]\n[train]\nsteps = 10\nlr = 0.1\n")
    (tmp_path / "mid.toml").write_text('base = "base.toml"\n[train]\nsteps = 20\n[new]\nx = 1\n')
    (tmp_path / "sub" / "top.toml").write_text(
        'base = "../mid.toml"\nlist = [3]\n[train]\nlr = 1\n'
    )
    assert read_toml(tmp_path / "sub" / "top.toml") == {
        "a": 1,
        "list": [3],
        "train": {"steps": 20, "lr": 1},
        "new": {"x": 1},
    }


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ('[part]\nkind = "b"\ny = 2', {"kind": "b", "y": 2}),  # x is of the other kind
        ('[part]\nkind = "a"\ny = 2', {"kind": "a", "x": 1, "y": 2}),
        ("[part]\ny = 2", {"kind": "a", "x": 1, "y": 2}),
    ],
)
def test_a_table_of_another_kind_replaces_its_base(tmp_path, delta, expected):
    (tmp_path / "base.toml").write_text('[part]\nkind = "a"\nx = 1\n')
    (tmp_path / "delta.toml").write_text(f'base = "base.toml"\n{delta}\n')
    assert read_toml(tmp_path / "delta.toml") == {"part": expected}


def test_base_cycle(tmp_path):
    (tmp_path / "a.toml").write_text('base = "b.toml"\n')
    (tmp_path / "b.toml").write_text('base = "a.toml"\n')
    (tmp_path / "self.toml").write_text('base = "self.toml"\n')
    for name in ("a.toml", "self.toml"):
        with pytest.raises(ValueError, match="circular"):
            read_toml(tmp_path / name)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=5", {"train": {"steps": 5, "lr": 0.1}}),
        ("train.lr = 1e-4", {"train": {"steps": 10, "lr": 1e-4}}),
        ("train.mode=fast", {"train": {"steps": 10, "lr": 0.1, "mode": "fast"}}),
        ('train.mode="a=b"', {"train": {"steps": 10, "lr": 0.1, "mode": "a=b"}}),
        ("train.on=true", {"train": {"steps": 10, "lr": 0.1, "on": True}}),
        ("model.widths=[1, 2]", {"train": {"steps": 10, "lr": 0.1}, "model": {"widths": [1, 2]}}),
        ("a.b.c=-1", {"train": {"steps": 10, "lr": 0.1}, "a": {"b": {"c": -1}}}),
    ],
)
def test_override(tmp_path, override, expected):
    (tmp_path / "r.toml").write_text("[train]\nsteps = 10\nlr = 0.1\n")
    assert read_toml(tmp_path / "r.toml", [override]) == expected


def test_last_override_wins(tmp_path):
    (tmp_path / "r.toml").write_text("")
    assert read_toml(tmp_path / "r.toml", ["a=1", "a=2"]) == {"a": 2}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "expected section.name=value"),
        ("=3", "expected section.name=value"),
        ("seed.x=3", "seed is a value, not a section"),
    ],
)
def test_override_refused(tmp_path, override, message):
    (tmp_path / "r.toml").write_text("seed = 1\n")
    with pytest.raises(ValueError, match=message):
        read_toml(tmp_path / "r.toml", [override])


def test_files_refused(tmp_path):
    (tmp_path / "bad.toml").write_text("a = \n")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "lost.toml").write_text('base = "none.toml"\n')
    with pytest.raises(ValueError, match=r"bad\.toml: not TOML"):
        read_toml(tmp_path / "bad.toml")
    for name in ("none.toml", "lost.toml"):
        with pytest.raises(ValueError, match=r"none\.toml: No such file"):
            read_toml(tmp_path / name)
    with pytest.raises(ValueError, match=r"bad\.json: not JSON"):
        read_json(tmp_path / "bad.json")
    with pytest.raises(ValueError, match=r"none\.json: No such file"):
        read_json(tmp_path / "none.json")


def test_write(tmp_path):
    data = {"b": 1, "a": [1, "ü"]}
    write_json(tmp_path / "x.json", data)
    write_json(tmp_path / "x.json", data)
    assert read_json(tmp_path / "x.json") == data
    assert (tmp_path / "x.json").read_text().startswith('{\n  "b": 1')
    with pytest.raises(ValueError, match="cannot write: No such file"):
        write_text(tmp_path / "none" / "x.txt", "x")
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
