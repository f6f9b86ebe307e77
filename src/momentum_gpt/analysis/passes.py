"""All queries of a task in one setting.

The demonstrations go through the model once, and all queries branch from there. Without
demonstrations the same happens after the end of a document alone.

Shapes: Q queries, R of them recorded in full, B of them in a batch, L layers, H heads, C width of
the model, T tokens of a batch's longest query, N tokens of the longest query, M tokens of
demonstrations, A answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from momentum_gpt.analysis.capture import (
    Captured,
    SharedBeginning,
    attentions,
    capture,
    read_beginning,
)
from momentum_gpt.analysis.records import Pass, right_of
from momentum_gpt.analysis.settings import Demonstrations
from momentum_gpt.core.config import require_choice
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.terminal import Advance, ignore_progress
from momentum_gpt.evaluation.few_shot.queries import Queries
from momentum_gpt.evaluation.few_shot.shared_prefix import (
    Request,
    batched,
    padded,
    read_prefix,
    score_answers,
    score_batch,
    tokens_beside_scores,
)
from momentum_gpt.evaluation.few_shot.summary import kinds_of
from momentum_gpt.models import GPT

POSITIONS = ("last_prompt", "label0")
"""Where a query is recorded; see `ask`."""

TOP = 10
"""Probable next tokens that are recorded."""

TOKENS_PER_FORWARD = {"cpu": 256, "cuda": 8192}
"""Most tokens in a forward pass by the kind of device, unless the caller says otherwise.

On two CPU cores, 2,048 are no faster at 12 x 768, and take 0.8 GB more. A GPU spends most of a
short pass on starting its kernels.
"""


class Numbered(NamedTuple):
    """A query in a batch."""

    number: int
    request: Request

    @property
    def n_tokens(self) -> int:
        return self.request.n_tokens


@torch.no_grad()
def ask(
    model: GPT,
    queries: Queries,
    shown: Demonstrations,
    position: str = "last_prompt",
    in_full: int | None = None,
    tokens_per_forward: int | None = None,
    advance: Advance = ignore_progress,
) -> Pass:
    """Ask a model all queries of a task, and record what its attention does.

    Args:
        model: the model, finetuned or not.
        queries: those of `Prompts.queries`.
        shown: the demonstrations before each query.
        position: where a query is recorded: last_prompt, the last token before the answer; or
            label0, as in the released code of Dai et al. (arXiv 2212.10559), the first token of the
            first answer, which is appended to the prompt. Scores are the same.
        in_full: of how many queries, the first ones, attention to the demonstrations and attention
            queries are recorded. None: of all.
        tokens_per_forward: most tokens in a forward pass. None: as `TOKENS_PER_FORWARD` has it.
        advance: called with the tokens done, `n_tokens_of(queries, shown)` in all.

    Raises:
        UserError: the position is unknown, or a query does not fit the context.
    """
    require_choice(POSITIONS, "position", position)
    check_room(model, queries, shown)
    beginning = read_beginning(model, shown.prefix, shown.places)
    advance(len(shown.prefix))

    record = empty_pass(model, queries, len(shown.places), position, in_full)
    sums: dict[int, np.ndarray] = {}
    for batch in batches_of(model, queries, shown, tokens_per_forward):
        numbers = [numbered.number for numbered in batch]
        requests = [numbered.request for numbered in batch]
        asked = ask_batch(model, beginning, requests, position)

        for number, scores in zip(numbers, asked.scores, strict=True):
            sums[number] = scores
        record.top[numbers] = asked.top.cpu()
        fill_in(record, numbers, asked)
        advance(sum(request.n_tokens for request in requests))

    record.scores = matrix_of(sums, queries)
    return record


@torch.no_grad()
def answer_scores(
    model: GPT,
    queries: Queries,
    shown: Demonstrations,
    tokens_per_forward: int | None = None,
    advance: Advance = ignore_progress,
) -> Tensor:
    """Return `Pass.scores` alone, (Q, A); the arguments are those of `ask`."""
    check_room(model, queries, shown)
    prefix = read_prefix(model, shown.prefix)
    advance(len(shown.prefix))

    sums: dict[int, np.ndarray] = {}
    for batch in batches_of(model, queries, shown, tokens_per_forward):
        requests = [numbered.request for numbered in batch]
        scored = score_batch(model, prefix, requests, has_longer(requests))
        for numbered, found in zip(batch, scored, strict=True):
            sums[numbered.number] = found[0].numpy()
        advance(sum(request.n_tokens for request in requests))
    return matrix_of(sums, queries)


def n_tokens_of(queries: Queries, shown: Demonstrations) -> int:
    """Return the tokens that `ask` reports as done."""
    return len(shown.prefix) + queries.n_tokens


def gold_of(queries: Queries) -> Tensor:
    """Return the number of each query's right answer, (Q,)."""
    return torch.tensor([query.example.gold[0] for query in queries.asked])


def accuracy(scores: Tensor, gold: Tensor) -> float:
    """Return the share of queries whose best answer is right, as `right_of` has it.

    Args:
        scores: (Q, A).
        gold: (Q,).
    """
    return right_of(scores, gold).double().mean().item()


class Asked(NamedTuple):
    """What a batch of queries leaves."""

    scores: list[np.ndarray]
    """Log-probability of each query's answers, nats, summed over their tokens."""
    top: Tensor
    """(B, 10): the most probable next tokens."""
    lengths: Tensor
    """(B,): each query's tokens, up to the one at which it is recorded."""
    layers: list[Captured]
    """Of each layer."""


def ask_batch(
    model: GPT, beginning: SharedBeginning, requests: list[Request], position: str
) -> Asked:
    """Return the scores of a batch's answers, and what was captured of each layer."""
    device = beginning.places.device
    tokens, lengths = padded([request.tokens for request in requests], device)  # (B, T), (B,)
    cache = beginning.cache.branch(len(requests), tokens.shape[1])
    last = (lengths - 1)[:, None]
    with capture(model, beginning, lengths) as layers:
        logits = model(tokens, cache=cache, n_new=lengths, at=last)[:, 0]  # (B, V)

    scored = score_answers(model, cache, logits, requests, has_longer(requests))
    if position == "label0":
        layers, lengths = after_first_answer(model, beginning, requests)
    scores = [found[0].numpy() for found in scored]
    return Asked(scores, logits.topk(TOP).indices, lengths, layers)


def after_first_answer(
    model: GPT, beginning: SharedBeginning, requests: list[Request]
) -> tuple[list[Captured], Tensor]:
    """Return what is captured at the first token of the first answer, and the rows' lengths."""
    rows = [request.tokens + request.answers[0][:1] for request in requests]
    tokens, lengths = padded(rows, beginning.places.device)
    cache = beginning.cache.branch(len(rows), tokens.shape[1])
    with capture(model, beginning, lengths) as layers:
        model.hidden(tokens, cache=cache, n_new=lengths)
    return layers, lengths


def batches_of(
    model: GPT, queries: Queries, shown: Demonstrations, tokens_per_forward: int | None
) -> list[list[Numbered]]:
    """Return the queries in batches of queries alike in length."""
    kind = model.token_embedding.weight.device.type
    most = tokens_per_forward or TOKENS_PER_FORWARD[kind]
    room = tokens_beside_scores(model, len(shown.prefix), most)
    return batched([Numbered(*pair) for pair in enumerate(queries.requests(""))], room)


def has_longer(requests: Sequence[Request]) -> bool:
    """Return whether an answer has more than one token."""
    return any(max(map(len, request.answers)) > 1 for request in requests)


def check_room(model: GPT, queries: Queries, shown: Demonstrations) -> None:
    """Raise a UserError unless every query fits the model's context after the demonstrations."""
    needed = len(shown.prefix) + queries.longest("")
    seq_len = model.config.seq_len
    if needed > seq_len:
        raise UserError(
            f"{len(shown.shown)} demonstrations and a query have {needed} tokens, but the model's "
            f"context is {seq_len}: show fewer"
        )


def empty_pass(model: GPT, queries: Queries, M: int, position: str, in_full: int | None) -> Pass:
    """Return the record of a pass, to be filled in."""
    Q = len(queries.asked)
    R = Q if in_full is None else min(in_full, Q)
    L, H, C = model.config.n_layers, model.config.n_heads, model.config.d_model
    N = max(len(prompt) for prompt, _ in queries.rows("")) + (position == "label0")
    has_momentum = any(attention.attend.mix is not None for attention in attentions(model))
    names = ["softmax", "momentum"] if has_momentum else ["softmax"]
    return Pass(
        outputs=torch.empty(Q, L, C),
        parts={name: torch.empty(Q, L, C) for name in names},
        logits=torch.full((Q, L, H, N), torch.nan),
        on_demonstrations=torch.empty(R, L, M),
        queries=torch.empty(R, L, C),
        scores=torch.empty(Q, 0),
        gold=gold_of(queries),
        top=torch.empty(Q, TOP, dtype=torch.long),
    )


def fill_in(record: Pass, numbers: list[int], asked: Asked) -> None:
    """Write what was captured of a batch into the record of all queries."""
    rows_in_full = [row for row, number in enumerate(numbers) if number < len(record.queries)]
    in_full = [numbers[row] for row in rows_in_full]
    for index, layer in enumerate(asked.layers):
        record.outputs[numbers, index] = layer.output.float().cpu()
        attended = layer.on_demonstrations[rows_in_full]
        record.on_demonstrations[in_full, index] = attended.float().cpu()
        record.queries[in_full, index] = layer.query[rows_in_full].float().cpu()
        for name, part in layer.parts.items():
            record.parts[name][numbers, index] = part.float().cpu()
        N = record.logits.shape[-1]
        aligned = aligned_right(layer.logits, asked.lengths, N)
        record.logits[numbers, index] = aligned.float().cpu()


def aligned_right(logits: Tensor, lengths: Tensor, N: int) -> Tensor:
    """Return rows whose last real tokens stand at the end, with NaN before their first one.

    Args:
        logits: (B, H, T), with padding at the end.
        lengths: the real tokens of each row, (B,).
        N: places of a row that is returned, at least as many as the longest row has tokens.

    Returns:
        (B, H, N).
    """
    B, H, _ = logits.shape
    places = torch.arange(N, device=logits.device)
    token = places - (N - lengths)[:, None]  # (B, N): what stands at each place; before it, below 0
    token = token[:, None].expand(B, H, N)
    return logits.gather(2, token.clamp(min=0)).masked_fill(token < 0, torch.nan)


def matrix_of(sums: dict[int, np.ndarray], queries: Queries) -> Tensor:
    """Return the scores by which the task's answers are chosen, (Q, A), from the sums of nats."""
    in_order = [sums[number] for number in range(len(queries.asked))]
    # The score that subtracts what answers get without a query is never used here.
    nothing = [np.zeros_like(values) for values in in_order]
    chosen_by = kinds_of(in_order, nothing, queries)[queries.task.headline]

    A = max(map(len, chosen_by))
    scores = np.full((len(chosen_by), A), -np.inf, dtype=np.float32)
    for number, values in enumerate(chosen_by):
        scores[number, : len(values)] = values
    return torch.from_numpy(scores)
