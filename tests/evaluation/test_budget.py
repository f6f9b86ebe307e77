"""What an evaluation in training may cost: worked out by hand, and only what was open is chosen."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from momentum_gpt.core.config import EvaluationConfig, IclConfig, TrainingConfig
from momentum_gpt.data import load_tokenizer
from momentum_gpt.evaluation.budget import plan_evaluation, settle_evaluation


def training(max_steps: int, eval_every: int) -> TrainingConfig:
    return TrainingConfig(max_steps=max_steps, tokens_per_step=4096, eval_every=eval_every)


def test_two_percent_of_the_computation_by_hand(data_folder: Path) -> None:
    """The share, worked out.

    Between two evaluations there are 80 x 4,096 tokens, and training costs twice as much: 655,360.
    2% are 13,107. Three quarters, 9,830, are for three context lengths, 3,276 each: 12 windows of
    256. One quarter, 3,276, is for the probe: 12 sequences.
    """
    evaluation = EvaluationConfig()
    plan = settle_evaluation(evaluation, training(320, 80), 256, load_tokenizer(data_folder))
    assert evaluation.tokens == plan.tokens == 12 * 256
    assert evaluation.induction_sequences == 12
    assert plan.cost == 12 * 256 * 3 + 12 * 256
    assert plan.between == 655360
    assert str(plan) == "3,072 validation targets: 1.88% of the computation"


def test_a_plan_changes_no_option_until_it_is_filled_in(data_folder: Path) -> None:
    evaluation = EvaluationConfig()
    tokenizer = load_tokenizer(data_folder)
    plan = plan_evaluation(evaluation, training(320, 80), 256, tokenizer)
    assert evaluation == EvaluationConfig()
    plan.fill_in(evaluation)

    settled = EvaluationConfig()
    settle_evaluation(settled, training(320, 80), 256, tokenizer)
    assert asdict(evaluation) == asdict(settled)


@pytest.mark.parametrize(
    ("max_steps", "eval_every", "targets"),
    [(320, 0, 51 * 256), (320, 1000, 51 * 256), (10**6, 0, 65536)],
)
def test_the_last_evaluation_counts_and_enough_is_enough(
    data_folder: Path, max_steps: int, eval_every: int, targets: int
) -> None:
    steps = training(max_steps, eval_every)
    plan = settle_evaluation(EvaluationConfig(), steps, 256, load_tokenizer(data_folder))
    assert str(plan).startswith(f"{targets:,} validation targets")


def test_what_the_user_chose_stays_and_its_cost_is_reported(data_folder: Path) -> None:
    chosen = {"tokens": 65536, "induction_sequences": 64, "context_lengths": [256], "stride": 64}
    evaluation = EvaluationConfig(**chosen)
    plan = settle_evaluation(evaluation, training(320, 80), 256, load_tokenizer(data_folder))
    assert evaluation.tokens == 65536
    assert evaluation.induction_sequences == 64

    share = (65536 * (1 + 256 / 64) + 64 * 256) / 655360
    expected = (
        f"65,536 validation targets: {share:.2%} of the computation, more than evaluation.share"
    )
    assert str(plan) == expected


def test_only_whole_windows_cost(data_folder: Path) -> None:
    """Of 700 targets, 512 are scored: two windows of 256, at three context lengths."""
    evaluation = EvaluationConfig(tokens=700, induction_sequences=3)
    plan = settle_evaluation(evaluation, training(320, 80), 256, load_tokenizer(data_folder))
    assert plan.cost == 2 * 256 * 3 + 3 * 256


@pytest.mark.parametrize("flipped", [False, True])
def test_few_shot_queries_take_half_the_share(
    data_folder: Path, tmp_path: Path, flipped: bool
) -> None:
    for split in ("train", "test"):
        rows = [{"text": f"{split} {i:05}", "label": 0} for i in range(3000)]
        lines = [json.dumps(row) + "\n" for row in rows]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    task = tmp_path / "t.yaml"
    task.write_text(
        f"dataset: {tmp_path}\n"
        "test_split: test\n"
        "template: 'a {text}'\n"
        "verbalizers: [' b', ' c']\n"
    )

    icl = IclConfig(tasks=[str(task)], k=[0, 4], seeds=5, flipped=flipped)
    evaluation = EvaluationConfig(icl=icl)
    tokenizer = load_tokenizer(data_folder)
    plan = settle_evaluation(evaluation, training(900, 0), 256, tokenizer)

    # Six settings: without demonstrations, and four of them by five seeds.
    in_query = len(tokenizer.encode("a test 01234"))
    parts = [tokenizer.encode(text) for text in ("a train 01234", " b", "\n")]
    in_demonstration = sum(map(len, parts))
    # Only after demonstrations is there a second round, with wrong answers.
    rounds = 1 + 5 * (2 if flipped else 1)
    in_prefixes = rounds + (rounds - 1) * 4 * in_demonstration

    allowed = 0.01 * 2 * 900 * 4096
    expected = (allowed - in_prefixes) / (rounds * in_query)
    assert evaluation.icl.queries == pytest.approx(expected, rel=0.02)
    assert evaluation.icl.queries < 2000
    assert evaluation.tokens == int(0.75 * allowed / 3 / 256) * 256
    assert f", {evaluation.icl.queries:,} queries of each of 1 tasks: " in str(plan)
    assert str(plan).endswith("% of the computation")


def test_demonstrations_that_do_not_fit_are_named_at_the_start(
    data_folder: Path, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        rows = [{"text": f"{split} {i}", "label": i % 2} for i in range(9)]
        lines = [json.dumps(row) + "\n" for row in rows]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    task = tmp_path / "t.yaml"
    task.write_text(
        f"dataset: {tmp_path}\ntest_split: test\ntemplate: 'a {{text}}'\n"
        "verbalizers: [' b', ' c']\n"
    )
    evaluation = EvaluationConfig(icl=IclConfig(tasks=[str(task)], k=[0, 9, 16, 32]))
    plan = settle_evaluation(evaluation, training(900, 0), 256, load_tokenizer(data_folder))
    note = "t: k=16 and 32 became 9: no more demonstrations fit, or exist"
    assert str(plan).splitlines()[1:] == [note]
