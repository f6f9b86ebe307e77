"""The ids of the word table are those of plain sentencepiece, on every kind of text."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.settings import TokenizerConfig
from data_prep.train_tokenizer import train
from data_prep.words import LONGEST_WORD, WordEncoder, cuts_are_exact
from momentum_gpt.data import Tokenizer
from tests.conftest import SHARED_DATA

SOURCE = Path(textwrap.__file__).read_text(encoding="utf-8")
TEXTS = [
    *SOURCE.split("\n\n"),
    "Die Straße, naïve café — 日本語のテキスト.\n",
    "Привет,  мир!\t\tждёт",
    "a  b   c    d\n\n\n  e \r\n f",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train(TEXTS, TokenizerConfig(vocab_size=500)))


def check_ids(encoder: WordEncoder, texts: list[str]) -> None:
    """Compare the ids with those of plain sentencepiece."""
    found = encoder.encode(texts)
    expected = encoder.tokenizer.encode_documents(texts)
    assert len(found) == len(expected)
    for text, ids, plain in zip(texts, found, expected, strict=True):
        assert np.array_equal(ids, plain), text


def test_prose_code_other_scripts_and_runs_of_spaces(tokenizer: Tokenizer) -> None:
    encoder = WordEncoder(tokenizer)
    for texts in (
        TEXTS,
        [SOURCE],
        ["", " ", "\n", "  \n  ", "x", ""],
        ["a\u2581b \u2581 c", "plain"],
        [],
    ):
        check_ids(encoder, texts)
        check_ids(encoder, texts)  # from a table that knows all the words


@settings(max_examples=300, deadline=None)
@given(
    texts=st.lists(
        st.text(alphabet=st.sampled_from(list("ab \n\t.0\u2581é日\u3000\u00a0\0")), max_size=40),
        max_size=5,
    )
)
def test_any_mixture_of_spaces_and_letters(tokenizer: Tokenizer, texts: list[str]) -> None:
    check_ids(WordEncoder(tokenizer), texts)


def test_the_table_is_bounded_and_long_words_are_not_remembered(tokenizer: Tokenizer) -> None:
    encoder = WordEncoder(tokenizer, most_ids=200)
    long = "x" * (LONGEST_WORD + 1)
    for part in range(40):
        check_ids(
            encoder,
            [f"word{part} {long}{part} again{part} {long}", SOURCE[part * 100 : part * 100 + 300]],
        )
        assert len(encoder.ids) < 200 + 500
        assert all(len(word) <= LONGEST_WORD for word in encoder.words)


def test_a_unigram_model_cannot_be_cut(tokenizer: Tokenizer) -> None:
    assert cuts_are_exact(tokenizer)
    unigram = TokenizerConfig(vocab_size=500, model_type="unigram")
    assert not cuts_are_exact(Tokenizer(train(TEXTS, unigram)))


@pytest.mark.parametrize(
    "option",
    [
        {"split_by_whitespace": False},
        {"add_dummy_prefix": True},
        {"normalization_rule_name": "nmt_nfkc"},
    ],
)
def test_a_bpe_of_which_words_are_not_independent_cannot_be_cut(option: dict[str, Any]) -> None:
    model = io.BytesIO()
    options = {
        "sentence_iterator": iter(SOURCE.split("\n") * 2),
        "model_writer": model,
        "model_type": "bpe",
        "vocab_size": 2000,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
        "eos_id": 2,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(**(options | option))
    assert not cuts_are_exact(Tokenizer(model.getvalue()))


@pytest.mark.shared_data
def test_every_real_document_has_the_ids_of_plain_sentencepiece_and_decodes_to_its_bytes(
    tokenizer: Tokenizer,
) -> None:
    encoder = WordEncoder(tokenizer)
    documents = 0
    for path in sorted((SHARED_DATA / "text").rglob("valid.txt")):
        text = path.read_text(encoding="utf-8")
        pieces = [text[start : start + 50_000] for start in range(0, len(text), 50_000)]
        check_ids(encoder, pieces)
        for piece, ids in zip(pieces, encoder.encode(pieces), strict=True):
            assert tokenizer.decode(ids.tolist()) == piece
        documents += len(pieces)
    assert documents > 50
