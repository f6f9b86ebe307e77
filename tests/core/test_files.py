"""Files are written whole or not at all, and a line that was cut short costs only itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from momentum_gpt.core import files


def test_a_file_keeps_its_old_content_if_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    files.write_text(path, "old")

    def write_half() -> None:
        with files.replacing(path) as partial:
            partial.write_text("half of the n")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_half()
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["config.yaml"]


def test_json_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    content = {"name": "Größe", "values": [1, 2.5, None]}
    files.write_json(tmp_path / "deep" / "a.json", content)
    assert files.read_json(tmp_path / "deep" / "a.json") == content
    assert json.loads((tmp_path / "deep" / "a.json").read_text(encoding="utf-8")) == content


def test_a_line_that_a_kill_cut_short_is_left_out_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert files.read_json_lines(path) == [{"step": 1}, {"step": 2}]

    files.append_json_lines(path, [{"step": 3}, {"step": 4}])
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4}\n'


def test_lines_that_are_not_wanted_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    files.append_json_lines(path, [{"step": step} for step in range(5)])
    files.keep_json_lines(path, lambda record: record["step"] <= 2)
    assert [record["step"] for record in files.read_json_lines(path)] == [0, 1, 2]


def test_a_missing_file_has_no_records(tmp_path: Path) -> None:
    assert files.read_json_lines(tmp_path / "none.jsonl") == []


def test_the_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x00momentum\xff")
    expected = hashlib.sha256(b"\x00momentum\xff").hexdigest()
    assert files.sha256_of_file(tmp_path / "a") == expected


def test_the_folder_of_yaml_files_is_found() -> None:
    assert (files.conf_folder() / "train.yaml").is_file()
