"""Training of a lossless sentencepiece tokenizer on a bounded sample of the training documents."""

from __future__ import annotations

import hashlib
import heapq
import io
import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import psutil
import sentencepiece

from momentum_gpt.core.config import require
from momentum_gpt.core.errors import UserError

LONGEST_LINE = 1 << 14
"""Characters; the training of the tokenizer sees a longer line in pieces, cut anywhere."""


@dataclass
class TokenizerConfig:
    path: str | None = None
    """A sentencepiece model or a `tokenizer.json` (GPT-2's BPE) to use as it is; null: train one."""
    vocab_size: int = 32000
    """Pieces of the trained tokenizer, the 4 control pieces and the 256 single bytes among them."""
    model_type: str = "bpe"
    """bpe | unigram."""
    sample_bytes: int = 100_000_000
    """How much training text the tokenizer is trained on, at most."""

    def __post_init__(self) -> None:
        require(
            self.model_type in ("bpe", "unigram"),
            "tokenizer.model_type",
            self.model_type,
            "one of bpe, unigram",
        )
        require(
            self.vocab_size > 260,
            "tokenizer.vocab_size",
            self.vocab_size,
            "above 260: 4 control pieces and 256 bytes",
        )
        require(self.sample_bytes >= 1, "tokenizer.sample_bytes", self.sample_bytes, "at least 1")


def choose(text: str) -> int:
    """A hash of the text, below 2^64: the documents with the smallest are a uniform sample that no order changes."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[16:24], "big")


def sample(texts: Iterable[str], max_bytes: int) -> list[str]:
    """Texts of `max_bytes` bytes at most: those that `choose` puts first. A single text that is larger is cut."""
    kept: list[tuple[int, int, str]] = []  # a heap with the largest hash on top
    total, limit = 0, 2**64
    for number, text in enumerate(texts):
        key = choose(text)
        if key >= limit:
            continue
        heapq.heappush(kept, (-key, number, text))
        total += len(text.encode())
        while total > max_bytes and len(kept) > 1:
            dropped, _, largest = heapq.heappop(kept)
            total, limit = total - len(largest.encode()), -dropped
    return [
        text.encode()[:max_bytes].decode(errors="ignore") for *_, text in sorted(kept, reverse=True)
    ]


def forecast(config: TokenizerConfig, text_bytes: int) -> float:
    """GB of memory that the training will take, from measurements (LOG.md)."""
    per_byte = {"bpe": 9, "unigram": 26}[config.model_type]
    return 0.3 + per_byte * min(text_bytes, config.sample_bytes) / 1e9


def train_apart(samples: Path, config: TokenizerConfig, output: Path) -> None:
    """Train on the texts of `samples/*.jsonl` in a process of its own, so that its end is not ours; writes `output`.

    Raises:
        UserError: it would not fit the memory, or it ended abruptly; or see `train`.
    """
    size = sum(path.stat().st_size for path in samples.glob("*.jsonl"))
    needed, free = forecast(config, size), psutil.virtual_memory().available / 1e9
    if needed > free:
        raise UserError(
            f"training the tokenizer on {min(size, config.sample_bytes):,} bytes takes about {needed:.1f} GB of memory, and "
            f"{free:.1f} GB are free: take a smaller tokenizer.sample_bytes"
        )
    print(
        f"training the tokenizer on {min(size, config.sample_bytes) / 1e6:,.1f} MB: about {needed:.1f} GB of memory",
        flush=True,
    )
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            model = pool.submit(_train_on, samples, config).result()
        except BrokenProcessPool:
            raise UserError(
                f"the training of the tokenizer ended abruptly, probably for want of memory (about {needed:.1f} GB): take a "
                "smaller tokenizer.sample_bytes"
            ) from None
    output.write_bytes(model)


def _train_on(samples: Path, config: TokenizerConfig) -> bytes:
    texts = (
        json.loads(line)
        for path in sorted(samples.glob("*.jsonl"))
        for line in path.open(encoding="utf-8")
    )
    kept = sample(texts, config.sample_bytes)
    if not kept:
        raise UserError(
            "no document fell into the train split of this corpus: it is empty or very small; give more text"
        )
    return train(kept, config)


def train(texts: list[str], config: TokenizerConfig) -> bytes:
    """A sentencepiece model, as bytes: identity normalisation, byte fallback, spaces kept, no dummy prefix.

    Raises:
        UserError: the text is too little for that many pieces, or has too many characters for that few.
    """
    lines = (
        piece
        for text in texts
        for line in text.replace("\0", "").split("\n")
        for piece in _short(line)
    )
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type=config.model_type,
            vocab_size=config.vocab_size,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            byte_fallback=True,
            split_digits=True,
            character_coverage=0.9995,
            max_sentence_length=4 * LONGEST_LINE,  # bytes
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            num_threads=1,  # unigram's result depends on it
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        size = sum(len(text.encode()) for text in texts)
        given = f"tokenizer.vocab_size={config.vocab_size} does not fit this text of {size:,} bytes"
        if largest := re.search(r"value <= (\d+)", str(error)):
            raise UserError(f"{given}: take at most {largest[1]}, or give more text") from None
        if smallest := re.search(r"required_chars\. (\d+) vs (\d+)", str(error)):
            raise UserError(
                f"{given}: its characters alone need {max(map(int, smallest.groups()))}; take more"
            ) from None
        raise UserError(f"{given}: {' '.join(str(error).split())}") from None
    return model.getvalue()


def _short(line: str) -> Iterator[str]:
    yield from (line[start : start + LONGEST_LINE] for start in range(0, len(line), LONGEST_LINE))
