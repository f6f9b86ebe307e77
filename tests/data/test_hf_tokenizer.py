"""A tokenizer in transformers' form splits every text as it does here."""

from __future__ import annotations

import functools
import io
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers

from data_prep.settings import TokenizerConfig
from data_prep.train_tokenizer import train
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Tokenizer, load_tokenizer
from momentum_gpt.data.hf_tokenizer import SPACE, fuzzed_texts, write_tokenizer

MODULES = ["textwrap", "inspect", "ast", "heapq", "typing"]
SOURCES = [Path(sysconfig.get_path("stdlib"), f"{name}.py").read_text() for name in MODULES]

LOOKS_SPECIAL = "a <s>strike</s> <unk> <pad>x<0x0A><0x0B>\n" * 40
TEXTS = [*SOURCES, LOOKS_SPECIAL]


def written(folder: Path, model: bytes) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    """Return the tokenizer of a model, and what `tokenizers` reads of its export."""
    (folder / "tokenizer.model").write_bytes(model)
    tokenizer = load_tokenizer(folder)
    write_tokenizer(folder, tokenizer, folder / "tokenizer.model", 64)
    converted = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    converted.encode_special_tokens = True  # what split_special_tokens in its config does
    return tokenizer, converted


@functools.cache
def ours(kind: str) -> bytes:
    return train(TEXTS, TokenizerConfig(vocab_size=600, model_type=kind))


def trained(**options: Any) -> bytes:
    """Return a model with sentencepiece's own names of the control pieces."""
    model = io.BytesIO()
    common = {
        "sentence_iterator": iter("\n".join(TEXTS).split("\n")),
        "model_writer": model,
        "vocab_size": 600,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "byte_fallback": True,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(**(common | options))
    return model.getvalue()


def check_the_same(tokenizer: Tokenizer, converted: tokenizers.Tokenizer, texts: list[str]) -> None:
    for text, encoding in zip(texts, converted.encode_batch(texts), strict=True):
        ids = tokenizer.encode(text)
        assert encoding.ids == ids, text[:80]
        decoded = converted.decode(ids, skip_special_tokens=False)
        assert decoded == text.replace(SPACE, " ")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_thousands_of_texts_have_the_same_tokens(tmp_path: Path, kind: str) -> None:
    """Runs of spaces have many equally good splits, of which rounding would choose one."""
    tokenizer, converted = written(tmp_path, ours(kind))
    lines = [line for text in SOURCES for line in text.splitlines(keepends=True)]
    random = fuzzed_texts(tokenizer.pieces, 4000)
    special = [*tokenizer.pieces[:8], "".join(tokenizer.pieces[:8]), LOOKS_SPECIAL]
    check_the_same(tokenizer, converted, ["", *special, *random, *set(lines), *SOURCES])


def test_a_unigram_model_adds_the_scores_of_a_long_text_exactly(tmp_path: Path) -> None:
    """Its scores sum to more than 2^20 nats, where fp32 has steps of 1/8."""
    tokenizer, converted = written(tmp_path, ours("unigram"))
    text = "".join(SOURCES) * 3
    assert converted.encode(text).ids == tokenizer.encode(text)
    assert -sum(tokenizer.model.pieces[i].score for i in tokenizer.encode(text)) > 2**20


def test_a_bpe_with_the_names_of_sentencepiece_is_converted(tmp_path: Path) -> None:
    """Tokenizers of earlier versions have them."""
    tokenizer, converted = written(tmp_path, trained(model_type="bpe", pad_id=3))
    check_the_same(tokenizer, converted, ["", LOOKS_SPECIAL, *fuzzed_texts(tokenizer.pieces, 500)])
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert [again.pieces[i] for i in (again.eos_id, again.pad_id)] == ["</s>", "<pad>"]
    assert again.byte_ids().tolist() == tokenizer.byte_ids().tolist()


def test_a_byte_level_tokenizer_has_no_pieces_of_single_bytes(tmp_path: Path) -> None:
    """The ids are used as indices, also when there are none."""
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(SOURCES, vocab_size=400, special_tokens=["<|endoftext|>"])
    trained.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert np.ones(tokenizer.vocab_size)[tokenizer.byte_ids()].size == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model_type": "bpe", "add_dummy_prefix": True}, "it normalises text or adds spaces"),
        ({"model_type": "bpe", "user_defined_symbols": ["def"]}, "it has user-defined"),
        ({"model_type": "unigram"}, "its scores are no multiples of 1/64"),
        ({"model_type": "word", "hard_vocab_limit": False}, "it is neither BPE nor unigram"),
    ],
)
def test_what_would_split_texts_differently_is_refused(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=f"cannot be exported: .*, because {reason}"):
        written(tmp_path, trained(**options))


def test_transformers_begins_a_text_with_the_end_of_a_document_where_asked(tmp_path: Path) -> None:
    """As lm-eval does with add_bos_token=True; its template allows no colon in a token's name."""
    from transformers import AutoTokenizer

    tokenizer, _ = written(tmp_path, ours("bpe"))
    loaded = AutoTokenizer.from_pretrained(tmp_path, add_bos_token=True)
    text = "def main():"
    assert loaded(text)["input_ids"] == [tokenizer.eos_id, *tokenizer.encode(text)]
