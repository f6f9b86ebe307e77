"""The pieces of an analysis: one model, one task, one draw of the demonstrations.

What is measured of a piece is kept in a file of its own, so that an analysis that was stopped goes
on where it was, and pieces can be dealt out to processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import save_file

from momentum_gpt.analysis.finetune import Finetuning, finetune, with_weights
from momentum_gpt.analysis.learning_rate import HELD_OUT, choose_learning_rate
from momentum_gpt.analysis.passes import accuracy, answer_scores, ask, gold_of
from momentum_gpt.analysis.protocols import (
    SHUFFLED,
    UNTRAINED,
    WRONG,
    Draw,
    Measures,
    add_null,
    measure,
)
from momentum_gpt.analysis.records import Pass, TrainingQueries
from momentum_gpt.analysis.settings import (
    Demonstrations,
    drawn,
    held_out,
    in_other_order,
    in_random_order,
    none_of,
    shared_tokens,
    shuffled_answers,
    untrained,
    wrong_answers,
)
from momentum_gpt.core import distributed
from momentum_gpt.core.config import IclConfig
from momentum_gpt.core.disk import writing
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import load_tokenizer
from momentum_gpt.evaluation.few_shot.prompts import Prompts, Setting, prepare_task
from momentum_gpt.models import GPT, load_model

FORMAT = 5
"""Of the files of pieces; those of another format are measured again."""

IN_FULL = 100
"""Queries of which Kendall's correlation is taken, a random sample, as in the paper's code."""

WAYS = {
    "backprop": Finetuning(lr=0.0),
    "layer_causal": Finetuning(lr=0.0, gradient="layer_causal"),
    "label": Finetuning(lr=0.0, loss="label"),
    "momentum": Finetuning(lr=0.0, momentum=0.5),
}
"""Ways to finetune. backprop is the paper's: SGD on all tokens of the demonstrations.

layer_causal keeps each layer's gradient from the layers above it (Deutch et al., arXiv
2311.07772), label has the loss of the answers alone, and momentum has SGD with momentum.
"""


@dataclass(frozen=True)
class Method:
    """How pieces are measured; part of what identifies them."""

    data: str | None
    """Folder that holds TASK/SPLIT.jsonl. None: the hub."""
    k: int
    """Demonstrations, at most."""
    draws: int
    queries: int
    protocol: str
    """default | dai2022."""
    variant: str
    """code | paper, where they differ in dai2022."""
    way: str
    """A key of WAYS."""
    lr: float | None
    """Learning rate of the finetuning. None: chosen by its accuracy."""
    orders: int
    """Other orders of the demonstrations, for the sensitivity to order."""


@dataclass(frozen=True)
class Unit:
    """A piece of an analysis."""

    model: Path
    """The model's folder."""
    task: str
    draw: int
    method: Method


@dataclass(frozen=True)
class Measured:
    """What a piece has given."""

    measures: Measures
    facts: dict[str, Any]
    """k, the learning rate, whether the finetuning diverged, the queries' rows in the test split,
    and the accuracies in other orders."""


def measured(unit: Unit, folder: Path) -> Path:
    """Measure a piece, unless that was done before, and return the file with the results.

    Raises:
        UserError: the task cannot be analysed with this model.
    """
    model = opened(unit.model)
    prompts = prompts_of(unit, model.config.seq_len)
    setting = setting_of(prompts, unit)
    path = folder / "units" / name_of(unit, identity(model), prompts, setting)
    if path.is_file():
        return path
    found = compute(unit, model, prompts, setting)
    opened.cache_clear()  # the model is an untrained one now
    # Another rank, perhaps on another host, may be at the same piece.
    unfinished = path.with_suffix(f".{socket.gethostname()}-{os.getpid()}.unfinished")
    kept = {"facts": json.dumps(found.facts), "order": json.dumps(list(found.measures))}
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(found.measures, unfinished, kept)
            unfinished.replace(path)
    finally:
        with suppress(OSError):  # it has its name, or its folder cannot be written
            unfinished.unlink()
    return path


def read(path: Path) -> Measured:
    """Return results that were kept."""
    with safe_open(path, "pt") as file:
        kept = {name: json.loads(text) for name, text in file.metadata().items()}
        return Measured({name: file.get_tensor(name) for name in kept["order"]}, kept["facts"])


def name_of(unit: Unit, model: str, prompts: Prompts, setting: Setting) -> str:
    """Return the name of a piece's file: it tells the weights, the options and what was asked.

    Args:
        unit: the piece.
        model: the hash of the model.
        prompts: the task.
        setting: its demonstrations.
    """
    options = asdict(replace(unit.method, data=None))  # the content counts, not the place
    told = [FORMAT, model, unit.draw, options, prompts.content_sha256(setting)]
    told.append(prompts.task.headline)
    if unit.method.lr is None and unit.method.protocol == "default":
        chosen_on = held_out(prompts, setting, HELD_OUT).asked
        told.append([(query.example.rows, query.example.gold) for query in chosen_on])
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    return f"{prompts.task.name}-{unit.draw}-{digest}.safetensors"


def compute(unit: Unit, model: GPT, prompts: Prompts, setting: Setting) -> Measured:
    """Measure a piece. The model is an untrained one afterwards."""
    method = unit.method
    shown, seed = drawn(prompts, setting), unit.draw
    finetuning = finetuning_of(unit, model, prompts, setting)

    draw = draw_of(model, prompts, shown, finetuning, method)
    found = measure(draw, method.protocol, seed)
    diverged = bool(draw.finetuned.scores.isnan().any())
    del draw.finetuned  # the passes of a large model fill gigabytes
    for null, learnt in (
        (SHUFFLED, shuffled_answers(prompts, shown, seed)),
        (WRONG, wrong_answers(prompts, shown)),
    ):
        other = on_other_answers(draw, model, prompts, shown, learnt, finetuning, method)
        add_null(found, null, without_nulls(other, method))
        del other
    del draw

    orders = np.random.SeedSequence(seed).generate_state(method.orders).tolist()
    facts = {
        "k": setting.k,
        "lr": finetuning.lr,
        "diverged": diverged,
        "queries": prompts.queries.numbers,
    }
    facts |= in_other_orders(orders, model, prompts, shown, finetuning)

    # A model that was never trained is finetuned with the same learning rate. It takes the place
    # of the trained one, as there may not be memory for two.
    model.load_state_dict(untrained(model, seed + 1).state_dict())
    of_untrained = draw_of(model, prompts, shown, finetuning, method)
    add_null(found, UNTRAINED, without_nulls(of_untrained, method))
    return Measured(found, facts)


def on_other_answers(
    draw: Draw,
    model: GPT,
    prompts: Prompts,
    shown: Demonstrations,
    learnt: Demonstrations,
    finetuning: Finetuning,
    method: Method,
) -> Draw:
    """Return a draw whose finetuning is on other answers, token by token beside the same ICL.

    Args:
        draw: with ICL on `shown`; its finetuning is not used.
        model: the model.
        prompts: the task.
        shown: the demonstrations.
        learnt: the same ones with other answers.
        finetuning, method: how to finetune and measure.
    """
    finetuned, training = finetuned_on(model, prompts, learnt, finetuning, method)
    own, of_learnt = shared_tokens(shown, learnt)
    training = TrainingQueries(training.queries[:, of_learnt], training.demonstration[of_learnt])
    icl = replace(draw.icl, on_demonstrations=draw.icl.on_demonstrations[..., own])
    return Draw(draw.zero_shot, icl, finetuned, training)


def without_nulls(draw: Draw, method: Method) -> Measures:
    """Return the measures of a draw that is itself a null."""
    return measure(draw, method.protocol, with_nulls=False)


@lru_cache(maxsize=1)
def opened(folder: Path) -> GPT:
    """Return a model in fp32, on this process's device."""
    return load_model(folder).float().to(distributed.local_device()).eval()


def identity(model: GPT) -> str:
    """Return a hash of a model's shape, its variant and all its weights."""
    digest = hashlib.sha256(f"{model.config} {model.attention}".encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def prompts_of(unit: Unit, seq_len: int) -> Prompts:
    """Return the task made ready for the model."""
    method = unit.method
    icl = IclConfig(
        data=method.data,
        k=[method.k],
        seeds=method.draws,
        queries=method.queries,
        separator="eos",
    )
    prompts = prepare_task(unit.task, load_tokenizer(unit.model), icl, seq_len)
    return replace(prompts, queries=in_random_order(prompts.queries))


def setting_of(prompts: Prompts, unit: Unit) -> Setting:
    """Return the draw's setting.

    Raises:
        UserError: no demonstration fits the context.
    """
    most = min(unit.method.k, prompts.most)
    if most == 0:
        raise UserError(
            f"task {prompts.task.name}: no demonstration fits before its queries in "
            f"{prompts.seq_len} tokens of context: analyse a task with shorter ones"
        )
    return Setting(most, (unit.method.k,), unit.draw)


def finetuning_of(unit: Unit, model: GPT, prompts: Prompts, setting: Setting) -> Finetuning:
    """Return how to finetune, with the learning rate that was given or is the best."""
    way = WAYS[unit.method.way]
    if unit.method.lr is not None:
        return replace(way, lr=unit.method.lr)
    choice = choose_learning_rate(model, prompts, setting, way, unit.method.protocol)
    return replace(way, lr=choice.lr)


def draw_of(
    model: GPT, prompts: Prompts, shown: Demonstrations, finetuning: Finetuning, method: Method
) -> Draw:
    """Return the three passes of a model."""
    recorded = position_of(method), in_full_of(method)
    zero_shot = ask(model, prompts.queries, none_of(prompts), *recorded)
    icl = ask(model, prompts.queries, shown, *recorded)
    finetuned, training = finetuned_on(model, prompts, shown, finetuning, method)
    return Draw(zero_shot, icl, finetuned, training)


def finetuned_on(
    model: GPT, prompts: Prompts, shown: Demonstrations, finetuning: Finetuning, method: Method
) -> tuple[Pass, TrainingQueries]:
    """Return the pass of the model finetuned on demonstrations, and what was recorded meanwhile."""
    tuned = finetune(model, shown, finetuning)
    recorded = position_of(method), in_full_of(method)
    with with_weights(model, tuned.weights):
        finetuned = ask(model, prompts.queries, none_of(prompts), *recorded)
    return finetuned, tuned.training


def position_of(method: Method) -> str:
    """Return at which token queries are recorded."""
    by_code = method.protocol == "dai2022" and method.variant == "code"
    return "label0" if by_code else "last_prompt"


def in_full_of(method: Method) -> int | None:
    """Return how many queries are recorded in full; None: all, as in the paper."""
    by_paper = method.protocol == "dai2022" and method.variant == "paper"
    return None if by_paper else IN_FULL


def in_other_orders(
    seeds: Sequence[int],
    model: GPT,
    prompts: Prompts,
    shown: Demonstrations,
    finetuning: Finetuning,
) -> dict[str, list[float]]:
    """Return the accuracies of ICL and of finetuning with the demonstrations in other orders."""
    queries, nothing = prompts.queries, none_of(prompts)
    gold = gold_of(queries)
    found: dict[str, list[float]] = {"icl_orders": [], "finetuned_orders": []}
    for seed in seeds:
        order = in_other_order(prompts, shown, seed)
        found["icl_orders"].append(accuracy(answer_scores(model, queries, order), gold))
        with with_weights(model, finetune(model, order, finetuning).weights):
            scores = answer_scores(model, queries, nothing)
        found["finetuned_orders"].append(accuracy(scores, gold))
    return found
