"""docs/paper.md leads to files, names, recipe keys and options that are there, and counts right."""

import re
import tomllib
from functools import reduce
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import typer

from soundcrafter.cli import app
from soundcrafter.describe import describe
from soundcrafter.diffusion.config import DiffusionConfig
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.settings import to_dict
from soundcrafter.store import count_parameters
from soundcrafter.train.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, RECIPES = ROOT / "src" / "soundcrafter", ROOT / "recipes"
PAPER = RECIPES / "paper.toml"
DOC = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
SPANS = re.findall(r"`([^`\n]+)`", DOC) + re.findall(r"^    (\S.*)$", DOC, re.MULTILINE)


def found(pattern: str) -> list[tuple[str, ...]]:
    """The groups of the spans that are nothing but `pattern`; without any, a test would be void."""
    matches = [match for span in SPANS if (match := re.fullmatch(pattern, span))]
    assert len(matches) > 5
    return [match.groups() for match in matches]


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables below a heading of the second level."""
    section = DOC.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = (line for line in section.splitlines() if line.startswith("|"))
    return [[cell.strip(" `") for cell in line[1:-1].split("|")] for line in lines]


def overrides(text: str) -> list[str]:
    return re.findall(r"--set (\S+?)`?(?=\s|$)", text)


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


def test_files_exist():
    names = r"[\w/-]+\.(?:py|toml)\b|[\w-]+/[\w/-]+\.csv\b"
    paths = {path for span in SPANS for path in re.findall(names, span)}
    assert len(paths) > 30
    assert [p for p in sorted(paths) if not ((PACKAGE / p).is_file() or (ROOT / p).is_file())] == []


def test_names_exist():
    for file, name in found(r"([\w/]+)\.py: ([\w.]+)"):
        module = import_module("soundcrafter." + file.replace("/", "."))
        assert reduce(getattr, name.split("."), module) is not None, f"{file}.py: {name}"


def test_recipe_keys_have_the_values():
    recipe = to_dict(read_recipe(PAPER))
    for section, key, value in found(r"\[+([\w.]+)\]+ (\w+)(?: = (.+))?"):
        table = reduce(lambda node, name: node[name], section.split("."), recipe)
        table = table[0] if isinstance(table, list) else table
        assert key in table, f"[{section}] {key}"
        if value is not None:
            assert table[key] == tomllib.loads(f"x = {value}")["x"], f"[{section}] {key}"


def test_other_choices_are_accepted():
    chosen = [overrides(span) for span in SPANS if "--set " in span]
    assert len(chosen) > 20
    for choice in chosen:
        read_recipe(PAPER, choice)


def test_commands_have_the_options():
    root = typer.main.get_command(app)
    known = {option for command in commands(root) for p in command.params for option in p.opts}
    for span in SPANS:
        words = span.split()
        if words[0] == "soundcrafter":
            command = root
            for word in words[1:]:
                command = getattr(command, "commands", {}).get(word, command)
            assert command is not root, span
            options = {option for parameter in command.params for option in parameter.opts}
            assert set(re.findall(r"(?<!\S)--[\w-]+", span)) <= options, span
        elif words[0].startswith("--"):
            assert set(re.findall(r"(?<!\S)--[\w-]+", span)) <= known, span


def commands(command) -> list:
    below = getattr(command, "commands", {}).values()
    return [inner for group in below for inner in commands(group)] or [command]


def test_parameters_are_counted_right():
    counts, table = describe(str(PAPER)), rows("7. Parameters")
    expected = {**counts["parameters"], "in all": counts["total"]}
    assert {row[0]: number(row[1]) for row in table if row[0] in expected} == expected


def test_both_readings_of_clap_are_counted_right():
    (row,) = [row for row in rows("3. Architecture") if row[0] == "parameters, audio and text"]
    for cell, name in zip(row[1:], ("paper", "paper-laion"), strict=True):
        counts = describe(str(RECIPES / f"{name}.toml"))["parameters"]
        towers = (counts["clap_audio"], counts["clap_text"])
        assert cell == " and ".join(f"{count / 1e6:.1f}M" for count in towers)


def test_curriculum_of_the_full_grid_raises_length_and_resolution_at_every_stage():
    phases = read_recipe(RECIPES / "paper-full-grid.toml").diffusion.curriculum
    for before, after in pairwise(phases):
        assert after.seconds == 2 * before.seconds
        assert after.pool == before.pool / 2


def test_variants_of_the_unet_are_counted_right():
    variants = [row for row in rows("7. Parameters") if row[0].startswith("concatenated, ")]
    assert len(variants) == 4
    for _, count, options in variants:
        unet = read_recipe(PAPER, overrides(options)).model.unet
        assert number(count) == count_parameters("unet", unet)


def test_last_alpha_bar():
    table = [row for row in rows("8. Contradictions and gaps") if row[0].endswith("linear")]
    assert len(table) == 4
    for betas, start, end, last in table:
        config = DiffusionConfig(betas=betas, beta_start=float(start), beta_end=float(end))
        assert f"{Schedule(config).alpha_bar[-1]:.2e}" == last
