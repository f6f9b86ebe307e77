"""Tasks: those of the paper, those of a user, and their examples."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import zstandard

from momentum_gpt.core.errors import UserError
from momentum_gpt.evaluation.few_shot.rows import IclTask
from momentum_gpt.evaluation.few_shot.tasks import (
    draw_demonstrations,
    load_examples,
    load_task,
    neutral_prompts,
    task_fingerprint,
    task_names,
)
from momentum_gpt.evaluation.few_shot.templates import FILTERS
from tests.conftest import SHARED_DATA
from tests.docs.pages import blocks, text_of
from tests.evaluation.few_shot.cases import write_colours, write_rows


def test_demonstrations_are_a_function_of_the_seed_and_never_the_queries(tmp_path: Path) -> None:
    task = load_task(write_colours(tmp_path, [" a", " b"]))
    train, test = load_examples(task, None)
    assert draw_demonstrations(train, 5, "x", 0) == draw_demonstrations(train, 9, "x", 0)[:5]
    assert draw_demonstrations(train, 5, "x", 0) != draw_demonstrations(train, 5, "x", 1)
    assert not {example.prompt for example in train} & {example.prompt for example in test}


def test_an_example_that_is_asked_is_never_shown(tmp_path: Path) -> None:
    path = write_colours(tmp_path, [" a", " b"])
    shared = {"text": "in both", "label": 0}
    write_rows(tmp_path / "train.jsonl", [shared, {"text": "other", "label": 1}])
    write_rows(tmp_path / "test.jsonl", [shared])
    train, test = load_examples(load_task(path), None)
    assert [example.prompt for example in train] == ["Thing: other Colour:"]
    assert len(test) == 1


def test_tasks_are_what_the_paper_and_its_code_say() -> None:
    in_code = neutral_prompts(load_task("cb"))[0]
    in_table = neutral_prompts(load_task("cb_paper"))[0]
    assert in_code == "N/A Question: N/A. True, False, or Neither? Answer:"
    assert in_table == "N/A Question: N/A True, False, or Neither? Answer:"

    wanted = {"sst2", "sst5", "mr", "subj", "agnews", "cb", "imdb", "arc_easy", "piqa"}
    assert wanted <= set(task_names())
    with pytest.raises(UserError, match="'sst3' is none of agnews"):
        load_task("sst3")


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "n", "n_candidates"),
    [
        ("sst2", 872, 2),
        ("sst5", 1101, 5),
        ("mr", 1066, 2),
        ("subj", 2000, 2),
        ("agnews", 3000, 4),
        ("cb", 56, 3),
        ("imdb", 2000, 2),
        ("piqa", 1838, 2),
        ("agnews_paper", 3000, 4),
        ("cb_paper", 56, 3),
    ],
)
def test_real_tasks_are_read_from_a_local_folder(name: str, n: int, n_candidates: int) -> None:
    train, test = load_examples(load_task(name), str(SHARED_DATA / "icl"))
    assert len(test) == pytest.approx(n, abs=6)
    assert {len(example.candidates) for example in test} == {n_candidates}
    assert {number for example in train + test for number in example.gold} <= set(
        range(n_candidates)
    )
    for example in test[:50]:
        assert all(text.startswith(" ") for text in example.candidates)


def test_a_fingerprint_is_that_of_the_task_and_its_examples(tmp_path: Path) -> None:
    path = write_colours(tmp_path, [" a", " b"])
    task = load_task(path)
    before = task_fingerprint(task, None)
    assert task_fingerprint(task, None) == before

    # The same examples in a collection of tasks, which is named on the command line.
    collection = tmp_path / "collection"
    (collection / "task").mkdir(parents=True)
    for split in ("train", "test"):
        copied = (tmp_path / f"{split}.jsonl").read_text()
        (collection / "task" / f"{split}.jsonl").write_text(copied)
    in_collection = task_fingerprint(task, str(collection))
    write_rows(collection / "task" / "test.jsonl", [{"text": "new", "label": 0}])
    assert task_fingerprint(task, str(collection)) != in_collection

    # A name on the hub stands for its examples.
    assert task_fingerprint(load_task("sst2"), None) != task_fingerprint(load_task("mr"), None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "dataset: x\ntest_split: test\ntemplate: t\n",
            "must have one of verbalizers, candidates, answers, continuation",
        ),
        ("dataset: x\ntemplte: y\n", "is not a task"),
        (
            "dataset: /nowhere\ntest_split: test\ntemplate: t\nverbalizers: [a]\n",
            "cannot be loaded",
        ),
    ],
)
def test_a_mistake_in_a_task_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_examples(load_task(str(path)), None)


def test_the_tasks_that_the_documentation_shows_are_tasks(tmp_path: Path) -> None:
    shown = [block for block in blocks() if block.page == "docs/few-shot-tasks.md"]
    asking = []
    for block in shown:
        if block.language == "yaml":
            name = block.content.partition("\n")[0].removeprefix("# ")
            (tmp_path / name).write_text(block.content)
            asking.append(load_task(str(tmp_path / name)).asking)
    assert asking == ["choose", "choose", "gap", "foresee", "write"]


def test_the_documentation_names_every_option_and_every_filter() -> None:
    page = text_of("docs/few-shot-tasks.md")
    names = {entry.name for entry in fields(IclTask)} - {"name"}
    assert {name for name in names | FILTERS.keys() if f"`{name}`" not in page} == set()


def test_a_packed_split_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    """`datasets` would read its first frame and end without a word."""
    rows = [json.dumps({"sentence": f"sentence {n}", "label": 0}) + "\n" for n in range(4)]
    (tmp_path / "sst2").mkdir()
    for split in ("train", "validation"):
        frames = [zstandard.compress("".join(part).encode()) for part in (rows[:2], rows[2:])]
        path = tmp_path / "sst2" / f"{split}.jsonl.zst"
        path.write_bytes(b"".join(frames)[: -2 if split == "train" else None])
    with pytest.raises(UserError, match=r"train\.jsonl\.zst cannot be read .*cut short"):
        load_examples(load_task("sst2"), str(tmp_path))
