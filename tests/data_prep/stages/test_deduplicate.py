"""Documents with equal text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data_prep import prepare
from tests.conftest import Result
from tests.data_prep.samples import ONE_PROCESS, documents, write_json_lines

Invoke = Callable[..., Result]


def test_equal_documents_are_kept_once_and_preferably_for_validation(
    invoke: Invoke,
    numbered: list[str],
    tmp_path: Path,
) -> None:
    train = numbered[:300] + numbered[100:200] + numbered[350:]
    train_file = write_json_lines(tmp_path / "train.jsonl", train)
    validation_file = write_json_lines(tmp_path / "validation.jsonl", numbered[300:])
    arguments = [
        "corpus=text",
        f"corpus.paths={train_file}",
        f"corpus.validation_paths={validation_file}",
        "tokenizer.vocab_size=300",
        "piece_bytes=9000",  # more than 16 tasks, so that two tasks find duplicates
        ONE_PROCESS,
    ]
    once = tmp_path / "once"
    done = invoke(prepare.main, *arguments, f"output={once}")
    assert done.code == 0, done.err
    assert "150 documents left out: equal to another" in done.out
    assert sorted(documents(once)) == sorted(numbered[:300])
    assert sorted(documents(once, "validation")) == sorted(numbered[300:])

    all_of_them = tmp_path / "all"
    invoke(prepare.main, *arguments, f"output={all_of_them}", "deduplicate=false")
    assert len(documents(all_of_them)) == 450
