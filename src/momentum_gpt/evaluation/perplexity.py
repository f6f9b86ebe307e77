"""Validation loss and perplexity at several context lengths; loss by position and by frequency.

The same targets are scored at every context length, each exactly once, by windows that are disjoint
or overlap. What one length has in common with a longer one is read once. Documents are read in one
of two ways:

    stream      one after another, as in training; the end-of-document token is a target, too
    apart       each by itself, after an end-of-document token, as lm-eval does; only its text is
                scored

Sums of nats are divided once. Perplexity is per token: comparable only between models with the same
tokenizer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from momentum_gpt.core.config import EvaluationConfig
from momentum_gpt.core.terminal import Advance, ignore_progress
from momentum_gpt.data.packing import best_fit
from momentum_gpt.data.synthetic_tasks import NO_TARGET
from momentum_gpt.evaluation.frequency import by_frequency, frequency_ranks
from momentum_gpt.evaluation.records import PerplexityRecord
from momentum_gpt.evaluation.scoring import score, token_losses
from momentum_gpt.evaluation.statistics import Estimate, margin, over_documents
from momentum_gpt.evaluation.targets import Targets, Windows, read

MOST_NATS = 700.0
"""Nats per word beyond which a perplexity is not computed: exp of more overflows."""


@dataclass(frozen=True)
class Layout:
    """Windows laid out in rows of equal length, one or several in each row."""

    windows: Windows
    row_length: int
    """Tokens."""
    row: np.ndarray
    """(windows,): the row of each window."""
    column: np.ndarray
    """(windows,): where in the row it begins."""
    by_row: np.ndarray
    """(windows,): the windows' numbers in the order of their rows."""
    firsts: np.ndarray
    """(rows + 1,): where in `by_row` the windows of each row begin."""

    @property
    def n_rows(self) -> int:
        return len(self.firsts) - 1

    @property
    def n_tokens(self) -> int:
        """Tokens that the rows have, padding included."""
        return self.n_rows * self.row_length


def lay_out(windows: Windows, length: int, apart: bool) -> Layout:
    """Return windows of at most `length` tokens laid out in rows of that length.

    Windows of a stream have a row each. Those of documents apart are packed best-fit into rows,
    where none sees another.
    """
    row = best_fit(windows.lengths, length) if apart else np.arange(len(windows.starts))

    by_row = np.argsort(row, kind="stable")  # stable: windows of a row keep their order
    n_rows = int(row.max(initial=-1)) + 1
    firsts = np.searchsorted(row[by_row], np.arange(n_rows + 1))

    # Where each window would begin if all rows were one, less where its row begins.
    lengths = windows.lengths[by_row]
    begins = np.cumsum(lengths) - lengths
    column = np.empty_like(begins)
    column[by_row] = begins - begins[firsts[row[by_row]]]
    return Layout(windows, length, row, column, by_row, firsts)


@dataclass(frozen=True)
class Pass:
    """All targets at one context length."""

    length: int
    """Tokens of context."""
    stride: int | None
    context: np.ndarray
    """(targets,): how many tokens of its window each target sees, less one."""
    is_read: np.ndarray
    """(targets,): whether a target is read here, and not known from a longer pass."""
    layout: Layout
    """The windows of the targets that are read."""
    is_reported: bool
    """Whether it has a record, or is there only for the loss by position."""


def plan_passes(targets: Targets, config: EvaluationConfig, seq_len: int) -> list[Pass]:
    """Return the passes to make: each context length, longest first, then its overlapping windows.

    One without a stride at seq_len is always the first. A target's loss depends on the tokens that
    it sees, and on nothing else: a window that begins where one of a longer pass does is the
    beginning of that one, and is not read again. Of each context half as long as the one before,
    this is every second window.
    """
    lengths = config.context_lengths or default_context_lengths(seq_len)
    passes: list[Pass] = []
    longer: Pass | None = None
    for length in sorted({*lengths, seq_len}, reverse=True):
        is_asked = length in lengths
        longer = plan_pass(targets, length, None, longer, is_asked)
        passes.append(longer)
        if is_asked and config.stride is not None and config.stride < length:
            passes.append(plan_pass(targets, length, config.stride, longer, True))
    return passes


def plan_pass(
    targets: Targets, length: int, stride: int | None, known: Pass | None, is_reported: bool
) -> Pass:
    """Return a pass that reads only windows whose targets see more or less than in a known pass.

    Args:
        targets: what is scored.
        length: tokens of context.
        stride: targets that each window scores. None: all of them.
        known: the pass whose losses are known. None: there is none, and all windows are read.
        is_reported: whether it has a record.
    """
    windows = targets.windows(length, stride)
    context = context_of(windows)
    is_other = np.full(len(context), True) if known is None else context != known.context
    of_window = np.repeat(np.arange(len(windows.starts)), windows.scored)  # (targets,)
    has_other = np.bincount(of_window, is_other) > 0  # (windows,)
    to_read = Windows(*(column[has_other] for column in windows))
    layout = lay_out(to_read, length, targets.apart)
    return Pass(length, stride, context, has_other[of_window], layout, is_reported)


def context_of(windows: Windows) -> np.ndarray:
    """Return how many tokens of its window each target sees, less one, (targets,)."""
    # The last `scored` targets of a window of n tokens see n - scored + 1 ... n of them.
    pairs = zip(windows.lengths, windows.scored, strict=True)
    return np.concatenate([np.arange(n - scored, n) for n, scored in pairs])


def perplexity(
    model: nn.Module,
    targets: Targets,
    passes: list[Pass],
    seq_len: int,
    tokens_per_forward: int,
    advance: Advance = ignore_progress,
) -> tuple[dict[str, float], list[PerplexityRecord]]:
    """Return metrics, and a record for each context length and stride.

    Metrics:
        `val/loss`: nats per token at seq_len.
        `val/ppl@L`: perplexity at each context length L.
        `val/ppl@L/stride`: the same with overlapping windows. Each scores its last `stride`
            targets, which see at least L - stride + 1 tokens.
        `val/loss@posP`, P a power of two: loss of the targets that see P/2 + 1 ... P tokens of the
            seq_len window. It is what context buys, and not the perplexity at a context length.
        `val/loss@rankN`, N a power of ten: loss of the targets that are among the N most frequent
            tokens of the training split, and not among the N/10 most frequent; of token shards.
        `icl/score`: see `icl_score`.
        `val/bpb`, `val/ppl_word`: bits per byte of text, and perplexity per word between white
            space. The ends of documents are not counted in these two, which unlike perplexity per
            token may be compared between tokenizers.
        `val/targets`, `val/documents`, `val/bytes`, `val/words`: how many were scored.
        `val/loss_margin`, `icl/score_margin`: half the width of their 95% intervals, over
            documents; absent where there are too few.

    Args:
        model: tokens (B, T) -> logits (B, T, V).
        targets: what is scored.
        passes: how, from `plan_passes`.
        seq_len: the longest context, tokens.
        tokens_per_forward: most tokens in a forward pass.
        advance: called with the tokens done, the sum of `layout.n_tokens` in all.
    """
    metrics: dict[str, float] = {}
    at_seq_len: dict[str, float] = {}
    records = []
    known = np.empty(len(targets))  # of the last pass without a stride
    for one in passes:
        nats = known.copy()
        nats[one.is_read] = nats_of(model, targets, one.layout, tokens_per_forward, advance)
        if one.stride is None:
            known = nats
        record = summarize(targets, nats, one)
        if one.length == seq_len and one.stride is None:
            at_seq_len |= whole_context(record)
            at_seq_len |= by_position(nats, targets.documents, one.context, seq_len)
            ranks = frequency_ranks(targets.stream)
            if ranks is not None:
                at_seq_len |= by_frequency(nats, targets.tokens, ranks)
        if one.is_reported:
            records.append(record)

    records.sort(key=lambda record: (record.context_length, record.stride is not None))
    for record in records:
        suffix = "/stride" if record.stride else ""
        metrics[f"val/ppl@{record.context_length}{suffix}"] = record.ppl
    return metrics | at_seq_len, records


def nats_of(
    model: nn.Module,
    targets: Targets,
    layout: Layout,
    tokens_per_forward: int,
    advance: Advance = ignore_progress,
) -> np.ndarray:
    """Return -log p of each target of the windows that are laid out, (their targets,), float64."""
    stream = targets.stream
    windows = layout.windows
    if not layout.n_rows:
        return np.empty(0)

    def rows(numbers: np.ndarray) -> tuple[np.ndarray, ...]:
        shape = (len(numbers), layout.row_length)
        tokens = np.full(shape, stream.tokenizer.eos_id)
        wanted = np.full(shape, NO_TARGET)
        # A document is numbered by the column it begins in; padding is one document more.
        documents = np.full(shape, layout.row_length)

        for place, number in enumerate(numbers):
            for window in layout.by_row[layout.firsts[number] : layout.firsts[number + 1]]:
                length = int(windows.lengths[window])
                scored = int(windows.scored[window])
                begin = int(layout.column[window])
                end = begin + length

                block = read(stream, int(windows.starts[window]), length + 1)
                tokens[place, begin:end] = block[:-1]
                wanted[place, end - scored : end] = block[length + 1 - scored :]
                documents[place, begin:end] = begin

        # One window a row sees nothing but itself, and attention without a mask is faster.
        is_shared = np.diff(layout.firsts)[numbers] > 1
        return (tokens, wanted, documents) if is_shared.any() else (tokens, wanted)

    def statistics(logits: Tensor, wanted: Tensor) -> Tensor:
        return token_losses(logits, wanted)[None]

    losses = score(model, rows, layout.n_rows, tokens_per_forward, statistics, advance)
    # Sums are taken in float64: thousands of losses in float32 would lose digits.
    values = losses[0].double().numpy()  # (rows, row_length)

    # Back from rows to the order of the targets.
    ends = layout.column + windows.lengths
    parts = zip(layout.row, ends - windows.scored, ends, strict=True)
    return np.concatenate([values[row, first:end] for row, first, end in parts])


def summarize(targets: Targets, nats: np.ndarray, one: Pass) -> PerplexityRecord:
    """Return the record of the nats of all targets, (targets,), at one context length."""
    numbers, document = np.unique(targets.documents, return_inverse=True)
    sums = np.bincount(document, nats)
    sums_of_text = np.bincount(document, nats * targets.is_text)

    texts: dict[int, list[str]] = {number: [] for number in numbers.tolist()}
    n_words = dict.fromkeys(texts, 0)
    for number, text, words in targets.texts():
        texts[number].append(text)
        n_words[number] += words
    n_bytes = [len("".join(parts).encode()) for parts in texts.values()]

    loss = float(nats.sum()) / len(nats)
    nats_of_text = float(sums_of_text.sum())
    return PerplexityRecord(
        context_length=one.length,
        stride=one.stride,
        documents="apart" if targets.apart else "stream",
        loss=loss,
        ppl=math.exp(loss),
        bpb=nats_of_text / math.log(2) / max(1, sum(n_bytes)),
        ppl_word=math.exp(min(MOST_NATS, nats_of_text / max(1, sum(n_words.values())))),
        targets=len(nats),
        bytes=sum(n_bytes),
        words=sum(n_words.values()),
        document=numbers.tolist(),
        nats=np.round(sums, 4).tolist(),
        n_targets=np.bincount(document).tolist(),
        nats_of_text=np.round(sums_of_text, 4).tolist(),
        n_bytes=n_bytes,
        n_words=list(n_words.values()),
        text=[_hash(parts) for parts in texts.values()],
    )


def whole_context(record: PerplexityRecord) -> dict[str, float]:
    """Return the metrics that are measured only at the whole context, from its record."""
    loss = over_documents(np.array(record.nats), np.array(record.n_targets))
    return {
        "val/loss": record.loss,
        **margin("val/loss", loss),
        "val/bpb": record.bpb,
        "val/ppl_word": record.ppl_word,
        "val/targets": record.targets,
        "val/documents": len(record.document),
        "val/bytes": record.bytes,
        "val/words": record.words,
    }


def by_position(
    nats: np.ndarray, documents: np.ndarray, position: np.ndarray, seq_len: int
) -> dict[str, float]:
    """Return `val/loss@posP`, and `icl/score` if there are targets at every position.

    Args:
        nats: of each target, (targets,).
        documents: the document of each target, (targets,).
        position: how many tokens of its window each target sees, less one, (targets,).
        seq_len: the longest context, tokens.
    """
    metrics = {}
    for exponent in range(seq_len.bit_length()):
        end = 2**exponent
        here = (position >= end // 2) & (position < end)
        if here.any():
            metrics[f"val/loss@pos{end}"] = float(nats[here].mean())
    if np.bincount(position, minlength=seq_len).all():
        score = icl_score(nats, position, documents, seq_len)
        metrics |= {"icl/score": score.value, **margin("icl/score", score)}
    return metrics


def icl_score(
    nats: np.ndarray, position: np.ndarray, documents: np.ndarray, seq_len: int
) -> Estimate:
    """Return the loss at a late position minus the loss at an early one, nats.

    The more negative, the more the context is used. Olsson et al. ("In-context learning and
    induction heads", 2022) take the 500th and the 50th token of 512. Here each is the mean over a
    sixteenth of the context around that place, (15/16, 1] and (1/16, 1/8], for less noise.

    Args:
        nats: of each target, (targets,).
        position: how many tokens of its window each target sees, less one, (targets,).
        documents: the document of each target, (targets,).
        seq_len: the length of the windows, tokens.
    """
    is_late = position >= seq_len * 15 // 16
    first = seq_len // 16
    is_early = (position >= first) & (position < max(seq_len // 8, first + 1))
    late = nats[is_late].mean()
    early = nats[is_early].mean()

    # What each target adds to the difference of two means; a document adds what its targets do.
    influence = (nats - late) * is_late / is_late.sum()
    influence -= (nats - early) * is_early / is_early.sum()
    numbers, document = np.unique(documents, return_inverse=True)
    of_documents = late - early + len(numbers) * np.bincount(document, influence)  # (documents,)
    return over_documents(of_documents, np.ones(len(numbers)))


def default_context_lengths(seq_len: int) -> list[int]:
    """Return a quarter, a half and the whole: 256, 512 and 1024 for the paper's model."""
    return [seq_len // part for part in (4, 2, 1) if seq_len % part == 0]


def _hash(texts: Sequence[str]) -> str:
    # Where one text ends and the next begins counts, too.
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
