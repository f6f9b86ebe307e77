"""Checkpoints on disk: hashed, then named; the newest intact one is found, the oldest deleted."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from momentum_gpt.core.manifest import CheckpointManifest
from momentum_gpt.training.checkpoint import (
    _delete_oldest,
    _publish,
    latest_step,
    newest_complete,
)

MANIFEST = CheckpointManifest(
    step=1,
    tokens=10,
    order_sha256="order",
    canary_loss=1.5,
    world_size=2,
    initial_weights_sha256="weights",
    data_sha256="data",
    tokenizer_sha256="tokenizer",
)


def publish(folder: Path, step: int) -> Path:
    """Publish a checkpoint of two small files."""
    staging = folder / ".partial"
    (staging / "model").mkdir(parents=True)
    (staging / "model" / "weights").write_bytes(b"weights")
    (staging / "engine").write_bytes(b"engine of %d" % step)
    _publish(staging, folder / f"step_{step:08d}", replace(MANIFEST, step=step))
    assert not staging.exists()
    return folder / f"step_{step:08d}"


def test_a_published_checkpoint_names_the_hash_of_every_file(tmp_path: Path) -> None:
    checkpoint = publish(tmp_path, 30)
    content = json.loads((checkpoint / "manifest.json").read_text())
    assert content["step"] == 30
    assert content["files"] == {
        "engine": hashlib.sha256(b"engine of 30").hexdigest(),
        "model/weights": hashlib.sha256(b"weights").hexdigest(),
    }
    assert (tmp_path / "latest").read_text() == "step_00000030\n"
    assert latest_step(tmp_path) == 30


def test_a_checkpoint_takes_the_place_of_one_of_the_same_step(tmp_path: Path) -> None:
    (publish(tmp_path, 30) / "old file").touch()
    assert not (publish(tmp_path, 30) / "old file").exists()


def test_the_newest_intact_checkpoint_is_found_and_the_others_are_named(tmp_path: Path) -> None:
    """By its step, not by the order of its name: 10 to the 8 has one digit more."""
    for step in (5, 20, 99_999_999, 100_000_000):
        publish(tmp_path, step)
    (tmp_path / "step_00000099.partial").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "step_100000000" / "engine").write_bytes(b"changed")
    (tmp_path / "step_99999999" / "manifest.json").unlink()

    found, skipped = newest_complete(tmp_path)
    assert found is not None
    assert found.folder == tmp_path / "step_00000020"
    assert found.manifest.step == 20
    damaged, incomplete = skipped
    assert damaged == "step_100000000 is damaged (engine is not what was written)"
    assert incomplete.startswith("step_99999999 is incomplete (")


def test_a_checkpoint_that_lacks_a_file_is_passed_over(tmp_path: Path) -> None:
    (publish(tmp_path, 5) / "engine").unlink()
    found, skipped = newest_complete(tmp_path)
    assert found is None
    assert len(skipped) == 1
    assert skipped[0].startswith("step_00000005 is incomplete (")


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert newest_complete(folder) == (None, [])
        assert latest_step(folder) == 0


def test_the_oldest_checkpoints_are_deleted(tmp_path: Path) -> None:
    for step in (5, 20, 99_999_999, 100_000_000):
        publish(tmp_path, step)
    _delete_oldest(tmp_path, keep=2)
    kept = {path.name for path in tmp_path.glob("step_*")}
    assert kept == {"step_99999999", "step_100000000"}
