"""Compare a variant's cost with vanilla attention's, in training and decoding.

    momentum-gpt bench attention
    momentum-gpt bench attention 'lengths=[1024]' attention=shift

Both run in turns in one process, and medians are printed. On a CPU: a model of
12 layers and d_model 768 in fp32. On CUDA: the 350M model in bf16, compiled,
with its peak memory, and the bytes per second of the momentum kernel beside
those of a plain copy; this takes minutes. A step is the forward pass, the
backward pass and AdamW's update.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from momentum_gpt.cli import Command
from momentum_gpt.core.config import require


@dataclass
class BenchAttentionConfig:
    attention: dict[str, Any]
    """Name and options of the variant that is compared with vanilla attention."""
    lengths: list[int] | None = None
    """Context lengths to measure, in tokens, each at least 128. null: 256, 1024 and 4096 on a CPU;
    1024 on CUDA, where each takes minutes to compile."""
    repeats: int = 7
    """Timed pairs of steps at each length."""

    def __post_init__(self) -> None:
        require(self.repeats >= 1, "repeats", self.repeats, "at least 1")
        for length in self.lengths or []:
            require(length >= 128, "lengths", length, "at least 128, each")


def bench_attention(config: BenchAttentionConfig) -> None:
    """Measure and print."""
    # Imported here, so that --help does not load torch.
    from momentum_gpt.bench.attention_costs import measure

    measure(config.attention, config.lengths, config.repeats)


main = Command(bench_attention, BenchAttentionConfig, "bench_attention")


if __name__ == "__main__":
    main()
