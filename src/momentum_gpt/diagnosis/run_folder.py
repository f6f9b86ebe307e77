"""Checks of a run's folder: can it be resumed, and from where?"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from momentum_gpt.core import ownership
from momentum_gpt.core.config import TrainConfig, read_config
from momentum_gpt.core.disk import checkpoint_bytes, require_room_for_run
from momentum_gpt.core.errors import MachineError, UserError
from momentum_gpt.core.manifest import read_checkpoint_manifest
from momentum_gpt.core.outcome import read as read_outcome
from momentum_gpt.diagnosis.findings import BAD, OK, WARNING, Check, Finding

RESUME = "the same train command"
"""What puts most things right."""


def checks_of(run_dir: Path) -> dict[str, Check]:
    """Return the checks of a run's folder: subject -> check."""
    checks: dict[str, Callable[[Path], list[Finding]]] = {
        "config": config,
        "lock": lock,
        "checkpoints": checkpoints,
        "left-overs": left_overs,
        "next ones": room,
        "metrics": metrics,
        "data": data,
        "outcome": outcome,
    }
    return {subject: partial(check, run_dir) for subject, check in checks.items()}


def config(run_dir: Path) -> list[Finding]:
    """Read the run's config."""
    try:
        found = read_config(run_dir / "config.yaml")
    except UserError as error:
        return [Finding(BAD, str(error), "put back the one that the run was started with")]
    attention = found.attention["name"]
    steps = found.training.max_steps
    return [Finding(OK, f"{attention} attention, {steps:,} steps, seed {found.training.seed}")]


def lock(run_dir: Path) -> list[Finding]:
    """Find out who trains the run at present."""
    held = ownership.holder(run_dir)
    if held:
        return [Finding(WARNING, held)]
    return [Finding(OK, "nobody trains it at present")]


def checkpoints(run_dir: Path) -> list[Finding]:
    """Read every checkpoint, and find the newest good one."""
    from momentum_gpt.training.checkpoint import NAME, fault_of, pointed_to

    folder = run_dir / "checkpoints"
    names = sorted(path.name for path in folder.glob("step_*") if NAME.fullmatch(path.name))
    if not names:
        return [Finding(OK, "none yet: the run begins at step 1")]

    with ThreadPoolExecutor() as pool:
        faults = list(pool.map(fault_of, [folder / name for name in names]))
    good = [name for name, fault in zip(names, faults, strict=True) if fault is None]
    findings = []
    for name, fault in zip(names, faults, strict=True):
        if fault is not None:
            remedy = f"{RESUME} passes it over" if good else "put back what was written"
            findings.append(Finding(WARNING, f"{name} is damaged ({fault})", remedy))
    if not good:
        remedy = "begin anew under another name"
        text = "there is no good one, so the run cannot be resumed"
        return [*findings, Finding(BAD, text, remedy)]

    findings.append(Finding(OK, f"{good[-1]} is good, all bytes as written{_left(run_dir, good)}"))
    if pointed_to(folder) != good[-1]:
        text = f"checkpoints/latest does not name {good[-1]}"
        findings.append(Finding(WARNING, text, f"{RESUME} sets it right"))
    return findings


def _left(run_dir: Path, good: list[str]) -> str:
    """Return how many steps are left after the last of the good checkpoints, in words."""
    done = read_checkpoint_manifest(run_dir / "checkpoints" / good[-1]).step
    try:
        left = read_config(run_dir / "config.yaml").training.max_steps - done
    except UserError:  # the check of the config says so
        return ""
    return f"; {left:,} steps are left" if left > 0 else "; the run is complete"


def left_overs(run_dir: Path) -> list[Finding]:
    """Find what an earlier attempt left half-written, and what was put aside."""
    from momentum_gpt.training.checkpoint import DAMAGED

    folder = run_dir / "checkpoints"
    partial_ones = sorted(path.name for path in folder.glob(".step_*.partial"))
    aside = sorted(path.name for path in folder.glob(f"{DAMAGED}*"))
    findings = []
    if partial_ones and ownership.holder(run_dir) is None:
        text = f"half-written: {', '.join(partial_ones)}"
        findings.append(Finding(WARNING, text, f"{RESUME} removes it"))
    if aside:
        remedy = "delete what nobody wants to look at"
        findings.append(Finding(OK, f"damaged, and put aside: {', '.join(aside)}", remedy))
    return findings


def room(run_dir: Path) -> list[Finding]:
    """Find out whether the next checkpoints fit on the disk."""
    found = read_config(run_dir / "config.yaml")
    folders = sorted((run_dir / "checkpoints").glob("step_*"))
    size = _size(folders[-1]) if folders else _estimated_size(found)
    try:
        require_room_for_run(run_dir, size, found.training.keep_checkpoints)
    except MachineError as error:
        return [Finding(BAD, str(error))]
    return [Finding(OK, f"there is room for checkpoints of {size / 1e6:,.3g} MB each")]


def _estimated_size(found: TrainConfig) -> int:
    """Return about how many bytes the first checkpoint will take."""
    import torch

    from momentum_gpt.models import GPT

    with torch.device("meta"):  # without memory for the weights
        model = GPT(found.model, found.attention)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    stage = found.stage_on(found.launch.nnodes * found.launch.nproc_per_node)
    return checkpoint_bytes(n_parameters, found.training.precision, stage)


def _size(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def metrics(run_dir: Path) -> list[Finding]:
    """Find the lines of metrics.jsonl and of the evaluations that cannot be read."""
    files = [run_dir / "metrics.jsonl", *sorted((run_dir / "evaluations").glob("*.jsonl"))]
    findings = []
    n_lines = 0
    for file in files:
        if not file.is_file():
            continue
        *complete, _cut_short = file.read_bytes().split(b"\n")
        n_lines += len(complete)
        bad = [number for number, line in enumerate(complete, 1) if not _is_record(line)]
        if bad:
            shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
            text = f"{file.relative_to(run_dir)}: {len(bad)} unreadable lines ({shown})"
            findings.append(Finding(WARNING, text, "delete them in an editor"))
    return findings or [Finding(OK, f"{n_lines:,} lines, all readable")]


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def data(run_dir: Path) -> list[Finding]:
    """Find out whether the run's data are there, and are those it was trained on."""
    from momentum_gpt.data.shards import SPLITS, TokenShards, check_shard_file
    from momentum_gpt.training.checkpoint import pointed_to

    found = read_config(run_dir / "config.yaml")
    if found.data.path is None:
        return [Finding(OK, f"the task {found.task.kind}, which needs none")]
    try:
        shards = TokenShards(found.data.path, "train")
        for split in SPLITS:
            for entry in shards.manifest.splits[split]:
                check_shard_file(shards.folder / entry.file, entry, shards.manifest.dtype)
    except UserError as error:
        return [Finding(BAD, str(error), _where(found))]

    newest = pointed_to(run_dir / "checkpoints")
    text = f"{found.data.path}: {len(shards):,} tokens to train on"
    if newest is None:
        return [Finding(OK, text)]
    trained_on = read_checkpoint_manifest(run_dir / "checkpoints" / newest).data_sha256
    if trained_on != shards.fingerprint():
        text = f"{found.data.path} holds other tokens than {newest} was trained on"
        return [Finding(BAD, text, "put the old data back")]
    return [Finding(OK, f"{text}, those of {newest}")]


def _where(found: TrainConfig) -> str:
    """Return what to do about data that are not found."""
    if Path(str(found.data.path)).is_absolute():
        return ""
    return f"or call doctor in the folder that holds {found.data.path}"


def outcome(run_dir: Path) -> list[Finding]:
    """Tell how the run ended the last time, if it says so."""
    found = read_outcome(run_dir)
    if found is None:
        return []
    state = WARNING if found.exit_code in (1, 2) else OK
    text = f"the last attempt ended {found.time} with exit code {found.exit_code}"
    return [Finding(state, text, " ".join(str(found.message).split()))]
