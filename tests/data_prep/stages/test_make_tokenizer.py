"""The tokenizer of a preparation, given or trained, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sentencepiece import sentencepiece_model_pb2

from data_prep import prepare
from data_prep.settings import TokenizerConfig
from data_prep.train_tokenizer import choose, train
from momentum_gpt.data import load_tokenizer
from tests.conftest import Result
from tests.data_prep.samples import ONE_PROCESS, write_json_lines

Invoke = Callable[..., Result]


def check_refused(done: Result, message: str) -> None:
    assert (done.code, done.err.count("\n")) == (2, 1), done
    assert f"there is no training document to train the tokenizer on: {message}" in done.err


def test_a_sample_is_not_empty_because_it_is_small(
    invoke: Invoke, numbered: list[str], tmp_path: Path
) -> None:
    """A share of the documents is drawn by their hashes, and may be none of a few."""
    not_drawn = [text for text in numbered if choose(text) > 2**63][:20]
    path = write_json_lines(tmp_path / "a.jsonl", not_drawn)
    command = ["corpus=text", f"corpus.paths={path}", f"output={tmp_path / 'out'}", ONE_PROCESS]
    small = ["tokenizer.vocab_size=300", "tokenizer.sample_bytes=310", "until=tokenizer"]
    done = invoke(prepare.main, *command, *small)
    assert done.code == 0, done.err
    assert "training the tokenizer on 0.0 MB" in done.out
    assert load_tokenizer(tmp_path / ".out.partial" / "tokenizer").vocab_size == 300


def test_where_no_training_text_is_left_the_reasons_are_counted(
    invoke: Invoke, numbered: list[str], tmp_path: Path
) -> None:
    validation = write_json_lines(tmp_path / "validation.jsonl", numbered[:3])
    same = write_json_lines(tmp_path / "same.jsonl", numbered[:2])
    command = ["corpus=text", f"output={tmp_path / 'out'}", ONE_PROCESS]
    duplicates = [f"corpus.paths={same}", f"corpus.validation_paths={validation}"]
    done = invoke(prepare.main, *command, *duplicates)
    check_refused(done, "of 5 documents, 2 are equal to another one, and the others are validation")

    all_of_it = [f"corpus.paths={validation}", "validation_fraction=0.999999"]
    done = invoke(prepare.main, *command, *all_of_it)
    check_refused(done, "of 3 documents, 0 are equal to another one, and the others are validation")


def test_contaminated_text_is_among_the_reasons(invoke: Invoke, tmp_path: Path) -> None:
    sentence = " ".join(f"word{number}" for number in range(20))
    found = write_json_lines(tmp_path / "found.jsonl", [sentence])
    train_on = write_json_lines(tmp_path / "train.jsonl", [f"before {sentence} after"])
    validation = write_json_lines(tmp_path / "validation.jsonl", ["another document"])
    done = invoke(
        prepare.main,
        "corpus=text",
        f"corpus.paths={train_on}",
        f"corpus.validation_paths={validation}",
        f"decontaminate.sets=[{found}]",
        f"output={tmp_path / 'out'}",
        ONE_PROCESS,
    )
    check_refused(done, "of 2 documents, 0 are equal to another one, 1 hold text of an evaluation")


@pytest.mark.parametrize(("change", "said"), [(0.0, False), (0.001, True)])
def test_a_given_tokenizer_that_cannot_be_exported_is_named_at_once(
    invoke: Invoke, numbered: list[str], tmp_path: Path, change: float, said: bool
) -> None:
    unigram = train(numbered, TokenizerConfig(vocab_size=300, model_type="unigram"))
    model = sentencepiece_model_pb2.ModelProto.FromString(unigram)
    model.pieces[280].score += change
    (tmp_path / "tokenizer.model").write_bytes(model.SerializeToString())
    path = write_json_lines(tmp_path / "a.jsonl", numbered)
    done = invoke(
        prepare.main,
        "corpus=text",
        f"corpus.paths={path}",
        f"tokenizer.path={tmp_path / 'tokenizer.model'}",
        f"output={tmp_path / 'out'}",
        "until=tokenizer",
        ONE_PROCESS,
    )
    assert done.code == 0, done.err
    assert ("cannot be exported to transformers: its scores" in done.out) == said
