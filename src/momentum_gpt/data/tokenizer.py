"""Tokenizers: lossless sentencepiece models, or a byte-level BPE such as GPT-2's.

With a sentencepiece model, decode(encode(text)) == text unless the text holds U+2581.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto

from momentum_gpt.core.errors import UserError


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
        return self._processor.decode([int(i) for i in ids])

    @cached_property
    def pieces(self) -> list[str]:
        """The text of each piece, by id; a space is U+2581."""
        return [self._processor.id_to_piece(i) for i in range(self.vocab_size)]

    @cached_property
    def is_plain_bpe(self) -> bool:
        """Whether it is a BPE that takes text as it is, without normalising or adding spaces."""
        model = proto.ModelProto.FromString(  # type: ignore[attr-defined]
            self._processor.serialized_model_proto()
        )
        bpe = proto.TrainerSpec.BPE  # type: ignore[attr-defined]
        is_bpe = model.trainer_spec.model_type == bpe
        normalizer = model.normalizer_spec
        changes_text = (
            model.trainer_spec.treat_whitespace_as_suffix
            or normalizer.precompiled_charsmap
            or normalizer.add_dummy_prefix
            or normalizer.remove_extra_whitespaces
            or not normalizer.escape_whitespaces
        )
        return is_bpe and not changes_text

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
    is_plain_bpe = False

    ENDS = ("<|endoftext|>", "</s>")
    """Tokens that may end a document; the first that exists does."""
    BYTE = re.compile("<0x[0-9A-F]{2}>")
    """A single byte, in a tokenizer that was a sentencepiece model."""

    def __init__(self, model: bytes) -> None:
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_str(model.decode())
        self.sha256 = hashlib.sha256(model).hexdigest()
        self.vocab_size = self._tokenizer.get_vocab_size()

        ends = [i for i in map(self._tokenizer.token_to_id, self.ENDS) if i is not None]
        if not ends:
            names = ", ".join(self.ENDS)
            raise UserError(f"the tokenizer has none of {names}, which separate documents")
        self.eos_id = ends[0]

        # Text that looks like a special token is text.
        self._tokenizer.encode_special_tokens = True

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
        return kind(file.read_bytes())
    except UserError:
        raise
    except Exception as error:  # the libraries raise RuntimeError and plain Exception
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file} is not a {name} ({reason}): give a file made by {maker}") from None
