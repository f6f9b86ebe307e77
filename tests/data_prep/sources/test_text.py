"""Documents of local files: text, JSON lines and parquet."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.sources import Corpus, Document, Faults, text
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
        (b'{"text": "a"}\n\n{"text": null}\n', "line 3: column 'text' is null: leave out the row"),
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


def test_a_row_of_a_parquet_file_and_a_changed_byte_are_named(
    tmp_path: Path, corpus_of: Callable[..., Corpus]
) -> None:
    path = tmp_path / "a.parquet"
    rows: list[str | None] = [f"document {number}" for number in range(40)]
    rows[33] = None
    table = pa.table({"text": rows})
    options = {"row_group_size": 9, "compression": "none", "write_page_checksum": True}
    pq.write_table(table, path, **options)
    with pytest.raises(UserError, match=r"a\.parquet, row 34: column 'text' is null"):
        texts(kind="text", paths=str(path))
    corpus = corpus_of()
    *_, fourth, _ = corpus.parts(1)
    with pytest.raises(UserError, match=r"a\.parquet, row 34: column 'text' is null"):
        list(corpus.read(fourth, Faults()))

    path.write_bytes(path.read_bytes().replace(b"document 7", b"Document 7"))
    with pytest.raises(UserError, match=r"a\.parquet cannot be read .*damaged"):
        texts(kind="text", paths=str(path))


BREAKS = {"lf": "\n", "crlf": "\r\n", "cr": "\r"}


@pytest.mark.parametrize("part_bytes", [1, 7, 100, 10**9])
@pytest.mark.parametrize("newline", BREAKS.values(), ids=BREAKS)
def test_documents_are_cut_at_the_newlines_of_every_system(
    tmp_path: Path, part_bytes: int, newline: str, corpus_of: Callable[..., Corpus]
) -> None:
    expected = [f"= {number} =\n" + "line\n" * (number % 4) for number in range(30)]
    path = tmp_path / "a.txt"
    path.write_bytes("".join(expected).replace("\n", newline).encode())

    corpus = corpus_of(document_start="= [0-9]+ =$")
    found = [text.replace(newline, "\n") for text in read_by_parts(corpus, part_bytes)]
    assert found == expected

    path.write_bytes("\n\n".join(expected).replace("\n", newline).encode())
    found = read_by_parts(corpus_of(separator="\\n\\n\\n"), part_bytes)
    assert [text.replace(newline, "\n") + "\n" for text in found[:-1]] == expected[:-1]


def test_a_separator_may_stand_across_two_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ["a" * number + "\r\nb" for number in range(1, 40)]
    (tmp_path / "a.txt").write_bytes("\r\n\r\n".join(expected).encode())
    blocks_of = text.blocks
    for size in range(1, 12):
        monkeypatch.setattr(text, "blocks", lambda path, size=size: blocks_of(path, size))
        monkeypatch.setattr(text, "BLOCK", size)
        assert texts(kind="text", paths=str(tmp_path), separator="\\n\\n") == expected


def test_byte_order_marks_are_removed_at_the_beginning_of_documents_and_counted(
    tmp_path: Path, corpus_of: Callable[..., Corpus]
) -> None:
    """Files that begin with one are often joined; further on it is a character."""
    (tmp_path / "a.txt").write_bytes("\ufeff= 1\na\ufeffb\n\ufeff= 2\nc\n".encode())
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + json_lines("d", "\ufeffe"))
    pq.write_table(pa.table({"text": ["\ufefff", "\ufeff"]}), tmp_path / "c.parquet")
    corpus = corpus_of(document_start="= ")
    faults = Faults()
    found = []
    for part in corpus.parts(10**9):
        found += [document.text for document in corpus.read(part, faults)]
    assert found == ["= 1\na\ufeffb\n", "= 2\nc\n", "d", "e", "f"]
    assert faults.counts == {"byte-order marks removed": 6, "empty": 1}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-be"])
def test_other_encodings_of_unicode_are_named(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "a.md").write_bytes(f"{mark}text".encode(encoding))
    with pytest.raises(UserError, match=r"a\.md is UTF-16 or UTF-32: convert it first"):
        texts(kind="text", paths=str(tmp_path))


def test_the_offset_of_a_bad_byte_is_that_in_the_file(
    tmp_path: Path, corpus_of: Callable[..., Corpus]
) -> None:
    content = b"= 1\r\na\r\n= 2\r\nb\r\n= 3\r\n\xe9\n"
    (tmp_path / "a.txt").write_bytes(content)
    for options in ({"document_start": "= "}, {"separator": "= "}, {}):
        corpus = corpus_of(**options)
        with pytest.raises(UserError, match=f"at offset {content.index(0xE9)};"):
            read_by_parts(corpus, 9)


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
