"""What a person sees of prepared text.

The mix, the lengths of the documents, what the tokenizer does, and what a model will read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.provenance import Contamination, FilterCount, Provenance, SourceMix, provenance_of
from momentum_gpt.core.batch_plan import BatchPlan
from momentum_gpt.core.terminal import table_text
from momentum_gpt.data import Batches, TokenShards
from momentum_gpt.data.shards import SPLITS, ShardsManifest, read_manifest

BAR = 40
"""Characters of the longest bar of the histogram."""

FEW_DOCUMENTS = 100
"""With fewer documents for validation, a sentence says what that means."""

LINE = 110
"""Characters of a window that are shown."""


def document_lengths(indices: list[np.ndarray]) -> dict[str, int]:
    """Return how many documents have up to 1, 2, 4, ... tokens: {"64": 12, ...}.

    Args:
        indices: (documents,) of dtype INDEX each.
    """
    counts = np.zeros(64, dtype=np.int64)
    for index in indices:
        # The smallest power of 2 that is not smaller.
        powers = np.ceil(np.log2(np.maximum(index["tokens"], 1))).astype(int)
        counts += np.bincount(powers, minlength=64)

    # Lengths between the shortest and the longest are shown even if no document has them.
    used = np.flatnonzero(counts)
    if not len(used):
        return {}
    powers_used = range(used.min(), used.max() + 1)
    return {str(2**power): int(counts[power]) for power in powers_used}


def describe(folder: Path, seconds: dict[str, float]) -> str:
    """Return the summary at the end of a preparation.

    Args:
        folder: the token shards.
        seconds: the time that each stage took.
    """
    manifest = read_manifest(folder)
    made = provenance_of(manifest)
    lines = [f"{folder}: {manifest.vocab_size:,} pieces, {manifest.dtype}"]
    lines += [split_line(manifest, split) for split in SPLITS]
    lines += [f"  {sentence}" for sentence in facts(manifest, made)]
    lines.append(speed_line(made, seconds))
    if made.curation:
        lines += ["", curation_table(made.curation)]
    if len(made.mix) > 1:
        lines += ["", mix_table(made.mix)]
    lines += ["", *histogram(made.document_tokens)]
    return "\n".join(lines)


def split_line(manifest: ShardsManifest, split: str) -> str:
    """Return the size of a split."""
    shards = manifest.splits[split]
    documents = sum(shard.documents for shard in shards)
    tokens = manifest.tokens(split)
    return (
        f"  {split:<10} {documents:>11,} documents  {tokens:>15,} tokens  {len(shards):>5,} shards"
    )


def speed_line(made: Provenance, seconds: dict[str, float]) -> str:
    """Return the amount of text, and how fast each stage read it."""
    megabytes = sum(made.bytes.values()) / 1e6
    speeds = []
    for stage, spent in seconds.items():
        speeds.append(f"{stage} {spent:.1f} s ({megabytes / max(spent, 1e-3):.1f} MB/s)")
    return f"  {megabytes:,.1f} MB of text; {', '.join(speeds)}"


def facts(manifest: ShardsManifest, made: Provenance) -> list[str]:
    """Return sentences about the tokenizer and about what was left out."""
    n_bytes = sum(made.bytes.values())
    # Each document once, however often the mix repeats it.
    tokens = manifest.tokens("validation")
    tokens += sum(source.tokens for source in made.mix)

    per_token = n_bytes / max(1, tokens)
    covered = 1 - made.by_byte / max(1, n_bytes)
    rate = made.by_byte / max(1, tokens)
    tokenizer = (
        f"{per_token:.2f} bytes per token; pieces cover {covered:.2%} of the bytes; "
        f"{rate:.2%} of the tokens are single bytes"
    )
    sentences = [tokenizer]
    n_validation = sum(shard.documents for shard in manifest.splits["validation"])
    if n_validation < FEW_DOCUMENTS:
        sentences.append(
            f"only {n_validation:,} documents for validation: intervals over documents are wide; "
            "validation_fraction puts more there"
        )
    if made.duplicates:
        sentences.append(f"{made.duplicates:,} documents left out: equal to another")
    near = made.near_duplicates
    if near is not None:
        sentences.append(
            f"{near.documents:,} documents ({near.bytes:,} bytes) left out: nearly equal to another"
        )
    for source, reasons in made.left_out.items():
        counts = [f"{count:,} {reason}" for reason, count in reasons.items()]
        sentences.append(f"{source}: {', '.join(counts)}")
    if made.contamination is not None:
        dropped = made.made_with["decontaminate"]["drop"]
        sentences.append(contamination_line(made.contamination, dropped))
        sentences += too_short_lines(made.contamination)
    return sentences


def contamination_line(contamination: Contamination, dropped: bool) -> str:
    """Return what was found of the evaluation sets."""
    counts = []
    for name, found in contamination.by_set.items():
        if found.documents:
            counts.append(f"{name} {found.documents:,}")
    return (
        f"{contamination.documents:,} training documents hold text of an evaluation set, "
        f"{'left out' if dropped else 'NOT left out'}: {', '.join(counts) or 'none'}"
    )


def too_short_lines(contamination: Contamination) -> list[str]:
    """Return a sentence about the items that were not looked for; none if all were."""
    counts = []
    for name, found in contamination.by_set.items():
        if found.too_short:
            counts.append(f"{name} {found.too_short:,} of {found.items:,}")
    if not counts:
        return []
    return [f"items of evaluation sets with too few words to look for: {', '.join(counts)}"]


def curation_table(counts: list[FilterCount]) -> str:
    """Return what each filter left out, by reason."""
    rows = []
    for count in counts:
        rows.append([count.filter, count.reason, f"{count.documents:,}", f"{count.bytes:,}"])
    return table_text("", ["filter", "reason", "documents", "bytes left out"], rows)


def mix_table(mix: list[SourceMix]) -> str:
    """Return the shares that were asked for, and those that came out."""
    total = sum(source.tokens_taken for source in mix)
    weights = sum(source.weight or 0 for source in mix)
    rows = []
    for source in mix:
        asked = f"{source.weight / weights:.2%}" if source.weight else "all"
        rows.append(
            [
                source.source,
                asked,
                f"{source.tokens_taken / total:.2%}",
                f"{source.tokens:,}",
                f"{source.tokens_taken:,}",
                f"{source.epochs:.2f}",
            ]
        )
    head = ["source", "requested", "actual", "tokens", "tokens taken", "epochs"]
    return table_text("", head, rows)


def histogram(document_tokens: dict[str, int]) -> list[str]:
    """Return lines with a bar for the number of documents of each length."""
    most = max(document_tokens.values(), default=1)
    lines = ["  documents by length, tokens up to"]
    for limit, count in document_tokens.items():
        width = round(BAR * count / most)
        if count:
            width = max(1, width)  # a single document is visible
        bar = "#" * width
        lines.append(f"  {int(limit):>12,} {bar:<{BAR}} {count:,}")
    return lines


def first_batch(folder: Path, seq_len: int = 64, rows: int = 3) -> str:
    """Return the beginning of what a run with seed 0 reads first, as text."""
    shards = TokenShards(folder)
    if len(shards) <= seq_len:
        return ""

    plan = BatchPlan(rows, rows, 1, 1)
    tokens, _ = Batches(shards, seq_len, 0, plan)(0, 0, 0)  # (rows, seq_len)
    lines = ["", f"  windows of {seq_len} tokens, as a model reads them"]
    for row in tokens:
        text = repr(shards.tokenizer.decode(row.tolist()))[1:-1]
        lines.append(f"  | {text[:LINE]}")
    return "\n".join(lines)
