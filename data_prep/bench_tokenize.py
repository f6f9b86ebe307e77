"""How fast text becomes token ids: ours, plain sentencepiece, `datasets.map`, datatrove's step; MB per CPU second, one core.

    python -m data_prep.bench_tokenize paths=[novels/,'src/**/*.py'] tokenizer.vocab_size=16000

Ours encodes all of the text, and is held against sentencepiece's ids; the others, which are slower, a part of it. datatrove's
step takes `tokenizers` alone: a byte-level BPE of the same size, trained here on the same text.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.corpora import Faults, TextCorpus
from data_prep.steps import BATCH_BYTES
from data_prep.train_tokenizer import TokenizerConfig, sample, train
from data_prep.words import WordEncoder
from momentum_gpt.cli import Command
from momentum_gpt.data import Tokenizer, load_tokenizer


@dataclass
class BenchConfig:
    paths: list[str]
    """Files, folders and globs, as of corpus=text; files of other kinds are read as text."""
    tokenizer: TokenizerConfig = field(
        default_factory=lambda: TokenizerConfig(vocab_size=16000, sample_bytes=30_000_000)
    )
    max_bytes: int = 150_000_000
    """Text that is read."""
    part_bytes: int = 10_000_000
    """Of it, for the slower ones."""


def bench(config: BenchConfig) -> None:
    texts = documents(config.paths, config.max_bytes)
    part = documents(
        config.paths,
        config.part_bytes,
        texts[:: max(1, len(texts) * config.part_bytes // config.max_bytes // 4)],
    )
    if config.tokenizer.path:
        tokenizer = load_tokenizer(config.tokenizer.path)
    else:
        tokenizer = Tokenizer(train(sample(texts, config.tokenizer.sample_bytes), config.tokenizer))
    size, part_size = megabytes(texts), megabytes(part)
    print(
        f"{size:.1f} MB in {len(texts):,} documents, {tokenizer.vocab_size:,} pieces; a part: {part_size:.1f} MB",
        flush=True,
    )
    encoder = WordEncoder(tokenizer)
    mine, seconds = timed(
        lambda: [ids for batch in batches(texts) for ids in encoder.encode(batch)]
    )
    report("ours, from an empty table, all", size, seconds)
    _, seconds = timed(lambda: [ids for batch in batches(part) for ids in encoder.encode(batch)])
    report("ours, the words known, the part", part_size, seconds)
    print(f"{'':<36}{len(encoder.words):,} words remembered", flush=True)
    _, seconds = timed(lambda: tokenizer.encode_documents(part))
    report("sentencepiece, documents, the part", part_size, seconds)
    _, seconds = timed(lambda: by_datasets(part, tokenizer))
    report("datasets.map, the part", part_size, seconds)
    with tempfile.TemporaryDirectory() as folder:
        step = datatrove_step(texts, config.tokenizer, Path(folder))
        _, seconds = timed(lambda: step(part))
        report("datatrove's tokens step, the part", part_size, seconds)
    expected, seconds = timed(lambda: tokenizer.encode_documents(texts))
    report("sentencepiece, documents, all", size, seconds)
    same = sum(np.array_equal(a, b) for a, b in zip(mine, expected, strict=True))
    print(f"documents with sentencepiece's ids: {same:,} of {len(texts):,}")


def documents(paths: list[str], max_bytes: int, texts: list[str] | None = None) -> list[str]:
    corpus, faults, found, size = TextCorpus(paths), Faults(skip=True), [], 0
    read: Any = texts or (
        document.text for part in corpus.parts(2**62) for document in corpus.read(part, faults)
    )
    for text in read:
        found.append(text)
        size += len(text.encode())
        if size >= max_bytes:
            break
    return found


def megabytes(texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def batches(texts: list[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch


def timed(act: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the CPU seconds of all its threads."""
    began = time.process_time()
    result = act()
    return result, time.process_time() - began


def report(what: str, size: float, seconds: float) -> None:
    print(f"{what:<36}{size / seconds:>8.1f} MB/s{seconds:>9.1f} s", flush=True)


def by_datasets(texts: list[str], tokenizer: Tokenizer) -> Any:
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_dict({"text": texts})

    def encode(batch: dict[str, list[str]]) -> dict[str, list[np.ndarray]]:
        return {"ids": tokenizer.encode_documents(batch["text"])}

    return rows.map(
        encode,
        batched=True,
        remove_columns=["text"],
        load_from_cache_file=False,
        new_fingerprint=str(time.time()),
    )


def datatrove_step(
    texts: list[str], config: TokenizerConfig, folder: Path
) -> Callable[[list[str]], None]:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import tokenizers
    from datatrove.data import Document
    from datatrove.pipeline.tokens.tokenizer import DocumentTokenizer
    from loguru import logger

    logger.remove()
    theirs = tokenizers.ByteLevelBPETokenizer()
    theirs.train_from_iterator(
        sample(texts, config.sample_bytes), config.vocab_size, special_tokens=["<|endoftext|>"]
    )
    theirs.save(str(folder / "tokenizer.json"))
    step = DocumentTokenizer(
        str(folder / "out"),
        tokenizer_name_or_path=str(folder / "tokenizer.json"),
        eos_token="<|endoftext|>",
        shuffle_documents=False,
    )

    def run(part: list[str]) -> None:
        made: Any = (Document(text, str(number)) for number, text in enumerate(part))
        for _ in step.run(made, 0, 1) or ():
            pass

    return run


main = Command(bench, BenchConfig, "bench_tokenize")


if __name__ == "__main__":
    main()
