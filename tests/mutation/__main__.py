"""Measures how many small mistakes in the code the tests find: make mutation.

    make mutation
    make mutation OPTIONS="--only data/packing.py training --mutants 40 --minutes 20"

Each mistake is tried in a copy of the checkout, with the tests of its package. It is killed if one
of them fails. A survivor needs a test, or a line in explained.toml that says why none can fail.
"""

from __future__ import annotations

import argparse
import json
import queue
import tempfile
import time
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.mutants import Mutant, draw, find_sites
from tests.mutation.trials import KILLED, PACKAGE, SURVIVED, TIMEOUT, Copy, suite_of

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ["training", "evaluation", "comparison", "data", "models/attention.py"]
EXPLAINED = "explained"
OUTCOMES = [KILLED, TIMEOUT, SURVIVED, EXPLAINED]


@dataclass(frozen=True)
class Trial:
    mutant: Mutant
    outcome: str
    seconds: float
    reason: str | None = None

    @property
    def package(self) -> str:
        return Path(self.mutant.file).relative_to(PACKAGE).parts[0]


def main() -> None:
    arguments = parsed()
    files = files_of(arguments.only)
    sites = find_sites(ROOT, files)
    mutants = draw(sites, arguments.mutants, arguments.seed)
    print(f"{len(mutants)} mutants at {len(sites):,} places")

    tests = {file: suite_of(ROOT, file, arguments.quick) for file in files}
    trials = run(mutants, tests, arguments.jobs, 60 * arguments.minutes)

    print(table(trials))
    for trial in trials:
        if trial.outcome == SURVIVED:
            print(f"\n{trial.mutant.diff()}")
    if len(trials) < len(mutants):
        print(f"\n{len(trials)} of the {len(mutants)} drawn were tried in the time there was")

    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record(trials, arguments.seed), indent=1) + "\n")
    print(f"\nwritten to {arguments.output}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make mutation", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=SOURCES, help="parts of src/momentum_gpt")
    parser.add_argument("--mutants", type=int, default=80, help="how many to draw")
    parser.add_argument("--minutes", type=float, default=50, help="no mutant starts after these")
    parser.add_argument("--quick", action="store_true", help="only the tests that mirror a file")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing")
    parser.add_argument("--jobs", type=int, default=2, help="how many are tried at a time")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "mutation.json")
    return parser.parse_args()


def files_of(parts: list[str]) -> list[str]:
    """Return the Python files of parts of the package, relative to the root of the checkout."""
    files: list[Path] = []
    for part in parts:
        path = ROOT / PACKAGE / part
        files += [path] if path.is_file() else path.rglob("*.py")
    names = [str(file.relative_to(ROOT)) for file in files if file.name != "__init__.py"]
    return sorted(names)


def run(
    mutants: list[Mutant], tests: dict[str, list[str]], jobs: int, seconds: float
) -> list[Trial]:
    """Try mutants, several at a time, until the seconds have passed; report each.

    Args:
        mutants: the order in which they are tried.
        tests: the tests of each file.
        jobs: how many are tried at a time.
        seconds: after these, no trial begins.
    """
    start = time.monotonic()
    reasons = explanations()
    copies: queue.Queue[Copy] = queue.Queue()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        for number in range(jobs):
            copies.put(Copy(ROOT, Path(folder) / str(number)))

        print("the tests without a mutant ...", flush=True)
        needed = set[str]().union(*(tests[mutant.file] for mutant in mutants))
        limit = 20 + 5 * copies.queue[0].slowest_test(sorted(needed), jobs)

        def attempt(mutant: Mutant) -> Trial | None:
            began = time.monotonic()
            if began - start > seconds:
                return None

            copy = copies.get()
            outcome = copy.try_mutant(mutant, tests[mutant.file], limit)
            copies.put(copy)

            reason = reasons.get(content(mutant.file, mutant.removed, mutant.added))
            if outcome == SURVIVED and reason:
                outcome = EXPLAINED
            took = time.monotonic() - began
            shown = mutant.diff() if outcome == SURVIVED else mutant.place
            print(f"{outcome:9} {took:4.0f} s  {shown}", flush=True)
            return Trial(mutant, outcome, took, reason)

        with ThreadPoolExecutor(jobs) as pool:
            return [trial for trial in pool.map(attempt, mutants) if trial]


def explanations() -> dict[str, str]:
    """Return why mutants survive whatever is tested, by their content."""
    file = Path(__file__).with_name("explained.toml")
    entries = tomllib.loads(file.read_text("utf-8"))["mutant"]
    return {content(e["file"], e["removed"], e["added"]): e["reason"] for e in entries}


def content(file: str, removed: object, added: object) -> str:
    """Name a mutant by the lines that differ, wherever in the file they stand."""
    return json.dumps([file, removed, added])


def table(trials: list[Trial]) -> str:
    """Return the outcomes by package, as Markdown."""
    lines = [
        "| package | mutants | killed | timeouts | survived | explained | score |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    packages = sorted({trial.package for trial in trials})
    for package in [*packages, "all"]:
        chosen = [trial for trial in trials if package in ("all", trial.package)]
        counts = Counter(trial.outcome for trial in chosen)
        cells = [package, str(len(chosen)), *(str(counts[outcome]) for outcome in OUTCOMES)]
        lines.append(f"| {' | '.join(cells)} | {score(chosen):.1%} |")
    return "\n".join(lines)


def score(trials: list[Trial]) -> float:
    """Return the share that the tests find of what they can find."""
    findable = [trial for trial in trials if trial.outcome != EXPLAINED]
    found = [trial for trial in findable if trial.outcome != SURVIVED]
    return len(found) / max(1, len(findable))


def record(trials: list[Trial], seed: int) -> dict[str, object]:
    rows = [
        {
            "file": trial.mutant.file,
            "line": trial.mutant.line,
            "removed": trial.mutant.removed,
            "added": trial.mutant.added,
            "outcome": trial.outcome,
            "seconds": round(trial.seconds, 1),
            "reason": trial.reason,
        }
        for trial in trials
    ]
    return {"seed": seed, "score": score(trials), "mutants": rows}


if __name__ == "__main__":
    main()
