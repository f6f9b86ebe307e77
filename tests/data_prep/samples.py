"""Small corpora, and what the tests read back from token shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.sources import build_corpus
from momentum_gpt.data import TokenShards

SMALL = [
    "tokenizer.vocab_size=400",
    "piece_bytes=60000",
    "shard_tokens=20000",
    "validation_fraction=0.25",
]
"""Options with which the text folder makes several tasks and several shards."""

ONE_PROCESS = "executor.workers=1"
"""Starting processes takes longer than preparing a small corpus."""


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def encoded_documents(folder: Path, split: str) -> list[np.ndarray]:
    """Return the ids of each document of a split, without the end-of-document token."""
    shards = TokenShards(folder, split)
    stream = shards.read(0, len(shards))
    ends = np.flatnonzero(stream == shards.tokenizer.eos_id)
    assert ends[-1] == len(stream) - 1
    return [part[:-1] for part in np.split(stream, ends[:-1] + 1)]


def documents(folder: Path, split: str = "train") -> list[str]:
    """Return the text of each document of a split."""
    tokenizer = TokenShards(folder, split).tokenizer
    return [tokenizer.decode(ids.tolist()) for ids in encoded_documents(folder, split)]


def all_documents(folder: Path) -> list[str]:
    """Return the text of each document of both splits."""
    return documents(folder) + documents(folder, "validation")


def json_lines(*texts: str) -> bytes:
    """Return documents as the bytes of a .jsonl file."""
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def write_json_lines(path: Path, texts: list[str]) -> Path:
    """Write documents to a .jsonl file, and return its path."""
    path.write_bytes(json_lines(*texts))
    return path


def texts(**options: Any) -> list[str]:
    """Return the text of each document of a corpus."""
    return [document.text for document in build_corpus(options).documents()]
