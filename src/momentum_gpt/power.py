"""Say what a number of seeds can find, before they are trained.

    momentum-gpt power 'runs=[runs/vanilla_0,runs/vanilla_1]'
    momentum-gpt power noise=0.0013

From runs that differ in their seed alone, or from a standard deviation that
you know, it takes how much a result varies. It prints the difference that 2, 3,
... seeds of each variant find four times out of five at a level of 5%, and how
many seeds a difference takes: by this noise model, by Student's t, and by the
test of `sweep`, which may be looked at after each pair of runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from momentum_gpt.cli import Command
from momentum_gpt.core.config import require
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.terminal import table_text

if TYPE_CHECKING:
    from momentum_gpt.comparison.noise import Noise


@dataclass
class PowerConfig:
    runs: list[str] = field(default_factory=list)
    """Folders of finished runs: several seeds of one variant, or of several."""
    noise: float | None = None
    """Standard deviation of `metric` over seeds, instead of `runs`."""
    metric: str = "val/loss"
    """The metric, as metrics.jsonl has it."""
    differences: list[float] = field(default_factory=lambda: [0.0025, 0.005, 0.01, 0.02, 0.05])
    """Differences whose number of seeds is printed."""
    seeds: list[int] = field(default_factory=lambda: [2, 3, 4, 5, 6, 8, 10, 15, 20])
    """Numbers of seeds whose smallest difference is printed."""

    def __post_init__(self) -> None:
        if bool(self.runs) == (self.noise is not None):
            raise UserError("give either runs=[runs/A,runs/B,...] or noise=0.0013")
        if self.noise is not None:
            require(self.noise > 0, "noise", self.noise, "above 0")
        require(all(n >= 2 for n in self.seeds), "seeds", self.seeds, "2 or more, each")
        above = all(difference > 0 for difference in self.differences)
        require(above, "differences", self.differences, "above 0, each")


def power(config: PowerConfig) -> None:
    """Print what a number of seeds can find."""
    # Imported here so that --help does not load scipy.
    from momentum_gpt.comparison.noise import known_noise, noise_of
    from momentum_gpt.comparison.runs import load_runs

    if config.noise is not None:
        noise = known_noise(config.noise)
    else:
        runs, left_out = load_runs(config.runs)
        noise = noise_of(runs, config.metric)
        print("\n".join(left_out), end="\n" * bool(left_out))

    print(describe(noise, config.metric), end="\n\n")
    print(by_seeds(noise, config.seeds), end="\n\n")
    print(by_differences(noise, config.differences))


def describe(noise: Noise, metric: str) -> str:
    """Return what is known of the spread, and how sure it is."""
    lines = [f"{metric} varies by {noise.of_run:.3g} from seed to seed (standard deviation)"]
    if noise.freedom < 1e9:
        lines[0] += f", from {noise.freedom:.0f} degrees of freedom"
    how = "measured" if noise.is_paired else "if equal seeds gain nothing"
    lines.append(f"the difference of a pair varies by {noise.of_pair:.3g}, {how}")
    if noise.same_spread is not None:
        verdict = "may be the same" if noise.same_spread >= 0.05 else "is NOT the same"
        lines.append(
            f"the spread {verdict} in all variants (Bartlett's p = {noise.same_spread:.2g})"
        )
    return "\n".join(lines)


def by_seeds(noise: Noise, seeds: list[int]) -> str:
    """Return the smallest difference that is found, by the number of seeds."""
    rows = []
    for pairs in seeds:
        found = noise.detectable(pairs), noise.detectable_by_t(pairs)
        rows.append([str(pairs), *(f"{difference:.2g}" for difference in found)])
    head = ["seeds", "noise model", "Student's t"]
    return table_text("The difference that is found four times out of five:", head, rows)


def by_differences(noise: Noise, differences: list[float]) -> str:
    """Return the number of seeds that each difference takes."""
    from momentum_gpt.evaluation.statistics import pairs_needed

    rows = []
    for difference in differences:
        by_model = next((n for n in range(1, 10**4) if noise.detectable(n) <= difference), None)
        by_t = pairs_needed(difference, noise.detectable_by_t(2), 2)
        looking = noise.pairs_when_looking(difference)
        counts = [str(n) if n else "many" for n in (by_model, by_t, looking)]
        rows.append([f"{difference:g}", *counts])
    head = ["difference", "noise model", "Student's t", "looking each time"]
    return table_text("Seeds of each variant that it takes:", head, rows)


main = Command(power, PowerConfig, "power")


if __name__ == "__main__":
    main()
