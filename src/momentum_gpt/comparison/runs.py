"""Finished runs as they lie on disk, and the options in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from momentum_gpt.comparison.analyses import Analysis, read_analyses
from momentum_gpt.core.config import TrainConfig, changes_nothing, flat, read_config
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json_lines
from momentum_gpt.core.manifest import CheckpointManifest, read_checkpoint_manifest
from momentum_gpt.core.untrusted import read_name
from momentum_gpt.evaluation.records import ANALYSIS
from momentum_gpt.evaluation.statistics import margin_key

LEFT_OUT = "LEFT OUT, not finished:"
"""The beginning of a sentence on a run that is not compared."""


@dataclass(frozen=True)
class Run:
    """A run's folder, read."""

    name: str
    """The name of the folder."""
    config: TrainConfig
    records: list[dict[str, Any]]
    """The lines of metrics.jsonl."""
    manifest: CheckpointManifest | None = None
    """The manifest of the newest checkpoint; None without a checkpoint."""
    afterwards: dict[str, Any] = field(default_factory=dict)
    """What `evaluate` has measured of the last evaluated step; {} if nothing."""
    folder: Path = Path()
    means: dict[str, Any] = field(default_factory=dict)
    """Means over several evaluations, which take the place of the last one; {} if none do."""

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Return the numbers of tokens trained on and the values of a metric, oldest first."""
        tokens = []
        values = []
        for record in self.records:
            # Each line of metrics.jsonl has only what was measured at that step.
            if key in record:
                tokens.append(record["tokens"])
                values.append(record[key])
        return tokens, values

    @cached_property
    def final(self) -> dict[str, Any]:
        """The metrics of the last evaluation, with those that were measured afterwards."""
        if self.means:
            return self.means
        last = _last_evaluation(self.records)
        assert last is not None, f"{self.name} has no evaluation"
        return last | self.afterwards

    @cached_property
    def analyses(self) -> dict[int, Analysis]:
        """What `analyze` has found of checkpoints, by the tokens trained on, the first one first.

        Raises:
            UserError: a line in the run's folder lacks an entry.
        """
        return read_analyses(self.folder / "evaluations" / ANALYSIS)

    @property
    def last_analysis(self) -> Analysis:
        """What was found of the last checkpoint that was analysed; {} if none was."""
        return self.analyses[max(self.analyses)] if self.analyses else {}

    @property
    def is_finished(self) -> bool:
        """Whether the last evaluation was after the run's last step."""
        return bool(self.final["step"] == self.config.training.max_steps)

    @property
    def variant(self) -> str:
        """The attention's name and options, without those that are off or null."""
        return self.config.variant

    @cached_property
    def tokens_per_s(self) -> float:
        """The median speed of training."""
        _, speeds = self.series("train/tokens_per_s")
        return median(speeds or [float("nan")])

    def by_number(self, prefix: str) -> dict[int, float]:
        """Return the final values of metrics PREFIX + number, e.g. {64: 73.9} for "val/ppl@"."""
        values = {}
        for key, value in self.final.items():
            number = key.removeprefix(prefix)

            # Perplexities with a stride have keys such as "val/ppl@64/stride".
            if key.startswith(prefix) and number.isdigit():
                values[int(number)] = value
        return values

    def margin(self, metric: str) -> float | None:
        """Return half the width of the 95% interval of a final metric; None without one."""
        return self.final.get(margin_key(metric))


def load_run(folder: str) -> Run:
    """Read a run's folder.

    Raises:
        UserError: there is no run, or it has no evaluation yet.
    """
    path = Path(folder)
    if not (path / "config.yaml").is_file():
        raise UserError(
            f"runs: {folder!r} is not a run folder (it has no config.yaml): "
            "give folders like runs/NAME"
        )

    records = read_json_lines(path / "metrics.jsonl")
    last = _last_evaluation(records)
    if last is None:
        raise UserError(
            f"runs: {folder!r} has no evaluation yet: "
            "let it train to its first one (training.eval_every)"
        )

    return Run(
        name=path.name,
        config=read_config(path / "config.yaml"),
        records=records,
        manifest=_newest_manifest(path / "checkpoints"),
        afterwards=_measured_afterwards(path, last["step"]),
        folder=path,
    )


def load_runs(folders: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Read two or more runs whose numbers may stand in one table.

    Returns:
        The runs that have reached their last step, and a sentence on each of the others.

    Raises:
        UserError: there are fewer than two folders or finished runs, or one is given twice.
    """
    if len(set(folders)) < 2 or len(set(folders)) < len(folders):
        raise UserError(
            f"runs must name two or more different run folders, got {folders}: runs=[runs/A,runs/B]"
        )
    runs = []
    left_out = []
    for folder in folders:
        run = load_run(folder)
        if run.is_finished:
            runs.append(run)
        else:
            left_out.append(
                f"{LEFT_OUT} {run.name} (evaluated at step {run.final['step']:,} of "
                f"{run.config.training.max_steps:,})."
            )

    if len(runs) < 2:
        raise UserError(
            f"runs: fewer than two of {folders} have reached their last step: {' '.join(left_out)} "
            "The same train command goes on with a run"
        )
    return measured_alike(runs), left_out


def have_other_tokenizers(runs: Sequence[Run]) -> bool:
    """Return whether the runs have different tokenizers: then nats per token are other units."""
    # A run without a checkpoint does not say.
    return len({run.manifest.tokenizer_sha256 for run in runs if run.manifest}) > 1


def measured_alike(runs: list[Run]) -> list[Run]:
    """Return the runs, without later measurements unless all have them on as many targets."""
    targets = {run.afterwards.get("val/targets") for run in runs}
    all_have = None not in targets

    # The same text has other numbers of targets with other tokenizers.
    if all_have and (len(targets) == 1 or have_other_tokenizers(runs)):
        return runs
    return [replace(run, afterwards={}) for run in runs]


def config_differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the options that are not the same in all runs, and each run's value.

    Options that change nothing of a result are left out. The value is None where a run has no such
    option.
    """
    configs = [flat(run.config) for run in runs]

    # A dict instead of a set: options stay in the order of the configurations.
    options: dict[str, None] = {}
    for config in configs:
        options |= dict.fromkeys(config)

    differences = {}
    for option in options:
        values = [config.get(option) for config in configs]  # (runs,)
        is_same = all(value == values[0] for value in values)
        if not is_same and not changes_nothing(option):
            differences[option] = values
    return differences


def _last_evaluation(records: list[dict[str, Any]]) -> dict[str, Any] | None:
    for record in reversed(records):
        if "val/loss" in record:
            return record
    return None


def _newest_manifest(checkpoints: Path) -> CheckpointManifest | None:
    latest = checkpoints / "latest"
    if not latest.is_file():
        return None
    return read_checkpoint_manifest(checkpoints / read_name(latest))


def _measured_afterwards(folder: Path, step: int) -> dict[str, Any]:
    """Return the last line that `evaluate` wrote about a step, {} if there is none."""
    found: dict[str, Any] = {}
    for line in read_json_lines(folder / "evaluations" / "validation.jsonl"):
        # Later lines are newer: with other options, a checkpoint may be measured again.
        if line["step"] == step:
            found = line
    return found
