"""Plain text: every kind of file is read unchanged, and mistakes are named."""

from __future__ import annotations

import bz2
import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Texts, load_tokenizer, read_texts
from momentum_gpt.data.texts import _hub_rows

DOCUMENTS = ["one\n\ttwo  three\n", "", "häßlich ☃ " * 300, " last"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The documents in every kind of file, and a file of another kind."""
    rows = [{"text": text, "body": text.upper()} for text in DOCUMENTS]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.table({"text": DOCUMENTS}), tmp_path / "c.parquet")
    (tmp_path / "d.txt").write_bytes(DOCUMENTS[0].encode())
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress(DOCUMENTS[2].encode()))
    (tmp_path / "notes.md").write_text("not read")
    (tmp_path / "f.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "g.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    (tmp_path / "h.jsonl.bz2").write_bytes(bz2.compress(lines.encode()))
    return tmp_path


def read(source: Path, field: str = "text", split: str = "test") -> list[str]:
    return list(read_texts(str(source), None, split, field, Counter()))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("a.jsonl", DOCUMENTS),
        ("b.jsonl.gz", DOCUMENTS),
        ("c.parquet", DOCUMENTS),
        ("*.txt", DOCUMENTS[:1]),
        ("e.txt.gz", DOCUMENTS[2:3]),
        ("f.json", DOCUMENTS),
        ("g.jsonl.zst", DOCUMENTS),
        ("h.jsonl.bz2", DOCUMENTS),
        ("", [*DOCUMENTS * 3, DOCUMENTS[0], DOCUMENTS[2], *DOCUMENTS * 3]),
    ],
)
def test_files_of_every_kind_are_read(folder: Path, names: str, expected: list[str]) -> None:
    changed: Counter[str] = Counter()
    assert list(read_texts(str(folder / names), None, "test", "text", changed)) == expected
    not_read = {} if names else {"files of another kind or split not read": 1}
    assert changed == not_read


def test_marks_and_newlines_of_other_systems_are_changed_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\rthree\n\ufefffour".encode())
    lines = json.dumps({"text": "\ufefffive\r\n"})
    (tmp_path / "b.jsonl").write_bytes(f"\ufeff{lines}\r\n".encode())
    changed: Counter[str] = Counter()
    found = list(read_texts(str(tmp_path), None, "test", "text", changed))
    assert found == ["one\ntwo\nthree\n\ufefffour", "five\n"]
    assert changed == {"byte-order marks removed": 2, r"newlines \r\n or \r made \n": 3}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, empty])
@pytest.mark.parametrize("name", ["b.jsonl.gz", "c.parquet", "g.jsonl.zst", "h.jsonl.bz2"])
def test_a_damaged_file_is_named(folder: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(folder / name)
    with pytest.raises(UserError, match=rf"{name} cannot be read .*damaged or cut short"):
        read(folder / name)


def test_of_a_folder_with_splits_one_is_read_and_the_field_that_is_named(folder: Path) -> None:
    (folder / "b.jsonl.gz").rename(folder / "train.jsonl.gz")
    (folder / "a.jsonl").rename(folder / "test-00000-of-00001.jsonl")
    upper = [text.upper() for text in DOCUMENTS]
    assert read(folder, "body", "test") == upper
    assert read(folder, "text", "train") == DOCUMENTS


def test_a_data_set_in_the_hubs_layout_is_read_as_the_hub_is(folder: Path) -> None:
    (folder / "set").mkdir()
    (folder / "a.jsonl").rename(folder / "set" / "validation.jsonl")
    rows = list(_hub_rows(str(folder / "set"), None, "validation"))
    assert [row["text"] for _, row in rows] == DOCUMENTS
    assert rows[1][0].endswith("/set', row 2")


def test_a_stream_is_the_documents_and_their_ends(data_folder: Path) -> None:
    tokenizer = load_tokenizer(data_folder)
    stream = Texts(DOCUMENTS, tokenizer, 10**6, "mine")
    expected = []
    for text in DOCUMENTS:
        expected += [*tokenizer.encode(text), tokenizer.eos_id]
    assert stream.read(0, len(stream)).tolist() == expected
    assert stream.read(3, 2).tolist() == expected[3:5]


def test_documents_are_read_until_there_are_enough_tokens(data_folder: Path) -> None:
    tokenizer = load_tokenizer(data_folder)
    few = Texts(iter(DOCUMENTS), tokenizer, 3, "mine")
    expected = [*tokenizer.encode(DOCUMENTS[0]), tokenizer.eos_id]
    assert few.read(0, len(few)).tolist() == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"body": "x"}\n', "a.jsonl, line 1 has no field 'text': .* set text.field"),
        ("a.jsonl", b'{"text": "x"}\n\n{"text": null}\n', "line 3: field 'text' is null"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "x\n', "a.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'{"text": "\xe9"}\n', "a.jsonl is not UTF-8: byte 0xe9 at offset 10"),
        ("a.json", b'[{"text": "x"}, {"text": 3}]', "a.json, row 2: field 'text' holds int"),
        ("a.txt", "x".encode("utf-16"), "a.txt is UTF-16 or UTF-32: convert it"),
        ("a.md", b"x", r"has no file of \.txt, \.jsonl"),
    ],
)
def test_text_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name)


def test_a_name_that_is_no_file_may_be_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = "is no file here, and as a data set of the hub cannot be read"
    with pytest.raises(UserError, match=message):
        read(tmp_path / "nothing.txt")


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_documents_without_text_are_refused(data_folder: Path, texts: list[str]) -> None:
    with pytest.raises(UserError, match="mine has no text"):
        Texts(texts, load_tokenizer(data_folder), 5, "mine")
