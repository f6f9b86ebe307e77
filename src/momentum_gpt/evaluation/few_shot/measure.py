"""Few-shot in-context learning of a model, setting by setting.

    score(c) = sum_j log p(y_j | demonstrations, query, y_<j)    for each candidate c = y_1 ... y_m

The demonstrations are read once for each setting, a number of them and a seed; every query
continues from there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from momentum_gpt.core.terminal import Advance, ignore_progress
from momentum_gpt.evaluation.few_shot.prompts import Prompts, Setting
from momentum_gpt.evaluation.few_shot.queries import Queries
from momentum_gpt.evaluation.few_shot.shared_prefix import (
    Request,
    n_tokens_of,
    score_requests,
)
from momentum_gpt.evaluation.few_shot.summary import HEADLINE, Scores, summarize
from momentum_gpt.evaluation.records import FewShotRecord


def measure_task(
    model: nn.Module,
    prompts: Prompts,
    tokens_per_forward: int,
    advance: Advance = ignore_progress,
) -> Iterator[FewShotRecord]:
    """Yield a record for each setting of a task. Every rank must go through all of them.

    Args:
        model: a `GPT`, or what is called as one.
        prompts: the task, ready for the model.
        tokens_per_forward: most tokens in a forward pass.
        advance: called with the tokens done, `task_tokens(prompts)` in all.
    """
    alone = score_alone(model, prompts, tokens_per_forward, advance)
    for setting in prompts.settings:
        yield measure_setting(model, prompts, setting, alone, tokens_per_forward, advance)


def measure_setting(
    model: nn.Module,
    prompts: Prompts,
    setting: Setting,
    alone: list[np.ndarray],
    tokens_per_forward: int,
    advance: Advance = ignore_progress,
) -> FewShotRecord:
    """Return the record of one number of demonstrations and seed.

    Args:
        alone: the candidates' scores without demonstrations, from `score_alone`.
    """
    began = time.perf_counter()
    queries = prompts.queries

    prefix = prompts.prefix(setting)
    found = score(model, prefix, queries.calibrated_requests, tokens_per_forward, advance)
    n_queries = len(queries.requests)
    scores = Scores(found[:n_queries], alone, found[n_queries:])

    # Without demonstrations there are no answers to be wrong.
    if prompts.config.flipped and setting.k:
        wrong = prompts.prefix(setting, flip=True)
        scores.flipped = score(model, wrong, queries.requests, tokens_per_forward, advance)

    verified = None
    if prompts.config.verify:
        n = prompts.config.verify
        verified = verify(model, prefix, queries, scores.asked, n, advance)

    summary = summarize(scores, queries)
    return FewShotRecord(
        task=prompts.task.name,
        k=setting.k,
        k_asked=setting.k_asked,
        seed=setting.seed,
        left_out=queries.left_out,
        n=n_queries,
        acc=summary.accuracies[HEADLINE],
        queries=queries.numbers,
        verified=verified,
        seconds=time.perf_counter() - began,
        **vars(summary),
    )


def task_tokens(prompts: Prompts) -> int:
    """Return the tokens that go forward through the model in `measure_task`."""
    queries = prompts.queries
    in_queries = n_tokens_of(queries.requests)
    with_calibration = n_tokens_of(queries.calibrated_requests)

    total = 1 + n_tokens_of(queries.contentless)  # after the end of a document
    for setting in prompts.settings:
        prefix = prompts.prefix(setting)
        total += len(prefix) + with_calibration
        if prompts.config.flipped and setting.k:
            total += len(prompts.prefix(setting, flip=True)) + in_queries

        for prompt, answers in _first(queries, prompts.config.verify):
            for answer in answers:
                # The last token of an answer is only predicted.
                total += len(prefix) + len(prompt) + len(answer) - 1
    return total


def score(
    model: nn.Module,
    prefix: list[int],
    requests: Sequence[Request],
    tokens_per_forward: int,
    advance: Advance = ignore_progress,
) -> list[np.ndarray]:
    """Return the log-probabilities of each request's answers, nats, (answers,) each, float64."""
    scores = score_requests(model, prefix, requests, tokens_per_forward, advance)
    ends = np.cumsum([len(request.answers) for request in requests])
    return np.split(scores, ends[:-1])


def score_alone(
    model: nn.Module,
    prompts: Prompts,
    tokens_per_forward: int,
    advance: Advance = ignore_progress,
) -> list[np.ndarray]:
    """Return the scores of each query's candidates after a prompt without content.

    They are what a candidate gets without a query, which pmi subtracts.
    """
    queries = prompts.queries
    document_end = [prompts.tokenizer.eos_id]
    found = score(model, document_end, queries.contentless, tokens_per_forward, advance)

    # All queries have the same candidates where the task has verbalizers: they were scored once.
    return found * len(queries.candidates) if prompts.task.verbalizers else found


@torch.no_grad()
def verify(
    model: nn.Module,
    prefix: list[int],
    queries: Queries,
    scores: list[np.ndarray],
    n: int,
    advance: Advance = ignore_progress,
) -> float:
    """Return the largest difference, nats, to plain passes over whole prompts.

    Args:
        prefix: tokens before each query.
        scores: of each query's candidates.
        n: how many queries are scored again, the first ones.
    """
    device = next(model.parameters()).device
    worst = 0.0
    for (prompt, answers), values in zip(_first(queries, n), scores, strict=False):
        for answer, value in zip(answers, values, strict=True):
            tokens = torch.tensor([[*prefix, *prompt, *answer]], device=device)
            given = tokens[:, :-1]
            wanted = tokens[0, -len(answer) :]

            # All is one document, whatever end-of-document tokens are in it.
            logits = model(given, document_ids=torch.zeros_like(given))
            logp = logits.float().log_softmax(-1)[0, -len(answer) :]  # (answer, V)
            plain = logp[torch.arange(len(answer)), wanted].double().sum().item()

            worst = max(worst, abs(plain - value))
            advance(given.shape[1])
    return worst


def _first(queries: Queries, n: int) -> list[tuple[list[int], list[list[int]]]]:
    """Return the prompts and candidates of the first n queries."""
    return list(zip(queries.prompts, queries.candidates, strict=True))[:n]
