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
from multiprocessing import get_context
from pathlib import Path

import psutil
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto

from data_prep.settings import TokenizerConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.terminal import progress_bar
from momentum_gpt.data.tokenizer import CONTROL_PIECES, SCORE_STEP

NOT_FOR_SENTENCEPIECE = "\0\u2585"
"""Characters without a piece of their own; they are encoded as bytes.

NUL ends a text in sentencepiece, and it leaves out whole lines with U+2585.
"""

LONGEST_LINE = 1 << 14
"""Characters. The training sees a longer line in several parts, cut anywhere."""

BASE_GB = 0.3
"""Memory that the training takes without text, in GB (measured; LOG.md)."""

MEMORY_PER_BYTE = {"bpe": 9, "unigram": 26}
"""Bytes of memory for each byte of text, by model type (measured; LOG.md)."""


def choose(text: str) -> int:
    """Return a hash of the text, below 2^64.

    The documents with the smallest hashes are a uniform sample that depends on no order.
    """
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[16:24], "big")


def sample(texts: Iterable[str], max_bytes: int) -> list[str]:
    """Return the texts with the smallest hashes, of `max_bytes` bytes together at most.

    A single text that is larger is cut.
    """
    kept: list[tuple[int, int, str]] = []  # a heap with the largest hash on top
    total = 0
    limit = 2**64
    for number, text in enumerate(texts):
        key = choose(text)
        if key >= limit:
            continue
        heapq.heappush(kept, (-key, number, text))
        total += len(text.encode())

        # Once a hash has been dropped, no larger one can be among the smallest.
        while total > max_bytes and len(kept) > 1:
            dropped, _, largest = heapq.heappop(kept)
            total -= len(largest.encode())
            limit = -dropped

    # By increasing hash.
    chosen = [text for _, _, text in sorted(kept, reverse=True)]
    return [text.encode()[:max_bytes].decode(errors="ignore") for text in chosen]


def forecast(config: TokenizerConfig, text_bytes: int) -> float:
    """Return the memory that the training will take, in GB."""
    used = min(text_bytes, config.sample_bytes)
    return BASE_GB + MEMORY_PER_BYTE[config.model_type] * used / 1e9


def train_apart(samples: Path, config: TokenizerConfig, output: Path) -> None:
    """Train on the texts of `samples/*.jsonl`, and write the model to `output`.

    The training runs in a process of its own: if it runs out of memory, this process survives.

    Raises:
        UserError: it would not fit into memory, or it ended abruptly; or see `train`.
    """
    size = sum(path.stat().st_size for path in samples.glob("*.jsonl"))
    used = min(size, config.sample_bytes)
    needed = forecast(config, size)
    free = psutil.virtual_memory().available / 1e9
    if needed > free:
        raise UserError(
            f"training the tokenizer on {used:,} bytes takes about {needed:.1f} GB of memory, but "
            f"only {free:.1f} GB are free: choose a smaller tokenizer.sample_bytes"
        )
    print(
        f"training the tokenizer on {used / 1e6:,.1f} MB: about {needed:.1f} GB of memory",
        flush=True,
    )

    # Not forked: threads of this process, such as a bar's, do not survive a fork.
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with pool, progress_bar("training the tokenizer", None):
        try:
            model = pool.submit(_train_on, samples, config).result()
        except BrokenProcessPool:
            raise UserError(
                "the training of the tokenizer ended abruptly, probably for lack of memory (about "
                f"{needed:.1f} GB): choose a smaller tokenizer.sample_bytes"
            ) from None
    output.write_bytes(model)


def _train_on(samples: Path, config: TokenizerConfig) -> bytes:
    return train(sample(_texts_in(samples), config.sample_bytes), config)


def _texts_in(samples: Path) -> Iterator[str]:
    for path in sorted(samples.glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def train(texts: list[str], config: TokenizerConfig) -> bytes:
    """Return a trained sentencepiece model, as bytes.

    It is lossless: no normalization, byte fallback, all spaces kept, no space added in front.

    Raises:
        UserError: there is no text or too little for the vocabulary, or it has too many characters.
    """
    if not any(_lines(texts)):
        size = sum(len(text.encode()) for text in texts)
        raise UserError(
            f"a tokenizer cannot be trained on these {size:,} bytes: "
            "they hold nothing but newlines and NUL; give text"
        )

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
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
            unk_piece=CONTROL_PIECES["unk"],
            bos_id=1,
            bos_piece=CONTROL_PIECES["bos"],
            eos_id=2,
            eos_piece=CONTROL_PIECES["eos"],
            pad_id=3,
            pad_piece=CONTROL_PIECES["pad"],
            num_threads=1,  # the result of unigram depends on it
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        size = sum(len(text.encode()) for text in texts)
        raise UserError(_refusal(str(error), config.vocab_size, size)) from None
    if config.model_type == "unigram":
        return with_rounded_scores(model.getvalue())
    return model.getvalue()


def with_rounded_scores(model: bytes) -> bytes:
    """Return a unigram model whose scores are multiples of SCORE_STEP."""
    parsed = proto.ModelProto.FromString(model)  # type: ignore[attr-defined]
    for piece in parsed.pieces:
        piece.score = round(piece.score / SCORE_STEP) * SCORE_STEP
    return parsed.SerializeToString(deterministic=True)


def _refusal(error: str, vocab_size: int, text_bytes: int) -> str:
    """Return sentencepiece's error as a sentence with a remedy."""
    given = f"tokenizer.vocab_size={vocab_size} does not fit this text of {text_bytes:,} bytes"
    largest = re.search(r"value <= (\d+)", error)
    if largest:
        return f"{given}: take at most {largest[1]}, or give more text"

    required = re.search(r"required_chars\. (\d+) vs (\d+)", error)
    if required:
        least = max(int(number) for number in required.groups())
        return f"{given}: its characters alone need {least}; take more"
    return f"{given}: {' '.join(error.split())}"


def _lines(texts: list[str]) -> Iterator[str]:
    """Yield the lines of the texts, without characters that sentencepiece cannot learn."""
    for text in texts:
        for character in NOT_FOR_SENTENCEPIECE:
            text = text.replace(character, "")
        for line in text.split("\n"):
            for start in range(0, len(line), LONGEST_LINE):
                yield line[start : start + LONGEST_LINE]
