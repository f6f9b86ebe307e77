"""Norms by layer against plain torch, what momentum adds against its formula, and a profile."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from momentum_gpt.core import distributed
from momentum_gpt.core.config import ModelConfig
from momentum_gpt.models import GPT
from momentum_gpt.models.attention import Variant
from momentum_gpt.models.gpt import init_weights
from momentum_gpt.training import engine as engines
from momentum_gpt.training.telemetry import added_by_layer, layer_of, norms_by_layer, profiled
from tests.training.ranks import on_ranks
from tests.training.test_engine import TARGETS, batch, config, new_engine

SHAPE = ModelConfig(n_layers=2, n_heads=2, d_model=16, seq_len=12, vocab_size=32)


def norms_at(ways: list[tuple[int, str]]) -> list[dict[str, float]]:
    found = []
    for stage, precision in ways:
        c = config(stage, precision, accumulate=2, world=2)
        engine = new_engine(c)
        tokens, targets = (part.view(2, 2, 1, 16)[:, distributed.rank()] for part in batch(0))
        engines.accumulate(engine, list(zip(tokens, targets, strict=True)), int(TARGETS[0].sum()))
        found.append(norms_by_layer(engine))
        engine.destroy()
    return found


@pytest.mark.slow
def test_the_norms_of_a_layer_are_those_of_plain_torch_at_every_stage(tmp_path: Path) -> None:
    ways = [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"), (2, "bf16")]
    c = config(0)
    model = GPT(c.model, c.attention)
    init_weights(model, 0)
    tokens, targets = batch(0)
    (model(tokens, targets) / TARGETS[0].sum()).backward()

    expected: dict[str, float] = {}
    for layer, prefix in {
        "embedding": "",
        "0": "blocks.0.",
        "1": "blocks.1.",
        "norm": "norm",
    }.items():
        mine = [p for name, p in model.named_parameters() if name.startswith(prefix)]
        if layer == "embedding":
            mine = [model.token_embedding.weight, model.position_embedding.weight]
        expected[f"layers/weight_norm@{layer}"] = (
            torch.cat([p.flatten() for p in mine]).norm().item()
        )
        grads = [p.grad.flatten() for p in mine if p.grad is not None]
        expected[f"layers/grad_norm@{layer}"] = torch.cat(grads).norm().item()

    for (stage, precision), found in zip(
        ways, on_ranks(2, norms_at, tmp_path, ways)[0], strict=True
    ):
        tolerance = 1e-5 if precision == "fp32" else 2e-2
        assert found == pytest.approx(expected, rel=tolerance), (stage, precision)


def train_at(stages: list[int], watched: bool) -> list[dict[str, torch.Tensor]]:
    """The weights after three steps, each of which was watched or not."""
    found = []
    for stage in stages:
        c = config(stage, accumulate=2, world=2)
        engine = new_engine(c)
        for step in range(3):
            split = (part.view(2, 2, 1, 16)[:, distributed.rank()] for part in batch(step))
            tokens, targets = split
            engines.accumulate(engine, list(zip(tokens, targets, strict=True)), 32)
            if watched:
                norms_by_layer(engine)
                assert added_by_layer(engine.module, tokens[0], targets[0])
            engines.update(engine)
        found.append(engines.full_weights(engine))
        engine.destroy()
    return found


@pytest.mark.slow
def test_watching_changes_nothing_of_what_is_learned(tmp_path: Path) -> None:
    stages = [0, 1, 2, 3]
    watched = on_ranks(2, train_at, tmp_path, stages, True)[0]
    alone = on_ranks(2, train_at, tmp_path, stages, False)[0]
    for stage, one, other in zip(stages, watched, alone, strict=True):
        for name, weights in one.items():
            assert torch.equal(weights, other[name]), f"stage {stage}: {name}"


def test_a_parameter_belongs_to_its_block_or_to_an_end() -> None:
    model = GPT(SHAPE, {"name": "shift", "weight": 0.5})
    layers = {layer_of(name) for name, _ in model.named_parameters()}
    assert layers == {"0", "1", "embedding", "norm"}


def test_what_momentum_adds_is_its_sum_beside_the_softmax() -> None:
    """The sum over past values with the weights 0.7, 0.49, ..., written out."""
    model = GPT(SHAPE, {"name": "momentum", "ema_decay": 0.7}).double()
    init_weights(model, 0)
    seen: list[Any] = []
    variants = [module for module in model.modules() if isinstance(module, Variant)]
    handles = [v.register_forward_pre_hook(lambda _, inputs: seen.append(inputs)) for v in variants]

    tokens = torch.randint(0, 32, (3, 12), generator=torch.Generator().manual_seed(0))
    found = added_by_layer(model, tokens, tokens)
    assert len(seen) == 2
    for number, (q, k, v, *_) in enumerate(seen):
        scores = q @ k.mT / 8**0.5
        future = torch.ones(12, 12, dtype=torch.bool).triu(1)
        softmax = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
        term = torch.zeros_like(v)
        for t in range(12):
            for i in range(t):
                term[:, :, t] += 0.7 ** (t - i) * v[:, :, i]
        expected = (term.norm() / softmax.norm()).item()
        assert found[f"layers/added@{number}"] == pytest.approx(expected, rel=1e-6)

    for handle in handles:
        handle.remove()
    assert model.training
    assert not any(variant._forward_hooks for variant in variants)


def test_a_compiled_model_is_watched_as_well_and_not_compiled_again() -> None:
    model = GPT(SHAPE, {"name": "momentum", "ema_decay": 0.7})
    init_weights(model, 0)
    tokens = torch.randint(0, 32, (3, 12), generator=torch.Generator().manual_seed(0))
    expected = added_by_layer(model, tokens, tokens)
    counter = CompileCounterWithBackend("eager")
    model.compile(backend=counter)
    model(tokens, tokens)
    n_compiled = counter.frame_count
    assert added_by_layer(model, tokens, tokens) == expected
    assert len(expected) == 2
    assert counter.frame_count == n_compiled


@pytest.mark.parametrize("name", ["vanilla", "linear"])
def test_a_variant_that_adds_nothing_has_no_share(name: str) -> None:
    model = GPT(SHAPE, {"name": name})
    tokens = torch.zeros(1, 12, dtype=torch.long)
    assert added_by_layer(model, tokens, tokens) == {}


def test_a_profile_names_the_operations_of_its_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "profile"
    a = torch.ones(64, 64)
    for _ in profiled(iter(range(10)), folder, is_on=True):
        a = a @ a / 64

    table = (folder / "table.txt").read_text()
    assert table in capsys.readouterr().out
    [row] = [line.split() for line in table.splitlines() if line.startswith("aten::mm")]
    assert row[-1] == "1"  # one product in each of the four steps
    with gzip.open(folder / "trace.json.gz") as file:
        names = [event.get("name") for event in json.load(file)["traceEvents"]]
    assert names.count("aten::mm") == 4


def test_without_a_profile_nothing_is_written(tmp_path: Path) -> None:
    assert list(profiled(iter("ab"), tmp_path / "profile", is_on=False)) == ["a", "b"]
    assert list(tmp_path.iterdir()) == []
