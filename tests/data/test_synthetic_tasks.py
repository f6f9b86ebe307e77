"""The synthetic tasks: what is asked can be told from the context, and from nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from momentum_gpt.core.batch_plan import BatchPlan
from momentum_gpt.core.config import TaskConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import SyntheticBatches, SyntheticTask
from momentum_gpt.data.synthetic_tasks import NO_TARGET

RECALL = SyntheticTask(TaskConfig("recall", n_pairs=4, n_keys=10, n_values=20), seq_len=26)
INDUCTION = SyntheticTask(TaskConfig("induction", n_pairs=1, n_keys=10, n_values=20), seq_len=16)


def test_every_answer_of_recall_is_the_value_that_stood_behind_its_key() -> None:
    tokens, targets = RECALL.draw(seed=0, number=0, n=200)
    for row, answers in zip(tokens, targets, strict=True):
        shown = dict(zip(row[0:8:2], row[1:8:2], strict=True))
        assert len(shown) == len(set(shown.values())) == 4
        assert all(1 <= key <= 10 < value <= 30 for key, value in shown.items())
        asked = np.flatnonzero(answers != NO_TARGET)
        assert asked.tolist() == list(range(8, 26, 2))
        assert [shown[row[place]] for place in asked] == answers[asked].tolist()
        assert (
            row[9::2].tolist() == answers[8::2].tolist()
        )  # the answer is shown behind its question


def test_keys_and_values_say_nothing_about_one_another() -> None:
    """Every key meets every value about equally often: 10,000 pairs over 10 x 20 possibilities."""
    tokens, _ = RECALL.draw(seed=1, number=0, n=2500)
    counts = np.zeros((11, 31))
    np.add.at(counts, (tokens[:, 0:8:2], tokens[:, 1:8:2]), 1)
    counts = counts[1:11, 11:31]
    chi2 = ((counts - 50) ** 2 / 50).sum()  # 199 degrees of freedom: 199 +- 20
    assert 130 < chi2 < 280


def test_the_second_showing_of_induction_is_asked_for_from_its_second_token_on() -> None:
    tokens, targets = INDUCTION.draw(seed=0, number=0, n=50)
    assert (tokens[:, :8] == tokens[:, 8:]).all()
    assert (targets[:, 8:15] == tokens[:, 9:]).all()
    assert (targets[:, :8] == NO_TARGET).all()
    assert (targets[:, 15] == NO_TARGET).all()


@pytest.mark.parametrize("task", [RECALL, INDUCTION], ids=["recall", "induction"])
def test_sequences_are_a_pure_function_of_seed_and_number(task: SyntheticTask) -> None:
    first, again = task.draw(3, 5, 8), task.draw(3, 5, 8)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    for other in (task.draw(4, 5, 8), task.draw(3, 6, 8)):
        assert (first[0] != other[0]).any()
    assert (task.held_out(0)[0] != task.held_out(1)[0]).any()


def test_the_world_size_only_shares_the_sequences_out() -> None:
    whole = SyntheticBatches(RECALL, 0, BatchPlan(8, 8, 1, 1))(7, 0, 0)
    two = SyntheticBatches(RECALL, 0, BatchPlan(8, 2, 2, 2))
    parts = [two(7, micro_step, rank) for micro_step in (0, 1) for rank in (0, 1)]
    for i in (0, 1):
        assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])


def test_the_hash_of_the_order_holds_every_step_before() -> None:
    batches = SyntheticBatches(RECALL, 0, BatchPlan(8, 8, 1, 1))
    first = batches.order_hash("", 0)
    hashes = [first, batches.order_hash("", 1), batches.order_hash(first, 1)]
    assert len(set(hashes)) == 3
    assert SyntheticBatches(RECALL, 1, BatchPlan(8, 8, 1, 1)).order_hash("", 0) != first


@pytest.mark.parametrize("seq_len", [26, 27])
@pytest.mark.parametrize("kind", ["recall", "induction"])
def test_the_targets_of_a_step_are_its_answers(kind: str, seq_len: int) -> None:
    task = SyntheticTask(TaskConfig(kind, n_pairs=4, n_keys=10, n_values=20), seq_len)
    batches = SyntheticBatches(task, 0, BatchPlan(6, 3, 1, 2))
    answers = [(batches(5, 0, rank)[1] != NO_TARGET).sum() for rank in (0, 1)]
    assert batches.n_targets(5) == sum(answers)


def test_sequences_that_are_too_short_are_refused() -> None:
    with pytest.raises(
        UserError,
        match=r"model\.seq_len=8 does not hold task\.n_pairs=4 pairs and a query: use at least 10",
    ):
        SyntheticTask(TaskConfig("recall", n_pairs=4), seq_len=8)
    with pytest.raises(UserError, match=r"task\.n_values must be at least task\.n_pairs, got 3"):
        TaskConfig("recall", n_pairs=4, n_values=3)


def test_the_shortest_sequences_hold_the_task() -> None:
    """Four pairs, a query and its answer; for induction, two tokens twice."""
    shortest = SyntheticTask(TaskConfig("recall", n_pairs=4), seq_len=10)
    _, targets = shortest.draw(seed=0, number=0, n=3)
    assert (targets != NO_TARGET).sum(axis=1).tolist() == [1, 1, 1]

    _, targets = SyntheticTask(TaskConfig("induction"), seq_len=4).draw(seed=0, number=0, n=3)
    assert (targets != NO_TARGET).sum(axis=1).tolist() == [1, 1, 1]
    with pytest.raises(UserError, match="does not hold a sequence and its copy: use at least 4"):
        SyntheticTask(TaskConfig("induction"), seq_len=3)
