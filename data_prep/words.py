"""Encoding each distinct word once: the ids of the whole text, many times faster.

A sentencepiece BPE that was trained without pieces across words has none that goes from a character other than a space to a
space, and one that was trained line by line has none with a newline. No merge can then cross such a place, so text cut there
has, piece by piece, the ids of the whole: cut as bytes, dictionary-encoded by Arrow, and only words that were never met are
given to sentencepiece.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from momentum_gpt.data import Tokenizer

MARK = "\u2581"
"""Sentencepiece's own space; a text that holds it literally is encoded whole."""

LONGEST_WORD = 64
"""Bytes; longer words are hardly met again, and are not remembered."""

MOST_IDS = 16_000_000
"""Remembered: 64 MB of ids and about 500 MB of words. Then the table begins anew."""


def cuts_are_exact(tokenizer: Tokenizer) -> bool:
    """Whether no piece of the tokenizer crosses from another character to a space, and it changes nothing before it cuts."""
    return tokenizer.is_plain_bpe and not any(MARK in piece.lstrip(MARK) for piece in tokenizer.pieces)


class WordEncoder:
    """`encode(texts)` -> what `tokenizer.encode_documents(texts)` gives, from a table of words that grows.

    Args:
        tokenizer: one whose `cuts_are_exact`.
        most_ids: bounds the table's memory.
    """

    def __init__(self, tokenizer: Tokenizer, most_ids: int = MOST_IDS) -> None:
        assert cuts_are_exact(tokenizer)
        self.tokenizer, self.most_ids = tokenizer, most_ids
        self.cuts_at_newlines = not any("\n" in piece and piece != "\n" for piece in tokenizer.pieces)
        self._forget()

    def _forget(self) -> None:
        self.words: dict[bytes, int] = {}
        """Word -> its number."""
        self.ids = np.empty(1 << 16, dtype=np.int32)
        """The ids of all words, one after another; those of word w begin at starts[w] and are lengths[w]."""
        self.n_ids = 0
        self.starts, self.lengths = np.empty(1 << 12, dtype=np.int64), np.empty(1 << 12, dtype=np.int64)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, int32."""
        if not texts:
            return []
        whole = [number for number, text in enumerate(texts) if MARK in text]
        data = [b"" if MARK in text else text.encode() for text in texts]
        ids = np.split(*self._encode(data))
        for number, found in zip(whole, self.tokenizer.encode_documents([texts[i] for i in whole]), strict=True):
            ids[number] = found
        return ids

    def _encode(self, data: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all texts, and where each but the first begins in them."""
        joined = np.frombuffer(b"".join(data), dtype=np.uint8)
        text_starts = np.cumsum([0, *map(len, data)])  # (texts + 1,)
        begins = np.zeros(len(joined) + 1, dtype=bool)
        begins[1:-1] = (joined[1:] == ord(" ")) & (joined[:-1] != ord(" "))
        if self.cuts_at_newlines:
            newlines = np.flatnonzero(joined == ord("\n"))
            begins[newlines] = begins[newlines + 1] = True
        begins[text_starts] = True
        offsets = np.flatnonzero(begins).astype(np.int64)
        array = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(joined)]
        )
        encoded = pc.dictionary_encode(array)
        numbers = self._numbers(encoded.dictionary.to_pylist())[encoded.indices.to_numpy()]  # (words,)
        lengths = self.lengths[numbers]
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        source = np.repeat(self.starts[numbers] - (ends - lengths), lengths) + np.arange(total)
        word_of_text = np.searchsorted(offsets[:-1], text_starts[1:-1])  # the first word of each text but the first
        return self.ids[source], np.concatenate([[0], ends])[word_of_text]

    def _numbers(self, words: list[bytes]) -> np.ndarray:
        """The number of each word; what is new is encoded. Long words get numbers for this call alone."""
        if self.n_ids > self.most_ids:
            self._forget()
        known = self.words
        numbers = np.array([known.get(word, -1) for word in words], dtype=np.int64)
        new = np.flatnonzero(numbers < 0)
        if not len(new):
            return numbers
        encoded = self.tokenizer.encode_documents([words[i].decode() for i in new])
        first = len(known)
        order = np.argsort([len(words[i]) > LONGEST_WORD for i in new], kind="stable")  # those to remember first
        for count, place in enumerate(order):
            word, ids = words[new[place]], encoded[place]
            self._store(first + count, ids)
            numbers[new[place]] = first + count
            if len(word) <= LONGEST_WORD:
                known[word] = first + count
        self.n_ids = int(self.starts[len(known)]) if len(known) < first + len(order) else self.n_ids
        return numbers

    def _store(self, number: int, ids: np.ndarray) -> None:
        if number == len(self.starts):
            self.starts, self.lengths = np.resize(self.starts, 2 * number), np.resize(self.lengths, 2 * number)
        while self.n_ids + len(ids) > len(self.ids):
            self.ids = np.resize(self.ids, 2 * len(self.ids))
        self.starts[number], self.lengths[number] = self.n_ids, len(ids)
        self.ids[self.n_ids : self.n_ids + len(ids)] = ids
        self.n_ids += len(ids)
