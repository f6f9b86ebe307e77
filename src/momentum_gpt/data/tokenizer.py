"""The sentencepiece tokenizer: lossless, so that decode(encode(text)) == text unless the text holds U+2581."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from momentum_gpt.errors import UserError


class Tokenizer:
    """A sentencepiece model and the few facts about it that the rest of the project uses."""

    def __init__(self, model: bytes) -> None:
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.sha256 = hashlib.sha256(model).hexdigest()
        self.vocab_size: int = self._processor.vocab_size()
        self.eos_id: int = self._processor.eos_id()
        """Stands at the end of every document."""
        if self.eos_id < 0:
            raise UserError("the tokenizer has no end-of-sequence piece, which separates documents: train it with eos_id >= 0")

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def encode_documents(self, texts: Sequence[str], num_threads: int = 1) -> list[np.ndarray]:
        """The ids of each text, int32, without the end-of-sequence id."""
        return self._processor.encode(list(texts), out_type="numpy", num_threads=num_threads)

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode([int(i) for i in ids])

    def ordinary_ids(self) -> np.ndarray:
        """The ids that stand for text: no control, unknown, unused or single-byte piece."""
        sp = self._processor
        special = (sp.is_control, sp.is_unknown, sp.is_unused, sp.is_byte)
        return np.array([i for i in range(self.vocab_size) if not any(test(i) for test in special)])


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a file, or of a folder that holds `tokenizer.model` (token shards, a model folder).

    Raises:
        UserError: no such file, or not a sentencepiece model.
    """
    path = Path(path)
    file = path / "tokenizer.model" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file} does not exist: give a sentencepiece model, or a folder with a tokenizer.model")
    try:
        return Tokenizer(file.read_bytes())
    except RuntimeError:
        raise UserError(f"{file} is not a sentencepiece model: give a file made by sentencepiece's trainer") from None
