"""Time evaluation beside lm-eval's own model class of `transformers`.

    momentum-gpt bench evaluation
    momentum-gpt bench evaluation run=export/a data=DIR 'tasks=[sst2,piqa]' k=8

Few-shot tasks and whole texts are scored by both, the same requests in turns in
one process. Perplexity at three context lengths is timed beside one length at a
time. All times are CPU seconds. The run is a folder that both can read: an
export, or a GPT-2 of `transformers` with a tokenizer.json. This command needs
lm-eval: pip install 'momentum-gpt[harness]'.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from momentum_gpt.bench.processes import check_data, machine
from momentum_gpt.bench.shapes import SHAPES
from momentum_gpt.cli import Command
from momentum_gpt.core.config import EvaluationConfig, IclConfig, require
from momentum_gpt.core.errors import UserError

if TYPE_CHECKING:
    from momentum_gpt.data import TokenShards

SEQ_LEN = 1024
"""Context of the model with random weights, tokens."""

WORDS = 20
"""Words of a made query, about as many as those of sst2 have."""

TRAIN = 200
"""Made examples to demonstrate with."""

MADE_TASK = 'template: "Text: {text} Label:"\nverbalizers: [" No", " Yes"]\n'


@dataclass
class BenchEvaluationConfig:
    run: str | None = None
    """Folder of the model. null: one of the laptop's shape with a context of 1,024 and random
    weights."""
    text: str = "data/stdlib"
    """Folder of token shards, whose validation text is scored. Without a run their tokenizer is
    used."""
    tokens: int = 30_000
    """Tokens of text to score."""
    tasks: list[str] = field(default_factory=list)
    """Tasks of conf/icl/, or .yaml files. Empty: one of pieces of the text with random labels."""
    data: str | None = None
    """Folder with TASK/SPLIT.jsonl files. null: the hub."""
    k: int = 32
    """Demonstrations; as many of them as fit the context."""
    queries: int = 200
    """Queries of each task, at most."""
    batch_size: int = 8
    """Requests that lm-eval's model class computes at once."""

    def __post_init__(self) -> None:
        for name in ("tokens", "k", "queries", "batch_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


@dataclass(frozen=True)
class Timing:
    """Two ways to the same numbers."""

    what: str
    other: str
    """What it is timed beside."""
    requests: int
    """Pairs of a query and a candidate, texts, or context lengths."""
    ours: float
    """CPU seconds."""
    theirs: float
    """CPU seconds."""
    difference: float
    """Largest difference of a log-probability, nats."""

    def cells(self) -> list[str]:
        """Return the row of the table."""
        return [
            self.what,
            self.other,
            f"{self.requests:,}",
            f"{self.ours:.1f}",
            f"{self.theirs:.1f}",
            f"{self.theirs / self.ours:.1f}",
            f"{self.difference:.1e}",
        ]


HEAD = ["what", "beside", "requests", "ours", "theirs", "ratio", "largest difference"]
UNITS = ["", "", "", "CPU s", "CPU s", "", "nats"]


def bench_evaluation(config: BenchEvaluationConfig) -> None:
    """Time each way of scoring and print a table."""
    check_data(config.text, "text")
    try:
        from lm_eval.models.huggingface import HFLM

        from momentum_gpt.evaluation.few_shot.lm_eval_model import NativeLM
    except ModuleNotFoundError as missing:
        raise UserError(
            f"{missing.name} is not installed: pip install 'momentum-gpt[harness]'"
        ) from None
    from momentum_gpt.core import distributed
    from momentum_gpt.core.terminal import progress_bar, table_text
    from momentum_gpt.data import TokenShards

    logging.disable(logging.WARNING)
    shards = TokenShards(config.text, "validation")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = config.run or str(random_model(folder / "model", config.text))
        if not config.tasks:
            made = made_task(folder / "made.yaml", shards, config.queries)
            config = replace(config, tasks=[str(made)], data=str(folder))
        ours = NativeLM(run=run)
        theirs = HFLM(
            run,
            trust_remote_code=True,
            dtype="float32",
            device=str(distributed.local_device()),
            batch_size=config.batch_size,
        )

        timings = []
        with progress_bar("timing", len(config.tasks) + 2) as advance:
            for name in config.tasks:
                k, requests = requests_of(name, run, config)
                timings.append(time_task(f"{Path(name).stem}, k = {k}", ours, theirs, requests))
                advance(1)
            timings.append(time_texts(ours, theirs, shards, config.tokens))
            advance(1)
            timings.append(time_lengths(ours, shards, config.tokens))
            advance(1)
    rows = [timing.cells() for timing in timings]
    print(table_text(f"{machine()}:", HEAD, rows, UNITS))


def random_model(folder: Path, data: str) -> Path:
    """Write an export of a model with random weights and the tokenizer of token shards."""
    from momentum_gpt.data import load_tokenizer
    from momentum_gpt.export import export_tokenizer
    from momentum_gpt.models import GPT
    from momentum_gpt.models.gpt import init_weights
    from momentum_gpt.models.hf.write import write_model

    tokenizer = load_tokenizer(data)
    shape = replace(SHAPES["laptop"], seq_len=SEQ_LEN, vocab_size=tokenizer.vocab_size)
    model = GPT(shape.model, {"name": "vanilla"})
    init_weights(model, 0)
    folder.mkdir()
    export_tokenizer(folder, tokenizer, Path(data), SEQ_LEN)
    write_model(folder, model, tokenizer.eos_id, tokenizer.pad_id)
    return folder


def made_task(path: Path, shards: TokenShards, n_queries: int) -> Path:
    """Write a task of pieces of text with labels that alternate, and its examples beside it."""
    size = min(len(shards), 8 * WORDS * (TRAIN + n_queries))
    words = shards.tokenizer.decode(shards.read(0, size).tolist()).split()
    texts = [" ".join(words[first : first + WORDS]) for first in range(0, len(words), WORDS)]
    splits = {"train": texts[:TRAIN], "validation": texts[TRAIN : TRAIN + n_queries]}
    path.write_text(f"dataset: {path.stem}\ntest_split: validation\n{MADE_TASK}")
    folder = path.with_suffix("")
    folder.mkdir()
    for split, of_split in splits.items():
        rows = [{"text": text, "label": number % 2} for number, text in enumerate(of_split)]
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines)
    return path


def time_task(what: str, ours: Any, theirs: Any, requests: list[Any]) -> Timing:
    """Return how long both take for the requests of a few-shot task."""
    our_answers, our_seconds = timed(ours.loglikelihood, requests, disable_tqdm=True)
    their_answers, their_seconds = timed(theirs.loglikelihood, requests, disable_tqdm=True)

    pairs = zip(our_answers, their_answers, strict=True)
    return Timing(
        what=what,
        other="lm-eval",
        requests=len(requests),
        ours=our_seconds,
        theirs=their_seconds,
        difference=max(abs(a - b) for (a, _), (b, _) in pairs),
    )


def requests_of(name: str, run: str, config: BenchEvaluationConfig) -> tuple[int, list[Any]]:
    """Return how many demonstrations fit, and lm-eval's requests for each query and candidate."""
    from lm_eval.api.instance import Instance

    from momentum_gpt.data import load_tokenizer
    from momentum_gpt.evaluation.few_shot.prompts import prepare_task
    from momentum_gpt.models.weights import load_model_config

    tokenizer = load_tokenizer(run)
    seq_len = load_model_config(run).seq_len
    icl = IclConfig(tasks=[name], data=config.data, k=[config.k], seeds=1, queries=config.queries)
    prompts = prepare_task(name, tokenizer, icl, seq_len)
    (setting,) = prompts.settings
    task = prompts.task
    if task.by or task.asking == "write":
        raise UserError(
            f"tasks: {name!r} has parts, or answers that the model writes: take one in which the "
            "same demonstrations stand before all candidates"
        )

    before = tokenizer.decode(prompts.prefix(setting)[1:])  # lm-eval adds the end of a document

    requests: list[Any] = []
    for query in prompts.queries.asked:
        for text, scored in query.example.rows:
            for answer in scored:
                pair = (before + text, answer)
                requests.append(Instance("loglikelihood", {}, pair, len(requests)))
    return setting.k, requests


def time_texts(ours: Any, theirs: Any, shards: TokenShards, n_tokens: int) -> Timing:
    """Return how long both take for whole texts, each by itself."""
    from lm_eval.api.instance import Instance

    from momentum_gpt.evaluation.targets import choose_targets

    config = EvaluationConfig(tokens=n_tokens, documents="apart")
    targets = choose_targets(shards, config, ours.seq_len)
    texts = [of.text for of in targets.texts() if of.text]
    requests = [
        Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)
    ]
    our_answers, our_seconds = timed(ours.loglikelihood_rolling, requests, disable_tqdm=True)
    their_answers, their_seconds = timed(theirs.loglikelihood_rolling, requests, disable_tqdm=True)

    pairs = zip(our_answers, their_answers, strict=True)
    return Timing(
        what="whole texts",
        other="lm-eval",
        requests=len(requests),
        ours=our_seconds,
        theirs=their_seconds,
        difference=max(abs(a - b) for a, b in pairs),
    )


def time_lengths(ours: Any, shards: TokenShards, n_tokens: int) -> Timing:
    """Return how long perplexity takes at three context lengths together and one by one."""
    from momentum_gpt.evaluation.perplexity import (
        default_context_lengths,
        perplexity,
        plan_passes,
    )
    from momentum_gpt.evaluation.targets import choose_targets

    seq_len, at_once = ours.seq_len, ours.tokens_per_forward
    lengths = default_context_lengths(seq_len)
    config = EvaluationConfig(tokens=max(seq_len, n_tokens), context_lengths=lengths)
    targets = choose_targets(shards, config, seq_len)

    def together() -> list[float]:
        passes = plan_passes(targets, config, seq_len)
        _, records = perplexity(ours.model, targets, passes, seq_len, at_once)
        return [record.loss for record in records]

    def one_by_one() -> list[float]:
        losses = []
        for length in lengths:
            alone = EvaluationConfig(tokens=config.tokens, context_lengths=[length])
            passes = plan_passes(targets, alone, length)
            _, (record,) = perplexity(ours.model, targets, passes, length, at_once)
            losses.append(record.loss)
        return losses

    our_losses, our_seconds = timed(together)
    their_losses, their_seconds = timed(one_by_one)
    pairs = zip(our_losses, their_losses, strict=True)
    return Timing(
        what=f"perplexity at {', '.join(map(str, lengths))}",
        other="one length at a time",
        requests=len(lengths),
        ours=our_seconds,
        theirs=their_seconds,
        difference=max(abs(a - b) for a, b in pairs),
    )


def timed(act: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, float]:
    """Return what a function returns, and the CPU seconds that it takes."""
    began = time.process_time()
    found = act(*arguments, **options)
    return found, time.process_time() - began


main = Command(bench_evaluation, BenchEvaluationConfig, "bench_evaluation")


if __name__ == "__main__":
    main()
