import pytest

from soundcrafter.evaluate.result_log import ResultLog


def test_rows_are_there_again(tmp_path):
    log = ResultLog(tmp_path / "a" / "rows.jsonl", {"model": "m"})
    log.add("one", {"value": 1})
    again = ResultLog(tmp_path / "a" / "rows.jsonl", {"model": "m"})
    assert "one" in again
    assert again.rows["one"] == {"key": "one", "value": 1}


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "rows.jsonl"
    ResultLog(path, {}).add("one", {"value": 1})
    with open(path, "a") as stream:
        stream.write('{"key": "two", "val')
    again = ResultLog(path, {})
    assert list(again.rows) == ["one"]
    again.add("two", {"value": 2})
    assert list(ResultLog(path, {}).rows) == ["one", "two"]


def test_results_of_another_identity_are_refused(tmp_path):
    ResultLog(tmp_path / "rows.jsonl", {"model": "m"})
    with pytest.raises(ValueError, match="another model"):
        ResultLog(tmp_path / "rows.jsonl", {"model": "n"})
