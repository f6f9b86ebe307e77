"""Text of evaluation sets in the training documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import prepare
from data_prep.provenance import provenance_of
from momentum_gpt.data.shards import read_manifest
from tests.conftest import SHARED_DATA, Result
from tests.data_prep.samples import ONE_PROCESS, documents, write_json_lines

Invoke = Callable[..., Result]


def test_text_of_evaluation_sets_is_found_and_left_out(
    invoke: Invoke,
    data_folder: Path,
    tmp_path: Path,
) -> None:
    """Thirteen words in a row count, whatever stands between them.

    Items of eight to twelve words count as a whole, and shorter ones do not.
    """
    words = [f"w{number}" for number in range(3000)]
    item = " ".join(words[:20])
    short = " ".join(words[100:109])
    tiny = " ".join(words[200:207])
    record = json.dumps({"q": {"inner": [short, tiny]}, "label": 1})
    evaluation = write_json_lines(tmp_path / "eval.jsonl", [item])
    with evaluation.open("a") as file:
        file.write(record + "\n")

    clean = [" ".join(words[start : start + 40]) for start in range(300, 2900, 40)]
    # 13 words of the long item with other punctuation and case; all of the short item.
    bad = [f"x {', '.join(words[3:16]).upper()}. y", f"The answer: {short}!"]
    # 12 of 20 words; 8 of 9 words; an item that is too short.
    near = [f"x {' '.join(words[3:15])} y", " ".join(words[100:108]), tiny]
    path = write_json_lines(tmp_path / "text.jsonl", clean + bad + near)
    validation = write_json_lines(tmp_path / "validation.jsonl", ["a b c"])
    arguments = [
        "corpus=text",
        f"corpus.paths={path}",
        f"corpus.validation_paths={validation}",
        f"tokenizer.path={data_folder}",
        f"decontaminate.sets=[{evaluation}]",
        ONE_PROCESS,
    ]

    dropped = tmp_path / "dropped"
    done = invoke(prepare.main, *arguments, f"output={dropped}")
    assert done.code == 0, done.err
    assert "2 training documents hold text of an evaluation set, left out: eval 2" in done.out
    assert sorted(documents(dropped)) == sorted(clean + near)
    found = provenance_of(read_manifest(dropped)).contamination
    assert found is not None
    assert (found.documents, found.by_set["eval"].texts) == (2, 2)

    kept = tmp_path / "kept"
    done = invoke(prepare.main, *arguments, f"output={kept}", "decontaminate.drop=false")
    assert "NOT left out: eval 2" in done.out
    assert len(documents(kept)) == len(clean + bad + near)


@pytest.mark.slow
@pytest.mark.shared_data
def test_the_known_tasks_are_found_in_text_that_holds_them(
    invoke: Invoke,
    data_folder: Path,
    numbered: list[str],
    tmp_path: Path,
) -> None:
    reviews = SHARED_DATA / "icl" / "imdb" / "test.jsonl"
    lines = reviews.read_text(encoding="utf-8").splitlines()[:3]
    seen = [f"seen on the net: {json.loads(line)['text']}" for line in lines]
    path = write_json_lines(tmp_path / "a.jsonl", numbered + seen)
    validation = write_json_lines(tmp_path / "validation.jsonl", ["a b c"])
    done = invoke(
        prepare.main,
        "corpus=text",
        f"corpus.paths={path}",
        f"corpus.validation_paths={validation}",
        f"tokenizer.path={data_folder}",
        "decontaminate.sets=[known]",
        f"decontaminate.data={SHARED_DATA / 'icl'}",
        f"output={tmp_path / 'out'}",
        ONE_PROCESS,
    )
    assert done.code == 0, done.err
    assert "3 training documents hold text of an evaluation set, left out: imdb 3" in done.out


def test_a_set_that_does_not_exist_is_named_with_those_that_do(
    invoke: Invoke,
    tmp_path: Path,
) -> None:
    path = write_json_lines(tmp_path / "a.jsonl", ["a document"])
    command = ["corpus=text", f"corpus.paths={path}", f"output={tmp_path / 'out'}", ONE_PROCESS]
    done = invoke(prepare.main, *command, "decontaminate.sets=[nosuch]", "until=decontaminate")
    assert done.code == 2
    assert "'nosuch' is no few-shot task, no .jsonl file and no folder" in done.err
    assert "the tasks are agnews, " in done.err
