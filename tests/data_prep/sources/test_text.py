"""Documents of local files: text, JSON lines and parquet."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.sources import Corpus, Document, Faults
from momentum_gpt.core.errors import UserError
from tests.data_prep.samples import json_lines, texts


def read_by_parts(corpus: Corpus, part_bytes: int) -> list[str]:
    found = []
    for part in corpus.parts(part_bytes):
        found += [document.text for document in corpus.read(part, Faults())]
    return found


def test_documents_are_cut_at_the_separator_or_before_a_title(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(" = One = \nfirst\n\n\n = Two = \nsecond\n = = Part = = \nmore\n")
    assert texts(kind="text", paths=[str(path)]) == [path.read_text()]

    by_separator = texts(kind="text", paths=[str(path)], separator="\\n\\n\\n")
    assert by_separator == [
        " = One = \nfirst",
        " = Two = \nsecond\n = = Part = = \nmore\n",
    ]

    by_title = texts(kind="text", paths=[str(path)], document_start=" = [^=].* = $")
    assert len(by_title) == 2
    assert "".join(by_title) == path.read_text()


def test_validation_files_are_validation(
    tmp_path: Path,
    corpus_of: Callable[..., Corpus],
) -> None:
    for name in ("train", "valid"):
        (tmp_path / f"{name}.txt").write_text(name)
    corpus = corpus_of(
        paths=[str(tmp_path / "train.txt")],
        validation_paths=[str(tmp_path / "valid.txt")],
    )
    expected = [Document("train", "train"), Document("valid", "validation")]
    assert list(corpus.documents()) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        (b'{"body": "a"}\n', "line 1 has no column 'text': its columns are body"),
        (b'{"text": 3}\n', "column 'text' holds int, not text"),
        (b'{"text": "\\ud800"}\n', "half a surrogate pair"),
        (b"[1]\n", "it is no JSON object"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        texts(kind="text", paths=[str(path)])


def test_another_encoding_and_a_bad_pattern_are_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes("naïve".encode("latin-1"))
    message = r"latin\.txt is not UTF-8: byte 0xef at offset 2; convert it"
    with pytest.raises(UserError, match=message):
        texts(kind="text", paths=[str(latin)])
    with pytest.raises(UserError, match="not a regular expression"):
        texts(kind="text", paths=[__file__], document_start="(")


@pytest.mark.parametrize("part_bytes", [1, 7, 100, 1000, 10**9])
def test_parts_of_any_size_hold_every_document_once_and_whole(
    tmp_path: Path,
    part_bytes: int,
    corpus_of: Callable[..., Corpus],
) -> None:
    expected = []
    for number in range(30):
        expected.append(f"= {number}\n" + "line\n" * (number % 5) + "é" * number)
    with_ends = [document + "\n" for document in expected]
    (tmp_path / "a.jsonl").write_bytes(json_lines(*expected))
    (tmp_path / "b.txt").write_text("".join(with_ends))
    (tmp_path / "c.md").write_text("".join(with_ends))

    corpus = corpus_of(document_start="= ")
    parts = list(corpus.parts(part_bytes))
    assert read_by_parts(corpus, part_bytes) == expected + with_ends + with_ends
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert sum(part.size for part in parts) == sum(sizes)
    assert all(corpus.sha256(part) for part in parts)


def test_parquet_is_read_by_row_groups(
    tmp_path: Path,
    corpus_of: Callable[..., Corpus],
) -> None:
    rows = [f"document {number} " * 20 for number in range(100)]
    path = tmp_path / "a.parquet"
    table = pa.table({"body": rows, "n": list(range(100))})
    pq.write_table(table, path, row_group_size=9)
    assert texts(kind="text", paths=str(path), column="body") == rows

    corpus = corpus_of(column="body")
    assert len(list(corpus.parts(2000))) > 3
    assert read_by_parts(corpus, 2000) == rows
    with pytest.raises(UserError, match="has no column 'text': its columns are body, n"):
        texts(kind="text", paths=str(path))

    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged or cut short"):
        texts(kind="text", paths=str(path), column="body")


@pytest.mark.parametrize("text", ["a line of words\n" * 20, "word " * 100, "日本語" * 60])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_endless_documents_are_cut_at_lines_and_spaces_and_nothing_is_lost(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    text: str,
) -> None:
    monkeypatch.setattr("data_prep.sources.assembly.LONGEST_DOCUMENT", 50)
    path = tmp_path / name
    path.write_bytes(text.encode() if name.endswith(".txt") else json_lines(text))
    read = texts(kind="text", paths=str(path))
    assert "".join(read) == text
    assert all(len(document.encode()) <= 50 for document in read)
    assert len(read) > 4


def test_the_last_document_of_a_damaged_file_is_left_out(
    tmp_path: Path, corpus_of: Callable[..., Corpus]
) -> None:
    """It may be cut anywhere, and half a document is no document."""
    lines = json_lines(*map(str, range(5000)))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"some text " * 5000)[:-40])
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines)[:-40])

    corpus = corpus_of()
    faults = Faults(skip=True)
    read = []
    for part in corpus.parts(10**9):
        read += [document.text for document in corpus.read(part, faults)]
    assert faults.counts == {"damaged": 2}
    assert read == [str(number) for number in range(len(read))]
    assert 1000 < len(read) < 5000
