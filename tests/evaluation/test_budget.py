"""The share of an evaluation in training: worked out by hand, and kept by what was left open alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from momentum_gpt.core.config import EvaluationConfig, IclConfig, TrainingConfig
from momentum_gpt.data import load_tokenizer
from momentum_gpt.evaluation.budget import settle_evaluation


def training(max_steps: int, eval_every: int) -> TrainingConfig:
    return TrainingConfig(max_steps=max_steps, tokens_per_step=4096, eval_every=eval_every)


def test_two_percent_of_the_computation_by_hand(data_folder: Path) -> None:
    """Between two evaluations 80 x 4,096 tokens, twice: 655,360; 2% are 13,107: three quarters are 9,830 for three context
    lengths, 3,276 each, 12 windows of 256; one quarter, 3,276, for 12 sequences of the probe."""
    evaluation = EvaluationConfig()
    said = settle_evaluation(evaluation, training(320, 80), 256, load_tokenizer(data_folder))
    assert (evaluation.tokens, evaluation.windows, evaluation.induction_sequences) == (
        65536,
        12,
        12,
    )
    assert said == "3,072 targets: 1.88% of the computation"


@pytest.mark.parametrize(
    ("max_steps", "eval_every", "targets"),
    [(320, 0, 51 * 256), (320, 1000, 51 * 256), (10**6, 0, 65536)],
)
def test_the_last_evaluation_counts_and_enough_is_enough(
    data_folder: Path, max_steps: int, eval_every: int, targets: int
) -> None:
    said = settle_evaluation(
        EvaluationConfig(), training(max_steps, eval_every), 256, load_tokenizer(data_folder)
    )
    assert said.startswith(f"{targets:,} targets")


def test_what_the_user_chose_stays_and_its_cost_is_said(data_folder: Path) -> None:
    evaluation = EvaluationConfig(
        tokens=65536, induction_sequences=64, context_lengths=[256], stride=64
    )
    said = settle_evaluation(evaluation, training(320, 80), 256, load_tokenizer(data_folder))
    assert (evaluation.tokens, evaluation.windows, evaluation.induction_sequences) == (
        65536,
        None,
        64,
    )
    cost = 65536 * (1 + 256 / 64) + 64 * 256
    assert (
        said
        == f"65,536 targets: {cost / 655360:.2%} of the computation, more than evaluation.share"
    )


@pytest.mark.parametrize("flipped", [False, True])
def test_few_shot_queries_take_half_the_share(
    data_folder: Path, tmp_path: Path, flipped: bool
) -> None:
    for split in ("train", "test"):
        rows = [{"text": f"{split} {i:05}", "label": 0} for i in range(3000)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = tmp_path / "t.yaml"
    task.write_text(
        f"dataset: {tmp_path}\ntest_split: test\ntemplate: 'a {{text}}'\nverbalizers: [' b', ' c']\n"
    )
    tokenizer = load_tokenizer(data_folder)
    of_query = len(tokenizer.encode("a test 01234"))
    of_demonstration = len(
        tokenizer.encode("a train 01234") + tokenizer.encode(" b") + tokenizer.encode("\n")
    )
    allowed = 0.01 * 2 * 900 * 4096
    evaluation = EvaluationConfig(
        icl=IclConfig(tasks=[str(task)], k=[0, 4], seeds=5, flipped=flipped)
    )
    settle_evaluation(evaluation, training(900, 0), 256, tokenizer)
    times = 2 if flipped else 1
    expected = (allowed - times * (6 + 5 * 4 * of_demonstration)) / (times * 6 * of_query)
    assert evaluation.icl.queries == pytest.approx(expected, rel=0.02)
    assert evaluation.icl.queries < 2000
    assert evaluation.windows == int(0.75 * allowed / 3 / 256)
