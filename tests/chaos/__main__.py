"""Disturbs training runs until enough has happened, and says what became of them: make chaos.

    make chaos
    make chaos OPTIONS="--kills 20 --minutes 10 --seed 3"

Each run has two ranks and is started again with the same command until it is complete. It is lost
if it does not get there, or if its weights or metrics are not, to the bit, those of a run that
nothing happened to.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from momentum_gpt.core.files import read_json_lines, sha256_of_file
from momentum_gpt.core.terminal import table_text
from momentum_gpt.training.throughput import PHASES
from tests.chaos.disturbances import (
    FullDisk,
    Processes,
    damage,
    kill,
    processes_of,
    send,
    wait_for_a_save,
)

ROOM = "40m"
"""Size of the disk that becomes full: the checkpoints need some of it."""

OPTIONS = [
    "experiment=smoke",
    "deepspeed=zero2",
    "attention=momentum",
    "tracking.wandb=disabled",
    "launch.nproc_per_node=2",
    "launch.max_restarts=3",
    "training.save_every=3",
    "training.eval_every=20",
    "training.keep_checkpoints=3",
]
VICTIMS = ["driver", "rank 0", "rank 1", "tree"]
OTHERS = ["frozen rank", "full disk", "request"]

CLOCK = (
    *("train/tokens_per_s", "train/mfu", "train/memory_gb", "eval/seconds"),
    *PHASES.values(),
)
"""Metrics that depend on the clock, or on what the process did before."""


@dataclass
class Tally:
    """What was thrown at the runs, and what became of them."""

    thrown: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    equal: int = 0
    """Runs that are complete and equal to the undisturbed one, to the bit."""
    lost: list[str] = field(default_factory=list)
    orphans: int = 0
    """Ranks that outlived their driver."""

    @property
    def kills(self) -> int:
        return sum(times for what, times in self.thrown.items() if what.startswith("SIGKILL"))


def main() -> None:
    arguments = parsed()
    tally = throw(arguments)
    print(summary(tally))
    if tally.lost or tally.orphans or tally.kills < arguments.kills:
        sys.exit(1)


def throw(arguments: argparse.Namespace, data: Path | None = None) -> Tally:
    """Disturb one run after the other; return what was thrown, and what became of them.

    Args:
        arguments: those of the command line.
        data: token shards. None: made from the standard library.
    """
    chance = random.Random(arguments.seed)
    tally = Tally()
    until = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        data = data or make_data(folder)
        undisturbed = Case(folder / "undisturbed", data, arguments.steps)
        subprocess.run(undisturbed.command, check=True, stdout=subprocess.DEVNULL)
        expected = undisturbed.result()

        number = 0
        while tally.kills < arguments.kills and time.monotonic() < until:
            number += 1
            with small_disk(folder / f"runs{number}") as disk:
                case = Case(disk, data, arguments.steps)
                disturb(case, expected, chance, tally, arguments)
            print(f"run {number}: {tally.starts} starts, {tally.kills} kills so far", flush=True)
    return tally


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs, at least")
    parser.add_argument("--steps", type=int, default=300, help="of each run")
    parser.add_argument(
        "--within", type=float, default=12, help="seconds from one thing to the next, at most"
    )
    parser.add_argument("--minutes", type=float, default=38, help="no run starts after these")
    parser.add_argument("--seed", type=int, default=0, help="of what happens when")
    parser.add_argument(
        "--others", type=float, default=0.15, help="share of other things than SIGKILL"
    )
    return parser.parse_args()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Yield a folder with a small file system of its own, where we may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, check=False).returncode == 0
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def make_data(folder: Path) -> Path:
    """Prepare the standard library's text as token shards."""
    data = folder / "data"
    options = ["corpus=stdlib", f"output={data}", "tokenizer.vocab_size=512"]
    command = [sys.executable, "-m", "data_prep.prepare", *options, "executor.workers=1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return data


@dataclass(frozen=True)
class Case:
    """A run in a folder of its own."""

    folder: Path
    data: Path
    steps: int

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def command(self) -> list[str]:
        options = ["name=run", f"runs={self.folder}", f"data={self.data}", *OPTIONS]
        options.append(f"training.max_steps={self.steps}")
        return [sys.executable, "-m", "momentum_gpt.train", *options]

    def result(self) -> dict[str, Any]:
        """Return the final weights' hash, the order's hash and all metrics that no clock is in."""
        last = self.run / "checkpoints" / f"step_{self.steps:08d}"
        metrics = read_json_lines(self.run / "metrics.jsonl")
        for record in metrics:
            for key in CLOCK:
                record.pop(key, None)
        manifest = json.loads((last / "manifest.json").read_text())
        return {
            "weights": sha256_of_file(last / "model" / "model.safetensors"),
            "order": manifest["order_sha256"],
            "canary": manifest["canary_loss"],
            "metrics": metrics,
        }


def disturb(
    case: Case,
    expected: dict[str, Any],
    chance: random.Random,
    tally: Tally,
    arguments: argparse.Namespace,
) -> None:
    """Start a run again and again, and throw something at it each time, until it is complete."""
    log = case.folder.with_suffix(".log")
    code = None
    while code != 0:
        if chance.random() < arguments.others and (
            done := damage(case.run / "checkpoints", chance)
        ):
            tally.thrown[done] += 1
        with log.open("a") as output:
            process = subprocess.Popen(
                case.command, stdout=output, stderr=output, start_new_session=True
            )
            tally.starts += 1
            while process.poll() is None and disturb_once(
                process, case.run, chance, tally, arguments
            ):
                pass
            code = process.wait(timeout=300)
        tally.orphans += len(left_behind(case.run / "config.yaml"))
        if code == 2:
            tally.lost.append(f"refused to start:\n{log.read_text()[-800:]}")
            return
    if case.result() == expected:
        tally.equal += 1
    else:
        tally.lost.append(f"another result:\n{log.read_text()[-800:]}")


def left_behind(config: Path) -> dict[int, int]:
    """Return the ranks that live though their driver has ended."""
    if processes_of(config, 0).ranks:
        time.sleep(2)  # the kernel takes a moment
    return processes_of(config, 0).ranks


def disturb_once(
    process: subprocess.Popen[bytes],
    run: Path,
    chance: random.Random,
    tally: Tally,
    arguments: argparse.Namespace,
) -> bool:
    """Throw one thing at a run; return whether it may go on by itself, for the next thing."""
    what = chance.choice(OTHERS) if chance.random() < arguments.others else chance.choice(VICTIMS)
    aimed = chance.random() < 0.4
    if aimed:
        wait_for_a_save(run / "checkpoints", process)
        time.sleep(chance.uniform(0, 0.05))
    else:
        wait_or_end(process, chance.uniform(0, arguments.within))
    found = processes_of(run / "config.yaml", process.pid)
    if process.poll() is not None:
        return False

    when = ", in a save" if aimed else ""
    if what in VICTIMS:
        if kill(found, what):
            tally.thrown[f"SIGKILL of {what}{when}"] += 1
        return what.startswith("rank")
    if what == "frozen rank":
        return freeze(found, process, chance, tally)
    if what == "full disk":
        tally.thrown["full disk"] += 1
        with FullDisk(run.parent):
            wait_or_end(process, chance.uniform(1, 4))
        return True
    tally.thrown["SIGTERM"] += 1
    process.send_signal(signal.SIGTERM)
    return False


def freeze(
    found: Processes, process: subprocess.Popen[bytes], chance: random.Random, tally: Tally
) -> bool:
    """Stop a rank, and wait until its watchdogs have ended it; return whether the run goes on."""
    if len(found.ranks) < 2:
        return True
    rank = chance.choice(sorted(found.ranks))
    target = found.ranks[rank]
    if not send(signal.SIGSTOP, [target]):
        return True
    tally.thrown[f"SIGSTOP of rank {rank}"] += 1
    until = time.monotonic() + 120
    while time.monotonic() < until and Path(f"/proc/{target}").exists():
        if process.poll() is not None:
            return False
        time.sleep(0.2)
    if Path(f"/proc/{target}").exists():
        tally.lost.append(f"rank {rank} was frozen, and nobody noticed within 120 s")
        send(signal.SIGKILL, [target])
    return True


def wait_or_end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait so long, or until the process ends."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def summary(tally: Tally) -> str:
    rows = [[what, str(times)] for what, times in sorted(tally.thrown.items())]
    rows += [
        ["SIGKILLs in all", str(tally.kills)],
        ["starts", str(tally.starts)],
        ["runs complete, equal to the bit", str(tally.equal)],
        ["runs lost", str(len(tally.lost))],
        ["ranks that outlived their driver", str(tally.orphans)],
    ]
    return "\n".join([table_text("", ["what", "times"], rows), *tally.lost])


if __name__ == "__main__":
    main()
