"""Few-shot in-context learning: the demonstrations are read once for each (task, seed), and every query goes on from there.

    score(c) = sum_j log p(y_j | demonstrations, query, y_<j)        for each candidate c = y_1 ... y_m

A prompt is: the end of a document, then each demonstration (prompt, answer) and a separator, then the query's prompt. Tokens
are made part by part, so that no token spans the query and its answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from momentum_gpt.core.config import IclConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Tokenizer
from momentum_gpt.evaluation.few_shot.shared_prefix import Request, requests_of, score_requests
from momentum_gpt.evaluation.few_shot.tasks import (
    Example,
    IclTask,
    demonstrations,
    flipped,
    load_examples,
    load_task,
    neutral_prompts,
)

QUERIES = 2000
"""Of a task, where nothing says how many; as in Dai et al.'s code."""

HEADLINE = "per_token"
"""As in Dai et al.'s code; the same as sum where every answer is one token."""


@dataclass
class Asked:
    """The queries of a task, encoded; the same for every number of demonstrations and seed."""

    task: IclTask
    neutral: list[list[int]]
    """Prompts without content."""
    numbers: list[int]
    """Of the queries, among the examples of the test split."""
    examples: list[Example]
    prompts: list[list[int]]
    candidates: list[list[list[int]]]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its longest answer."""
        pairs = zip(
            [*self.prompts, *self.neutral],
            [*self.candidates, *self.candidates[:1] * len(self.neutral)],
            strict=True,
        )
        return max(len(prompt) + max(map(len, answers)) for prompt, answers in pairs)

    @property
    def requests(self) -> list[Request]:
        return requests_of(self.prompts, self.candidates)

    @property
    def gold(self) -> np.ndarray:
        return np.array([example.gold for example in self.examples])


def evaluate_icl(
    model: nn.Module, tokenizer: Tokenizer, config: IclConfig, seq_len: int, tokens_per_forward: int
) -> Iterator[dict[str, Any]]:
    """One record for each task, number of demonstrations that fits, and seed. Every rank must go through all of them.

    Keys: task, k, k_asked, seed, n, left_out, acc and acc/SCORE, acc/calibrated, acc/flipped, soft (mean share of the right
    candidate), majority, chosen (how often each candidate), seconds, right (1 or 0 a query), loss (-log of the right
    candidate's share, nats, a query), queries (their numbers among the test split's examples), scores (of each query's
    candidates, nats: sum, of which the others are parts, and pmi), verified (see `verify`).

    Raises:
        UserError: a task that cannot be loaded, or no query of which fits the context.
    """
    for name in config.tasks:
        task, train, asked, left_out = prepare_task(name, tokenizer, config, seq_len)
        fitting = Fitting(task, train, asked, tokenizer, config, seq_len)
        alone = without_prompt(model, [tokenizer.eos_id], asked, tokens_per_forward)
        neutral = (
            asked.neutral if task.verbalizers else []
        )  # candidates of a query's own have no bias in common
        for k, k_asked in fitting.numbers():
            for seed in range(config.seeds if k else 1):
                began = time.perf_counter()
                prefix = fitting.prefix(k, seed)
                scores, without_content = score_queries(
                    model, prefix, asked, neutral, tokens_per_forward
                )
                record = {
                    "task": task.name,
                    "k": k,
                    "k_asked": k_asked,
                    "seed": seed,
                    "left_out": left_out,
                }
                record |= summarize(scores, without_content, alone, asked)
                if config.flipped and k:
                    wrong, _ = score_queries(
                        model, fitting.prefix(k, seed, flip=True), asked, [], tokens_per_forward
                    )
                    record["acc/flipped"] = accuracy(normalized(wrong, asked)[HEADLINE], asked.gold)
                if config.verify:
                    record["verified"] = verify(model, prefix, asked, scores, config.verify)
                yield record | {"seconds": time.perf_counter() - began}


def prepare_task(
    name: str, tokenizer: Tokenizer, config: IclConfig, seq_len: int
) -> tuple[IclTask, list[Example], Asked, int]:
    """The task, the examples to demonstrate with, the queries that fit the context, and how many did not."""
    task = load_task(name)
    train, test = load_examples(task, config.data)
    numbers = np.random.default_rng(config.queries_seed).permutation(len(test))[
        : config.queries or QUERIES
    ]
    encoded = [
        (
            i,
            test[i],
            tokenizer.encode(test[i].prompt),
            [tokenizer.encode(text) for text in test[i].candidates],
        )
        for i in sorted(numbers.tolist())
    ]
    fitting = [it for it in encoded if 1 + len(it[2]) + max(map(len, it[3])) <= seq_len]
    if not fitting:
        raise UserError(
            f"task {task.name}: none of {len(encoded)} queries fits the model's context of {seq_len} tokens"
        )
    neutral = [ids for text in neutral_prompts(task) if (ids := tokenizer.encode(text))]
    asked = Asked(task, neutral, *(list(column) for column in zip(*fitting, strict=True)))
    return task, train, asked, len(encoded) - len(fitting)


@dataclass
class Fitting:
    """How many demonstrations fit before the longest query, and what they look like."""

    task: IclTask
    train: list[Example]
    asked: Asked
    tokenizer: Tokenizer
    config: IclConfig
    seq_len: int

    def numbers(self) -> list[tuple[int, int]]:
        """(k that fits for every seed, the k that was asked for), each k once."""
        room = self.seq_len - self.asked.longest - 1
        fits = min(
            int(np.searchsorted(np.cumsum(sizes), room, side="right")) for sizes in self._sizes()
        )
        found: dict[int, int] = {}
        for k_asked in sorted(self.config.k):
            found.setdefault(min(k_asked, fits), k_asked)
        return list(found.items())

    def _sizes(self) -> Iterator[list[int]]:
        """Tokens of each demonstration, seed by seed."""
        for seed in range(self.config.seeds):
            shown = demonstrations(self.train, max(self.config.k), self.task.name, seed)
            wrong = map(flipped, shown) if self.config.flipped else shown
            yield [
                max(len(self.shown(a)), len(self.shown(b)))
                for a, b in zip(shown, wrong, strict=True)
            ]

    def prefix(self, k: int, seed: int, flip: bool = False) -> list[int]:
        """The tokens before the query: the end of a document, and k demonstrations."""
        tokens = [self.tokenizer.eos_id]
        for example in demonstrations(self.train, k, self.task.name, seed):
            tokens += self.shown(flipped(example) if flip else example)
        return tokens

    def shown(self, example: Example) -> list[int]:
        answer = example.candidates[example.gold]
        return (
            self.tokenizer.encode(example.prompt) + self.tokenizer.encode(answer) + self.separator
        )

    @property
    def separator(self) -> list[int]:
        return (
            [self.tokenizer.eos_id]
            if self.config.separator == "eos"
            else self.tokenizer.encode(self.config.separator)
        )


def score_queries(
    model: nn.Module,
    prefix: list[int],
    asked: Asked,
    neutral: list[list[int]],
    tokens_per_forward: int,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The log-probability of each candidate, nats, query by query; and of the first query's behind each neutral prompt."""
    prompts, candidates = (
        [*asked.prompts, *neutral],
        [*asked.candidates, *asked.candidates[:1] * len(neutral)],
    )
    scores = score_requests(model, prefix, requests_of(prompts, candidates), tokens_per_forward)
    split = np.split(scores, np.cumsum([len(answers) for answers in candidates])[:-1])
    return split[: len(asked.prompts)], split[len(asked.prompts) :]


def normalized(scores: list[np.ndarray], asked: Asked) -> dict[str, list[np.ndarray]]:
    """The scores but pmi, query by query."""
    of_query = list(zip(scores, asked.candidates, asked.examples, strict=True))
    return {
        "sum": scores,
        "per_token": [it / np.array(list(map(len, answers))) for it, answers, _ in of_query],
        "per_char": [
            it / np.array([len(text.lstrip()) for text in example.candidates])
            for it, _, example in of_query
        ],
        "per_byte": [
            it / np.array([len(text.encode()) for text in example.candidates])
            for it, _, example in of_query
        ],
    }


def accuracy(scores: list[np.ndarray], gold: np.ndarray) -> float:
    """Of ties the first candidate is taken."""
    return float(np.mean([it.argmax() == right for it, right in zip(scores, gold, strict=True)]))


def summarize(
    scores: list[np.ndarray],
    without_content: list[np.ndarray],
    alone: list[np.ndarray],
    asked: Asked,
) -> dict[str, Any]:
    """What is told of one (task, k, seed).

    Args:
        scores: of each query's candidates, nats.
        without_content: of the candidates behind the demonstrations and a prompt without content, for several of these.
        alone: of each query's candidates behind such a prompt without demonstrations.
    """
    kinds = normalized(scores, asked)
    kinds["pmi"] = [it - own for it, own in zip(scores, alone, strict=True)]
    gold = asked.gold
    shares = [_softmax(it) for it in kinds[HEADLINE]]
    right_share = np.array([share[right] for share, right in zip(shares, gold, strict=True)])
    record: dict[str, Any] = {"n": len(gold)}
    record |= {f"acc/{kind}": accuracy(its, gold) for kind, its in kinds.items()}
    record["acc"] = record[f"acc/{HEADLINE}"]
    record["majority"] = float(np.bincount(gold).max() / len(gold))
    record["soft"] = float(right_share.mean())
    if without_content:
        lengths = np.array(list(map(len, asked.candidates[0])))
        bias = np.log(np.mean([_softmax(it / lengths) for it in without_content], axis=0))
        record["acc/calibrated"] = accuracy([it - bias for it in kinds[HEADLINE]], gold)
    chosen = np.array([it.argmax() for it in kinds[HEADLINE]])
    record["chosen"] = np.bincount(chosen, minlength=max(map(len, scores))).tolist()
    record["queries"] = asked.numbers
    record["scores"] = {
        kind: [np.round(it, 5).tolist() for it in kinds[kind]] for kind in ("sum", "pmi")
    }
    record["right"] = (chosen == gold).astype(int).tolist()
    record["loss"] = np.round(-np.log(np.maximum(right_share, 1e-30)), 5).tolist()
    return record


def without_prompt(
    model: nn.Module, prefix: list[int], asked: Asked, tokens_per_forward: int
) -> list[np.ndarray]:
    """The log-probability of each candidate behind a prompt without content; where all queries have the same, computed once."""
    same = bool(asked.task.verbalizers)
    candidates = asked.candidates[:1] if same else asked.candidates
    scores = score_requests(
        model,
        prefix,
        requests_of(asked.neutral[:1] * len(candidates), candidates),
        tokens_per_forward,
    )
    split = np.split(scores, np.cumsum([len(answers) for answers in candidates])[:-1])
    return split * len(asked.candidates) if same else split


@torch.no_grad()
def verify(
    model: nn.Module, prefix: list[int], asked: Asked, scores: list[np.ndarray], n: int
) -> float:
    """The largest difference, nats, of the first n queries to a plain pass over the whole prompt of each candidate."""
    device = next(model.parameters()).device
    worst = 0.0
    for prompt, answers, its in list(zip(asked.prompts, asked.candidates, scores, strict=True))[:n]:
        for answer, score in zip(answers, its, strict=True):
            tokens = torch.tensor([[*prefix, *prompt, *answer]], device=device)
            logp = (
                model(tokens[:, :-1], document_ids=torch.zeros_like(tokens[:, :-1]))
                .float()
                .log_softmax(-1)[0, -len(answer) :]
            )
            plain = logp[torch.arange(len(answer)), tokens[0, -len(answer) :]].double().sum().item()
            worst = max(worst, abs(plain - score))
    return worst


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()
