"""Losses that are not finite, or far above the last ones: noticed on every rank alike.

The update of a bad step is left out, or the run goes back to its last checkpoint and leaves the
update out then, or it stops. What the step was trained on is kept in `bad_steps/`.
"""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import Any

from torch import Tensor

from momentum_gpt.core import distributed
from momentum_gpt.core.config import TrainConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import write_json
from momentum_gpt.data import SyntheticBatches, TrainingData
from momentum_gpt.training.engine import gradient_is_finite
from momentum_gpt.training.position import Position

MOST_IN_A_ROW = 3
"""Bad steps in a row after which a run stops: leaving them out does not help."""

WINDOW = 128
"""Losses beside which the next one is seen, as in OLMo 2 (arXiv 2501.00656)."""

ENOUGH = 32
"""Losses without which nothing is a spike."""


class Rewind(Exception):  # noqa: N818 - nothing went wrong
    """The run is to go back to its last checkpoint, and to leave the update of `step` out."""

    def __init__(self, step: int) -> None:
        super().__init__(f"step {step}")
        self.step = step


class BadSteps:
    """Tells bad steps and does with them what `training.bad_step` says.

    Args:
        config: of the run.
        batches: what it is trained on.
        position: of the run; the bad steps and the last losses are kept in it.
    """

    def __init__(self, config: TrainConfig, batches: TrainingData, position: Position) -> None:
        self.config = config
        self.batches = batches
        self.position = position
        self.fault = ""
        self.last = -1
        self.in_a_row = 0

    def is_bad(self, step: int, loss: float, engine: Any) -> bool:
        """Return whether the update of a step is to be left out; the same on every rank.

        Args:
            step: counted from 0.
            loss: over all ranks, nats per token.
            engine: with the gradient of the step.
        """
        if step in self.position.skipped_steps:
            return True
        self.fault = "the gradient is not finite"  # which DeepSpeed may still find
        if not math.isfinite(loss):
            self.fault = f"the loss is {loss}"
            return True
        return not gradient_is_finite(engine) or self._is_spike(loss)

    def _is_spike(self, loss: float) -> bool:
        most = self.config.training.spike
        if most is None:
            return False
        recent = self.position.recent_losses
        if len(recent) >= ENOUGH and loss > fmean(recent) + most * stdev(recent):
            self.fault = f"the loss is {loss:.4f}, after {fmean(recent):.4f} ± {stdev(recent):.4f}"
            return True
        self.position.recent_losses = [*recent, loss][-WINDOW:]
        return False

    def handle(self, step: int, parts: Tensor) -> dict[str, Any]:
        """Keep what a bad step was trained on, and say what is done. Every rank must call this.

        Args:
            step: counted from 0; the position is after it by now.
            parts: this rank's parts of the loss, (micro-batches,).

        Returns:
            The event, for `metrics.jsonl`.

        Raises:
            Rewind: `training.bad_step=rewind`.
            UserError: `training.bad_step=stop`, or the bad steps do not end.
        """
        losses = distributed.from_all_ranks(parts.tolist())  # [rank][micro-batch]
        action = self.config.training.bad_step
        self.in_a_row = self.in_a_row + 1 if step == self.last + 1 else 1
        self.last = step
        if distributed.is_main():
            self._keep(step, losses, action)

        at = f"{self.fault} at step {step + 1}{_where(losses)}"
        if action == "stop" or self.in_a_row > MOST_IN_A_ROW:
            raise UserError(
                f"{at}: use a lower optim.lr or a longer warm-up; the checkpoints are left as they "
                f"are, and {self.config.run_dir / self._file(step)} holds the texts"
            )
        if action == "rewind":
            raise Rewind(step)
        self.position.skipped_steps.append(step)
        return {"train/skipped": 1, "event": f"{at}: its update was left out"}

    def _keep(self, step: int, losses: list[list[float]], action: str) -> None:
        micro_batches = []
        for rank, of_rank in enumerate(losses):
            for number, loss in enumerate(of_rank):
                micro_batches.append(
                    {
                        "rank": rank,
                        "micro_batch": number,
                        "loss_part": str(loss),
                        "texts": self._texts(step, number, rank),
                    }
                )
        content = {"step": step + 1, "fault": self.fault, "action": action}
        path = self.config.run_dir / self._file(step)
        write_json(path, content | {"micro_batches": micro_batches})

    def _file(self, step: int) -> str:
        return f"bad_steps/step_{step + 1:08d}.json"

    def _texts(self, step: int, number: int, rank: int) -> list[Any]:
        """Return the windows of a micro-batch as text; as token ids where there is no text."""
        rows = self.batches(step, number, rank)[0].tolist()
        if isinstance(self.batches, SyntheticBatches):
            return rows
        tokenizer = self.batches.shards.tokenizer
        return [tokenizer.decode(row) for row in rows]


def _where(losses: list[list[float]]) -> str:
    """Return where a loss is not finite, if only some are."""
    places = []
    for rank, of_rank in enumerate(losses):
        for number, loss in enumerate(of_rank):
            if not math.isfinite(loss):
                places.append(f"rank {rank}, micro-batch {number}")
    n_all = sum(len(of_rank) for of_rank in losses)
    return f" ({'; '.join(places)})" if 0 < len(places) < n_all else ""
