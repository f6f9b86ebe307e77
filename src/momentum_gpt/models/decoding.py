"""Decoding: the prompts in one pass, then a token at a time, with the cache as an argument.

Shapes: B prompts, T tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from momentum_gpt.core.config import Sampling, require
from momentum_gpt.core.errors import UserError
from momentum_gpt.models.cache import Cache
from momentum_gpt.models.gpt import GPT


@torch.no_grad()
def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    stop: frozenset[int] = frozenset(),
) -> Iterator[list[int | None]]:
    """Go on from each prompt; yields the next token of each, step by step, None for the rows that have ended.

    A row ends behind a token of `stop`, which is still yielded, or after `max_new_tokens`. Each row draws from a generator
    of its own, so what it draws does not depend on the rows beside it.

    Raises:
        UserError: an empty prompt, or one that, with the new tokens, is longer than the model's context.
    """
    lengths = [len(prompt) for prompt in prompts]
    check_lengths(lengths, max_new_tokens, model.config.seq_len)
    device = next(model.parameters()).device
    tokens = torch.zeros(len(prompts), max(lengths), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    cache = Cache(model.config.n_layers, len(prompts), max(lengths) + max_new_tokens, device)
    n_new = torch.tensor(lengths, device=device)
    hidden = model.hidden(tokens.to(device), cache=cache, n_new=n_new)  # (B, T, C)
    last = hidden[torch.arange(len(prompts), device=device), n_new - 1]  # (B, C)
    generators = [generator_of(sampling.seed, row) for row in range(len(prompts))]
    running = [True] * len(prompts)
    for count in range(1, max_new_tokens + 1):
        drawn = draw(model.logits(last), sampling, generators)  # (B,)
        yield [token if runs else None for token, runs in zip(drawn.tolist(), running, strict=True)]
        running = [
            runs and token not in stop for token, runs in zip(drawn.tolist(), running, strict=True)
        ]
        if count == max_new_tokens or not any(running):
            return
        last = model.hidden(drawn[:, None].to(device), cache=cache)[:, -1]


def generator_of(seed: int, row: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {row}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def check_lengths(lengths: list[int], max_new_tokens: int, seq_len: int) -> None:
    require(max_new_tokens >= 1, "max_new_tokens", max_new_tokens, "at least 1")
    if not lengths or min(lengths) < 1:
        raise UserError("a prompt has no tokens: give each at least one")
    if max(lengths) + max_new_tokens > seq_len:
        raise UserError(
            f"a prompt of {max(lengths)} tokens and max_new_tokens={max_new_tokens} are more than the model's context of "
            f"{seq_len}: shorten the prompt, or take max_new_tokens={max(0, seq_len - max(lengths))} or less"
        )


def draw(logits: Tensor, sampling: Sampling, generators: list[torch.Generator]) -> Tensor:
    """One token of each row, (B,), on the CPU, from logits (B, V); the probabilities are computed in fp32."""
    if sampling.temperature == 0:
        return logits.argmax(-1).cpu()
    probabilities = restrict(logits.float().cpu() / sampling.temperature, sampling).softmax(-1)
    rows = [
        torch.multinomial(row, 1, generator=generator)
        for row, generator in zip(probabilities, generators, strict=True)
    ]
    return torch.cat(rows)


def restrict(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits (B, V) with -inf for the tokens that top_k and, of what it leaves, top_p exclude."""
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(descending=True, dim=-1)
        probabilities = ordered.softmax(-1)
        before = (
            probabilities.cumsum(-1) - probabilities
        )  # of the likelier tokens; the likeliest always stays
        excluded = torch.zeros_like(before, dtype=torch.bool).scatter(
            -1, order, before >= sampling.top_p
        )
        logits = logits.masked_fill(excluded, -torch.inf)
    return logits
