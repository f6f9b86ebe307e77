"""Watch runs in the browser while they are trained.

    momentum-gpt dashboard
    momentum-gpt dashboard 'runs=[runs/vanilla,runs/momentum]' port=8400

The page is that of `compare`, and follows the runs' metrics.jsonl. It is
served to this machine alone. On a remote one, forward the port:

    ssh -L 8400:127.0.0.1:8400 HOST
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from momentum_gpt.cli import Command
from momentum_gpt.core.errors import require

if TYPE_CHECKING:
    from momentum_gpt.comparison.report.live import Conclusions
    from momentum_gpt.comparison.runs import Run


@dataclass
class DashboardConfig:
    runs: list[str] = field(default_factory=lambda: ["runs"])
    """Run folders, or folders of them."""
    port: int = 8400
    """Port on this machine, 0 to 65535. 0: any that is free."""


def dashboard(config: DashboardConfig) -> None:
    """Serve the page until Ctrl-C."""
    require(0 <= config.port <= 65535, "port", config.port, "0 to 65535")
    # Imported here so that --help loads neither scipy nor aiohttp.
    from momentum_gpt.comparison.report.live import Follower
    from momentum_gpt.comparison.report.server import serve

    follower = Follower([Path(folder) for folder in config.runs], conclude)
    with suppress(KeyboardInterrupt):
        serve(follower, config.port)


def conclude(finished: Sequence[Run]) -> Conclusions:
    """Return what `compare` says of finished runs."""
    from momentum_gpt.comparison.certificate import common_ground
    from momentum_gpt.comparison.families import compare_pairs
    from momentum_gpt.core.terminal import ignore_progress

    return compare_pairs(finished, ignore_progress), common_ground(finished)


main = Command(dashboard, DashboardConfig, "dashboard")


if __name__ == "__main__":
    main()
