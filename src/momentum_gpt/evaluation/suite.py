"""What is measured of every model, in the training loop and afterwards: one function, so that the numbers agree."""

from __future__ import annotations

from torch import nn

from momentum_gpt.config import EvaluationConfig
from momentum_gpt.data import TokenShards
from momentum_gpt.evaluation.induction import induction
from momentum_gpt.evaluation.perplexity import perplexity


def evaluate(
    model: nn.Module, shards: TokenShards, config: EvaluationConfig, seq_len: int, tokens_per_forward: int
) -> dict[str, float]:
    """Perplexity by context length, loss by position, the in-context-learning score and the induction probe.

    Every rank must call this: the rows are shared out and summed.

    Args:
        model: tokens (B, T) -> logits (B, T, V).
        shards: the validation split.
        seq_len: the longest context, tokens.
    """
    was_training = model.training
    model.eval()
    lengths = config.context_lengths or default_context_lengths(seq_len)
    metrics = perplexity(model, shards, lengths, seq_len, config.tokens, tokens_per_forward)
    if seq_len >= 4:
        ids = shards.tokenizer.ordinary_ids()
        metrics |= induction(model, ids, seq_len, config.induction_sequences, tokens_per_forward)
    model.train(was_training)
    return metrics


def default_context_lengths(seq_len: int) -> list[int]:
    """A quarter, a half and the whole: 256, 512 and 1024 for the paper's model."""
    return [seq_len // part for part in (4, 2, 1) if seq_len % part == 0]
