"""Validation loss and perplexity at several context lengths, and loss by position in the context.

One stream of tokens, cut into disjoint windows of L tokens; the same targets are scored at every L, each exactly once.
The document policy is that of training: documents run on, separated by the end-of-sequence token. Sums of nats are
divided once. Perplexity is per token: comparable only between models with the same tokenizer.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from momentum_gpt.data import TokenShards
from momentum_gpt.data.synthetic import NO_TARGET
from momentum_gpt.errors import UserError
from momentum_gpt.evaluation.scoring import score, token_losses


def perplexity(
    model: nn.Module,
    shards: TokenShards,
    context_lengths: list[int],
    seq_len: int,
    max_tokens: int,
    tokens_per_forward: int,
    stride: int | None = None,
) -> dict[str, float]:
    """Keys `val/loss` (nats per token at seq_len), `val/ppl@L` for each L, `val/loss@posP`, `icl/score` and those of `by_text`.

    `val/loss@posP`, P a power of two, is the loss of the targets that see P/2 + 1 ... P tokens of the seq_len window: what
    context buys, which is not the perplexity at a context length. With a stride, `val/ppl@L/stride` too: windows that overlap,
    each scoring its last `stride` targets, which see at least L - stride + 1 tokens.

    Raises:
        UserError: the split is shorter than one window.
    """
    n_targets = min(max_tokens, len(shards) - 1) // seq_len * seq_len
    if n_targets < seq_len:
        raise UserError(
            f"the validation split of {str(shards.folder)!r} has {len(shards)} tokens, fewer than one window of "
            f"model.seq_len + 1 = {seq_len + 1}: prepare more validation text or take a smaller model.seq_len"
        )
    metrics = {}
    for length in sorted({*context_lengths, seq_len}):
        nats, of_text = nats_by_position(model, shards, length, n_targets, tokens_per_forward)
        if length in context_lengths:
            metrics[f"val/ppl@{length}"] = math.exp(nats.sum().item() / n_targets)
            if stride is not None and stride < length:
                nats_there = nats_by_position(model, shards, length, n_targets, tokens_per_forward, stride)[0]
                metrics[f"val/ppl@{length}/stride"] = math.exp(nats_there.sum().item() / n_targets)
    metrics["val/loss"] = nats.sum().item() / n_targets  # the last length is seq_len
    metrics |= by_text(of_text.sum().item(), shards, n_targets)
    by_position = (nats / (n_targets // seq_len)).numpy()
    for end in (2**i for i in range(seq_len.bit_length())):
        metrics[f"val/loss@pos{end}"] = float(by_position[end // 2 : end].mean())
    metrics["icl/score"] = icl_score(by_position)
    return metrics


def nats_by_position(
    model: nn.Module,
    shards: TokenShards,
    length: int,
    n_targets: int,
    tokens_per_forward: int,
    stride: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Nats summed over the windows, (length,): entry p is for the targets that see p + 1 tokens; and those of text alone.

    With a stride the windows overlap and each target is scored once, by the window in which it is among the last.
    """
    step, eos_id = stride or length, shards.tokenizer.eos_id

    def windows(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ends = np.minimum(length + numbers * step, n_targets)  # targets 0 ... end - 1 are scored after this window
        block = np.stack([shards.read(int(end) - length, length + 1) for end in ends])
        tokens, targets = block[:, :-1], block[:, 1:].copy()
        before = np.where(numbers > 0, length + (numbers - 1) * step, 0)  # scored by earlier windows
        targets[np.arange(length) + (ends - length)[:, None] < before[:, None]] = NO_TARGET
        return tokens, targets

    def statistics(logits: Tensor, targets: Tensor) -> Tensor:
        losses = token_losses(logits, targets)
        return torch.stack([losses, losses * (targets != eos_id)])

    n_windows = 1 + -(-(n_targets - length) // step)
    sums = score(model, windows, n_windows, tokens_per_forward, statistics)
    return sums[0], sums[1]


def by_text(nats: float, shards: TokenShards, n_targets: int) -> dict[str, float]:
    """`val/bpb`, bits per byte of text, and `val/ppl_word`, per word between white space; and their counts.

    The ends of documents are no text: they are conditions, and not counted. Unlike perplexity per token, these may be compared
    between tokenizers.
    """
    targets = shards.read(1, n_targets)
    text = shards.tokenizer.decode(targets[targets != shards.tokenizer.eos_id])
    n_bytes, n_words = len(text.encode()), len(text.split())
    return {
        "val/bpb": nats / math.log(2) / max(1, n_bytes),
        "val/ppl_word": math.exp(min(700.0, nats / max(1, n_words))),
        "val/bytes": n_bytes,
        "val/words": n_words,
    }


def icl_score(loss_by_position: np.ndarray | list[float]) -> float:
    """Loss at a late position minus loss at an early one, nats; the more negative, the more the context is used.

    Olsson et al. ("In-context learning and induction heads", 2022) take the 500th and the 50th token of 512. Here each
    is the mean over a sixteenth of the context around that place, (15/16, 1] and (1/16, 1/8], for less noise.
    """
    T = len(loss_by_position)
    late, early = loss_by_position[T * 15 // 16 :], loss_by_position[T // 16 : max(T // 8, T // 16 + 1)]
    return float(np.mean(late) - np.mean(early))
