"""The whole preparation, through its door."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import prepare
from momentum_gpt.data import TokenShards
from tests.conftest import SHARED_DATA, Result

Door = Callable[..., Result]


def hashes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".json"}


def test_the_same_text_gives_the_same_bytes(door: Door, text_folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        done = door(
            prepare.main, "corpus=text", f"corpus.paths={text_folder}", f"output={tmp_path / name}", "tokenizer.vocab_size=400"
        )
        assert done.code == 0, done.err
    assert "bytes per token" in done.out
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_a_second_run_does_nothing_and_another_corpus_overwrites_nothing(door: Door, text_folder: Path, tmp_path: Path) -> None:
    command = ["corpus=text", f"corpus.paths={text_folder}", f"output={tmp_path / 'a'}", "tokenizer.vocab_size=400"]
    assert door(prepare.main, *command).code == 0
    before = hashes(tmp_path / "a")
    again = door(prepare.main, *command)
    assert (again.code, "is prepared already" in again.out) == (0, True)
    other = door(prepare.main, *command[:-1], "tokenizer.vocab_size=401")
    assert other.code == 2
    assert "exists and was not made with these options" in other.err
    assert hashes(tmp_path / "a") == before


def test_a_given_tokenizer_is_used_as_it_is(door: Door, data_folder: Path, text_folder: Path, tmp_path: Path) -> None:
    done = door(
        prepare.main,
        "corpus=text",
        f"corpus.paths={text_folder}",
        f"output={tmp_path / 'a'}",
        f"tokenizer.path={data_folder}",
    )
    assert done.code == 0, done.err
    assert (tmp_path / "a" / "tokenizer.model").read_bytes() == (data_folder / "tokenizer.model").read_bytes()


def test_an_empty_corpus_and_an_empty_split_are_errors_that_leave_nothing(door: Door, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("  \n")
    for arguments, said in (
        ([f"corpus.paths={tmp_path / 'text'}"], "no document"),
        ([f"corpus.paths={tmp_path / 'nowhere'}"], "is no file"),
    ):
        done = door(prepare.main, "corpus=text", f"output={tmp_path / 'out'}", *arguments)
        assert (done.code, said in done.err) == (2, True), done.err
        assert done.err.count("\n") == 1
    (tmp_path / "text" / "a.txt").write_text("one document alone " * 300)
    done = door(
        prepare.main,
        "corpus=text",
        f"output={tmp_path / 'out'}",
        f"corpus.paths={tmp_path / 'text'}",
        "tokenizer.vocab_size=280",
    )
    assert (done.code, "no document fell into the validation split" in done.err) == (2, True), done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text"]


def test_invalid_utf8_is_an_error_that_leaves_nothing(door: Door, text_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(text_folder, tmp_path / "text")
    (tmp_path / "text" / "zz.txt").write_bytes(b"abc\xff")
    done = door(
        prepare.main,
        "corpus=text",
        f"output={tmp_path / 'out'}",
        f"corpus.paths={tmp_path / 'text'}",
        "tokenizer.vocab_size=400",
    )
    assert done.code == 2
    assert "zz.txt is not UTF-8: byte 0xff at offset 3" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.shared_data
def test_real_text_of_every_kind_comes_back(door: Door, tmp_path: Path) -> None:
    text = SHARED_DATA / "text"
    done = door(
        prepare.main,
        "corpus=text",
        f"corpus.paths=[{text}/wikitext2/valid.txt,{text}/openwebtext_1k/valid.jsonl,{text}/tinyshakespeare/valid.txt]",
        f"corpus.validation_paths={text}/lambada/test.jsonl",
        f"output={tmp_path / 'mix'}",
        "tokenizer.vocab_size=2000",
    )
    assert done.code == 0, done.err
    shards = TokenShards(tmp_path / "mix")
    stream = shards.read(0, len(shards))
    first = stream[: list(stream).index(shards.tokenizer.eos_id)]
    assert shards.tokenizer.decode(first) == (text / "wikitext2/valid.txt").read_text(encoding="utf-8")
    assert shards.documents == 52
