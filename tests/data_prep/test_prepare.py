"""The whole preparation, through its command."""

from __future__ import annotations

import fcntl
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_prep import prepare
from data_prep.settings import STAGES
from data_prep.stages.verify import find_problem
from momentum_gpt.data import TokenShards
from tests.conftest import Result
from tests.data_prep.samples import ONE_PROCESS, SMALL, contents

Invoke = Callable[..., Result]


def test_any_number_of_workers_makes_the_same_bytes(
    invoke: Invoke,
    text_folder: Path,
    straight: Path,
    tmp_path: Path,
) -> None:
    arguments = ["corpus=text", f"corpus.paths={text_folder}", *SMALL]
    for workers in (2, 4):
        output = tmp_path / str(workers)
        done = invoke(prepare.main, *arguments, f"output={output}", f"executor.workers={workers}")
        assert done.code == 0, done.err
        assert done.err == ""
        assert "bytes per token" in done.out
        assert contents(output) == contents(straight)
    shards = [path.name for path in straight.iterdir() if path.name.startswith("train_")]
    assert len(shards) > 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4"]


def test_the_size_of_the_tasks_changes_no_document(
    invoke: Invoke,
    text_folder: Path,
    data_folder: Path,
    tmp_path: Path,
) -> None:
    arguments = [
        "corpus=text",
        f"corpus.paths={text_folder}",
        f"tokenizer.path={data_folder}",
        "validation_fraction=0.25",
        ONE_PROCESS,
    ]
    large = tmp_path / "large"
    small = tmp_path / "small"
    invoke(prepare.main, *arguments, "piece_bytes=1000000000", f"output={large}")
    sizes = ["piece_bytes=20000", "shard_tokens=5000"]
    invoke(prepare.main, *arguments, *sizes, f"output={small}")
    for split in ("train", "validation"):
        one = TokenShards(large, split)
        other = TokenShards(small, split)
        assert np.array_equal(one.read(0, len(one)), other.read(0, len(other)))
    given = data_folder / "tokenizer.model"
    assert (large / "tokenizer.model").read_bytes() == given.read_bytes()


def test_stages_one_by_one_make_the_whole_and_nothing_is_done_twice(
    invoke: Invoke,
    text_folder: Path,
    straight: Path,
    tmp_path: Path,
) -> None:
    output = tmp_path / "staged"
    work = tmp_path / ".staged.partial"
    arguments = ["corpus=text", f"corpus.paths={text_folder}", *SMALL, ONE_PROCESS]
    marks: dict[Path, int] = {}
    for stage in STAGES:
        done = invoke(prepare.main, *arguments, f"output={output}", f"until={stage}")
        assert done.code == 0, done.err
        if stage != STAGES[-1]:
            assert f"stopped after until={stage}" in done.out
        for path, written in marks.items():
            assert not path.exists() or path.stat().st_mtime_ns == written
        completions = work.glob("*/**/completions/*")
        marks = {path: path.stat().st_mtime_ns for path in completions}
    assert contents(output) == contents(straight)
    assert not work.exists()

    n = TokenShards(output, "validation").documents
    assert (f"only {n} documents for validation" in done.out) == (n < 100)


def test_a_second_run_does_nothing_and_another_corpus_overwrites_nothing(
    invoke: Invoke,
    text_folder: Path,
    straight: Path,
) -> None:
    command = ["corpus=text", f"corpus.paths={text_folder}", f"output={straight}", *SMALL]
    before = contents(straight)
    again = invoke(prepare.main, *command)
    assert (again.code, "is prepared already" in again.out) == (0, True)

    other = invoke(prepare.main, *command, "tokenizer.model_type=unigram")
    assert other.code == 2
    assert "exists and was not made with these options" in other.err
    assert contents(straight) == before


def test_what_was_made_with_other_options_is_made_again(
    invoke: Invoke,
    text_folder: Path,
    straight: Path,
    tmp_path: Path,
) -> None:
    """The documents stay; the tokenizer, and all that depends on it, are of the new options."""
    command = ["corpus=text", f"corpus.paths={text_folder}", f"output={tmp_path / 'out'}", *SMALL]
    command.append(ONE_PROCESS)
    done = invoke(prepare.main, *command, "tokenizer.vocab_size=500", "until=tokenize")
    assert done.code == 0, done.err
    documents = tmp_path / ".out.partial" / "documents" / "key"
    written = documents.read_text()
    marks = list(documents.parent.glob("tasks/completions/*"))
    times = [path.stat().st_mtime_ns for path in marks]

    assert invoke(prepare.main, *command, "until=tokenize").code == 0
    assert documents.read_text() == written
    assert [path.stat().st_mtime_ns for path in marks] == times
    assert invoke(prepare.main, *command).code == 0
    assert contents(tmp_path / "out") == contents(straight)


def test_a_full_disk_is_reported_and_the_same_command_resumes(
    invoke: Invoke,
    text_folder: Path,
    tmp_path: Path,
) -> None:
    """No file may grow beyond 60 KB, so writing fails as on a full disk, in whatever stage."""
    output = tmp_path / "out"
    arguments = ["corpus=text", f"corpus.paths={text_folder}", f"output={output}", *SMALL]
    arguments += [ONE_PROCESS, "shard_tokens=1000000"]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))

    failed = subprocess.run(
        [sys.executable, "-m", "data_prep.prepare", *arguments],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limited,
    )
    assert failed.returncode == 2, failed.stderr
    assert "File too large" in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert not output.exists()

    done = invoke(prepare.main, *arguments)
    assert done.code == 0, done.err
    assert find_problem(output) is None


def test_two_commands_do_not_write_one_folder(
    invoke: Invoke,
    text_folder: Path,
    tmp_path: Path,
) -> None:
    work = tmp_path / ".out.partial"
    work.mkdir()
    command = ["corpus=text", f"corpus.paths={text_folder}", f"output={tmp_path / 'out'}", *SMALL]
    command += [ONE_PROCESS, "until=documents"]
    with (work / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = invoke(prepare.main, *command)
        assert (done.code, "another command is preparing" in done.err) == (2, True), done.err
    assert invoke(prepare.main, *command).code == 0


def test_an_empty_corpus_and_an_empty_split_are_errors_that_leave_no_folder(
    invoke: Invoke,
    tmp_path: Path,
) -> None:
    text = tmp_path / "text"
    text.mkdir()
    (text / "a.txt").write_text("  \n")
    command = ["corpus=text", f"output={tmp_path / 'out'}", ONE_PROCESS]
    for paths, message in ((text, "there is no document"), (tmp_path / "nowhere", "is no file")):
        done = invoke(prepare.main, *command, f"corpus.paths={paths}")
        assert (done.code, message in done.err) == (2, True), done.err
        assert done.err.count("\n") == 1

    (text / "a.txt").write_text("one document alone " * 300)
    done = invoke(prepare.main, *command, f"corpus.paths={text}", "tokenizer.vocab_size=280")
    assert done.code == 2
    assert "no document fell into the validation split" in done.err
    assert not (tmp_path / "out").exists()


def test_skipped_files_are_counted(invoke: Invoke, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    (text / "a.md").write_text("a page of text")
    (text / "b.png").write_bytes(b"\x89PNG\0")
    (text / ".c.md").write_text("hidden")
    command = ["corpus=text", f"output={tmp_path / 'out'}", f"corpus.paths={text}", ONE_PROCESS]
    done = invoke(prepare.main, *command, "until=documents")
    assert done.code == 0, done.err
    assert f"skipped 1 binary file, such as {text / 'b.png'}\n" in done.out
    assert f"skipped 1 hidden file, such as {text / '.c.md'}\n" in done.out
