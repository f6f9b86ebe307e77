"""The tasks of conf/icl/ beyond the paper's: what they ask of rows in the hub's layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from momentum_gpt.core.config import IclConfig
from momentum_gpt.data import Tokenizer, load_tokenizer
from momentum_gpt.evaluation.few_shot.prompts import prepare_task
from momentum_gpt.evaluation.few_shot.rows import Example
from momentum_gpt.evaluation.few_shot.tasks import load_examples, load_task, task_names
from tests.evaluation.few_shot.cases import measure, model_of
from tests.evaluation.few_shot.hub_rows import ROWS, write_hub


@pytest.fixture(scope="module")
def tokenizer(data_folder: Path) -> Tokenizer:
    return load_tokenizer(data_folder)


def asked(folder: Path, name: str) -> list[Example]:
    write_hub(folder, name)
    return load_examples(load_task(name), str(folder))[1]


CHOICES = {
    "hellaswag": (
        "Washing dishes: A man stands at the sink. He",
        (" dries a plate.", " paints it red.", " runs away.", " sings the moon."),
        3,
    ),
    "openbookqa": ("A magnet pulls", (" wood", " a nail of iron", " glass", " milk"), 1),
    "boolq": ("Most birds fly.\nQuestion: do birds fly?\nAnswer:", (" no", " yes"), 1),
    "rte": (
        "It rained.\nQuestion: It was dry. True or False?\nAnswer:",
        (" True", " False"),
        1,
    ),
    "copa": ("The shop was closed because", (" the road was wet.", " it was a Sunday."), 1),
    "trec": (
        "Question: Where is Oslo ?\nAnswer Type:",
        (" Abbreviation", " Entity", " Description", " Person", " Location", " Number"),
        4,
    ),
    "mmlu": (
        "Which muscle bends the arm?\nA. one\nB. two\nC. the third\nD. four\nAnswer:",
        (" A", " B", " C", " D"),
        3,
    ),
}


@pytest.mark.parametrize("name", CHOICES)
def test_the_first_row_is_asked_like_this(tmp_path: Path, name: str) -> None:
    first = asked(tmp_path, name)[0]
    prompt, candidates, gold = CHOICES[name]
    assert first.prompt == prompt
    assert first.candidates == candidates
    assert first.gold == (gold,)
    assert not first.continuation


def test_marks_of_wikihow_are_removed(tmp_path: Path) -> None:
    last = asked(tmp_path, "hellaswag")[2]
    assert last.prompt == "Washing dishes: How to rest. Sit down. Sit still."


def test_an_effect_is_asked_with_another_word(tmp_path: Path) -> None:
    assert asked(tmp_path, "copa")[1].prompt == "It rained all night therefore"


def test_the_candidates_of_winogrande_fill_the_gap(tmp_path: Path) -> None:
    """What is scored is the text after the gap, the same for both."""
    first, second = asked(tmp_path, "winogrande")
    assert first.rows == [
        ("The book did not fit on the cup", (" , which was small.",)),
        ("The book did not fit on the shelf", (" , which was small.",)),
    ]
    assert (first.gold, second.gold) == ((1,), (0,))
    assert first.shown == ("The book did not fit on the shelf", " , which was small.")


def test_lambada_asks_for_the_last_word(tmp_path: Path) -> None:
    first = asked(tmp_path, "lambada")[0]
    text = "Ann put the lamp on the table and lit the"
    assert first.rows == [(text, (" lamp",))]
    assert load_examples(load_task("lambada"), str(tmp_path))[0] == []


def test_squad_has_several_right_answers(tmp_path: Path) -> None:
    first, second = asked(tmp_path, "squad")
    assert first.prompt == (
        "Title: Bridges\n\n"
        "Background: The old bridge was built in 1890 by Ada Holm, a mason.\n\n"
        "Question: Who built the bridge?\n\n"
        "Answer:"
    )
    assert second.candidates == (" a mason", " mason")
    assert second.shown[1] == " a mason"


@pytest.mark.parametrize("name", ["fda", "swde"])
def test_recall_asks_for_the_rest_of_the_text(tmp_path: Path, name: str) -> None:
    for example, row in zip(asked(tmp_path, name), ROWS[name]["validation"], strict=True):
        assert example.prompt == row["text"].strip()
        assert example.prompt.endswith(":")
        assert example.candidates == (f" {row['value']}",)


def test_mmlu_shows_each_subject_its_own_demonstrations(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_hub(tmp_path, "mmlu")
    config = IclConfig(tasks=["mmlu"], data=str(tmp_path), k=[2, 5], seeds=1, separator="\n\n")
    prompts = prepare_task("mmlu", tokenizer, config, 2048)
    (setting,) = prompts.settings
    assert (setting.k, setting.asked) == (2, (2, 5))

    text = tokenizer.decode(prompts.prefix(setting, "us_foreign_policy")[1:])
    beginning = (
        "The following are multiple choice questions (with answers) about us foreign policy.\n\n"
    )
    shown = {
        f"{question}\nA. one\nB. two\nC. the third\nD. four\nAnswer: {letter}"
        for question, letter in (("Which treaty came first?", "A"), ("Who signed it?", "D"))
    }
    assert text.startswith(beginning)
    assert set(text.removeprefix(beginning).split("\n\n")) == {*shown, ""}


def test_mmlu_is_counted_by_subject_too(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_hub(tmp_path, "mmlu")
    config = IclConfig(tasks=["mmlu"], data=str(tmp_path), k=[1], seeds=1, verify=3)
    (record,) = measure(model_of({"name": "vanilla"}, 1024), tokenizer, config, 1024)
    first, second, third = record.right
    assert record.queries == [0, 1, 2]
    assert record.by_group == {"anatomy": (first + third) / 2, "us_foreign_policy": second}
    assert record.acc == pytest.approx(sum(record.right) / 3)
    assert record.verified is not None
    assert record.verified < 1e-5
    # The row that is shown belongs to the subject: 0 or 1 to anatomy, 2 or 3 to the other.
    assert [number // 2 for number in record.demonstrations] == [0, 1]


@pytest.mark.parametrize("name", sorted(ROWS))
def test_every_suite_is_measured(tokenizer: Tokenizer, tmp_path: Path, name: str) -> None:
    """And its scores are those of plain passes, where it has candidates."""
    write_hub(tmp_path, name)
    config = IclConfig(tasks=[name], data=str(tmp_path), k=[0, 1], seeds=1, verify=3, flipped=True)
    records = measure(model_of({"name": "momentum", "ema_decay": 0.8}, 1024), tokenizer, config)
    assert [record.k_asked for record in records] == [0, 1]
    assert records[-1].k == (1 if load_task(name).train_split else 0)
    for record in records:
        assert record.n == len(record.right) == len(asked_rows(name))
        assert record.acc == pytest.approx(sum(record.right) / record.n)
        is_written = record.written is not None
        assert is_written == (name in ("squad", "fda", "swde"))
        if not is_written:
            assert record.verified is not None
            assert record.verified < 1e-5


def asked_rows(name: str) -> list[object]:
    return ROWS[name][load_task(name).test_split]


def test_every_task_file_is_read() -> None:
    assert set(ROWS) <= set(task_names())
    for name in task_names():
        assert load_task(name).name == name
