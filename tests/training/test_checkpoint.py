"""Checkpoints on disk: hashed, then named; the newest intact one is found, the oldest deleted."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from momentum_gpt.core.config import TrainingConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json, write_json
from momentum_gpt.core.manifest import CheckpointManifest
from momentum_gpt.training import checkpoint
from momentum_gpt.training.checkpoint import (
    is_complete,
    newest_good,
    pointed_to,
    prune,
    staging_folder,
    tidy,
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


def publish(folder: Path, step: int, **entries: Any) -> Path:
    """Publish a checkpoint of two small files."""
    staging = staging_folder(folder, step)
    (staging / "model").mkdir(parents=True)
    (staging / "model" / "weights").write_bytes(b"weights")
    (staging / "engine").write_bytes(b"engine of %d" % step)
    parts = [
        {"model/weights": hashlib.sha256(b"weights").hexdigest()},
        {"engine": hashlib.sha256(b"engine of %d" % step).hexdigest()},
    ]
    manifest = checkpoint.with_files(replace(MANIFEST, step=step, **entries), parts)
    final = checkpoint.publish(staging, manifest)
    assert not staging.exists()
    return final


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def training(**options: Any) -> TrainingConfig:
    return TrainingConfig(10, 64, **options)


def test_a_published_checkpoint_names_the_hash_of_every_file(tmp_path: Path) -> None:
    content = json.loads((publish(tmp_path, 30) / "manifest.json").read_text())
    assert content["step"] == 30
    assert content["files"] == {
        "engine": hashlib.sha256(b"engine of 30").hexdigest(),
        "model/weights": hashlib.sha256(b"weights").hexdigest(),
    }
    assert (tmp_path / "latest").read_text() == "step_00000030\n"


def test_a_checkpoint_takes_the_place_of_one_of_the_same_step(tmp_path: Path) -> None:
    (publish(tmp_path, 30) / "old file").touch()
    assert not (publish(tmp_path, 30) / "old file").exists()


def test_the_newest_good_checkpoint_is_found_and_the_others_are_named(tmp_path: Path) -> None:
    """By its step, not by the order of its name: 10 to the 8 has one digit more."""
    for step in (5, 20, 99_999_999, 100_000_000):
        publish(tmp_path, step)
    (tmp_path / "step_00000099.partial").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "step_100000000" / "engine").write_bytes(b"changed")
    (tmp_path / "step_99999999" / "engine").unlink()

    found, passed_over = newest_good(tmp_path)
    assert found is not None
    assert found.folder == tmp_path / "step_00000020"
    assert found.manifest.step == 20
    changed, gone = passed_over
    assert changed == "step_100000000 is damaged (engine is not what was written)"
    assert gone.startswith("step_99999999 is damaged (")
    assert "No such file" in gone


DAMAGES: dict[str, Any] = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "binary": bytes(range(256)),
    "deep": b"[" * 100_000,
    "cut short": None,
    "a missing key": lambda entries: entries.pop("canary_loss"),
    "an edited step": lambda entries: entries.update(step=7),
    "a word for a step": lambda entries: entries.update(step="7"),
    "no hash of itself": lambda entries: entries.pop("manifest_sha256"),
    "no file": lambda entries: entries.update(files={}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_with_a_damaged_manifest_is_passed_over(tmp_path: Path, damage: str) -> None:
    publish(tmp_path, 10)
    path = publish(tmp_path, 20) / "manifest.json"
    what = DAMAGES[damage]
    if what is None:
        path.write_bytes(path.read_bytes()[:-30])
    elif isinstance(what, bytes):
        path.write_bytes(what)
    else:
        content = read_json(path)
        what(content)
        write_json(path, content)

    found, passed_over = newest_good(tmp_path)
    assert found is not None
    assert found.manifest.step == 10
    assert len(passed_over) == 1
    assert "step_00000020 is damaged (" in passed_over[0]
    assert not is_complete(tmp_path, 20)


def test_a_manifest_that_is_forged_whole_keeps_its_rules(tmp_path: Path) -> None:
    """The hash can be made again by whoever edits; what the entries may be still holds."""
    publish(tmp_path, 10)
    forged: list[dict[str, Any]] = [
        {"files": {"../../secret": "0"}},
        {"files": {"/etc/passwd": "0"}},
        {"canary_loss": float("nan")},
        {"step": -1},
        {"world_size": True},
    ]
    for entries in forged:
        replace(MANIFEST, **({"step": 20} | entries)).write(publish(tmp_path, 20))
        found, passed_over = newest_good(tmp_path)
        assert found is not None
        assert found.manifest.step == 10, entries
        assert len(passed_over) == 1


def test_damaged_checkpoints_alone_are_an_error_and_no_new_beginning(tmp_path: Path) -> None:
    (publish(tmp_path, 5) / "engine").unlink()
    with pytest.raises(UserError, match=r"no good checkpoint: step_00000005 is damaged"):
        newest_good(tmp_path)


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert newest_good(folder) == (None, [])
        assert not is_complete(folder, 1)
        assert pointed_to(folder) is None


def test_what_was_left_behind_is_tidied_and_latest_is_made_right(tmp_path: Path) -> None:
    """A kill between the rename and the pointer leaves the pointer behind."""
    publish(tmp_path, 20)
    (publish(tmp_path, 30) / "engine").unlink()
    staging_folder(tmp_path, 40).mkdir()
    for stale in ("step_00000010\n", "../../elsewhere\n", "\0", "step_00000030\n"):
        (tmp_path / "latest").write_text(stale)
        tidy(tmp_path, "step_00000020")
        assert pointed_to(tmp_path) == "step_00000020"
    assert names(tmp_path) == {"step_00000020", "damaged_step_00000030", "latest"}


def test_a_damaged_newer_checkpoint_does_not_push_the_good_one_out(tmp_path: Path) -> None:
    publish(tmp_path, 20)
    (publish(tmp_path, 30) / "engine").unlink()
    tidy(tmp_path, "step_00000020")
    publish(tmp_path, 25)
    prune(tmp_path, training(keep_checkpoints=1))
    found, _ = newest_good(tmp_path)
    assert found is not None
    assert found.manifest.step == 25


def test_the_newest_those_at_multiples_and_the_best_stay(tmp_path: Path) -> None:
    for step, loss in ((5, 3.0), (10, 2.0), (15, None), (20, 2.5), (25, 2.4), (30, 2.6)):
        publish(tmp_path, step, val_loss=loss)
    prune(tmp_path, training(keep_checkpoints=2, keep_every=20, keep_best=True))
    kept = {f"step_{step:08d}" for step in (10, 20, 25, 30)}
    assert names(tmp_path) == kept | {"latest"}


def test_a_run_is_complete_when_its_last_step_is_evaluated(tmp_path: Path) -> None:
    publish(tmp_path, 10)
    assert not is_complete(tmp_path, 20)
    publish(tmp_path, 20, evaluation_is_due=True)
    assert not is_complete(tmp_path, 20)
    publish(tmp_path, 20)
    assert is_complete(tmp_path, 20)
