"""As many demonstrations as fit, whatever they look like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from momentum_gpt.core.config import IclConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Tokenizer, load_tokenizer
from momentum_gpt.evaluation.few_shot.prompts import prepare_task
from momentum_gpt.evaluation.few_shot.tasks import load_task, read_examples
from tests.evaluation.few_shot.cases import measure, model_of, write_colours, write_rows, write_task


@pytest.fixture(scope="module")
def tokenizer(data_folder: Path) -> Tokenizer:
    return load_tokenizer(data_folder)


def test_as_many_demonstrations_are_shown_as_fit(tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = write_colours(tmp_path, [" a", " b"])
    config = IclConfig(tasks=[task], k=[0, 2, 16, 32], seeds=2)
    records = measure(model_of({"name": "vanilla"}, 250), tokenizer, config, 250)
    shown = sorted({(record.k, record.k_asked) for record in records})
    assert shown[:2] == [(0, 0), (2, 2)]
    most = shown[2][0]
    assert shown[2:] == [(most, 16), (most, 32)]
    assert 2 < most < 16

    # One more than fits would not.
    prompts = prepare_task(task, tokenizer, config, 250)
    assert prompts.settings[-1].k == most
    lengths = []
    for setting in prompts.settings[-2:]:
        lengths.append(len(prompts.prefix(setting)) + prompts.queries.longest(""))
        more = setting._replace(k=setting.k + 1)
        lengths.append(len(prompts.prefix(more)) + prompts.queries.longest(""))
    assert max(lengths[0], lengths[2]) <= 250 < max(lengths[1], lengths[3])


def test_a_task_whose_queries_do_not_fit_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = write_colours(tmp_path, [" a", " b"])
    with pytest.raises(UserError, match="none of 12 queries fits the model's context of 8 tokens"):
        prepare_task(task, tokenizer, IclConfig(tasks=[task]), 8)


def test_wrong_answers_and_prompts_without_content_fit_too(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """At any length of the context.

    The right answers are short and the wrong ones long, and the queries are shorter than "[MASK]".
    """
    write_rows(tmp_path / "train.jsonl", [{"text": str(i), "label": 0} for i in range(20)])
    write_rows(tmp_path / "test.jsonl", [{"text": "x", "label": 0} for _ in range(4)])
    task = write_task(tmp_path, "{text}", [" a", " a longer answer"])
    config = IclConfig(tasks=[task], k=[16], seeds=2, flipped=True)
    for seq_len in range(60, 75, 3):
        records = measure(model_of({"name": "vanilla"}, seq_len), tokenizer, config, seq_len)
        assert 1 <= records[0].k < 16


def test_queries_are_a_function_of_their_seed_and_come_in_their_order(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    task = write_colours(tmp_path, [" a", " b"])

    def numbers(seed: int) -> list[int]:
        config = IclConfig(tasks=[task], queries=5, queries_seed=seed)
        return prepare_task(task, tokenizer, config, 512).queries.numbers

    assert len(numbers(1)) == 5
    assert numbers(1) == numbers(1) == sorted(numbers(1))
    assert numbers(1) != numbers(2)


def test_every_number_that_was_asked_for_has_its_records_and_is_measured_once(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Also where there is nothing more to show: 20 examples."""
    task = write_colours(tmp_path, [" a", " b"])
    config = IclConfig(tasks=[task], k=[64, 0, 32, 0], seeds=2, queries=3)
    records = measure(model_of({"name": "vanilla"}, 1024), tokenizer, config, 1024)
    found = [(record.k_asked, record.k, record.seed) for record in records]
    assert sorted(found) == [(0, 0, 0), (32, 20, 0), (32, 20, 1), (64, 20, 0), (64, 20, 1)]

    by_asked = {(record.k_asked, record.seed): record for record in records}
    assert by_asked[64, 1].right == by_asked[32, 1].right
    assert by_asked[64, 1].seconds == 0 < by_asked[32, 1].seconds

    prompts = prepare_task(task, tokenizer, config, 1024)
    assert prompts.notes == ["task: k=32 and 64 became 20: no more demonstrations fit, or exist"]


def test_the_rows_that_are_shown_and_asked_are_recorded(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Numbers of rows, also where rows before them are left out."""
    shown = [{"text": f"shown {i}", "label": i % 2} for i in range(6)]
    asked = [{"text": f"asked {i}", "label": i % 2} for i in range(5)]
    shown[1]["label"] = asked[2]["label"] = -1
    write_rows(tmp_path / "train.jsonl", shown)
    write_rows(tmp_path / "test.jsonl", asked)
    task = write_task(tmp_path, "{text} is", [" a", " b"])

    config = IclConfig(tasks=[task], k=[3], seeds=2)
    prompts = prepare_task(task, tokenizer, config, 512)
    records = measure(model_of({"name": "vanilla"}), tokenizer, config)
    for setting, record in zip(prompts.settings, records, strict=True):
        assert record.queries == [0, 1, 3, 4]
        lines = []
        for number in record.demonstrations:
            row = shown[number]
            lines.append(f"{row['text']} is {'ab'[row['label']]}\n")
        assert tokenizer.decode(prompts.prefix(setting)[1:]) == "".join(lines)
    assert records[0].demonstrations != records[1].demonstrations


def test_a_hash_tells_whether_the_same_was_asked(tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = write_colours(tmp_path, [" a", " b"])

    def hashes(**options: object) -> list[str]:
        config = IclConfig(tasks=[task], **({"k": [2], "seeds": 2, "queries": 5} | options))
        prompts = prepare_task(task, tokenizer, config, 512)
        return [prompts.content_sha256(setting) for setting in prompts.settings]

    first, second = hashes()
    assert hashes() == [first, second]
    others = [second, *hashes(k=[3]), *hashes(queries=4), *hashes(queries_seed=2)]
    others += hashes(separator="eos")

    # The same numbers of rows, but one of them has another text, label, or template.
    path = tmp_path / "test.jsonl"
    rows = path.read_text()
    for before, after in (("test thing", "a thing"), ('"label": 0', '"label": 1')):
        path.write_text(rows.replace(before, after))
        read_examples.cache_clear()
        others += hashes()
    path.write_text(rows)
    read_examples.cache_clear()
    write_task(tmp_path, "Thing: {text} Color:", [" a", " b"])
    load_task.cache_clear()
    others += hashes()
    assert first not in others


def test_a_query_is_never_among_the_demonstrations(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Half of the rows to show are rows to ask, and all that may be shown is shown."""
    rows = [{"text": f"thing {i}", "label": i % 2} for i in range(12)]
    write_rows(tmp_path / "train.jsonl", rows)
    write_rows(tmp_path / "test.jsonl", rows[::2])
    task = write_task(tmp_path, "{text} is", [" a", " b"])
    config = IclConfig(tasks=[task], k=[12], seeds=3)
    prompts = prepare_task(task, tokenizer, config, 512)
    for setting, record in zip(
        prompts.settings,
        measure(model_of({"name": "vanilla"}), tokenizer, config),
        strict=True,
    ):
        assert sorted(record.demonstrations) == [1, 3, 5, 7, 9, 11]
        shown = tokenizer.decode(prompts.prefix(setting)[1:])
        assert not any(f"{row['text']} is" in shown for row in rows[::2])
        assert record.rows_left_out == {"train: also asked": 6}


def test_flipped_demonstrations_are_all_wrong(tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = write_colours(tmp_path, [" red", " blue", " green"])
    config = IclConfig(tasks=[task], k=[6], seeds=2, flipped=True)
    prompts = prepare_task(task, tokenizer, config, 512)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    for setting in prompts.settings:
        right = tokenizer.decode(prompts.prefix(setting)[1:]).splitlines()
        wrong = tokenizer.decode(prompts.prefix(setting, flip=True)[1:]).splitlines()
        assert len(right) == len(wrong) == 6
        for number, shown, flipped in zip(
            [example.number for example in prompts.demonstrations(setting, "")],
            right,
            wrong,
            strict=True,
        ):
            row = rows[number]
            colour = ("red", "blue", "green")[row["label"]]
            assert shown == f"Thing: {row['text']} Colour: {colour}"
            begin, _, answer = flipped.rpartition(" ")
            assert begin == f"Thing: {row['text']} Colour:"
            assert answer in {"red", "blue", "green"} - {colour}


def test_the_description_stands_once_before_all(tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = write_colours(tmp_path, [" a", " b"])
    path = Path(task)
    path.write_text(path.read_text() + 'description: "Name colours.\\n"\n')
    load_task.cache_clear()
    config = IclConfig(tasks=[task], k=[0, 1], seeds=1)
    prompts = prepare_task(task, tokenizer, config, 512)
    none, one = (tokenizer.decode(prompts.prefix(setting)[1:]) for setting in prompts.settings)
    assert none == "Name colours.\n"
    assert one.startswith("Name colours.\nThing: train thing")
