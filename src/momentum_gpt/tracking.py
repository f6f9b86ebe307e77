"""Metrics: `metrics.jsonl` always, and W&B beside it as a view of the file.

The training loop only puts records into queues. A thread writes the file, and the W&B client runs
in a process of its own, `python -m momentum_gpt.tracking`. Whatever happens to a disk, a server or
the client, it cannot delay or end the training, and it ends soon after it.

The only file that imports wandb.
"""

from __future__ import annotations

import errno
import io
import json
import netrc
import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

from momentum_gpt.core.config import TrainConfig
from momentum_gpt.core.errors import MachineError
from momentum_gpt.core.files import read_json_lines, write_text

WRITTEN_WITHIN = 5.0
"""Seconds that a checkpoint, or the end of a run, waits for a disk that does not answer."""

RETRY_EVERY = 5.0
"""Seconds between two attempts to write records that did not fit on the disk."""

SERVER_ANSWERS_WITHIN = 3.0
"""Seconds that a W&B server has to answer its first request; after that the run is offline."""

UPLOADED_WITHIN = 10.0
"""Seconds that a W&B server has to accept a new run, and to take the rest of it at its end."""

CLOSED_WITHIN = 25.0
"""Seconds that the W&B client has at the end of a run; after that it is killed."""

Item = bytes | threading.Event | None
"""What the thread of a MetricsFile is handed: a line, what waits for the lines so far, the end."""

TRY_AGAIN = threading.Event()
"""Nobody waits for this one: it is time to try again what could not be written."""

QUIET = {"WANDB_ERROR_REPORTING": "false"}
"""For the W&B client, whose reports about itself wait for a server that does not answer."""

END = "end"
"""The line after the last record, which is missing if the training process was killed."""


class MetricsNotWrittenError(MachineError):
    """Records of `metrics.jsonl` that the disk did not take until the end of the run."""


class Tracker:
    """Write each record to `metrics.jsonl`, and show it on W&B.

    Only the main rank has one.

    Args:
        config: of the run; logged to W&B as it is.
        step: the step that the run starts from. Later lines of an earlier attempt are dropped,
            because they will be written again.
    """

    def __init__(self, config: TrainConfig, step: int) -> None:
        path = config.run_dir / "metrics.jsonl"
        kept = [record for record in read_json_lines(path) if record["step"] <= step]
        self.file = MetricsFile(path, kept)
        self.dashboard = None
        if config.tracking.wandb != "disabled":
            self.dashboard = Dashboard(config, kept)

    def log(self, step: int, tokens: int, metrics: dict[str, float]) -> None:
        """Add one record. This neither waits nor fails, whatever the disk and the server do."""
        record = {"step": step, "tokens": tokens, **metrics}
        self.file.put(record)
        if self.dashboard:
            self.dashboard.put(record)

    def flush(self) -> None:
        """Wait until the records so far are in the file, at most for WRITTEN_WITHIN seconds.

        To be called before a checkpoint is written: a run that resumes from it does not write
        them again.
        """
        self.file.flush()

    def close(self) -> str | None:
        """Finish both, and return what to tell the user about W&B.

        Raises:
            MetricsNotWrittenError: some records are not in the file.
        """
        missing = self.file.close()
        message = self.dashboard.close() if self.dashboard else None
        if missing:
            if message:
                warn(message)
            raise MetricsNotWrittenError(
                f"{missing} record(s) are missing in {self.file.path}, which could not be written: "
                "free disk space or make the folder writable, and run the same command again, "
                "which computes again what comes after the last checkpoint"
            )
        return message


def show_afterwards(config: TrainConfig, records: list[dict[str, Any]]) -> str | None:
    """Hand W&B what was measured after training, on the same axis.

    Returns:
        What to tell the user about W&B.
    """
    if config.tracking.wandb == "disabled":
        return None
    return Dashboard(config, records, afterwards=True).close()


def show_again(config: TrainConfig) -> str | None:
    """Make the W&B run of a complete run again from `metrics.jsonl`, if it lacks something.

    Returns:
        What to tell the user about W&B; None if nothing is missing.
    """
    if config.tracking.wandb == "disabled":
        return None
    records = read_json_lines(config.run_dir / "metrics.jsonl")
    folders = sorted(folders_of(config.run_dir), key=lambda folder: folder.name.split("-")[-2])
    if folders and is_whole(folders[-1], len(records)):
        return None
    return Dashboard(config, records).close()


class MetricsFile:
    """A file with one JSON object a line, written by a thread of its own.

    A line is written whole or not at all. What cannot be written is kept in memory, and tried again
    every RETRY_EVERY seconds.

    Args:
        path: of the file.
        kept: the records that it begins with; others that it holds are dropped.
    """

    def __init__(self, path: Path, kept: Iterable[dict[str, Any]]) -> None:
        self.path = path
        self.kept = kept
        self.items: queue.Queue[Item] = queue.Queue()
        self.waiting: deque[bytes] = deque()
        self.descriptor: int | None = None
        self.size = 0
        self.retry_at = 0.0
        self.is_told = False
        self.thread = threading.Thread(target=self._work, daemon=True, name="metrics")
        self.thread.start()

    def put(self, record: dict[str, Any]) -> None:
        """Add a record, to be written soon."""
        self.items.put(line_of(record).encode())

    def flush(self) -> None:
        """Wait until the thread has tried to write the records so far."""
        tried = threading.Event()
        self.items.put(tried)
        tried.wait(WRITTEN_WITHIN)

    def close(self) -> int:
        """Write what is left, and return the number of records that could not be written."""
        self.items.put(None)
        self.thread.join(WRITTEN_WITHIN)
        lines = [*self.waiting, *self.items.queue]
        return sum(isinstance(line, bytes) for line in lines)

    def _work(self) -> None:
        self._try_to_write()
        item: Item = TRY_AGAIN
        while item is not None:
            item = self._next()
            if isinstance(item, bytes):
                self.waiting.append(item)
            # Somebody waits for the others.
            if time.monotonic() >= self.retry_at or not isinstance(item, bytes):
                self._try_to_write()
            if isinstance(item, threading.Event):
                item.set()
        if self.descriptor is not None:
            os.close(self.descriptor)

    def _next(self) -> Item:
        """Wait for the next item, or for the time of the next attempt to write."""
        try:
            return self.items.get(timeout=RETRY_EVERY if self.waiting else None)
        except queue.Empty:
            return TRY_AGAIN

    def _try_to_write(self) -> None:
        try:
            self._write()
        except MachineError as error:  # the file could not be made
            self.retry_at = time.monotonic() + RETRY_EVERY
            self._tell(error.__cause__)
        except OSError as error:
            self.retry_at = time.monotonic() + RETRY_EVERY
            self._tell(error)

    def _write(self) -> None:
        if self.descriptor is None:
            self.descriptor = self._open()
        while self.waiting:
            self._append(self.waiting[0])
            os.fsync(self.descriptor)
            self.waiting.popleft()

    def _open(self) -> int:
        write_text(self.path, "".join(map(line_of, self.kept)))
        descriptor = os.open(self.path, os.O_WRONLY)
        self.size = os.fstat(descriptor).st_size
        return descriptor

    def _append(self, line: bytes) -> None:
        assert self.descriptor is not None
        # At the end of the whole lines: the next attempt overwrites what a full disk cut short.
        written = os.pwrite(self.descriptor, line, self.size)
        if written < len(line):
            os.ftruncate(self.descriptor, self.size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += written

    def _tell(self, error: BaseException | None) -> None:
        if not self.is_told:
            self.is_told = True
            warn(
                f"{self.path} cannot be written ({getattr(error, 'strerror', error)}): "
                "the training goes on, and its metrics are kept in memory until there is room"
            )


class Dashboard:
    """A W&B run, logged by the W&B client in a process of its own.

    Without a login, without an answer from the server, or with any error of the client, the run is
    logged offline in `runs/NAME/wandb/`. The W&B run of a training holds the whole history, also
    after a resume: it takes the place of the one before, on the server and in the folder.

    Args:
        config: of the run.
        earlier: records that come first.
        afterwards: a second W&B run beside that of the training, for what was measured later.
    """

    def __init__(
        self,
        config: TrainConfig,
        earlier: Iterable[dict[str, Any]],
        afterwards: bool = False,
    ) -> None:
        self.config = config
        self.afterwards = afterwards
        self.lines: queue.Queue[str] = queue.Queue()
        for record in earlier:
            self.put(record)
        self.process: subprocess.Popen[str] | None = None
        self.message = ""
        self.thread = threading.Thread(target=self._work, daemon=True, name="wandb")
        self.thread.start()

    def put(self, record: dict[str, Any]) -> None:
        """Add a record, to be shown soon."""
        self.lines.put(json.dumps(record))

    def close(self) -> str:
        """Finish the run, and return what to tell the user about it."""
        self.lines.put(END)
        self.thread.join(CLOSED_WITHIN)
        if self.process:
            self.process.kill()
            self.process.wait()
        return self.message or self._without(f"it did not finish within {CLOSED_WITHIN:.0f} s")

    def _work(self) -> None:
        """Start the client's process, and listen to it."""
        try:
            arguments = json.dumps([self.config.tracking.wandb, self._arguments()])
            self.process = process = subprocess.Popen(
                [sys.executable, "-m", "momentum_gpt.tracking"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                # Signals that are meant for the training do not reach it.
                start_new_session=True,
            )
        except OSError as error:
            self.message = self._without(str(error))
            return

        threading.Thread(target=self._send, args=(process.stdin, arguments), daemon=True).start()
        for answer in process.stdout or ():
            kind, text = json.loads(answer)
            if kind == "warning":
                warn(text)
            else:
                self.message = self._without(text) if kind == "error" else text
                return
        self.message = self._without("its process ended")

    def _send(self, client: TextIO, line: str) -> None:
        with suppress(OSError):  # the client has ended
            while line != END:
                print(line, file=client, flush=True)
                line = self.lines.get()
            print(END, file=client, flush=True)

    def _without(self, reason: str) -> str:
        """Return what to tell the user if W&B does not have the records."""
        again = "the same command with again=true" if self.afterwards else "the same command"
        return f"W&B stopped ({reason}); nothing else is lost, and {again} logs it again"

    def _arguments(self) -> dict[str, Any]:
        """Return what wandb.init is told, apart from the mode and the settings."""
        tracking = self.config.tracking
        run_dir = self.config.run_dir
        arguments = {
            "project": tracking.project,
            "group": tracking.group,
            "tags": [self.config.attention["name"], *tracking.tags],
            "config": asdict(self.config),
            "dir": str(run_dir),
        }
        if self.afterwards:
            return arguments | {"name": f"{self.config.name}, evaluated", "job_type": "evaluate"}
        return arguments | {"name": self.config.name, "job_type": "train", "id": run_id(run_dir)}


def line_of(record: dict[str, Any]) -> str:
    """Return a record as a line of JSON."""
    return json.dumps(record) + "\n"


def warn(text: str) -> None:
    """Show a warning: on stderr, above the progress bar if there is one."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def run_id(run_dir: Path) -> str:
    """Return the W&B id of the run.

    It is drawn once and kept in the run's folder, so that a resumed run stays one run.
    """
    path = run_dir / "wandb" / "run_id"
    if not path.is_file():
        write_text(path, secrets.token_hex(4))
    return path.read_text()


def folders_of(run_dir: Path) -> list[Path]:
    """Return the folders of the training's W&B run; those of evaluations have other ids."""
    if not (run_dir / "wandb" / "run_id").is_file():
        return []
    return list((run_dir / "wandb").glob(f"*run-*-{run_id(run_dir)}"))


def is_whole(folder: Path, n_records: int) -> bool:
    """Return whether a W&B run on this disk holds all records and its end."""
    client = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json"]
    done = subprocess.run(
        [*client, str(folder.resolve())],
        cwd=folder,
        env=os.environ | QUIET,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        summary = json.loads(done.stdout)
    except ValueError:
        return False
    n_logged = summary.get("step", -1) + 1
    return summary.get("state") != "running" and n_logged == n_records


# What follows runs in the client's process.


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
        lines: one JSON value a line: the wanted mode and the arguments of wandb.init, then the
            records; then END.
        answers: gets one `[kind, text]` a line: any number of warnings, then the message for the
            user, or the error that prevented it.
    """

    def tell(kind: str, text: str) -> None:
        with suppress(OSError):  # the training was killed
            print(json.dumps([kind, text]), file=answers, flush=True)

    try:
        mode, arguments = json.loads(lines.readline())
        run = start(mode, arguments, lambda text: tell("warning", text))
        n_records, is_ended = log_all(run, lines)
        is_uploaded = finish(run, exit_code=0 if is_ended else 1)

        folder = Path(run.dir).parent
        if not is_whole(folder, n_records):
            raise OSError(f"its copy in {folder} is not complete; is the disk full?")
        if arguments["job_type"] == "train":
            remove_others(folder)
    except Exception as error:  # whatever it is, the user is told in one line
        tell("error", one_line(error))
    else:
        tell("message", describe(run, folder, is_uploaded))


def start(mode: str, arguments: dict[str, Any], warn: Callable[[str], None]) -> Any:
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
    )
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


def wait_for_server(url: str) -> None:
    """Raise an OSError unless there is some answer: whether it is a good one, the client sees."""
    with suppress(urllib.error.HTTPError):
        urllib.request.urlopen(url, timeout=SERVER_ANSWERS_WITHIN).close()


def log_all(run: Any, lines: Iterable[str]) -> tuple[int, bool]:
    """Log records until their end; return how many there were, and whether END was among them."""
    run.define_metric("tokens", hidden=True)
    run.define_metric("*", step_metric="tokens")
    n_records = 0
    for line in lines:
        if not line.endswith("\n"):
            break  # the training was killed within a line
        if line.strip() == END:
            return n_records, True
        run.log(json.loads(line))
        n_records += 1
    return n_records, False


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


def remove_others(folder: Path) -> None:
    """Remove earlier copies of the same W&B run: this one holds all that they held."""
    _, run_id = folder.name.rsplit("-", 1)
    for other in folder.parent.glob(f"*run-*-{run_id}"):
        if other.name != folder.name:
            shutil.rmtree(other, ignore_errors=True)


def describe(run: Any, folder: Path, is_uploaded: bool) -> str:
    """Return where the user finds the run."""
    if is_uploaded:
        return f"W&B: {run.url}"
    if run.offline:
        return f"W&B, offline; to upload: wandb sync {folder}"
    return (
        f"W&B: {run.url} lacks the end of the run; to upload: wandb sync --include-online {folder}"
    )


def is_logged_in(wandb: Any) -> bool:
    """Return whether there is a key for the W&B server: in the environment, netrc or settings."""
    settings = wandb.setup().settings
    if os.environ.get("WANDB_API_KEY") or settings.api_key:
        return True

    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    host = urlsplit(settings.base_url).hostname
    try:
        return netrc.netrc(file).authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def server_and_login() -> tuple[str, bool]:
    """Return the address of the W&B server, and whether there is a key for it."""
    import wandb

    return wandb.setup().settings.base_url, is_logged_in(wandb)


def one_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return next(iter(str(error).splitlines()), type(error).__name__)


if __name__ == "__main__":
    main()
