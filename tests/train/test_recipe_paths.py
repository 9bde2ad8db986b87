"""Recipes work from any folder: their paths are relative to them, and the package ships some."""

import shutil
import tomllib
from pathlib import Path

import pytest

from soundcrafter import cli
from soundcrafter.data.latents import Latents
from soundcrafter.describe import describe
from soundcrafter.files import read_json
from soundcrafter.train import build_stage, read_recipe
from soundcrafter.train.encode import encode_data
from soundcrafter.train.recipe import find_recipe

WORDINGS = "family,split,wording\nbell,train,ding\n"


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_a_shipped_recipe_needs_no_repository(tmp_path, clips, run, monkeypatch):
    """In another folder, with the installed package alone."""
    shutil.copytree(clips, tmp_path / "sounds")
    monkeypatch.chdir(tmp_path)
    call = ("train", "vae", "--data", "sounds", "--out", "m", "--recipe", "tiny")
    done = run(*call, "--device", "cpu", "--set", "vae.steps=1")
    assert done.code == 0, done.err
    assert (tmp_path / "m" / "vae.safetensors").is_file()


def test_every_shipped_recipe_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mini", "mini.toml", "bundled", "mini-vocoder"):
        assert Path(read_recipe(name).data.wordings).is_file()
    write(tmp_path, "mine.toml", 'base = "mini"\n[vae]\nsteps = 7\n')
    recipe = read_recipe("mine.toml")
    assert recipe.vae.steps == 7
    assert recipe.model == read_recipe("mini").model
    write(tmp_path, "mini.toml", "[vae]\nsteps = 8\n")  # a file of one's own comes first
    assert read_recipe("mini.toml").vae.steps == 8
    with pytest.raises(ValueError, match=r"recipes/mini\.toml: no such recipe; allowed: .*mini"):
        read_recipe("recipes/mini.toml")


def test_the_package_data_holds_the_recipes():
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert "recipes/*" in project["tool"]["setuptools"]["package-data"]["soundcrafter"]
    package = Path(cli.__file__).resolve().parents[1]
    assert find_recipe("mini") == package / "recipes" / "mini.toml"
    assert (root / "recipes" / "mini.toml").is_file()  # where people look


def test_paths_are_relative_to_the_recipe_and_those_of_set_to_the_working_folder(
    tmp_path, monkeypatch
):
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        write(folder, "words.csv", WORDINGS)
        (folder / "tagger").mkdir()
    base = '[data]\nwordings = "words.csv"\nexclude_captions = ["frozen:free", "words.csv"]\n'
    write(there, "base.toml", base + '[vae]\nperceptual = "tagger"\n')
    write(there / "deltas", "one.toml", 'base = "../base.toml"\n[clap]\naudio_init = "../tagger"\n')
    write(here, "unused", "")
    monkeypatch.chdir(here)
    recipe = read_recipe("../there/deltas/one.toml")
    assert Path(recipe.data.wordings).samefile(there / "words.csv")
    assert recipe.data.exclude_captions[0] == "frozen:free"
    assert Path(recipe.data.exclude_captions[1]).samefile(there / "words.csv")
    assert Path(recipe.vae.perceptual).samefile(there / "tagger")
    assert Path(recipe.clap.audio_init).samefile(there / "tagger")
    given = read_recipe("../there/base.toml", ["data.wordings=words.csv", "vae.perceptual=tagger"])
    assert (given.data.wordings, given.vae.perceptual) == ("words.csv", "tagger")


def test_paths_from_the_working_folder_and_names_on_the_hub_go_on_working(tmp_path, monkeypatch):
    recipes = tmp_path / "recipes"
    write(recipes, "words.csv", WORDINGS)
    text = '[data]\nwordings = "recipes/words.csv"\n[text]\nteacher = "group/encoder"\n'
    write(recipes, "old.toml", text)
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe("recipes/old.toml")
    assert Path(recipe.data.wordings).is_file()
    assert recipe.text.teacher == "group/encoder"


def test_a_run_resumes_from_another_folder(go, tiny_recipe, clips, tmp_path, monkeypatch):
    words = write(tmp_path / "recipes", "words.csv", WORDINGS)
    settings = ("vae.steps=3", f"data.wordings={words}")
    go("vae", tmp_path / "m", *settings, max_minutes=1e-9)
    monkeypatch.chdir(tmp_path)
    near = ("vae.steps=3", "data.wordings=recipes/words.csv")
    assert [e["step"] for e in go("vae", tmp_path / "m", *near, max_minutes=1e-9)] == [2]
    other = write(tmp_path / "others", "words.csv", WORDINGS.replace(",ding", ",dong"))
    with pytest.raises(ValueError, match=r"data\.wordings"):
        go("vae", tmp_path / "m", "vae.steps=3", f"data.wordings={other}")


def test_encoded_data_serves_the_same_recipe_elsewhere(
    make_recipe, clips, tiny_model, tmp_path, monkeypatch
):
    words = write(tmp_path / "recipes", "words.csv", WORDINGS)
    out = tmp_path / "encoded"
    encode_data(make_recipe(f"data.wordings={words}"), clips, tiny_model, out, device="cpu")
    monkeypatch.chdir(tmp_path)
    near = make_recipe("data.wordings=recipes/words.csv")
    build_stage("diffusion", near, out, tiny_model)
    (out / "index.json").unlink()  # as after a kill: what is there is taken over
    before = (out / "latents-00000.safetensors").stat().st_mtime_ns
    encode_data(near, clips, tiny_model, out, device="cpu")
    assert (out / "latents-00000.safetensors").stat().st_mtime_ns == before
    assert read_json(out / "index.json")["entries"]
    assert len(Latents(out, seed=0)) == 12


def test_bases_without_end_and_nested_toml_are_refused(tmp_path):
    for number in range(30):
        (tmp_path / f"r{number}.toml").write_text(f'base = "r{number + 1}.toml"\n')
    with pytest.raises(ValueError, match="more than 20 recipes name each other as base"):
        read_recipe(tmp_path / "r0.toml")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 5000)
    with pytest.raises(ValueError, match=r"deep\.toml: not TOML"):
        read_recipe(tmp_path / "deep.toml")
    (tmp_path / "number.toml").write_text("base = 5\n")
    with pytest.raises(ValueError, match=r"base: got 5; allowed: the name of a recipe"):
        read_recipe(tmp_path / "number.toml")


def test_info_takes_the_name_of_a_shipped_recipe():
    assert describe("tiny")["kind"] == "recipe"
    assert describe("tiny", ["vae.steps=3"])["kind"] == "recipe"
