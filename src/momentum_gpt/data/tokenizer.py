"""Tokenizers: lossless sentencepiece models, or a byte-level BPE such as GPT-2's.

With a sentencepiece model, decode(encode(text)) == text unless the text holds U+2581.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto

from momentum_gpt.core.errors import UserError

SPACE = "\u2581"
"""The character that stands for a space in sentencepiece's pieces."""

CONTROL_PIECES = {
    "unk": "<|momentum-gpt-unk|>",
    "bos": "<|momentum-gpt-bos|>",
    "eos": "<|momentum-gpt-eos|>",
    "pad": "<|momentum-gpt-pad|>",
}
"""Names of the control pieces of our models, by what they are.

Sentencepiece learns nothing from text that looks like a control piece. These names occur in no
text, whereas its own, <unk>, <s> and </s>, are words of WikiText and HTML.
"""

SCORE_STEP = 1 / 64
"""The scores of our unigram models are multiples of this, in nats.

The sums that sentencepiece compares are then exact in fp32, and the best way to split a text is the
same in whatever precision and order they are added.
"""


MOST_IDS = 1 << 24
"""Ids of a byte-level tokenizer, at most: sixty times as many as any tokenizer has."""


class Tokenizer:
    """A sentencepiece model, and the few facts about it that the rest of the project uses."""

    file_name = "tokenizer.model"

    def __init__(self, model: bytes) -> None:
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.sha256 = hashlib.sha256(model).hexdigest()
        self.vocab_size: int = self._processor.vocab_size()
        self.eos_id: int = self._processor.eos_id()
        """Id of the token at the end of every document."""
        if self.eos_id < 0:
            raise UserError(
                "the tokenizer has no end-of-sequence piece, which separates documents: "
                "train it with eos_id >= 0"
            )

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without an end-of-document token."""
        return self._processor.encode(text)

    def encode_documents(self, texts: Sequence[str], num_threads: int = 1) -> list[np.ndarray]:
        """Return the ids of each text, int32, without end-of-document tokens."""
        return self._processor.encode(list(texts), out_type="numpy", num_threads=num_threads)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids."""
        # An embedding is padded with rows that stand for no token; a model may still write one.
        return self._processor.decode([int(i) for i in ids if i < self.vocab_size])

    @cached_property
    def pieces(self) -> list[str]:
        """The text of each piece, by id; a space is U+2581."""
        return [self._processor.id_to_piece(i) for i in range(self.vocab_size)]

    @cached_property
    def model(self) -> Any:
        """Sentencepiece's own description of the model, a `ModelProto`."""
        data = self._processor.serialized_model_proto()
        return proto.ModelProto.FromString(data)  # type: ignore[attr-defined]

    @property
    def unk_id(self) -> int:
        """Id of the token for a character without a piece, if there are no pieces for bytes."""
        return self._processor.unk_id()

    @property
    def pad_id(self) -> int:
        """Id of the token for padding, or of the document end if there is none."""
        found = self._processor.pad_id()
        return found if found >= 0 else self.eos_id

    @property
    def kind(self) -> str:
        """How it splits text: bpe, unigram, word or char."""
        names = proto.TrainerSpec.ModelType  # type: ignore[attr-defined]
        return names.Name(self.model.trainer_spec.model_type).lower()

    @cached_property
    def is_plain(self) -> bool:
        """Whether it takes text as it is, without normalising or adding spaces."""
        normalizer = self.model.normalizer_spec
        changes_text = (
            self.model.trainer_spec.treat_whitespace_as_suffix
            or normalizer.precompiled_charsmap
            or normalizer.add_dummy_prefix
            or normalizer.remove_extra_whitespaces
            or not normalizer.escape_whitespaces
        )
        return not changes_text

    def require_known(self, vocab_size: int | None) -> None:
        """Raise a UserError if a model with that many token ids does not know all of these."""
        if vocab_size is not None and self.vocab_size > vocab_size:
            raise UserError(
                f"the tokenizer has {self.vocab_size:,} tokens, but the model knows "
                f"{vocab_size:,}: put the model's own tokenizer beside its weights"
            )

    def ordinary_ids(self) -> np.ndarray:
        """Return the ids that stand for text, (n,).

        Control, unknown, unused and single-byte pieces are left out.
        """
        processor = self._processor
        return np.array([i for i in range(self.vocab_size) if not _is_special(processor, i)])

    def byte_ids(self) -> np.ndarray:
        """Return the ids of single bytes, (n,): they make characters that have no piece."""
        found = [i for i in range(self.vocab_size) if self._processor.is_byte(i)]
        return np.array(found, dtype=np.int64)


def _is_special(processor: sentencepiece.SentencePieceProcessor, i: int) -> bool:
    return (
        processor.is_control(i)
        or processor.is_unknown(i)
        or processor.is_unused(i)
        or processor.is_byte(i)
    )


class ByteLevelTokenizer(Tokenizer):
    """A byte-level BPE from a `tokenizer.json`, for runs that start from imported weights."""

    file_name = "tokenizer.json"
    kind = "byte-level bpe"

    ENDS = (CONTROL_PIECES["eos"], "<|endoftext|>", "</s>")
    """Special tokens that may end a document; the first that exists does."""
    PADS = (CONTROL_PIECES["pad"], "<pad>")
    """Special tokens that may be the padding."""
    BYTE = re.compile("<0x[0-9A-F]{2}>")
    """A single byte, in a tokenizer that was a sentencepiece model."""

    def __init__(self, model: bytes) -> None:
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_str(model.decode())
        self.sha256 = hashlib.sha256(model).hexdigest()
        kind = type(self._tokenizer.model).__name__
        if kind not in ("BPE", "Unigram"):
            raise ValueError(f"it is a {kind}, and only BPE and Unigram can split every text")
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values(), default=-1)
        if self.vocab_size > MOST_IDS:
            raise ValueError(f"its largest id is {self.vocab_size - 1:,}")

        end = self._special(self.ENDS)
        if end is None:
            names = ", ".join(self.ENDS)
            raise UserError(
                f"the tokenizer has no special token {names}, which separates documents"
            )
        self.eos_id = end

        # Text that looks like a special token is text.
        self._tokenizer.encode_special_tokens = True

    def _special(self, names: Sequence[str]) -> int | None:
        """Return the id of the first special token with one of the names."""
        added = self._tokenizer.get_added_tokens_decoder()
        ids = {token.content: i for i, token in added.items() if token.special}
        return next((ids[name] for name in names if name in ids), None)

    @property
    def pad_id(self) -> int:
        """Id of the token for padding, or of the document end if there is none."""
        found = self._special(self.PADS)
        return self.eos_id if found is None else found

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without an end-of-document token."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_documents(self, texts: Sequence[str], num_threads: int = 1) -> list[np.ndarray]:
        """Return the ids of each text, int32, without end-of-document tokens."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    @cached_property
    def pieces(self) -> list[str]:
        """The text of each token, by id."""
        return [self._tokenizer.id_to_token(i) or "" for i in range(self.vocab_size)]

    def ordinary_ids(self) -> np.ndarray:
        """Return the ids that stand for text, (n,)."""
        special = {*self._tokenizer.get_added_tokens_decoder(), *self.byte_ids()}
        return np.array([i for i in range(self.vocab_size) if i not in special])

    def byte_ids(self) -> np.ndarray:
        """Return the ids of byte pieces: none, unless it was a sentencepiece model."""
        found = [i for i, piece in enumerate(self.pieces) if self.BYTE.fullmatch(piece)]
        return np.array(found, dtype=np.int64)


def tokenizer_file(path: str | Path) -> Path:
    """Return the tokenizer's file: `path` itself, or the one in that folder.

    Args:
        path: a file, or a folder of token shards or of a model.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    candidates = [path]
    if path.is_dir():
        candidates = [path / kind.file_name for kind in (Tokenizer, ByteLevelTokenizer)]
    for file in candidates:
        if file.is_file():
            return file
    raise UserError(
        f"{candidates[0]} does not exist: "
        "give a sentencepiece model, a tokenizer.json, or a folder with one"
    )


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Return the tokenizer of a file, or of a folder that holds one.

    Raises:
        UserError: there is no such file, or it is not a tokenizer.
    """
    file = tokenizer_file(path)
    kind: type[Tokenizer] = Tokenizer
    name, maker = "sentencepiece model", "sentencepiece's trainer"
    if file.suffix == ".json":
        kind, name, maker = ByteLevelTokenizer, "tokenizer.json", "`tokenizers`"

    try:
        content = file.read_bytes()
        if not content:  # sentencepiece would take it for a model without pieces
            raise ValueError("it is empty")
        return kind(content)
    except UserError:
        raise
    except Exception as error:  # the libraries raise RuntimeError and plain Exception
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file} is not a {name} ({reason}): give a file made by {maker}") from None
