"""Time few-shot scoring beside lm-eval's own model class of `transformers`.

    momentum-gpt bench few-shot run=exported/a data=DIR
    momentum-gpt bench few-shot run=exported/a data=DIR tasks=[piqa] k=8 \\
        queries=50

Both answer the same requests, in turns in one process; times are CPU seconds.
The run is a folder that both can read: an export, or a GPT-2 of `transformers`
with a tokenizer.json. This command needs lm-eval: pip install
'momentum-gpt[harness]'.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from momentum_gpt.cli import Command
from momentum_gpt.core.config import IclConfig, require
from momentum_gpt.core.errors import UserError


@dataclass
class BenchFewShotConfig:
    run: str
    """Folder of the model."""
    data: str | None = None
    """Folder with TASK/SPLIT.jsonl files. null: the hub."""
    tasks: list[str] = field(default_factory=lambda: ["sst2", "sst5"])
    """Tasks of conf/icl/, or .yaml files."""
    k: int = 32
    """Demonstrations; as many of them as fit the context."""
    queries: int = 200
    """Queries of each task, at most."""
    batch_size: int = 8
    """Requests that lm-eval's model class computes at once."""

    def __post_init__(self) -> None:
        for name in ("k", "queries", "batch_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


@dataclass(frozen=True)
class Timing:
    """Both model classes on one task."""

    task: str
    k: int
    """Demonstrations."""
    context: int
    """Tokens of the first request's context."""
    requests: int
    """Pairs of a query and a candidate."""
    ours: float
    """CPU seconds."""
    theirs: float
    """CPU seconds."""
    difference: float
    """Largest difference of a log-probability, nats."""

    def cells(self) -> list[str]:
        """Return the row of the table."""
        return [
            self.task,
            str(self.k),
            f"{self.context:,}",
            f"{self.requests:,}",
            f"{self.ours:.1f}",
            f"{self.theirs:.1f}",
            f"{self.theirs / self.ours:.1f}",
            f"{self.difference:.1e}",
        ]


HEAD = ["task", "k", "context", "requests", "ours", "lm-eval", "ratio", "largest difference"]
UNITS = ["", "", "tokens", "", "CPU s", "CPU s", "", "nats"]


def bench_few_shot(config: BenchFewShotConfig) -> None:
    """Time both model classes on each task and print a table."""
    try:
        from lm_eval.models.huggingface import HFLM

        from momentum_gpt.evaluation.few_shot.lm_eval_model import NativeLM
    except ModuleNotFoundError as missing:
        raise UserError(
            f"{missing.name} is not installed: pip install 'momentum-gpt[harness]'"
        ) from None
    from momentum_gpt.core import distributed
    from momentum_gpt.core.terminal import progress_bar, table_text

    logging.disable(logging.WARNING)
    ours = NativeLM(run=config.run)
    theirs = HFLM(
        config.run,
        trust_remote_code=True,
        dtype="float32",
        device=str(distributed.local_device()),
        batch_size=config.batch_size,
    )

    timings = []
    with progress_bar("timing tasks", len(config.tasks)) as advance:
        for name in config.tasks:
            timings.append(time_task(name, ours, theirs, config))
            advance(1)
    print(table_text("", HEAD, [timing.cells() for timing in timings], UNITS))


def time_task(name: str, ours: Any, theirs: Any, config: BenchFewShotConfig) -> Timing:
    """Return how long both take for the same requests."""
    k, requests = requests_of(name, config)
    our_answers, our_seconds = timed(ours.loglikelihood, requests)
    their_answers, their_seconds = timed(theirs.loglikelihood, requests)

    pairs = zip(our_answers, their_answers, strict=True)
    return Timing(
        task=name,
        k=k,
        context=len(ours.tok_encode(requests[0].args[0])),
        requests=len(requests),
        ours=our_seconds,
        theirs=their_seconds,
        difference=max(abs(a - b) for (a, _), (b, _) in pairs),
    )


def requests_of(name: str, config: BenchFewShotConfig) -> tuple[int, list[Any]]:
    """Return how many demonstrations fit, and lm-eval's requests for each query and candidate."""
    from lm_eval.api.instance import Instance

    from momentum_gpt.data import load_tokenizer
    from momentum_gpt.evaluation.few_shot.prompts import prepare_task
    from momentum_gpt.models.weights import load_model_config

    tokenizer = load_tokenizer(config.run)
    seq_len = load_model_config(config.run).seq_len
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


def timed(score: Callable[..., Any], requests: list[Any]) -> tuple[Any, float]:
    """Return the answers to the requests and the CPU seconds that they took."""
    began = time.process_time()
    answers = score(requests, disable_tqdm=True)
    return answers, time.process_time() - began


main = Command(bench_few_shot, BenchFewShotConfig, "bench_few_shot")


if __name__ == "__main__":
    main()
