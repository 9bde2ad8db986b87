"""`precision = "auto"`: chosen once, when a run begins, and kept by every resume."""

import pytest

from soundcrafter import precision
from soundcrafter.files import read_json, write_json
from soundcrafter.train import build_stage, read_recipe
from soundcrafter.train.checkpoint import run_folder
from soundcrafter.train.engine import Engine
from soundcrafter.train.sprint import sprint

AUTO = ("vae.steps=3", "vae.precision=auto")


@pytest.fixture
def bf16(monkeypatch):
    """bf16(False): this CPU has no instructions for it."""

    def has(it: bool) -> None:
        monkeypatch.setattr(precision, "cpu_has_bf16", lambda: it)

    return has


def saved(folder) -> str:
    return str(read_json(run_folder(folder, "vae") / "identity.json")["stage"]["precision"])


@pytest.mark.parametrize(
    ("has", "chosen", "other"), [(True, "bf16", "fp32"), (False, "fp32", "bf16")]
)
def test_a_run_keeps_the_precision_that_it_began_with(has, chosen, other, go, bf16, tmp_path):
    bf16(has)
    go("vae", tmp_path, *AUTO, max_minutes=1e-9)
    assert saved(tmp_path) == chosen
    bf16(not has)  # as on another machine
    assert [entry["step"] for entry in go("vae", tmp_path, *AUTO, max_minutes=1e-9)] == [2]
    assert saved(tmp_path) == chosen
    with pytest.raises(ValueError, match=rf"precision is {chosen} in that run, {other} now"):
        go("vae", tmp_path, "vae.steps=3", f"vae.precision={other}")
    go("vae", tmp_path, "vae.steps=3", f"vae.precision={chosen}")


def test_a_run_of_an_earlier_recipe_keeps_its_precision(go, bf16, tmp_path):
    bf16(False)
    go("vae", tmp_path, "vae.steps=3", "vae.precision=bf16", max_minutes=1e-9)
    go("vae", tmp_path, *AUTO)
    assert saved(tmp_path) == "bf16"


def test_what_killed_before_its_first_checkpoint_chooses_anew(go, bf16, tmp_path):
    place = run_folder(tmp_path, "vae")
    place.mkdir(parents=True)
    write_json(place / "identity.json", {"stage": {"precision": "bf16"}})
    bf16(False)
    go("vae", tmp_path, *AUTO, max_minutes=1e-9)
    assert saved(tmp_path) == "fp32"


def test_sprints_and_engines_choose_too(make_recipe, clips, bf16, tmp_path):
    bf16(False)
    stage = build_stage("vae", make_recipe("vae.precision=auto"), clips, tmp_path)
    assert Engine(stage.loss_modules, stage.config, "cpu").accelerator.mixed_precision == "no"
    sprint(stage, tmp_path, minutes=1e-9, device="cpu")
    assert saved(tmp_path) == "fp32"


def test_shipped_recipes_ask_for_no_bf16_that_a_machine_may_lack():
    for name in ("mini", "paper", "bundled", "finetune", "curriculum", "tagger"):
        recipe = read_recipe(name)
        for stage in ("text", "clap", "vae", "vocoder", "diffusion", "tagger"):
            assert getattr(recipe, stage).precision in ("auto", "fp32"), (name, stage)
    assert read_recipe("mini").vae.precision == "auto"
