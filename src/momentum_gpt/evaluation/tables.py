"""What was measured of one model, for the terminal."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import Any

import numpy as np

from momentum_gpt.evaluation.statistics import bootstrap, bootstrap_ratio, in_blocks


def perplexity_table(records: list[dict[str, Any]]) -> str:
    """A row for each context length: the loss, its interval over pieces of documents, and what it is per token, byte, word."""
    head = f"  {'context':>9}{'stride':>8}{'pieces':>9}{'loss':>9}{'95% interval':>20}{'perplexity':>12}"
    lines = [head + f"{'bits/byte':>11}{'per word':>12}"]
    for it in records:
        low, high = bootstrap_ratio(*in_blocks(np.array(it["nats"]), np.array(it["n_targets"])))
        lines.append(
            f"  {it['context_length']:>9}{it['stride'] or '-':>8}{len(it['nats']):>9,}{it['loss']:>9.4f}"
            f"{f'[{low:.4f}, {high:.4f}]':>20}{it['ppl']:>12.3f}{it['bpb']:>11.4f}{it['ppl_word']:>12.1f}"
        )
    return "\n".join(lines)


def few_shot_table(records: list[dict[str, Any]]) -> str:
    """A row for each (task, k): accuracy with its 95% interval over queries and seeds, and what to hold it against."""
    of_row: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        of_row[record["task"], record["k"]].append(record)
    head = f"  {'task':<14}{'k':>4}{'asked':>7}{'seeds':>7}{'queries':>9}{'accuracy':>10}{'95% interval':>18}"
    lines = [head + f"{'calibrated':>12}{'flipped':>9}{'soft':>8}{'majority':>10}"]
    for (task, k), its in of_row.items():
        low, high = bootstrap(np.array([record["right"] for record in its], dtype=float))
        cells = [_mean(its, key) for key in ("acc/calibrated", "acc/flipped", "soft", "majority")]
        lines.append(
            f"  {task:<14}{k:>4}{its[0]['k_asked']:>7}{len(its):>7}{its[0]['n']:>9}{_mean(its, 'acc'):>10}"
            f"{f'[{low:.3f}, {high:.3f}]':>18}{cells[0]:>12}{cells[1]:>9}{cells[2]:>8}{cells[3]:>10}"
        )
    return "\n".join(lines)


def _mean(records: list[dict[str, Any]], key: str) -> str:
    return f"{fmean(record[key] for record in records):.3f}" if key in records[0] else "-"
