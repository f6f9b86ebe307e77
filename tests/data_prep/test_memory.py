"""A worker's memory does not grow with its input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.settings import TokenizerConfig
from data_prep.train_tokenizer import train
from tests.data.test_tokenizer import TEXTS

MEASURED = """
import resource, sys
from data_prep import prepare
try:
    prepare.main()
except SystemExit as stop:
    assert not stop.code, stop.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_memory(*arguments: str) -> int:
    """Return the largest memory of a preparation in one process, in KB."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments, "executor.workers=1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_ten_times_the_text_takes_at_most_a_fifth_more_memory(
    text_folder: Path,
    tmp_path: Path,
) -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted(text_folder.glob("*.txt"))]
    text = "\n".join(texts)
    tokenizer = tmp_path / "tokenizer.model"
    tokenizer.write_bytes(train(TEXTS, TokenizerConfig(vocab_size=400)))

    peaks = []
    for times in (1, 10):
        path = tmp_path / f"{times}.txt"
        with path.open("w") as file:
            for copy in range(40 * times):
                file.write(f"=== {copy}\n{text}\n")
        peak = peak_memory(
            "corpus=text",
            f"corpus.paths={path}",
            "corpus.document_start='=== '",
            "deduplicate=false",
            f"tokenizer.path={tokenizer}",
            "piece_bytes=10000000000",
            f"output={tmp_path / str(times)}",
        )
        peaks.append(peak)
    assert path.stat().st_size > 100e6
    assert peaks[1] <= 1.2 * peaks[0], peaks
