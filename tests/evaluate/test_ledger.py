import pytest

from soundcrafter.evaluate.ledger import Ledger


def test_rows_are_there_again(tmp_path):
    ledger = Ledger(tmp_path / "a" / "rows.jsonl", {"model": "m"})
    ledger.add("one", {"value": 1})
    again = Ledger(tmp_path / "a" / "rows.jsonl", {"model": "m"})
    assert "one" in again
    assert again.rows["one"] == {"key": "one", "value": 1}


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "rows.jsonl"
    Ledger(path, {}).add("one", {"value": 1})
    with open(path, "a") as stream:
        stream.write('{"key": "two", "val')
    again = Ledger(path, {})
    assert list(again.rows) == ["one"]
    again.add("two", {"value": 2})
    assert list(Ledger(path, {}).rows) == ["one", "two"]


def test_results_of_another_identity_are_refused(tmp_path):
    Ledger(tmp_path / "rows.jsonl", {"model": "m"})
    with pytest.raises(ValueError, match="another model"):
        Ledger(tmp_path / "rows.jsonl", {"model": "n"})
