"""Passes and finetunings of random numbers, for tests of what is computed from them."""

from __future__ import annotations

import math

import torch

from momentum_gpt.analysis.protocols import Draw
from momentum_gpt.analysis.records import Pass, TrainingQueries

Q, L, H, C, N, M, A = 7, 3, 2, 8, 6, 9, 3


def random_pass(seed: int, n_queries: int = Q, n_tokens: int = M) -> Pass:
    """Return a pass whose queries have 3 to N tokens, by their number, and 2 or A answers."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    logits = drawn(n_queries, L, H, N)
    scores = drawn(n_queries, A)
    for query in range(n_queries):
        logits[query, :, :, : query % (N - 2)] = math.nan
        if query % 2:
            scores[query, -1] = -math.inf
    parts = {"softmax": drawn(n_queries, L, C), "momentum": drawn(n_queries, L, C)}
    return Pass(
        outputs=parts["softmax"] + parts["momentum"] + 0.5,
        parts=parts,
        logits=logits,
        on_demonstrations=drawn(n_queries, L, n_tokens),
        queries=drawn(n_queries, L, C),
        scores=scores,
        gold=torch.randint(0, 2, (n_queries,), generator=torch.Generator().manual_seed(0)),
        top=torch.stack([torch.randperm(20, generator=generator)[:10] for _ in range(n_queries)]),
    )


def random_training(seed: int) -> TrainingQueries:
    """Return the attention queries of three demonstrations with 2, 3 and 4 tokens."""
    generator = torch.Generator().manual_seed(seed)
    return TrainingQueries(
        queries=torch.randn(L, M, C, generator=generator),
        demonstration=torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2]),
    )


def random_draws(n: int, n_queries: int = 12, is_momentum: bool = True) -> list[Draw]:
    """Return draws of the demonstrations in which ICL does what finetuning does, and noise."""
    found = []
    zero_shot = random_pass(0, n_queries)
    for number in range(n):
        finetuned, icl = (random_pass(10 * number + side, n_queries) for side in (1, 2))
        # Of outputs, and not of the attention maps.
        icl.outputs = finetuned.outputs + 0.1 * (icl.outputs - finetuned.outputs)
        if not is_momentum:
            for one in (zero_shot, finetuned, icl):
                one.parts.pop("momentum", None)
        found.append(Draw(zero_shot, icl, finetuned, random_training(10 * number)))
    return found
