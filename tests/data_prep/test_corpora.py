"""Reading documents: from files of every kind, and through the hub's own client from a local folder."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from data_prep.corpora import Document, Faults, build_corpus, split_of
from momentum_gpt.core.errors import UserError


def texts(**options: Any) -> list[str]:
    return [document.text for document in build_corpus(options).documents()]


def jsonl(*documents: str) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in documents)


def test_the_standard_library_is_megabytes_of_source_without_its_tests() -> None:
    documents = [document.text for document in build_corpus({"kind": "stdlib"}).documents()]
    assert 8e6 < sum(len(text.encode()) for text in documents) < 20e6
    assert any("class OrderedDict(dict):" in text for text in documents)
    assert not any("class TestOrderedDict" in text for text in documents)


def test_files_folders_and_globs_plain_and_packed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.jsonl").write_bytes(jsonl("two", "three"))
    (tmp_path / "sub" / "c.jsonl.gz").write_bytes(gzip.compress(jsonl("four")))
    (tmp_path / "sub" / "d.jsonl.zst").write_bytes(zstandard.compress(jsonl("five")))
    (tmp_path / "ignored.md").write_text("no")
    assert sorted(texts(kind="text", paths=[str(tmp_path)])) == [
        "five",
        "four",
        "one",
        "three",
        "two",
    ]
    assert texts(kind="text", paths=str(tmp_path / "*.txt")) == ["one"]
    assert texts(
        kind="text", paths=[str(tmp_path / "sub" / "d.jsonl.zst"), str(tmp_path / "a.txt")]
    ) == ["five", "one"]


def test_a_zst_of_several_frames_is_read_to_its_end(tmp_path: Path) -> None:
    """Concatenated frames are common; a reader that stops after the first loses the rest without a word."""
    (tmp_path / "a.jsonl.zst").write_bytes(
        zstandard.compress(jsonl("one")) + zstandard.compress(jsonl("two"))
    )
    assert texts(kind="text", paths=[str(tmp_path)]) == ["one", "two"]


def test_a_gz_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl(*map(str, range(1000))))[:-20])
    with pytest.raises(UserError, match=r"a\.jsonl\.gz cannot be read .*damaged or cut short"):
        texts(kind="text", paths=[str(tmp_path)])


def test_documents_of_a_text_file_are_cut_at_the_separator_or_before_a_title(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(" = One = \nfirst\n\n\n = Two = \nsecond\n = = Part = = \nmore\n")
    assert texts(kind="text", paths=[str(path)]) == [path.read_text()]
    assert texts(kind="text", paths=[str(path)], separator="\\n\\n\\n") == [
        " = One = \nfirst",
        " = Two = \nsecond\n = = Part = = \nmore\n",
    ]
    by_title = texts(kind="text", paths=[str(path)], document_start=" = [^=].* = $")
    assert len(by_title) == 2
    assert "".join(by_title) == path.read_text()


def test_validation_files_are_validation(tmp_path: Path) -> None:
    for name in ("train", "valid"):
        (tmp_path / f"{name}.txt").write_text(name)
    corpus = build_corpus(
        {
            "kind": "text",
            "paths": [str(tmp_path / "train.txt")],
            "validation_paths": [str(tmp_path / "valid.txt")],
        }
    )
    assert list(corpus.documents()) == [Document("train", "train"), Document("valid", "validation")]


def test_the_split_is_a_function_of_the_text() -> None:
    splits = [split_of(f"document {i}", 0.1) for i in range(5000)]
    assert splits == [split_of(f"document {i}", 0.1) for i in range(5000)]
    assert splits.count("validation") == pytest.approx(500, abs=100)


def test_a_local_folder_in_the_hubs_layout_goes_through_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [" = A = \n", "a\n", "", " = = B = = \n", " = C = \n", "c\n"]
    (folder / "train.jsonl").write_bytes(jsonl(*rows))
    (folder / "validation.jsonl").write_bytes(jsonl("v"))
    for streaming in (False, True):
        options = {"kind": "hub", "dataset": str(folder), "streaming": streaming}
        assert texts(**options, document_start=" = [^=].* = \n?$") == [
            " = A = \na\n = = B = = \n",
            " = C = \nc\n",
        ]
        assert texts(**options, max_documents=2) == [" = A = \n", "a\n"]
        corpus = build_corpus({**options, "validation_split": "validation"})
        assert list(corpus.documents())[-1] == Document("v", "validation")
        with pytest.raises(
            UserError, match=r"has no column 'body': its columns are text; set corpus.column"
        ):
            texts(**options, column="body")
        with pytest.raises(UserError, match="split 'dev' cannot be loaded"):
            texts(**options, split="dev")


def test_bad_input_is_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes("naïve".encode("latin-1"))
    with pytest.raises(
        UserError, match=r"latin\.txt is not UTF-8: byte 0xef at offset 2; convert it"
    ):
        texts(kind="text", paths=[str(latin)])
    lines = tmp_path / "a.jsonl"
    for content, said in (
        (b'{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        (b'{"body": "a"}\n', "line 1 has no column 'text': its columns are body"),
        (b'{"text": 3}\n', "column 'text' holds int, not text"),
        (b'{"text": "\\ud800"}\n', "half a surrogate pair"),
        (b"[1]\n", "it is no JSON object"),
    ):
        lines.write_bytes(content)
        with pytest.raises(UserError, match=said):
            texts(kind="text", paths=[str(lines)])
    with pytest.raises(UserError, match="is no file, no folder"):
        texts(kind="text", paths=[str(tmp_path / "*.nothing")])
    with pytest.raises(UserError, match="not a regular expression"):
        texts(kind="text", paths=[__file__], document_start="(")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "web"}, "corpus.kind must be one of stdlib, text, hub, got 'web'"),
        ({"kind": "text", "path": "a"}, "Key 'path' not in 'TextCorpus'"),
        ({"kind": "text"}, "mandatory value: paths"),
        (
            {"kind": "hub", "dataset": "a", "streaming": "perhaps"},
            "could not be converted|not a valid bool",
        ),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        texts(**options)


@pytest.mark.parametrize("part_bytes", [1, 7, 100, 1000, 10**9])
def test_parts_of_any_size_hold_every_document_once_and_whole(
    tmp_path: Path, part_bytes: int
) -> None:
    documents = [f"= {number}\n" + "line\n" * (number % 5) + "é" * number for number in range(30)]
    (tmp_path / "a.jsonl").write_bytes(jsonl(*documents))
    (tmp_path / "b.txt").write_text("".join(document + "\n" for document in documents))
    corpus = build_corpus({"kind": "text", "paths": [str(tmp_path)], "document_start": "= "})
    parts = list(corpus.parts(part_bytes))
    read = [document.text for part in parts for document in corpus.read(part, Faults())]
    assert read == [*documents, *(document + "\n" for document in documents)]
    assert sum(part.size for part in parts) == sum(
        path.stat().st_size for path in tmp_path.iterdir()
    )
    assert all(corpus.sha256(part) for part in parts)


def test_parquet_is_read_by_row_groups(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [f"document {number} " * 20 for number in range(100)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": rows, "n": list(range(100))}), path, row_group_size=9)
    assert texts(kind="text", paths=str(path), column="body") == rows
    corpus = build_corpus({"kind": "text", "paths": [str(path)], "column": "body"})
    parts = list(corpus.parts(2000))
    assert len(parts) > 3
    assert [document.text for part in parts for document in corpus.read(part, Faults())] == rows
    with pytest.raises(UserError, match="has no column 'text': its columns are body, n"):
        texts(kind="text", paths=str(path))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged or cut short"):
        texts(kind="text", paths=str(path), column="body")


def test_endless_documents_are_cut_at_lines_and_spaces_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.corpora.LONGEST_DOCUMENT", 50)
    for name, text in (
        ("lines", "a line of words\n" * 20),
        ("words", "word " * 100),
        ("none", "日本語" * 60),
    ):
        for path, content in (
            (tmp_path / f"{name}.txt", text.encode()),
            (tmp_path / f"{name}.jsonl", jsonl(text)),
        ):
            path.write_bytes(content)
            read = texts(kind="text", paths=str(path))
            assert "".join(read) == text
            assert all(len(piece.encode()) <= 50 for piece in read)
            assert len(read) > 4


def test_what_was_begun_of_a_damaged_file_is_no_document(tmp_path: Path) -> None:
    for name, content in (
        ("a.txt.gz", b"some text " * 5000),
        ("b.jsonl.gz", jsonl(*map(str, range(5000)))),
    ):
        (tmp_path / name).write_bytes(gzip.compress(content)[:-40])
    corpus, faults = build_corpus({"kind": "text", "paths": [str(tmp_path)]}), Faults(skip=True)
    read = [document.text for part in corpus.parts(10**9) for document in corpus.read(part, faults)]
    assert faults.counts == {"damaged": 2}
    assert read == [str(number) for number in range(len(read))]
    assert 1000 < len(read) < 5000
