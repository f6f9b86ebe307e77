"""Perplexity against brute force and against numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from momentum_gpt.config import EvaluationConfig, ModelConfig
from momentum_gpt.data import TokenShards
from momentum_gpt.errors import UserError
from momentum_gpt.evaluation import evaluate
from momentum_gpt.evaluation.perplexity import icl_score, perplexity
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import init_weights


class Coin(nn.Module):
    """Gives the token that it saw last the probability 1/2, and shares the rest out evenly."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, tokens: Tensor) -> Tensor:
        other = math.log(0.5 / (self.vocab_size - 1))
        logits = torch.full((*tokens.shape, self.vocab_size), other)
        return logits.scatter(-1, tokens[..., None], math.log(0.5)) + 7.0  # a shift changes no probability


@pytest.fixture
def validation(data_folder: Path) -> TokenShards:
    return TokenShards(data_folder, "validation")


def test_a_model_of_known_probabilities_gets_the_perplexity_worked_out_on_paper(validation: TokenShards) -> None:
    stream = validation.read(0, 64 * 10 + 1)
    repeats = (stream[1:] == stream[:-1]).sum()
    nats = repeats * math.log(2) + (640 - repeats) * -math.log(0.5 / 511)
    metrics = perplexity(Coin(512), validation, [16, 64], 64, max_tokens=700, tokens_per_forward=200)
    assert metrics["val/loss"] == pytest.approx(nats / 640, rel=1e-6)
    assert metrics["val/ppl@16"] == metrics["val/ppl@64"] == pytest.approx(math.exp(nats / 640), rel=1e-5)


def test_bits_per_byte_and_per_word_perplexity_count_the_text_alone(validation: TokenShards) -> None:
    """The end of a document is read, but it is no text: its nats, its token and no byte of it are counted."""
    n = (len(validation) - 1) // 64 * 64
    stream, eos_id = validation.read(0, n + 1), validation.tokenizer.eos_id
    assert eos_id in stream[1:]
    of_text = stream[1:] != eos_id
    repeats = ((stream[1:] == stream[:-1]) & of_text).sum()
    nats = repeats * math.log(2) + (of_text.sum() - repeats) * -math.log(0.5 / 511)
    text = validation.tokenizer.decode(stream[1:][of_text])
    metrics = perplexity(Coin(512), validation, [64], 64, max_tokens=n, tokens_per_forward=640)
    assert metrics["val/bytes"] == len(text.encode())
    assert metrics["val/words"] == len(text.split())
    assert metrics["val/bpb"] == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-6)
    assert metrics["val/ppl_word"] == pytest.approx(math.exp(nats / len(text.split())), rel=1e-5)


@pytest.mark.parametrize("stride", [1, 5, 8, 15])
def test_overlapping_windows_score_each_target_once_with_the_context_that_they_say(
    validation: TokenShards, stride: int
) -> None:
    model = GPT(ModelConfig(1, 2, 16, 32, vocab_size=512, init_std=0.3), {"name": "momentum", "ema_decay": 0.7}).eval()
    init_weights(model, 0)
    stream = validation.read(0, 129)
    nats = []
    with torch.no_grad():
        for target in range(128):
            window = max(0, -(-(target + 1 - 16) // stride))  # the first window that ends behind the target
            end = min(16 + window * stride, 128)
            logits = model(torch.from_numpy(stream[end - 16 : target + 1])[None])[0, -1].double()
            nats.append(-logits.softmax(-1)[stream[target + 1]].log().item())
        metrics = perplexity(model, validation, [16, 32], 32, max_tokens=128, tokens_per_forward=64, stride=stride)
    assert metrics["val/ppl@16/stride"] == pytest.approx(math.exp(np.mean(nats)), rel=1e-5)
    assert metrics["val/ppl@16/stride"] != pytest.approx(metrics["val/ppl@16"], rel=1e-5)


def brute_force(model: nn.Module, stream: np.ndarray, length: int) -> list[float]:
    """-log p of each target, one forward pass and one softmax each."""
    nats = []
    for i in range(len(stream) - 1):
        first = i // length * length
        logits = model(torch.from_numpy(stream[first : i + 1])[None])[0, -1].double()
        nats.append(-logits.softmax(-1)[stream[i + 1]].log().item())
    return nats


@pytest.mark.parametrize(
    "attention", [{"name": "vanilla"}, {"name": "momentum", "ema_decay": 0.7}], ids=["vanilla", "momentum"]
)
def test_every_context_length_equals_a_loop_over_the_tokens(validation: TokenShards, attention: dict) -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(2, 2, 16, 32, vocab_size=512), attention)
    init_weights(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # a fresh model hardly looks at its context
        metrics = perplexity(model.eval(), validation, [4, 8, 16, 32], 32, max_tokens=128, tokens_per_forward=64)
        stream = validation.read(0, 129)
        for length in (4, 8, 16, 32):
            nats = brute_force(model, stream, length)
            assert metrics[f"val/ppl@{length}"] == pytest.approx(math.exp(np.mean(nats)), rel=1e-5)
    by_position = np.array(nats).reshape(4, 32).mean(axis=0)
    assert metrics["val/loss"] == pytest.approx(by_position.mean(), rel=1e-6)
    assert metrics["val/loss@pos1"] == pytest.approx(by_position[0], rel=1e-5)
    assert metrics["val/loss@pos2"] == pytest.approx(by_position[1], rel=1e-5)
    assert metrics["val/loss@pos16"] == pytest.approx(by_position[8:16].mean(), rel=1e-5)
    assert metrics["icl/score"] == pytest.approx(by_position[30:].mean() - by_position[2:4].mean(), rel=1e-4)


def test_batch_size_changes_nothing(validation: TokenShards) -> None:
    model = GPT(ModelConfig(1, 2, 16, 32, vocab_size=512), {"name": "vanilla"})
    init_weights(model, 0)
    config = EvaluationConfig(tokens=500, induction_sequences=5)
    results = [evaluate(model, validation, config, 32, tokens_per_forward)[0] for tokens_per_forward in (1, 96, 10_000)]
    for result in results:
        assert result.pop("eval/seconds") > 0
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-5)
    assert model.training


def test_the_icl_score_is_late_minus_early() -> None:
    """Of 512 positions: the mean of 480...511 minus that of 32...63."""
    losses = np.zeros(512)
    losses[480:], losses[32:64], losses[100:200] = 1.0, 5.0, 99.0
    assert icl_score(losses) == -4.0


def test_too_little_validation_text_is_refused(validation: TokenShards) -> None:
    with pytest.raises(UserError, match="fewer than one window"):
        perplexity(Coin(512), validation, [16], len(validation), 10**9, 64)
