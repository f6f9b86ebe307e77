"""Few-shot in-context learning of a model, setting by setting.

    score(c) = sum_j log p(y_j | demonstrations, query, y_<j)    for each candidate c = y_1 ... y_m

The demonstrations are read once for each setting, a number of them and a seed; every query
continues from there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from momentum_gpt.core.terminal import Advance, ignore_progress
from momentum_gpt.evaluation.few_shot.greedy import Writing, write_on
from momentum_gpt.evaluation.few_shot.prompts import Prompts, Setting
from momentum_gpt.evaluation.few_shot.shared_prefix import (
    n_tokens_of,
    requests_of,
    score_and_choose,
)
from momentum_gpt.evaluation.few_shot.summary import (
    Scores,
    Summary,
    log_bias,
    summarize,
    summarize_foreseen,
    summarize_written,
)
from momentum_gpt.evaluation.records import FewShotRecord


def measure_task(
    model: nn.Module,
    prompts: Prompts,
    tokens_per_forward: int,
    advance: Advance = ignore_progress,
) -> Iterator[FewShotRecord]:
    """Yield a record for each number of demonstrations that was asked for, and each seed.

    Every rank must go through all of them.

    Args:
        model: a `GPT`, or what is called as one.
        prompts: the task, ready for the model.
        tokens_per_forward: most tokens in a forward pass.
        advance: called with the tokens done, `task_tokens(prompts)` in all.
    """
    alone = score_alone(model, prompts, tokens_per_forward, advance)
    for setting in prompts.settings:
        record = measure_setting(model, prompts, setting, alone, tokens_per_forward, advance)
        yield record
        # More was asked for than fits: what was measured is the answer to each of these, too.
        for k_asked in setting.asked[1:]:
            yield replace(record, k_asked=k_asked, seconds=0.0)


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
    verified = None
    if prompts.task.asking == "write":
        summary = write(model, prompts, setting, tokens_per_forward, advance)
    else:
        scores, summary = choose(model, prompts, setting, alone, tokens_per_forward, advance)
        if prompts.config.verify:
            verified = verify(model, prompts, setting, scores.asked, advance)

    return FewShotRecord(
        task=prompts.task.name,
        k=setting.k,
        k_asked=setting.asked[0],
        seed=setting.seed,
        left_out=queries.left_out,
        rows_left_out=prompts.examples.left_out,
        n=len(queries.asked),
        acc=summary.accuracies[prompts.task.headline],
        queries=queries.numbers,
        demonstrations=[example.number for example in prompts.all_demonstrations(setting)],
        content_sha256=prompts.content_sha256(setting),
        verified=verified,
        seconds=time.perf_counter() - began,
        **vars(summary),
    )


def choose(
    model: nn.Module,
    prompts: Prompts,
    setting: Setting,
    alone: list[np.ndarray],
    tokens_per_forward: int,
    advance: Advance,
) -> tuple[Scores, Summary]:
    """Return the scores of each query's candidates, and what follows from them."""
    scores = score_queries(model, prompts, setting, tokens_per_forward, advance)
    if prompts.task.asking == "foresee":
        return scores, summarize_foreseen(scores, prompts.queries)

    scores.alone = alone
    if prompts.rounds(setting) == 2:
        wrong = score_queries(model, prompts, setting, tokens_per_forward, advance, flip=True)
        scores.flipped = wrong.asked
    return scores, summarize(scores, prompts.queries)


def score_queries(
    model: nn.Module,
    prompts: Prompts,
    setting: Setting,
    tokens_per_forward: int,
    advance: Advance,
    flip: bool = False,
) -> Scores:
    """Return the scores of each query's candidates, in the order of the queries.

    Args:
        flip: after demonstrations with wrong answers; without calibration.
    """
    queries = prompts.queries
    scores = Scores.of(len(queries.asked))
    for group, places in queries.groups.items():
        prefix = prompts.prefix(setting, group, flip)
        calibration = [] if flip else queries.calibration
        requests = requests_of([*queries.rows(group), *calibration])
        logp, chosen = score_and_choose(model, prefix, requests, tokens_per_forward, advance)

        members = [queries.asked[place] for place in places]
        ends = np.cumsum([len(query.scored) for query in members])
        *asked, without_content = np.split(logp, ends)
        for place, values, is_chosen in zip(places, asked, np.split(chosen, ends), strict=False):
            scores.asked[place] = values
            scores.chosen[place] = is_chosen
        if calibration:
            bias = log_bias(without_content.reshape(len(calibration), -1), members[0])
            scores.bias |= dict.fromkeys(places, bias)
    return scores


def score_alone(
    model: nn.Module,
    prompts: Prompts,
    tokens_per_forward: int,
    advance: Advance = ignore_progress,
) -> list[np.ndarray]:
    """Return the scores of each query's candidates after a prompt without content.

    They are what a candidate gets without a query, which pmi subtracts. Tasks whose candidates are
    not what is scored have none.
    """
    queries = prompts.queries
    requests = queries.contentless
    if not requests:
        return []
    document_end = [prompts.tokenizer.eos_id]
    logp, _ = score_and_choose(model, document_end, requests, tokens_per_forward, advance)

    # All queries have the same candidates where the task has verbalizers: they were scored once.
    if prompts.task.verbalizers:
        return [logp] * len(queries.asked)
    ends = np.cumsum([len(query.scored) for query in queries.asked])
    return np.split(logp, ends[:-1])


def write(
    model: nn.Module,
    prompts: Prompts,
    setting: Setting,
    tokens_per_forward: int,
    advance: Advance,
) -> Summary:
    """Return how right the answers are that the model writes."""
    queries = prompts.queries
    writing = Writing(prompts.tokenizer, prompts.task.stop)
    texts = [""] * len(queries.asked)
    for group, places in queries.groups.items():
        prefix = prompts.prefix(setting, group)
        openings = queries.openings(group)
        written = write_on(model, prefix, openings, writing, tokens_per_forward, advance)
        for place, tokens in zip(places, written, strict=True):
            texts[place] = writing.text(tokens)
    return summarize_written(texts, queries)


def task_tokens(prompts: Prompts) -> int:
    """Return the tokens that go forward through the model in `measure_task`."""
    queries = prompts.queries
    in_calibration = n_tokens_of(requests_of(queries.calibration)) * len(queries.groups)
    total = 0
    if queries.contentless:
        total += 1 + n_tokens_of(queries.contentless)  # after the end of a document

    for setting in prompts.settings:
        total += prompts.prefix_tokens(setting) + in_calibration
        total += prompts.rounds(setting) * queries.n_tokens
        for prefix, prompt, answers in plain_rows(prompts, setting):
            for answer in answers:
                # The last token of an answer is only predicted.
                total += len(prefix) + len(prompt) + len(answer) - 1
    return total


@torch.no_grad()
def verify(
    model: nn.Module,
    prompts: Prompts,
    setting: Setting,
    scores: list[np.ndarray],
    advance: Advance = ignore_progress,
) -> float:
    """Return the largest difference, nats, to plain passes over whole prompts.

    Args:
        scores: of each query's candidates; the first `evaluation.icl.verify` are compared.
    """
    device = next(model.parameters()).device
    worst = 0.0
    values = iter(np.concatenate(scores).tolist())
    for prefix, prompt, answers in plain_rows(prompts, setting):
        for answer in answers:
            tokens = torch.tensor([[*prefix, *prompt, *answer]], device=device)
            given = tokens[:, :-1]
            wanted = tokens[0, -len(answer) :]

            # All is one document, whatever end-of-document tokens are in it.
            logits = model(given, document_ids=torch.zeros_like(given))
            logp = logits.float().log_softmax(-1)[0, -len(answer) :]  # (answer, V)
            plain = logp[torch.arange(len(answer)), wanted].double().sum().item()

            worst = max(worst, abs(plain - next(values)))
            advance(given.shape[1])
    return worst


def plain_rows(
    prompts: Prompts, setting: Setting
) -> Iterator[tuple[list[int], list[int], list[list[int]]]]:
    """Yield the prefix, the prompt and the answers of each row that is to be verified."""
    if prompts.task.asking == "write":
        return
    for query in prompts.queries.asked[: prompts.config.verify]:
        prefix = prompts.prefix(setting, query.example.group)
        for prompt, answers in query.rows:
            yield prefix, prompt, answers
