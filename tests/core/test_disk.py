"""The room that is needed is what is then written; too little of it is said before."""

from __future__ import annotations

from pathlib import Path

import pytest

from momentum_gpt.core.disk import checkpoint_bytes, require_room, require_room_for_run, room
from momentum_gpt.core.errors import MachineError
from tests.conftest import fill

PARAMETERS = 1_000_000


@pytest.mark.parametrize(
    ("stage", "precision", "per_parameter"),
    [
        (0, "fp32", 4 + 8),  # weights and two moments
        (1, "fp32", 4 + 4 + 8),
        (2, "fp32", 4 + 4 + 8),
        (3, "fp32", 4 + 4 + 8),
        (1, "bf16", 2 + 4 + 8),
        (2, "bf16", 2 + 4 + 8),
        (3, "bf16", 2 + 4 + 8),
    ],
)
def test_a_checkpoint_takes_what_is_stored_of_each_parameter(
    stage: int, precision: str, per_parameter: int
) -> None:
    estimate = checkpoint_bytes(PARAMETERS, precision, stage)
    assert estimate == pytest.approx(per_parameter * PARAMETERS, rel=0.01)


def test_free_room_is_that_of_the_disk_also_for_a_folder_to_be(small_disk: Path) -> None:
    assert room(small_disk / "runs" / "x") == 4 << 20
    fill(small_disk, leave=1 << 20)
    assert room(small_disk) == 1 << 20


def test_too_little_room_is_said_with_both_sizes(small_disk: Path) -> None:
    fill(small_disk, leave=1 << 20)
    require_room(small_disk, 1 << 20, "a checkpoint")
    with pytest.raises(MachineError) as caught:
        require_room(small_disk, 2_500_000, "a checkpoint")
    assert str(caught.value) == (
        f"{small_disk} has 1.05 MB of free disk space, but a checkpoint needs 2.5 MB: "
        "free some space there, and give the same command again"
    )


def test_a_run_needs_room_for_the_checkpoints_it_keeps_and_one_more(small_disk: Path) -> None:
    """A disk of 4 MiB holds four checkpoints of 1 MiB, and not five."""
    run_dir = small_disk / "runs" / "x"
    require_room_for_run(run_dir, 1 << 20, keep=3)
    said = "keeping 4 checkpoints of 1.05 MB, and writing the next, needs 5.24 MB: .*keep_check"
    with pytest.raises(MachineError, match=said):
        require_room_for_run(run_dir, 1 << 20, keep=4)


def test_a_run_that_is_resumed_needs_room_for_the_checkpoints_to_come(small_disk: Path) -> None:
    for step in (10, 20):
        weights = small_disk / "checkpoints" / f"step_{step:08d}" / "weights"
        weights.parent.mkdir(parents=True)
        weights.write_bytes(bytes(1 << 20))
    require_room_for_run(small_disk, 1 << 20, keep=2)
    require_room_for_run(small_disk, 1 << 20, keep=3)
    with pytest.raises(MachineError, match=r"needs 3\.15 MB"):
        require_room_for_run(small_disk, 1 << 20, keep=4)
