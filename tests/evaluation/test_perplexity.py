"""Perplexity against brute force and against numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from momentum_gpt.core.config import EvaluationConfig, ModelConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Texts, TokenShards
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

    def forward(self, tokens: Tensor, document_ids: Tensor | None = None) -> Tensor:
        other = math.log(0.5 / (self.vocab_size - 1))
        logits = torch.full((*tokens.shape, self.vocab_size), other)
        return (
            logits.scatter(-1, tokens[..., None], math.log(0.5)) + 7.0
        )  # a shift changes no probability


def measure(
    model: nn.Module,
    stream: Any,
    lengths: list[int],
    seq_len: int,
    tokens: int,
    tokens_per_forward: int,
    **more: Any,
) -> dict[str, float]:
    config = EvaluationConfig(tokens=tokens, context_lengths=lengths, **more)
    return perplexity(model, stream, config, seq_len, tokens_per_forward)[0]


@pytest.fixture
def validation(data_folder: Path) -> TokenShards:
    return TokenShards(data_folder, "validation")


def test_a_model_of_known_probabilities_gets_the_perplexity_worked_out_on_paper(
    validation: TokenShards,
) -> None:
    stream = validation.read(0, 64 * 10 + 1)
    repeats = (stream[1:] == stream[:-1]).sum()
    nats = repeats * math.log(2) + (640 - repeats) * -math.log(0.5 / 511)
    metrics = measure(Coin(512), validation, [16, 64], 64, 700, 200)
    assert metrics["val/loss"] == pytest.approx(nats / 640, rel=1e-6)
    assert (
        metrics["val/ppl@16"]
        == metrics["val/ppl@64"]
        == pytest.approx(math.exp(nats / 640), rel=1e-5)
    )


def test_some_windows_are_spread_evenly_over_all(validation: TokenShards) -> None:
    """3 of 10 windows of 64: numbers 0, 3 and 6. Each has the nats that it has by itself, and is read by itself."""
    model = GPT(
        ModelConfig(1, 2, 16, 64, vocab_size=512, init_std=0.3),
        {"name": "momentum", "ema_decay": 0.7},
    ).eval()
    init_weights(model, 0)
    config = EvaluationConfig(tokens=640, context_lengths=[16, 64], windows=3)
    metrics, (_, record) = perplexity(model, validation, config, 64, 1000)
    blocks = torch.from_numpy(np.stack([validation.read(64 * number, 65) for number in (0, 3, 6)]))
    with torch.no_grad():
        assert metrics["val/loss"] == pytest.approx(
            model(blocks[:, :-1], blocks[:, 1:]).item(), rel=1e-5
        )
    assert metrics["val/targets"] == 192
    assert len(set(record["document"])) >= 3
    everything = perplexity(model, validation, EvaluationConfig(tokens=640, windows=10), 64, 1000)[
        0
    ]
    assert everything == perplexity(model, validation, EvaluationConfig(tokens=640), 64, 1000)[0]


def test_overlapping_windows_that_are_spread_have_their_context_too(
    validation: TokenShards,
) -> None:
    """Windows 0, 3 and 6 of 64 targets, stride 16, contexts of 64: a target sees 49 tokens and more, but for window 0."""
    model = GPT(
        ModelConfig(1, 2, 16, 64, vocab_size=512, init_std=0.3),
        {"name": "momentum", "ema_decay": 0.7},
    ).eval()
    init_weights(model, 0)
    nats = []
    with torch.no_grad():
        for target in (64 * number + i for number in (0, 3, 6) for i in range(64)):
            end = max(64, -(-(target + 1) // 16) * 16)
            block = torch.from_numpy(validation.read(end - 64, target + 2 - (end - 64)))
            logits = model(block[None, :-1])[0, -1].double()
            nats.append(-logits.softmax(-1)[block[-1]].log().item())
    metrics = measure(model, validation, [64], 64, 640, 1000, windows=3, stride=16)
    assert metrics["val/ppl@64/stride"] == pytest.approx(math.exp(np.mean(nats)), rel=1e-5)
    assert metrics["val/ppl@64/stride"] != pytest.approx(metrics["val/ppl@64"], rel=1e-4)


def test_bits_per_byte_and_per_word_perplexity_count_the_text_alone(
    validation: TokenShards,
) -> None:
    """The end of a document is read, but it is no text: its nats, its token and no byte of it are counted."""
    n = (len(validation) - 1) // 64 * 64
    stream, eos_id = validation.read(0, n + 1), validation.tokenizer.eos_id
    assert eos_id in stream[1:]
    of_text = stream[1:] != eos_id
    repeats = ((stream[1:] == stream[:-1]) & of_text).sum()
    nats = repeats * math.log(2) + (of_text.sum() - repeats) * -math.log(0.5 / 511)
    ends = np.flatnonzero(~of_text) + 1
    documents = [part[part != eos_id] for part in np.split(stream[1:], ends)]
    texts = [validation.tokenizer.decode(part) for part in documents]
    metrics = measure(Coin(512), validation, [64], 64, n, 640)
    n_bytes, n_words = (
        sum(len(text.encode()) for text in texts),
        sum(len(text.split()) for text in texts),
    )
    assert metrics["val/targets"] == n
    assert metrics["val/bytes"] == n_bytes
    assert metrics["val/words"] == n_words
    assert metrics["val/bpb"] == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-6)
    assert metrics["val/ppl_word"] == pytest.approx(math.exp(nats / n_words), rel=1e-5)


@pytest.mark.parametrize("stride", [1, 5, 8, 15])
def test_overlapping_windows_score_each_target_once_with_the_context_that_they_say(
    validation: TokenShards, stride: int
) -> None:
    model = GPT(
        ModelConfig(1, 2, 16, 32, vocab_size=512, init_std=0.3),
        {"name": "momentum", "ema_decay": 0.7},
    ).eval()
    init_weights(model, 0)
    stream = validation.read(0, 129)
    nats = []
    with torch.no_grad():
        for target in range(128):
            window = max(
                0, -(-(target + 1 - 16) // stride)
            )  # the first window that ends behind the target
            end = min(16 + window * stride, 128)
            logits = model(torch.from_numpy(stream[end - 16 : target + 1])[None])[0, -1].double()
            nats.append(-logits.softmax(-1)[stream[target + 1]].log().item())
        metrics = measure(model, validation, [16, 32], 32, 128, 64, stride=stride)
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
    "attention",
    [{"name": "vanilla"}, {"name": "momentum", "ema_decay": 0.7}],
    ids=["vanilla", "momentum"],
)
def test_every_context_length_equals_a_loop_over_the_tokens(
    validation: TokenShards, attention: dict
) -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(2, 2, 16, 32, vocab_size=512), attention)
    init_weights(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # a fresh model hardly looks at its context
        metrics = measure(model.eval(), validation, [4, 8, 16, 32], 32, 128, 64)
        stream = validation.read(0, 129)
        for length in (4, 8, 16, 32):
            nats = brute_force(model, stream, length)
            assert metrics[f"val/ppl@{length}"] == pytest.approx(math.exp(np.mean(nats)), rel=1e-5)
    by_position = np.array(nats).reshape(4, 32).mean(axis=0)
    assert metrics["val/loss"] == pytest.approx(by_position.mean(), rel=1e-6)
    assert metrics["val/loss@pos1"] == pytest.approx(by_position[0], rel=1e-5)
    assert metrics["val/loss@pos2"] == pytest.approx(by_position[1], rel=1e-5)
    assert metrics["val/loss@pos16"] == pytest.approx(by_position[8:16].mean(), rel=1e-5)
    assert metrics["icl/score"] == pytest.approx(
        by_position[30:].mean() - by_position[2:4].mean(), rel=1e-4
    )


def documents_of(validation: TokenShards) -> list[str]:
    """Texts of many lengths: empty, of one token, of about 16 or 32 tokens, longer than two windows."""
    text = validation.tokenizer.decode(validation.read(0, 400))
    return [
        "",
        text[:1],
        text[1:40],
        text[40:100],
        text[100:101],
        text[100:600],
        text[600:670],
        text[670:672],
    ]


def alone(model: nn.Module, tokens: list[int], eos_id: int, length: int, step: int) -> list[float]:
    """-log p of a document's tokens by itself, a forward pass each: windows of `length`, the last reaching back to be full."""
    given, nats = [eos_id, *tokens], []
    size = min(length, len(tokens))
    for target in range(len(tokens)):
        window = max(0, -(-(target + 1 - size) // step))
        end = min(size + window * step, len(tokens))
        logits = model(torch.tensor([given[end - size : target + 1]]))[0, -1].double()
        nats.append(-logits.softmax(-1)[tokens[target]].log().item())
    return nats


@pytest.mark.parametrize("masked", [False, True], ids=["runs_on", "masked"])
@pytest.mark.parametrize(
    "options",
    [{"name": "vanilla"}, {"name": "momentum", "ema_decay": 0.7}],
    ids=["vanilla", "momentum"],
)
def test_documents_apart_have_the_nats_that_they_have_alone(
    validation: TokenShards, options: dict, masked: bool
) -> None:
    """Whatever is packed beside them, in whatever order; their ends are not scored. Bits per byte are of the text alone."""
    tokenizer = validation.tokenizer
    end = tokenizer.eos_id if masked else None
    model = GPT(
        ModelConfig(2, 2, 16, 32, vocab_size=512, init_std=0.3), options, document_end=end
    ).eval()
    init_weights(model, 0)
    texts = documents_of(validation)
    encoded = [tokenizer.encode(text) for text in texts]
    assert sorted(map(len, encoded))[-1] > 64
    config = EvaluationConfig(tokens=10**6, context_lengths=[16, 32], documents="apart", stride=8)
    with torch.no_grad():
        expected = {
            (length, stride): [
                sum(alone(model, tokens, tokenizer.eos_id, length, stride or length))
                for tokens in encoded
            ]
            for length in (16, 32)
            for stride in (None, 8)
        }
    for order in (range(len(texts)), range(len(texts) - 1, -1, -1)):
        shuffled = [texts[i] for i in order]
        metrics, records = perplexity(
            model, Texts(shuffled, tokenizer, 10**6, "texts"), config, 32, 100
        )
        assert len(records) == 4
        for record in records:
            nats = [
                expected[record["context_length"], record["stride"]][i] for i in order if encoded[i]
            ]
            assert np.bincount(record["document"], record["nats"]) == pytest.approx(
                np.array(nats), abs=5e-4
            )
            sizes = [len(encoded[i]) for i in order if encoded[i]]
            assert record["n_targets"] == [
                min(32, n - done) for n in sizes for done in range(0, n, 32)
            ]
            assert record["bpb"] == pytest.approx(
                sum(nats) / math.log(2) / sum(len(text.encode()) for text in texts), rel=1e-6
            )
        assert metrics["val/targets"] == sum(map(len, encoded))


def test_a_masked_stream_has_for_each_document_the_nats_of_it_alone(
    validation: TokenShards,
) -> None:
    """Of a model that was trained with document masks; the end of each is scored, too, as in training."""
    tokenizer = validation.tokenizer
    eos_id = tokenizer.eos_id
    model = GPT(
        ModelConfig(2, 2, 16, 64, vocab_size=512, init_std=0.3),
        {"name": "momentum", "ema_decay": 0.7},
        eos_id,
    ).eval()
    init_weights(model, 0)
    encoded = [tokenizer.encode(text)[:20] for text in documents_of(validation) if text] * 2
    n = sum(len(tokens) + 1 for tokens in encoded) - 1
    stream = Texts([tokenizer.decode(tokens) for tokens in encoded], tokenizer, 10**6, "texts")
    config = EvaluationConfig(tokens=n // 64 * 64, context_lengths=[64])
    _, (record,) = perplexity(model, stream, config, 64, 128)
    with torch.no_grad():
        nats = [sum(alone(model, [*tokens, eos_id], eos_id, 64, 64)) for tokens in encoded]
    ends = np.cumsum([len(tokens) + 1 for tokens in encoded])
    cut = set(np.searchsorted(ends, np.arange(0, n, 64), side="right").tolist())
    assert record["document"] == list(range(len(record["nats"])))
    whole = [i for i in range(1, len(record["nats"]) - 1) if i not in cut]
    assert len(whole) > 4
    assert [record["nats"][i] for i in whole] == pytest.approx([nats[i] for i in whole], abs=2e-4)


def test_per_document_nats_add_up_to_the_loss(validation: TokenShards) -> None:
    config = EvaluationConfig(tokens=len(validation), context_lengths=[16, 64])
    metrics, records = perplexity(Coin(512), validation, config, 64, 1000)
    for record in records:
        assert len(record["nats"]) > 3
        assert sum(record["n_targets"]) == record["targets"] == metrics["val/targets"]
        assert sum(record["nats"]) / record["targets"] == pytest.approx(record["loss"], rel=1e-5)
    assert records[0]["text_sha256"] == records[1]["text_sha256"]


def test_batch_size_changes_nothing(validation: TokenShards) -> None:
    model = GPT(ModelConfig(1, 2, 16, 32, vocab_size=512), {"name": "vanilla"})
    init_weights(model, 0)
    config = EvaluationConfig(tokens=500, induction_sequences=5)
    results = [
        evaluate(model, validation, config, 32, tokens_per_forward)[0]
        for tokens_per_forward in (1, 96, 10_000)
    ]
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
        measure(Coin(512), validation, [16], 16 * len(validation), 16 * len(validation), 64)
