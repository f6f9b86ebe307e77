"""Few-shot scores: equal to plain passes, and equal to numbers worked out on paper."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from momentum_gpt.core.config import IclConfig
from momentum_gpt.data import Tokenizer, load_tokenizer
from tests.evaluation.few_shot.cases import (
    Bigram,
    Repeating,
    measure,
    model_of,
    write_colours,
    write_rows,
    write_task,
)


@pytest.fixture(scope="module")
def tokenizer(data_folder: Path) -> Tokenizer:
    return load_tokenizer(data_folder)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize(
    "attention",
    [
        {"name": "vanilla"},
        {"name": "momentum", "ema_decay": 0.9},
        {"name": "shift", "weight": 0.5},
        {"name": "linear"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "verbalizers", [[" a", " b"], [" red and blue", " e", " yellow"]], ids=["short", "long"]
)
def test_every_score_is_that_of_a_plain_pass(
    tokenizer: Tokenizer,
    tmp_path: Path,
    attention: dict[str, Any],
    positions: str,
    verbalizers: list[str],
) -> None:
    task = write_colours(tmp_path, verbalizers)
    config = IclConfig(tasks=[task], k=[0, 3], seeds=2, verify=12, flipped=True)
    records = measure(model_of(attention, positions=positions), tokenizer, config)
    assert [(record.k, record.seed) for record in records] == [(0, 0), (3, 0), (3, 1)]
    assert all(record.verified is not None and record.verified < 1e-5 for record in records)
    assert "flipped" not in records[0].accuracies
    assert all("flipped" in record.accuracies for record in records[1:])


def test_known_probabilities_give_the_scores_worked_out_on_paper(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Token 300 has the probability 1/2 and token 301 has 1/4, whatever the context.

    Candidates (300), (301) and (300, 301) get ln 1/2, ln 1/4, ln 1/8; per token ln 1/2, ln 1/4,
    ln 1/8 / 2.
    """
    first, second = (tokenizer.decode([i]) for i in (300, 301))
    verbalizers = [first, second, first + second]
    log_p = {300: math.log(0.5), 301: math.log(0.25)}
    other = math.log(0.25 / 510)
    encoded = [tokenizer.encode(text) for text in verbalizers]
    sums = [sum(log_p.get(i, other) for i in ids) for ids in encoded]
    assert sums[:2] == pytest.approx([math.log(0.5), math.log(0.25)])

    task = write_colours(tmp_path, verbalizers, n_test=30)
    config = IclConfig(tasks=[task], k=[2], seeds=1)
    (record,) = measure(Bigram({}, default=(0.5, 0.25)), tokenizer, config)

    scores = np.array(sums) / [len(ids) for ids in encoded]
    share = np.exp(scores) / np.exp(scores).sum()
    # Always the first candidate is chosen, and it is right for a third of the labels.
    assert record.accuracies["sum"] == pytest.approx(1 / 3)
    assert record.chosen[0] == 30
    assert record.majority == pytest.approx(1 / 3)
    assert record.soft == pytest.approx(share.mean(), rel=1e-5)
    # The prompt adds nothing to any candidate: all are tied, and the first is taken.
    assert record.accuracies["pmi"] == pytest.approx(1 / 3)
    assert record.loss[:3] == pytest.approx((-np.log(share)).tolist(), abs=1e-4)


def test_calibration_and_pmi_are_those_worked_out_on_paper(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Shares without content (3/4, 1/4), (1/2, 1/2), (3/4, 1/4): on average (2/3, 1/3).

    | query, its right candidate   | raw | calibrated: share / (2/3, 1/3) | pmi: p / (0.6, 0.2) |
    | p = (0.8, 0.1), the first    | 1st | (1.33, 0.33): 1st              | (1.33, 0.50): 1st   |
    | p = (0.5, 0.4), the second   | 1st | (0.83, 1.33): 2nd              | (0.83, 2.00): 2nd   |
    | p = (0.6, 0.25), the second  | 1st | (1.06, 0.88): 1st              | (1.00, 1.25): 2nd   |
    """
    queries = {"def f": (0.8, 0.1), "for x": (0.5, 0.4), "is it": (0.6, 0.25)}
    neutral = {"N/A": (0.6, 0.2), "": (0.4, 0.4), "[MASK]": (0.3, 0.1)}
    by_last = {}
    for text, pair in (queries | neutral).items():
        by_last[tokenizer.encode(f"A {text}")[-1]] = pair
    assert len(by_last) == 6

    pairs = zip(queries, (0, 1, 1), strict=True)
    rows = [{"text": text, "label": label} for text, label in pairs]
    write_rows(tmp_path / "test.jsonl", rows)
    write_rows(tmp_path / "train.jsonl", [{"text": "other", "label": 0}])
    verbalizers = [tokenizer.decode([i]) for i in (300, 301)]
    task = write_task(tmp_path, "A {text}", verbalizers)

    (record,) = measure(Bigram(by_last), tokenizer, IclConfig(tasks=[task], k=[1], seeds=1))
    assert record.acc == pytest.approx(1 / 3)
    assert record.accuracies["calibrated"] == pytest.approx(2 / 3)
    assert record.accuracies["pmi"] == 1.0
    assert record.queries == [0, 1, 2]
    assert record.scores is not None
    expected = [np.log(p).tolist() for p in queries.values()]
    for found, logs in zip(record.scores["sum"], expected, strict=True):
        assert found == pytest.approx(logs, abs=1e-5)
    assert record.soft == pytest.approx((8 / 9 + 4 / 9 + 0.25 / 0.85) / 3, rel=1e-5)


def test_any_of_several_right_candidates_is_right(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Token 300 has the probability 1/2, token 301 1/4, and the best of all is always token 300.

    | right candidates | chosen | share of the right ones, of 1/2 + 1/4 + 1/4 / 510 |
    | 300, and another | right  | 1/2 + 1/4 / 510                                   |
    | 301, and another | wrong  | 1/4 + 1/4 / 510                                   |
    """
    texts = [tokenizer.decode([i]) for i in (300, 301, 302)]
    rows = [{"text": "q", "c": texts, "label": label} for label in ([0, 2], [1, 2])]
    write_rows(tmp_path / "test.jsonl", rows)
    write_rows(tmp_path / "train.jsonl", [{"text": "other", "c": texts, "label": [1]}])
    task = tmp_path / "several.yaml"
    task.write_text(
        f"dataset: {tmp_path}\ntest_split: test\ntemplate: 'A {{text}}'\n"
        "candidates: c\ncandidate: '{}'\n"
    )
    config = IclConfig(tasks=[str(task)], k=[1], seeds=1)
    (record,) = measure(Bigram({}, default=(0.5, 0.25)), tokenizer, config)

    rest = 0.25 / 510
    shares = np.array([0.5 + rest, 0.25 + rest]) / (0.75 + rest)
    assert record.right == [1, 0]
    assert record.chosen == [2, 0, 0]
    assert record.soft == pytest.approx(shares.mean())
    assert record.loss == pytest.approx((-np.log(shares)).tolist(), abs=1e-5)
    assert record.majority == 1.0  # the third candidate is right in both


def test_a_task_says_which_score_counts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """(300, 301) has the sum ln 0.25 and ln 0.5 per token; (300) has ln 0.4 either way."""
    texts = [tokenizer.decode([300, 301]), tokenizer.decode([300])]
    assert [len(tokenizer.encode(text)) for text in texts] == [2, 1]
    write_rows(tmp_path / "test.jsonl", [{"text": "q", "label": 0}])
    write_rows(tmp_path / "train.jsonl", [])
    # After token 300, 301 has the probability 0.625.
    model = Bigram({300: (0.1, 0.625)}, default=(0.4, 0.25))
    for score, right in (("sum", 0), ("per_token", 1)):
        folder = tmp_path / score
        folder.mkdir()
        path = Path(write_task(folder, "A {text}", texts))
        text = path.read_text().replace(str(folder), str(tmp_path))
        path.write_text(f"{text}score: {score}\ntrain_split: null\n")
        config = IclConfig(tasks=[str(path)], k=[0], seeds=1)
        (record,) = measure(model, tokenizer, config)
        assert record.acc == right
        assert record.right == [right]
        assert record.accuracies["sum"] == 0
        assert record.accuracies["per_token"] == 1


def test_a_word_to_foresee_is_right_if_the_model_would_write_it(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Token 300 has 1/2 after all but one word, where it has 0.1 and token 301 has 0.3."""
    word = tokenizer.decode([300])
    other = tokenizer.encode("is it")[-1]
    rows = [{"text": "a", "word": word}, {"text": "is it", "word": word}]
    write_rows(tmp_path / "test.jsonl", rows)
    task = tmp_path / "word.yaml"
    task.write_text(
        f"dataset: {tmp_path}\ntest_split: test\ntrain_split: null\n"
        "template: '{text}'\ncontinuation: '{word}'\n"
    )
    config = IclConfig(tasks=[str(task)], k=[0, 4], verify=0)
    model = Bigram({other: (0.1, 0.3)}, default=(0.5, 0.25))
    records = measure(model, tokenizer, config)
    # There is nothing to show: it is measured once, and is the answer to both.
    assert [(record.k, record.k_asked) for record in records] == [(0, 0), (0, 4)]
    assert records[0].right == [1, 0]
    assert records[0].acc == records[0].accuracies["greedy"] == 0.5
    assert records[0].loss == pytest.approx([math.log(2), math.log(10)], abs=1e-5)
    assert records[0].soft == pytest.approx(0.3)
    assert records[0].ppl == pytest.approx(math.sqrt(20))
    assert records[0].majority is None


def test_written_answers_are_exact_or_nearly_right(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """After "is it" the model writes token 301 once, and after all else token 300, to the end."""
    a, b = (tokenizer.decode([i]) for i in (300, 301))
    last = tokenizer.encode("is it")[-1]
    rows = [
        {"text": "is it", "right": [f"{b}{a}{a}", "other"]},
        {"text": "a", "right": [f"{a}{a}{a}"]},
        {"text": "a", "right": ["other"]},
    ]
    write_rows(tmp_path / "test.jsonl", rows)
    task = tmp_path / "written.yaml"
    task.write_text(
        f"dataset: {tmp_path}\ntest_split: test\ntrain_split: null\ntemplate: '{{text}}'\n"
        "answers: right\nmax_new_tokens: 3\nstop: []\n"
    )
    config = IclConfig(tasks=[str(task)], k=[0])
    (record,) = measure(Bigram({last: (0.1, 0.3)}, default=(0.5, 0.25)), tokenizer, config)
    assert record.written == [f"{b}{a}{a}", f"{a}{a}{a}", f"{a}{a}{a}"]
    assert record.right == [1, 1, 0]
    assert record.f1 == [1, 1, 0]
    assert record.acc == record.accuracies["exact"] == pytest.approx(2 / 3)
    assert record.soft is None
    assert record.loss == []


def test_wrong_answers_are_shown_where_flipped_is_measured(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """The model repeats the last answer shown: right ones make it right, wrong ones wrong."""
    verbalizers = [tokenizer.decode([i]) for i in (300, 301)]
    row = {"text": "thing", "label": 1}
    write_rows(tmp_path / "train.jsonl", [row | {"text": f"thing {i}"} for i in range(4)])
    write_rows(tmp_path / "test.jsonl", [row | {"text": f"other {i}"} for i in range(3)])
    task = write_task(tmp_path, "{text}", verbalizers)
    config = IclConfig(tasks=[task], k=[2], seeds=2, flipped=True)
    records = measure(Repeating(), tokenizer, config)
    assert [record.acc for record in records] == [1.0, 1.0]
    assert [record.accuracies["flipped"] for record in records] == [0.0, 0.0]


def test_a_record_is_json(tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = write_colours(tmp_path, [" a", " b"])
    config = IclConfig(tasks=[task], k=[1], seeds=1, flipped=True, verify=1)
    (record,) = measure(model_of({"name": "vanilla"}), tokenizer, config)
    line = json.loads(json.dumps(record.to_json()))
    assert type(record).from_json(line) == record
