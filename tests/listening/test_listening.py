import base64
import csv
import itertools
import json
import re
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from soundcrafter import cli
from soundcrafter.audio import read_audio, write_audio
from soundcrafter.evaluate.metrics import wilson_interval
from soundcrafter.files import write_csv, write_json
from soundcrafter.listening.analysis import (
    analyse_listening,
    listening_markdown,
    sign_test,
)
from soundcrafter.listening.answers import KEY_COLUMNS, RESULT_COLUMNS
from soundcrafter.listening.listening_test import write_listening_test
from soundcrafter.listening.stimuli import PEAK, TARGET, equally_loud, match_sounds
from soundcrafter.loudness import loudness

RATE = 16_000
PROMPTS = ("a dog barks </script>", "rain, heavy", "a bell $rings$")


def noise(seed: int, seconds: float = 0.5, level: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal(round(seconds * RATE))).astype(np.float32)


@pytest.fixture
def evaluations(tmp_path):
    """Two models' folders in the shape of an evaluation, the second one's in another order."""
    folders = {}
    for number, name in enumerate(("modelred", "modelblue")):
        out = folders[name] = tmp_path / "evaluations" / name
        (out / "generated").mkdir(parents=True)
        rows = []
        for place, prompt in enumerate(PROMPTS, 1):
            file = f"generated/{place:04d}-words-0.wav"
            write_audio(out / file, noise(10 * number + place, level=0.05 * place), RATE)
            rows.append({"file": file, "prompt": prompt, "family": "", "seed": 0, "seconds": 0.5})
        write_json(out / "report.json", {"name": name, "sounds": rows[:: 1 - 2 * number]})
    return folders


def content_of(out):
    """The page as text, what is in it, and the rows of the key."""
    text = (out / "index.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script id="test" type="application/json">(.*?)</script>', text)
    with open(out / "key.csv", encoding="utf-8", newline="") as stream:
        return text, json.loads(data), list(csv.DictReader(stream))


class TestPage:
    def test_pairs(self, evaluations, tmp_path):
        made = write_listening_test(evaluations, tmp_path / "test", kind="pairs")
        text, test, key = content_of(tmp_path / "test")
        assert (made["items"], made["prompts"], made["sample_rate"]) == (3, 3, RATE)
        assert sorted(file.name for file in (tmp_path / "test").iterdir()) == [
            "index.html",
            "key.csv",
        ]
        assert {item["prompt"] for item in test["items"]} == set(PROMPTS)
        assert tuple(key[0]) == KEY_COLUMNS
        for item in test["items"]:
            rows = [row for row in key if row["item"] == item["name"]]
            assert [row["sound"] for row in rows] == item["sounds"]
            assert {row["system"] for row in rows} == set(evaluations)
            assert {row["prompt"] for row in rows} == {item["prompt"]}
        for row in key:
            assert row["file"].startswith(str(evaluations[row["system"]]))
            assert test["sounds"][row["sound"]].startswith("data:audio/")
        assert "://" not in text  # nothing comes from elsewhere

    def test_names_and_order_reveal_nothing(self, evaluations, tmp_path):
        sides = []
        for seed in range(6):
            out = tmp_path / f"test{seed}"
            write_listening_test(evaluations, out, kind="pairs", seed=seed)
            text, test, key = content_of(out)
            for word in (*evaluations, "words-0", "generated", str(tmp_path)):
                assert word not in text
            assert list(test["sounds"]) == sorted(test["sounds"])
            system = {row["sound"]: row["system"] for row in key}
            sides += [system[item["sounds"][0]] for item in test["items"]]
        assert 4 <= sides.count("modelred") <= 14  # of 18: which one stands first is drawn

    def test_grades_have_an_item_a_sound(self, evaluations, tmp_path):
        real = tmp_path / "real"
        real.mkdir()
        for place in (1, 3):
            write_audio(real / f"{place:04d}-words-0.flac", noise(place), 44_100)
        folders = {**evaluations, "real": real}
        made = write_listening_test(folders, tmp_path / "test", kind="mos")
        _, test, key = content_of(tmp_path / "test")
        assert (made["prompts"], made["items"], made["sample_rate"]) == (2, 6, 44_100)
        assert {item["prompt"] for item in test["items"]} == {PROMPTS[0], PROMPTS[2]}
        assert all(len(item["sounds"]) == 1 for item in test["items"])
        assert sorted(row["system"] for row in key) == sorted(2 * [*folders])
        assert {row["prompt"] for row in key if row["system"] == "real"} == {PROMPTS[0], PROMPTS[2]}

    def test_all_pairs_of_three_systems(self, evaluations, tmp_path):
        folders = {**evaluations, "third": evaluations["modelred"]}
        made = write_listening_test(folders, tmp_path / "test", kind="pairs", count=2)
        _, test, key = content_of(tmp_path / "test")
        assert (made["prompts"], made["items"], len(test["sounds"])) == (2, 6, 6)
        found = [
            frozenset(row["system"] for row in rows)
            for _, rows in itertools.groupby(key, lambda row: row["item"])
        ]
        expected = [frozenset(pair) for pair in itertools.combinations(folders, 2)]
        assert sorted(map(sorted, found)) == sorted(map(sorted, 2 * expected))

    def test_the_same_call_gives_the_same_test(self, evaluations, tmp_path):
        first, again, other = (tmp_path / name for name in ("first", "again", "other"))
        for out, seed in ((first, 0), (again, 0), (first, 0), (other, 1)):
            write_listening_test(evaluations, out, kind="pairs", seed=seed, count=2)
        names = ("index.html", "key.csv")
        texts = [[(out / name).read_bytes() for name in names] for out in (first, again, other)]
        assert texts[0][1] == texts[1][1] != texts[2][1]
        assert content_of(first)[1]["items"] == content_of(again)[1]["items"]
        with pytest.raises(ValueError, match=r"key\.csv: belongs to another listening test"):
            write_listening_test(evaluations, first, kind="mos")
        assert (first / "key.csv").read_bytes() == texts[0][1]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"kind": "abx"}, "kind: got 'abx'; allowed: pairs, mos"),
            ({"kind": "pairs", "count": 4}, "count: got 4; allowed: 1 to 3, the common sounds"),
            ({"kind": "mos", "count": 0}, "count: got 0; allowed: 1 or more"),
            ({"kind": "mos", "questions": ["match"]}, "questions: got match; allowed: quality, re"),
            ({"kind": "mos", "questions": []}, "questions: got none"),
        ],
    )
    def test_what_is_not_allowed(self, evaluations, tmp_path, settings, message):
        with pytest.raises(ValueError, match=message):
            write_listening_test(evaluations, tmp_path / "test", **settings)
        assert not (tmp_path / "test").exists()

    def test_a_pair_needs_two(self, evaluations, tmp_path):
        with pytest.raises(ValueError, match="folders: got 1; pairs needs 2 or more"):
            write_listening_test({"a": evaluations["modelred"]}, tmp_path / "test", kind="pairs")

    def test_sounds_without_texts(self, evaluations, tmp_path):
        folders = {name: folder / "generated" for name, folder in evaluations.items()}
        with pytest.raises(ValueError, match="match and relevance need texts"):
            write_listening_test(folders, tmp_path / "test", kind="pairs")
        made = write_listening_test(folders, tmp_path / "test", kind="pairs", questions=["overall"])
        assert made["items"] == 3
        assert {item["prompt"] for item in content_of(tmp_path / "test")[1]["items"]} == {""}

    def test_the_command_asks_the_chosen_question(self, evaluations, tmp_path, monkeypatch, capsys):
        systems = [f"--system={name}={f / 'generated'}" for name, f in evaluations.items()]
        words = ["evaluate", "listen", str(tmp_path / "test"), *systems, "--kind=mos", "--json"]
        monkeypatch.setattr("sys.argv", ["soundcrafter", *words, "--question", "quality"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
        assert json.loads(capsys.readouterr().out)["questions"] == ["quality"]


class TestSounds:
    def test_evaluations_are_matched_by_prompt(self, evaluations):
        rows = match_sounds(evaluations)
        assert [row["modelred"].prompt for row in rows] == list(PROMPTS)
        for row in rows:
            assert len({(sound.prompt, sound.file.name) for sound in row.values()}) == 1

    def test_nothing_in_common(self, evaluations, tmp_path, clips):
        first = sorted((clips / "audio").iterdir())[0].stem
        message = rf"no file name in common; the first of each: .*; real: .{first}"
        with pytest.raises(ValueError, match=message):
            match_sounds({**evaluations, "real": clips / "audio"})
        (tmp_path / "old").mkdir()
        write_json(tmp_path / "old" / "report.json", {"embedders": {}})
        with pytest.raises(ValueError, match=r"report\.json: lists no sounds"):
            match_sounds({**evaluations, "old": tmp_path / "old"})

    @pytest.mark.parametrize(
        ("sounds", "fault"),
        [
            (3, "lists no sounds"),
            (["rain"], "the sound rain lacks file"),
            ([{"file": "generated/a.wav", "prompt": "rain"}], "the sound .* lacks seed"),
            ([{"file": "a.wav", "prompt": "rain", "seed": 0}], "a.wav is not below generated/"),
        ],
    )
    def test_a_malformed_report(self, sounds, fault, evaluations, tmp_path):
        write_json(tmp_path / "report.json", {"sounds": sounds})
        with pytest.raises(ValueError, match=rf"report\.json: .*{fault}"):
            match_sounds({**evaluations, "old": tmp_path})

    @pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
    def test_loudness_of_a_sine(self, rate):
        # ITU-R BS.1770-4: a sine of 997 Hz at full scale in one channel reads -3.01
        wave = np.sin(2 * np.pi * 997 * np.arange(3 * rate) / rate).astype(np.float32)
        assert loudness(wave, rate) == pytest.approx(-3.01, abs=0.05)
        assert loudness(0.1 * wave, rate) == pytest.approx(-23.01, abs=0.05)

    def test_silence_between_sounds_does_not_count(self):
        wave = noise(0, seconds=2.0)
        gaps = np.concatenate([wave, np.zeros(8 * RATE, dtype=np.float32)])
        assert loudness(gaps, RATE) == pytest.approx(loudness(wave, RATE), abs=0.5)
        assert loudness(np.zeros(10, dtype=np.float32), RATE) == -np.inf

    def test_equally_loud(self):
        click = np.zeros(RATE, dtype=np.float32)
        click[::4000] = 0.5
        silent = np.zeros(RATE, dtype=np.float32)
        plain = equally_loud([noise(0), noise(1, level=0.001)], RATE)
        assert [loudness(wave, RATE) for wave in plain] == pytest.approx([TARGET, TARGET], abs=0.01)
        *spiky, still = equally_loud([click, noise(1), silent], RATE)
        levels = [loudness(wave, RATE) for wave in spiky]
        assert levels[0] == pytest.approx(levels[1], abs=0.01)
        assert levels[0] < TARGET
        assert np.abs(spiky[0]).max() == pytest.approx(PEAK)
        assert not still.any()

    def test_what_listeners_hear_is_levelled(self, evaluations, tmp_path):
        write_listening_test(evaluations, tmp_path / "test", kind="pairs")
        _, test, _ = content_of(tmp_path / "test")
        levels = {}
        for name, uri in test["sounds"].items():
            kind, _, data = uri.partition(";base64,")
            file = tmp_path / f"{name}.{'mp3' if 'mpeg' in kind else 'ogg'}"
            file.write_bytes(base64.b64decode(data))
            levels[name] = loudness(read_audio(file, RATE), RATE)
        for item in test["items"]:
            first, second = (levels[sound] for sound in item["sounds"])
            assert first == pytest.approx(second, abs=0.3)
            assert first == pytest.approx(TARGET, abs=1.0)  # the coder takes some of white noise


@dataclass
class Answers:
    """A key and results written by hand."""

    folder: object
    key: list = field(default_factory=list)
    rows: list = field(default_factory=list)

    def item(self, name, prompt, **systems):
        self.key += [(name, sound, system, prompt, "x.wav") for sound, system in systems.items()]

    def add(self, listener, item, question, answer, sounds, order=1, seconds=2.0):
        kind = "pairs" if " " in sounds else "mos"
        self.rows.append((listener, item, kind, question, answer, seconds, order, sounds))

    def write(self):
        files = self.folder / "results.csv", self.folder / "key.csv"
        write_csv(files[0], RESULT_COLUMNS, self.rows)
        write_csv(files[1], KEY_COLUMNS, self.key)
        return files

    def analyse(self, **options):
        results, key = self.write()
        return analyse_listening([results], key, **options)


@pytest.fixture
def pairs(tmp_path):
    """Two listeners, three items. Of "overall" ours wins 3, ties 1 and loses 2; of "match" it wins
    one of one."""
    made = Answers(tmp_path)
    for number in (1, 2, 3):
        made.item(f"i{number}", f"text {number}", **{f"s{number}a": "ours", f"s{number}b": "base"})
    made.add("ann", "i1", "overall", "A", "s1a s1b")  # ours
    made.add("ann", "i2", "overall", "B", "s2b s2a")  # ours
    made.add("ann", "i3", "overall", "tie", "s3b s3a")
    made.add("bob", "i1", "overall", "A", "s1a s1b")  # ours
    made.add("bob", "i2", "overall", "B", "s2a s2b")  # base
    made.add("bob", "i3", "overall", "A", "s3b s3a", seconds=4.0)  # base
    made.add("bob", "i3", "match", "A", "s3a s3b")
    return made


@pytest.fixture
def grades(tmp_path):
    made = Answers(tmp_path)
    for number, system in enumerate(("ours", "ours", "real", "real")):
        made.item(f"i{number}", f"text {number % 2}", **{f"s{number}": system})
    for listener, row in (("ann", "2345"), ("bob", "1255"), ("eve", "3454")):
        for number, grade in enumerate(row):
            made.add(listener, f"i{number}", "quality", grade, f"s{number}")
    return made


class TestPairs:
    def test_by_hand(self, pairs):
        report = pairs.analyse()
        assert report["kind"] == "pairs"
        counts = [report[n] for n in ("listeners", "items", "prompts", "answers", "duplicates")]
        assert counts == [2, 3, 3, 7, 0]
        assert report["median_seconds"] == 2.0
        (pair,) = report["questions"]["overall"]["pairs"]
        assert pair["systems"] == ["base", "ours"]
        assert [pair[name] for name in ("wins", "ties", "losses", "n")] == [2, 1, 3, 6]
        assert pair["win_rate"] == pytest.approx(2.5 / 6)
        assert pair["untied"]["win_rate"] == pytest.approx(2 / 5)
        assert pair["untied"]["interval"] == list(wilson_interval(2, 5))
        assert pair["untied"]["p"] == 1.0  # 2 (1 + 5 + 10) / 32
        systems = report["questions"]["overall"]["systems"]
        assert systems["ours"]["mean"] == pytest.approx(3.5 / 6)
        low, high = systems["ours"]["interval"]
        other = systems["base"]["interval"]
        assert (1 - high, 1 - low) == pytest.approx(tuple(other))
        (match,) = report["questions"]["match"]["pairs"]
        assert (match["wins"], match["losses"], match["win_rate"]) == (0, 1, 0.0)
        assert report["first_side"] == {
            "share": pytest.approx(4 / 6),
            "interval": list(wilson_interval(4, 6)),
            "n": 6,
        }

    def test_answers_of_one_listener_are_not_independent(self, tmp_path):
        # each listener has one taste for all 50 items, so that 8 listeners are 8 facts, not 400
        made = Answers(tmp_path)
        for item in range(50):
            made.item(f"i{item}", f"text {item}", **{f"a{item}": "ours", f"b{item}": "base"})
            for listener in range(8):
                side = "A" if listener < 6 else "B"
                made.add(f"p{listener}", f"i{item}", "overall", side, f"a{item} b{item}")
        (pair,) = made.analyse()["questions"]["overall"]["pairs"]
        low, high = pair["interval"]
        wilson = pair["untied"]["interval"]
        assert pair["win_rate"] == 0.25
        assert high - low > 4 * (wilson[1] - wilson[0])
        # the spread of a mean over 8 draws of a coin that falls so with 3/4, known exactly
        assert (low, high) == pytest.approx((0.0, 0.625), abs=0.13)

    def test_all_answers_alike_leave_no_doubt_to_draw(self, tmp_path):
        made = Answers(tmp_path)
        made.item("i1", "text", a="ours", b="base")
        made.add("ann", "i1", "overall", "A", "a b")
        (pair,) = made.analyse()["questions"]["overall"]["pairs"]
        assert (pair["win_rate"], pair["interval"]) == (0.0, [0.0, 0.0])
        assert "With one listener" in listening_markdown(made.analyse())

    @given(st.integers(0, 60), st.integers(0, 60))
    def test_sign_test_is_the_exact_binomial_one(self, wins, losses):
        expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        assert sign_test(wins, losses) == pytest.approx(expected)

    def test_the_last_of_two_answers_counts(self, pairs):
        pairs.add("ann", "i1", "overall", "B", "s1a s1b")
        report = pairs.analyse()
        assert (report["answers"], report["duplicates"]) == (7, 1)
        assert report["questions"]["overall"]["pairs"][0]["wins"] == 3

    def test_order_of_rows_does_not_matter(self, pairs):
        report = pairs.analyse(samples=50)
        pairs.rows.reverse()
        assert pairs.analyse(samples=50) == report
        assert pairs.analyse(samples=50, seed=1) != report

    def test_three_systems(self, tmp_path):
        made = Answers(tmp_path)
        for item, pair in enumerate(itertools.combinations("xyz", 2)):
            made.item(f"i{item}", "text", a=pair[0], b=pair[1])
            made.add("ann", f"i{item}", "overall", "A", "a b")
        found = made.analyse()["questions"]["overall"]
        assert [pair["systems"] for pair in found["pairs"]] == [["x", "y"], ["x", "z"], ["y", "z"]]
        rates = {system: rate["mean"] for system, rate in found["systems"].items()}
        assert rates == {"x": 1.0, "y": 0.5, "z": 0.0}

    def test_markdown(self, pairs):
        text = listening_markdown(pairs.analyse())
        assert "7 answers by 2 listeners to 3 items (3 prompts), median 2.0 s" in text
        row = next(line for line in text.splitlines() if line.startswith("| overall | base"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[:7] == ["overall", "base", "ours", "2", "1", "3", "0.417"]
        assert cells[8:] == ["0.400", "0.118 to 0.769", "1.000"]
        lines = text.splitlines()
        head = next(n for n, line in enumerate(lines) if line.startswith("| question"))
        assert len({line.count("|") for line in lines[head : head + 4]}) == 1


class TestGrades:
    def test_by_hand(self, grades):
        report = grades.analyse()
        assert (report["kind"], report["prompts"], report["answers"]) == ("mos", 2, 12)
        found = report["questions"]["quality"]
        ours, real = (found["systems"][name] for name in ("ours", "real"))
        assert ours["mean"] == pytest.approx((2 + 3 + 1 + 2 + 3 + 4) / 6)
        assert real["mean"] == pytest.approx((4 + 5 + 5 + 5 + 5 + 4) / 6)
        assert (ours["n"], ours["listeners"], ours["prompts"]) == (6, 3, 2)
        assert (ours["given"], real["given"]) == ([1, 2, 2, 1, 0], [0, 0, 0, 2, 4])
        assert 1.0 <= ours["interval"][0] < ours["mean"] < ours["interval"][1] <= 4.0
        (pair,) = found["differences"]
        assert pair["systems"] == ["ours", "real"]
        assert pair["difference"] == pytest.approx(2.5 - 28 / 6)
        assert pair["interval"][0] < pair["difference"] < pair["interval"][1] < 0

    def test_intervals_hold_the_truth(self, tmp_path):
        # 40 tests of listeners and prompts that lean, of a system whose mean is 3: 95% hold it
        rng, hits = np.random.default_rng(0), 0
        for _ in range(40):
            made = Answers(tmp_path)
            people, texts = rng.normal(0, 0.5, 12), rng.normal(0, 0.5, 12)
            for item in range(12):
                made.item(f"i{item}", f"text {item}", **{f"s{item}": "ours"})
                for listener in range(12):
                    grade = 3 + people[listener] + texts[item] + rng.normal(0, 0.4)
                    grade = str(int(np.clip(np.rint(grade), 1, 5)))
                    made.add(f"p{listener}", f"i{item}", "quality", grade, f"s{item}")
            found = made.analyse(samples=300)["questions"]["quality"]["systems"]["ours"]
            low, high = found["interval"]
            hits += low <= 3.0 <= high
        assert hits >= 35

    def test_markdown(self, grades):
        lines = listening_markdown(grades.analyse()).splitlines()
        row = next(line for line in lines if line.startswith("| quality | real"))
        assert row.startswith("| quality | real | 4.67 | ")
        assert row.endswith(" | 6 | 3 | 2 | 0 / 0 / 0 / 2 / 4 |")
        assert lines.index(row) < next(
            n for n, x in enumerate(lines) if x.startswith("| quality | o")
        )
        assert any(line.startswith("| quality | ours | real | -2.17 | ") for line in lines)


class TestWhatIsRejected:
    @pytest.mark.parametrize(
        ("place", "value", "message"),
        [
            (0, "", "listener: it is empty"),
            (1, "i9", "item: got 'i9', which is not in the key"),
            (2, "mos", "kind: got 'mos'; allowed: pairs"),
            (3, "quality", "question: got 'quality'; allowed: overall, match"),
            (4, "C", "answer: got 'C'; allowed: A, B, tie"),
            (5, "soon", "seconds: got 'soon'"),
            (5, "nan", "seconds: got 'nan'"),
            (5, "-1", "seconds: got '-1'"),
            (6, "1.5", "order: got '1.5'"),
            (7, "s1a s2b", "sounds: got 's1a s2b'; the key has s1a s1b"),
        ],
    )
    def test_a_row(self, pairs, place, value, message):
        row = list(pairs.rows[0])
        row[place] = value
        pairs.rows.append(row)
        with pytest.raises(ValueError) as error:
            pairs.analyse()
        assert f"results.csv, line 9: {message}" in str(error.value)
        assert "\n" not in str(error.value)

    def test_a_grade(self, grades):
        grades.add("ann", "i0", "quality", "6", "s0")
        with pytest.raises(ValueError, match="line 14: answer: got '6'; allowed: 1, 2, 3, 4, 5"):
            grades.analyse()

    def test_files(self, pairs, tmp_path):
        results, key = pairs.write()
        cut = tmp_path / "cut.csv"
        cut.write_text(results.read_text() + "ann,i1\n")
        with pytest.raises(ValueError, match=r"cut\.csv, line 9: expected 8 fields"):
            analyse_listening([results, cut], key)
        with pytest.raises(ValueError, match="needs listener, item, kind"):
            analyse_listening([key], key)
        with pytest.raises(ValueError, match=r"gone\.csv: No such file"):
            analyse_listening([tmp_path / "gone.csv"], key)
        cut.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match=r"cut\.csv: not a \.csv table"):
            analyse_listening([cut], key)
        write_csv(cut, RESULT_COLUMNS, [])
        with pytest.raises(ValueError, match="results: no answers"):
            analyse_listening([cut], key)
        write_csv(cut, KEY_COLUMNS, [("i1", f"s{n}", "x", "", "") for n in range(3)])
        with pytest.raises(ValueError, match="not the key of a listening test"):
            analyse_listening([results], cut)

    def test_a_spreadsheet_may_have_touched_it(self, pairs):
        results, key = pairs.write()
        text = results.read_text().replace("\n", "\r\n")
        results.write_text("\ufeff" + text, encoding="utf-8", newline="")
        assert analyse_listening([results], key) == pairs.analyse()
