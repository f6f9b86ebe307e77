"""Files are written whole or not at all, and a line that was cut short costs only itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from momentum_gpt.core import files
from momentum_gpt.core.errors import MachineError
from tests.conftest import fill, make_read_only

BIG = torch.zeros(2**20)
"""4 MiB, as much as a small disk has."""

WRITERS: dict[str, Callable[[Path], object]] = {
    "python": lambda path: path.write_bytes(BIG.numpy().tobytes()),
    "numpy": lambda path: np.save(path.open("wb"), BIG.numpy()),
    "torch": lambda path: torch.save(BIG, path),
    "safetensors": lambda path: safetensors.torch.save_file({"a": BIG}, path),
}
"""Ways to write a file, each with errors of its own."""


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


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("is_full", [True, False], ids=["full", "read-only"])
def test_a_disk_that_takes_no_more_leaves_the_old_file_and_is_named_in_one_line(
    small_disk: Path, write: Callable[[Path], object], is_full: bool
) -> None:
    path = small_disk / "runs" / "model"
    files.write_text(path, "old")
    if not is_full:
        make_read_only(small_disk)

    def replace() -> None:
        with files.replacing(path) as partial:
            write(partial)

    with pytest.raises(MachineError) as caught:
        replace()
    reason = "no space left on device" if is_full else "read-only file system"
    remedy = "free some space" if is_full else "make it writable"
    assert str(caught.value).startswith(f"{path} cannot be written ({reason}): {remedy}")
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert [found.name for found in path.parent.iterdir()] == ["model"]


def test_other_errors_are_not_taken_for_a_full_disk(small_disk: Path) -> None:
    def fail() -> None:
        with files.replacing(small_disk / "a") as partial:
            partial.write_text("a")
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        fail()


def test_a_line_that_a_kill_cut_short_is_left_out_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert files.read_json_lines(path) == [{"step": 1}, {"step": 2}]

    files.append_json_lines(path, [{"step": 3}, {"step": 4}])
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4}\n'


def test_a_last_line_without_its_newline_is_kept_if_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}')
    assert files.read_json_lines(path) == [{"step": 1}, {"step": 2}]
    files.append_json_lines(path, [{"step": 3}])
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


BAD = [
    *(b'{"step": 2', b"3", b"null", b"[]", b'{"step": "\xff"}', b"\x00\x8f\x93\r", b"[" * 10**5),
    *(b"{}", b'{"tokens": 2}', b'{"step": "2"}'),
]
"""Lines that are no JSON objects, or have no step."""

LEFT_OUT = "line {} is no record (a JSON object with a step): left out"


@pytest.mark.parametrize("bad", BAD, ids=[repr(line[:12]) for line in BAD])
def test_a_bad_line_is_named_once_and_costs_only_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: bytes
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + bad + b'\n{"step": 3}\n{"step": 4}\n')
    for _ in range(2):
        found = files.numbered_json_lines(path)
        assert found == [(1, {"step": 1}), (3, {"step": 3}), (4, {"step": 4})]
    assert capsys.readouterr().err == f"{path}: {LEFT_OUT.format(2)}\n"

    files.append_json_lines(path, [{"step": 5}])
    assert [record["step"] for record in files.read_json_lines(path)] == [1, 3, 4, 5]


def test_many_bad_lines_are_named_in_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("x\n" * 7 + '\n{"step": 1}\n')
    assert files.read_json_lines(path) == [{"step": 1}]
    said = "7 lines are no records (JSON objects with a step): left out, lines 1, 2, 3, 4, 5, ..."
    assert capsys.readouterr().err == f"{path}: {said}\n"


def test_lines_that_are_not_wanted_are_dropped_and_what_is_not_read_is_not_deleted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step":  2, "a": NaN}\nno \xff\n{"step": 3}\n{"step": 1}')
    files.keep_json_lines(path, lambda record: record["step"] <= 2)
    assert path.read_bytes() == b'{"step": 0}\n{"step":  2, "a": NaN}\nno \xff\n{"step": 1}\n'
    assert capsys.readouterr().err == f"{path}: {LEFT_OUT.format(3)}\n"

    path.write_text('{"step": 0}\n{"st')
    files.keep_json_lines(path, lambda record: True)
    assert path.read_text() == '{"step": 0}\n'


def test_lines_that_a_full_disk_cuts_are_taken_back(small_disk: Path) -> None:
    path = small_disk / "evaluations" / "icl.jsonl"
    files.append_json_lines(path, [{"step": 1}])
    before = path.read_bytes()
    ballast = fill(small_disk, leave=3 * 4096)

    records = [{"step": 2, "text": "a" * 5000}, {"step": 3, "text": "b" * 50_000}]
    with pytest.raises(MachineError, match=r"icl\.jsonl cannot be written"):
        files.append_json_lines(path, records)
    assert path.read_bytes() == before

    fill(small_disk)
    with pytest.raises(MachineError, match=r"icl\.jsonl cannot be written"):
        files.keep_json_lines(path, lambda record: True)
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir()] == ["icl.jsonl"]

    ballast.unlink()
    files.append_json_lines(path, records)
    assert files.read_json_lines(path) == [{"step": 1}, *records]


def test_a_missing_file_has_no_records(tmp_path: Path) -> None:
    assert files.read_json_lines(tmp_path / "none.jsonl") == []


def test_the_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x00momentum\xff")
    expected = hashlib.sha256(b"\x00momentum\xff").hexdigest()
    assert files.sha256_of_file(tmp_path / "a") == expected


def test_the_folder_of_yaml_files_is_found() -> None:
    assert (files.conf_folder() / "train.yaml").is_file()
