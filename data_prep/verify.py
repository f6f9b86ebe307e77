"""Check that a folder of token shards is what its manifest says.

If it is not, the message says which bytes of which file are wrong.

    momentum-gpt verify data=data/stdlib
"""

from __future__ import annotations

from pathlib import Path

from data_prep.settings import VerifyConfig
from momentum_gpt.cli import Command
from momentum_gpt.core.errors import UserError


def check(config: VerifyConfig) -> None:
    """Check the folder, and print what it holds.

    Raises:
        UserError: it is not what was written.
    """
    from data_prep.stages.verify import find_problem
    from momentum_gpt.data.shards import read_manifest

    folder = Path(config.data)
    problem = find_problem(folder)
    if problem:
        raise UserError(f"{problem}: prepare the data again")

    manifest = read_manifest(folder)
    shards = sum(len(entries) for entries in manifest.splits.values())
    tokens = sum(manifest.tokens(split) for split in manifest.splits)
    print(f"{folder} is complete: {shards:,} shards, {tokens:,} tokens, all bytes as written")


main = Command(check, VerifyConfig, "verify")


if __name__ == "__main__":
    main()
