"""What evaluating in the training loop may cost: what the user left open is chosen so that it keeps to its share.

Costs are counted in tokens that go forward through the model, so that they are the same on every machine, for every run of a
comparison, and known before the first step.
"""

from __future__ import annotations

from statistics import fmean

from momentum_gpt.core.config import EvaluationConfig, IclConfig, TrainingConfig
from momentum_gpt.data import Tokenizer
from momentum_gpt.evaluation.few_shot.measure import QUERIES, Fitting, prepare_task
from momentum_gpt.evaluation.perplexity import default_context_lengths
from momentum_gpt.evaluation.suite import SEQUENCES
from momentum_gpt.evaluation.targets import TOKENS

TRAINED = 2
"""Training on a token costs as much as two tokens of an evaluation: three passes, less what small batches cost more."""

PROBED = 0.25
"""Of what perplexity and the induction probe may cost, the part of the probe."""

FEWEST = 16
"""Queries of a task, however small the share."""


def settle_evaluation(
    evaluation: EvaluationConfig, training: TrainingConfig, seq_len: int, tokenizer: Tokenizer
) -> str:
    """Fill in `tokens`, `windows`, `induction_sequences`, `icl.queries` where they are open; returns what comes of it, a line.

    Raises:
        UserError: a few-shot task that cannot be loaded, or none of whose queries fits the context.
    """
    icl, trained = evaluation.icl, TRAINED * tokens_between(training)
    allowed, cost, few_shot = evaluation.share * trained, 0.0, ""
    if icl.tasks:
        allowed /= 2
        prefixes, of_query = few_shot_cost(icl, tokenizer, seq_len)
        if icl.queries is None:
            icl.queries = int(min(max(FEWEST, (allowed - prefixes) / of_query), QUERIES))
        cost, few_shot = (
            prefixes + icl.queries * of_query,
            f", {icl.queries:,} queries of each of {len(icl.tasks)} tasks",
        )
    of_window = passes(evaluation, seq_len) * seq_len
    if evaluation.tokens is None:
        evaluation.windows = evaluation.windows or max(1, int((1 - PROBED) * allowed / of_window))
        evaluation.tokens = (
            max(TOKENS, seq_len)
            if evaluation.documents != "apart"
            else evaluation.windows * seq_len
        )
    if evaluation.induction_sequences is None:
        evaluation.induction_sequences = min(max(1, int(PROBED * allowed / seq_len)), SEQUENCES)
    n_windows = min(evaluation.windows or evaluation.tokens, evaluation.tokens // seq_len)
    cost += n_windows * of_window + evaluation.induction_sequences * seq_len
    return (
        f"{n_windows * seq_len:,} targets{few_shot}: {cost / trained:.2%} of the computation"
        f"{', more than evaluation.share' if cost > 1.1 * evaluation.share * trained else ''}"
    )


def tokens_between(training: TrainingConfig) -> int:
    """Tokens trained on between two evaluations."""
    return (
        min(training.eval_every or training.max_steps, training.max_steps)
        * training.tokens_per_step
    )


def passes(evaluation: EvaluationConfig, seq_len: int) -> float:
    """How often perplexity reads each token."""
    lengths = evaluation.context_lengths or default_context_lengths(seq_len)
    overlapping = [
        length / evaluation.stride
        for length in lengths
        if evaluation.stride and evaluation.stride < length
    ]
    return len({*lengths, seq_len}) + sum(overlapping)


def few_shot_cost(icl: IclConfig, tokenizer: Tokenizer, seq_len: int) -> tuple[float, float]:
    """Tokens of all prefixes, of every task, number of demonstrations and seed; and what one query more of each task costs."""
    prefixes = of_query = 0.0
    for name in icl.tasks:
        task, train, asked, _ = prepare_task(name, tokenizer, icl, seq_len)
        fitting = Fitting(task, train, asked, tokenizer, icl, seq_len)
        settings = [
            (k, seed) for k, _ in fitting.numbers() for seed in range(icl.seeds if k else 1)
        ]
        twice = 2 if icl.flipped else 1
        prefixes += twice * sum(len(fitting.prefix(k, seed)) for k, seed in settings)
        of_query += twice * len(settings) * fmean(request.n_tokens for request in asked.requests)
    return prefixes, of_query
