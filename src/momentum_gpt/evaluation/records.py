"""What an evaluation leaves in `evaluations/KIND.jsonl`: one record a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from momentum_gpt.core.files import read_json_lines

ACCURACY = "acc/"
"""The prefix of `FewShotRecord.accuracies` in a JSON line."""


@dataclass(frozen=True)
class Origin:
    """What was measured: the first entries of every line."""

    step: int
    """Optimizer steps of the checkpoint."""
    tokens: int
    """Tokens it was trained on."""
    checkpoint: str | None = None
    """Name of the checkpoint's folder; None for a line written in training."""
    data: str | None = None
    """Data or text that the user named; None for the run's own validation split."""

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Origin:
        """Return the origin of a line; the line's other entries are left out."""
        names = {entry.name for entry in fields(cls)} & set(line)
        return cls(**{name: line[name] for name in names})


@dataclass(frozen=True)
class PerplexityRecord:
    """Losses at one context length (and stride); see `evaluation/perplexity.py`."""

    context_length: int
    """Tokens."""
    stride: int | None
    """Targets that each overlapping window scores; None for disjoint windows."""
    documents: str
    """stream | apart: how documents were read."""
    loss: float
    """Nats per token."""
    ppl: float
    """Perplexity per token."""
    bpb: float
    """Bits per byte of text."""
    ppl_word: float
    """Perplexity per word between white space."""
    targets: int
    bytes: int
    words: int
    text_sha256: str
    """Hash of the targets."""
    nats: list[float]
    """Sum of nats of each piece: a document, or seq_len targets of a longer one."""
    n_targets: list[int]
    """Targets of each piece."""
    document: list[int]
    """The document that each piece belongs to."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as one JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> PerplexityRecord:
        """Return the record of a line; entries of the `Origin` are left out."""
        return cls(**{entry.name: line[entry.name] for entry in fields(cls)})


@dataclass(frozen=True)
class FewShotRecord:
    """One (task, number of demonstrations, seed); see `evaluation/few_shot/measure.py`."""

    task: str
    k: int
    """Demonstrations in the prompt."""
    k_asked: int
    """Demonstrations that were asked for; fewer fit the context if `k` is smaller."""
    seed: int
    """Draw of the demonstrations."""
    left_out: int
    """Queries that do not fit the context."""
    n: int
    """Queries scored."""
    accuracies: dict[str, float]
    """Accuracy by score: sum, per_token, per_char, per_byte, pmi; calibrated and flipped, if any."""
    acc: float
    """The headline accuracy."""
    soft: float
    """Mean share of the right candidate."""
    majority: float
    """Share of the most frequent right candidate."""
    chosen: list[int]
    """How often each candidate was chosen."""
    right: list[int]
    """1 or 0 for each query."""
    loss: list[float]
    """-log of the right candidate's share for each query, nats."""
    queries: list[int]
    """The queries' numbers among the examples of the test split."""
    seconds: float
    scores: dict[str, Any] | None = None
    """Scores of each query's candidates, nats; None for a line written in training."""
    verified: float | None = None
    """Largest difference to a plain forward pass, nats, where asked for."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as one JSON object; accuracies get keys such as `acc/sum`."""
        line = {name: value for name, value in asdict(self).items() if value is not None}
        accuracies = line.pop("accuracies")
        return line | {ACCURACY + name: value for name, value in accuracies.items()}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> FewShotRecord:
        """Return the record of a line; entries of the `Origin` are left out."""
        names = {entry.name for entry in fields(cls)} & set(line)
        accuracies = {
            key.removeprefix(ACCURACY): value
            for key, value in line.items()
            if key.startswith(ACCURACY)
        }
        return cls(accuracies=accuracies, **{name: line[name] for name in names})


def read_perplexity(run_dir: Path) -> list[tuple[Origin, PerplexityRecord]]:
    """Return the lines of `evaluations/perplexity.jsonl`, oldest first; [] without a file."""
    lines = read_json_lines(run_dir / "evaluations" / "perplexity.jsonl")
    return [(Origin.from_json(line), PerplexityRecord.from_json(line)) for line in lines]


def read_few_shot(run_dir: Path) -> list[tuple[Origin, FewShotRecord]]:
    """Return the lines of `evaluations/icl.jsonl`, oldest first; [] without a file."""
    lines = read_json_lines(run_dir / "evaluations" / "icl.jsonl")
    return [(Origin.from_json(line), FewShotRecord.from_json(line)) for line in lines]
