"""Reading and cleaning documents, in a whole preparation."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep import prepare
from data_prep.provenance import provenance_of
from momentum_gpt.data import TokenShards, load_tokenizer
from momentum_gpt.data.shards import read_manifest
from tests.conftest import SHARED_DATA, Result
from tests.data_prep.samples import (
    ONE_PROCESS,
    all_documents,
    documents,
    encoded_documents,
    write_json_lines,
)

Invoke = Callable[..., Result]


def test_text_is_changed_only_as_requested(
    invoke: Invoke,
    numbered: list[str],
    tmp_path: Path,
) -> None:
    with_nul = "\0 a NUL\0 " * 20
    texts = [f"e\u0301 {text}\r\nend\r" for text in numbered] + ["short", with_nul]
    path = write_json_lines(tmp_path / "a.jsonl", texts)
    arguments = ["corpus=text", f"corpus.paths={path}", "tokenizer.vocab_size=300", ONE_PROCESS]

    unchanged = tmp_path / "unchanged"
    keep = "clean.newlines=false"
    assert invoke(prepare.main, *arguments, keep, f"output={unchanged}").code == 0
    assert sorted(all_documents(unchanged)) == sorted(texts)

    changed = tmp_path / "changed"
    clean = ["clean.normalize=NFC", "clean.min_bytes=10"]
    done = invoke(prepare.main, *arguments, *clean, f"output={changed}")
    assert r"text: 800 newlines \r\n or \r made \n, 1 shorter than 10 bytes" in done.out
    expected = [f"\u00e9 {text}\nend\n" for text in numbered] + [with_nul]
    assert sorted(all_documents(changed)) == sorted(expected)


def test_bad_input_is_an_error_or_a_counted_skip(
    invoke: Invoke,
    numbered: list[str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    output = tmp_path / "out"
    write_json_lines(folder / "good.jsonl", numbered[:200])
    good_line = json.dumps({"text": numbered[200]})
    bad_lines = '{"text": \n{"body": "x"}\n{"text": 3}\n'
    (folder / "lines.jsonl").write_text(f"{good_line}\n{bad_lines}")
    (folder / "latin.txt").write_bytes("naïve".encode("latin-1"))
    whole = write_json_lines(tmp_path / "cut.jsonl", numbered[201:400]).read_bytes()
    packed = gzip.compress(whole)
    (folder / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    arguments = ["corpus=text", f"corpus.paths={folder}", f"output={output}", ONE_PROCESS]
    arguments.append("tokenizer.vocab_size=300")

    done = invoke(prepare.main, *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert "cut.jsonl.gz cannot be read" in done.err
    assert "on_error=skip" in done.err
    assert not output.exists()

    done = invoke(prepare.main, *arguments, "on_error=skip")
    assert done.code == 0, done.err
    for message in ("1 damaged", "1 not JSON", "1 not UTF-8", "2 no text"):
        assert message in done.out
    found = all_documents(output)
    assert set(numbered[:201]) <= set(found) <= set(numbered)
    made = provenance_of(read_manifest(output))
    assert made.left_out["text"]["no text"] == 2


def test_what_was_changed_and_passed_over_is_in_the_summary_and_the_manifest(
    invoke: Invoke, numbered: list[str], data_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    write_json_lines(folder / "a.jsonl", ["\ufeff" + numbered[0], " ", *numbered[1:50]])
    (folder / "b.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r")
    (folder / "c.md").write_bytes(b"")
    arguments = [f"corpus.paths={folder}", f"tokenizer.path={data_folder}", ONE_PROCESS]
    done = invoke(prepare.main, "corpus=text", *arguments, f"output={tmp_path / 'out'}")
    assert done.code == 0, done.err
    expected = {
        "byte-order marks removed": 2,
        "empty": 1,
        "empty files": 1,
        r"newlines \r\n or \r made \n": 2,
    }
    assert provenance_of(read_manifest(tmp_path / "out")).left_out == {"text": expected}
    for what, count in expected.items():
        assert f"{count} {what}" in done.out
    assert sorted(all_documents(tmp_path / "out")) == sorted([*numbered[:50], "one\ntwo\n"])


def test_a_corpus_without_documents_says_what_it_had(invoke: Invoke, tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.txt").write_text(" \n")
    (folder / "b.txt").write_text("")
    (folder / "c.txt").write_text("short")
    arguments = [f"corpus.paths={folder}", f"output={tmp_path / 'out'}", "clean.min_bytes=9"]
    done = invoke(prepare.main, "corpus=text", *arguments, ONE_PROCESS)
    assert (done.code, done.err.count("\n")) == (2, 1)
    message = "no document in this corpus (1 empty, 1 empty files, 1 shorter than 9 bytes): add"
    assert message in done.err


def test_documents_that_are_lost_between_two_stages_are_missed(
    invoke: Invoke, numbered: list[str], tmp_path: Path
) -> None:
    """datatrove's reader ends without a word where a packed file is cut short."""
    path = write_json_lines(tmp_path / "a.jsonl", numbered)
    command = ["corpus=text", f"corpus.paths={path}", f"output={tmp_path / 'out'}", ONE_PROCESS]
    assert invoke(prepare.main, *command, "until=documents").code == 0
    (packed,) = tmp_path.glob(".out.partial/documents/documents/*.zst")
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    done = invoke(prepare.main, *command)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert re.search(r"00000.jsonl.zst holds \d+ documents, not the 400 that were", done.err)


@pytest.mark.shared_data
def test_real_text_of_every_kind_comes_back(
    invoke: Invoke,
    data_folder: Path,
    tmp_path: Path,
) -> None:
    text = SHARED_DATA / "text"
    names = ["wikitext2/valid.txt", "openwebtext_1k/valid.jsonl", "tinyshakespeare/valid.txt"]
    paths = ",".join(f"{text}/{name}" for name in names)
    done = invoke(
        prepare.main,
        "corpus=text",
        f"corpus.paths=[{paths}]",
        f"corpus.validation_paths={text}/lambada/test.jsonl",
        f"output={tmp_path / 'mix'}",
        f"tokenizer.path={data_folder}",
        ONE_PROCESS,
    )
    assert done.code == 0, done.err
    found = documents(tmp_path / "mix")
    assert found[0] == (text / "wikitext2/valid.txt").read_text(encoding="utf-8")
    assert len(found) == 52


def documents_in(path: Path) -> list[str]:
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".jsonl":
        return [content]
    return [json.loads(line)["text"] for line in content.splitlines()]


@pytest.mark.shared_data
@pytest.mark.parametrize("largest", [500_000, pytest.param(10**9, marks=pytest.mark.slow)])
def test_every_real_document_comes_back_with_the_ids_of_plain_sentencepiece(
    invoke: Invoke,
    tmp_path: Path,
    largest: int,
) -> None:
    """Files of the real data sets as one mix, each of at most `largest` bytes."""
    output = tmp_path / "out"
    files = []
    for path in sorted((SHARED_DATA / "text").rglob("*")):
        if path.suffix in (".txt", ".jsonl") and path.stat().st_size <= largest:
            files.append(path)
    sources = []
    for number, path in enumerate(files):
        sources.append(f"s{number}: {{kind: text, paths: {path}}}")
    done = invoke(
        prepare.main,
        "corpus=mix",
        f"corpus.sources={{{', '.join(sources)}}}",
        "deduplicate=false",
        "tokenizer.vocab_size=8000",
        "shard_tokens=3000000",
        f"output={output}",
    )
    assert done.code == 0, done.err

    texts = []
    for path in files:
        texts += documents_in(path)
    tokenizer = load_tokenizer(output)
    found = {}
    for split in ("train", "validation"):
        for ids in encoded_documents(output, split):
            found[tokenizer.decode(ids.tolist())] = ids
    assert set(found) == set(texts)
    for text, expected in zip(texts, tokenizer.encode_documents(texts, num_threads=2), strict=True):
        assert np.array_equal(found[text], expected)
    assert TokenShards(output).vocab_size == 8000
