"""Text as it is: every kind of file is read, as it is, and what is wrong is said."""

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
    lines = "".join(json.dumps({"text": text, "body": text.upper()}) + "\n" for text in DOCUMENTS)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.table({"text": DOCUMENTS}), tmp_path / "c.parquet")
    (tmp_path / "d.txt").write_bytes(DOCUMENTS[0].encode())
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress(DOCUMENTS[2].encode()))
    (tmp_path / "notes.md").write_text("not read")
    return tmp_path


@pytest.mark.parametrize(
    ("names", "expected"),
    [("a.jsonl", DOCUMENTS), ("b.jsonl.gz", DOCUMENTS), ("c.parquet", DOCUMENTS), ("*.txt", DOCUMENTS[:1]),
     ("e.txt.gz", DOCUMENTS[2:3]), ("", [*DOCUMENTS * 3, DOCUMENTS[0], DOCUMENTS[2]])],
)  # fmt: skip
def test_files_are_read_as_they_are(folder: Path, names: str, expected: list[str]) -> None:
    assert list(read_texts(str(folder / names), None, "test", "text")) == expected


def test_of_a_folder_with_splits_one_is_read_and_the_field_that_is_named(folder: Path) -> None:
    for split, name in (("train", "b.jsonl.gz"), ("test-00000-of-00001", "a.jsonl")):
        (folder / name).rename(folder / f"{split}.{name.partition('.')[2]}")
    assert list(read_texts(str(folder), None, "test", "body")) == [
        text.upper() for text in DOCUMENTS
    ]
    assert list(read_texts(str(folder), None, "train", "text")) == DOCUMENTS


def test_a_set_in_the_hubs_layout_is_read_as_the_hub_is(folder: Path) -> None:
    (folder / "set").mkdir()
    (folder / "a.jsonl").rename(folder / "set" / "validation.jsonl")
    assert [row["text"] for row in _rows(str(folder / "set"), None, "validation")] == DOCUMENTS


def test_a_stream_is_the_documents_and_their_ends(data_folder: Path) -> None:
    tokenizer = load_tokenizer(data_folder)
    stream = Texts(DOCUMENTS, tokenizer, 10**6, "mine")
    expected = [i for text in DOCUMENTS for i in (*tokenizer.encode(text), tokenizer.eos_id)]
    assert stream.read(0, len(stream)).tolist() == expected
    assert stream.read(3, 2).tolist() == expected[3:5]
    few = Texts((text for text in DOCUMENTS), tokenizer, 3, "mine")
    assert few.read(0, len(few)).tolist() == expected[: len(few)]
    assert len(few) == len(tokenizer.encode(DOCUMENTS[0])) + 1


def test_mistakes_are_named(
    folder: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for source, field, said in (
        (str(folder / "a.jsonl"), "content", "has no field 'content': name it with text.field="),
        (str(folder / "*.md"), "text", "has no file of .txt, .jsonl"),
        (
            str(folder / "nothing.txt"),
            "text",
            "is no file here, and as a set of the hub cannot be read",
        ),
    ):
        with pytest.raises(UserError, match=said):
            list(read_texts(source, None, "test", field))
    (folder / "bad.jsonl").write_text("{broken\n")
    with pytest.raises(UserError, match=r"bad.jsonl' cannot be read"):
        list(read_texts(str(folder / "bad.jsonl"), None, "test", "text"))
    with pytest.raises(UserError, match="mine has no documents"):
        Texts([], load_tokenizer(data_folder), 5, "mine")
