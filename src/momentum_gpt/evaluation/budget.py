"""What an evaluation in the training loop may cost.

Options that the user left open are chosen so that evaluations keep to their share of the
computation. Costs are counted in tokens that go forward through the model. They are therefore the
same on every machine and for every run of a comparison, and known before the first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from momentum_gpt.core.config import EvaluationConfig, TrainingConfig
from momentum_gpt.data import Tokenizer
from momentum_gpt.evaluation.few_shot.prompts import Prompts, prepare_task
from momentum_gpt.evaluation.few_shot.queries import QUERIES
from momentum_gpt.evaluation.perplexity import default_context_lengths
from momentum_gpt.evaluation.suite import SEQUENCES
from momentum_gpt.evaluation.targets import TOKENS

TRAINED = 2
"""Tokens of evaluation that cost as much as training on one.

Training is a forward pass and a backward pass of twice its cost, three passes in all; an
evaluation's smaller batches are slower.
"""

PROBED = 0.25
"""Part of the induction probe in what it and perplexity may cost together."""

FEWEST = 16
"""Queries of a task, however small the share."""


@dataclass(frozen=True)
class EvaluationPlan:
    """What each evaluation in the training loop measures, and what it costs."""

    tokens: int
    """Validation targets at each context length."""
    induction_sequences: int
    """Sequences of the induction probe."""
    queries: int | None
    """Queries of each few-shot task; None without tasks."""
    n_tasks: int
    """Few-shot tasks."""
    cost: float
    """Tokens that go forward through the model, in one evaluation."""
    allowed: float
    """Tokens that may, by `evaluation.share`."""
    between: float
    """Tokens that cost as much as the training between two evaluations."""
    notes: list[str] = field(default_factory=list)
    """What few-shot tasks leave out, in sentences."""

    def fill_in(self, evaluation: EvaluationConfig) -> None:
        """Write what was chosen into the options; those that the user set stay as they are."""
        evaluation.tokens = self.tokens
        evaluation.induction_sequences = self.induction_sequences
        if self.n_tasks:
            evaluation.icl.queries = self.queries

    def __str__(self) -> str:
        text = f"{self.tokens:,} validation targets"
        if self.n_tasks:
            text += f", {self.queries:,} queries of each of {self.n_tasks} tasks"
        text += f": {self.cost / self.between:.2%} of the computation"

        # Whole windows and sequences are rounded, so that a tenth more is not reported.
        if self.cost > 1.1 * self.allowed:
            text += ", more than evaluation.share"
        return "\n".join([text, *self.notes])


def settle_evaluation(
    evaluation: EvaluationConfig, training: TrainingConfig, seq_len: int, tokenizer: Tokenizer
) -> EvaluationPlan:
    """Plan the evaluations, fill in the options that are open, and return the plan.

    The options are `tokens`, `induction_sequences` and `icl.queries`.

    Raises:
        UserError: a few-shot task cannot be loaded, or none of its queries fits the context.
    """
    plan = plan_evaluation(evaluation, training, seq_len, tokenizer)
    plan.fill_in(evaluation)
    return plan


def plan_evaluation(
    evaluation: EvaluationConfig, training: TrainingConfig, seq_len: int, tokenizer: Tokenizer
) -> EvaluationPlan:
    """Return what each evaluation measures, so that it keeps to `evaluation.share`.

    Few-shot tasks may take half of what is allowed; perplexity takes three quarters of the rest,
    and the induction probe the last quarter.

    Raises:
        UserError: a few-shot task cannot be loaded, or none of its queries fits the context.
    """
    icl = evaluation.icl
    between = TRAINED * tokens_between(training)
    allowed = evaluation.share * between
    left = allowed / 2 if icl.tasks else allowed

    queries = icl.queries
    cost = 0.0
    tasks = [prepare_task(name, tokenizer, icl, seq_len) for name in icl.tasks]
    if tasks:
        prefixes, per_query = few_shot_cost(tasks)
        if queries is None:
            queries = int(min(max(FEWEST, (left - prefixes) / per_query), QUERIES))
        cost = prefixes + queries * per_query

    tokens = evaluation.tokens
    per_window = reads_per_token(evaluation, seq_len) * seq_len
    if tokens is None:
        # No more than `evaluate` takes, so that these targets are a part of those.
        n_windows = min(int((1 - PROBED) * left / per_window), TOKENS // seq_len)
        tokens = max(1, n_windows) * seq_len

    sequences = evaluation.induction_sequences
    if sequences is None:
        sequences = min(max(1, int(PROBED * left / seq_len)), SEQUENCES)

    return EvaluationPlan(
        tokens=tokens,
        induction_sequences=sequences,
        queries=queries,
        n_tasks=len(icl.tasks),
        cost=cost + tokens // seq_len * per_window + sequences * seq_len,
        allowed=allowed,
        between=between,
        notes=[note for prompts in tasks for note in prompts.notes],
    )


def tokens_between(training: TrainingConfig) -> int:
    """Return the tokens trained on between two evaluations."""
    steps = min(training.eval_every or training.max_steps, training.max_steps)
    return steps * training.tokens_per_step


def reads_per_token(evaluation: EvaluationConfig, seq_len: int) -> float:
    """Return how often perplexity reads each token."""
    lengths = evaluation.context_lengths or default_context_lengths(seq_len)
    disjoint = len({*lengths, seq_len})
    if evaluation.stride is None:
        return disjoint

    overlapping = [length / evaluation.stride for length in lengths if evaluation.stride < length]
    return disjoint + sum(overlapping)


def few_shot_cost(tasks: Sequence[Prompts]) -> tuple[float, float]:
    """Return the tokens of all prefixes together, and the tokens of one query more in each task.

    Prefixes are those of every task, number of demonstrations and seed.
    """
    prefixes = 0.0
    per_query = 0.0
    for prompts in tasks:
        mean_size = prompts.queries.n_tokens / len(prompts.queries.asked)
        for setting in prompts.settings:
            prefixes += prompts.prefix_tokens(setting)
            per_query += mean_size * prompts.rounds(setting)
    return prefixes, per_query
