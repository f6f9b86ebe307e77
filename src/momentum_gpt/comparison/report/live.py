"""Run folders as they grow: what `dashboard` shows of runs that go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from momentum_gpt.comparison.report.curves import SPEED
from momentum_gpt.comparison.report.drawn import final
from momentum_gpt.comparison.report.page import report
from momentum_gpt.comparison.runs import Run, load_run, measured_alike
from momentum_gpt.comparison.table import Table
from momentum_gpt.comparison.verdict import verdicts
from momentum_gpt.core import outcome
from momentum_gpt.core.config import TrainConfig, read_config
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import record_of

KEPT = ("step", "tokens", "train/loss", SPEED)
"""What is kept of a line without an evaluation: 50 runs of 50,000 lines must fit in memory."""

WATCHED = ("config.yaml", "outcome.json", "checkpoints/latest", "evaluations")
"""Files and folders whose change is shown, beside new lines of metrics.jsonl."""

Conclusions = tuple[Sequence[Any], Sequence[str]]
"""The comparisons of finished runs, and what they have in common, a sentence each."""

Conclude = Callable[[Sequence[Run]], Conclusions]


class Lines:
    """The records of a metrics.jsonl, of which only what is new is read.

    Args:
        path: of the file, which may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        self.inode = 0
        self.offset = 0

    def read(self) -> bool:
        """Read the lines that were added; return whether there are any."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        # A run that resumes replaces the file by its first part.
        if found.st_ino != self.inode or found.st_size < self.offset:
            self.inode, self.offset, self.records = found.st_ino, 0, []
        if found.st_size == self.offset:
            return False

        with self.path.open("rb") as file:
            file.seek(self.offset)
            # The last line may be half written.
            whole, newline, _ = file.read().rpartition(b"\n")
        self.offset += len(whole) + len(newline)
        new = [kept(record) for record in map(record_of, whole.split(b"\n")) if record]
        self.records += new
        return bool(new)


def kept(record: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of a record: all of it if it is that of an evaluation."""
    if "val/loss" in record:
        return record
    return {key: record[key] for key in KEPT if key in record}


class Followed:
    """A run's folder, finished or not.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = Lines(path / "metrics.jsonl")
        self.stamps: list[int] = []
        self.run: Run | None = None
        self.mistake = ""

    def read(self) -> bool:
        """Read what is new; return whether there is anything."""
        has_lines = self.lines.read()
        stamps = [_stamp(self.path / name) for name in WATCHED]
        if not has_lines and stamps == self.stamps:
            return False
        self.stamps = stamps
        try:
            self.run, self.mistake = self._load(), ""
        except UserError as error:  # a folder that is damaged does not end the dashboard
            self.mistake = str(error)
        return True

    def _load(self) -> Run:
        config = read_config(self.path / "config.yaml")
        run = Run(self.path.name, config, list(self.lines.records), folder=self.path)
        if is_finished(run):
            # Its manifest and what was measured afterwards are read, too.
            run = load_run(str(self.path))
        _ = run.analyses  # read now, so that a mistake in them is this folder's
        return run


class Follower:
    """All runs of some folders, and the page that shows them.

    Args:
        folders: folders of runs, or of folders of runs.
        conclude: compares finished runs, two or more.

    Raises:
        UserError: one of them is no folder.
    """

    def __init__(self, folders: Sequence[Path], conclude: Conclude) -> None:
        for folder in folders:
            if not folder.is_dir():
                raise UserError(
                    f"runs: {str(folder)!r} is not a folder: name run folders, or a folder of them"
                )
        self.folders = folders
        self.conclude = conclude
        self.followed: dict[Path, Followed] = {}
        self.concluded: tuple[list[Run], Conclusions] = ([], ((), ()))

    def read(self) -> bool:
        """Read what is new in all folders; return whether there is anything."""
        found = dict.fromkeys(path for folder in self.folders for path in run_folders(folder))
        is_new = found.keys() != self.followed.keys()
        self.followed = {path: self.followed.get(path) or Followed(path) for path in found}
        for followed in self.followed.values():
            is_new = followed.read() or is_new
        return is_new

    def page(self) -> str:
        """Return the page as it is now."""
        runs = [followed.run for followed in self.followed.values() if followed.run]
        # Vanilla attention is the baseline.
        runs.sort(key=lambda run: (run.config.attention["name"] != "vanilla", run.name))
        finished = [run for run in runs if is_finished(run)]
        comparisons, sentences = self._conclusions(finished)
        mistakes = [followed.mistake for followed in self.followed.values() if followed.mistake]
        return report(
            runs,
            comparisons,
            [*mistakes, *sentences],
            verdicts=[
                *verdicts(finished, comparisons),
                f"{len(finished)} of {len(runs)} runs have finished.",
            ],
            progress=progress_table(runs),
        )

    def _conclusions(self, finished: list[Run]) -> Conclusions:
        """Return what the finished runs show, computed again once there are other ones."""
        if len(finished) < 2:
            return (), ()
        before, conclusions = self.concluded
        if list(map(id, before)) != list(map(id, finished)):
            conclusions = self.conclude(measured_alike(finished))
            self.concluded = (finished, conclusions)
        return conclusions


def run_folders(folder: Path) -> list[Path]:
    """Return the folder itself if it is a run's, or else those in it that are."""
    if (folder / "config.yaml").is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob("*/config.yaml"))


def is_finished(run: Run) -> bool:
    """Return whether the run was evaluated after its last step."""
    return bool(final(run)) and run.is_finished


def progress_table(runs: Sequence[Run]) -> Table:
    """Return a row for each run: how far it is, and its last losses in nats per token."""
    head = ["run", "state", "step", "of", "train loss", "val loss"]
    return Table("Progress", head, [_progress(run) for run in runs])


def _progress(run: Run) -> list[str]:
    step = run.records[-1]["step"] if run.records else 0
    losses = [_last(run, "train/loss"), _last(run, "val/loss")]
    return [run.name, _state(run), f"{step:,}", f"{_steps(run.config):,}", *losses]


def _steps(config: TrainConfig) -> int:
    return config.training.max_steps


def _state(run: Run) -> str:
    if is_finished(run):
        return "finished"
    end = outcome.read(run.folder)
    return f"ended: {end.message}" if end else "going on"


def _last(run: Run, metric: str) -> str:
    for record in reversed(run.records):
        if metric in record:
            return f"{record[metric]:.4f}"
    return "-"


def _stamp(path: Path) -> int:
    """Return when a file, or any file of a folder, was changed last; 0 if there is none."""
    if path.is_dir():
        return max((_stamp(inner) for inner in path.glob("*.jsonl")), default=0)
    return path.stat().st_mtime_ns if path.exists() else 0
