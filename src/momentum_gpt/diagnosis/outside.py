"""Checks of what is outside of this process: the W&B server, other ranks and the GPUs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request

from momentum_gpt.diagnosis.findings import BAD, OK, WARNING, Finding

STAYS_LOCAL = "metrics.jsonl is complete in any case"


def dashboard() -> list[Finding]:
    """Find out whether runs would be seen on W&B."""
    from momentum_gpt.tracking.login import SERVER_ANSWERS_WITHIN, server_and_login

    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "disabled"):
        return [Finding(OK, f"WANDB_MODE={mode}: runs are not uploaded; {STAYS_LOCAL}")]
    url, is_logged_in = server_and_login()
    if not is_logged_in:
        text = f"not logged in to {url}: runs are logged offline"
        return [Finding(WARNING, text, "wandb login, or tracking.wandb=disabled")]
    try:
        urllib.request.urlopen(url, timeout=SERVER_ANSWERS_WITHIN).close()
    except urllib.error.HTTPError:  # an answer, too
        pass
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        text = f"{url} does not answer within {SERVER_ANSWERS_WITHIN:g} s ({reason})"
        return [Finding(WARNING, f"{text}: runs are logged offline", STAYS_LOCAL)]
    return [Finding(OK, f"logged in, and {url} answers")]


class Probe:
    """The program `probe.py`, which lets ranks talk and looks at the GPUs."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def check(self) -> list[Finding]:
        """Run the program to its end; return what it found."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "momentum_gpt.diagnosis.probe"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        out, errors = self.process.communicate()
        findings = [Finding(*json.loads(line)) for line in out.splitlines()]
        if self.process.returncode:
            last = errors.strip().splitlines()[-1:] or [f"exit code {self.process.returncode}"]
            remedy = "see it with: python -m momentum_gpt.diagnosis.probe"
            findings.append(Finding(BAD, f"PyTorch does not work: {last[0]}", remedy))
        return findings

    def stop(self) -> None:
        """Kill the program and its ranks if they have not ended."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
