"""Text to token shards, in stages: documents, deduplicate, decontaminate, tokenizer, tokenize, write, verify.

    python -m data_prep.prepare corpus=stdlib output=data/stdlib tokenizer.vocab_size=2048
    python -m data_prep.prepare corpus=text corpus.paths=[novels/,more.jsonl.zst] output=data/mine tokenizer.vocab_size=8192
    python -m data_prep.prepare corpus=fineweb_edu output=data/fineweb_edu executor=slurm executor.partition=cpu
    python -m data_prep.prepare corpus=stdlib output=data/stdlib until=deduplicate

The same command goes on where it was stopped; `until=STAGE` stops behind a stage, and the next command goes on. A folder that
is there already is left alone. What is made depends on the text and the options, never on the number of workers.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.dedup.exact_dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
)
from datatrove.pipeline.writers.jsonl import JsonlWriter

from data_prep.corpora import Part, build_sources
from data_prep.decontaminate import (
    DecontaminateConfig,
    FindContamination,
    evaluation_files,
    write_index,
)
from data_prep.executors import ExecutorConfig, run_stage
from data_prep.steps import (
    CleanConfig,
    Documents,
    LeaveOut,
    Read,
    Sample,
    Shard,
    Stretch,
    Tokenize,
    WriteShards,
    bytes_of,
    chosen_documents,
    priority_of,
    write_json,
)
from data_prep.summary import describe, document_lengths, first_batch
from data_prep.train_tokenizer import TokenizerConfig, train_apart
from data_prep.verify import verify
from data_prep.words import cuts_are_exact
from momentum_gpt.cli import Command
from momentum_gpt.core.config import require
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import load_tokenizer
from momentum_gpt.data.shards import FORMAT, SPLITS, VERSION, read_manifest, token_dtype
from momentum_gpt.data.tokenizer import tokenizer_file

STAGES = ("documents", "deduplicate", "decontaminate", "tokenizer", "tokenize", "write", "verify")


@dataclass
class PrepareConfig:
    output: str
    """The folder to make."""
    corpus: dict[str, Any]
    """Its kind and the options of its class in data_prep/corpora.py."""
    tokenizer: TokenizerConfig
    clean: CleanConfig = field(default_factory=CleanConfig)
    deduplicate: bool = True
    """Of documents with equal text the first stays."""
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    validation_fraction: float = 0.05
    """Share of the documents that become validation, where the corpus has no validation part of its own."""
    shard_tokens: int = 268_435_456
    """Tokens in a shard, about: 512 MiB in uint16."""
    piece_bytes: int = 67_108_864
    """Text of one task, about: 64 MiB."""
    on_error: str = "stop"
    """stop | skip: leave bad input out, and count it."""
    until: str = "verify"
    """The last stage to run."""

    def __post_init__(self) -> None:
        require(
            0 < self.validation_fraction < 1,
            "validation_fraction",
            self.validation_fraction,
            "between 0 and 1",
        )
        require(self.shard_tokens >= 1, "shard_tokens", self.shard_tokens, "at least 1")
        require(self.piece_bytes >= 1, "piece_bytes", self.piece_bytes, "at least 1")
        require(self.on_error in ("stop", "skip"), "on_error", self.on_error, "one of stop, skip")
        require(self.until in STAGES, "until", self.until, f"one of {', '.join(STAGES)}")

    def made_with(self) -> dict[str, Any]:
        """The options that what is made depends on."""
        free = ("output", "executor", "until")
        return {key: value for key, value in asdict(self).items() if key not in free}


def prepare(config: PrepareConfig) -> int:
    """Make the folder of token shards: beside it, until it is whole."""
    output = Path(config.output)
    if is_there(output, config.made_with()):
        print(f"{output} is prepared already")
        return 0
    with Preparation(config).begun() as preparation:
        for stage in STAGES[: STAGES.index(config.until) + 1]:
            getattr(preparation, stage)()
        if config.until != STAGES[-1]:
            print(
                f"stopped behind {config.until}, as until= says; the same command without it goes on"
            )
            return 0
        preparation.finish(output)
    return 0


def is_there(output: Path, made_with: dict[str, Any]) -> bool:
    """Whether the folder is there, made with the same options.

    Raises:
        UserError: something else is there.
    """
    if not output.exists():
        return False
    if (
        output.is_dir()
        and (output / "manifest.json").is_file()
        and read_manifest(output).preparation.get("made_with") == made_with
    ):
        return True
    raise UserError(
        f"output={str(output)!r} exists and was not made with these options: choose another, or remove it"
    )


class Preparation:
    """The stages, and what they leave in the folder beside the output: `.NAME.partial/STAGE`."""

    def __init__(self, config: PrepareConfig) -> None:
        self.config = config
        output = Path(config.output)
        self.work = output.with_name(f".{output.name}.partial").absolute()
        self.sources = build_sources(config.corpus)
        self.seconds: dict[str, float] = {}
        self.key = ""
        """Of the options and the input of all stages so far: what was made with others is made again."""

    @contextmanager
    def begun(self) -> Iterator[Preparation]:
        """Keep other preparations of the same folder out; an attempt that came to nothing leaves nothing.

        Raises:
            UserError: another one is at work.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        lock = self.work / "lock"
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"another command is preparing {self.config.output}: wait for it, or choose another output"
                ) from None
            try:
                yield self
            finally:
                if self.work.is_dir() and not any(self.work.glob("*/tasks/completions/*")):
                    shutil.rmtree(self.work)

    def run(
        self,
        stage: str,
        options: Any,
        pipeline: list[Any],
        tasks: int,
        total_bytes: int = 0,
        part: str = "",
    ) -> None:
        """Run the tasks of a stage, or of a part of it, that are not complete yet."""
        folder = self.folder(stage, options) / part if part else self.folder(stage, options)
        seconds = run_stage(self.config.executor, pipeline, tasks, folder, stage, total_bytes)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def folder(self, stage: str, options: Any) -> Path:
        """The stage's folder, emptied if it was made with other options or from other input."""
        folder = self.work / stage
        described = json.dumps([self.key, options], default=str, sort_keys=True)
        key = hashlib.sha256(described.encode()).hexdigest()
        if folder.is_dir() and not (
            (folder / "key").is_file() and (folder / "key").read_text() == key
        ):
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        (folder / "key").write_text(key)
        return folder

    def done(self, stage: str) -> None:
        self.key = (self.work / stage / "key").read_text()

    @cached_property
    def pieces(self) -> list[tuple[int, list[Part]]]:
        """What each task reads: a source's place, and parts of it."""
        pieces: list[tuple[int, list[Part]]] = []
        for place, source in enumerate(self.sources):
            held: list[Part] = []
            for part in source.corpus.parts(self.config.piece_bytes):
                held.append(part)
                if (part.size == 0 and part.end is not None) or sum(
                    it.size for it in held
                ) >= self.config.piece_bytes:
                    pieces.append((place, held))
                    held = []
            if held:
                pieces.append((place, held))
        return pieces

    def reports(self, stage: str) -> list[dict[str, Any]]:
        """What each task of the stage reported."""
        return [
            json.loads(path.read_text())
            for path in sorted((self.work / stage / "reports").glob("*.json"))
        ]

    def documents(self) -> None:
        """Read, clean, filter and split."""
        config = self.config
        stamps = written_at(part.path for _, parts in self.pieces for part in parts)
        options = [
            config.corpus,
            self.pieces,
            stamps,
            asdict(config.clean),
            config.validation_fraction,
            config.on_error,
        ]
        folder = self.folder("documents", options)
        read = Read(
            config.corpus,
            self.pieces,
            config.clean,
            config.validation_fraction,
            config.on_error,
            folder,
        )
        writer = JsonlWriter(str(folder / "documents"), "${rank}.jsonl", compression="zstd")
        size = sum(part.size for _, parts in self.pieces for part in parts)
        self.run("documents", options, [read, writer], len(self.pieces), size)
        self.done("documents")
        if not any(report["documents"] for report in self.reports("documents")):
            raise UserError(
                "there is no document in this corpus: its files are empty; give more text"
            )

    @property
    def bytes_read(self) -> int:
        return sum(report["bytes"] for report in self.reports("documents"))

    def kept(self, decontaminated: bool = True) -> list[Any]:
        """Steps that give this rank's documents: those that the stages so far have left."""
        steps: list[Any] = [Documents(self.work / "documents" / "documents")]
        if self.config.deduplicate:
            steps.append(
                ExactDedupFilter(str(self.work / "deduplicate" / "duplicates"), self.dedup_config)
            )
        if decontaminated and self.config.decontaminate.sets and self.config.decontaminate.drop:
            steps.append(LeaveOut(self.work / "decontaminate" / "documents"))
        return steps

    dedup_config = ExactDedupConfig(content_getter=bytes_of, document_priority=priority_of)

    def deduplicate(self) -> None:
        """Exact duplicates, by datatrove: signatures of each piece, one merge of all."""
        folder = self.folder("deduplicate", self.config.deduplicate)
        if self.config.deduplicate:
            n = len(self.pieces)
            finders = max(1, n // 16)
            signatures, duplicates = str(folder / "signatures"), str(folder / "duplicates")
            sign = [
                Documents(self.work / "documents" / "documents"),
                ExactDedupSignature(signatures, self.dedup_config, finders),
            ]
            self.run("deduplicate", self.config.deduplicate, sign, n, part="sign")
            find = [
                ExactFindDedups(signatures, duplicates, self.dedup_config, lines_to_buffer=4096)
            ]
            self.run("deduplicate", self.config.deduplicate, find, finders, part="find")
        self.done("deduplicate")

    def decontaminate(self) -> None:
        """Look for text of the evaluation sets in what is trained on."""
        options = [
            asdict(self.config.decontaminate),
            written_at(evaluation_files(self.config.decontaminate.sets)),
        ]
        folder = self.folder("decontaminate", options)
        if not self.config.decontaminate.sets:
            print(
                "no evaluation set was named (decontaminate.sets=[known] is all that we know): the text was not checked"
            )
        else:
            if not (folder / "texts.json").is_file():
                write_json(folder / "texts.json", write_index(self.config.decontaminate, folder))
            find = [*self.kept(decontaminated=False), FindContamination(folder)]
            self.run("decontaminate", options, find, len(self.pieces), self.bytes_read)
        self.done("decontaminate")

    def tokenizer(self) -> None:
        """The given tokenizer, or one trained on a sample."""
        config = self.config.tokenizer
        options = [
            asdict(config),
            config.path and hashlib.sha256(tokenizer_file(config.path).read_bytes()).hexdigest(),
        ]
        folder = self.folder("tokenizer", options)
        if config.path is not None:
            load_tokenizer(config.path)
            file = tokenizer_file(config.path)
            shutil.copyfile(
                file, folder / f"tokenizer{'.json' if file.suffix == '.json' else '.model'}"
            )
        elif not (folder / "tokenizer.model").is_file():
            share = min(1.0, 2 * config.sample_bytes / max(1, self.bytes_read))
            self.run(
                "tokenizer",
                options,
                [*self.kept(), Sample(share, folder)],
                len(self.pieces),
                self.bytes_read,
            )
            began = time.monotonic()
            train_apart(folder / "samples", config, folder / "trained.model")
            self.seconds["tokenizer"] += time.monotonic() - began
            (folder / "trained.model").rename(folder / "tokenizer.model")
        self.done("tokenizer")

    def tokenize(self) -> None:
        """Encode the documents of each piece."""
        file = tokenizer_file(self.work / "tokenizer")
        tokenizer = load_tokenizer(file)
        if not cuts_are_exact(tokenizer):
            print(
                "this tokenizer's pieces cross spaces, or it is not a plain BPE: whole documents are encoded, more slowly"
            )
        folder = self.folder("tokenize", tokenizer.sha256)
        self.run(
            "tokenize",
            tokenizer.sha256,
            [*self.kept(), Tokenize(file, folder)],
            len(self.pieces),
            self.bytes_read,
        )
        self.done("tokenize")
        if marked := sum(report["marked"] for report in self.reports("tokenize")) * (
            file.suffix == ".model"
        ):
            print(
                f"{marked} documents hold U+2581, sentencepiece's own space mark: it is read as a space there"
            )

    def write(self) -> None:
        """The token shards and their manifest."""
        tokenizer = load_tokenizer(self.work / "tokenizer")
        options = [self.config.shard_tokens, [(it.weight, it.max_epochs) for it in self.sources]]
        folder = self.folder("write", options)
        indices = [
            np.load(path, mmap_mode="r") for path in sorted((self.work / "tokenize").glob("*.npy"))
        ]
        copies, mix = self.copies(indices)
        stretches = stretches_of(indices, copies)
        shards = shards_of(stretches, self.config.shard_tokens)
        dtype = token_dtype(tokenizer.vocab_size)
        output = folder / "output"
        step = WriteShards(shards, stretches, copies, dtype.name, self.work / "tokenize", output)
        total = sum(it.tokens for it in stretches)
        self.run("write", options, [step], len(shards), total * dtype.itemsize)
        self.done("write")
        entries = [
            json.loads(path.read_text()) for path in sorted((folder / "entries").glob("*.json"))
        ]
        file = tokenizer_file(self.work / "tokenizer")
        shutil.copyfile(file, output / file.name)
        manifest = self.manifest(tokenizer, entries, mix)
        (output / "manifest.json").write_text(
            json.dumps({**manifest, "document_tokens": document_lengths(indices)}, indent=1) + "\n"
        )

    def copies(self, indices: list[np.ndarray]) -> tuple[list[float], list[dict[str, Any]]]:
        """How often each rank's training documents stand in the shards, on average; and the mix as it came out.

        With weights w and tokens n, source s is repeated w_s T / n_s times, where T is as large as the epoch caps allow.
        """
        of_rank = [place for place, _ in self.pieces]
        tokens = [0] * len(self.sources)
        for place, index in zip(of_rank, indices, strict=True):
            tokens[place] += int(
                index["tokens"][index["split"] == SPLITS.index("train")].sum(dtype=np.int64)
            )
        for source, n in zip(self.sources, tokens, strict=True):
            if source.weight is not None and not n:
                raise UserError(
                    f"corpus.sources.{source.name} has no training text: leave it out, or give it some"
                )
        repeats = [1.0 if n else 0.0 for n in tokens]
        if self.sources[0].weight is not None:
            weights = [source.weight or 0.0 for source in self.sources]
            total = min(
                it.max_epochs * n / w
                for it, n, w in zip(self.sources, tokens, weights, strict=True)
            )
            repeats = [w * total / n for n, w in zip(tokens, weights, strict=True)]
        copies = [repeats[place] for place in of_rank]
        taken = [0] * len(self.sources)
        for place, index, times in zip(of_rank, indices, copies, strict=True):
            for copy in range(math.ceil(times)):
                taken[place] += int(
                    index["tokens"][chosen_documents(index, "train", copy, times)].sum(
                        dtype=np.int64
                    )
                )
        mix = [
            {
                "source": source.name,
                "weight": source.weight,
                "tokens": have,
                "tokens_taken": it,
                "epochs": it / max(1, have),
            }
            for source, have, it in zip(self.sources, tokens, taken, strict=True)
        ]
        return copies, mix

    def manifest(
        self, tokenizer: Any, entries: list[dict[str, Any]], mix: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Everything about the shards.

        Raises:
            UserError: a split without documents.
        """
        splits = {split: [it for it in entries if it["file"].startswith(split)] for split in SPLITS}
        for split in SPLITS:
            if not splits[split]:
                raise UserError(
                    f"no document fell into the {split} split of this corpus: give more documents, cut the files into "
                    "documents (corpus.separator, corpus.document_start), or name validation files or a validation split"
                )
        read, encoded = self.reports("documents"), self.reports("tokenize")
        n_bytes = {split: sum(report["bytes"][split] for report in encoded) for split in SPLITS}
        return {
            "format": FORMAT,
            "version": VERSION,
            "dtype": token_dtype(tokenizer.vocab_size).name,
            "vocab_size": tokenizer.vocab_size,
            "eos_id": tokenizer.eos_id,
            "tokenizer_sha256": tokenizer.sha256,
            "bytes": n_bytes,
            "by_byte": sum(report["by_byte"] for report in encoded),
            "mix": mix,
            "left_out": {
                self.sources[place].name: kinds for place, kinds in left_out(read).items()
            },
            "duplicates": self.n_duplicates() if self.config.deduplicate else None,
            "contamination": self.contamination(),
            "made_with": self.config.made_with(),
            "versions": {
                name: version(name) for name in ("momentum-gpt", "sentencepiece", "datatrove")
            },
            "sources": [
                {**part, "source": self.sources[it["source"]].name}
                for it in read
                for part in it["parts"]
            ],
            "splits": splits,
        }

    def n_duplicates(self) -> int:
        folder = self.work / "deduplicate" / "duplicates"
        return sum(path.stat().st_size // 4 for path in folder.rglob("*.c4_dup"))

    def contamination(self) -> dict[str, Any] | None:
        """Documents that hold text of each evaluation set; None where none was named."""
        if not self.config.decontaminate.sets:
            return None
        texts = json.loads((self.work / "decontaminate" / "texts.json").read_text())
        by_set: Counter[str] = Counter()
        examples: dict[str, str] = {}
        reports = self.reports("decontaminate")
        for report in reports:
            by_set.update(report["by_set"])
            examples = {**report["examples"], **examples}
        found = {
            name: {"texts": n, "documents": by_set[name], "example": examples.get(name)}
            for name, n in texts.items()
        }
        return {"documents": sum(report["documents"] for report in reports), "by_set": found}

    def verify(self) -> None:
        """Read everything back."""
        if problem := verify(self.work / "write" / "output"):
            raise UserError(f"what was written is not what is there: {problem}")

    def finish(self, output: Path) -> None:
        """Give the folder its name, and say what is in it."""
        (self.work / "write" / "output").rename(output)
        shutil.rmtree(self.work)
        print(describe(output, self.seconds))
        print(first_batch(output))


def written_at(paths: Iterable[str]) -> list[tuple[str, int]]:
    """When each of the files was written, ns: what was made of older ones is made again."""
    return sorted(
        (path, Path(path).stat().st_mtime_ns) for path in set(paths) if Path(path).is_file()
    )


def left_out(reports: list[dict[str, Any]]) -> dict[int, dict[str, int]]:
    """Source -> how many of its documents were left out, or cut, by reason."""
    by_source: dict[int, Counter[str]] = {}
    for report in reports:
        by_source.setdefault(report["source"], Counter()).update(report["left_out"])
    return {source: dict(sorted(kinds.items())) for source, kinds in by_source.items() if kinds}


def stretches_of(indices: list[np.ndarray], copies: list[float]) -> list[Stretch]:
    """Where each rank's documents stand in the stream of each split."""
    stretches = []
    for split in SPLITS:
        start = 0
        for copy in range(max(1, math.ceil(max(copies, default=1)))):
            for rank, index in enumerate(indices):
                tokens = int(
                    index["tokens"][chosen_documents(index, split, copy, copies[rank])].sum(
                        dtype=np.int64
                    )
                )
                if tokens:
                    stretches.append(Stretch(split, copy, rank, start, tokens))
                start += tokens
    return stretches


def shards_of(stretches: list[Stretch], shard_tokens: int) -> list[Shard]:
    """Each split cut at multiples of `shard_tokens`: a document is the shard's in which it begins."""
    shards = []
    for split in SPLITS:
        total = max((it.start + it.tokens for it in stretches if it.split == split), default=0)
        edges = range(0, total, shard_tokens)
        shards += [
            Shard(split, number, start, start + shard_tokens) for number, start in enumerate(edges)
        ]
    return shards


main = Command(prepare, PrepareConfig, "prepare")


if __name__ == "__main__":
    main()
