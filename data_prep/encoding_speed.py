"""The measurements of `bench_tokenize`."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.settings import (
    BenchTokenizeConfig,
    StdlibCorpusConfig,
    TextCorpusConfig,
    TokenizerConfig,
)
from data_prep.sources import Faults
from data_prep.sources.corpus import WHOLE
from data_prep.sources.stdlib import StdlibCorpus
from data_prep.sources.text import TextCorpus
from data_prep.stages.tokenize import BATCH_CHARACTERS
from data_prep.train_tokenizer import sample, train
from data_prep.words import WordEncoder
from momentum_gpt.data import Tokenizer, load_tokenizer


def measure(config: BenchTokenizeConfig) -> None:
    """Encode the text with each method, and print its speed."""
    texts = up_to(config.max_bytes, texts_of(config.paths))
    part = spread_part(texts, config)
    tokenizer = tokenizer_for(texts, config.tokenizer)
    size = megabytes(texts)
    part_size = megabytes(part)
    print(
        f"{size:.1f} MB in {len(texts):,} documents, {tokenizer.vocab_size:,} pieces; "
        f"the part: {part_size:.1f} MB",
        flush=True,
    )

    encoder = WordEncoder(tokenizer)
    ours, seconds = timed(lambda: encode_all(encoder, texts))
    report("ours, starting empty, all", size, seconds)
    _, seconds = timed(lambda: encode_all(encoder, part))
    report("ours, words known, the part", part_size, seconds)
    print(f"{'':<36}{len(encoder.words):,} words remembered", flush=True)

    _, seconds = timed(lambda: tokenizer.encode_documents(part))
    report("sentencepiece, documents, the part", part_size, seconds)
    _, seconds = timed(lambda: encode_with_datasets(part, tokenizer))
    report("datasets.map, the part", part_size, seconds)
    with tempfile.TemporaryDirectory() as folder:
        step = datatrove_step(texts, config.tokenizer, Path(folder))
        _, seconds = timed(lambda: step(part))
        report("datatrove's tokens step, the part", part_size, seconds)

    expected, seconds = timed(lambda: tokenizer.encode_documents(texts))
    report("sentencepiece, documents, all", size, seconds)
    equal = [np.array_equal(ids, plain) for ids, plain in zip(ours, expected, strict=True)]
    print(f"documents with sentencepiece's ids: {sum(equal):,} of {len(texts):,}")


def texts_of(paths: list[str]) -> Iterator[str]:
    """Yield the texts of the files, or of the standard library; what cannot be read is left out."""
    corpus = TextCorpus(TextCorpusConfig(paths)) if paths else StdlibCorpus(StdlibCorpusConfig())
    faults = Faults(skip=True)
    for part in corpus.parts(WHOLE):
        for document in corpus.read(part, faults):
            yield document.text


def up_to(max_bytes: int, texts: Iterable[str]) -> list[str]:
    """Return the first texts, until they have that many bytes."""
    found = []
    size = 0
    for text in texts:
        found.append(text)
        size += len(text.encode())
        if size >= max_bytes:
            break
    return found


def spread_part(texts: list[str], config: BenchTokenizeConfig) -> list[str]:
    """Return texts from all over the list, of about `part_bytes`."""
    step = max(1, len(texts) * config.part_bytes // config.max_bytes // 4)
    return up_to(config.part_bytes, texts[::step])


def tokenizer_for(texts: list[str], config: TokenizerConfig) -> Tokenizer:
    """Return the given tokenizer, or one that is trained on the texts."""
    if config.path:
        return load_tokenizer(config.path)
    return Tokenizer(train(sample(texts, config.sample_bytes), config))


def encode_all(encoder: WordEncoder, texts: list[str]) -> list[np.ndarray]:
    """Return the ids of each text."""
    ids = []
    for batch in batches(texts):
        ids += encoder.encode(batch)
    return ids


def batches(texts: list[str]) -> Iterator[list[str]]:
    """Yield the texts in batches, as a preparation encodes them."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch = []
            size = 0
    yield batch


def megabytes(texts: list[str]) -> float:
    """Return the size of the texts in UTF-8."""
    return sum(len(text.encode()) for text in texts) / 1e6


def timed(act: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of `act`, and the CPU seconds of all its threads."""
    began = time.process_time()
    result = act()
    return result, time.process_time() - began


def report(what: str, size: float, seconds: float) -> None:
    """Print a speed."""
    print(f"{what:<36}{size / seconds:>8.1f} MB/s{seconds:>9.1f} s", flush=True)


def encode_with_datasets(texts: list[str], tokenizer: Tokenizer) -> Any:
    """Encode the texts with `datasets.map`, without its cache."""
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
    texts: list[str],
    config: TokenizerConfig,
    folder: Path,
) -> Callable[[list[str]], None]:
    """Return a function that encodes texts with datatrove, after training a tokenizer for it."""
    # Otherwise `tokenizers` uses all cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import tokenizers
    from datatrove.data import Document
    from datatrove.pipeline.tokens.tokenizer import DocumentTokenizer
    from loguru import logger

    logger.remove()
    end = "<|endoftext|>"
    file = str(folder / "tokenizer.json")
    trained = tokenizers.ByteLevelBPETokenizer()
    kept = sample(texts, config.sample_bytes)
    trained.train_from_iterator(kept, config.vocab_size, special_tokens=[end])
    trained.save(file)
    step = DocumentTokenizer(
        str(folder / "out"),
        tokenizer_name_or_path=file,
        eos_token=end,
        shuffle_documents=False,
    )

    def run(part: list[str]) -> None:
        documents: Any = (Document(text, str(number)) for number, text in enumerate(part))
        for _ in step.run(documents, 0, 1) or ():
            pass

    return run
