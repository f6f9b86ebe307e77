"""Validation loss and perplexity at several context lengths, and loss by position in the context.

The same targets are scored at every context length, each exactly once, by windows that are disjoint or overlap:

    stream      documents run on, separated by the end-of-document token, as in training; that token is a target, too
    apart       each document by itself, behind an end-of-document token, as lm-eval does; its text alone is scored

Sums of nats are divided once. Perplexity is per token: comparable only between models with the same tokenizer.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from torch import Tensor, nn

from momentum_gpt.core.config import EvaluationConfig
from momentum_gpt.data.packing import best_fit
from momentum_gpt.data.synthetic_tasks import NO_TARGET
from momentum_gpt.evaluation.scoring import score, token_losses
from momentum_gpt.evaluation.targets import Stream, Targets, Windows, choose_targets, read


def perplexity(
    model: nn.Module,
    stream: Stream,
    config: EvaluationConfig,
    seq_len: int,
    tokens_per_forward: int,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics, and a record for each context length (and stride) with the nats of each document.

    Metrics: `val/loss` (nats per token at seq_len), `val/ppl@L` for each L, `val/ppl@L/stride` with windows that overlap, each
    scoring its last `stride` targets, which see at least L - stride + 1 tokens; `val/loss@posP`, P a power of two, the loss
    of the targets that see P/2 + 1 ... P tokens of the seq_len window (what context buys, which is not the perplexity at a
    context length); `icl/score`; `val/bpb`, bits per byte of text, and `val/ppl_word`, per word between white space: the ends
    of documents are not counted in these two, which unlike perplexity per token may be compared between tokenizers.

    Records: context_length, stride, documents (how they are read), loss, ppl, bpb, ppl_word, targets, bytes, words, text_sha256
    (of the targets); and nats, n_targets and document (its number) of each piece: of a document, or of seq_len of its targets.

    Raises:
        UserError: there is nothing to score.
    """
    targets = choose_targets(stream, config, seq_len)
    lengths = config.context_lengths or default_context_lengths(seq_len)
    metrics: dict[str, float] = {}
    records = []
    for length in sorted({*lengths, seq_len}):
        windows = targets.windows(length)
        nats = nats_of(model, targets, windows, length, tokens_per_forward)
        if length not in lengths:
            continue
        records.append(record(targets, nats, seq_len, length, None))
        metrics[f"val/ppl@{length}"] = records[-1]["ppl"]
        if config.stride is not None and config.stride < length:
            overlapping = targets.windows(length, config.stride)
            its = nats_of(model, targets, overlapping, length, tokens_per_forward)
            records.append(record(targets, its, seq_len, length, config.stride))
            metrics[f"val/ppl@{length}/stride"] = records[-1]["ppl"]
    whole = record(targets, nats, seq_len, seq_len, None)  # the last length is seq_len
    metrics["val/loss"] = whole["loss"]
    metrics |= {
        f"val/{key}": whole[key] for key in ("bpb", "ppl_word", "targets", "bytes", "words")
    }
    return metrics | by_position(nats, windows, seq_len), records


def nats_of(
    model: nn.Module, targets: Targets, windows: Windows, length: int, tokens_per_forward: int
) -> np.ndarray:
    """-log p of each target, (targets,), float64. Documents apart are packed into rows of `length`, where none sees another."""
    stream, eos_id = targets.stream, targets.stream.tokenizer.eos_id
    in_row = best_fit(windows.lengths, length) if targets.apart else np.arange(len(windows.starts))
    order = np.argsort(in_row, kind="stable")
    firsts = np.searchsorted(in_row[order], np.arange(int(in_row.max()) + 2))
    before = np.cumsum(windows.lengths[order]) - windows.lengths[order]
    column = np.empty_like(before)
    column[order] = before - before[firsts[in_row[order]]]

    def rows(numbers: np.ndarray) -> tuple[np.ndarray, ...]:
        tokens, wanted = (
            np.full((len(numbers), length), eos_id),
            np.full((len(numbers), length), NO_TARGET),
        )
        documents = np.full((len(numbers), length), length)  # what fills up is one more
        for row, number in enumerate(numbers):
            for window in order[firsts[number] : firsts[number + 1]]:
                n, scored = int(windows.lengths[window]), int(windows.scored[window])
                here = slice(column[window], column[window] + n)
                block = read(stream, int(windows.starts[window]), n + 1)
                tokens[row, here], documents[row, here] = block[:-1], column[window]
                wanted[row, here.stop - scored : here.stop] = block[n + 1 - scored :]
        return (tokens, wanted, documents) if targets.apart else (tokens, wanted)

    def statistics(logits: Tensor, wanted: Tensor) -> Tensor:
        return token_losses(logits, wanted)[None]

    values = (
        score(model, rows, len(firsts) - 1, tokens_per_forward, statistics)[0].double().numpy()
    )  # (rows, length)
    ends = column + windows.lengths
    parts = zip(in_row, ends - windows.scored, ends, strict=True)
    return np.concatenate([values[row, first:end] for row, first, end in parts])


def record(
    targets: Targets, nats: np.ndarray, seq_len: int, length: int, stride: int | None
) -> dict[str, Any]:
    """What is told of the nats of all targets at one context length."""
    of_text = float(nats[targets.is_text].sum())
    n_bytes, n_words = (
        sum(map(count, targets.texts))
        for count in (lambda text: len(text.encode()), lambda text: len(text.split()))
    )
    loss = float(nats.sum()) / len(nats)
    piece, document = targets.pieces(seq_len)
    return {
        "context_length": length,
        "stride": stride,
        "documents": "apart" if targets.apart else "stream",
        "loss": loss,
        "ppl": math.exp(loss),
        "bpb": of_text / math.log(2) / max(1, n_bytes),
        "ppl_word": math.exp(min(700.0, of_text / max(1, n_words))),
        "targets": len(nats),
        "bytes": n_bytes,
        "words": n_words,
        "text_sha256": hashlib.sha256(targets.tokens.astype("<i8").tobytes()).hexdigest(),
        "nats": np.round(np.bincount(piece, nats), 4).tolist(),
        "n_targets": np.bincount(piece).tolist(),
        "document": document.tolist(),
    }


def by_position(nats: np.ndarray, windows: Windows, seq_len: int) -> dict[str, float]:
    """`val/loss@posP` and `icl/score`, where there are targets with as much context."""
    seen = np.concatenate(
        [
            np.arange(n - scored, n)
            for n, scored in zip(windows.lengths, windows.scored, strict=True)
        ]
    )
    sums, counts = np.bincount(seen, nats, seq_len), np.bincount(seen, minlength=seq_len)
    metrics = {}
    for end in (2**i for i in range(seq_len.bit_length())):
        if n := counts[end // 2 : end].sum():
            metrics[f"val/loss@pos{end}"] = float(sums[end // 2 : end].sum() / n)
    if counts.all():
        metrics["icl/score"] = icl_score(sums / counts)
    return metrics


def icl_score(loss_by_position: np.ndarray | list[float]) -> float:
    """Loss at a late position minus loss at an early one, nats; the more negative, the more the context is used.

    Olsson et al. ("In-context learning and induction heads", 2022) take the 500th and the 50th token of 512. Here each
    is the mean over a sixteenth of the context around that place, (15/16, 1] and (1/16, 1/8], for less noise.
    """
    T = len(loss_by_position)
    late, early = (
        loss_by_position[T * 15 // 16 :],
        loss_by_position[T // 16 : max(T // 8, T // 16 + 1)],
    )
    return float(np.mean(late) - np.mean(early))


def default_context_lengths(seq_len: int) -> list[int]:
    """A quarter, a half and the whole: 256, 512 and 1024 for the paper's model."""
    return [seq_len // part for part in (4, 2, 1) if seq_len % part == 0]
