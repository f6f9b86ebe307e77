"""What was run: what a run's folder says of its machine, its time, its versions and its hashes."""

from __future__ import annotations

from collections.abc import Sequence

from momentum_gpt.comparison.runs import Run
from momentum_gpt.comparison.table import Table
from momentum_gpt.core import outcome

SHORT = 12
"""Digits of a hash that are shown."""


def provenance(runs: Sequence[Run]) -> Table:
    """Return a row for each run; a column that no folder knows anything of is left out."""
    rows = [_facts(run) for run in runs]
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[row.get(name, "-") for name in names] for row in rows]
    return Table("What was run", names, cells)


def _facts(run: Run) -> dict[str, str]:
    facts = {"run": run.name}
    end = outcome.read(run.folder)
    if end is not None:
        facts["ended"] = end.time

    manifest = run.manifest
    if manifest is None:
        return facts
    facts["steps"] = f"{manifest.step:,}"
    facts["ranks"] = str(manifest.world_size)
    facts["precision"] = manifest.precision
    facts["machine"] = manifest.machine or "-"
    facts |= manifest.versions
    facts["commit"] = manifest.commit or "-"
    facts["code"] = " ".join(code[:SHORT] for code in manifest.code) or "-"
    facts["initial weights"] = manifest.initial_weights_sha256[:SHORT]
    facts["training tokens"] = manifest.data_sha256[:SHORT]
    facts["their order"] = manifest.order_sha256[:SHORT]
    facts["tokenizer"] = manifest.tokenizer_sha256[:SHORT]
    return facts
