"""What an evaluation leaves in a run's folder `evaluations/`: one JSON object a line.

    validation.jsonl    the metrics of a checkpoint on the run's own validation split
    other.jsonl         the metrics of a checkpoint on data or text that the user named
    perplexity.jsonl    a line for each context length and stride
    icl.jsonl           a line for each few-shot (task, number of demonstrations, seed)
    samples.jsonl       texts that a checkpoint wrote
    analysis.jsonl      a line for each (task, measure, null) that `analyze` found of a checkpoint

The training loop adds lines to perplexity.jsonl and icl.jsonl. Its metrics are in the run's
`metrics.jsonl`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import (
    append_json_lines,
    keep_json_lines,
    numbered_json_lines,
    read_json_lines,
)

ACCURACY = "acc/"
"""The prefix of `FewShotRecord.accuracies` in a JSON line."""

PERPLEXITY = "perplexity.jsonl"
FEW_SHOT = "icl.jsonl"
SAMPLES = "samples.jsonl"
ANALYSIS = "analysis.jsonl"


@dataclass(frozen=True)
class Sample:
    """A text that a model has written."""

    prompt: str
    """The opening."""
    text: str
    """What the model wrote after it."""

    def to_json(self) -> dict[str, Any]:
        """Return the sample as one JSON object."""
        return asdict(self)


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
    settings: str | None = None
    """Hash of the weights, the data and the options; None in lines of training."""

    def to_json(self) -> dict[str, Any]:
        """Return the first entries of a line; in training, only the step and the tokens."""
        position = {"step": self.step, "tokens": self.tokens}
        if self.checkpoint is None:
            return position
        source = {"checkpoint": self.checkpoint, "data": self.data, "settings": self.settings}
        return source | position

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Origin:
        """Return the origin of a line; the line's other entries are left out."""
        return cls(**_entries(cls, line))

    @property
    def metrics_file(self) -> str:
        """Name of the file in `evaluations/` that holds the metrics of a checkpoint."""
        return "validation.jsonl" if self.data is None else "other.jsonl"


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
    """Tokens scored."""
    bytes: int
    """UTF-8 bytes of the text scored."""
    words: int
    """Words between white space in the text scored."""
    document: list[int]
    """Number of each document that was scored, in the stream; the lists below are in its order."""
    nats: list[float]
    """Sum of nats over each document's targets."""
    n_targets: list[int]
    """Targets of each document."""
    nats_of_text: list[float]
    """Sum of nats over each document's text, without its end."""
    n_bytes: list[int]
    """UTF-8 bytes of each document's text that was scored."""
    n_words: list[int]
    """Words of it."""
    text: list[str]
    """First 12 digits of the sha256 of each document's text that was scored."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as one JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> PerplexityRecord:
        """Return the record of a line; entries of the `Origin` are left out."""
        return cls(**_entries(cls, line))


@dataclass(frozen=True)
class FewShotRecord:
    """One (task, number of demonstrations, seed); see `evaluation/few_shot/measure.py`."""

    task: str
    """Name of the task."""
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
    """Accuracy by score: sum, per_token, per_char, per_byte, pmi, calibrated, flipped.

    Of a text to foresee it is greedy, and of answers that the model writes exact and contains.
    """
    acc: float
    """The headline accuracy: that by the task's `score`."""
    right: list[int]
    """1 or 0 for each query, by the task's `score`."""
    queries: list[int]
    """The numbers of the queries' rows in the test split."""
    seconds: float
    """Time that scoring took; 0 where the record of another k_asked has the same k."""
    demonstrations: list[int]
    """The numbers of the rows of the train split that were shown, in their order.

    Where the task has parts, they are in the order of the parts.
    """
    content_sha256: str
    """Hash of the template, the queries with their candidates, and the demonstrations."""
    rows_left_out: dict[str, int] = field(default_factory=dict)
    """Rows of the data set that are neither asked nor shown, by split and reason."""
    chosen: list[int] = field(default_factory=list)
    """How often each candidate was chosen; [] where there is nothing to choose."""
    loss: list[float] = field(default_factory=list)
    """-log of the right candidates' share for each query, nats; of a text to foresee, -log p.

    [] of answers that the model writes.
    """
    soft: float | None = None
    """Mean share of the right candidates; of a text to foresee, its mean probability."""
    majority: float | None = None
    """Accuracy of always choosing the candidate number that is right most often."""
    f1: list[float] | None = None
    """Overlap of each answer that the model wrote with the nearest right one, 0 to 1."""
    ppl: float | None = None
    """Perplexity of the texts to foresee, each as a whole."""
    by_group: dict[str, float] | None = None
    """Accuracy in each part of the task, such as a subject."""
    scores: dict[str, Any] | None = None
    """Scores of each query's candidates, nats; None for a line written in training."""
    written: list[str] | None = None
    """The answers that the model wrote; None for a line written in training."""
    examples: list[dict[str, Any]] | None = None
    """The first queries as text: the number of each, the prompt, the right answer, and what the
    model answered; None for a line written in training, and of texts to foresee."""
    verified: float | None = None
    """Largest difference to a plain forward pass, nats, where asked for."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as one JSON object; accuracies get keys such as `acc/sum`."""
        # What there is none of is left out.
        line = {name: value for name, value in asdict(self).items() if value is not None}
        accuracies = line.pop("accuracies")
        return line | {ACCURACY + name: value for name, value in accuracies.items()}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> FewShotRecord:
        """Return the record of a line; entries of the `Origin` are left out."""
        accuracies = {}
        for key, value in line.items():
            if key.startswith(ACCURACY):
                accuracies[key.removeprefix(ACCURACY)] = value
        return cls(accuracies=accuracies, **_entries(cls, line))


@dataclass(frozen=True)
class Measured:
    """All that one evaluation of one model gives."""

    metrics: dict[str, float]
    """Metrics by key, such as `val/loss`, for metrics.jsonl and the dashboard."""
    perplexity: list[PerplexityRecord] = field(default_factory=list)
    """A record for each context length and stride."""
    few_shot: list[FewShotRecord] = field(default_factory=list)
    """A record for each few-shot (task, number of demonstrations, seed)."""
    samples: list[Sample] = field(default_factory=list)
    """Texts that the model wrote; none in training."""


def read_perplexity(run_dir: Path) -> list[tuple[Origin, PerplexityRecord]]:
    """Return the lines of `evaluations/perplexity.jsonl`, the oldest first; [] if there is no file.

    Raises:
        UserError: a line lacks an entry.
    """
    return _read(_folder(run_dir) / PERPLEXITY, PerplexityRecord)


def read_few_shot(run_dir: Path) -> list[tuple[Origin, FewShotRecord]]:
    """Return the lines of `evaluations/icl.jsonl`, the oldest first; [] if there is no file.

    Raises:
        UserError: a line lacks an entry.
    """
    return _read(_folder(run_dir) / FEW_SHOT, FewShotRecord)


def keep_records(run_dir: Path, origin: Origin, measured: Measured) -> None:
    """Add what was measured to the files in `evaluations/`.

    A checkpoint's lines replace those of the same settings. Lines of training, whose `origin` has
    no checkpoint, leave out the metrics, and what is long: scores of single candidates and texts.
    """
    folder = _folder(run_dir)
    few_shot = measured.few_shot
    if origin.checkpoint is None:
        few_shot = [
            replace(record, scores=None, written=None, examples=None) for record in few_shot
        ]
    else:
        _drop(folder, origin)

    _append(folder / PERPLEXITY, origin, measured.perplexity)
    _append(folder / FEW_SHOT, origin, few_shot)
    _append(folder / SAMPLES, origin, measured.samples)

    # The metrics come last: their line tells `find_measured` that all others are there.
    if origin.checkpoint is not None:
        append_json_lines(folder / origin.metrics_file, [origin.to_json() | measured.metrics])


def find_measured(run_dir: Path, origin: Origin) -> Measured | None:
    """Return what is stored of an earlier evaluation with the same origin; None if there is none.

    Raises:
        UserError: a line of the files lacks an entry.
    """
    lines = read_json_lines(_folder(run_dir) / origin.metrics_file)
    found = [line for line in lines if Origin.from_json(line) == origin]
    if not found:
        return None

    beginning = origin.to_json()
    metrics = {key: value for key, value in found[-1].items() if key not in beginning}
    perplexity = [record for where, record in read_perplexity(run_dir) if where == origin]
    few_shot = [record for where, record in read_few_shot(run_dir) if where == origin]
    return Measured(metrics, perplexity, few_shot)


class _Line(Protocol):
    """What becomes a line of a file."""

    def to_json(self) -> dict[str, Any]: ...


class _Record(_Line, Protocol):
    """What is read back, too."""

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Any: ...


Kind = TypeVar("Kind", bound=_Record)


def _entries(kind: Any, line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a line that are fields of the dataclass."""
    names = [entry.name for entry in fields(kind)]
    return {name: line[name] for name in names if name in line}


def _folder(run_dir: Path) -> Path:
    return Path(run_dir) / "evaluations"


def _read(path: Path, kind: type[Kind]) -> list[tuple[Origin, Kind]]:
    records = []
    for number, line in numbered_json_lines(path):
        try:
            records.append((Origin.from_json(line), kind.from_json(line)))
        except TypeError as error:  # an argument of the dataclass is missing
            raise UserError(
                f"line {number} of {path} is not a record of this version ({error}): "
                "delete the file and evaluate the run again"
            ) from None
    return records


def _append(path: Path, origin: Origin, records: Sequence[_Line]) -> None:
    if records:
        append_json_lines(path, [origin.to_json() | record.to_json() for record in records])


def _drop(folder: Path, origin: Origin) -> None:
    """Drop all lines of the origin, the metrics first: without them the others do not count."""

    def is_other(line: dict[str, Any]) -> bool:
        there = Origin.from_json(line)
        return (there.checkpoint, there.settings) != (origin.checkpoint, origin.settings)

    for name in (origin.metrics_file, PERPLEXITY, FEW_SHOT, SAMPLES):
        if (folder / name).is_file():
            keep_json_lines(folder / name, is_other)
