"""Perplexity against brute force and against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from momentum_gpt.core.config import EvaluationConfig, ModelConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Texts, TokenShards
from momentum_gpt.evaluation.perplexity import icl_score, perplexity, plan_passes
from momentum_gpt.evaluation.records import PerplexityRecord
from momentum_gpt.evaluation.statistics import over_documents
from momentum_gpt.evaluation.targets import Stream, choose_targets
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import init_weights

VANILLA = {"name": "vanilla"}
MOMENTUM = {"name": "momentum", "ema_decay": 0.7}

BOTH = pytest.mark.parametrize("attention", [VANILLA, MOMENTUM], ids=["vanilla", "momentum"])


class Coin(nn.Module):
    """Gives the token that it saw last the probability 1/2; all others share the rest evenly."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, tokens: Tensor, document_ids: Tensor | None = None) -> Tensor:
        other = math.log(0.5 / (self.vocab_size - 1))
        logits = torch.full((*tokens.shape, self.vocab_size), other)
        logits = logits.scatter(-1, tokens[..., None], math.log(0.5))
        return logits + 7.0  # a shift changes no probability


COIN_NATS = (math.log(2), -math.log(0.5 / 511))
"""Nats that the coin gives to a token that repeats the last one, and to another one of 512."""


def coin_nats(is_repeat: np.ndarray) -> float:
    """Return the nats of tokens, of which some repeat the last one."""
    repeats = is_repeat.sum()
    return repeats * COIN_NATS[0] + (len(is_repeat) - repeats) * COIN_NATS[1]


def small_model(
    seq_len: int, attention: dict[str, Any] = MOMENTUM, document_end: int | None = None
) -> GPT:
    """Return a model whose context matters: its weights are far from zero."""
    shape = ModelConfig(1, 2, 16, seq_len, vocab_size=512, init_std=0.3)
    model = GPT(shape, attention, document_end)
    init_weights(model, 0)
    return model.eval()


def measure(
    model: nn.Module,
    stream: Stream,
    config: EvaluationConfig,
    seq_len: int,
    tokens_per_forward: int,
) -> tuple[dict[str, float], list[PerplexityRecord]]:
    targets = choose_targets(stream, config, seq_len)
    passes = plan_passes(targets, config, seq_len)
    return perplexity(model, targets, passes, seq_len, tokens_per_forward)


@dataclass
class Beginning:
    """The first tokens of a stream, as a stream."""

    stream: TokenShards
    size: int
    name: str = "a beginning"

    def __post_init__(self) -> None:
        self.tokenizer = self.stream.tokenizer

    def __len__(self) -> int:
        return self.size

    def read(self, start: int, length: int) -> np.ndarray:
        return self.stream.read(start, length)

    def fingerprint(self) -> str:
        return f"the first {self.size} of {self.stream.fingerprint()}"


@pytest.fixture(scope="module")
def validation(data_folder: Path) -> TokenShards:
    return TokenShards(data_folder, "validation")


def test_a_model_of_known_probabilities_gets_the_perplexity_worked_out_on_paper(
    validation: TokenShards,
) -> None:
    config = EvaluationConfig(tokens=10**9, context_lengths=[16, 64])
    n = (len(validation) - 1) // 64 * 64
    stream = validation.read(0, n + 1)
    loss = coin_nats(stream[1:] == stream[:-1]) / n

    metrics, _ = measure(Coin(512), validation, config, 64, 2000)
    assert metrics["val/loss"] == pytest.approx(loss, rel=1e-6)
    assert metrics["val/ppl@16"] == metrics["val/ppl@64"]
    assert metrics["val/ppl@64"] == pytest.approx(math.exp(loss), rel=1e-5)


def test_a_sample_is_read_window_by_window(validation: TokenShards) -> None:
    """Three of the stream's windows of 64, each read without the others."""
    model = small_model(64)
    config = EvaluationConfig(tokens=200, context_lengths=[16, 64])
    targets = choose_targets(validation, config, 64)
    assert targets.sizes.tolist() == [64] * 3  # no neighbours among them

    windows = [validation.read(start - 1, 65) for start in targets.starts]
    blocks = torch.from_numpy(np.stack(windows))
    with torch.no_grad():
        loss = model(blocks[:, :-1], blocks[:, 1:]).item() / 192
    metrics, _ = measure(model, validation, config, 64, 1000)
    assert metrics["val/loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["val/targets"] == 192


def test_overlapping_windows_of_a_sample_have_their_context_too(validation: TokenShards) -> None:
    """Three windows of 64 targets, stride 16, contexts of 64.

    A target sees 49 tokens and more, except where the stream begins.
    """
    model = small_model(64)
    config = EvaluationConfig(tokens=200, context_lengths=[64], stride=16)
    starts = choose_targets(validation, config, 64).starts
    nats = []
    for start in starts.tolist():
        for target in range(start - 1, start + 63):
            end = max(64, -(-(target + 1) // 16) * 16)
            block = torch.from_numpy(validation.read(end - 64, target + 2 - (end - 64)))
            with torch.no_grad():
                logits = model(block[None, :-1])[0, -1].double()
            nats.append(-logits.softmax(-1)[block[-1]].log().item())

    metrics, _ = measure(model, validation, config, 64, 1000)
    expected = math.exp(np.mean(nats))
    assert metrics["val/ppl@64/stride"] == pytest.approx(expected, rel=1e-5)
    assert metrics["val/ppl@64/stride"] != pytest.approx(metrics["val/ppl@64"], rel=1e-4)


def test_what_lengths_have_in_common_is_read_once(validation: TokenShards) -> None:
    """Of windows of 16 or 32, every second one is the beginning of a longer one.

    With a stride of 8 of 16 tokens, every second window ends where a disjoint one does; the first
    of each stretch but the stream's has tokens before it.
    """
    config = EvaluationConfig(tokens=640, context_lengths=[16, 32, 64], stride=8)
    targets = choose_targets(validation, config, 64)
    read = {
        (one.length, one.stride): one.layout.n_tokens for one in plan_passes(targets, config, 64)
    }
    assert read[64, None] == 640
    assert read[32, None] == read[16, None] == 320

    of_strides = {length: 640 // 8 * length for length in (16, 32, 64)}  # were all windows read
    assert read[16, 8] == of_strides[16] // 2
    assert read[32, 8] == of_strides[32] * 3 // 4
    assert read[64, 8] == of_strides[64] * 7 // 8


def test_a_document_that_every_length_holds_whole_is_read_once(validation: TokenShards) -> None:
    texts = Texts(["one two three", "four five"], validation.tokenizer, 10, "two short texts")
    config = EvaluationConfig(tokens=1000, context_lengths=[32, 64], documents="apart")
    targets = choose_targets(texts, config, 64)
    longest, shorter = plan_passes(targets, config, 64)
    assert longest.layout.n_rows == 1
    assert shorter.layout.n_rows == 0

    model = small_model(64)
    _, (at_32, at_64) = measure(model, texts, config, 64, 1000)
    assert (at_32.context_length, at_64.context_length) == (32, 64)
    assert at_32.nats == at_64.nats
    for text, nats in zip(("one two three", "four five"), at_64.nats, strict=True):
        alone = Texts([text], validation.tokenizer, 10, "one of them")
        _, (record, _) = measure(model, alone, config, 64, 1000)
        assert record.nats == pytest.approx([nats], abs=5e-4)


def test_bits_per_byte_and_per_word_perplexity_count_the_text_alone(
    validation: TokenShards,
) -> None:
    """The end of a document is read, but its nats, its token and no byte of it are counted."""
    eos_id = validation.tokenizer.eos_id
    n = (len(validation) - 1) // 64 * 64
    stream = validation.read(0, n + 1)
    assert eos_id in stream[1:]

    is_text = stream[1:] != eos_id
    nats = coin_nats((stream[1:] == stream[:-1])[is_text])
    documents = np.split(stream[1:], np.flatnonzero(~is_text) + 1)
    texts = [validation.tokenizer.decode(part[part != eos_id]) for part in documents]
    n_bytes = sum(len(text.encode()) for text in texts)
    n_words = sum(len(text.split()) for text in texts)

    config = EvaluationConfig(tokens=n, context_lengths=[64])
    metrics, _ = measure(Coin(512), validation, config, 64, 640)
    assert metrics["val/targets"] == n
    assert metrics["val/bytes"] == n_bytes
    assert metrics["val/words"] == n_words
    assert metrics["val/bpb"] == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-6)
    assert metrics["val/ppl_word"] == pytest.approx(math.exp(nats / n_words), rel=1e-5)


@pytest.mark.parametrize("stride", [1, 5, 8, 15])
def test_overlapping_windows_score_each_target_once_with_the_context_that_they_say(
    validation: TokenShards, stride: int
) -> None:
    model = small_model(32)
    stream = validation.read(0, 129)
    nats = []
    for target in range(128):
        # The first window that ends after the target scores it.
        window = max(0, -(-(target + 1 - 16) // stride))
        end = min(16 + window * stride, 128)
        given = torch.from_numpy(stream[end - 16 : target + 1])[None]
        with torch.no_grad():
            logits = model(given)[0, -1].double()
        nats.append(-logits.softmax(-1)[stream[target + 1]].log().item())

    config = EvaluationConfig(tokens=128, context_lengths=[16, 32], stride=stride)
    metrics, _ = measure(model, Beginning(validation, 129), config, 32, 64)
    expected = math.exp(np.mean(nats))
    assert metrics["val/ppl@16/stride"] == pytest.approx(expected, rel=1e-5)
    assert metrics["val/ppl@16/stride"] != pytest.approx(metrics["val/ppl@16"], rel=1e-5)


def brute_force(model: nn.Module, stream: np.ndarray, length: int) -> list[float]:
    """Return -log p of each target, one forward pass and one softmax each."""
    nats = []
    for i in range(len(stream) - 1):
        first = i // length * length
        logits = model(torch.from_numpy(stream[first : i + 1])[None])[0, -1].double()
        nats.append(-logits.softmax(-1)[stream[i + 1]].log().item())
    return nats


@BOTH
def test_every_context_length_equals_a_loop_over_the_tokens(
    validation: TokenShards, attention: dict[str, Any]
) -> None:
    model = GPT(ModelConfig(2, 2, 16, 32, vocab_size=512), attention).eval()
    init_weights(model, 0)
    lengths = [4, 8, 16, 32]
    config = EvaluationConfig(tokens=128, context_lengths=lengths)
    stream = validation.read(0, 129)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # a fresh model hardly looks at its context
        metrics, _ = measure(model, Beginning(validation, 129), config, 32, 64)
        for length in lengths:
            nats = brute_force(model, stream, length)
            expected = math.exp(np.mean(nats))
            assert metrics[f"val/ppl@{length}"] == pytest.approx(expected, rel=1e-5)

    # The last length is the whole context.
    by_position = np.array(nats).reshape(4, 32).mean(axis=0)
    assert metrics["val/loss"] == pytest.approx(by_position.mean(), rel=1e-6)
    assert metrics["val/loss@pos1"] == pytest.approx(by_position[0], rel=1e-5)
    assert metrics["val/loss@pos2"] == pytest.approx(by_position[1], rel=1e-5)
    assert metrics["val/loss@pos16"] == pytest.approx(by_position[8:16].mean(), rel=1e-5)
    late_minus_early = by_position[30:].mean() - by_position[2:4].mean()
    assert metrics["icl/score"] == pytest.approx(late_minus_early, rel=1e-4)


def documents_of(validation: TokenShards) -> list[str]:
    """Return texts of no, one, about 16, about 32 and more than 64 tokens."""
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


def nats_alone(
    model: nn.Module, tokens: list[int], eos_id: int, length: int, step: int
) -> list[float]:
    """Return -log p of a document's tokens without any other document, a forward pass each.

    The document is read in windows of `length`; the last one reaches back to be full.
    """
    given = [eos_id, *tokens]
    nats = []
    size = min(length, len(tokens))
    for target in range(len(tokens)):
        window = max(0, -(-(target + 1 - size) // step))
        end = min(size + window * step, len(tokens))
        logits = model(torch.tensor([given[end - size : target + 1]]))[0, -1].double()
        nats.append(-logits.softmax(-1)[tokens[target]].log().item())
    return nats


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@BOTH
def test_documents_apart_have_the_nats_that_they_have_alone(
    validation: TokenShards, attention: dict[str, Any], masked: bool
) -> None:
    """Whatever is packed beside them, in whatever order; their ends are not scored.

    Bits per byte are of the text alone.
    """
    tokenizer = validation.tokenizer
    eos_id = tokenizer.eos_id
    shape = ModelConfig(2, 2, 16, 32, vocab_size=512, init_std=0.3)
    model = GPT(shape, attention, document_end=eos_id if masked else None).eval()
    init_weights(model, 0)

    texts = documents_of(validation)
    n_bytes = sum(len(text.encode()) for text in texts)
    encoded = [tokenizer.encode(text) for text in texts]
    assert max(map(len, encoded)) > 64

    expected: dict[tuple[int, int | None], list[float]] = {}
    with torch.no_grad():
        for length in (16, 32):
            for stride in (None, 8):
                expected[length, stride] = [
                    sum(nats_alone(model, tokens, eos_id, length, stride or length))
                    for tokens in encoded
                ]

    config = EvaluationConfig(tokens=10**6, context_lengths=[16, 32], documents="apart", stride=8)
    for order in (range(len(texts)), range(len(texts) - 1, -1, -1)):
        stream = Texts([texts[i] for i in order], tokenizer, 10**6, "texts")
        metrics, records = measure(model, stream, config, 32, 100)
        assert metrics["val/targets"] == sum(map(len, encoded))
        assert len(records) == 4

        scored = [(number, i) for number, i in enumerate(order) if encoded[i]]
        for record in records:
            alone = expected[record.context_length, record.stride]
            nats = np.array([alone[i] for _, i in scored])
            assert record.document == [number for number, _ in scored]
            assert record.nats == record.nats_of_text == pytest.approx(nats, abs=5e-4)
            assert record.n_targets == [len(encoded[i]) for _, i in scored]
            assert record.n_bytes == [len(texts[i].encode()) for _, i in scored]
            assert record.n_words == [len(texts[i].split()) for _, i in scored]
            assert record.bpb == pytest.approx(nats.sum() / math.log(2) / n_bytes, rel=1e-6)


def test_a_masked_stream_has_for_each_document_the_nats_of_it_alone(
    validation: TokenShards,
) -> None:
    """With a model trained with document masks. The end of each is scored, too, as in training."""
    tokenizer = validation.tokenizer
    eos_id = tokenizer.eos_id
    model = GPT(ModelConfig(2, 2, 16, 64, vocab_size=512, init_std=0.3), MOMENTUM, eos_id).eval()
    init_weights(model, 0)

    encoded = [tokenizer.encode(text)[:20] for text in documents_of(validation) if text] * 2
    n = sum(len(tokens) + 1 for tokens in encoded) - 1
    stream = Texts([tokenizer.decode(tokens) for tokens in encoded], tokenizer, 10**6, "texts")
    config = EvaluationConfig(tokens=n // 64 * 64, context_lengths=[64])
    _, (record,) = measure(model, stream, config, 64, 128)

    with torch.no_grad():
        alone = [nats_alone(model, [*tokens, eos_id], eos_id, 64, 64) for tokens in encoded]
    nats = [sum(of_document) for of_document in alone]

    # Documents that a window cuts see less of themselves; the first and the last may be cut, too.
    ends = np.cumsum([len(tokens) + 1 for tokens in encoded])
    cut = set(np.searchsorted(ends, np.arange(0, n, 64), side="right").tolist())
    assert record.document == list(range(len(record.nats)))
    whole = [i for i in range(1, len(record.nats) - 1) if i not in cut]
    assert len(whole) > 4
    measured = [record.nats[i] for i in whole]
    assert measured == pytest.approx([nats[i] for i in whole], abs=2e-4)


def test_per_document_nats_add_up_to_the_loss_and_give_its_margin(validation: TokenShards) -> None:
    config = EvaluationConfig(tokens=len(validation), context_lengths=[16, 64])
    metrics, records = measure(Coin(512), validation, config, 64, 1000)
    for record in records:
        assert sum(record.n_targets) == record.targets == metrics["val/targets"]
        assert sum(record.nats) / record.targets == pytest.approx(record.loss, rel=1e-5)
        assert len(record.document) == metrics["val/documents"] == validation.documents
        assert sum(record.n_bytes) == record.bytes == metrics["val/bytes"]
        assert sum(record.n_words) == record.words
    assert records[0].text == records[1].text

    loss = over_documents(np.array(records[1].nats), np.array(records[1].n_targets))
    assert metrics["val/loss_margin"] == pytest.approx(loss.margin)


def test_the_windows_of_one_document_are_added_up(validation: TokenShards) -> None:
    """The nats of each document by a loop over the targets of the whole stream."""
    config = EvaluationConfig(tokens=640, context_lengths=[64])
    _, (record,) = measure(Coin(512), validation, config, 64, 1000)
    targets = choose_targets(validation, config, 64)
    ends = (targets.starts + targets.sizes).tolist()
    stretches = list(zip(targets.starts.tolist(), ends, strict=True))

    nats: dict[int, float] = {}
    document = 0
    for place in range(1, len(validation)):
        previous, token = validation.read(place - 1, 2).tolist()
        document += previous == validation.tokenizer.eos_id
        if any(start <= place < end for start, end in stretches):
            nats[document] = nats.get(document, 0.0) + COIN_NATS[int(previous != token)]
    assert record.document == list(nats)
    assert record.nats == pytest.approx(list(nats.values()), abs=1e-3)

    # The words and bytes of all stretches of a document count.
    n_words = dict.fromkeys(nats, 0)
    n_bytes = dict.fromkeys(nats, 0)
    for text in targets.texts():
        n_words[text.document] += text.n_words
        n_bytes[text.document] += len(text.text.encode())
    assert len(list(targets.texts())) > len(nats)
    assert record.n_words == list(n_words.values())
    assert record.n_bytes == list(n_bytes.values())


def test_the_icl_score_is_late_minus_early() -> None:
    """Of 512 positions: the mean of 480...511 minus that of 32...63."""
    losses = np.zeros(512)
    losses[480:] = 1.0
    losses[32:64] = 5.0
    losses[100:200] = 99.0
    assert icl_score(losses, np.arange(512), np.zeros(512), 512).value == -4.0


def test_the_icl_score_has_the_margin_of_the_documents_scores() -> None:
    """Ten documents, a window each: their scores are independent and of equal weight."""
    generator = np.random.default_rng(3)
    nats = generator.normal(3.0, 1.0, (10, 64))
    position = np.tile(np.arange(64), 10)
    documents = np.repeat(np.arange(10), 64)
    estimate = icl_score(nats.ravel(), position, documents, 64)

    scores = nats[:, 60:].mean(axis=1) - nats[:, 4:8].mean(axis=1)
    assert estimate.value == pytest.approx(scores.mean())
    assert estimate.interval == pytest.approx(over_documents(scores, np.ones(10)).interval)


def test_too_little_validation_text_is_refused(validation: TokenShards) -> None:
    seq_len = 16 * len(validation)
    config = EvaluationConfig(tokens=seq_len, context_lengths=[16])
    with pytest.raises(UserError, match="fewer than one window"):
        measure(Coin(512), validation, config, seq_len, 64)
