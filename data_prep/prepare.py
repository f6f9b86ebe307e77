"""Prepare token shards from text.

    momentum-gpt prepare corpus=stdlib output=data/stdlib \\
        tokenizer.vocab_size=2048
    momentum-gpt prepare corpus=text 'corpus.paths=[novels/,more.jsonl.zst]' \\
        output=data/mine
    momentum-gpt prepare corpus=fineweb_edu output=data/fineweb \\
        executor=slurm executor.partition=cpu

The preparation runs in stages: documents, curate, deduplicate,
near_deduplicate, decontaminate, tokenizer, tokenize, write, verify. The same
command resumes a preparation that was stopped; until=STAGE stops it after a
stage. A folder that is complete is left alone. The result depends on the text
and the options, never on the number of workers.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.settings import STAGES, PrepareConfig
from momentum_gpt.cli import Command
from momentum_gpt.core.errors import UserError

if TYPE_CHECKING:
    from data_prep.stages import Stage, Work


def prepare(config: PrepareConfig) -> int:
    """Make a folder of token shards; it gets its name when it is complete.

    Raises:
        UserError: wrong options, or input that cannot be read.
    """
    from data_prep.sources import build_sources
    from data_prep.stages import Work

    output = Path(config.output)
    sources = build_sources(config.corpus)
    if is_prepared(output, config):
        print(f"{output} is prepared already")
        return 0

    # On the same file system as the output, so that renaming is all that is left in the end.
    folder = output.with_name(f".{output.name}.partial").absolute()
    with locked(folder, output):
        work = Work(config, sources, folder)
        for stage in stages_of(work):
            work.run(stage)
            if stage.name == config.until != STAGES[-1]:
                print(f"stopped after until={stage.name}; run the command without it to resume")
                return 0
        finish(work, output)
    return 0


def stages_of(work: Work) -> list[Stage]:
    """Return the stages, in the order in which they run."""
    from data_prep import stages

    return [
        stages.ReadDocuments(work),  # files -> documents, cleaned, each with its split
        stages.Curate(work),  # datatrove's filters of documents
        stages.Deduplicate(work),  # which documents have equal text
        stages.NearDeduplicate(work),  # which have nearly equal text
        stages.Decontaminate(work),  # which documents hold text of evaluation sets
        stages.MakeTokenizer(work),  # a sample of the documents -> a tokenizer
        stages.Tokenize(work),  # documents -> token ids
        stages.Write(work),  # token ids -> shards and manifest
        stages.Verify(work),  # everything read back
    ]


def is_prepared(output: Path, config: PrepareConfig) -> bool:
    """Return whether the folder is there, made with the same options.

    Raises:
        UserError: something else is there.
    """
    if not output.exists():
        return False
    if (output / "manifest.json").is_file():
        from momentum_gpt.data.shards import read_manifest

        if read_manifest(output).preparation.get("made_with") == config.made_with():
            return True
    raise UserError(
        f"output={str(output)!r} exists and was not made with these options: "
        "choose another folder, or remove it"
    )


@contextmanager
def locked(folder: Path, output: Path) -> Iterator[None]:
    """Create the working folder, and keep other preparations of the same output out.

    If no task was completed, the folder is removed at the end.

    Raises:
        UserError: another preparation is running.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        # The lock ends with the process, however it ends.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another command is preparing {output}: wait for it, or choose another output"
            ) from None

        try:
            yield
        finally:
            if folder.is_dir() and not any(folder.glob("*/tasks/completions/*")):
                shutil.rmtree(folder)


def finish(work: Work, output: Path) -> None:
    """Give the output its name, remove the working folder, and print what was made."""
    from data_prep.overview import describe, first_batch

    # From here the output exists; what is left of the working folder is of no use.
    (work.folder / "write" / "output").rename(output)
    shutil.rmtree(work.folder)
    print(describe(output, work.seconds))
    print(first_batch(output))


main = Command(prepare, PrepareConfig, "prepare")


if __name__ == "__main__":
    main()
