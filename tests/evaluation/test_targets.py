"""The sample that is scored: spread over documents, and each smaller one a part of the larger."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from momentum_gpt.core.config import EvaluationConfig
from momentum_gpt.data import Texts, TokenShards, load_tokenizer
from momentum_gpt.evaluation.targets import Targets, choose_targets, document_ends

SIZES = (3, 40, 1, 200, 90, 17, 0, 64, 300, 55) * 6
"""Tokens of the documents, without their ends."""


@pytest.fixture(scope="module")
def stream(data_folder: Path) -> Texts:
    """Return documents of the sizes above, made of tokens that stand for letters."""
    tokenizer = load_tokenizer(data_folder)
    texts = Texts(["x"], tokenizer, 10**6, "texts")
    ids = tokenizer.encode("a b c d e f g h")
    documents = [[*(ids * 40)[:size], tokenizer.eos_id] for size in SIZES]
    texts.tokens = np.concatenate(documents)
    return texts


def places(targets: Targets) -> set[int]:
    """Return where the targets stand in the stream."""
    found: set[int] = set()
    for start, size in zip(targets.starts.tolist(), targets.sizes.tolist(), strict=True):
        found |= set(range(start, start + size))
    return found


def choose(stream: Texts | TokenShards, tokens: int, documents: str | None = None) -> Targets:
    return choose_targets(stream, EvaluationConfig(tokens=tokens, documents=documents), 32)


@pytest.mark.parametrize("documents", ["stream", "apart"])
def test_a_smaller_sample_is_a_part_of_every_larger_one(stream: Texts, documents: str) -> None:
    samples = [places(choose(stream, n, documents)) for n in (32, 64, 320, 1600, 10**6)]
    for smaller, larger in pairwise(samples):
        assert smaller < larger

    sizes = [len(sample) for sample in samples]
    assert sizes[:-1] == [32, 64, 320, 1600]
    everything = (len(stream) - 1) // 32 * 32 if documents == "stream" else sum(SIZES)
    assert sizes[-1] == everything


def test_a_sample_is_spread_over_documents(stream: Texts) -> None:
    """Ten windows of 144 and more: the first ten would see 5 of the 60 documents."""
    first = np.searchsorted(document_ends(stream), np.arange(1, 321))
    assert len(set(first.tolist())) == 5

    sample = choose(stream, 320)
    assert len(set(sample.documents.tolist())) > 10
    assert sample.documents.max() > 40


def test_targets_know_their_document(stream: Texts) -> None:
    """The end of a document is its own last target."""
    number = np.repeat(np.arange(len(SIZES)), np.array(SIZES) + 1)
    for documents in ("stream", "apart"):
        targets = choose(stream, 640, documents)
        assert targets.documents.tolist() == number[sorted(places(targets))].tolist()


def test_a_last_document_without_an_end_is_a_document(stream: Texts) -> None:
    ends = document_ends(stream)
    assert ends.tolist() == (np.cumsum(np.array(SIZES) + 1) - 1).tolist()

    cut = Texts(["x"], stream.tokenizer, 10**6, "cut")
    cut.tokens = stream.tokens[:-5]
    assert document_ends(cut).tolist() == [*ends[:-1].tolist(), len(cut)]


def test_neighbouring_windows_have_one_text_and_a_word_counts_where_it_begins(
    data_folder: Path,
) -> None:
    """Everything is scored but the first token: the text of each document is whole."""
    tokenizer = load_tokenizer(data_folder)
    written = ["one two\nthree  four extraordinarily five", "six seven", "eight nine ten"] * 9
    stream = Texts(written, tokenizer, 10**6, "texts")
    n = len(stream) - 1
    divisor = next(size for size in range(2, n + 1) if n % size == 0)
    targets = choose_targets(stream, EvaluationConfig(tokens=n), divisor)
    assert len(targets) == n

    found = list(targets.texts())
    assert [text.text for text in found[1:]] == written[1:]
    assert [text.n_words for text in found[1:]] == [len(text.split()) for text in written[1:]]

    # Windows with gaps between them cut words: those that begin in a window add up to all.
    cut = Targets(stream, np.array([1]), np.array([n // 2]), document_ends(stream), apart=False)
    rest = Targets(
        stream, np.array([1 + n // 2]), np.array([n - n // 2]), document_ends(stream), apart=False
    )
    n_words = sum(text.n_words for part in (cut, rest) for text in part.texts())
    assert n_words == sum(text.n_words for text in found)
