"""What the tests of the analysis share: a tiny task, and models with weights that matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from momentum_gpt.core.config import IclConfig, ModelConfig
from momentum_gpt.data import Tokenizer
from momentum_gpt.evaluation.few_shot.prompts import Prompts, Setting, prepare_task
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import init_weights
from tests.evaluation.few_shot.cases import write_rows, write_task

SETTING = Setting(k=3, asked=(3,), seed=0)

ATTENTIONS: dict[str, dict[str, Any]] = {
    "vanilla": {"name": "vanilla"},
    "momentum": {"name": "momentum", "ema_decay": 0.7},
    "learned": {
        "name": "momentum",
        "ema_decay": [[0.2, 0.9]],
        "learned": True,
        "normalised": True,
        "include_current": True,
    },
    "one_layer": {"name": "momentum", "ema_decay": 0.5, "layers": [1]},
    "shift": {"name": "shift", "weight": 0.5},
    "linear": {"name": "linear"},
    "linear_momentum": {"name": "linear_momentum", "ema_decay": 0.7},
}


def small_model(
    attention: str = "vanilla", positions: str = "learned", seq_len: int = 256, n_layers: int = 2
) -> GPT:
    """Return a model in float32 whose biases and norms are not trivial either."""
    shape = ModelConfig(n_layers, 2, 16, seq_len, 512, positions=positions, init_std=0.2)
    model = GPT(shape, ATTENTIONS[attention])
    init_weights(model, 0)
    with_biases(model)
    return model.eval()


def with_biases(model: GPT) -> None:
    """Give the biases and the norms the values that others have in a model of another seed."""
    other = GPT(model.config, model.attention)
    init_weights(other, 1)
    numbers = other.token_embedding.weight.detach().flatten()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.data += numbers[: parameter.numel()].view_as(parameter)


def small_task(folder: Path, tokenizer: Tokenizer, **options: Any) -> Prompts:
    """Return a task with 3 labels, an answer of several tokens among them, and 9 queries."""
    for split, n in (("train", 20), ("test", 9)):
        rows = []
        for i in range(n):
            text = f"{split} thing {i}" + " and more" * (i % 3)
            rows.append({"text": text, "label": i % 3})
        write_rows(folder / f"{split}.jsonl", rows)
    task = write_task(folder, "Thing: {text} Colour:", [" e", " red and blue", " y"])
    return prepared(task, tokenizer, **options)


def write_choices(folder: Path) -> str:
    """Write a task whose examples, in `train.jsonl` and `test.jsonl`, have answers of their own."""
    path = folder / "task.yaml"
    of_row = "candidates: options\nlabel: right\n"
    path.write_text(f"dataset: {folder}\ntest_split: test\ntemplate: '{{text}}'\n{of_row}")
    return str(path)


def prepared(task: str, tokenizer: Tokenizer, **options: Any) -> Prompts:
    """Return a task as an analysis has it."""
    config = IclConfig(tasks=[task], **{"k": [0, 3], "seeds": 2, "separator": "eos", **options})
    return prepare_task(task, tokenizer, config, 256)
