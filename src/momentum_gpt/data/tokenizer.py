"""Tokenizers: sentencepiece, lossless, so that decode(encode(text)) == text unless the text holds U+2581; or GPT-2's BPE."""

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
    """A sentencepiece model and the few facts about it that the rest of the project uses."""

    file_name = "tokenizer.model"

    def __init__(self, model: bytes) -> None:
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.sha256 = hashlib.sha256(model).hexdigest()
        self.vocab_size: int = self._processor.vocab_size()
        self.eos_id: int = self._processor.eos_id()
        """Stands at the end of every document."""
        if self.eos_id < 0:
            raise UserError(
                "the tokenizer has no end-of-sequence piece, which separates documents: train it with eos_id >= 0"
            )

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def encode_documents(self, texts: Sequence[str], num_threads: int = 1) -> list[np.ndarray]:
        """The ids of each text, int32, without the end-of-sequence id."""
        return self._processor.encode(list(texts), out_type="numpy", num_threads=num_threads)

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode([int(i) for i in ids])

    @cached_property
    def pieces(self) -> list[str]:
        """The text of each piece, by id; a space is U+2581."""
        return [self._processor.id_to_piece(i) for i in range(self.vocab_size)]

    @cached_property
    def is_plain_bpe(self) -> bool:
        """A BPE that takes text as it is: no normalisation, no space added or removed."""
        about = proto.ModelProto.FromString(  # type: ignore[attr-defined]
            self._processor.serialized_model_proto()
        )
        normalizer = about.normalizer_spec
        changes = (
            normalizer.add_dummy_prefix
            or normalizer.remove_extra_whitespaces
            or not normalizer.escape_whitespaces
        )
        return (
            about.trainer_spec.model_type == proto.TrainerSpec.BPE  # type: ignore[attr-defined]
            and not about.trainer_spec.treat_whitespace_as_suffix
            and not normalizer.precompiled_charsmap
            and not changes
        )

    def ordinary_ids(self) -> np.ndarray:
        """The ids that stand for text: no control, unknown, unused or single-byte piece."""
        sp = self._processor
        special = (sp.is_control, sp.is_unknown, sp.is_unused, sp.is_byte)
        return np.array([i for i in range(self.vocab_size) if not any(test(i) for test in special)])

    def byte_ids(self) -> np.ndarray:
        """The ids of single bytes, of which characters without a piece of their own are made."""
        return np.array(
            [i for i in range(self.vocab_size) if self._processor.is_byte(i)], dtype=np.int64
        )


class ByteLevelTokenizer(Tokenizer):
    """A byte-level BPE from a `tokenizer.json`, such as GPT-2's, for runs that go on from imported weights."""

    file_name = "tokenizer.json"
    is_plain_bpe = False
    ENDS = ("<|endoftext|>", "</s>")
    """What may end a document, the first that there is."""
    BYTE = re.compile("<0x[0-9A-F]{2}>")

    def __init__(self, model: bytes) -> None:
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_str(model.decode())
        self.sha256 = hashlib.sha256(model).hexdigest()
        self.vocab_size = self._tokenizer.get_vocab_size()
        ends = [i for i in map(self._tokenizer.token_to_id, self.ENDS) if i is not None]
        if not ends:
            raise UserError(
                f"the tokenizer has none of {', '.join(self.ENDS)}, which separate documents"
            )
        self.eos_id = ends[0]
        self._tokenizer.encode_special_tokens = True  # text that looks like one is text

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_documents(self, texts: Sequence[str], num_threads: int = 1) -> list[np.ndarray]:
        return [
            np.array(it.ids, dtype=np.int32)
            for it in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    @cached_property
    def pieces(self) -> list[str]:
        return [self._tokenizer.id_to_token(i) or "" for i in range(self.vocab_size)]

    def ordinary_ids(self) -> np.ndarray:
        special = {*self._tokenizer.get_added_tokens_decoder(), *self.byte_ids()}
        return np.array([i for i in range(self.vocab_size) if i not in special])

    def byte_ids(self) -> np.ndarray:
        """None, unless it was a sentencepiece model: it has all bytes, and needs no fallback."""
        return np.array(
            [i for i, piece in enumerate(self.pieces) if self.BYTE.fullmatch(piece)], dtype=np.int64
        )


def tokenizer_file(path: str | Path) -> Path:
    """The tokenizer's file: `path` itself, or the one in the folder (token shards, a model folder).

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    candidates = (
        [path / kind.file_name for kind in (Tokenizer, ByteLevelTokenizer)]
        if path.is_dir()
        else [path]
    )
    for file in candidates:
        if file.is_file():
            return file
    raise UserError(
        f"{candidates[0]} does not exist: give a sentencepiece model, a tokenizer.json, or a folder with one"
    )


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a file, or of a folder that holds one (token shards, a model folder).

    Raises:
        UserError: no such file, or no tokenizer.
    """
    file = tokenizer_file(path)
    kind = ByteLevelTokenizer if file.suffix == ".json" else Tokenizer
    try:
        return kind(file.read_bytes())
    except UserError:
        raise
    except Exception as error:  # of whatever kind the libraries raise: RuntimeError, Exception
        what = " ".join(str(error).split())[:200]
        maker = "`tokenizers`" if kind is ByteLevelTokenizer else "sentencepiece's trainer"
        raise UserError(
            f"{file} is not a {'tokenizer.json' if kind is ByteLevelTokenizer else 'sentencepiece model'}"
            f" ({what}): give a file made by {maker}"
        ) from None
