"""Check an attention variant, and compare its cost with vanilla attention's.

    momentum-gpt check-attention attention=momentum
    momentum-gpt check-attention attention=momentum attention.ema_decay=0.999

Every check prints what was measured and the bound it must keep. The exit code
is 1 if one fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from momentum_gpt.cli import Command
from momentum_gpt.core.config import require

if TYPE_CHECKING:
    from momentum_gpt.models.conformance import Finding

COST_SHAPE = (4, 12, 1024, 64)
"""B, H, T, D for which the cost is measured: one layer of gpt_125m."""

COMPILERS = ("inductor", "aot_eager")


@dataclass
class CheckAttentionConfig:
    attention: dict[str, Any]
    """Name and options of the variant. Lists of decays are for 2 layers of 3 heads."""
    compiler: str = "inductor"
    """Backend of torch.compile: inductor | aot_eager, which needs no C++ compiler."""
    repeats: int = 5
    """Timed passes of each variant. 0: no table of costs."""

    def __post_init__(self) -> None:
        require(self.repeats >= 0, "repeats", self.repeats, "at least 0")
        known = self.compiler in COMPILERS
        require(known, "compiler", self.compiler, f"one of {', '.join(COMPILERS)}")


def check_attention(config: CheckAttentionConfig) -> int:
    """Print the findings and the costs; return the exit code."""
    # Imported here, so that --help does not load torch.
    from momentum_gpt.models.attention import ATTENTIONS, build_attention
    from momentum_gpt.models.conformance import SHAPE, Check

    build_attention(config.attention, SHAPE)  # refuses a wrong name or option
    print(f"{title(config.attention)}, {SHAPE.n_heads} heads, d_head {SHAPE.d_head}")
    print(f"{ATTENTIONS[config.attention['name']].description()}\n")

    print(f"{'check':<30}{'measured':>10}{'bound':>10}  unit")
    n_failed = 0
    for check in Check(config.attention, config.compiler).checks():
        finding = check()
        n_failed += not finding.holds
        print(line(finding), flush=True)

    print(f"\n{f'{n_failed} FAILED' if n_failed else 'all checks hold'}")
    if config.repeats:
        print(f"\n{cost_table(config)}")
    return 1 if n_failed else 0


def title(attention: dict[str, Any]) -> str:
    """Return the name of the variant with its options in brackets."""
    options = [f"{key} {value}" for key, value in attention.items() if key != "name"]
    in_brackets = f" ({', '.join(options)})" if options else ""
    return f"{attention['name']}{in_brackets}"


def line(finding: Finding) -> str:
    """Return one row of the table of findings."""
    numbers = f"{finding.measured:>10.2g}{finding.bound:>10.2g}"
    verdict = "" if finding.holds else "   FAILS"
    return f"{finding.check:<30}{numbers}  {finding.unit}{verdict}"


def cost_table(config: CheckAttentionConfig) -> str:
    """Measure the variant and vanilla attention in turns, and return the table of both."""
    import torch

    from momentum_gpt.models.conformance import costs

    B, H, T, D = COST_SHAPE
    one_layer = dict(config.attention)
    if "layers" in one_layer:
        one_layer["layers"] = None
    vanilla, variant = costs([{"name": "vanilla"}, one_layer], B, H, T, D, config.repeats)

    threads = torch.get_num_threads()
    name = config.attention["name"]
    rows = [
        f"{B} sequences, {H} heads, {T} tokens, d_head {D}, fp32, {threads} threads",
        f"{'cost, forward and backward':<32}{'vanilla':>12}{name:>18}{'ratio':>8}",
        cost_row("operations", "GFLOP", vanilla.flops / 1e9, variant.flops / 1e9),
        cost_row("kept for the backward", "MB", vanilla.kept_bytes / 1e6, variant.kept_bytes / 1e6),
        cost_row("cache, a row", "MB", vanilla.cache_bytes / 1e6, variant.cache_bytes / 1e6),
        cost_row("time, median", "ms", vanilla.seconds * 1e3, variant.seconds * 1e3),
    ]
    return "\n".join(rows)


def cost_row(what: str, unit: str, vanilla: float, variant: float) -> str:
    """Return one row of the table of costs."""
    ratio = f"{variant / vanilla:8.3f}" if vanilla else ""
    return f"{what:<26}{unit:<6}{vanilla:>12.2f}{variant:>18.2f}{ratio}"


main = Command(check_attention, CheckAttentionConfig, "check_attention")


if __name__ == "__main__":
    main()
