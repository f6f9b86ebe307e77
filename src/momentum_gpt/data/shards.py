"""Token shards on disk: `manifest.json`, the tokenizer, `train_00000.npy`, `validation_00000.npy`.

A shard is a one-dimensional .npy array of token ids: documents one after another, each followed by
the end-of-document token.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json, sha256_of_file, write_json
from momentum_gpt.core.untrusted import plain_name
from momentum_gpt.data.tokenizer import Tokenizer, load_tokenizer, tokenizer_file

FORMAT = "momentum-gpt token shards"
VERSION = 1
SPLITS = ("train", "validation")

BLOCK_BYTES = 1 << 22
"""Bytes of a shard's file that one block hash of a new manifest covers: 4 MiB."""

OLD_BLOCK_BYTES = 1 << 24
"""The same in manifests that do not say."""

REMEDY = "make one with: momentum-gpt prepare corpus=stdlib output=DIR"


@dataclass(frozen=True)
class ShardEntry:
    """One shard, as the manifest describes it."""

    file: str
    """Name of the file in the data folder."""
    tokens: int
    documents: int
    sha256: str
    """Hash of the file."""
    blocks: list[str] = field(default_factory=list)
    """First 16 digits of the sha256 of each block of the file; old manifests have none."""
    block_bytes: int = OLD_BLOCK_BYTES
    """Size of a block; the last one may be smaller."""

    def __post_init__(self) -> None:
        if self.block_bytes < 1:
            raise ValueError("a block has bytes")


@dataclass(frozen=True)
class ShardsManifest:
    """The content of a data folder's `manifest.json`."""

    dtype: str
    """Type of the token ids: uint16 or uint32."""
    vocab_size: int
    eos_id: int
    """Id of the end-of-document token."""
    tokenizer_sha256: str
    splits: dict[str, list[ShardEntry]]
    preparation: dict[str, Any]
    """How the data were made: options, sources, counts. Training does not read it."""

    def tokens(self, split: str) -> int:
        """Return the number of tokens in a split."""
        return sum(entry.tokens for entry in self.splits[split])

    def write(self, folder: Path) -> None:
        """Write `folder/manifest.json`, whole or not at all."""
        content = asdict(self)
        preparation = content.pop("preparation")
        write_json(
            folder / "manifest.json",
            {"format": FORMAT, "version": VERSION, **content, **preparation},
        )


def token_dtype(vocab_size: int) -> np.dtype:
    """Return uint16 where every id fits, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def write_shard(
    path: Path,
    dtype: np.dtype,
    n_tokens: int,
    n_documents: int,
    pieces: Iterable[np.ndarray],
) -> ShardEntry:
    """Write a shard piece by piece and return its entry for the manifest.

    Args:
        n_tokens: tokens of all pieces.
        pieces: token ids, (n,) each: whole documents with their end-of-document tokens.
    """
    done = 0
    # A plain file instead of a memory map, whose pages would count as this process's memory.
    with path.open("wb") as file:
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
    blocks = block_hashes(path, BLOCK_BYTES)
    sha256 = sha256_of_file(path)
    return ShardEntry(path.name, n_tokens, n_documents, sha256, blocks, BLOCK_BYTES)


def block_hashes(path: Path, block_bytes: int) -> list[str]:
    """Return the first 16 digits of the sha256 of each so many bytes of the file.

    A part of a file can be checked without the rest, and damage has a place.
    """
    with path.open("rb") as file:
        blocks = iter(partial(file.read, block_bytes), b"")
        return [_block_hash(block) for block in blocks]


def _block_hash(block: bytes) -> str:
    return hashlib.sha256(block).hexdigest()[:16]


def read_manifest(folder: Path) -> ShardsManifest:
    """Return the manifest of a data folder.

    Raises:
        UserError: there is no folder, or it is not one of token shards.
    """
    if not folder.is_dir():
        raise UserError(f"data folder {str(folder)!r} does not exist: {REMEDY}")
    try:
        return _parse(read_json(folder / "manifest.json"))
    except FileNotFoundError:
        why = "it has no manifest.json"
    except KeyError as missing:
        why = f"its manifest.json lacks {missing}"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        why = f"its manifest.json is of another format: {' '.join(str(error).split())}"
    raise UserError(f"{str(folder)!r} is not a folder of token shards ({why}): {REMEDY}")


def _parse(content: dict[str, Any]) -> ShardsManifest:
    if content.pop("format") != FORMAT or content.pop("version") != VERSION:
        raise ValueError("another format")

    splits = {}
    for split, entries in content.pop("splits").items():
        splits[split] = [ShardEntry(**entry) for entry in entries]

    own = {entry.name for entry in fields(ShardsManifest)} - {"splits", "preparation"}
    facts = {name: content.pop(name) for name in sorted(own)}
    manifest = ShardsManifest(**facts, splits=splits, preparation=content)
    _check(manifest)
    return manifest


def _check(manifest: ShardsManifest) -> None:
    """Raise a ValueError or TypeError unless a manifest's entries are what its fields say."""
    if manifest.dtype not in ("uint16", "uint32"):
        raise ValueError("another dtype")
    operator.index(manifest.vocab_size)
    operator.index(manifest.eos_id)
    bytes.fromhex(manifest.tokenizer_sha256)
    if set(manifest.splits) != set(SPLITS):
        raise ValueError("other splits")
    for split in SPLITS:
        if not manifest.splits[split]:
            raise ValueError(f"no shards of the {split} split")
        for entry in manifest.splits[split]:
            plain_name(entry.file)
            bytes.fromhex(entry.sha256)
            for block in entry.blocks:
                bytes.fromhex(block)
            if operator.index(entry.tokens) < 0 or operator.index(entry.documents) < 0:
                raise ValueError("a negative number")


def check_tokenizer(folder: Path, manifest: ShardsManifest) -> Tokenizer:
    """Return the folder's tokenizer.

    Raises:
        UserError: it is missing, or is not the one that made the shards.
    """
    file = tokenizer_file(folder)
    tokenizer = load_tokenizer(file)
    if tokenizer.sha256 != manifest.tokenizer_sha256:
        raise UserError(
            f"{file} (sha256 {tokenizer.sha256[:12]}...) is not the tokenizer that made these "
            f"shards (sha256 {manifest.tokenizer_sha256[:12]}...): put that one back, or prepare "
            "the data again"
        )
    if (manifest.vocab_size, manifest.eos_id) != (tokenizer.vocab_size, tokenizer.eos_id):
        raise UserError(
            f"{folder / 'manifest.json'} has the vocabulary {manifest.vocab_size} with the end "
            f"{manifest.eos_id}, but the tokenizer's is {tokenizer.vocab_size} with "
            f"{tokenizer.eos_id}: prepare the data again"
        )
    return tokenizer


def check_shard_file(path: Path, entry: ShardEntry, dtype: str) -> None:
    """Check that a shard's file exists and is long enough, without opening it.

    Raises:
        UserError: it is missing or too small.
    """
    if not path.is_file():
        raise UserError(f"shard {path} does not exist: prepare the data again")
    if path.stat().st_size < entry.tokens * np.dtype(dtype).itemsize:
        raise UserError(
            f"shard {path} is too small for the {entry.tokens:,} tokens of the manifest: "
            "prepare the data again"
        )


OPEN_SHARDS = 256
"""Shards of a split that a process keeps open."""


class BlockCheck:
    """Check each block of a shard's file once in this process, before its first token is used.

    A shard whose manifest has no hashes of blocks is one block: the whole file.

    Args:
        path: the shard.
        entry: what the manifest says of it.
        tokens: the shard's token ids, memory-mapped.
        vocab_size: every id must be smaller.
    """

    def __init__(self, path: Path, entry: ShardEntry, tokens: np.memmap, vocab_size: int) -> None:
        self.path = path
        self.entry = entry
        self.header = tokens.offset
        self.dtype = tokens.dtype
        self.vocab_size = vocab_size
        self.block_bytes = entry.block_bytes if entry.blocks else path.stat().st_size
        self.checked: set[int] = set()

    def __call__(self, first: int, stop: int) -> None:
        """Check the blocks that hold the tokens first ... stop - 1.

        Raises:
            UserError: a block is not what was written, or holds an id outside the vocabulary.
        """
        size = self.dtype.itemsize
        begin = (self.header + first * size) // self.block_bytes
        end = (self.header + stop * size - 1) // self.block_bytes
        for number in range(begin, end + 1):
            if number not in self.checked:
                self._check(number)
                self.checked.add(number)

    def _check(self, number: int) -> None:
        start = number * self.block_bytes
        # Not through the memory map, whose pages would count as this process's memory.
        with self.path.open("rb") as file:
            file.seek(start)
            block = file.read(self.block_bytes)

        where = f"shard {self.path}: bytes {start:,} to {start + len(block) - 1:,}"
        if not self._is_as_written(number, block):
            raise UserError(
                f"{where} are not what was written: check the folder with `momentum-gpt verify "
                f"data={self.path.parent}`, then restore the file or prepare the data again"
            )
        ids = np.frombuffer(block, self.dtype, offset=self.header if number == 0 else 0)
        if len(ids) and ids.max() >= self.vocab_size:
            raise UserError(
                f"{where} hold the token {ids.max()}, but the tokenizer has {self.vocab_size:,}: "
                "prepare the data again"
            )

    def _is_as_written(self, number: int, block: bytes) -> bool:
        if self.entry.blocks:
            return self.entry.blocks[number : number + 1] == [_block_hash(block)]
        return self.entry.sha256 == hashlib.sha256(block).hexdigest()


class TokenShards:
    """One split of a data folder as one long stream of tokens, read from memory-mapped shards.

    A shard is opened when a token of it is first used. What is read is checked: each block of a
    shard's file against its hash, and its ids against the tokenizer.

    Args:
        path: the data folder.
        split: "train" or "validation".

    Raises:
        UserError: the folder is missing, incomplete or of another format, or its tokenizer is not
            the one that made the shards.
    """

    def __init__(self, path: str | Path, split: str = "train") -> None:
        if split not in SPLITS:
            raise UserError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        self.folder = Path(path)
        self.split = split
        self.name = f"the {split} split of {str(path)!r}"

        self.manifest = read_manifest(self.folder)
        self.tokenizer_file = tokenizer_file(self.folder)
        self.tokenizer = check_tokenizer(self.folder, self.manifest)

        self.entries = self.manifest.splits[split]
        self.starts = np.cumsum([0, *(entry.tokens for entry in self.entries)])
        self.checks: dict[int, BlockCheck] = {}
        # An open shard takes a file descriptor, of which a process often has 1,024.
        self.shard = lru_cache(OPEN_SHARDS)(self._open)
        self.documents = sum(entry.documents for entry in self.entries)

    @property
    def vocab_size(self) -> int:
        """Number of token ids that the stream may hold."""
        return self.tokenizer.vocab_size

    def __len__(self) -> int:
        """Return the number of tokens in the split."""
        return int(self.starts[-1])

    def read(self, start: int, length: int) -> np.ndarray:
        """Return tokens start ... start + length - 1 of the stream, (length,), int64.

        A read may cross from one shard to the next.

        Raises:
            UserError: a block that holds one of the tokens is damaged.
        """
        if not 0 <= start <= start + length <= len(self):
            last = start + length - 1
            raise IndexError(f"tokens {start} ... {last} of a stream of {len(self)}")

        out = np.empty(length, dtype=np.int64)
        shard = int(np.searchsorted(self.starts, start, side="right")) - 1
        done = 0
        while done < length:
            offset = start + done - self.starts[shard]
            piece = self.shard(shard)[offset:][: length - done]
            self._check(shard, offset, offset + len(piece))
            out[done : done + len(piece)] = piece
            done += len(piece)
            shard += 1
        return out

    def fingerprint(self) -> str:
        """Return a hash of the split's tokens, made of the hashes of its shards and tokenizer."""
        hashes = [self.tokenizer.sha256, *(entry.sha256 for entry in self.entries)]
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()

    def whole(self) -> Iterator[np.ndarray]:
        """Yield all tokens of each shard, (n,), after checking them.

        Raises:
            UserError: a shard is damaged.
        """
        for number in range(len(self.entries)):
            shard = self.shard(number)
            self._check(number, 0, len(shard))
            yield shard

    def _check(self, number: int, first: int, stop: int) -> None:
        if number not in self.checks:
            entry = self.entries[number]
            path = self.folder / entry.file
            self.checks[number] = BlockCheck(path, entry, self.shard(number), self.vocab_size)
        self.checks[number](first, stop)

    def _open(self, number: int) -> np.memmap:
        """Return the token ids of a shard, memory-mapped."""
        entry = self.entries[number]
        path = self.folder / entry.file
        try:
            # Unlike np.load, it reads nothing but a plain array.
            shard = np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"shard {path} cannot be read ({reason}): prepare the data again"
            ) from None

        if shard.shape != (entry.tokens,) or shard.dtype != np.dtype(self.manifest.dtype):
            raise UserError(
                f"shard {path} holds {shard.size} tokens of {shard.dtype}, the manifest says "
                f"{entry.tokens} of {self.manifest.dtype}: prepare the data again"
            )
        return shard
