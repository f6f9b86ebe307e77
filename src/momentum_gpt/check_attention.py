"""Prove an attention variant: what every one must keep, each with what was measured, and what it costs beside vanilla.

    python -m momentum_gpt.check_attention attention=momentum
    python -m momentum_gpt.check_attention attention=momentum attention.ema_decay=0.999 attention.learned=true

The exit code is 1 if a check fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from momentum_gpt.cli import Command
from momentum_gpt.core.config import require
from momentum_gpt.models.conformance import SHAPE, Check, Finding, costs

COST_SHAPE = (4, 12, 1024, 64)
"""B, H, T, D: a layer of gpt_125m."""


@dataclass
class CheckAttentionConfig:
    attention: dict[str, Any]
    """The variant's name and its options; ema_decay lists are for 2 layers of 3 heads."""
    compiler: str = "inductor"
    """torch.compile's backend. aot_eager: without a C++ compiler."""
    repeats: int = 5
    """Timed passes of each variant. 0: no cost table."""

    def __post_init__(self) -> None:
        require(self.repeats >= 0, "repeats", self.repeats, "at least 0")
        backends = ("inductor", "aot_eager")
        require(
            self.compiler in backends, "compiler", self.compiler, f"one of {', '.join(backends)}"
        )


def check_attention(config: CheckAttentionConfig) -> int:
    options = ", ".join(
        f"{key} {value}" for key, value in config.attention.items() if key != "name"
    )
    print(
        f"{config.attention['name']}{f' ({options})' if options else ''}: {SHAPE.n_heads} heads, d_head {SHAPE.d_head}\n"
    )
    print(f"{'check':<30}{'measured':>10}{'bound':>10}  unit")
    failed = 0
    for check in Check(config.attention, config.compiler).checks():
        finding = check()
        failed += not finding.holds
        print(line(finding), flush=True)
    print(f"\n{'all checks hold' if not failed else f'{failed} FAILED'}")
    if config.repeats:
        print(cost_table(config))
    return 1 if failed else 0


def line(finding: Finding) -> str:
    verdict = "" if finding.holds else "   FAILS"
    return f"{finding.check:<30}{finding.measured:>10.2g}{finding.bound:>10.2g}  {finding.unit}{verdict}"


def cost_table(config: CheckAttentionConfig) -> str:
    B, H, T, D = COST_SHAPE
    layer = (
        {**config.attention, "layers": None} if "layers" in config.attention else config.attention
    )
    found = costs([{"name": "vanilla"}, layer], B, H, T, D, config.repeats)
    head = f"\n{B} sequences, {H} heads, {T} tokens, d_head {D}, fp32, {torch.get_num_threads()} threads"
    rows = [
        f"{head}\n{'cost, forward and backward':<32}{'vanilla':>12}{config.attention['name']:>18}{'ratio':>8}"
    ]
    for what, unit, of in MEASURES:
        vanilla, variant = of(found[0]), of(found[1])
        ratio = f"{variant / vanilla:8.3f}" if vanilla else ""
        rows.append(f"{what:<26}{unit:<6}{vanilla:>12.2f}{variant:>18.2f}{ratio}")
    return "\n".join(rows)


MEASURES = (
    ("operations", "GFLOP", lambda cost: cost.flops / 1e9),
    ("kept for the backward", "MB", lambda cost: cost.kept_bytes / 1e6),
    ("cache, a row", "MB", lambda cost: cost.cache_bytes / 1e6),
    ("time, median", "ms", lambda cost: cost.seconds * 1e3),
)
"""What is measured, its unit, and how it is read off a cost."""


main = Command(check_attention, CheckAttentionConfig, "check_attention")


if __name__ == "__main__":
    main()
