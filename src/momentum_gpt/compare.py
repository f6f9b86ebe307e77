"""Compare runs: a table, their differences, and a report for the browser.

    momentum-gpt compare 'runs=[runs/vanilla,runs/momentum]'

The first run is the one that the others are compared with, document by
document and query by query; or seed by seed, if there are several training
seeds of two variants.

    momentum-gpt compare 'runs=[...]' average=3 'noise=[runs/n_0,runs/n_1]'
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from momentum_gpt.cli import Command
from momentum_gpt.core.config import PAPERS
from momentum_gpt.core.errors import require, require_at_least, require_choice


@dataclass
class CompareConfig:
    runs: list[str]
    """Folders of two or more runs. The others are compared with the first."""
    output: str | None = None
    """File of the report. null: `report.html` beside the first run's folder."""
    confounded: bool = False
    """Whether to compare runs that differ in more than their attention; this is then said first."""
    tuned: list[str] = field(default_factory=list)
    """Options that each variant has its own best value of, such as [optim.lr,optim.min_lr]."""
    published: str | None = None
    """Published results that are printed beside the runs': dai2023. null: none."""
    average: int = 1
    """Last evaluations of each run whose mean is compared, instead of the last one alone."""
    noise: list[str] = field(default_factory=list)
    """Folders of other runs, several seeds of a variant: the verdict then rests on their spread.

    They must agree with the compared runs in all but attention and seed."""
    wandb: bool = False
    """Whether to log what was found and the report to W&B, in the project of the first run."""

    def __post_init__(self) -> None:
        require_choice((None, *PAPERS), "published", self.published)
        require_at_least(1, "average", self.average)
        require(len(self.noise) != 1, "noise", self.noise, "two or more run folders, or none")


def compare(config: CompareConfig) -> None:
    """Write the report and print the comparison."""
    # Imported here so that --help loads neither scipy nor jinja2.
    from momentum_gpt.comparison.compare import compare_runs
    from momentum_gpt.tracking import log_comparison

    output = Path(config.output) if config.output else None
    tracking = log_comparison if config.wandb else None
    print(
        compare_runs(
            config.runs,
            output,
            config.confounded,
            config.tuned,
            tracking=tracking,
            published=config.published,
            average=config.average,
            noise=config.noise,
        )
    )


main = Command(compare, CompareConfig, "compare")


if __name__ == "__main__":
    main()
