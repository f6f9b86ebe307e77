"""Checkpoints written beside the training: a copy is taken, and a thread of each rank writes it.

A checkpoint gets its name only when every rank has written its files, they are on disk, and every
number in them is finite. What cannot be written is told and left out: the training goes on, and the
last good checkpoint stays.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from momentum_gpt.core import distributed
from momentum_gpt.core.config import TrainingConfig
from momentum_gpt.core.disk import require_room, writing
from momentum_gpt.core.errors import MachineError
from momentum_gpt.core.files import sha256_of_file, sync
from momentum_gpt.core.manifest import CheckpointManifest
from momentum_gpt.models import GPT, save_model
from momentum_gpt.training.checkpoint import prune, publish, staging_folder, with_files
from momentum_gpt.training.engine import engine_state, full_weights

NOT_FINITE = "its weights or moments are not finite"


@dataclass(frozen=True)
class Copy:
    """What one rank has to write of a checkpoint, on the CPU."""

    staging: Path
    states: dict[Path, Any]
    """File -> content, in DeepSpeed's format."""
    model: GPT
    weights: dict[str, Tensor]
    """All parameters on the main rank, none on the others."""
    tokenizer_file: Path | None

    def write(self) -> dict[str, str]:
        """Write the files, synced to disk; return each one's path in the checkpoint and sha256.

        Raises:
            MachineError: there is no room, or the folder cannot be written.
            ValueError: a number is not finite.
        """
        with writing(self.staging):
            return self._write()

    def _write(self) -> dict[str, str]:
        for path, state in self.states.items():
            _require_finite(state)
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, path)
        files = list(self.states)
        if self.weights:
            _require_finite(self.weights)
            folder = self.staging / "model"
            save_model(folder, self.model, self.weights, self.tokenizer_file)
            files += sorted(folder.iterdir())
        for file in files:
            sync(file)
        return {str(file.relative_to(self.staging)): sha256_of_file(file) for file in files}


@dataclass(frozen=True)
class Pending:
    """A checkpoint that is being written."""

    manifest: CheckpointManifest
    staging: Path
    files: Future[dict[str, str]]
    """This rank's."""


class Saver:
    """Writes the checkpoints of a run. Each rank has one, and all call the same methods.

    Args:
        folder: the run's `checkpoints/`.
        training: which checkpoints are kept.
        tokenizer_file: copied into each checkpoint; None for a synthetic task.
        size: bytes of a checkpoint, about.
    """

    def __init__(
        self, folder: Path, training: TrainingConfig, tokenizer_file: Path | None, size: int = 0
    ) -> None:
        self.folder = folder
        self.training = training
        self.tokenizer_file = tokenizer_file
        self.size = size
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.pending: Pending | None = None

    def begin(self, engine: Any, manifest: CheckpointManifest) -> None:
        """Copy the engine's state and begin to write it. An earlier checkpoint must be finished.

        Args:
            manifest: everything but the files' hashes, which are added.

        Raises:
            MachineError: there is no room for it.
        """
        distributed.on_main_rank(lambda: require_room(self.folder, self.size, "a checkpoint"))
        staging = staging_folder(self.folder, manifest.step)
        states = engine_state(engine, staging / "engine")
        weights = full_weights(engine)
        copy = Copy(staging, states, engine.module, weights, self.tokenizer_file)
        self.pending = Pending(manifest, staging, self.thread.submit(copy.write))

    @property
    def is_writing(self) -> bool:
        """Whether this rank is still writing."""
        return self.pending is not None and not self.pending.files.done()

    def finish(self) -> str | None:
        """Wait until all ranks have written, and give the checkpoint its name.

        Returns:
            Why there is no such checkpoint; None if there is, or if none was begun.
        """
        if self.pending is None:
            return None
        pending, self.pending = self.pending, None
        problem = None
        files: dict[str, str] = {}
        try:
            files = pending.files.result()
        except (MachineError, OSError, ValueError) as error:
            problem = " ".join(str(error).split())

        parts = distributed.from_all_ranks((files, problem))
        problem = next((found for _, found in parts if found), None)
        if distributed.is_main():
            if problem is None:
                problem = self._publish(pending, [found for found, _ in parts])
            if problem is not None:
                shutil.rmtree(pending.staging, ignore_errors=True)
        return distributed.same_on_all_ranks(problem)

    def _publish(self, pending: Pending, parts: list[dict[str, str]]) -> str | None:
        try:
            with writing(self.folder):
                publish(pending.staging, with_files(pending.manifest, parts))
        except MachineError as error:
            return str(error)
        self.thread.submit(prune, self.folder, self.training)
        return None

    def close(self) -> None:
        """Wait for the thread."""
        self.thread.shutdown()


def _require_finite(state: Any) -> None:
    """Raise a ValueError if a floating-point tensor in nested containers is not finite."""
    for tensor in _tensors(state):
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(NOT_FINITE)


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from _tensors(value)
