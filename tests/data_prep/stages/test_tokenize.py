"""Encoding with a tokenizer that is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tokenizers

from data_prep import prepare
from momentum_gpt.data import load_tokenizer
from tests.conftest import Result
from tests.data_prep.samples import ONE_PROCESS, all_documents

Invoke = Callable[..., Result]

END = "<|endoftext|>"


def test_a_byte_level_tokenizer_is_read_from_its_json_file(
    invoke: Invoke,
    text_folder: Path,
    tmp_path: Path,
) -> None:
    """As GPT-2's: trained here, with `tokenizers`, on the same text."""
    files = sorted(text_folder.glob("*.txt"))
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train([str(path) for path in files], vocab_size=500, special_tokens=[END])
    trained.save(str(tmp_path / "tokenizer.json"))

    output = tmp_path / "out"
    done = invoke(
        prepare.main,
        "corpus=text",
        f"corpus.paths={text_folder}",
        f"tokenizer.path={tmp_path / 'tokenizer.json'}",
        f"output={output}",
        "validation_fraction=0.25",
        ONE_PROCESS,
    )
    assert done.code == 0, done.err
    assert "whole documents are encoded" in done.out
    texts = [path.read_text(encoding="utf-8") for path in files]
    assert sorted(all_documents(output)) == sorted(texts)

    tokenizer = load_tokenizer(output)
    assert tokenizer.encode("import os") == trained.encode("import os").ids
    text = f"{END} is text here"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_id not in tokenizer.encode(END)
