"""Decoding: one pass over the prompts, then one token at a time with the cache as an argument.

Shapes: B prompts, T tokens, C width of the model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from momentum_gpt.core.config import Sampling, require
from momentum_gpt.core.errors import UserError
from momentum_gpt.models.cache import Cache
from momentum_gpt.models.gpt import GPT, generator_of


@torch.no_grad()
def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    stop: frozenset[int] = frozenset(),
) -> Iterator[list[int | None]]:
    """Continue each prompt, and yield the next token of each row, step by step.

    A row ends after a token of `stop`, which is still yielded, or after `max_new_tokens`; from
    then on it yields None. Each row draws from its own generator, so what it draws does not depend
    on the other rows.

    Args:
        model: any GPT.
        prompts: token ids, at least one in each prompt.
        max_new_tokens: tokens generated for each prompt at most.
        sampling: how a token is drawn.
        stop: tokens that end a row.

    Raises:
        UserError: a prompt is empty, or does not fit the model's context with the new tokens.
    """
    lengths = [len(prompt) for prompt in prompts]
    check_lengths(lengths, max_new_tokens, model.config.seq_len)

    n_rows = len(prompts)
    device = next(model.parameters()).device
    n_new = torch.tensor(lengths, device=device)
    cache = Cache(model.config.n_layers, n_rows, max(lengths) + max_new_tokens, device)

    hidden = model.hidden(padded(prompts).to(device), cache=cache, n_new=n_new)  # (B, T, C)
    last = hidden[torch.arange(n_rows, device=device), n_new - 1]  # (B, C)
    generators = [generator_of(sampling.seed, row) for row in range(n_rows)]
    running = [True] * n_rows

    for n_drawn in range(1, max_new_tokens + 1):
        drawn = draw(model.logits(last), sampling, generators)  # (B,)
        step = []
        for row, token in enumerate(drawn.tolist()):
            step.append(token if running[row] else None)
            running[row] = running[row] and token not in stop
        yield step

        if n_drawn == max_new_tokens or not any(running):
            return
        last = model.hidden(drawn[:, None].to(device), cache=cache)[:, -1]


def padded(prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return the prompts as one matrix (B, T), padded with 0 on the right."""
    tokens = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    return tokens


def check_lengths(lengths: list[int], max_new_tokens: int, seq_len: int) -> None:
    """Raise a UserError unless prompts of these lengths, in tokens, can be continued."""
    require(max_new_tokens >= 1, "max_new_tokens", max_new_tokens, "at least 1")
    if not lengths or min(lengths) < 1:
        raise UserError("a prompt has no tokens: give each prompt at least one")

    longest = max(lengths)
    if longest + max_new_tokens > seq_len:
        raise UserError(
            f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens} do not fit the "
            f"model's context of {seq_len} tokens: shorten the prompt, or take "
            f"max_new_tokens={max(0, seq_len - longest)} or less"
        )


def draw(logits: Tensor, sampling: Sampling, generators: list[torch.Generator]) -> Tensor:
    """Draw one token for each row of logits (B, V); returns (B,) on the CPU.

    Probabilities are computed in fp32.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1).cpu()

    scaled = logits.float().cpu() / sampling.temperature
    probabilities = restrict(scaled, sampling).softmax(-1)
    tokens = []
    for row, generator in zip(probabilities, generators, strict=True):
        tokens.append(torch.multinomial(row, 1, generator=generator))
    return torch.cat(tokens)


def restrict(logits: Tensor, sampling: Sampling) -> Tensor:
    """Return logits (B, V) with -inf for the tokens that top_k and top_p exclude.

    top_p applies to what top_k leaves.
    """
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        smallest_kept = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)

    if sampling.top_p < 1:
        ordered, order = logits.sort(descending=True, dim=-1)
        probabilities = ordered.softmax(-1)
        # The probability of all likelier tokens: 0 for the likeliest, which so always stays.
        likelier = probabilities.cumsum(-1) - probabilities
        none_excluded = torch.zeros_like(likelier, dtype=torch.bool)
        excluded = none_excluded.scatter(-1, order, likelier >= sampling.top_p)
        logits = logits.masked_fill(excluded, -torch.inf)
    return logits
