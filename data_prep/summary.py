"""What a person sees of prepared text: the mix, document lengths, what the tokenizer does, and what the model will read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from momentum_gpt.core.config import BatchPlan
from momentum_gpt.data import Batches, TokenShards
from momentum_gpt.data.shards import SPLITS

BAR = 40
"""Characters of the longest bar."""


def document_lengths(indices: list[np.ndarray]) -> dict[str, int]:
    """How many documents have up to 1, 2, 4, ... tokens: {"64": 12, ...}."""
    counts = np.zeros(64, dtype=np.int64)
    for index in indices:
        counts += np.bincount(
            np.ceil(np.log2(np.maximum(index["tokens"], 1))).astype(int), minlength=64
        )
    used = np.flatnonzero(counts)
    return (
        {str(2**power): int(counts[power]) for power in range(used.min(), used.max() + 1)}
        if len(used)
        else {}
    )


def describe(folder: Path, seconds: dict[str, float]) -> str:
    """The summary at the end of a preparation."""
    manifest = json.loads((folder / "manifest.json").read_text())
    lines = [f"{folder}: {manifest['vocab_size']:,} pieces, {manifest['dtype']}"]
    for split in SPLITS:
        shards = manifest["splits"][split]
        tokens, documents = (sum(shard[key] for shard in shards) for key in ("tokens", "documents"))
        lines.append(
            f"  {split:<10} {documents:>11,} documents  {tokens:>15,} tokens  {len(shards):>5,} shards"
        )
    lines += [f"  {text}" for text in facts(manifest)]
    n_bytes = sum(manifest["bytes"].values())
    timed = [
        f"{stage} {spent:.1f} s ({n_bytes / 1e6 / max(spent, 1e-3):.1f} MB/s)"
        for stage, spent in seconds.items()
    ]
    lines.append(f"  {n_bytes / 1e6:,.1f} MB of text; {', '.join(timed)}")
    if len(manifest["mix"]) > 1:
        lines += ["", *mix_table(manifest["mix"])]
    return "\n".join([*lines, "", *histogram(manifest["document_tokens"])])


def facts(manifest: dict[str, Any]) -> list[str]:
    """Sentences about the tokenizer and what was left out."""
    n_bytes = sum(manifest["bytes"].values())
    unique = sum(it["tokens"] for it in manifest["splits"]["validation"]) + sum(
        it["tokens"] for it in manifest["mix"]
    )
    rate, covered = manifest["by_byte"] / max(1, unique), 1 - manifest["by_byte"] / max(1, n_bytes)
    per_token = n_bytes / max(1, unique)
    found = [
        f"{per_token:.2f} bytes per token; pieces cover {covered:.2%} of the bytes; {rate:.2%} of the tokens are single bytes"
    ]
    if manifest["duplicates"]:
        found.append(f"{manifest['duplicates']:,} documents left out: equal to another")
    found += [
        f"{source}: " + ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        for source, kinds in manifest["left_out"].items()
    ]
    if (contamination := manifest["contamination"]) is not None:
        dropped = "left out" if manifest["made_with"]["decontaminate"]["drop"] else "NOT left out"
        by_set = ", ".join(
            f"{name} {it['documents']:,}"
            for name, it in contamination["by_set"].items()
            if it["documents"]
        )
        total = contamination["documents"]
        found.append(
            f"{total:,} training documents hold text of an evaluation set, {dropped}: {by_set or 'none'}"
        )
    return found


def mix_table(mix: list[dict[str, Any]]) -> list[str]:
    total = sum(it["tokens_taken"] for it in mix)
    weights = sum(it["weight"] or 0 for it in mix)
    rows = [
        f"  {'source':<20}{'asked for':>11}{'realised':>11}{'tokens there':>16}{'taken':>16}{'epochs':>9}"
    ]
    for it in mix:
        asked = f"{it['weight'] / weights:.2%}" if it["weight"] else "all"
        realised = f"{it['tokens_taken'] / total:.2%}"
        rows.append(
            f"  {it['source']:<20}{asked:>11}{realised:>11}{it['tokens']:>16,}{it['tokens_taken']:>16,}{it['epochs']:>9.2f}"
        )
    return rows


def histogram(document_tokens: dict[str, int]) -> list[str]:
    most = max(document_tokens.values(), default=1)
    rows = ["  documents by length, tokens up to"]
    for limit, count in document_tokens.items():
        rows.append(
            f"  {int(limit):>12,} {'#' * max(1 if count else 0, round(BAR * count / most)):<{BAR}} {count:,}"
        )
    return rows


def first_batch(folder: Path, seq_len: int = 64, rows: int = 3) -> str:
    """The beginning of what a run with seed 0 reads first, as text."""
    shards = TokenShards(folder)
    if len(shards) <= seq_len:
        return ""
    tokens, _ = Batches(shards, seq_len, 0, BatchPlan(rows, rows, 1, 1))(0, 0, 0)
    texts = [repr(shards.tokenizer.decode(row.tolist()))[1:-1][:110] for row in tokens]
    return "\n".join(
        [
            "",
            f"  windows of {seq_len} tokens, as a model reads them",
            *(f"  | {text}" for text in texts),
        ]
    )
