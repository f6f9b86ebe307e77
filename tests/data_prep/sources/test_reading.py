"""Which files of a folder are text, and reading packed files to their end."""

from __future__ import annotations

import bz2
import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep.sources import Corpus, Faults
from data_prep.sources.reading import HEAD, Skipped, find_files, is_binary
from data_prep.sources.text import TextCorpus
from momentum_gpt.core.errors import UserError
from tests.data_prep.samples import json_lines, texts

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def test_files_folders_and_globs_plain_and_packed(tmp_path: Path) -> None:
    inner = tmp_path / "sub"
    inner.mkdir()
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.jsonl").write_bytes(json_lines("two", "three"))
    (inner / "c.jsonl.gz").write_bytes(gzip.compress(json_lines("four")))
    (inner / "d.jsonl.zst").write_bytes(zstandard.compress(json_lines("five")))

    found = texts(kind="text", paths=[str(tmp_path)])
    assert sorted(found) == ["five", "four", "one", "three", "two"]
    assert texts(kind="text", paths=str(tmp_path / "*.txt")) == ["one"]
    files = [str(inner / "d.jsonl.zst"), str(tmp_path / "a.txt")]
    assert texts(kind="text", paths=files) == ["five", "one"]


def test_a_folder_gives_all_its_text_and_says_what_it_skips(
    tmp_path: Path, corpus_of: Callable[..., Corpus]
) -> None:
    (tmp_path / "notes.md").write_text("notes")
    (tmp_path / "code.py").write_text("code")
    (tmp_path / "Makefile").write_text("make")
    (tmp_path / "page.rst.gz").write_bytes(gzip.compress(b"page"))
    (tmp_path / "picture.png").write_bytes(PNG)
    (tmp_path / "packed.tar.gz").write_bytes(gzip.compress(b"name\0\0\0"))
    (tmp_path / ".hidden.md").write_text("hidden")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("config")

    corpus = corpus_of()
    found = [document.text for document in corpus.documents()]
    assert sorted(found) == ["code", "make", "notes", "page"]
    assert corpus.notes() == [
        f"skipped 2 binary files, such as {tmp_path / 'packed.tar.gz'}",
        f"skipped 2 hidden files, such as {tmp_path / '.git' / 'config'}",
    ]


def test_a_glob_skips_binary_files_and_a_file_that_is_named_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("a")
    (tmp_path / "b.png").write_bytes(PNG)
    (tmp_path / ".hidden.odd").write_text("hidden")
    (tmp_path / "[1].txt").write_text("brackets")
    skipped = Skipped()
    assert find_files(str(tmp_path / "*.*"), "paths", skipped) == [
        tmp_path / "[1].txt",
        tmp_path / "a.md",
    ]
    assert skipped.paths == {"binary": [tmp_path / "b.png"]}
    assert texts(kind="text", paths=str(tmp_path / ".hidden.odd")) == ["hidden"]
    assert texts(kind="text", paths=str(tmp_path / "[1].txt")) == ["brackets"]
    with pytest.raises(UserError, match="is not UTF-8: byte 0x89 at offset 0"):
        texts(kind="text", paths=str(tmp_path / "b.png"))


@pytest.mark.parametrize(
    ("content", "binary"),
    [
        (b"", False),
        ("日本語".encode(), False),
        # A character across the end of the bytes that are looked at.
        (b"x" * (HEAD - 1) + "é".encode(), False),
        # Text in another encoding is an error that names the file, not a file to skip.
        ("naïve".encode("latin-1"), False),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n\x01\x02", True),
        ("utf-16".encode("utf-16"), False),
        ("utf-16 without a mark".encode("utf-16-le"), True),
        (PNG, True),
    ],
)
def test_binary_files_are_told_from_text(tmp_path: Path, content: bytes, binary: bool) -> None:
    (tmp_path / "file").write_bytes(content)
    assert is_binary(tmp_path / "file") == binary


def test_a_damaged_file_is_not_skipped_as_binary(
    tmp_path: Path, corpus_of: Callable[..., Corpus]
) -> None:
    (tmp_path / "a.md.gz").write_bytes(b"not packed at all")
    corpus = corpus_of()
    assert isinstance(corpus, TextCorpus)
    with pytest.raises(UserError, match=r"a\.md\.gz cannot be read .*damaged or cut short"):
        list(corpus.documents())
    assert corpus.notes() == []


def test_a_zst_of_several_frames_is_read_to_its_end(tmp_path: Path) -> None:
    """Concatenated frames are common; a reader that stops after the first loses the others."""
    frames = [zstandard.compress(json_lines(text)) for text in ("one", "two")]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    assert texts(kind="text", paths=[str(tmp_path)]) == ["one", "two"]


PACK = {"gz": gzip.compress, "bz2": bz2.compress, "zst": zstandard.compress}


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_a_packed_file_that_is_cut_short_anywhere_is_an_error(
    tmp_path: Path, suffix: str, name: str
) -> None:
    """Also in the last of several frames, of which the others are complete."""
    pack = PACK[suffix]
    first, second = (pack(json_lines(*map(str, range(n, n + 50)))) for n in (0, 50))
    path = tmp_path / f"{name}.{suffix}"
    path.write_bytes(first + second)
    assert len("".join(texts(kind="text", paths=str(path)))) > 100

    frames = first + second
    cuts = [0, 1, 5, len(first) // 2, len(first) - 1, len(first) + 1, len(frames) - 1]
    for cut in cuts:
        path.write_bytes(frames[:cut])
        with pytest.raises(UserError, match=rf"{name}\.{suffix} cannot be read .*cut short"):
            texts(kind="text", paths=str(path))


def test_a_packed_file_with_other_content_behind_it_is_an_error(tmp_path: Path) -> None:
    for suffix, pack in PACK.items():
        path = tmp_path / f"a.txt.{suffix}"
        path.write_bytes(pack(b"text") + b"garbage")
        with pytest.raises(UserError, match="cannot be read"):
            texts(kind="text", paths=str(path))


def test_empty_files_are_counted_and_have_a_part_in_the_manifest(
    tmp_path: Path, corpus_of: Callable[..., Corpus]
) -> None:
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "b.jsonl").write_bytes(b"")
    (tmp_path / "c.txt.zst").write_bytes(b"")
    with pq.ParquetWriter(tmp_path / "d.parquet", pa.schema({"text": pa.string()})):
        pass  # no rows
    corpus = corpus_of()
    parts = list(corpus.parts(10**9))
    assert [Path(part.path).name[0] for part in parts] == list("abcd")

    faults = Faults(skip=True)
    assert [document for part in parts for document in corpus.read(part, faults)] == []
    assert faults.counts == Counter({"empty files": 3, "damaged": 1})


def test_a_path_without_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "only.png").write_bytes(PNG)
    for path in (tmp_path / "*.nothing", tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match=r"corpus\.paths: .* is no file, no folder"):
            texts(kind="text", paths=[str(path)])
