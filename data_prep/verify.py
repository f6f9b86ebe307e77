"""Is a folder of token shards what its manifest says? If not: which bytes of which file are not.

python -m data_prep.verify data=data/stdlib
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from momentum_gpt.cli import Command
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import sha256_of_file
from momentum_gpt.data.shards import (
    BLOCK_BYTES,
    SPLITS,
    ShardEntry,
    ShardsManifest,
    block_hashes,
    read_manifest,
)
from momentum_gpt.data.tokenizer import load_tokenizer, tokenizer_file


@dataclass
class VerifyConfig:
    data: str
    """The folder of token shards."""


def verify(folder: Path) -> str | None:
    """What is wrong with the folder, in one sentence; None if nothing is."""
    manifest = read_manifest(folder)
    file = tokenizer_file(folder)
    if load_tokenizer(file).sha256 != manifest.tokenizer_sha256:
        return f"{file} is not the tokenizer that made the shards"
    for split in SPLITS:
        for entry_ in manifest.splits[split]:
            if problem := _problem(folder / entry_.file, entry_, manifest):
                return problem
    return None


def _problem(path: Path, entry_: ShardEntry, manifest: ShardsManifest) -> str | None:
    if not path.is_file():
        return f"{path} is not there"
    if sha256_of_file(path) != entry_.sha256:
        now = block_hashes(path)
        bad = next(
            (n for n, (a, b) in enumerate(zip(now, entry_.blocks, strict=False)) if a != b), None
        )
        if bad is None:
            return f"{path} has {path.stat().st_size:,} bytes, more or fewer than were written"
        start, end = bad * BLOCK_BYTES, min((bad + 1) * BLOCK_BYTES, path.stat().st_size)
        return f"{path} is damaged: bytes {start:,} to {end - 1:,} are not what was written"
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        (n_tokens,), _, dtype = np.lib.format.read_array_header_1_0(file)
        if (n_tokens, dtype.name) != (entry_.tokens, manifest.dtype):
            return (
                f"{path} holds {n_tokens:,} tokens of {dtype}, the manifest says {entry_.tokens:,}"
            )
        ends, largest, last = 0, 0, -1
        while len(block := np.fromfile(file, dtype, BLOCK_BYTES // dtype.itemsize)):
            ends, largest = (
                ends + int((block == manifest.eos_id).sum()),
                max(largest, int(block.max())),
            )
            last = int(block[-1])
    if largest >= manifest.vocab_size:
        return f"{path} holds the token {largest}, and there are {manifest.vocab_size:,}"
    if ends != entry_.documents or last != manifest.eos_id:
        return f"{path} does not hold {entry_.documents:,} documents, each with its end"
    return None


def check(config: VerifyConfig) -> None:
    folder = Path(config.data)
    if problem := verify(folder):
        raise UserError(f"{problem}: prepare the data again")
    manifest = read_manifest(folder)
    tokens = sum(entry_.tokens for split in SPLITS for entry_ in manifest.splits[split])
    shards = sum(len(manifest.splits[split]) for split in SPLITS)
    print(f"{folder} is whole: {shards:,} shards, {tokens:,} tokens, every byte as it was written")


main = Command(check, VerifyConfig, "verify")


if __name__ == "__main__":
    main()
