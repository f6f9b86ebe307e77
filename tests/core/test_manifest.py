"""A checkpoint's manifest is read back as it was written, by later versions, too."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json, write_json
from momentum_gpt.core.manifest import CheckpointManifest, read_checkpoint_manifest

MANIFEST = CheckpointManifest(
    step=10,
    tokens=40_960,
    order_sha256="a",
    canary_loss=5.5,
    world_size=2,
    initial_weights_sha256="b",
    data_sha256="c",
    tokenizer_sha256="d",
    versions={"torch": "2.13.0"},
    files={"model/config.json": "e"},
)


def test_it_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    assert read_checkpoint_manifest(tmp_path) == MANIFEST


def test_an_entry_of_a_later_version_is_ignored(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    path = tmp_path / "manifest.json"
    content = read_json(path) | {"colour": "blue"}
    del content["manifest_sha256"]
    canonical = json.dumps(content, sort_keys=True).encode()
    write_json(path, content | {"manifest_sha256": hashlib.sha256(canonical).hexdigest()})
    assert read_checkpoint_manifest(tmp_path) == MANIFEST


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"step": 10}'])
def test_what_is_no_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json is not the manifest of a checkpoint"):
        read_checkpoint_manifest(tmp_path)
