"""Encoding each distinct word once: the ids of the whole text, many times faster.

In a sentencepiece BPE that was trained without pieces across words, no piece contains a space
after another character; if it was trained line by line, none contains a newline. No merge can then
cross such a place, so text that is cut there has, word by word, the ids of the whole. The text is
cut as bytes, and Arrow encodes it with a dictionary; only words that are new to the table are
given to sentencepiece.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from momentum_gpt.data import Tokenizer

MARK = "\u2581"
"""Sentencepiece's own space. A text that holds it literally is encoded whole."""

LONGEST_WORD = 64
"""Bytes. Longer words hardly ever occur again, and are not remembered."""

MOST_IDS = 16_000_000
"""Ids that are remembered: 64 MB, and about 500 MB of words. Then the table starts again empty."""

GROUP = 24
"""New words that are given to sentencepiece as one text, with newlines between them."""


def cuts_are_exact(tokenizer: Tokenizer) -> bool:
    """Return whether text may be cut before a space that follows another character, and around \\n.

    It is true of plain BPE models without a piece that crosses such a place.
    """
    is_plain_bpe = tokenizer.kind == "bpe" and tokenizer.is_plain
    return is_plain_bpe and not any(map(_crosses, tokenizer.pieces))


def _crosses(piece: str) -> bool:
    """Return whether a piece crosses a place where text is cut."""
    space_inside = MARK in piece.lstrip(MARK)
    newline_inside = "\n" in piece and piece != "\n"
    return space_inside or newline_inside


class WordEncoder:
    """Encode texts with a table of words that grows.

    `encode(texts)` returns what `tokenizer.encode_documents(texts)` returns.

    Args:
        tokenizer: one for which `cuts_are_exact`.
        most_ids: bounds the memory of the table.
    """

    def __init__(self, tokenizer: Tokenizer, most_ids: int = MOST_IDS) -> None:
        assert cuts_are_exact(tokenizer)
        self.tokenizer = tokenizer
        self.most_ids = most_ids
        (self.newline,) = tokenizer.encode("\n")
        self._forget()

    def _forget(self) -> None:
        """Start with a table that knows the newline alone."""
        self.words = {b"\n": 0}
        """The number of each word."""
        self.ids = np.array([self.newline], dtype=np.int32)
        """The ids of all words, one word after another.

        Those of word w begin at starts[w]; there are lengths[w] of them.
        """
        self.starts = np.zeros(1, dtype=np.int64)
        self.lengths = np.ones(1, dtype=np.int64)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, int32."""
        if not texts:
            return []

        # Texts with a literal MARK are left empty here, and filled in below.
        marked = [number for number, text in enumerate(texts) if MARK in text]
        data = [b"" if MARK in text else text.encode() for text in texts]
        ids, begins = self._encode(data)
        ids_of = np.split(ids, begins)

        whole = self.tokenizer.encode_documents([texts[number] for number in marked])
        for number, found in zip(marked, whole, strict=True):
            ids_of[number] = found
        return ids_of

    def _encode(self, data: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all texts, and where each text except for the first begins in them."""
        joined = np.frombuffer(b"".join(data), dtype=np.uint8)  # (bytes,)
        text_starts = np.cumsum([0, *map(len, data)])  # (texts + 1,)
        offsets = word_starts(joined, text_starts)  # (words + 1,)

        # Each distinct word is looked up once.
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(joined)]
        array = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)
        encoded = pc.dictionary_encode(array)
        numbers, ids, starts, word_lengths = self._look_up(encoded.dictionary.to_pylist())
        numbers = numbers[encoded.indices.to_numpy()]  # (words,)

        # The ids of word w stand at ends[w] - lengths[w] ... ends[w] - 1 of the result.
        lengths = word_lengths[numbers]
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        shifts = starts[numbers] - (ends - lengths)
        source = np.repeat(shifts, lengths) + np.arange(total)  # (total,)

        first_words = np.searchsorted(offsets[:-1], text_starts[1:-1])  # (texts - 1,)
        return ids[source], np.concatenate([[0], ends])[first_words]

    def _look_up(self, words: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the number of each word, and the table's ids, starts and lengths.

        New words are added to the table, except for long ones: they have numbers in what is
        returned here, but not in the table that is kept.
        """
        # Between two calls, since numbers of one call must stay valid in it.
        if len(self.ids) > self.most_ids:
            self._forget()
        numbers = np.array([self.words.get(word, -1) for word in words], dtype=np.int64)
        places = np.flatnonzero(numbers < 0)
        if not len(places):
            return numbers, self.ids, self.starts, self.lengths

        # Long words come last, so that they can be cut off from the table.
        is_long = [len(words[place]) > LONGEST_WORD for place in places]
        places = places[np.argsort(is_long, kind="stable")]
        new = [words[place] for place in places]
        new_ids, new_lengths = self._encode_new(new)
        numbers[places] = len(self.words) + np.arange(len(new))
        lengths = np.concatenate([self.lengths, new_lengths])
        starts = np.cumsum(lengths) - lengths
        ids = np.concatenate([self.ids, new_ids])

        self._keep(new[: len(new) - sum(is_long)], ids, starts, lengths)
        return numbers, ids, starts, lengths

    def _keep(
        self,
        new: list[bytes],
        ids: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
    ) -> None:
        """Extend the table with the words `new`, whose ids come first among the new ones."""
        first = len(self.words)
        self.words.update(zip(new, range(first, first + len(new)), strict=True))
        n_words = len(self.words)
        self.lengths = lengths[:n_words]
        self.starts = starts[:n_words]
        self.ids = ids[: int(self.lengths.sum())]

    def _encode_new(self, words: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all words, one word after another, and how many each has.

        No word holds a newline, so newlines tell them apart.
        """
        texts = []
        for start in range(0, len(words), GROUP):
            texts.append(b"\n".join(words[start : start + GROUP]).decode())
        newline = np.array([self.newline], dtype=np.int32)
        parts = []
        for encoded in self.tokenizer.encode_documents(texts):
            parts += [encoded, newline]

        ids = np.concatenate(parts)
        is_newline = ids == self.newline
        lengths = np.diff(np.flatnonzero(is_newline), prepend=-1) - 1
        return ids[~is_newline].astype(np.int32), lengths


def word_starts(joined: np.ndarray, text_starts: np.ndarray) -> np.ndarray:
    """Return where words begin, and the end of the last one.

    A word begins with each text, with each run of spaces, and before and after each newline.

    Args:
        joined: (bytes,) uint8, all texts.
        text_starts: (texts + 1,), where each text begins, and the end of the last one.

    Returns:
        (words + 1,) int64.
    """
    begins = np.zeros(len(joined) + 1, dtype=bool)
    # Bytes of other characters in UTF-8 are never those of a space or a newline.
    is_space = joined == ord(" ")
    begins[1:-1] = is_space[1:] & ~is_space[:-1]
    newlines = np.flatnonzero(joined == ord("\n"))
    begins[newlines] = True
    begins[newlines + 1] = True
    begins[text_starts] = True
    return np.flatnonzero(begins).astype(np.int64)
