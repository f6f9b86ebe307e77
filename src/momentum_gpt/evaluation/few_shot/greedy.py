"""What a model writes after prompts that all begin alike, each token the likeliest.

The common beginning is computed once. Prompts of any lengths are continued together, and those
that have ended make room.

Shapes: B prompts, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from momentum_gpt.core import distributed
from momentum_gpt.core.terminal import Advance, ignore_progress
from momentum_gpt.data import Tokenizer
from momentum_gpt.evaluation.few_shot.shared_prefix import (
    batched,
    dealt,
    padded,
    read_prefix,
    tokens_beside_scores,
)
from momentum_gpt.models import Cache


@dataclass(frozen=True)
class Writing:
    """How written tokens are read."""

    tokenizer: Tokenizer
    stop: Sequence[str]
    """Texts that end what is written; the end of a document does, too."""

    def is_complete(self, tokens: list[int]) -> bool:
        """Return whether nothing more is to be written; called after each token."""
        if tokens[-1] == self.tokenizer.eos_id:
            return True
        text = self.tokenizer.decode(tokens)
        return any(end in text for end in self.stop)

    def text(self, tokens: list[int]) -> str:
        """Return the text up to where it ends."""
        if tokens[-1] == self.tokenizer.eos_id:
            tokens = tokens[:-1]
        text = self.tokenizer.decode(tokens)
        ends = [text.index(end) for end in self.stop if end in text]
        return text[: min(ends, default=len(text))]


class Opening(NamedTuple):
    """A prompt to continue."""

    tokens: list[int]
    """At least one, the shared prefix aside."""
    room: int
    """Most tokens to write; the same for all that are continued together."""
    place: int
    """Where the text stands among the results."""

    @property
    def n_tokens(self) -> int:
        """Most tokens to compute: the prompt, and what is written but for its last token."""
        return len(self.tokens) + self.room - 1


@torch.no_grad()
def write_on(
    model: nn.Module,
    prefix: list[int],
    openings: Sequence[Opening],
    writing: Writing,
    tokens_per_forward: int,
    advance: Advance = ignore_progress,
) -> list[list[int]]:
    """Return the tokens that the model writes after each prompt, by place.

    A text ends after the token with which it is complete, or where there is no more room.

    Args:
        model: a `GPT`, or what is called as one.
        prefix: tokens that all prompts begin with; may be empty.
        openings: the prompts, with the same room.
        writing: tells where a text ends.
        tokens_per_forward: most tokens in a forward pass.
        advance: called with the tokens done, len(prefix) + the openings' `n_tokens` in all.
    """
    shared = read_prefix(model, prefix)
    advance(len(prefix))

    limit = tokens_beside_scores(model, len(prefix), tokens_per_forward)
    # A row for each text: how many tokens it has, and these.
    results = torch.zeros(len(openings), 1 + openings[0].room, dtype=torch.long)
    for share in dealt(batched(openings, limit)):
        written = write_batch(model, shared, share.batch, writing)
        if share.is_mine:
            for opening, tokens in zip(share.batch, written, strict=True):
                row = torch.tensor([len(tokens), *tokens])
                results[opening.place, : len(row)] = row
        advance(share.n_tokens)

    rows = distributed.sum_over_ranks(results).tolist()
    return [tokens[:n] for n, *tokens in rows]


def write_batch(
    model: nn.Module, prefix: Cache, batch: Sequence[Opening], writing: Writing
) -> list[list[int]]:
    """Return what the model writes after each prompt of a batch.

    Every rank makes as many passes as the one with the longest text.
    """
    device = prefix.lengths.device
    room = batch[0].room
    tokens, lengths = padded([opening.tokens for opening in batch], device)  # (B, T), (B,)
    cache = prefix.branch(len(batch), tokens.shape[1] + room - 1)
    last = (lengths - 1)[:, None]  # (B, 1)
    logits = model(tokens, cache=cache, n_new=lengths, at=last)  # (B, 1, V)

    written: list[list[int]] = [[] for _ in batch]
    rows = list(range(len(batch)))  # the text of each row of the cache
    running = set(rows)
    for n_written in range(1, room + 1):
        likeliest = logits[:, 0].argmax(-1)  # (B,)
        for text, token in zip(rows, likeliest.tolist(), strict=True):
            if text in running:
                written[text].append(token)
                if writing.is_complete(written[text]):
                    running.remove(text)
        if n_written == room or not distributed.true_on_any_rank(bool(running)):
            break

        # Half the rows are worth a copy of the others; one must stay, as other ranks may go on.
        if 2 * len(running) <= len(rows) and len(rows) > 1:
            kept = [row for row, text in enumerate(rows) if text in running] or [0]
            chosen = torch.tensor(kept, device=device)
            cache = cache.select(chosen, room - n_written)
            likeliest = likeliest[chosen]
            rows = [rows[row] for row in kept]
        logits = model(likeliest[:, None], cache=cache)
    return written
