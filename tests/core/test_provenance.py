"""What computed a run: the code by its hash and its commit, and the machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from momentum_gpt.core import provenance
from momentum_gpt.core.manifest import CheckpointManifest
from momentum_gpt.core.provenance import code_sha256, commit, processor
from momentum_gpt.training.position import position_of


def hash_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(provenance, "PACKAGE", folder)
    return code_sha256.__wrapped__()


def test_only_code_that_trains_changes_the_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("core", "models", "comparison"):
        (tmp_path / part).mkdir()
    (tmp_path / "core" / "batch_plan.py").write_text("1")
    (tmp_path / "models" / "gpt.py").write_text("2")
    first = hash_of(tmp_path, monkeypatch)

    (tmp_path / "comparison" / "table.py").write_text("3")
    (tmp_path / "core" / "terminal.py").write_text("4")
    assert hash_of(tmp_path, monkeypatch) == first

    (tmp_path / "models" / "gpt.py").rename(tmp_path / "models" / "other.py")
    renamed = hash_of(tmp_path, monkeypatch)
    (tmp_path / "models" / "other.py").write_text("5")
    assert len({first, renamed, hash_of(tmp_path, monkeypatch)}) == 3


def test_a_run_that_goes_on_with_other_code_has_both_hashes() -> None:
    manifest = CheckpointManifest(
        step=3,
        tokens=3,
        order_sha256="",
        canary_loss=1.0,
        world_size=1,
        initial_weights_sha256="",
        data_sha256="",
        tokenizer_sha256="",
        code=["older"],
    )
    position = position_of(manifest)
    assert position.code == ["older", code_sha256()]


def test_a_checkout_has_its_commit_and_says_that_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "src" / "momentum_gpt"
    package.mkdir(parents=True)
    monkeypatch.setattr(provenance, "PACKAGE", package)
    assert commit.__wrapped__() == ""

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, capture_output=True, check=True)
        return done.stdout.decode().strip()

    git("init", "--quiet")
    (package / "a.py").write_text("1")
    git("add", ".")
    git("commit", "--quiet", "--message=first")
    (tmp_path / "runs").write_text("what is not tracked is no change")
    head = git("rev-parse", "HEAD")[:12]
    assert commit.__wrapped__() == head

    (package / "a.py").write_text("2")
    assert commit.__wrapped__() == f"{head}+"


def test_the_processor_has_a_name_and_cores() -> None:
    assert processor().endswith(f", {os.cpu_count()} cores")
    assert processor()[0].isalnum()
