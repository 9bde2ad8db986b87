"""File names of the Universal Category System: the list, the category of a prompt, the grammar."""

import csv
import json
import re
import tomllib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundcrafter.filenames import check_name
from soundcrafter.ucs import (
    CREATOR,
    MOST_LETTERS,
    SOURCE,
    UcsNaming,
    cat_id,
    categories,
    check_cat_id,
    ucs_name,
)

SHORT = ("--seconds", "0.2", "--steps", "1", "--candidates", "1")
FAMILIES = Path(__file__).parent / "ucs_families.csv"  # of sounds, and CatIDs that fit, or a start
PROMPTS = resources.files("soundcrafter.evaluate") / "prompts"
ARCHIVED_OR_WHOLE = {"BEEP", "HAIL", "RAIN", "STORM", "SWSH", "THUN", "WHSH", "WIND", "WTHR"}

Run = Callable[..., Any]  # the conftest's `run`


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def families() -> dict[str, tuple[str, ...]]:
    rows = read_csv(FAMILIES.read_text(encoding="utf-8"))
    return {row["family"]: tuple(row["allowed"].split()) for row in rows}


# --- the list ---


def test_the_list_is_complete_and_well_formed() -> None:
    rows = categories()
    assert len(rows) == len({row.cat_id for row in rows}) == 753
    assert len({row.category for row in rows}) == 82
    assert len({(row.category, row.subcategory) for row in rows}) == 753
    for row in rows:
        assert re.fullmatch("[A-Z][A-Z &]*[A-Z]", row.category)
        assert re.fullmatch("[A-Z][A-Z &]*[A-Z]", row.subcategory)
        assert re.fullmatch("[A-Z]{2,5}", row.cat_id) or re.fullmatch(
            "[A-Z]{2,5}[A-Z][a-z]{1,6}", row.cat_id
        )
        assert all(re.fullmatch("[a-z0-9]+", word) for word in row.words), row
        assert len(set(row.words)) == len(row.words), row


def test_the_package_data_holds_the_list() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    assert "ucs.csv" in project["tool"]["setuptools"]["package-data"]["soundcrafter"]


def test_a_category_has_one_abbreviation() -> None:
    short: dict[str, set[str]] = {}
    for row in categories():
        if row.category != "ARCHIVED" and row.cat_id not in ARCHIVED_OR_WHOLE:
            letters = re.sub("[A-Z][a-z]+$", "", row.cat_id)
            short.setdefault(row.category, set()).add(letters)
    assert all(len(found) == 1 for found in short.values()), short


@pytest.mark.parametrize(
    ("name", "category", "subcategory"),
    [
        ("AIRBlow", "AIR", "BLOW"),
        ("DIRTImpt", "DIRT & SAND", "IMPACT"),
        ("EQUIPSprt", "EQUIPMENT", "SPORT"),
        ("MACHOffc", "MACHINES", "OFFICE"),
        ("RAIN", "RAIN", "GENERAL"),
        ("THUN", "WEATHER", "THUNDER"),
        ("VEHTruck", "VEHICLES", "TRUCK VAN & SUV"),
        ("WOODTonl", "WOOD", "TONAL"),
    ],
)
def test_rows_of_the_list(name: str, category: str, subcategory: str) -> None:
    (row,) = [row for row in categories() if row.cat_id == name]
    assert (row.category, row.subcategory) == (category, subcategory)


# --- the category of a prompt ---


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("rain on a tin roof", "RAINMetl"),
        ("heavy rain", "RAIN"),
        ("rain on a tent", "RAINClth"),
        ("thunder rolling in the distance", "THUN"),
        ("wind howling through trees", "WIND WINDVege"),
        ("a strong gust of wind", "WINDGust"),
        ("hail", "HAIL"),
        ("a dog barks in the distance", "ANMLDog"),
        ("an angry dog growls behind a fence", "ANMLDog"),
        ("a cat meowing", "ANMLCat"),
        ("a lion roars", "ANMLWcat"),
        ("wolf howling at the moon", "ANMLWdog"),
        ("a cow moos in a field", "ANMLFarm"),
        ("a horse neighs", "ANMLHors"),
        ("a horse galloping on cobblestones", "FEETHors"),
        ("frogs croaking by a pond", "ANMLAmph"),
        ("a bee buzzing", "ANMLInsc"),
        ("an elephant trumpeting", "ANMLWild"),
        ("a snake hisses", "ANMLRept"),
        ("whale song", "ANMLAqua"),
        ("birds singing in a forest", "BIRDSong"),
        ("crows cawing", "BIRDCrow"),
        ("seagulls over a harbor", "BIRDSea"),
        ("an owl hooting at night", "BIRDPrey"),
        ("rooster crowing at dawn", "BIRDFowl"),
        ("footsteps on gravel", "FEETHmn"),
        ("footsteps on wooden stairs", "FEETHmn"),
        ("glass breaking", "GLASBrk"),
        ("plates clattering", "FOODTware"),
        ("a plate breaks on the floor", "CERMBrk"),
        ("a car passes by", "VEHCar VEHBy"),
        ("a car horn", "VEHHorn"),
        ("car door slams", "VEHDoor"),
        ("police siren", "VEHSirn"),
        ("tires screeching", "VEHSkid"),
        ("motorcycle revving", "VEHMoto"),
        ("a truck reversing beep", "BEEPVeh"),
        ("a train passing", "TRNMisc"),
        ("steam locomotive", "TRNSteam"),
        ("helicopter flying overhead", "AEROHeli"),
        ("propeller plane", "AEROProp"),
        ("a ship's horn in the mist", "BOATHorn"),
        ("church bells ring", "BELLLrg"),
        ("doorbell", "BELLDoor"),
        ("clock ticking", "CLOCKTick"),
        ("alarm clock ringing", "ALRMClok"),
        ("phone ringing", "COMTelph"),
        ("radio static", "COMStatic"),
        ("typing on a keyboard", "CMPTKey"),
        ("camera shutter click", "COMCam"),
        ("someone knocking on a wooden door", "DOORKnck"),
        ("an old door creaks open", "DOORCreak"),
        ("heavy wooden door closing", "DOORWood"),
        ("kitchen drawer sliding open", "DRWRMisc DRWRWood"),
        ("a man coughing hard", "HMNCough"),
        ("snoring", "HMNSnor"),
        ("a baby crying", "VOXBaby"),
        ("a woman screams", "VOXScrm"),
        ("evil laughter", "VOXLaff"),
        ("crowd cheering in a stadium", "CRWDCheer"),
        ("applause", "CRWDApls"),
        ("punch to the face", "FGHTImpt"),
        ("sword fight", "WEAPSwrd"),
        ("an arrow hits a target", "WEAPArro"),
        ("machine gun burst", "GUNAuto"),
        ("pistol shot", "GUNPis"),
        ("cannon fire", "GUNCano"),
        ("bullet ricochet", "BLLTRico"),
        ("huge explosion", "EXPLReal EXPLMisc"),
        ("fireworks in the sky", "FRWKMisc FRWKComr"),
        ("campfire crackling", "FIRECrkl"),
        ("ocean waves on a beach", "WATRWave WATRSurf"),
        ("water dripping in a cave", "WATRDrip"),
        ("toilet flushing", "WATRPlmb"),
        ("a waterfall", "WATRFall"),
        ("pouring a drink", "FOODPour"),
        ("bacon sizzling in a pan", "FOODCook"),
        ("vacuum cleaner", "MACHAppl"),
        ("hand saw cutting wood", "TOOLHand"),
        ("chainsaw", "TOOLPowr"),
        ("jackhammer on concrete", "TOOLPneu"),
        ("metal scraping on metal", "METLFric"),
        ("chains rattling", "CHAINMvmt"),
        ("paper being crumpled", "PAPRHndl"),
        ("zipper", "OBJZipr"),
        ("keys jingling", "OBJKey"),
        ("coins falling on a table", "OBJCoin"),
        ("a magic spell", "MAGSpel"),
        ("laser gun", "LASRGun"),
        ("spaceship engine hum", "SCIShip"),
        ("a dragon roars", "CREADrgn"),
        ("zombie groaning", "CREAHmn"),
        ("a fast whoosh", "WHSH"),
        ("ui click", "UIClick"),
        ("forest ambience with birds", "AMBForst"),
        ("city traffic", "AMBTraf"),
        ("cartoon boing", "TOONBoing"),
    ],
)
def test_the_category_of_a_prompt(prompt: str, expected: str) -> None:
    assert cat_id(prompt) in expected.split()


def test_each_family_of_sounds_has_a_fitting_category() -> None:
    wrong = {}
    for family, allowed in families().items():
        found = cat_id(family)
        if not found.startswith(allowed):
            wrong[family] = found
    assert wrong == {}


def test_the_frozen_prompts_get_a_category_and_nearly_always_a_fitting_one() -> None:
    allowed = families()
    fitting = []
    for name in ("families.csv", "added_families.csv"):
        for row in read_csv((PROMPTS / name).read_text(encoding="utf-8")):
            fitting.append(cat_id(row["prompt"]).startswith(allowed[row["family"]]))
    assert len(fitting) == 252
    assert sum(fitting) / len(fitting) > 0.95


def test_case_number_accents_and_form_of_a_word_do_not_matter() -> None:
    assert {cat_id(text) for text in ("Sneeze", "sneezing", "SNEEZED", "a snéeze")} == {"HMNSneez"}


@pytest.mark.parametrize("prompt", ["", "asdf qwerty", "雨の音", "...", "the of and"])
def test_a_prompt_that_no_category_fits(prompt: str) -> None:
    with pytest.raises(ValueError, match=r"^ucs: no category fits .*; choose one: --ucs CATID$"):
        cat_id(prompt)


@pytest.mark.parametrize(
    ("given_id", "advice"),
    [
        ("ANMLdog", "did you mean ANMLDog?"),
        ("rainmetal", "did you mean RAINMetl?"),
        ("dog", "did you mean ANMLDog?"),
        ("xyzzy", "a CatID looks like ANMLDog"),
        ("", "a CatID looks like ANMLDog"),
    ],
)
def test_an_unknown_cat_id(given_id: str, advice: str) -> None:
    with pytest.raises(ValueError, match=re.escape(advice)):
        check_cat_id(given_id)


# --- names ---


@pytest.mark.parametrize(
    ("prompt", "fx_name"),
    [
        ("rain on a tin roof", "Rain On A Tin Roof"),
        ("the wind", "Wind"),
        ("a door slams, then a dog barks", "Door Slams Then A Dog"),
        ("a neighbor's dog", "Neighbors Dog"),
        ("RC car", "RC Car"),
        ("café_noise - loud/soft", "Cafe Noise Loud Soft"),
        ("wind howling through trees", "Wind Howling"),
        ("x" * 40, "X" + "x" * 24),
        ("雨の音", "雨の音"),
        ("🔥", "Sound"),
    ],
)
def test_the_fx_name_of_a_prompt(prompt: str, fx_name: str) -> None:
    assert ucs_name("RAIN", prompt) == f"RAIN_{fx_name}_{CREATOR}_{SOURCE}"


@given(
    text=st.text(),
    row=st.sampled_from(categories()),
    user_data=st.from_regex(r"[a-z0-9]{0,20}", fullmatch=True),
)
def test_names_follow_the_grammar(text: str, row: Any, user_data: str) -> None:
    name = ucs_name(row.cat_id, text, user_data=user_data)
    check_name(name)
    fields = name.split("_")
    assert len(fields) == (5 if user_data else 4)
    assert fields[0] == row.cat_id
    assert 1 <= len(fields[1]) <= MOST_LETTERS
    assert all(fields)
    assert "-" not in name
    assert not set('/\\:*?"<>|') & set(name)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"creator": "a_b"}, "ucs-creator: got 'a_b'; allowed: 1 to 20 letters and digits"),
        ({"creator": ""}, "ucs-creator: got ''"),
        ({"source": "my-game"}, "ucs-source: got 'my-game'"),
        ({"source": "s" * 21}, "1 to 20 letters"),
        ({"user_data": "s_7"}, "user_data: got 's_7'"),
    ],
)
def test_fields_that_are_refused(fields: dict[str, str], fault: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fault)):
        ucs_name("RAIN", "rain", **fields)


def test_a_naming_checks_what_it_is_given() -> None:
    assert UcsNaming().name("a dog barks", 7) == "ANMLDog_Dog Barks_SNDCRFT_NONE_s7"
    own = UcsNaming("RAIN", creator="AB", source="GAME")
    assert own.name("a dog barks", 7, "title") == "RAIN_Title_AB_GAME_s7"
    with pytest.raises(ValueError, match="UCS has no CatID 'Rain'; did you mean RAIN"):
        UcsNaming("Rain")


# --- the command line ---


@pytest.fixture
def generate(run: Run, tiny_model: Path) -> Run:
    return lambda *arguments: run("generate", *arguments, "--model", tiny_model, *SHORT)


def test_generate_names_its_files(generate: Run, tmp_path: Path) -> None:
    done = generate("a dog barks", "-o", tmp_path, "--ucs", "auto", "--count", 2, "--seed", 7)
    assert done.code == 0
    dogs = [f"ANMLDog_Dog Barks_SNDCRFT_NONE_s{seed}.wav" for seed in (7, 8)]
    assert names(tmp_path) == dogs
    options = ("--ucs", "ANMLMisc", "--ucs-creator", "AB", "--ucs-source", "GAME", "--json")
    (made,) = json.loads(generate("a dog barks", "-o", tmp_path, *options).out)
    assert Path(made["file"]).name == "ANMLMisc_Dog Barks_AB_GAME_s0.wav"


def test_a_taken_name_stays_within_the_grammar(generate: Run, tmp_path: Path) -> None:
    for _ in range(2):
        generate("rain", "-o", tmp_path, "--ucs", "auto")
    generate("rain", "-o", tmp_path, "--ucs", "auto", "--skip-existing")
    assert names(tmp_path) == [
        "RAIN_Rain_SNDCRFT_NONE_s0.wav",
        "RAIN_Rain_SNDCRFT_NONE_s0v2.wav",
    ]


def test_names_of_a_prompt_file(generate: Run, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt,name\nchurch bells,Sunday-bells\nglass breaking,\n")
    generate("--prompts", prompts, "-o", tmp_path / "out", "--ucs", "auto")
    assert names(tmp_path / "out") == [
        "BELLLrg_Sunday Bells_SNDCRFT_NONE_s0.wav",
        "GLASBrk_Glass Breaking_SNDCRFT_NONE_s0.wav",
    ]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (("-o", "a.wav", "--ucs", "auto"), "--ucs needs a folder as --output"),
        (("-o", "-", "--ucs", "auto"), "'-' cannot be combined with --ucs"),
        (("--ucs", "auto", "--name", "{seed}"), "--name and --ucs cannot be combined"),
        (("--ucs", "ANMLDgo"), "did you mean ANMLDog?"),
        (("--ucs", "auto", "--ucs-creator", "a-b"), "ucs-creator: got 'a-b'"),
        (("--ucs-source", "GAME"), "--ucs-creator and --ucs-source require --ucs"),
    ],
)
def test_options_that_are_refused(
    generate: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    fault: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fault in generate("a dog", *options).refused()
    assert names(tmp_path) == []


def test_generate_says_that_no_category_fits(generate: Run, tmp_path: Path) -> None:
    refused = generate("qwerty", "-o", tmp_path, "--ucs", "auto").refused()
    assert refused == "error: ucs: no category fits 'qwerty'; choose one: --ucs CATID"
    assert generate("qwerty", "-o", tmp_path, "--ucs", "DSGNMisc").code == 0
    assert names(tmp_path) == ["DSGNMisc_Qwerty_SNDCRFT_NONE_s0.wav"]


def test_edit_names_its_files(run: Run, generate: Run, tmp_path: Path, tiny_model: Path) -> None:
    sound = tmp_path / "rain.wav"
    generate("rain", "-o", sound)
    options = ("--steps", 1, "--candidates", 1, "--model", tiny_model)
    run("edit", sound, "thunder", "-o", tmp_path / "out", "--ucs", "auto", "--seed", 3, *options)
    assert names(tmp_path / "out") == ["THUN_Thunder_SNDCRFT_NONE_s3.wav"]
    refused = run("edit", sound, "-o", tmp_path / "a.wav", "--ucs", "auto", *options).refused()
    assert "--ucs needs a folder as --output" in refused
