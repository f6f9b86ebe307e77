"""What is measured of every model, in the training loop and afterwards.

Both go through the same functions, so that their numbers agree. A suite is planned before it is
run: its cost is known, and it can be given to several models.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
from torch import nn

from momentum_gpt.core.config import EvaluationConfig
from momentum_gpt.core.terminal import Advance, ignore_progress
from momentum_gpt.data import SyntheticTask
from momentum_gpt.evaluation.few_shot.measure import measure_task, task_tokens
from momentum_gpt.evaluation.few_shot.prompts import Prompts, prepare_task
from momentum_gpt.evaluation.induction import induction, induction_tokens
from momentum_gpt.evaluation.perplexity import Pass, perplexity, plan_passes
from momentum_gpt.evaluation.records import FewShotRecord, Measured
from momentum_gpt.evaluation.statistics import margin, over_queries
from momentum_gpt.evaluation.synthetic import measure_answers
from momentum_gpt.evaluation.targets import TOKENS, Stream, Targets, choose_targets

EvaluationData = Stream | SyntheticTask
"""What a model is measured on: documents, or sequences of a synthetic task."""

SEQUENCES = 64
"""Sequences of the induction probe, where nothing says how many."""


@dataclass
class TextSuite:
    """What is measured on a stream of documents.

    Perplexity by context length, loss by position, the in-context-learning score, the induction
    probe and few-shot tasks.
    """

    stream: Stream
    seq_len: int
    """The longest context, tokens."""
    targets: Targets
    passes: list[Pass]
    """Passes of perplexity over the targets."""
    n_sequences: int
    """Sequences of the induction probe; 0 where the context is too short for it."""
    tasks: list[Prompts] = field(default_factory=list)
    """Few-shot tasks."""
    seconds: float = 0.0
    """Time that planning took."""

    @property
    def n_tokens(self) -> int:
        """Tokens that go forward through the model."""
        in_passes = sum(one.layout.n_tokens for one in self.passes)
        in_tasks = sum(map(task_tokens, self.tasks))
        return in_passes + induction_tokens(self.seq_len, self.n_sequences) + in_tasks

    def measure(
        self, model: nn.Module, tokens_per_forward: int, advance: Advance = ignore_progress
    ) -> Measured:
        """Return metrics and records of a model. Every rank must call this.

        Args:
            model: tokens (B, T) -> logits (B, T, V).
            tokens_per_forward: most tokens in a forward pass, on each rank.
            advance: called with the tokens done, `n_tokens` in all.
        """
        began = time.perf_counter()
        was_training = model.training
        model.eval()

        metrics, by_length = perplexity(
            model, self.targets, self.passes, self.seq_len, tokens_per_forward, advance
        )
        if self.n_sequences:
            token_ids = self.stream.tokenizer.ordinary_ids()
            metrics |= induction(
                model, token_ids, self.seq_len, self.n_sequences, tokens_per_forward, advance
            )
        few_shot: list[FewShotRecord] = []
        for task in self.tasks:
            few_shot += measure_task(model, task, tokens_per_forward, advance)
        metrics |= few_shot_metrics(few_shot)

        model.train(was_training)
        metrics["eval/seconds"] = self.seconds + time.perf_counter() - began
        return Measured(metrics, by_length, few_shot)


@dataclass
class TaskSuite:
    """What is measured on a synthetic task: its answers, and nothing else."""

    task: SyntheticTask
    n_sequences: int

    @property
    def n_tokens(self) -> int:
        """Tokens that go forward through the model."""
        return self.n_sequences * self.task.seq_len

    def measure(
        self, model: nn.Module, tokens_per_forward: int, advance: Advance = ignore_progress
    ) -> Measured:
        """Return the metrics of a model; arguments as in `TextSuite.measure`."""
        return Measured(
            measure_answers(model, self.task, self.n_sequences, tokens_per_forward, advance)
        )


def plan_suite(
    data: EvaluationData, config: EvaluationConfig, seq_len: int
) -> TextSuite | TaskSuite:
    """Return what is measured on the data.

    Raises:
        UserError: there is nothing to score, or a few-shot task cannot be loaded.
    """
    if isinstance(data, SyntheticTask):
        return TaskSuite(data, max(1, (config.tokens or TOKENS) // seq_len))

    began = time.perf_counter()
    targets = choose_targets(data, config, seq_len)
    passes = plan_passes(targets, config, seq_len)
    # A shorter sequence has no second showing with a token to foresee.
    n_sequences = (config.induction_sequences or SEQUENCES) if seq_len >= 4 else 0
    tasks = []
    for name in config.icl.tasks:
        tasks.append(prepare_task(name, data.tokenizer, config.icl, seq_len))

    seconds = time.perf_counter() - began
    return TextSuite(data, seq_len, targets, passes, n_sequences, tasks, seconds)


def evaluate(
    model: nn.Module,
    data: EvaluationData,
    config: EvaluationConfig,
    seq_len: int,
    tokens_per_forward: int,
    advance: Advance = ignore_progress,
) -> Measured:
    """Plan a suite and measure a model. Every rank must call this, as they share the work.

    Args:
        model: tokens (B, T) -> logits (B, T, V).
        data: the validation split, other text, or a synthetic task.
        config: what is measured.
        seq_len: the longest context, tokens.
        tokens_per_forward: most tokens in a forward pass, on each rank.
        advance: called with the tokens done, as often on every rank.

    Raises:
        UserError: there is nothing to score, or a few-shot task cannot be loaded.
    """
    return plan_suite(data, config, seq_len).measure(model, tokens_per_forward, advance)


def few_shot_metrics(records: Sequence[FewShotRecord]) -> dict[str, float]:
    """Return `icl/TASK/acc@K` and what else the task has, means over seeds.

    `soft@K` is the mean share of the right candidates, `f1@K` the overlap of answers that the model
    writes with the right ones, and `ppl@K` the perplexity of texts to foresee. `acc_margin@K` is
    half the width of the accuracy's 95% interval over queries and draws of the demonstrations.
    """
    by_setting: dict[tuple[str, int], dict[int, FewShotRecord]] = defaultdict(dict)
    for record in records:
        # Several numbers asked for may have become the same k: their records are equal.
        by_setting[record.task, record.k][record.seed] = record

    metrics: dict[str, float] = {}
    for (task, k), by_seed in by_setting.items():
        seeds = list(by_seed.values())
        accuracy = f"icl/{task}/acc@{k}"
        metrics[accuracy] = fmean(record.acc for record in seeds)
        right = np.array([record.right for record in seeds], dtype=float)  # (draws, queries)
        metrics |= margin(accuracy, over_queries(right))

        others = {
            "soft": [record.soft for record in seeds if record.soft is not None],
            "f1": [fmean(record.f1) for record in seeds if record.f1 is not None],
            "ppl": [record.ppl for record in seeds if record.ppl is not None],
        }
        for name, values in others.items():
            if values:
                metrics[f"icl/{task}/{name}@{k}"] = fmean(values)
    return metrics
