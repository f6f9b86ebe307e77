"""`bench training`: what it starts, what it counts, and a whole run of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from momentum_gpt.bench.shapes import SHAPES
from momentum_gpt.bench.training import Timed, check_gate, result_of, table, trainers
from momentum_gpt.core.errors import MachineError, UserError
from momentum_gpt.core.files import read_json
from tests.conftest import Result, command

Invoke = Callable[..., Result]

NANOGPT = """
from dataclasses import dataclass
import torch

@dataclass
class GPTConfig:
    n_layer: int; n_head: int; n_embd: int; block_size: int; vocab_size: int
    dropout: float; bias: bool

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embedding = torch.nn.Embedding(config.vocab_size, config.n_embd)

    def forward(self, tokens, targets):
        logits = self.embedding(tokens) @ self.embedding.weight.T
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def configure_optimizers(self, weight_decay, lr, betas, device):
        return torch.optim.AdamW(self.parameters(), lr, betas, weight_decay=weight_decay)
"""


def contender(name: str, turns: list[float]) -> Timed:
    return Timed(name, turns, [4.0, 5.0, 9.0], 500_000_000)


def test_a_trainer_is_timed_over_all_its_processes() -> None:
    timed = Timed("vanilla")
    for turns, first, peak in (([1.0, 2.0], 3.0, 10), ([5.0], 4.0, 8)):
        process: Any = SimpleNamespace(turns=turns, first_step_s=first, peak_bytes=peak)
        timed.add(process)
    assert timed == Timed("vanilla", [1.0, 2.0, 5.0], [3.0, 4.0], 10)


def test_speeds_are_paired_by_round() -> None:
    """A round in which the machine was half as fast changes no ratio."""
    baseline = contender("plain torch", [1.0, 2.0, 1.0])
    result = result_of(contender("vanilla", [0.8, 1.6, 0.5]), baseline, SHAPES["laptop"])
    assert result.ratio == pytest.approx(1.25)
    assert (result.least, result.most) == pytest.approx((1.25, 2.0))
    assert result.tokens_per_s == pytest.approx(4096 / 0.8)
    row = table(SHAPES["laptop"], [result]).splitlines()[-1]
    assert row.split() == ["vanilla", "5,120", "1.250", "[1.250,", "2.000]", "-", "500", "5.0"]


def test_the_gate_closes_where_a_trainer_of_ours_has_become_slower() -> None:
    stored = {"laptop": [{"name": "vanilla", "ratio": 1.0}, {"name": "Trainer", "ratio": 0.9}]}
    same = {"laptop": [{"name": "vanilla", "ratio": 0.971}, {"name": "Trainer", "ratio": 0.5}]}
    check_gate(stored, same, "a.json")
    check_gate(stored, {"125m": [{"name": "vanilla", "ratio": 0.5}]}, "a.json")
    slower = {"laptop": [{"name": "vanilla", "ratio": 0.969}]}
    with pytest.raises(MachineError, match=r"vanilla at laptop: 0\.969, was 1\.000"):
        check_gate(stored, slower, "a.json")


def test_a_checkout_is_known_by_its_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no checkout of nanoGPT or litgpt"):
        trainers(str(tmp_path))
    (tmp_path / "model.py").touch()
    assert trainers(str(tmp_path))[-1] == "nanoGPT"


@pytest.mark.slow
def test_all_trainers_take_their_turns(data_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(NANOGPT)
    options = [f"data={data_folder}", f"peers={tmp_path}", "processes=2", "rounds=1", "seconds=0.1"]
    output = tmp_path / "bench.json"
    done = command("momentum_gpt.bench.training", *options, f"output={output}", timeout=400)
    assert done.code == 0, done.err
    results = read_json(output)["shapes"]["laptop"]
    names = [result["name"] for result in results]
    assert names == ["plain torch", "vanilla", "momentum", "Trainer", "nanoGPT"]
    for result in results:
        assert result["tokens_per_s"] > 0
        assert 0 < result["least"] <= result["ratio"] <= result["most"]
        assert result["peak_bytes"] > 100_000_000
        assert re.search(rf"^{result['name']} ", done.out, re.MULTILINE)


@pytest.mark.slow
def test_a_trainer_that_ends_is_named_with_its_last_words(
    data_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.py").write_text("raise ValueError('not here')")
    options = [f"data={data_folder}", f"peers={tmp_path}", "processes=1", "rounds=1", "seconds=0.1"]
    done = command("momentum_gpt.bench.training", *options, timeout=400)
    assert done.code == 1
    assert done.err.strip().endswith("error: nanoGPT has ended: ValueError: not here")
