"""The hub's own client, on a local folder with the hub's layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard

from data_prep.sources import Document, Faults, build_corpus
from momentum_gpt.core.errors import UserError
from tests.data_prep.samples import json_lines, texts


@pytest.mark.parametrize("streaming", [False, True])
def test_a_local_folder_with_the_hubs_layout_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    streaming: bool,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = [" = A = \n", "a\n", "", " = = B = = \n", " = C = \n", "c\n"]
    (tmp_path / "train.jsonl").write_bytes(json_lines(*rows))
    (tmp_path / "validation.jsonl").write_bytes(json_lines("v"))
    options = {"kind": "hub", "dataset": str(tmp_path), "streaming": streaming}

    by_title = texts(**options, document_start=" = [^=].* = \n?$")
    assert by_title == [" = A = \na\n = = B = = \n", " = C = \nc\n"]
    assert texts(**options, max_documents=2) == [" = A = \n", "a\n"]
    corpus = build_corpus({**options, "validation_split": "validation"})
    assert list(corpus.documents())[-1] == Document("v", "validation")

    message = r"has no column 'body': its columns are text; set corpus.column"
    with pytest.raises(UserError, match=message):
        texts(**options, column="body")
    with pytest.raises(UserError, match="split 'dev' cannot be loaded"):
        texts(**options, split="dev")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_packed_file_that_is_cut_short_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    """`datasets` reads the first frame and ends without a word."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    frames = [zstandard.compress(json_lines(text)) for text in ("one", "two")]
    (tmp_path / "train.jsonl.zst").write_bytes(b"".join(frames)[:-2])
    with pytest.raises(UserError, match=r"train\.jsonl\.zst cannot be read .*cut short"):
        texts(kind="hub", dataset=str(tmp_path), streaming=streaming)


def test_a_row_without_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = "".join(json.dumps({"text": text}) + "\n" for text in ["one", None, "three"])
    (tmp_path / "train.jsonl").write_text(rows)
    corpus = build_corpus({"kind": "hub", "dataset": str(tmp_path)})
    with pytest.raises(UserError, match="row 2: column 'text' is null: leave out the row"):
        list(corpus.documents())
    found = []
    for part in corpus.parts(1):  # one row each
        found += corpus.read(part, faults := Faults(skip=True))
        assert ("row 2" in faults.first.get("no text", "")) == (part.start == 1)
    assert [document.text for document in found] == ["one", "three"]
