"""The records of evaluations: lines are added, and one that a kill cut short is dropped."""

from __future__ import annotations

from pathlib import Path

from momentum_gpt.core.files import read_json_lines
from momentum_gpt.evaluation import keep_records


def test_records_are_added_and_a_line_cut_short_is_dropped(tmp_path: Path) -> None:
    keep_records(
        tmp_path,
        {"step": 1},
        {"icl": [{"k": 0, "scores": [1.0]}, {"k": 4, "scores": [2.0]}], "perplexity": []},
    )
    path = tmp_path / "evaluations" / "icl.jsonl"
    with path.open("a") as file:
        file.write('{"step": 2, "k"')
    keep_records(
        tmp_path, {"step": 3}, {"icl": [{"k": 8, "scores": [3.0]}]}, leave_out=frozenset({"scores"})
    )
    first, second, third = read_json_lines(path)
    assert (first, second["k"], third) == (
        {"step": 1, "k": 0, "scores": [1.0]},
        4,
        {"step": 3, "k": 8},
    )
    assert path.read_text().count("\n") == 3
    assert read_json_lines(tmp_path / "evaluations" / "perplexity.jsonl") == []
