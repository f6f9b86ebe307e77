"""Few-shot scoring beside lm-eval's own model of transformers: the same requests, in turns in one process, CPU seconds.

    python -m momentum_gpt.bench.few_shot run=exported/a data=DIR
    python -m momentum_gpt.bench.few_shot run=exported/a data=DIR tasks=[piqa] k=8 queries=50

The run is a folder that both read: an export, or a GPT-2 of transformers with a tokenizer.json. Needs lm-eval: pip install
'momentum-gpt[harness]'.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from momentum_gpt.cli import Command
from momentum_gpt.core import distributed
from momentum_gpt.core.config import IclConfig, require
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import load_tokenizer
from momentum_gpt.evaluation.few_shot.measure import Fitting, prepare_task
from momentum_gpt.evaluation.few_shot.tasks import demonstrations
from momentum_gpt.models.weights import load_model_config


@dataclass
class BenchFewShotConfig:
    run: str
    data: str | None = None
    """A folder with TASK/SPLIT.jsonl. null: the hub."""
    tasks: list[str] = field(default_factory=lambda: ["sst2", "sst5"])
    k: int = 32
    """Demonstrations; as many of them as fit the context."""
    queries: int = 200
    batch_size: int = 8
    """Of lm-eval's model."""

    def __post_init__(self) -> None:
        for name in ("k", "queries", "batch_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


def bench_few_shot(config: BenchFewShotConfig) -> None:
    try:
        from lm_eval.models.huggingface import HFLM

        from momentum_gpt.evaluation.few_shot.lm_eval_model import NativeLM
    except ModuleNotFoundError as missing:
        raise UserError(
            f"{missing.name} is not installed: pip install 'momentum-gpt[harness]'"
        ) from None
    logging.disable(logging.WARNING)
    ours = NativeLM(run=config.run)
    device = str(distributed.local_device())
    theirs = HFLM(
        config.run,
        trust_remote_code=True,
        dtype="float32",
        device=device,
        batch_size=config.batch_size,
    )
    print(
        f"{'task':<14}{'k':>4}{'context':>9}{'requests':>10}{'ours':>9}{'lm-eval':>9}{'ratio':>7}  largest difference"
    )
    for name in config.tasks:
        k, requests = requests_of(name, config)
        mine, seconds = timed(ours.loglikelihood, requests)
        its, their_seconds = timed(theirs.loglikelihood, requests)
        difference = max(abs(a - b) for (a, _), (b, _) in zip(mine, its, strict=True))
        context = len(ours.tok_encode(requests[0].args[0]))
        print(
            f"{name:<14}{k:>4}{context:>9,}{len(requests):>10,}{seconds:>8.1f}s{their_seconds:>8.1f}s"
            f"{their_seconds / seconds:>7.1f}  {difference:.1e} nats",
            flush=True,
        )


def requests_of(name: str, config: BenchFewShotConfig) -> tuple[int, list[Any]]:
    """How many demonstrations fit, and lm-eval's requests: one for each query and candidate."""
    from lm_eval.api.instance import Instance

    tokenizer, seq_len = load_tokenizer(config.run), load_model_config(config.run).seq_len
    icl = IclConfig(tasks=[name], data=config.data, k=[config.k], seeds=1, queries=config.queries)
    task, train, asked, _ = prepare_task(name, tokenizer, icl, seq_len)
    ((k, _),) = Fitting(task, train, asked, tokenizer, icl, seq_len).numbers()
    shown = demonstrations(train, k, task.name, seed=0)
    before = "".join(f"{example.prompt}{example.candidates[example.gold]}\n" for example in shown)
    pairs = [
        (before + example.prompt, text) for example in asked.examples for text in example.candidates
    ]
    return k, [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]


def timed(score: Callable[..., Any], requests: list[Any]) -> tuple[Any, float]:
    began = time.process_time()
    return score(requests, disable_tqdm=True), time.process_time() - began


main = Command(bench_few_shot, BenchFewShotConfig, "bench_few_shot")


if __name__ == "__main__":
    main()
