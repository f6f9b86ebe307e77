"""A long run takes no more memory and no more open files at its end than after its beginning."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from momentum_gpt.core.files import read_json_lines
from tests.conftest import SMOKE

STEPS = 2000
BEGINNING = 500


def resources(process: int) -> tuple[float, int]:
    """Return the resident memory in MB and the number of open files."""
    status = Path(f"/proc/{process}/status").read_text()
    memory = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert memory
    return int(memory[1]) / 1024, len(list(Path(f"/proc/{process}/fd").iterdir()))


@pytest.mark.chaotic
@pytest.mark.timeout(900)
def test_memory_and_open_files_stay_flat_for_2000_steps(data_folder: Path, tmp_path: Path) -> None:
    """With checkpoints every 20 steps and evaluations every 100."""
    options = [*SMOKE, f"training.max_steps={STEPS}", "training.save_every=20"]
    options += ["training.eval_every=100", "training.log_every=5"]
    command = ["momentum_gpt.train", "name=x", f"data={data_folder}", f"runs={tmp_path}", *options]
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL)
    seen: dict[int, tuple[float, int]] = {}
    while process.poll() is None:
        time.sleep(1)
        records = read_json_lines(tmp_path / "x" / "metrics.jsonl")
        if records and records[-1]["step"] < STEPS:
            try:
                seen[records[-1]["step"]] = resources(process.pid)
            except FileNotFoundError:
                break
    assert process.wait() == 0

    later = {step: found for step, found in seen.items() if step >= BEGINNING}
    steps = np.array(list(later))
    memory, files = np.array(list(later.values())).T
    assert len(steps) >= 5
    slope = np.polyfit(steps, memory, 1)[0]  # MB a step
    print(
        f"memory {memory.min():.0f} to {memory.max():.0f} MB, {1000 * slope:+.2f} MB in 1,000 steps"
    )
    print(f"open files {files.min():.0f} to {files.max():.0f}")
    assert 1000 * slope < 0.01 * memory.mean()
    assert files.max() - files.min() <= 3  # a checkpoint may just be being written
