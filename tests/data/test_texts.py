"""Plain text: every kind of file is read unchanged, and mistakes are named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Texts, load_tokenizer, read_texts
from momentum_gpt.data.texts import _rows

DOCUMENTS = ["one\r\n\ttwo  three\n", "", "häßlich ☃ " * 300, " last"]


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
    return tmp_path


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("a.jsonl", DOCUMENTS),
        ("b.jsonl.gz", DOCUMENTS),
        ("c.parquet", DOCUMENTS),
        ("*.txt", DOCUMENTS[:1]),
        ("e.txt.gz", DOCUMENTS[2:3]),
        ("", [*DOCUMENTS * 3, DOCUMENTS[0], DOCUMENTS[2]]),
    ],
)
def test_files_are_read_as_they_are(folder: Path, names: str, expected: list[str]) -> None:
    assert list(read_texts(str(folder / names), None, "test", "text")) == expected


def test_of_a_folder_with_splits_one_is_read_and_the_field_that_is_named(folder: Path) -> None:
    (folder / "b.jsonl.gz").rename(folder / "train.jsonl.gz")
    (folder / "a.jsonl").rename(folder / "test-00000-of-00001.jsonl")
    upper = [text.upper() for text in DOCUMENTS]
    assert list(read_texts(str(folder), None, "test", "body")) == upper
    assert list(read_texts(str(folder), None, "train", "text")) == DOCUMENTS


def test_a_data_set_in_the_hubs_layout_is_read_as_the_hub_is(folder: Path) -> None:
    (folder / "set").mkdir()
    (folder / "a.jsonl").rename(folder / "set" / "validation.jsonl")
    assert [row["text"] for row in _rows(str(folder / "set"), None, "validation")] == DOCUMENTS


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
    ("name", "field", "message"),
    [
        ("a.jsonl", "content", "has no field 'content': name it with text.field="),
        ("*.md", "text", "has no file of .txt, .jsonl"),
        ("nothing.txt", "text", "is no file here, and as a data set of the hub cannot be read"),
        ("bad.jsonl", "text", r"bad.jsonl' cannot be read"),
    ],
)
def test_text_that_cannot_be_read_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, field: str, message: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (folder / "bad.jsonl").write_text("{broken\n")
    with pytest.raises(UserError, match=message):
        list(read_texts(str(folder / name), None, "test", field))


def test_no_documents_are_refused(data_folder: Path) -> None:
    with pytest.raises(UserError, match="mine has no documents"):
        Texts([], load_tokenizer(data_folder), 5, "mine")
