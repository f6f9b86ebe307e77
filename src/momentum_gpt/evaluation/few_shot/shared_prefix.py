"""The log-probability of answers after rows that all begin alike.

The common beginning is computed once, each row once, and each answer once.

    score(answer) = sum_j log p(y_j | prefix, row, y_<j)        for each answer y_1 ... y_m

Shapes: B rows, T tokens, A answers, M tokens of an answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from momentum_gpt.core import distributed
from momentum_gpt.core.config import ModelConfig
from momentum_gpt.core.terminal import Advance, ignore_progress
from momentum_gpt.models import Cache

COPIES = 3
"""Copies of a row's scores against the whole prefix that lie in memory at once, fp32."""


Row = tuple[list[int], list[list[int]]]
"""Tokens that are read, and those of each answer to them."""


class Request(NamedTuple):
    """A row to score: what follows the shared prefix, and the answers to it."""

    tokens: list[int]
    """At least one, the shared prefix aside."""
    answers: list[list[int]]
    """The tokens of each answer, of any lengths."""
    places: list[int]
    """The place of each answer in the results."""

    @property
    def n_tokens(self) -> int:
        """Tokens to compute: the row, and each answer but its last token, padded to the longest."""
        longest = max(map(len, self.answers))
        return len(self.tokens) + len(self.answers) * (longest - 1)


class Sized(Protocol):
    """What goes into a batch."""

    @property
    def n_tokens(self) -> int: ...


Part = TypeVar("Part", bound=Sized)


class Share(NamedTuple, Generic[Part]):
    """What one rank computes while the others compute theirs."""

    batch: list[Part]
    is_mine: bool
    """Whether the result counts."""
    n_tokens: int
    """Tokens of all ranks together."""


def requests_of(rows: Sequence[Row]) -> list[Request]:
    """Return a request for each row; places count the answers, row by row."""
    requests = []
    n_answers = 0
    for prompt, answers in rows:
        places = list(range(n_answers, n_answers + len(answers)))
        requests.append(Request(prompt, answers, places))
        n_answers += len(answers)
    return requests


def n_tokens_of(requests: Sequence[Request]) -> int:
    """Return the tokens that scoring the requests takes, their prefix aside."""
    return sum(request.n_tokens for request in requests)


@torch.no_grad()
def score_and_choose(
    model: nn.Module,
    prefix: list[int],
    requests: Sequence[Request],
    tokens_per_forward: int,
    advance: Advance = ignore_progress,
) -> tuple[np.ndarray, np.ndarray]:
    """Return how likely each answer is, and whether the model would choose it, token by token.

    All rows share the keys and values of the prefix, and the answers of a row share those of the
    row. Batches are alike in length and are dealt to the ranks in turn, the same number to each.

    Args:
        model: a `GPT`, or what is called as one.
        prefix: tokens that all rows begin with; may be empty.
        requests: the rows and their answers.
        tokens_per_forward: most tokens in a forward pass.
        advance: called with the tokens done, len(prefix) + `n_tokens_of(requests)` in all.

    Returns:
        The log-probabilities in nats, (answers,), float64, and the choices, (answers,), bool, both
        by place.
    """
    shared = read_prefix(model, prefix)
    advance(len(prefix))

    room = tokens_beside_scores(model, len(prefix), tokens_per_forward)
    batches = batched(requests, room)
    every_answer = list(chain.from_iterable(request.answers for request in requests))
    has_longer = max(map(len, every_answer)) > 1
    n_answers = len(every_answer)

    results = torch.zeros(2, n_answers, dtype=torch.float64)
    for share in dealt(batches):
        scored = score_batch(model, shared, share.batch, has_longer)
        if share.is_mine:
            for request, found in zip(share.batch, scored, strict=True):
                results[:, request.places] = found
        advance(share.n_tokens)

    scores, chosen = distributed.sum_over_ranks(results).numpy()
    return scores, chosen > 0


def read_prefix(model: nn.Module, prefix: list[int]) -> Cache:
    """Return a cache of one row that holds the prefix."""
    config: ModelConfig = model.config  # type: ignore[assignment]
    device = next(model.parameters()).device
    cache = Cache(n_layers=config.n_layers, n_rows=1, capacity=len(prefix), device=device)
    if prefix:
        tokens = torch.tensor([prefix], device=device)  # (1, T)
        # Only the keys and values are wanted: the logits of a single place are computed.
        anywhere = torch.zeros(1, 1, dtype=torch.long, device=device)
        model(tokens, cache=cache, at=anywhere)
    return cache


def tokens_beside_scores(model: nn.Module, n_prefix: int, tokens_per_forward: int) -> int:
    """Return how many tokens may go through the model at once after a prefix of n_prefix tokens.

    Their scores against the prefix take no more room than the logits of a training forward pass.
    """
    config: ModelConfig = model.config  # type: ignore[assignment]
    assert config.vocab_size is not None
    scores_per_token = COPIES * config.n_heads * max(1, n_prefix)
    return min(tokens_per_forward, tokens_per_forward * config.vocab_size // scores_per_token)


def batched(parts: Sequence[Part], n_tokens: int) -> list[list[Part]]:
    """Return batches of at most n_tokens, padding included, the longest parts first.

    A single part that has more tokens is a batch, too.
    """
    batches: list[list[Part]] = []
    # Alike in length, parts waste little on padding; the first of a batch sets its width.
    for part in sorted(parts, key=lambda part: -part.n_tokens):
        if batches and (len(batches[-1]) + 1) * batches[-1][0].n_tokens <= n_tokens:
            batches[-1].append(part)
        else:
            batches.append([part])
    return batches


def dealt(batches: Sequence[list[Part]]) -> Iterator[Share[Part]]:
    """Yield what this rank computes, round by round; batches are dealt to the ranks in turn.

    ZeRO-3 needs equally many passes on every rank: one without a batch of its own computes
    another's, and the result is to be dropped.
    """
    world = distributed.world_size()
    for first in range(0, len(batches), world):
        together = batches[first : first + world]
        is_mine = distributed.rank() < len(together)
        batch = together[distributed.rank()] if is_mine else together[0]
        n_tokens = sum(part.n_tokens for part in chain.from_iterable(together))
        yield Share(batch, is_mine, n_tokens)


def score_batch(
    model: nn.Module, prefix: Cache, batch: list[Request], has_longer: bool
) -> list[Tensor]:
    """Return for each row, (2, answers), the answers' log-probabilities and whether each is chosen.

    The softmax is computed in fp32.

    Args:
        has_longer: make a second pass for the answers' further tokens. Other ranks make it if any
            request has an answer of several tokens, so that all must.
    """
    device = prefix.lengths.device
    tokens, lengths = padded([request.tokens for request in batch], device)  # (B, T), (B,)
    cache = prefix.branch(len(batch), tokens.shape[1])
    last = (lengths - 1)[:, None]  # (B, 1)
    # A row's last token predicts the first token of its answers: other logits are not computed.
    logits = model(tokens, cache=cache, n_new=lengths, at=last)[:, 0]  # (B, V)
    return score_answers(model, cache, logits, batch, has_longer)


def score_answers(
    model: nn.Module, cache: Cache, logits: Tensor, batch: list[Request], has_longer: bool
) -> list[Tensor]:
    """Return what `score_batch` does, of rows that have been read.

    Args:
        cache: what the model remembers of the rows.
        logits: those of each row's last token, (B, V).
        has_longer: as in `score_batch`.
    """
    device = logits.device
    n_answers = [len(request.answers) for request in batch]
    row_numbers = np.repeat(np.arange(len(batch)), n_answers)
    rows = torch.from_numpy(row_numbers).to(device)  # (A,), the row of each answer

    every_answer = list(chain.from_iterable(request.answers for request in batch))
    # Two tokens at least, so that there is something to pass where no answer has a second one.
    answers, sizes = padded(every_answer, device, at_least=2 if has_longer else 1)  # (A, M), (A,)

    scores = logits.float().log_softmax(-1)[rows, answers[:, 0]].double()  # (A,)
    is_chosen = logits.argmax(-1)[rows] == answers[:, 0]  # (A,)

    if has_longer:
        is_longer = sizes > 1
        # Without any longer answer the first one is passed, as other ranks make a pass, too.
        first = torch.zeros(1, dtype=torch.long, device=device)
        longer = is_longer.nonzero()[:, 0] if is_longer.any() else first  # (A',)
        given = answers[longer, :-1]  # (A', M - 1)
        wanted = answers[longer, 1:]  # (A', M - 1)
        n_new = sizes[longer] - 1  # (A',)
        is_wanted = torch.arange(given.shape[1], device=device) < n_new[:, None]  # (A', M - 1)

        branches = cache.select(rows[longer], given.shape[1])
        logits = model(given, cache=branches, n_new=n_new.clamp(min=1))  # (A', M - 1, V)
        logp = logits.float().log_softmax(-1)
        further = logp.gather(2, wanted[..., None])[..., 0].double()  # (A', M - 1)
        scores[longer] += (further * is_wanted).sum(-1)
        is_chosen[longer] &= ((logits.argmax(-1) == wanted) | ~is_wanted).all(-1)

    found = torch.stack([scores, is_chosen.double()]).cpu()  # (2, A)
    return list(found.split(n_answers, dim=1))


def padded(rows: list[list[int]], device: torch.device, at_least: int = 1) -> tuple[Tensor, Tensor]:
    """Return the rows, filled up on the right, (n, longest), and their lengths, (n,)."""
    lengths = [len(row) for row in rows]
    filled = np.zeros((len(rows), max(at_least, *lengths)), dtype=np.int64)
    for place, row in enumerate(rows):
        filled[place, : len(row)] = row
    return torch.from_numpy(filled).to(device), torch.tensor(lengths, device=device)
