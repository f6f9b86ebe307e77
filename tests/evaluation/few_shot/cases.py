"""What the tests of few-shot scoring share: small tasks, and models of known probabilities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from momentum_gpt.core.config import IclConfig, ModelConfig
from momentum_gpt.data import Tokenizer
from momentum_gpt.evaluation.few_shot.measure import measure_task
from momentum_gpt.evaluation.few_shot.prompts import prepare_task
from momentum_gpt.evaluation.records import FewShotRecord
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import init_weights


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a .jsonl file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_task(folder: Path, template: str, verbalizers: list[str]) -> str:
    """Write a task with the examples in `train.jsonl` and `test.jsonl`; return its path."""
    path = folder / "task.yaml"
    path.write_text(
        f"dataset: {folder}\n"
        "test_split: test\n"
        f"template: {json.dumps(template)}\n"
        f"verbalizers: {json.dumps(verbalizers)}\n"
    )
    return str(path)


def write_colours(folder: Path, verbalizers: list[str], n_test: int = 12) -> str:
    """Write a task with 20 examples to demonstrate with; labels take turns."""
    for split, n in (("train", 20), ("test", n_test)):
        rows = []
        for i in range(n):
            text = f"{split} thing {i} of some kind"
            rows.append({"text": text, "label": i % len(verbalizers)})
        write_rows(folder / f"{split}.jsonl", rows)
    return write_task(folder, "Thing: {text} Colour:", verbalizers)


def model_of(attention: dict[str, Any], seq_len: int = 512, positions: str = "learned") -> GPT:
    """Return a model with weights that matter, in float64."""
    shape = ModelConfig(2, 2, 16, seq_len, vocab_size=512, init_std=0.2, positions=positions)
    model = GPT(shape, attention)
    init_weights(model, 0)
    return model.double().eval()


def measure(
    model: nn.Module, tokenizer: Tokenizer, config: IclConfig, seq_len: int = 512
) -> list[FewShotRecord]:
    """Return the records of all tasks."""
    records: list[FewShotRecord] = []
    for name in config.tasks:
        prompts = prepare_task(name, tokenizer, config, seq_len)
        records += measure_task(model, prompts, tokens_per_forward=1500)
    return records


class Bigram(nn.Module):
    """Gives tokens 300 and 301 probabilities by the last token; all others share the rest evenly.

    Args:
        table: last token -> the two probabilities.
        default: those after any other token.
    """

    def __init__(
        self, table: dict[int, tuple[float, float]], default: tuple[float, float] = (0.1, 0.1)
    ) -> None:
        super().__init__()
        self.config = ModelConfig(1, 1, 4, 512, vocab_size=512)
        self.table = table
        self.default = default
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(
        self, tokens: Tensor, cache: Any = None, n_new: Any = None, at: Any = None
    ) -> Tensor:
        cache.begin(tokens.shape[1], n_new)
        cache.end(tokens.shape[1])
        last = tokens if at is None else tokens.gather(1, at.expand(len(tokens), -1))  # (B, T)
        pairs = [[self.table.get(int(i), self.default) for i in row] for row in last]
        a, b = torch.tensor(pairs).unbind(-1)  # (B, T) each
        probabilities = ((1 - a - b) / 510)[..., None].repeat(1, 1, 512)
        probabilities[..., 300] = a
        probabilities[..., 301] = b
        return probabilities.log()


class Repeating(Bigram):
    """Gives a high probability to that of tokens 300 and 301 that was read last in the prefix."""

    def __init__(self) -> None:
        super().__init__({})

    def forward(
        self, tokens: Tensor, cache: Any = None, n_new: Any = None, at: Any = None
    ) -> Tensor:
        if len(tokens) == 1 and cache.longest == 0:
            answers = [int(i) for i in tokens[0] if i in (300, 301)]
            self.default = (0.1, 0.1)
            if answers:
                self.default = (0.8, 0.1) if answers[-1] == 300 else (0.1, 0.8)
        return super().forward(tokens, cache, n_new, at)
