"""The tokenizer loses nothing."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.train_tokenizer import TokenizerConfig, forecast, sample, train
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Tokenizer, load_tokenizer
from momentum_gpt.data.tokenizer import CONTROL_PIECES

SOURCE = Path(textwrap.__file__).read_text(encoding="utf-8")
TEXTS = [*SOURCE.split("\n\n"), "Die Straße, naïve café — 日本語.\n"]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(train(TEXTS, TokenizerConfig(vocab_size=400, model_type=request.param)))


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(alphabet=st.characters(exclude_characters="\u2581", exclude_categories=("Cs",)))
)
def test_any_text_without_the_space_mark_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  a   b    ",
        "\n\n\n\ta\r\n",
        "\0",
        "<s></s><unk><0x0A>",
        "".join(CONTROL_PIECES.values()),
        "ﬁ ﬀ ① Å",
        "a\u00a0b",
        "\ufeffx",
        "🙂👩‍👩‍👧",
    ],
)
def test_texts_that_tokenizers_like_to_change_come_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_runs_of_spaces_become_pieces() -> None:
    """Indentation must not cost a token a space."""
    tokenizer = Tokenizer(train(TEXTS, TokenizerConfig(vocab_size=400)))
    assert len(tokenizer.encode(" " * 8)) <= 2


def test_text_that_looks_like_a_control_piece_is_learnt_like_other_text() -> None:
    """Sentencepiece learns no piece from the names of its own control pieces."""
    text = "a <unk> b <hub> c </s> d </p> e <pad> f <lap> g\n" * 200
    tokenizer = Tokenizer(train([text, SOURCE], TokenizerConfig(vocab_size=500)))
    for special, other in ((" <unk>", " <hub>"), (" </s>", " </p>"), (" <pad>", " <lap>")):
        assert len(tokenizer.encode(special)) == len(tokenizer.encode(other))
        assert not set(tokenizer.encode(special)) & set(tokenizer.byte_ids().tolist())


def test_the_names_of_the_control_pieces_are_text_where_they_stand_in_text(
    tokenizer: Tokenizer,
) -> None:
    control = {tokenizer.pieces.index(name): name for name in CONTROL_PIECES.values()}
    assert sorted(control) == [0, 1, 2, 3]
    for name in control.values():
        assert not set(tokenizer.encode(f"a {name} b")) & set(control)


def test_encoding_many_texts_at_once_is_encoding_each(tokenizer: Tokenizer) -> None:
    texts = [*TEXTS[:50], "", SOURCE * 3]
    many = tokenizer.encode_documents(texts, num_threads=2)
    assert [ids.tolist() for ids in many] == [tokenizer.encode(text) for text in texts]


def test_ordinary_ids_are_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.ordinary_ids()
    assert tokenizer.eos_id not in ids
    assert len(ids) == tokenizer.vocab_size - 4 - 256
    assert all(tokenizer.decode([i]) for i in ids)


def test_the_same_text_gives_the_same_tokenizer() -> None:
    assert train(TEXTS, TokenizerConfig(vocab_size=400)) == train(
        TEXTS, TokenizerConfig(vocab_size=400)
    )


def test_the_sample_is_bounded_and_does_not_depend_on_the_order() -> None:
    few = sample(TEXTS, 8000)
    assert 4000 < sum(len(text.encode()) for text in few) <= 8000
    assert sorted(few) == sorted(sample(reversed(TEXTS), 8000))
    assert [len(text) for text in sample(["x" * 5000], 2000)] == [2000]


def test_too_little_text_names_the_largest_vocabulary() -> None:
    with pytest.raises(
        UserError,
        match=r"tokenizer\.vocab_size=5000 does not fit this text of 11 bytes: take at most \d+",
    ):
        train(["hello world"], TokenizerConfig(vocab_size=5000))


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_text("not a model")
    with pytest.raises(UserError, match="is not a sentencepiece model"):
        load_tokenizer(tmp_path)


def test_too_few_pieces_for_the_characters_name_how_many_they_need() -> None:
    with pytest.raises(UserError, match="its characters alone need"):
        train([SOURCE], TokenizerConfig(vocab_size=300))


def test_endless_lines_and_nul_bytes_do_not_end_the_training() -> None:
    """A megabyte without a newline, as minified code may have it, is seen in pieces."""
    endless = "".join(SOURCE.split("\n")) * 80
    assert len(endless) > 1_000_000
    tokenizer = Tokenizer(
        train([endless, "\0" * 1000, "a\0b " * 1000], TokenizerConfig(vocab_size=400))
    )
    for text in (endless[:100_000], "\0a\0"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_line_with_a_character_of_sentencepieces_own_is_learnt_from() -> None:
    """Sentencepiece leaves out every line with U+2585."""
    with_mark = SOURCE.replace("\n", "\u2585\n")
    plain, marked = (
        Tokenizer(train([text], TokenizerConfig(vocab_size=400))) for text in (SOURCE, with_mark)
    )
    assert marked.pieces == plain.pieces
    assert marked.decode(marked.encode(with_mark)) == with_mark


@pytest.mark.parametrize("texts", [[], ["\n\n"], ["\0"]])
def test_a_sample_without_text_is_refused(texts: list[str]) -> None:
    with pytest.raises(UserError, match="nothing but newlines and NUL; give text"):
        train(texts, TokenizerConfig())


def test_the_forecast_of_memory_grows_with_the_text_up_to_the_sample() -> None:
    small, bounded = (
        forecast(TokenizerConfig(), 10**7),
        forecast(TokenizerConfig(sample_bytes=10**7), 10**12),
    )
    assert small == bounded
    assert 0.3 < small < 1
    assert forecast(TokenizerConfig(model_type="unigram"), 10**8) > 2 * forecast(
        TokenizerConfig(), 10**8
    )


def test_ids_that_only_pad_an_embedding_are_no_text(tokenizer: Tokenizer) -> None:
    ids = [int(i) for i in tokenizer.encode("a word")]
    assert tokenizer.decode([*ids, tokenizer.vocab_size, tokenizer.vocab_size + 7]) == "a word"
