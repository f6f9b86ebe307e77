"""The hub's own client, on a local folder with the hub's layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.sources import Document, build_corpus
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
