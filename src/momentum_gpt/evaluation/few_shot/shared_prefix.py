"""The log-probability of answers behind rows that all begin alike: the beginning is computed once, and each row once.

    score(answer) = sum_j log p(y_j | prefix, row, y_<j)        for each answer y_1 ... y_m

Shapes: B rows, T tokens, A answers, M tokens of an answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from momentum_gpt.core import distributed
from momentum_gpt.core.config import ModelConfig
from momentum_gpt.models import Cache

COPIES = 3
"""Of a row's scores against the whole prefix lie in memory at once, fp32."""


class Request(NamedTuple):
    """A row to score: what follows the shared prefix, and the answers to it."""

    tokens: list[int]
    """At least one, the shared prefix aside."""
    answers: list[list[int]]
    """Of any lengths."""
    places: list[int]
    """In the results, of each answer."""

    @property
    def n_tokens(self) -> int:
        """What it costs: the row, and each answer but its last token, padded to the longest."""
        return len(self.tokens) + len(self.answers) * (max(map(len, self.answers)) - 1)


def requests_of(
    prompts: Sequence[list[int]], candidates: Sequence[list[list[int]]]
) -> list[Request]:
    """A row a query. Places count candidates, query by query."""
    ends = np.cumsum([len(answers) for answers in candidates]).tolist()
    rows = zip(prompts, candidates, ends, strict=True)
    return [
        Request(prompt, answers, list(range(end - len(answers), end)))
        for prompt, answers, end in rows
    ]


def score_requests(
    model: nn.Module, prefix: list[int], requests: list[Request], tokens_per_forward: int
) -> np.ndarray:
    """The log-probability of each answer, nats, float64, in the order of their places; see `score_and_choose`."""
    return score_and_choose(model, prefix, requests, tokens_per_forward)[0]


@torch.no_grad()
def score_and_choose(
    model: nn.Module, prefix: list[int], requests: list[Request], tokens_per_forward: int
) -> tuple[np.ndarray, np.ndarray]:
    """The log-probability of each answer, nats, float64, and whether the model would choose it, token by token; by place.

    The prefix is computed once, and all rows share its keys and values; each row is computed once, and its answers go on from
    it. Batches are alike in length and are dealt to the ranks in turn, the same number to each.
    """
    device = next(model.parameters()).device
    cache = Cache(n_layers=model.config.n_layers, n_rows=1, capacity=len(prefix), device=device)  # type: ignore[union-attr, arg-type]
    if prefix:
        model(
            torch.tensor([prefix], device=device),
            cache=cache,
            at=torch.zeros(1, 1, dtype=torch.long, device=device),
        )
    batches = list(batched(requests, beside_scores(model, len(prefix), tokens_per_forward)))
    longest = max(len(answer) for request in requests for answer in request.answers)
    world, rank = distributed.world_size(), distributed.rank()
    results = torch.zeros(2, sum(len(request.places) for request in requests), dtype=torch.float64)
    for first in range(0, len(batches), world):
        mine = first + rank < len(batches)
        batch = (
            batches[first + rank] if mine else batches[first]
        )  # a batch too few: run one in vain, as ZeRO-3 needs
        scored = score_batch(model, cache, batch, longest > 1)
        if mine:
            for request, scores in zip(batch, scored, strict=True):
                results[:, request.places] = scores
    scores, chosen = distributed.sum_over_ranks(results).numpy()
    return scores, chosen > 0


def beside_scores(model: nn.Module, n_prefix: int, tokens_per_forward: int) -> int:
    """So many tokens that their scores against the prefix take no more room than the logits of a training forward."""
    config: ModelConfig = model.config  # type: ignore[assignment]
    assert config.vocab_size is not None
    return min(
        tokens_per_forward,
        tokens_per_forward * config.vocab_size // (COPIES * config.n_heads * max(1, n_prefix)),
    )


def batched(requests: list[Request], n_tokens: int) -> Iterator[list[Request]]:
    """The longest first, alike in length; of n_tokens at most, if a request has no more by itself."""
    batch: list[Request] = []
    for request in sorted(requests, key=lambda it: -it.n_tokens):
        if batch and (len(batch) + 1) * batch[0].n_tokens > n_tokens:
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch


def score_batch(model: nn.Module, prefix: Cache, batch: list[Request], go_on: bool) -> list[Tensor]:
    """Of each row (2, answers): their log-probability, its softmax computed in fp32, and whether they are the likeliest.

    Args:
        go_on: make a second pass for the answers' further tokens; where none has any, in vain, as other ranks do.
    """
    device = prefix.lengths.device
    tokens, lengths = padded([request.tokens for request in batch], device)  # (B, T), (B,)
    rows = torch.tensor(
        [row for row, request in enumerate(batch) for _ in request.answers], device=device
    )  # (A,)
    every_answer = [answer for request in batch for answer in request.answers]
    answers, sizes = padded(every_answer, device, at_least=2 if go_on else 1)  # (A, M), (A,)
    cache = prefix.branch(len(batch), tokens.shape[1])
    logits = model(tokens, cache=cache, n_new=lengths, at=(lengths - 1)[:, None])[:, 0]  # (B, V)
    scores = logits.float().log_softmax(-1)[rows, answers[:, 0]].double()  # (A,)
    likeliest = logits.argmax(-1)[rows] == answers[:, 0]
    if go_on:
        longer = (
            torch.arange(len(sizes), device=device)[sizes > 1] if (sizes > 1).any() else rows[:1]
        )
        given, wanted, n_new = (
            answers[longer, :-1],
            answers[longer, 1:],
            sizes[longer] - 1,
        )  # (A', M - 1) twice, (A',)
        is_wanted = torch.arange(given.shape[1], device=device) < n_new[:, None]
        branches = cache.select(rows[longer], given.shape[1])
        logits = model(given, cache=branches, n_new=n_new.clamp(min=1))  # (A', M - 1, V)
        further = logits.float().log_softmax(-1).gather(2, wanted[..., None])[..., 0].double()
        scores[longer] += (further * is_wanted).sum(-1)
        likeliest[longer] &= ((logits.argmax(-1) == wanted) | ~is_wanted).all(-1)
    found = torch.stack([scores, likeliest.double()]).cpu()
    return list(found.split([len(request.answers) for request in batch], dim=1))


def padded(rows: list[list[int]], device: torch.device, at_least: int = 1) -> tuple[Tensor, Tensor]:
    """The rows, filled up on the right, (n, longest), and their lengths, (n,)."""
    lengths = torch.tensor([len(row) for row in rows])
    filled = torch.zeros(len(rows), max(at_least, int(lengths.max())), dtype=torch.long)
    for place, row in enumerate(rows):
        filled[place, : len(row)] = torch.tensor(row)
    return filled.to(device), lengths.to(device)
