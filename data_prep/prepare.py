"""Text to token shards: read, split, train the tokenizer, encode, write.

    python -m data_prep.prepare corpus=stdlib output=data/stdlib tokenizer.vocab_size=2048
    python -m data_prep.prepare corpus=text corpus.paths=[novels/,more.jsonl.zst] output=data/mine tokenizer.vocab_size=8192
    python -m data_prep.prepare corpus=fineweb_edu output=data/fineweb_edu

A folder that is there already is left alone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.corpora import Document, HubCorpus, StdlibCorpus, TextCorpus, build_corpus, split_of
from data_prep.tokenizer import TokenizerConfig, get_tokenizer
from momentum_gpt import entry
from momentum_gpt.config import require
from momentum_gpt.data import ShardWriter, Tokenizer
from momentum_gpt.data.shards import FORMAT, SPLITS, VERSION, read_manifest, token_dtype
from momentum_gpt.errors import UserError

BATCH_BYTES = 4_000_000
"""Text that is encoded at once, by all cores."""


@dataclass
class PrepareConfig:
    output: str
    """The folder to make."""
    corpus: dict[str, Any]
    """Its kind and the options of its class in data_prep/corpora.py."""
    tokenizer: TokenizerConfig
    validation_fraction: float = 0.05
    """Share of the documents that become validation, where the corpus has no validation part of its own."""
    shard_tokens: int = 268_435_456
    """Tokens in a shard, about: 512 MiB in uint16."""

    def __post_init__(self) -> None:
        require(0 < self.validation_fraction < 1, "validation_fraction", self.validation_fraction, "between 0 and 1")
        require(self.shard_tokens >= 1, "shard_tokens", self.shard_tokens, "at least 1")


def prepare(config: PrepareConfig) -> int:
    """Make the folder of token shards, under another name until it is whole."""
    output = Path(config.output)
    made_with = {key: value for key, value in asdict(config).items() if key != "output"}
    if is_there(output, made_with):
        print(f"{output} is prepared already")
        return 0
    corpus = build_corpus(config.corpus)
    texts = (text for text, split in documents(corpus, config.validation_fraction, "reading") if split == "train")
    tokenizer, model = get_tokenizer(config.tokenizer, texts)
    staging = output.with_name(f".{output.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        manifest = write_shards(staging, corpus, tokenizer, config) | {"made_with": made_with}
        (staging / "tokenizer.model").write_bytes(model)
        (staging / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        staging.rename(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    print(summary(output, manifest))
    return 0


def is_there(output: Path, made_with: dict[str, Any]) -> bool:
    """Whether the folder is there, made with the same options.

    Raises:
        UserError: something else is there.
    """
    if not output.exists():
        return False
    if output.is_dir() and (output / "manifest.json").is_file() and read_manifest(output).get("made_with") == made_with:
        return True
    raise UserError(f"output={str(output)!r} exists and was not made with these options: choose another, or remove it")


def documents(corpus: StdlibCorpus | TextCorpus | HubCorpus, validation_fraction: float, doing: str) -> Iterator[Document]:
    """The corpus's documents, each with its split, under a progress bar."""
    with tqdm(desc=doing, unit="B", unit_scale=True, leave=False, disable=None) as bar:
        for text, split in corpus.documents():
            bar.update(len(text.encode()))
            yield Document(text, split or split_of(text, validation_fraction))


def write_shards(
    folder: Path, corpus: StdlibCorpus | TextCorpus | HubCorpus, tokenizer: Tokenizer, config: PrepareConfig
) -> dict[str, Any]:
    """Encode all documents into the folder; returns the manifest.

    Raises:
        UserError: a split without documents.
    """
    dtype = token_dtype(tokenizer.vocab_size)
    writers = {split: ShardWriter(folder, split, dtype, tokenizer.eos_id, config.shard_tokens) for split in SPLITS}
    bytes_of = dict.fromkeys(SPLITS, 0)
    marked = 0
    for batch in batched(documents(corpus, config.validation_fraction, "encoding"), BATCH_BYTES):
        encoded = tokenizer.encode_documents([text for text, _ in batch], num_threads=os.cpu_count() or 1)
        for (text, split), ids in zip(batch, encoded, strict=True):
            assert split is not None
            writers[split].add(ids)
            bytes_of[split] += len(text.encode())
            marked += "\u2581" in text
    if marked:
        print(f"{marked} documents hold U+2581, sentencepiece's own space mark: it is read as a space there")
    splits = {split: writer.close() for split, writer in writers.items()}
    for split in SPLITS:
        if not splits[split]:
            raise UserError(
                f"no document fell into the {split} split of this corpus: give more documents, cut the files into documents "
                "(corpus.separator, corpus.document_start), or name validation files or a validation split"
            )
    return {
        "format": FORMAT,
        "version": VERSION,
        "dtype": dtype.name,
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "tokenizer_sha256": tokenizer.sha256,
        "bytes": bytes_of,
        "splits": splits,
    }


def batched(items: Iterator[Document], max_bytes: int) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item.text)
        if size >= max_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def summary(output: Path, manifest: dict[str, Any]) -> str:
    lines = [f"{output}: {manifest['vocab_size']:,} pieces, {manifest['dtype']}"]
    for split in SPLITS:
        shards = manifest["splits"][split]
        tokens = sum(shard["tokens"] for shard in shards)
        count = sum(shard["documents"] for shard in shards)
        size = manifest["bytes"][split]
        lines.append(f"  {split:<10} {count:>9,} documents  {tokens:>13,} tokens  {size / tokens:.2f} bytes per token")
    return "\n".join(lines)


def main() -> None:
    entry.run(prepare, PrepareConfig, "prepare")


if __name__ == "__main__":
    main()
