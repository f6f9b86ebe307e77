"""The whole preparation, through its invoke."""

from __future__ import annotations

import fcntl
import gzip
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep import prepare, verify
from data_prep.prepare import STAGES
from data_prep.steps import INDEX, chosen_documents
from momentum_gpt.data import TokenShards, load_tokenizer
from tests.conftest import SHARED_DATA, Result

Invoke = Callable[..., Result]
SMALL = [
    "tokenizer.vocab_size=400",
    "piece_bytes=60000",
    "shard_tokens=20000",
    "validation_fraction=0.25",
]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def documents(folder: Path, split: str = "train") -> list[str]:
    shards = TokenShards(folder, split)
    stream = shards.read(0, len(shards))
    ends = np.flatnonzero(stream == shards.tokenizer.eos_id)
    return [
        shards.tokenizer.decode(piece[piece != shards.tokenizer.eos_id])
        for piece in np.split(stream, ends + 1)[:-1]
    ]


def jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def numbered(tmp_path: Path) -> list[str]:
    """Documents that are all different."""
    words = np.random.default_rng(0).choice(list("abcdefghij"), (400, 300))
    return [f"document {number}: " + "".join(row) for number, row in enumerate(words)]


def test_any_number_of_workers_makes_the_same_bytes(
    invoke: Invoke, text_folder: Path, tmp_path: Path
) -> None:
    arguments = ["corpus=text", f"corpus.paths={text_folder}", *SMALL]
    for workers in (1, 2, 4):
        done = invoke(
            prepare.main,
            *arguments,
            f"output={tmp_path / str(workers)}",
            f"executor.workers={workers}",
        )
        assert done.code == 0, done.err
        assert done.err == ""
    assert "bytes per token" in done.out
    one, two, four = (contents(tmp_path / str(workers)) for workers in (1, 2, 4))
    assert one == two == four
    assert len([name for name in one if name.startswith("train_")]) > 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "4"]


def test_the_size_of_the_pieces_changes_no_document(
    invoke: Invoke, text_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    arguments = [
        "corpus=text",
        f"corpus.paths={text_folder}",
        f"tokenizer.path={data_folder}",
        "validation_fraction=0.25",
    ]
    invoke(prepare.main, *arguments, "piece_bytes=1000000000", f"output={tmp_path / 'a'}")
    invoke(
        prepare.main,
        *arguments,
        "piece_bytes=20000",
        "shard_tokens=5000",
        f"output={tmp_path / 'b'}",
    )
    for split in ("train", "validation"):
        a, b = (TokenShards(tmp_path / name, split) for name in "ab")
        assert np.array_equal(a.read(0, len(a)), b.read(0, len(b)))
    assert (tmp_path / "a" / "tokenizer.model").read_bytes() == (
        data_folder / "tokenizer.model"
    ).read_bytes()


def test_stages_one_by_one_are_the_whole_and_nothing_is_done_twice(
    invoke: Invoke, text_folder: Path, tmp_path: Path
) -> None:
    arguments = ["corpus=text", f"corpus.paths={text_folder}", *SMALL, "executor.workers=1"]
    done = invoke(prepare.main, *arguments, f"output={tmp_path / 'whole'}")
    assert done.code == 0, done.err
    marks: dict[Path, int] = {}
    for stage in STAGES:
        done = invoke(prepare.main, *arguments, f"output={tmp_path / 'parts'}", f"until={stage}")
        assert done.code == 0, done.err
        assert all(path.stat().st_mtime_ns == mark for path, mark in marks.items() if path.exists())
        completions = (tmp_path / ".parts.partial").glob("*/**/completions/*")
        marks = {path: path.stat().st_mtime_ns for path in completions}
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert not (tmp_path / ".parts.partial").exists()


def test_a_second_run_does_nothing_and_another_corpus_overwrites_nothing(
    invoke: Invoke, text_folder: Path, tmp_path: Path
) -> None:
    command = [
        "corpus=text",
        f"corpus.paths={text_folder}",
        f"output={tmp_path / 'a'}",
        "tokenizer.vocab_size=400",
    ]
    assert invoke(prepare.main, *command).code == 0
    before = contents(tmp_path / "a")
    again = invoke(prepare.main, *command)
    assert (again.code, "is prepared already" in again.out) == (0, True)
    other = invoke(prepare.main, *command[:-1], "tokenizer.vocab_size=401")
    assert other.code == 2
    assert "exists and was not made with these options" in other.err
    assert contents(tmp_path / "a") == before


def test_equal_documents_stay_once_and_those_for_validation_first(
    invoke: Invoke, numbered: list[str], tmp_path: Path
) -> None:
    train = jsonl(tmp_path / "train.jsonl", numbered[:300] + numbered[100:200] + numbered[350:])
    validation = jsonl(tmp_path / "validation.jsonl", numbered[300:])
    arguments = [
        f"corpus.paths={train}",
        f"corpus.validation_paths={validation}",
        "tokenizer.vocab_size=300",
        "piece_bytes=9000",
    ]
    done = invoke(prepare.main, "corpus=text", *arguments, f"output={tmp_path / 'a'}")
    assert done.code == 0, done.err
    assert "150 documents left out: equal to another" in done.out
    assert sorted(documents(tmp_path / "a")) == sorted(numbered[:300])
    assert sorted(documents(tmp_path / "a", "validation")) == sorted(numbered[300:])
    invoke(prepare.main, "corpus=text", *arguments, f"output={tmp_path / 'b'}", "deduplicate=false")
    assert len(documents(tmp_path / "b")) == 450


def test_text_of_evaluation_sets_is_found_and_left_out(
    invoke: Invoke, data_folder: Path, tmp_path: Path
) -> None:
    """Thirteen words in a row, whatever stands between them; items of eight to twelve words as a whole; shorter ones not."""
    words = [f"w{number}" for number in range(3000)]
    item, short, tiny = " ".join(words[:20]), " ".join(words[100:109]), " ".join(words[200:207])
    jsonl(tmp_path / "eval.jsonl", [item])
    (tmp_path / "eval.jsonl").open("a").write(
        json.dumps({"q": {"inner": [short, tiny]}, "label": 1}) + "\n"
    )
    clean = [" ".join(words[start : start + 40]) for start in range(300, 2900, 40)]
    bad = [
        "x "
        + ", ".join(words[3:16]).upper()
        + ". y",  # 13 words of the long item, dressed otherwise
        "The answer: " + short + "!",
    ]
    near = [
        "x " + " ".join(words[3:15]) + " y",
        " ".join(words[100:108]),
        tiny,
    ]  # 12 of 20, 8 of 9, too short to tell
    path = jsonl(tmp_path / "text.jsonl", clean + bad + near)
    validation = jsonl(tmp_path / "validation.jsonl", ["a b c"])
    arguments = [
        f"corpus.paths={path}",
        f"corpus.validation_paths={validation}",
        f"tokenizer.path={data_folder}",
    ]
    arguments += [f"decontaminate.sets=[{tmp_path / 'eval.jsonl'}]"]
    done = invoke(prepare.main, "corpus=text", *arguments, f"output={tmp_path / 'a'}")
    assert done.code == 0, done.err
    assert "2 training documents hold text of an evaluation set, left out: eval 2" in done.out
    assert sorted(documents(tmp_path / "a")) == sorted(clean + near)
    found = json.loads((tmp_path / "a" / "manifest.json").read_text())["contamination"]
    assert (found["documents"], found["by_set"]["eval"]["texts"]) == (2, 2)
    done = invoke(
        prepare.main,
        "corpus=text",
        *arguments,
        f"output={tmp_path / 'b'}",
        "decontaminate.drop=false",
    )
    assert "NOT left out: eval 2" in done.out
    assert len(documents(tmp_path / "b")) == len(clean + bad + near)


def test_a_mix_has_the_weights_asked_for_within_the_epoch_caps(
    invoke: Invoke, numbered: list[str], tmp_path: Path
) -> None:
    many, few = (
        jsonl(tmp_path / "many.jsonl", numbered[:300]),
        jsonl(tmp_path / "few.jsonl", numbered[300:]),
    )
    sources = f"{{many: {{kind: text, paths: {many}, weight: 1}}, few: {{kind: text, paths: {few}, weight: 1, max_epochs: 2.5}}}}"
    done = invoke(
        prepare.main,
        "corpus=mix",
        f"corpus.sources={sources}",
        f"output={tmp_path / 'a'}",
        "tokenizer.vocab_size=300",
    )
    assert done.code == 0, done.err
    mix = {
        it["source"]: it for it in json.loads((tmp_path / "a" / "manifest.json").read_text())["mix"]
    }
    found = documents(tmp_path / "a")
    copies = {text: found.count(text) for text in set(found)}
    assert {copies[text] for text in numbered[300:] if text in copies} == {2, 3}
    assert {copies[text] for text in numbered[:300] if text in copies} == {1}
    assert mix["few"]["epochs"] == pytest.approx(2.5, abs=0.25)
    assert mix["few"]["tokens_taken"] / mix["many"]["tokens_taken"] == pytest.approx(1, abs=0.15)
    assert sum(it["tokens_taken"] for it in mix.values()) == len(TokenShards(tmp_path / "a"))
    first_half, second = found[: len(set(found))], found[len(set(found)) :]
    assert len(set(first_half)) == len(first_half)  # no document stands beside its copy
    assert second
    without = invoke(
        prepare.main,
        "corpus=mix",
        f"corpus.sources={sources.replace(', weight: 1}', '}')}",
        f"output={tmp_path}/b",
    )
    assert (without.code, "give each a weight or none; many have none" in without.err) == (2, True)


def test_documents_are_drawn_by_their_hashes() -> None:
    index = np.zeros(10_000, dtype=INDEX)
    index["hash"] = np.random.default_rng(0).integers(0, 2**64, 10_000, dtype=np.uint64)
    taken = [chosen_documents(index, "train", copy, 1.3).sum() for copy in range(3)]
    assert taken[0] == 10_000
    assert taken[1] == pytest.approx(3000, abs=200)
    assert taken[2] == 0


def test_text_is_changed_only_as_it_was_asked_for(
    invoke: Invoke, numbered: list[str], tmp_path: Path
) -> None:
    texts = [f"e\u0301 {text}\r\nend\r" for text in numbered] + ["short", "\0 a NUL\0 " * 20]
    path = jsonl(tmp_path / "a.jsonl", texts)
    arguments = ["corpus=text", f"corpus.paths={path}", "tokenizer.vocab_size=300"]
    assert invoke(prepare.main, *arguments, f"output={tmp_path / 'as_it_is'}").code == 0
    both = documents(tmp_path / "as_it_is") + documents(tmp_path / "as_it_is", "validation")
    assert sorted(both) == sorted(texts)
    clean = ["clean.normalize=NFC", "clean.newlines=true", "clean.min_bytes=10"]
    done = invoke(prepare.main, *arguments, *clean, f"output={tmp_path / 'cleaned'}")
    assert "text: 1 shorter than 10 bytes" in done.out
    both = documents(tmp_path / "cleaned") + documents(tmp_path / "cleaned", "validation")
    assert sorted(both) == sorted(
        [f"\u00e9 {text}\nend\n" for text in numbered] + ["\0 a NUL\0 " * 20]
    )


def test_bad_input_is_an_error_or_a_counted_skip(
    invoke: Invoke, numbered: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    jsonl(folder / "good.jsonl", numbered[:200])
    (folder / "lines.jsonl").write_text(
        json.dumps({"text": numbered[200]}) + '\n{"text": \n{"body": "x"}\n{"text": 3}\n'
    )
    (folder / "latin.txt").write_bytes("naïve".encode("latin-1"))
    whole = gzip.compress(jsonl(tmp_path / "cut.jsonl", numbered[201:400]).read_bytes())
    (folder / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    arguments = [
        "corpus=text",
        f"corpus.paths={folder}",
        f"output={tmp_path / 'out'}",
        "tokenizer.vocab_size=300",
    ]
    done = invoke(prepare.main, *arguments, "executor.workers=1")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert "cut.jsonl.gz cannot be read" in done.err
    assert "on_error=skip" in done.err
    assert not (tmp_path / "out").exists()
    done = invoke(prepare.main, *arguments, "on_error=skip")
    assert done.code == 0, done.err
    for said in ("1 damaged", "1 not JSON", "1 not UTF-8", "2 no text"):
        assert said in done.out
    found = documents(tmp_path / "out") + documents(tmp_path / "out", "validation")
    assert set(numbered[:201]) <= set(found) <= set(numbered)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["left_out"]["text"]["no text"] == 2


def test_a_disk_that_is_full_is_said_and_the_same_command_goes_on(
    text_folder: Path, tmp_path: Path
) -> None:
    """No file may grow beyond 60 KB: the writing fails as on a full disk, in whatever stage comes so far."""
    arguments = [
        "corpus=text",
        f"corpus.paths={text_folder}",
        f"output={tmp_path / 'out'}",
        *SMALL,
        "executor.workers=1",
    ]
    command = [sys.executable, "-m", "data_prep.prepare", *arguments, "shard_tokens=1000000"]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))

    failed = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=limited
    )
    assert failed.returncode == 2, failed.stderr
    assert "File too large" in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert verify.verify(tmp_path / "out") is None


def test_two_commands_do_not_write_one_folder(
    invoke: Invoke, text_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / ".out.partial").mkdir()
    with (tmp_path / ".out.partial" / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = invoke(
            prepare.main,
            "corpus=text",
            f"corpus.paths={text_folder}",
            f"output={tmp_path / 'out'}",
            *SMALL,
        )
        assert (done.code, "another command is preparing" in done.err) == (2, True), done.err
    assert (
        invoke(
            prepare.main,
            "corpus=text",
            f"corpus.paths={text_folder}",
            f"output={tmp_path / 'out'}",
            *SMALL,
        ).code
        == 0
    )


def test_an_empty_corpus_and_an_empty_split_are_errors_that_leave_no_folder(
    invoke: Invoke, tmp_path: Path
) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("  \n")
    for arguments, said in (
        ([f"corpus.paths={tmp_path / 'text'}"], "there is no document"),
        ([f"corpus.paths={tmp_path / 'nowhere'}"], "is no file"),
    ):
        done = invoke(prepare.main, "corpus=text", f"output={tmp_path / 'out'}", *arguments)
        assert (done.code, said in done.err) == (2, True), done.err
        assert done.err.count("\n") == 1
    (tmp_path / "text" / "a.txt").write_text("one document alone " * 300)
    arguments = [
        f"output={tmp_path / 'out'}",
        f"corpus.paths={tmp_path / 'text'}",
        "tokenizer.vocab_size=280",
    ]
    done = invoke(prepare.main, "corpus=text", *arguments)
    assert (done.code, "no document fell into the validation split" in done.err) == (2, True), (
        done.err
    )
    assert not (tmp_path / "out").exists()


def test_verify_names_the_bytes_that_are_bad(
    invoke: Invoke, data_folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(data_folder, tmp_path / "copy"))
    done = invoke(verify.main, f"data={copy}")
    assert (done.code, "is whole" in done.out) == (0, True)
    shard = copy / "train_00001.npy"
    damaged = bytearray(shard.read_bytes())
    damaged[4000] ^= 1
    shard.write_bytes(damaged)
    done = invoke(verify.main, f"data={copy}")
    assert done.code == 2
    assert (
        f"train_00001.npy is damaged: bytes 0 to {len(damaged) - 1:,} are not what was written"
        in done.err
    )
    shard.write_bytes(damaged[:-2])
    assert "train_00001.npy" in invoke(verify.main, f"data={copy}").err
    shard.unlink()
    assert "train_00001.npy is not there" in invoke(verify.main, f"data={copy}").err


def test_a_byte_level_tokenizer_is_taken_from_its_json(
    invoke: Invoke, text_folder: Path, tmp_path: Path
) -> None:
    """As GPT-2's: trained here, with `tokenizers`, on the same text."""
    import tokenizers

    theirs = tokenizers.ByteLevelBPETokenizer()
    theirs.train(
        [str(path) for path in text_folder.glob("*.txt")],
        vocab_size=500,
        special_tokens=["<|endoftext|>"],
    )
    theirs.save(str(tmp_path / "tokenizer.json"))
    arguments = [
        "corpus=text",
        f"corpus.paths={text_folder}",
        f"tokenizer.path={tmp_path / 'tokenizer.json'}",
    ]
    done = invoke(
        prepare.main, *arguments, f"output={tmp_path / 'out'}", "validation_fraction=0.25"
    )
    assert done.code == 0, done.err
    assert "whole documents are encoded" in done.out
    texts = [path.read_text(encoding="utf-8") for path in text_folder.glob("*.txt")]
    assert sorted(
        documents(tmp_path / "out") + documents(tmp_path / "out", "validation")
    ) == sorted(texts)
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.encode("import os") == theirs.encode("import os").ids
    assert (
        tokenizer.decode(tokenizer.encode("<|endoftext|> is text here"))
        == "<|endoftext|> is text here"
    )
    assert tokenizer.eos_id not in tokenizer.encode("<|endoftext|>")


@pytest.mark.shared_data
def test_real_text_of_every_kind_comes_back(invoke: Invoke, tmp_path: Path) -> None:
    text = SHARED_DATA / "text"
    done = invoke(
        prepare.main,
        "corpus=text",
        f"corpus.paths=[{text}/wikitext2/valid.txt,{text}/openwebtext_1k/valid.jsonl,{text}/tinyshakespeare/valid.txt]",
        f"corpus.validation_paths={text}/lambada/test.jsonl",
        f"output={tmp_path / 'mix'}",
        "tokenizer.vocab_size=2000",
    )
    assert done.code == 0, done.err
    found = documents(tmp_path / "mix")
    assert found[0] == (text / "wikitext2/valid.txt").read_text(encoding="utf-8")
    assert len(found) == 52


@pytest.mark.shared_data
def test_every_real_document_comes_back_with_the_ids_of_plain_sentencepiece(
    invoke: Invoke, tmp_path: Path
) -> None:
    """All files of the real data sets as one mix: each document decodes to its bytes, and its ids are the whole document's."""
    folder = SHARED_DATA / "text"
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".txt", ".jsonl"))
    sources = ", ".join(
        f"s{number}: {{kind: text, paths: {path}}}" for number, path in enumerate(files)
    )
    arguments = [
        "corpus=mix",
        f"corpus.sources={{{sources}}}",
        "deduplicate=false",
        "tokenizer.vocab_size=8000",
    ]
    done = invoke(prepare.main, *arguments, f"output={tmp_path / 'out'}", "shard_tokens=3000000")
    assert done.code == 0, done.err
    texts = []
    for path in files:
        content = path.read_text(encoding="utf-8")
        texts += (
            [json.loads(line)["text"] for line in content.splitlines()]
            if path.suffix == ".jsonl"
            else [content]
        )
    tokenizer, found = load_tokenizer(tmp_path / "out"), {}
    for split in ("train", "validation"):
        shards = TokenShards(tmp_path / "out", split)
        stream = shards.read(0, len(shards))
        for ids in np.split(stream, np.flatnonzero(stream == tokenizer.eos_id) + 1)[:-1]:
            found[tokenizer.decode(ids[:-1])] = ids[:-1]
    assert set(found) == set(texts)
    for text, expected in zip(texts, tokenizer.encode_documents(texts, num_threads=2), strict=True):
        assert np.array_equal(found[text], expected)


@pytest.mark.shared_data
def test_the_known_tasks_are_found_in_text_that_holds_them(
    invoke: Invoke, data_folder: Path, numbered: list[str], tmp_path: Path
) -> None:
    lines = (
        (SHARED_DATA / "icl" / "imdb" / "test.jsonl").read_text(encoding="utf-8").splitlines()[:3]
    )
    path = jsonl(
        tmp_path / "a.jsonl",
        numbered + [f"seen on the net: {json.loads(line)['text']}" for line in lines],
    )
    validation = jsonl(tmp_path / "validation.jsonl", ["a b c"])
    arguments = [
        f"corpus.paths={path}",
        f"corpus.validation_paths={validation}",
        f"tokenizer.path={data_folder}",
    ]
    known = ["decontaminate.sets=[known]", f"decontaminate.data={SHARED_DATA / 'icl'}"]
    done = invoke(prepare.main, "corpus=text", *arguments, *known, f"output={tmp_path / 'out'}")
    assert done.code == 0, done.err
    assert "3 training documents hold text of an evaluation set, left out: imdb 3" in done.out
