"""Every option of `prepare`, `verify` and `bench_tokenize`: its type, its unit and its bounds.

The text under each field is its documentation: `--help` and the option reference show it. This
file imports nothing that is slow to import, so that `--help` is fast.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from momentum_gpt.core.errors import UserError, require, require_at_least, require_choice

STAGES = (
    "documents",
    "curate",
    "deduplicate",
    "near_deduplicate",
    "decontaminate",
    "tokenizer",
    "tokenize",
    "write",
    "verify",
)
"""The stages of a preparation, in the order in which they run."""

FILTERS = (
    "language",
    "gopher_repetition",
    "gopher_quality",
    "c4_quality",
    "fineweb_quality",
    "pii",
)
"""datatrove's filters, in the order in which they are applied: that of FineWeb."""

EXECUTORS = ("local", "slurm", "ray")
MODEL_TYPES = ("bpe", "unigram")
UNICODE_FORMS = ("NFC", "NFKC")
ON_ERROR = ("stop", "skip")

SMALLEST_VOCABULARY = 261
"""4 control pieces, 256 single bytes and one more."""


@dataclass
class StdlibCorpusConfig:
    """The source and documentation of the running Python's standard library, about 12 MB.

    Every machine has this text. It has no options.
    """


@dataclass
class TextCorpusConfig:
    """Local text files, plain or packed (.gz, .bz2, .zst), .jsonl files and .parquet files."""

    paths: list[str]
    """Files, folders and globs.

    Of a folder, every text file below it is read, except for hidden and binary files.
    """
    validation_paths: list[str] | None = None
    """Files, folders and globs for validation. null: documents are split by a hash of the text."""
    separator: str | None = None
    r"""Text between the documents of a text file, where \n and \t mean newline and tab.

    It is dropped. null: each text file is one document.
    """
    document_start: str | None = None
    """Regular expression that matches at the start of the first line of each document.

    It applies to text files, as an alternative to `separator`. null: not used.
    """
    column: str = "text"
    """Field of a .jsonl line, or column of a .parquet file, that holds the text."""


@dataclass
class HubCorpusConfig:
    """A data set of the Hugging Face hub, or a local folder with the hub's layout.

    It is read by `datasets`; no code that comes with the data set is run.
    """

    dataset: str
    """Name on the hub, e.g. roneneldan/TinyStories, or a local folder."""
    config: str | None = None
    """Configuration of the data set, e.g. wikitext-103-raw-v1. null: its only or default one."""
    split: str = "train"
    """Split of the data set to train on."""
    validation_split: str | None = None
    """Split of the data set for validation. null: documents are split by a hash of their text."""
    column: str = "text"
    """Column that holds the text."""
    revision: str | None = None
    """Commit, branch or tag; only a commit makes the result repeatable. null: the newest commit."""
    streaming: bool = False
    """Whether the text is read over the network during preparation, instead of downloaded first."""
    document_start: str | None = None
    """Regular expression that matches at the start of the first row of each document.

    It is for data sets with one line in each row. null: each row is a document.
    """
    max_documents: int | None = None
    """Number of documents to read from each split, at most. null: all."""

    def __post_init__(self) -> None:
        require_at_least(1, "corpus.max_documents", self.max_documents)


@dataclass
class MixConfig:
    """Several corpora, either all of each once, or in given proportions of training tokens."""

    sources: dict[str, Any]
    """Corpora by name, each with its kind, the options of that kind, `weight` and `max_epochs`.

    For instance {web: {kind: text, paths: [web/], weight: 3}, code: {kind: stdlib, weight: 1}}.
    """


@dataclass
class MixShareConfig:
    """The options that each source of a mix takes besides those of its kind."""

    weight: float | None = None
    """Share of the training tokens, relative to the other weights. null: all text, once."""
    max_epochs: float = 1.0
    """How often a document may be repeated, on average, to reach the weight."""


CORPUS_CONFIGS: dict[str, type] = {
    "stdlib": StdlibCorpusConfig,
    "text": TextCorpusConfig,
    "hub": HubCorpusConfig,
    "mix": MixConfig,
}
"""The options of each `corpus.kind`."""

CorpusConfig = StdlibCorpusConfig | TextCorpusConfig | HubCorpusConfig | MixConfig


def corpus_config(
    options: Mapping[str, Any],
    section: str = "corpus",
    kinds: Collection[str] = tuple(CORPUS_CONFIGS),
) -> CorpusConfig:
    """Return the options of a corpus as the dataclass of its kind.

    Args:
        options: `kind` and the fields of its dataclass.
        section: what the options' names begin with on the command line.
        kinds: the kinds that are allowed here.

    Raises:
        UserError: an unknown kind, an unknown or missing option, or a value of a wrong type.
    """
    kind = options.get("kind")
    require(kind in kinds, f"{section}.kind", kind, f"one of {', '.join(kinds)}")
    schema = CORPUS_CONFIGS[str(kind)]

    values = {name: value for name, value in options.items() if name != "kind"}
    # A single path may be written without brackets.
    for name in ("paths", "validation_paths"):
        if isinstance(values.get(name), str) and values[name] != "???":
            values[name] = [values[name]]

    _refuse_unknown(values, schema, section, str(kind))
    _refuse_missing(values, schema, section, str(kind))
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), values)
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        rule = str(error).splitlines()[0]
        raise UserError(f"{section}.{error.full_key}: {rule}") from None


def _refuse_unknown(values: Mapping[str, Any], schema: type, section: str, kind: str) -> None:
    known = [entry.name for entry in fields(schema)]
    for name in values:
        if name in known:
            continue
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{section}.{close[0]}'? " if close else ""
        listed = f"it has {', '.join(known)}" if known else "it has none"
        raise UserError(f"{section}.kind={kind} has no option '{section}.{name}': {hint}{listed}")


def _refuse_missing(values: Mapping[str, Any], schema: type, section: str, kind: str) -> None:
    for entry in fields(schema):
        required = entry.default is MISSING and entry.default_factory is MISSING
        if not required or values.get(entry.name, "???") != "???":
            continue
        option = f"{section}.{entry.name}"
        remedy = f"add {option}=... to the command"
        if section != "corpus":
            # A source of a mix is written inside braces.
            remedy = f"write {{kind: {kind}, {entry.name}: ...}} for this source"
        raise UserError(f"{option} is not set: {remedy}")


@dataclass
class CleanConfig:
    """What is changed in the text of a document, and which documents are left out.

    By default only newlines are changed, and only empty documents are left out.
    """

    normalize: str | None = None
    """Unicode normalization form: NFC | NFKC. null: the text stays as it is."""
    newlines: bool = True
    r"""Whether \r\n and \r become \n. Documents are cut at all three in any case."""
    min_bytes: int = 0
    """Documents with fewer bytes of UTF-8 are left out."""
    max_bytes: int | None = None
    """Documents with more bytes of UTF-8 are left out. null: there is no limit."""

    def __post_init__(self) -> None:
        require_choice((None, *UNICODE_FORMS), "clean.normalize", self.normalize)
        require_at_least(0, "clean.min_bytes", self.min_bytes)
        require_at_least(1, "clean.max_bytes", self.max_bytes)


@dataclass
class CurateConfig:
    """datatrove's filters of documents, by their quality and language. None is on by default.

    They apply to training and validation documents.
    """

    filters: list[str] = field(default_factory=list)
    """Filters to apply, in this order whatever the order they are given in.

    language | gopher_repetition | gopher_quality | c4_quality | fineweb_quality | pii. All but
    pii need packages of the extra `curation`.
    """
    arguments: Any = None
    """Arguments of datatrove's classes, by filter, e.g. {gopher_quality: {min_doc_words: 20}}.

    null: all have datatrove's defaults.
    """
    language: str = "eng"
    """Language by whose rules datatrove cuts words and sentences, as a code of ISO 639-3."""
    languages: list[str] = field(default_factory=list)
    """Languages that the filter `language` keeps, as its model names them, e.g. [en]."""
    language_model: str | None = None
    """File of a fastText model for the filter `language`, e.g. lid.176.bin. null: none."""

    def __post_init__(self) -> None:
        for name in self.filters:
            require_choice(FILTERS, "curate.filters", name)
        rule = "a mapping from filters to their arguments, or null"
        require(_is_nested(self.arguments), "curate.arguments", self.arguments, rule)
        if "language" not in self.filters:
            return

        model = self.language_model
        require(bool(self.languages), "curate.languages", self.languages, "a list such as [en]")
        if model is None or not Path(model).is_file():
            raise UserError(
                f"curate.language_model must be the file of a fastText model, got {model!r}: "
                "fetch https://dl.fbaipublicfiles.com/fasttext/supervised-models/lid.176.bin"
            )


def _is_nested(arguments: Any) -> bool:
    if arguments is None:
        return True
    return isinstance(arguments, dict) and all(
        isinstance(each, dict) for each in arguments.values()
    )


@dataclass
class DecontaminateConfig:
    """The search for text of evaluation sets in the training documents."""

    sets: list[str] = field(default_factory=list)
    """Evaluation sets to look for.

    Each is a .jsonl file, a folder with such files, or a few-shot task of conf/icl/ by its name;
    [known] stands for all of those tasks.
    """
    data: str | None = None
    """Folder that holds the few-shot tasks, as in evaluation.icl.data. null: the hub."""
    drop: bool = True
    """Whether training documents with such text are left out, or, if false, only reported."""
    words: int = 13
    """Number of equal words in a row that count as an overlap."""
    least_words: int = 8
    """Texts of items with fewer words are not looked for."""

    def __post_init__(self) -> None:
        require_at_least(1, "decontaminate.words", self.words)
        require_at_least(1, "decontaminate.least_words", self.least_words)


@dataclass
class TokenizerConfig:
    """The tokenizer: an existing one, or one that is trained on a sample of the text."""

    path: str | None = None
    """A sentencepiece model, or a `tokenizer.json` such as GPT-2's, to use. null: train one."""
    vocab_size: int = 32000
    """Size of the trained vocabulary; 4 control pieces and 256 single bytes are part of it."""
    model_type: str = "bpe"
    """Algorithm of the trained tokenizer: bpe | unigram."""
    sample_bytes: int = 100_000_000
    """Amount of training text that the tokenizer is trained on, at most, in bytes."""

    def __post_init__(self) -> None:
        require_choice(MODEL_TYPES, "tokenizer.model_type", self.model_type)
        require(
            self.vocab_size >= SMALLEST_VOCABULARY,
            "tokenizer.vocab_size",
            self.vocab_size,
            "above 260: 4 control pieces and 256 bytes",
        )
        require_at_least(1, "tokenizer.sample_bytes", self.sample_bytes)


@dataclass
class ExecutorConfig:
    """Where the tasks of a stage run. The result does not depend on it."""

    kind: str = "local"
    """Where tasks run: local (processes on this machine) | slurm | ray."""
    workers: int | None = None
    """Number of tasks that run at a time. null: one for each core, or no limit on a cluster."""
    partition: str | None = None
    """SLURM partition; required with executor=slurm. null: none."""
    time: str = "24:00:00"
    """SLURM time limit of one task, as hours:minutes:seconds."""
    memory_gb: int = 4
    """Memory that SLURM or Ray reserves for one task, in GB."""
    address: str = "auto"
    """Address of the running Ray cluster."""

    def __post_init__(self) -> None:
        require_choice(EXECUTORS, "executor.kind", self.kind)
        require_at_least(1, "executor.workers", self.workers)
        require_at_least(1, "executor.memory_gb", self.memory_gb)
        if self.kind == "slurm" and not self.partition:
            raise UserError("executor=slurm needs a partition: add executor.partition=...")


@dataclass
class PrepareConfig:
    """A preparation: from a corpus to a folder of token shards."""

    output: str
    """Folder to create for the token shards."""
    corpus: dict[str, Any]
    """Where the text comes from: `corpus.kind` and the options of that kind."""
    tokenizer: TokenizerConfig
    """The tokenizer."""
    clean: CleanConfig = field(default_factory=CleanConfig)
    """What is changed in the documents."""
    curate: CurateConfig = field(default_factory=CurateConfig)
    """Filters by quality and language, and the removal of personal data."""
    deduplicate: bool = True
    """Whether only the first of several documents with equal text is kept."""
    near_deduplicate: bool = False
    """Whether one of several training documents with nearly equal text is kept, found by MinHash.

    Training documents near a validation document are left out, too.
    """
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    """The search for text of evaluation sets."""
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    """Where the tasks run."""
    validation_fraction: float | None = None
    """Share of the documents that become validation data.

    It applies where the corpus has no validation data of its own. null: 0.05; 0.2 of stdlib, which
    has few documents.
    """
    shard_tokens: int = 268_435_456
    """Size of a shard, in tokens, rounded up to whole documents (512 MiB of uint16)."""
    piece_bytes: int = 67_108_864
    """Amount of text that one task reads, about, in bytes (64 MiB)."""
    on_error: str = "stop"
    """What to do about input that cannot be read: stop | skip (leave it out, and count it)."""
    until: str = "verify"
    """Last stage to run.

    documents | curate | deduplicate | near_deduplicate | decontaminate | tokenizer | tokenize |
    write | verify.
    """

    def __post_init__(self) -> None:
        fraction = self.share_for_validation
        require(0 < fraction < 1, "validation_fraction", fraction, "between 0 and 1")
        require_at_least(1, "shard_tokens", self.shard_tokens)
        require_at_least(1, "piece_bytes", self.piece_bytes)
        require_choice(ON_ERROR, "on_error", self.on_error)
        require_choice(STAGES, "until", self.until)

    @property
    def share_for_validation(self) -> float:
        """The share of the documents that become validation data, 0 to 1."""
        if self.validation_fraction is not None:
            return self.validation_fraction
        return 0.2 if self.corpus.get("kind") == "stdlib" else 0.05

    def made_with(self) -> dict[str, Any]:
        """Return the options that the shards depend on."""
        free = ("output", "executor", "until")
        return {name: value for name, value in asdict(self).items() if name not in free}


@dataclass
class VerifyConfig:
    """A check of token shards."""

    data: str
    """Folder of token shards."""


@dataclass
class BenchTokenizeConfig:
    """A comparison of the speed of tokenization."""

    paths: list[str] = field(default_factory=list)
    """Text to encode: files, folders and globs, as with corpus=text. Empty: the standard library
    of Python, as with corpus=stdlib."""
    tokenizer: TokenizerConfig = field(
        default_factory=lambda: TokenizerConfig(vocab_size=16000, sample_bytes=30_000_000)
    )
    """The tokenizer."""
    max_bytes: int = 150_000_000
    """Amount of text to read, at most, in bytes."""
    part_bytes: int = 10_000_000
    """Amount of text that the slower methods encode, in bytes."""

    def __post_init__(self) -> None:
        require_at_least(1, "max_bytes", self.max_bytes)
        require_at_least(1, "part_bytes", self.part_bytes)
