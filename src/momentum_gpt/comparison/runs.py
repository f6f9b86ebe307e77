"""Finished runs as they lie on disk, and what must hold before they may stand side by side."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from momentum_gpt.core.config import CHANGES_NOTHING, TrainConfig, flat, read_config
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json_lines


@dataclass(frozen=True)
class Run:
    name: str
    config: TrainConfig
    records: list[dict[str, Any]]
    """The lines of metrics.jsonl."""
    manifest: dict[str, Any]
    """Of the newest checkpoint; {} without one."""
    afterwards: dict[str, Any] = field(default_factory=dict)
    """What `evaluate` measured of its last step; {} if nothing."""

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Tokens seen and values of a metric."""
        rows = [record for record in self.records if key in record]
        return [row["tokens"] for row in rows], [row[key] for row in rows]

    @cached_property
    def final(self) -> dict[str, Any]:
        """The last evaluation, which one afterwards replaces."""
        last = next(record for record in reversed(self.records) if "val/loss" in record)
        return last | self.afterwards

    @property
    def variant(self) -> str:
        """The attention's name, and its options that are switched on: what is off or null would only widen a table."""
        given = self.config.attention.items()
        options = [
            f"{key} {value}"
            for key, value in given
            if key != "name" and value is not None and value is not False
        ]
        return self.config.attention["name"] + (f" ({', '.join(options)})" if options else "")

    @cached_property
    def tokens_per_s(self) -> float:
        """Median over the run's readings."""
        return median(self.series("train/tokens_per_s")[1] or [float("nan")])

    def by_number(self, prefix: str) -> dict[int, float]:
        """The final values of `prefix` + number, e.g. {64: ..., 128: ...} of "val/ppl@"."""
        return {
            int(key.removeprefix(prefix)): value
            for key, value in self.final.items()
            if key.startswith(prefix)
        }


def load_run(folder: str) -> Run:
    """A run's folder.

    Raises:
        UserError: no run is there, or one without an evaluation.
    """
    path = Path(folder)
    if not (path / "config.yaml").is_file():
        raise UserError(
            f"runs: {folder!r} is not a run folder (it has no config.yaml): give folders like runs/NAME"
        )
    records = read_json_lines(path / "metrics.jsonl")
    if not any("val/loss" in record for record in records):
        raise UserError(
            f"runs: {folder!r} has no evaluation yet: let it train to its first one (training.eval_every)"
        )
    latest = path / "checkpoints" / "latest"
    manifest = {}
    if latest.is_file():
        manifest = json.loads(
            (latest.parent / latest.read_text().strip() / "manifest.json").read_text()
        )
    step = next(record["step"] for record in reversed(records) if "val/loss" in record)
    again = [
        line
        for line in read_json_lines(path / "evaluations" / "validation.jsonl")
        if line["step"] == step
    ]
    return Run(
        path.name, read_config(path / "config.yaml"), records, manifest, again[-1] if again else {}
    )


def load_runs(folders: list[str]) -> list[Run]:
    """Two or more runs whose numbers may stand in one table.

    Raises:
        UserError: fewer than two, one named twice, or different tokenizers, whose perplexities have different units.
    """
    if len(set(folders)) < 2 or len(set(folders)) < len(folders):
        raise UserError(
            f"runs must name two or more different run folders, got {folders}: runs=[runs/A,runs/B]"
        )
    runs = alike([load_run(folder) for folder in folders])
    tokenizers = {run.name: run.manifest["tokenizer_sha256"][:12] for run in runs if run.manifest}
    if len(set(tokenizers.values())) > 1:
        raise UserError(
            f"the runs have different tokenizers ({tokenizers}), so their nats per token are different units: compare runs "
            "on the same data folder"
        )
    return runs


def alike(runs: list[Run]) -> list[Run]:
    """Take what was measured afterwards only if it was of all runs, on as many targets."""
    if {run.afterwards.get("val/targets") for run in runs} - {
        runs[0].afterwards.get("val/targets")
    } or not runs[0].afterwards:
        return [replace(run, afterwards={}) for run in runs]
    return runs


def differences(runs: list[Run]) -> dict[str, list[Any]]:
    """The options that are not the same in all runs, and each run's value (None where it has no such option)."""
    configs = [flat(run.config) for run in runs]
    keys = dict.fromkeys(
        key for config in configs for key in config if not key.startswith(CHANGES_NOTHING)
    )
    values = {key: [config.get(key) for config in configs] for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def common_ground(runs: list[Run]) -> list[str]:
    """What the runs share and what they do not, one sentence each; what speaks against comparing them begins with "NOT".

    Where there are two runs and more of each training seed, they are compared seed by seed.
    """
    of_seed: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        of_seed[run.config.training.seed].append(run)
    seed_by_seed = len(of_seed) > 1 and min(map(len, of_seed.values())) > 1
    groups, each = (list(of_seed.values()), ", for each seed") if seed_by_seed else ([runs], "")

    def same(key: str) -> bool | None:
        found = [{run.manifest.get(key) for run in group} for group in groups]
        return None if any(None in values for values in found) else max(map(len, found)) == 1

    sentences = []
    for key, what in (
        ("initial_weights_sha256", "identical initial weights"),
        ("data_sha256", "identical training tokens"),
    ):
        unknown, yes, no = (
            f"Not known (no checkpoint): {what}.",
            f"{what.capitalize()}{each}.",
            f"NOT {what}{each}.",
        )
        sentences.append({None: unknown, True: yes, False: no}[same(key)])
    if same("step"):
        order = (
            "Identical order of the tokens"
            if same("order_sha256")
            else "NOT the same order of the tokens"
        )
        sentences.append(f"{order}{each}.")
    else:
        sentences.append("NOT the same number of steps.")
    if len({run.final.get("val/targets") for run in runs}) > 1:
        sentences.append(
            "NOT measured on as many validation targets: evaluate each with the same evaluation.tokens."
        )
    if len({run.variant for run in runs}) == len(runs):
        sentences.append(
            "One run of each variant: whether a difference is real takes several seeds (training.seed)."
        )
    return sentences
