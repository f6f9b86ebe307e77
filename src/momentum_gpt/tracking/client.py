"""The process of the W&B client: what it is handed on standard input, it logs."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from momentum_gpt.tracking.comparison_log import add_comparison, save_workspace
from momentum_gpt.tracking.copies import QUIET, is_whole, remove_others
from momentum_gpt.tracking.login import is_logged_in, wait_for_server
from momentum_gpt.tracking.run_log import RunLog
from momentum_gpt.tracking.warning import one_line

UPLOADED_WITHIN = 10.0
"""Seconds that a W&B server has to accept a new run, and to take the rest of it at its end."""


def main() -> None:
    """Be the client's process of a Dashboard."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        # It ends when its input does, and then has something to finish.
        signal.signal(number, signal.SIG_IGN)
    os.environ.update(QUIET)

    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    log_to_wandb(sys.stdin, answers)


def log_to_wandb(lines: TextIO, answers: TextIO) -> None:
    """Log a run with the W&B client.

    Args:
        lines: one JSON value a line: the task, then the records; then END. The task has the `kind`
            (run or comparison), the wanted `mode`, and the `arguments` of wandb.init; a run has its
            `run_dir`, and a comparison what `log_comparison` is given.
        answers: gets one `[kind, text]` a line: any number of warnings, then the message for the
            user, or the error that prevented it.
    """

    def tell(kind: str, text: str) -> None:
        with suppress(OSError):  # the training was killed
            print(json.dumps([kind, text]), file=answers, flush=True)

    try:
        task = json.loads(lines.readline())
        warn = partial(tell, "warning")
        run = start(task, warn)
        n_rows, is_ended = log(run, task, lines, warn)
        is_uploaded = finish(run, exit_code=0 if is_ended else 1)

        folder = Path(run.dir).parent
        if not is_whole(folder, n_rows):
            raise OSError(f"its copy in {folder} is not complete; is the disk full?")
        remove_others(folder)
    except Exception as error:  # whatever it is, the user is told in one line
        tell("error", one_line(error))
    else:
        message = describe(run, folder, is_uploaded)
        if is_uploaded and task["kind"] == "comparison":
            message += f"\n{save_workspace(run, task)}"
        tell("message", message)


def start(task: dict[str, Any], warn: Callable[[str], None]) -> Any:
    """Return a W&B run in the wanted mode, or else offline."""
    import wandb

    settings = wandb.Settings(
        console="off",
        silent=True,
        init_timeout=UPLOADED_WITHIN,
        finish_timeout=UPLOADED_WITHIN,
        finish_timeout_raises=True,
        # Seconds of the offline copy that a killed run may lose.
        x_transaction_log_flush_interval=2,
        # Its charts of CPU and memory are those of the training.
        x_stats_pid=os.getppid(),
        x_disable_stats=not task.get("is_in_training", False),
    )
    mode, arguments = task["mode"], task["arguments"]
    if mode == "auto":
        # W&B's own variable counts, too: a login does not overrule it.
        asked_for_offline = os.environ.get("WANDB_MODE") in ("offline", "disabled")
        mode = "online" if is_logged_in(wandb) and not asked_for_offline else "offline"
    if mode == "online":
        try:
            wait_for_server(wandb.setup().settings.base_url)
            # Without `resume`, the run takes the place of one with the same id.
            return wandb.init(mode="online", settings=settings, **arguments)
        except Exception as error:
            warn(f"W&B is not reachable ({one_line(error)}): this run is logged offline")
            # The client keeps the id of a run that it could not start.
            wandb.teardown()
    return wandb.init(mode="offline", settings=settings, **arguments)


def log(
    run: Any, task: dict[str, Any], lines: Iterable[str], warn: Callable[[str], None]
) -> tuple[int, bool]:
    """Log all that there is; return the rows of the history, and whether the end was seen."""
    # Files of tables and artifacts lie in the copy until they are uploaded, and go with it.
    os.environ["WANDB_DATA_DIR"] = str(Path(run.dir).parent.resolve())
    whole = RunLog(run)
    is_ended = whole.log_all(lines)
    if task["kind"] == "run":
        run_dir = Path(task["run_dir"])
        whole.add_evaluations(run_dir)
        whole.add_facts()
        try:
            whole.add_tables(run_dir)
        except Exception as error:  # tables ask the server more than the rest does
            warn(f"W&B has no tables of this run ({one_line(error)})")
    else:
        add_comparison(run, task)
    return whole.n_rows, is_ended


def finish(run: Any, exit_code: int) -> bool:
    """Finish the run; return whether the server has everything."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            run.finish(exit_code=exit_code)
    except TimeoutError:
        return False
    # A server that refused the upload shows in the client's advice alone.
    return not run.offline and "wandb sync" not in said.getvalue()


def describe(run: Any, folder: Path, is_uploaded: bool) -> str:
    """Return where the user finds the run."""
    if is_uploaded:
        return f"W&B: {run.url}"
    if run.offline:
        return f"W&B, offline; to upload: wandb sync {folder}"
    return (
        f"W&B: {run.url} lacks the end of the run; to upload: wandb sync --include-online {folder}"
    )
