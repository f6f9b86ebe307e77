"""The shapes at which training is timed."""

from __future__ import annotations

from dataclasses import dataclass

from momentum_gpt.core.config import ModelConfig


@dataclass(frozen=True)
class Shape:
    """A model and its batch."""

    n_layers: int
    n_heads: int
    d_model: int
    seq_len: int
    """Tokens."""
    vocab_size: int
    rows: int
    """Sequences in a pass."""
    passes: int
    """Passes in a step."""
    precision: str = "fp32"
    compile: bool = False

    @property
    def model(self) -> ModelConfig:
        """The model's options."""
        return ModelConfig(
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            d_model=self.d_model,
            seq_len=self.seq_len,
            vocab_size=self.vocab_size,
        )

    @property
    def tokens_per_step(self) -> int:
        """Tokens of an optimizer step."""
        return self.passes * self.rows * self.seq_len

    def __str__(self) -> str:
        return (
            f"{self.n_layers} x {self.d_model}, {self.seq_len:,} tokens, vocabulary "
            f"{self.vocab_size:,}, {self.passes} x {self.rows} rows, {self.precision}"
            f"{', compiled' if self.compile else ''}"
        )


SHAPES = {
    "laptop": Shape(4, 4, 128, 256, 2048, rows=8, passes=2),
    "125m": Shape(12, 12, 768, 1024, 32768, rows=1, passes=2),
    "350m": Shape(24, 16, 1024, 1024, 50304, rows=8, passes=16, precision="bf16", compile=True),
}
"""The first two are for a CPU, the last for a GPU."""
