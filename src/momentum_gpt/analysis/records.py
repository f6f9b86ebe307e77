"""What is recorded of a model that answers queries, and of one that is finetuned.

All is in float32 and on the CPU. The tokens of demonstrations that count are all but the end of a
document and the separators.

Shapes: Q queries, R of them recorded in full, the first ones, L layers, H heads, C width of the
model, A answers, N tokens of the longest query, M tokens of all demonstrations together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass
class Pass:
    """All queries of a task in one setting: without demonstrations, with them, or finetuned.

    Whatever has no other token in its description belongs to the token at which a query is
    recorded, the last one of its prompt.
    """

    outputs: Tensor
    """(Q, L, C): output of each layer's attention module, its bias included, before the residual
    connection."""

    parts: dict[str, Tensor]
    """What each part of the attention contributes to `outputs`, (Q, L, C) each, without the bias.

    "softmax", and "momentum" where the attention variant adds something to it.
    """

    logits: Tensor
    """(Q, L, H, N): scaled attention logits, before the softmax, on the query's own tokens. Shorter
    queries have NaN on their left."""

    on_demonstrations: Tensor
    """(R, L, M): the same logits on the demonstrations' tokens, summed over heads. M is 0 without
    demonstrations."""

    queries: Tensor
    """(R, L, C): attention queries, all heads side by side, before rotary positions."""

    scores: Tensor
    """(Q, A): log-probability of each answer in nats, normalised as the task is scored: by default
    the mean over the answer's tokens. The largest is what the model answers; -inf where a query has
    fewer answers."""

    gold: Tensor
    """(Q,): number of the right answer."""

    top: Tensor
    """(Q, 10): the ten most probable tokens after the prompt, the most probable first."""

    def layer(self, number: int) -> Pass:
        """Return what is recorded of one layer, in the same memory; L is 1."""
        return replace(
            self,
            outputs=self.outputs[:, number : number + 1],
            parts={name: part[:, number : number + 1] for name, part in self.parts.items()},
            logits=self.logits[:, number : number + 1],
            on_demonstrations=self.on_demonstrations[:, number : number + 1],
            queries=self.queries[:, number : number + 1],
        )


@dataclass
class TrainingQueries:
    """The attention queries of the demonstrations, of each just before its own update."""

    queries: Tensor
    """(L, M, C): as in `Pass.queries`, for the tokens of `Pass.on_demonstrations`, in their
    order."""

    demonstration: Tensor
    """(M,): the number of the demonstration that each token belongs to, from 0."""

    def layer(self, number: int) -> TrainingQueries:
        """Return what is recorded of one layer, in the same memory; L is 1."""
        return replace(self, queries=self.queries[number : number + 1])


def right_of(scores: Tensor, gold: Tensor) -> Tensor:
    """Return whether the best answer, of ties the first, is the right one, (Q,).

    A query with a score that is not a number, as after a finetuning that diverged, counts as wrong.

    Args:
        scores: (Q, A).
        gold: (Q,).
    """
    return (scores.argmax(dim=-1) == gold) & ~scores.isnan().any(dim=-1)
