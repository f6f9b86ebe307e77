"""The manifest of token shards, `manifest.json`: the one place that knows how it is written."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from momentum_gpt.core.files import read_json, write_json, write_text
from momentum_gpt.data.shards import FORMAT, VERSION, read_manifest

ENTRIES = "entries"


@dataclass
class ShardEntry:
    """A shard."""

    file: str
    tokens: int
    documents: int
    sha256: str
    blocks: list[str]
    """A short hash of each BLOCK_BYTES of the file."""


@dataclass
class SourceMix:
    """What a source of a mix contributes to the training data."""

    source: str
    weight: float | None
    tokens: int
    """Tokens of its training documents."""
    tokens_taken: int
    """Tokens in the shards, where documents may be repeated or left out."""
    epochs: float
    """tokens_taken / tokens."""


@dataclass
class SetContamination:
    """What was found of an evaluation set."""

    texts: int
    """Number of its texts that were looked for."""
    documents: int
    """Number of training documents that hold some of them."""
    example: str | None
    """The beginning of such a document."""


@dataclass
class Contamination:
    """What was found of all evaluation sets."""

    documents: int
    """Number of training documents that hold text of some set."""
    by_set: dict[str, SetContamination]


@dataclass(kw_only=True)
class Manifest:
    """All that is known about a folder of token shards, in the order of the file."""

    format: str = FORMAT
    version: int = VERSION
    dtype: str
    vocab_size: int
    eos_id: int
    tokenizer_sha256: str
    bytes: dict[str, int] = field(default_factory=dict)
    """UTF-8 bytes of the documents of each split."""
    by_byte: int = 0
    """Number of tokens that are single bytes, for lack of a piece."""
    mix: list[SourceMix] = field(default_factory=list)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    """Number of documents that were left out or cut, by source and reason."""
    duplicates: int | None = None
    """Number of documents that were left out as equal to another; None if none was looked for."""
    contamination: Contamination | None = None
    """None if no evaluation set was named."""
    made_with: dict[str, Any] = field(default_factory=dict)
    """The options of the preparation."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that the result depends on."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    """The parts that were read, with their hashes."""
    splits: dict[str, list[ShardEntry]]
    document_tokens: dict[str, int] = field(default_factory=dict)
    """Number of documents with up to 1, 2, 4, ... tokens."""


def save_entry(folder: Path, rank: int, entry: dict[str, Any], file: str) -> None:
    """Keep the entry that `write_shard` returned, under the shard's final name."""
    write_json(folder / ENTRIES / f"{rank:05d}.json", {**entry, "file": file})


def saved_entries(folder: Path) -> list[ShardEntry]:
    """Return the entries that were saved, in the order of their ranks."""
    return [ShardEntry(**read_json(path)) for path in sorted((folder / ENTRIES).glob("*.json"))]


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`."""
    write_text(folder / "manifest.json", json.dumps(asdict(manifest), indent=1) + "\n")


def load_manifest(folder: Path) -> Manifest:
    """Return the manifest of a folder of token shards.

    Raises:
        UserError: it is no such folder.
    """
    content = read_manifest(folder)
    names = [entry.name for entry in fields(Manifest)]
    known = {name: content[name] for name in names if name in content}

    splits = {}
    for split, entries in content["splits"].items():
        splits[split] = [ShardEntry(**entry) for entry in entries]
    known["splits"] = splits

    known["mix"] = [SourceMix(**source) for source in content.get("mix", [])]
    found = content.get("contamination")
    if found is not None:
        by_set = {name: SetContamination(**each) for name, each in found["by_set"].items()}
        known["contamination"] = Contamination(found["documents"], by_set)
    return Manifest(**known)
