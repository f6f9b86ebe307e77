"""Set runs side by side: a table, what differs in their configs, and a report to open in a browser.

    python -m momentum_gpt.compare runs=[runs/vanilla,runs/momentum]

The first run is what the others are measured against.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from momentum_gpt import entry
from momentum_gpt.comparison import icl
from momentum_gpt.comparison.report import report
from momentum_gpt.comparison.runs import common_ground, differences, load_runs
from momentum_gpt.comparison.table import as_text


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
    path.write_text(report(runs))
    print(as_text(runs))
    for folder, run in zip(config.runs[1:], runs[1:], strict=True):
        if rows := icl.differences(config.runs[0], folder):
            print(f"\nFew-shot tasks, {run.name} against {runs[0].name}:\n{icl.as_text(runs[0].name, run.name, rows)}")
    print("\nCommon ground:", *(f"\n  {sentence}" for sentence in common_ground(runs)), sep="")
    print("\nDifferences in the configuration:")
    for key, values in differences(runs).items():
        print(f"  {key}: {', '.join('-' if value is None else str(value) for value in values)}")
    print(f"\nreport: {path}")


def main() -> None:
    entry.run(compare, CompareConfig, "compare")


if __name__ == "__main__":
    main()
