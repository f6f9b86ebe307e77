"""Token shards on disk: `manifest.json`, `tokenizer.model` (or `.json`), `train_00000.npy`, `validation_00000.npy`, ...

A shard is a one-dimensional .npy array of token ids, documents one after another, each ended by the end-of-sequence id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import sha256_of_file
from momentum_gpt.data.tokenizer import Tokenizer, load_tokenizer, tokenizer_file

FORMAT = "momentum-gpt token shards"
VERSION = 1
SPLITS = ("train", "validation")


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 where every id fits, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


BLOCK_BYTES = 1 << 24
"""Bytes of a shard's file that one hash of the manifest covers: 16 MiB."""


def write_shard(
    path: Path, dtype: np.dtype, n_tokens: int, n_documents: int, pieces: Iterable[np.ndarray]
) -> dict[str, Any]:
    """Write a shard of `n_tokens` tokens, piece by piece; returns its entry for the manifest.

    Args:
        pieces: (n,) tokens each; whole documents, each ended by the end-of-sequence id.
    """
    done = 0
    with path.open("wb") as file:  # no memory map: its pages would count as ours
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (n_tokens,),
        }
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces:
            file.write(piece.astype(dtype, copy=False).tobytes())
            done += len(piece)
    assert done == n_tokens
    blocks = block_hashes(path)
    return {
        "file": path.name,
        "tokens": n_tokens,
        "documents": n_documents,
        "sha256": sha256_of_file(path),
        "blocks": blocks,
    }


def block_hashes(path: Path) -> list[str]:
    """The first 16 digits of the sha256 of each BLOCK_BYTES of the file: which of them is bad, if its own hash is."""
    with path.open("rb") as file:
        return [
            hashlib.sha256(block).hexdigest()[:16]
            for block in iter(lambda: file.read(BLOCK_BYTES), b"")
        ]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a data folder.

    Raises:
        UserError: no folder, or not one of token shards.
    """
    remedy = "make one with: python -m data_prep.prepare corpus=stdlib output=DIR"
    if not folder.is_dir():
        raise UserError(f"data folder {str(folder)!r} does not exist: {remedy}")
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        known = manifest["format"] == FORMAT and manifest["version"] == VERSION
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        known = False
    if not known:
        raise UserError(
            f"{str(folder)!r} is not a folder of token shards (its manifest.json is missing or foreign): {remedy}"
        )
    return manifest


class TokenShards:
    """One split of a data folder, as one long stream of tokens, read from the memory-mapped shards.

    Args:
        path: the data folder.
        split: "train" or "validation".

    Raises:
        UserError: a missing, foreign or incomplete folder, or a tokenizer that is not the one of the shards.
    """

    def __init__(self, path: str | Path, split: str = "train") -> None:
        self.folder, self.split = Path(path), split
        self.name = f"the {split} split of {str(path)!r}"
        self.manifest = read_manifest(self.folder)
        if split not in SPLITS:
            raise UserError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        self.tokenizer = self._check_tokenizer()
        self.shards = [self._open(entry) for entry in self.manifest["splits"][split]]
        self.starts = np.cumsum([0] + [len(shard) for shard in self.shards])
        self.documents = sum(entry["documents"] for entry in self.manifest["splits"][split])

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def __len__(self) -> int:
        """Tokens in the split."""
        return int(self.starts[-1])

    def read(self, start: int, length: int) -> np.ndarray:
        """Tokens start ... start + length - 1 of the stream, int64; a read may cross from one shard to the next."""
        if not 0 <= start <= start + length <= len(self):
            raise IndexError(f"tokens {start} ... {start + length - 1} of a stream of {len(self)}")
        out = np.empty(length, dtype=np.int64)
        shard, done = int(np.searchsorted(self.starts, start, side="right")) - 1, 0
        while done < length:
            piece = self.shards[shard][start + done - self.starts[shard] :][: length - done]
            out[done : done + len(piece)] = piece
            done += len(piece)
            shard += 1
        return out

    def fingerprint(self) -> str:
        """A hash of the split's tokens, made of the shards' own hashes and the tokenizer's."""
        hashes = [entry["sha256"] for entry in self.manifest["splits"][self.split]]
        return hashlib.sha256(" ".join([self.tokenizer.sha256, *hashes]).encode()).hexdigest()

    def _check_tokenizer(self) -> Tokenizer:
        self.tokenizer_file = tokenizer_file(self.folder)
        tokenizer = load_tokenizer(self.tokenizer_file)
        if tokenizer.sha256 != self.manifest["tokenizer_sha256"]:
            raise UserError(
                f"{self.tokenizer_file} (sha256 {tokenizer.sha256[:12]}...) is not the tokenizer that made these "
                f"shards (sha256 {self.manifest['tokenizer_sha256'][:12]}...): put that one back, or prepare the data again"
            )
        return tokenizer

    def _open(self, entry: dict[str, Any]) -> np.ndarray:
        path = self.folder / entry["file"]
        try:
            shard = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"shard {path} cannot be read ({error}): prepare the data again"
            ) from None
        if shard.shape != (entry["tokens"],) or shard.dtype != np.dtype(self.manifest["dtype"]):
            raise UserError(
                f"shard {path} holds {shard.size} tokens of {shard.dtype}, the manifest says {entry['tokens']} of "
                f"{self.manifest['dtype']}: prepare the data again"
            )
        return shard
