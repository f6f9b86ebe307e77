"""What a model writes after prompts of any lengths: the same as one by one, without a cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from momentum_gpt.data import Tokenizer, load_tokenizer
from momentum_gpt.evaluation.few_shot.greedy import Opening, Writing, write_on
from momentum_gpt.models import GPT
from tests.evaluation.few_shot.cases import model_of
from tests.training.ranks import on_ranks

PREFIX = list(range(4, 44))

ROOM = 12

SIZES = (3, 40, 7, 1, 22, 9, 15)


class Until:
    """Texts whose numbers have a sum divisible by 13: some end after few tokens, some never."""

    def is_complete(self, tokens: list[int]) -> bool:
        return sum(tokens) % 13 == 0


def prompts() -> list[list[int]]:
    generator = np.random.default_rng(0)
    return [generator.integers(4, 500, n).tolist() for n in SIZES]


def one_by_one(model: nn.Module, prompt: list[int], ends: Callable[[list[int]], bool]) -> list[int]:
    """Return the likeliest tokens after a prompt, each from a pass over all before it."""
    written: list[int] = []
    while len(written) < ROOM and not (written and ends(written)):
        tokens = torch.tensor([[*PREFIX, *prompt, *written]])
        written.append(int(model(tokens)[0, -1].argmax()))
    return written


def write_all(model: nn.Module, tokens_per_forward: int) -> list[list[int]]:
    openings = [Opening(prompt, ROOM, place) for place, prompt in enumerate(prompts())]
    return write_on(model, PREFIX, openings, Until(), tokens_per_forward)  # type: ignore[arg-type]


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize(
    "attention",
    [
        {"name": "vanilla"},
        {"name": "momentum", "ema_decay": 0.9},
        {"name": "shift", "weight": 0.5},
        {"name": "linear"},
    ],
    ids=str,
)
def test_prompts_of_any_lengths_are_continued_as_one_by_one(
    attention: dict[str, Any], positions: str
) -> None:
    """In batches of one, of a few and of all; the texts end at different lengths."""
    model = model_of(attention, positions=positions)
    expected = [one_by_one(model, prompt, Until().is_complete) for prompt in prompts()]
    assert len({len(written) for written in expected}) > 1
    for tokens_per_forward in (1, 150, 10**6):
        assert write_all(model, tokens_per_forward) == expected


def test_progress_counts_the_prefix_once_and_all_of_the_room() -> None:
    amounts: list[float] = []
    openings = [Opening([5, 6], 4, 0), Opening([7], 4, 1)]
    write_on(
        model_of({"name": "vanilla"}),
        PREFIX,
        openings,
        Until(),  # type: ignore[arg-type]
        10,
        amounts.append,
    )
    # The last token that is written is not read.
    assert sum(amounts) == len(PREFIX) + (2 + 3) + (1 + 3)


class Counting(nn.Module):
    """A model that counts its passes."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self.passes = 0

    def forward(self, tokens: Tensor, **options: Any) -> Tensor:
        self.passes += 1
        return self.model(tokens, **options)


def write_and_count() -> tuple[list[list[int]], int]:
    model = Counting(model_of({"name": "momentum", "ema_decay": 0.9}))
    return write_all(model, 150), model.passes


def test_ranks_make_equally_many_passes_and_have_all_texts(tmp_path: Path) -> None:
    """ZeRO-3 hangs otherwise: texts end at different lengths, and the batches are odd in number."""
    first, second = on_ranks(2, write_and_count, tmp_path)
    alone, _ = write_and_count()
    assert first == second
    assert first[0] == alone


@pytest.fixture(scope="module")
def tokenizer(data_folder: Path) -> Tokenizer:
    return load_tokenizer(data_folder)


def test_a_text_ends_at_the_first_of_its_ends(tokenizer: Tokenizer) -> None:
    writing = Writing(tokenizer, ["\n", "###"])
    ids = tokenizer.encode(" an answer ## and more ### not\nthis")
    complete = [n for n in range(1, len(ids) + 1) if writing.is_complete(ids[:n])]
    assert "###" in tokenizer.decode(ids[: complete[0]])
    assert "###" not in tokenizer.decode(ids[: complete[0] - 1])
    assert writing.text(ids) == " an answer ## and more "
    assert writing.text(tokenizer.encode(" a\nb ###")) == " a"


def test_the_end_of_a_document_ends_a_text_and_is_no_part_of_it(tokenizer: Tokenizer) -> None:
    writing = Writing(tokenizer, [])
    ids = tokenizer.encode(" an answer")
    assert not writing.is_complete(ids)
    assert writing.is_complete([*ids, tokenizer.eos_id])
    assert writing.text([*ids, tokenizer.eos_id]) == writing.text(ids) == " an answer"
