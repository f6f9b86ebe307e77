"""What W&B makes of each metric: which are charts, and what of them is in the summary."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = re.compile(r"step|tokens|event|val/(targets|documents|bytes|words)")
"""Positions and counts: they are in the history, and are no charts."""

SUMMARIES = {
    re.compile(r"val/(loss|bpb|ppl_word|ppl@\d+(/stride)?)"): "min,last",
    re.compile(r"val/acc|icl/.*acc(@\d+)?"): "max,last",
    re.compile(r"train/memory_gb"): "max",
}
"""Keys -> what the summary has of them: the best and the last value. Of others it has the last."""


def define_axis(run: Any) -> None:
    """Let tokens be the horizontal axis of every chart."""
    run.define_metric("tokens", hidden=True)
    run.define_metric("*", step_metric="tokens")


def define(run: Any, key: str) -> None:
    """Define a metric before its first value, if it is not like most."""
    name = key.removeprefix("evaluate/")
    if key != "tokens" and HIDDEN.fullmatch(name):
        run.define_metric(key, step_metric="tokens", hidden=True)
    for pattern, summary in SUMMARIES.items():
        if pattern.fullmatch(name):
            run.define_metric(key, step_metric="tokens", summary=summary)
