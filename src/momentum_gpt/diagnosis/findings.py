"""What a check finds, and how checks are run: side by side, within a time limit, never crashing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

OK = "ok"
WARNING = "warning"
BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    state: str
    """ok | warning | bad; only "bad" means that a run would fail or could be lost."""
    text: str
    """What was found, with its value."""
    remedy: str = ""
    """What to do; "" where there is nothing to do."""


Check = Callable[[], list[Finding]]


def check_all(checks: dict[str, Check], seconds: float) -> tuple[dict[str, list[Finding]], bool]:
    """Run checks side by side.

    Args:
        checks: subject -> check.
        seconds: how long they may take, all together. What a later one finds is not waited for.

    Returns:
        Subject -> findings, in the order of the checks; and whether all have ended.
    """
    found: dict[str, list[Finding]] = {}

    def run(subject: str, check: Check) -> None:
        try:
            findings = check()
        except Exception as error:  # the report goes on without it
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            findings = [Finding(WARNING, f"could not be checked ({reason})")]
        found[subject] = findings

    threads = []
    for subject, check in checks.items():
        # As a daemon, it does not keep the program from ending: a file server may never answer.
        thread = threading.Thread(target=run, args=(subject, check), name=subject, daemon=True)
        thread.start()
        threads.append(thread)

    until = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    late = [Finding(WARNING, f"not finished within {seconds:g} s, so nothing is known of it")]
    have_ended = not any(thread.is_alive() for thread in threads)
    return {subject: found.get(subject, late) for subject in checks}, have_ended


def report(found: dict[str, list[Finding]]) -> str:
    """Return a line for each finding: state, subject, text and remedy."""
    width = max(map(len, found))
    lines = []
    for subject, findings in found.items():
        for finding in findings:
            remedy = f": {finding.remedy}" if finding.remedy else ""
            lines.append(f"{finding.state:<8} {subject:<{width}} {finding.text}{remedy}")
    return "\n".join(lines)


def count(found: dict[str, list[Finding]], state: str) -> int:
    """Return how many findings have a state."""
    states = [finding.state for findings in found.values() for finding in findings]
    return states.count(state)
