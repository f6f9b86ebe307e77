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


GROUP = 24
"""New words that are given to sentencepiece as one text, with newlines between them."""


def cuts_are_exact(tokenizer: Tokenizer) -> bool:
    """Whether text may be cut before a space behind another character, and on both sides of a newline."""
    crosses = any(
        MARK in piece.lstrip(MARK) or ("\n" in piece and piece != "\n")
        for piece in tokenizer.pieces
    )
    return tokenizer.is_plain_bpe and not crosses


class WordEncoder:
    """`encode(texts)` -> what `tokenizer.encode_documents(texts)` gives, from a table of words that grows.

    Args:
        tokenizer: one whose `cuts_are_exact`.
        most_ids: bounds the table's memory.
    """

    def __init__(self, tokenizer: Tokenizer, most_ids: int = MOST_IDS) -> None:
        assert cuts_are_exact(tokenizer)
        self.tokenizer, self.most_ids = tokenizer, most_ids
        (self.newline,) = tokenizer.encode("\n")
        self._forget()

    def _forget(self) -> None:
        """Begin with a table that knows the newline alone."""
        self.words = {b"\n": 0}
        """Word -> its number."""
        self.ids = np.array([self.newline], dtype=np.int32)
        """The ids of all words, one after another: those of word w begin at starts[w] and are lengths[w]."""
        self.starts, self.lengths = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, int32."""
        if not texts:
            return []
        whole = [number for number, text in enumerate(texts) if MARK in text]
        data = [b"" if MARK in text else text.encode() for text in texts]
        ids = np.split(*self._encode(data))
        for number, found in zip(
            whole, self.tokenizer.encode_documents([texts[i] for i in whole]), strict=True
        ):
            ids[number] = found
        return ids

    def _encode(self, data: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all texts, and where each but the first begins in them."""
        joined = np.frombuffer(b"".join(data), dtype=np.uint8)
        text_starts = np.cumsum([0, *map(len, data)])  # (texts + 1,)
        begins = np.zeros(len(joined) + 1, dtype=bool)
        begins[1:-1] = (joined[1:] == ord(" ")) & (joined[:-1] != ord(" "))
        newlines = np.flatnonzero(joined == ord("\n"))
        begins[newlines] = begins[newlines + 1] = True
        begins[text_starts] = True
        offsets = np.flatnonzero(begins).astype(np.int64)
        array = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(joined)]
        )
        encoded = pc.dictionary_encode(array)
        numbers, ids, starts, word_lengths = self._look_up(encoded.dictionary.to_pylist())
        numbers = numbers[encoded.indices.to_numpy()]  # (words,)
        lengths = word_lengths[numbers]
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        source = np.repeat(starts[numbers] - (ends - lengths), lengths) + np.arange(total)
        word_of_text = np.searchsorted(
            offsets[:-1], text_starts[1:-1]
        )  # the first word of each text but the first
        return ids[source], np.concatenate([[0], ends])[word_of_text]

    def _look_up(self, words: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The number of each word, and the table's ids, starts and lengths with what is new in it.

        Long words have numbers for this call alone.
        """
        if len(self.ids) > self.most_ids:
            self._forget()
        numbers = np.array([self.words.get(word, -1) for word in words], dtype=np.int64)
        places = np.flatnonzero(numbers < 0)
        if not len(places):
            return numbers, self.ids, self.starts, self.lengths
        places = places[
            np.argsort([len(words[i]) > LONGEST_WORD for i in places], kind="stable")
        ]  # the long ones last
        new = [words[i] for i in places]
        ids, new_lengths = self._encode_new(new)
        numbers[places] = len(self.words) + np.arange(len(new))
        lengths = np.concatenate([self.lengths, new_lengths])
        starts = np.cumsum(lengths) - lengths
        ids = np.concatenate([self.ids, ids])
        kept = sum(len(word) <= LONGEST_WORD for word in new)
        first = len(self.words)
        self.words.update(zip(new[:kept], range(first, first + kept), strict=True))
        n_words = len(self.words)
        self.lengths, self.starts = lengths[:n_words], starts[:n_words]
        self.ids = ids[: int(self.lengths.sum())]
        return numbers, ids, starts, lengths

    def _encode_new(self, words: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all the words, one after another, and how many each has. None holds a newline."""
        texts = [b"\n".join(words[i : i + GROUP]).decode() for i in range(0, len(words), GROUP)]
        parts = [
            part for ids in self.tokenizer.encode_documents(texts) for part in (ids, [self.newline])
        ]
        ids = np.concatenate(parts)
        ends = np.flatnonzero(ids == self.newline)
        return ids[ids != self.newline].astype(np.int32), np.diff(ends, prepend=-1) - 1
