"""Checking token shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_prep import verify
from tests.conftest import Result

Invoke = Callable[..., Result]


def test_verify_names_the_bytes_that_are_wrong(
    invoke: Invoke,
    data_folder: Path,
    tmp_path: Path,
) -> None:
    copy = Path(shutil.copytree(data_folder, tmp_path / "copy"))
    done = invoke(verify.main, f"data={copy}")
    assert (done.code, "is complete" in done.out) == (0, True)

    shard = copy / "train_00001.npy"
    whole = shard.read_bytes()
    damaged = bytearray(whole)
    damaged[4000] ^= 1
    shard.write_bytes(damaged)
    done = invoke(verify.main, f"data={copy}")
    assert done.code == 2
    place = f"bytes 0 to {len(damaged) - 1:,} are not what was written"
    assert f"train_00001.npy is damaged: {place}" in done.err

    shard.write_bytes(damaged[:-2])
    assert "train_00001.npy" in invoke(verify.main, f"data={copy}").err
    shard.write_bytes(whole + b"\0")
    assert "train_00001.npy" in invoke(verify.main, f"data={copy}").err
    shard.unlink()
    assert "train_00001.npy is not there" in invoke(verify.main, f"data={copy}").err


def test_verify_checks_what_the_manifest_says_of_the_tokens(
    invoke: Invoke,
    data_folder: Path,
    tmp_path: Path,
) -> None:
    """With hashes that fit the files, it is the counts that are wrong."""
    copy = Path(shutil.copytree(data_folder, tmp_path / "copy"))
    manifest = copy / "manifest.json"
    content = manifest.read_text()
    tokens = len(np.load(copy / "train_00000.npy"))

    manifest.write_text(content.replace(f'"tokens": {tokens},', f'"tokens": {tokens + 1},'))
    done = invoke(verify.main, f"data={copy}")
    assert f"but the manifest says {tokens + 1:,}" in done.err

    manifest.write_text(content.replace('"documents": ', '"documents": 1'))
    assert "documents that each have an end" in invoke(verify.main, f"data={copy}").err


def test_verify_finds_damage_also_without_hashes_of_blocks(
    invoke: Invoke,
    data_folder: Path,
    tmp_path: Path,
) -> None:
    copy = Path(shutil.copytree(data_folder, tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    for entry in manifest["splits"]["train"] + manifest["splits"]["validation"]:
        del entry["blocks"], entry["block_bytes"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert invoke(verify.main, f"data={copy}").code == 0

    shard = copy / "train_00001.npy"
    damaged = bytearray(shard.read_bytes())
    damaged[4000] ^= 1
    shard.write_bytes(damaged)
    said = (
        f"error: {shard} is damaged: its bytes are not what was written: prepare the data again\n"
    )
    assert invoke(verify.main, f"data={copy}").err == said
