"""How far a run has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from momentum_gpt.core.manifest import CheckpointManifest
from momentum_gpt.core.provenance import code_sha256


@dataclass
class Position:
    """All of a run's state that is not in the engine; a checkpoint's manifest holds it."""

    step: int = 0
    """Optimizer steps done."""
    order_hash: str = field(default="", repr=False)
    """Hash of the windows read so far."""
    evaluation_is_due: bool = False
    """Whether this step's evaluation was begun and is not done."""
    val_loss: float | None = None
    """Validation loss at this step, nats per token; None if it was not measured."""
    skipped_steps: list[int] = field(default_factory=list)
    """Steps, counted from 0, whose update is left out because their loss was bad."""
    recent_losses: list[float] = field(default_factory=list)
    """Losses of the last steps, nats per token, beside which the next one is seen."""

    code: list[str] = field(default_factory=lambda: [code_sha256()])
    """Hashes of the code that has trained the run so far."""

    def advance(self, order_hash: str) -> None:
        """Go on by one step, whose windows make `order_hash` of the hash before."""
        self.step += 1
        self.order_hash = order_hash
        self.val_loss = None


def position_of(manifest: CheckpointManifest) -> Position:
    """Return where a checkpoint's run was."""
    return Position(
        step=manifest.step,
        order_hash=manifest.order_sha256,
        evaluation_is_due=manifest.evaluation_is_due,
        val_loss=manifest.val_loss,
        skipped_steps=list(manifest.skipped_steps),
        recent_losses=list(manifest.recent_losses),
        # A run that goes on with other code has two of them.
        code=list(dict.fromkeys([*manifest.code, code_sha256()])),
    )
