"""Stage 6: the tokenizer, given or trained on a sample of the training documents."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from data_prep.executors import Meter
from data_prep.stages.decontaminate import contamination, kept_documents
from data_prep.stages.deduplicate import duplicate_count
from data_prep.stages.documents import bytes_read, documents_reports
from data_prep.stages.stage import Stage
from data_prep.train_tokenizer import choose, train_apart
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import replacing, sha256_of_file
from momentum_gpt.data.hf_tokenizer import why_not_convertible
from momentum_gpt.data.tokenizer import load_tokenizer, tokenizer_file


class MakeTokenizer(Stage):
    """Leave `tokenizer.model` or `tokenizer.json`."""

    name = "tokenizer"
    needs = ("documents", "deduplicate", "decontaminate")

    def options(self) -> Any:
        """Return the options, and the hash of a given tokenizer."""
        config = self.config.tokenizer
        given = config.path and sha256_of_file(tokenizer_file(config.path))
        return [asdict(config), given]

    def run(self) -> None:
        """Copy the given tokenizer, or train one."""
        path = self.config.tokenizer.path
        if path is not None:
            self._copy(path)
        elif not (self.folder / "tokenizer.model").is_file():
            self._train()

    def _copy(self, path: str) -> None:
        tokenizer = load_tokenizer(path)  # raises a UserError if it is none
        reason = why_not_convertible(tokenizer)
        if reason is not None:
            print(f"a model with this tokenizer cannot be exported to transformers: {reason}")

        file = tokenizer_file(path)
        suffix = ".json" if file.suffix == ".json" else ".model"
        shutil.copyfile(file, self.folder / f"tokenizer{suffix}")

    def _train(self) -> None:
        config = self.config.tokenizer
        total = bytes_read(self.work)
        # Twice the share that is needed: how many documents a share selects is a matter of chance.
        share = min(1.0, 2 * config.sample_bytes / max(1, total))
        pipeline = [*kept_documents(self.work), Sample(share, self.folder)]
        self.run_tasks(pipeline, len(self.work.inputs), total)
        if not any(path.stat().st_size for path in (self.folder / "samples").iterdir()):
            raise UserError(self._why_no_training_text())

        # Not a task: it needs the samples of all tasks, and runs on one machine.
        began = time.monotonic()
        with replacing(self.folder / "tokenizer.model") as partial:
            train_apart(self.folder / "samples", config, partial)
        self.work.seconds[self.name] += time.monotonic() - began

    def _why_no_training_text(self) -> str:
        """Return what became of all documents, as the sample is empty."""
        work = self.work
        read = sum(report.documents for report in documents_reports(work.folder / "documents"))
        left = f"{duplicate_count(work) or 0:,} are equal to another one"
        found = contamination(work)
        if found is not None and work.config.decontaminate.drop:
            left += f", {found.documents:,} hold text of an evaluation set"
        return (
            f"there is no training document to train the tokenizer on: of {read:,} documents, "
            f"{left}, and the others are validation documents; give more text"
        )


class Sample(PipelineStep):
    """Write the training documents that the tokenizer may be trained on.

    They are those whose hash is in the first `share` of all hashes, and the first one of all.
    """

    type = "writer"
    name = "sample for the tokenizer"

    def __init__(self, share: float, folder: Path) -> None:
        super().__init__()
        self.share = share
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Write one JSON string a line."""
        meter = Meter(self.folder / "progress", rank)
        limit = self.share * 2**64
        first: tuple[int, str] | None = None
        path = self.folder / "samples" / f"{rank:05d}.jsonl"
        with replacing(path) as partial, partial.open("w") as file:
            for document in data:
                meter.add(len(document.text))
                if document.metadata["split"] != "train":
                    continue

                chosen = (choose(document.text), document.text)
                first = min(first or chosen, chosen)
                if chosen[0] < limit:
                    file.write(json.dumps(document.text) + "\n")
            # Of a few large documents, none may be below the limit; the sample is not empty.
            if first is not None and first[0] >= limit:
                file.write(json.dumps(first[1]) + "\n")
        meter.close()
