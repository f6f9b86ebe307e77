"""Set runs side by side: a table, what differs in their configs, and a report to open in a browser.

    python -m momentum_gpt.compare runs=[runs/vanilla,runs/momentum]

The first run is what the others are measured against. Each is paired with it document by document and query by query; or, where
there are several training seeds of two variants, seed by seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from momentum_gpt.cli import Command
from momentum_gpt.comparison import icl, perplexity, seeds
from momentum_gpt.comparison.report.page import report
from momentum_gpt.comparison.runs import Run, common_ground, differences, load_runs
from momentum_gpt.comparison.table import NOTE, Grid, as_text


@dataclass
class CompareConfig:
    runs: list[str]
    """Run folders; the first is what the others are measured against."""
    output: str | None = None
    """The report's file. null: report.html beside the first run's folder."""


def compare(config: CompareConfig) -> None:
    runs = load_runs(config.runs)
    path = Path(config.output) if config.output else Path(config.runs[0]).parent / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    grids = list(paired(config.runs, runs))
    path.write_text(report(runs, grids))
    print(as_text(runs), *grids, *([NOTE] if grids else []), sep="\n\n")
    print("\nCommon ground:", *(f"\n  {sentence}" for sentence in common_ground(runs)), sep="")
    print("\nDifferences in the configuration:")
    for key, values in differences(runs).items():
        print(f"  {key}: {', '.join('-' if value is None else str(value) for value in values)}")
    print(f"\nreport: {path}")


def paired(folders: list[str], runs: list[Run]) -> Iterator[Grid]:
    """How sure the differences are: over training seeds where there are several, else of each run to the first."""
    (first, its), *others = seeds.variants(runs).items()
    by_seed = [(other, rows) for other, more in others if (rows := seeds.differences(its, more))]
    if by_seed:
        yield from (seeds.grid(first, other, rows) for other, rows in by_seed)
        return
    for folder, run in zip(folders[1:], runs[1:], strict=True):
        for kind in (perplexity, icl):
            if rows := kind.differences(folders[0], folder):
                yield kind.grid(runs[0].name, run.name, rows)


main = Command(compare, CompareConfig, "compare")


if __name__ == "__main__":
    main()
