"""Stage 9: read everything back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.stages.stage import Stage
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import sha256_of_file
from momentum_gpt.core.terminal import Advance, progress_bar
from momentum_gpt.data.shards import (
    BLOCK_BYTES,
    SPLITS,
    ShardEntry,
    ShardsManifest,
    block_hashes,
    read_manifest,
)
from momentum_gpt.data.tokenizer import load_tokenizer, tokenizer_file


class Verify(Stage):
    """Check the folder that the previous stage wrote."""

    name = "verify"
    needs = ("write",)

    def options(self) -> Any:
        """Return nothing: it depends on the shards alone."""
        return None

    def run(self) -> None:
        """Check the shards.

        Raises:
            UserError: they are not what was written.
        """
        problem = find_problem(self.result_of("write") / "output")
        if problem:
            raise UserError(f"the shards on disk are not what was written: {problem}")


def find_problem(folder: Path) -> str | None:
    """Return what is wrong with a folder of token shards, in one sentence; None if nothing is.

    Raises:
        UserError: it is no folder of token shards.
    """
    manifest = read_manifest(folder)
    file = tokenizer_file(folder)
    if load_tokenizer(file).sha256 != manifest.tokenizer_sha256:
        return f"{file} is not the tokenizer that made the shards"

    entries = []
    for split in SPLITS:
        entries += manifest.splits[split]
    # Each file is read twice: as bytes and as tokens.
    itemsize = np.dtype(manifest.dtype).itemsize
    total = 2 * itemsize * sum(entry.tokens for entry in entries)

    with progress_bar("verify", total, in_bytes=True) as advance:
        for entry in entries:
            path = folder / entry.file
            problem = bytes_problem(path, entry)
            if problem:
                return problem
            advance(itemsize * entry.tokens)

            problem = tokens_problem(path, entry, manifest, advance)
            if problem:
                return problem
    return None


def bytes_problem(path: Path, entry: ShardEntry) -> str | None:
    """Return which bytes of a shard are not those that were written; None if all are."""
    if not path.is_file():
        return f"{path} is not there"
    if sha256_of_file(path) == entry.sha256:
        return None

    size = path.stat().st_size
    blocks = zip(block_hashes(path, entry.block_bytes), entry.blocks, strict=False)
    for number, (now, written) in enumerate(blocks):
        if now != written:
            start = number * entry.block_bytes
            last = min(start + entry.block_bytes, size) - 1
            return f"{path} is damaged: bytes {start:,} to {last:,} are not what was written"
    if not entry.blocks:
        return f"{path} is damaged: its bytes are not what was written"
    return f"{path} has {size:,} bytes, more or fewer than were written"


@dataclass
class Seen:
    """What a shard holds."""

    ends: int = 0
    """Number of end-of-sequence tokens."""
    largest: int = 0
    last: int = -1
    """The last token."""


def tokens_problem(
    path: Path,
    entry: ShardEntry,
    manifest: ShardsManifest,
    advance: Advance,
) -> str | None:
    """Return what is wrong with the tokens of a shard; None if nothing is."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        (n_tokens,), _, dtype = np.lib.format.read_array_header_1_0(file)
        if (n_tokens, dtype.name) != (entry.tokens, manifest.dtype):
            return (
                f"{path} holds {n_tokens:,} tokens of {dtype}, "
                f"but the manifest says {entry.tokens:,} of {manifest.dtype}"
            )
        seen = _read_tokens(file, dtype, manifest.eos_id, advance)

    if seen.largest >= manifest.vocab_size:
        size = manifest.vocab_size
        return f"{path} holds the token {seen.largest}, but the vocabulary has {size:,}"
    if seen.ends != entry.documents or seen.last != manifest.eos_id:
        return f"{path} does not hold {entry.documents:,} documents that each have an end"
    return None


def _read_tokens(file: Any, dtype: np.dtype, eos_id: int, advance: Advance) -> Seen:
    """Read the tokens of an opened file, from where it stands to its end."""
    seen = Seen()
    count = BLOCK_BYTES // dtype.itemsize
    while True:
        block = np.fromfile(file, dtype, count)
        if not len(block):
            return seen
        seen.ends += int((block == eos_id).sum())
        seen.largest = max(seen.largest, int(block.max()))
        seen.last = int(block[-1])
        advance(block.nbytes)
