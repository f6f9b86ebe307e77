"""What starting takes with very many shards: `python -m tests.scale --shards 100000`.

The shards are sparse files of ten million tokens each. One process opens them as a rank does and
reads windows all over; the table says how long that takes, and how much memory and how many files.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from momentum_gpt.core.files import sha256_of_file
from momentum_gpt.core.terminal import table_text
from momentum_gpt.data.shards import BLOCK_BYTES, block_hashes

TOKENS = 10_000_000
"""Of a shard."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--data", default="data/stdlib", help="token shards, for their tokenizer")
    arguments = parser.parse_args()
    rows = []
    for number in arguments.shards:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(arguments.data), Path(folder), number)
            child = [sys.executable, "-c", "from tests.scale import child; child()", folder]
            done = subprocess.run(child, check=True, capture_output=True, text=True)
            rows.append([f"{number:,}", f"{number * TOKENS:.0e}", *json.loads(done.stdout)])
    head = ["shards", "tokens", "manifest", "driver checks", "a rank opens", "1,000 windows"]
    print(table_text("", [*head, "memory", "open files"], rows))


def make(source: Path, folder: Path, number: int) -> None:
    """Make a data folder with so many training shards, which take no room on the disk."""
    manifest = json.loads((source / "manifest.json").read_text())
    first = folder / "train_00000.npy"
    np.lib.format.open_memmap(first, mode="w+", dtype=manifest["dtype"], shape=(TOKENS,)).flush()
    entry = dict(manifest["splits"]["train"][0])
    entry |= {"tokens": TOKENS, "documents": 1, "sha256": sha256_of_file(first)}
    entry |= {"block_bytes": BLOCK_BYTES, "blocks": block_hashes(first, BLOCK_BYTES)}
    with first.open("rb") as file:
        header = file.read(128)

    entries = []
    for shard in range(number):
        name = f"train_{shard:06d}.npy"
        with (folder / name).open("wb") as file:
            file.write(header)
            file.truncate(first.stat().st_size)
        entries.append(entry | {"file": name})
    manifest["splits"]["train"] = entries
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for name in ("tokenizer.model", *(e["file"] for e in manifest["splits"]["validation"])):
        (folder / name).symlink_to((source / name).resolve())


def child() -> None:
    """Print what a rank and the driver take, as a row of the table."""
    from momentum_gpt.core.batch_plan import BatchPlan
    from momentum_gpt.data import Batches, TokenShards
    from momentum_gpt.data.shards import check_shard_file, read_manifest

    folder = Path(sys.argv[1])
    process = psutil.Process()
    before = process.memory_info().rss

    began = time.perf_counter()
    manifest = read_manifest(folder)
    for entry in manifest.splits["train"]:
        check_shard_file(folder / entry.file, entry, manifest.dtype)
    checked = time.perf_counter() - began
    del manifest

    began = time.perf_counter()
    batches = Batches(TokenShards(folder), 1024, 0, BatchPlan(1000, 1000, 1, 1))
    opened = time.perf_counter() - began
    began = time.perf_counter()
    batches(0, 0, 0)
    read = time.perf_counter() - began

    size = (folder / "manifest.json").stat().st_size
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    cells = [f"{size / 1e6:.1f} MB", f"{checked:.2f} s", f"{opened:.2f} s", f"{read:.2f} s"]
    print(json.dumps([*cells, f"{memory / 1e6:.0f} MB", str(process.num_fds())]))


if __name__ == "__main__":
    main()
