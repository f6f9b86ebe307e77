"""Training of a lossless sentencepiece tokenizer on a bounded sample of the training documents."""

from __future__ import annotations

import hashlib
import heapq
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

from momentum_gpt.config import require
from momentum_gpt.data import Tokenizer, load_tokenizer
from momentum_gpt.errors import UserError

LONGEST_LINE = 1 << 16
"""Bytes; a longer line is left out of the training of the tokenizer (not of the data)."""


@dataclass
class TokenizerConfig:
    path: str | None = None
    """A sentencepiece model to use as it is; null: train one."""
    vocab_size: int = 32000
    """Pieces of the trained tokenizer, the 4 control pieces and the 256 single bytes among them."""
    model_type: str = "bpe"
    """bpe | unigram."""
    sample_bytes: int = 100_000_000
    """How much training text the tokenizer is trained on, at most."""

    def __post_init__(self) -> None:
        require(self.model_type in ("bpe", "unigram"), "tokenizer.model_type", self.model_type, "one of bpe, unigram")
        require(self.vocab_size > 260, "tokenizer.vocab_size", self.vocab_size, "above 260: 4 control pieces and 256 bytes")
        require(self.sample_bytes >= 1, "tokenizer.sample_bytes", self.sample_bytes, "at least 1")


def get_tokenizer(config: TokenizerConfig, training_texts: Iterable[str]) -> tuple[Tokenizer, bytes]:
    """The given tokenizer, or one trained on a sample of the texts; and its file's content."""
    if config.path is not None:
        tokenizer = load_tokenizer(config.path)
        path = Path(config.path)
        return tokenizer, (path / "tokenizer.model" if path.is_dir() else path).read_bytes()
    texts = sample(training_texts, config.sample_bytes)
    if not texts:
        raise UserError("no document fell into the train split of this corpus: it is empty or very small; give more text")
    model = train(texts, config)
    return Tokenizer(model), model


def sample(texts: Iterable[str], max_bytes: int) -> list[str]:
    """Texts of `max_bytes` bytes at most: those with the smallest hashes, so a uniform choice that no order changes.

    A single text that is larger is cut.
    """
    kept: list[tuple[int, int, str]] = []  # a heap with the largest hash on top
    total, limit = 0, 2**64
    for number, text in enumerate(texts):
        key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        if key >= limit:
            continue
        heapq.heappush(kept, (-key, number, text))
        total += len(text.encode())
        while total > max_bytes and len(kept) > 1:
            dropped, _, largest = heapq.heappop(kept)
            total, limit = total - len(largest.encode()), -dropped
    return [text.encode()[:max_bytes].decode(errors="ignore") for *_, text in sorted(kept, reverse=True)]


def train(texts: list[str], config: TokenizerConfig) -> bytes:
    """A sentencepiece model, as bytes: identity normalisation, byte fallback, spaces kept, no dummy prefix.

    Raises:
        UserError: the text is too little for that many pieces, or has too many characters for that few.
    """
    lines = (line for text in texts for line in text.replace("\0", "").split("\n") if line)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for line in lines if len(line.encode()) <= LONGEST_LINE),
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
            max_sentence_length=LONGEST_LINE,
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
            raise UserError(f"{given}: its characters alone need {max(map(int, smallest.groups()))}; take more") from None
        raise UserError(f"{given}: {' '.join(str(error).split())}") from None
    return model.getvalue()
