"""Decoding with a cache against full forward passes, and sampling against its distribution."""

from __future__ import annotations

import gc
import weakref
from itertools import islice
from typing import Any

import pytest
import torch

from momentum_gpt.core.config import ModelConfig, Sampling
from momentum_gpt.core.errors import UserError
from momentum_gpt.models import GPT, Cache
from momentum_gpt.models.decoding import generate, restrict
from momentum_gpt.models.gpt import init_weights
from tests.models import variants

GREEDY = Sampling(temperature=0)
PROMPTS = [[5, 6, 7, 8, 9, 10], [11], [12, 13, 14]]
VANILLA = variants.FROM_YAML["vanilla"]
MOMENTUM = variants.FROM_YAML["momentum"]


def model_of(options: dict[str, Any], positions: str = "learned") -> GPT:
    """Return a model in float64 with weights so large that one next token stands out."""
    config = ModelConfig(2, 2, 16, 64, vocab_size=50, positions=positions, init_std=0.3)
    model = GPT(config, options)
    init_weights(model, 0)
    return model.double().eval()


def rows(steps: list[list[int | None]]) -> list[list[int]]:
    """Return the tokens of each row, without the places after its end."""
    return [list(filter(is_token, row)) for row in zip(*steps, strict=True)]


def is_token(token: int | None) -> bool:
    return token is not None


def by_full_passes(model: GPT, prompt: list[int], n: int) -> list[int]:
    """The likeliest token, n times, each from a forward pass over all before it."""
    ids = list(prompt)
    for _ in range(n):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("case", variants.ALL)
def test_greedy_decoding_of_unequal_prompts_is_what_full_passes_say(
    case: str, positions: str
) -> None:
    model = model_of(variants.ALL[case], positions)
    decoded = rows(list(generate(model, PROMPTS, 20, GREEDY)))
    assert decoded == [by_full_passes(model, prompt, 20) for prompt in PROMPTS]

    # Rows that repeat one token each would be too easy.
    assert len(set().union(*decoded)) > 3


@pytest.mark.parametrize("case", variants.ALL)
def test_a_cache_filled_in_pieces_gives_the_logits_of_the_full_pass(
    case: str,
) -> None:
    model = model_of(variants.ALL[case])
    tokens = torch.arange(45)[None].expand(2, -1)
    cache = Cache(2, 2, 64)
    pieces = [model(part, cache=cache) for part in tokens.split([33, 1, 1, 10], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", variants.ALL)
def test_many_rows_continue_one_prefix(case: str) -> None:
    """A prefix is computed once and continued by rows of unequal lengths, then token by token."""
    model = model_of(variants.ALL[case])
    prefix = torch.arange(10)[None]
    cache = Cache(2, 1, 10)
    model(prefix, cache=cache)

    ends = [[20, 21, 22], [30], [40, 41]]
    tokens = torch.tensor([[20, 21, 22], [30, 0, 0], [40, 41, 0]])
    branched = cache.branch(3, 6)
    first = model(tokens, cache=branched, n_new=torch.tensor([3, 1, 2]))
    later = model(torch.tensor([[5], [6], [7]]), cache=branched)

    for row, (end, new) in enumerate(zip(ends, (5, 6, 7), strict=True)):
        alone = model(torch.tensor([[*range(10), *end, new]]))[0, 10:]
        together = torch.cat([first[row, : len(end)], later[row]])
        torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)
    assert cache.lengths.tolist() == [10]


def test_tokens_that_do_not_fit_a_cache_are_refused() -> None:
    with pytest.raises(UserError, match=r"0 \+ 10 tokens do not fit a cache of 8"):
        model_of(VANILLA)(torch.arange(10)[None], cache=Cache(2, 1, 8))


def test_a_row_draws_the_same_whatever_stands_beside_it() -> None:
    model, sampling = model_of(MOMENTUM), Sampling(temperature=1.5, seed=3)
    together = rows(list(generate(model, PROMPTS, 30, sampling)))
    assert rows(list(generate(model, PROMPTS[:1], 30, sampling))) == together[:1]
    assert rows(list(generate(model, PROMPTS, 30, sampling))) == together
    assert rows(list(generate(model, PROMPTS, 30, Sampling(temperature=1.5, seed=4)))) != together


def test_a_stop_token_ends_its_row_alone() -> None:
    model = model_of(MOMENTUM)
    free = rows(list(generate(model, PROMPTS, 20, GREEDY)))
    stop = free[0][4]
    stopped = rows(list(generate(model, PROMPTS, 20, GREEDY, frozenset([stop]))))
    for row, without in zip(stopped, free, strict=True):
        end = without.index(stop) + 1 if stop in without else len(without)
        assert row == without[:end]
    assert len(stopped[0]) <= 5
    only = generate(model, PROMPTS[:1], 20, GREEDY, frozenset([stop]))
    # Generation ends when every row has ended.
    assert len(list(only)) == len(stopped[0])


def test_tokens_come_one_at_a_time() -> None:
    steps = generate(model_of(VANILLA), PROMPTS, 50, GREEDY)
    assert len(list(islice(steps, 2))) == 2


def test_top_k_and_top_p_by_hand() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()

    def kept(**options: Any) -> list[int]:
        return restrict(logits, Sampling(**options)).isfinite()[0].nonzero().flatten().tolist()

    assert kept() == [0, 1, 2, 3]
    assert kept(top_k=2) == [0, 1]
    assert kept(top_k=9) == [0, 1, 2, 3]
    assert kept(top_p=0.39) == [0]
    assert kept(top_p=0.41) == [0, 1]
    assert kept(top_p=0.91) == [0, 1, 2, 3]
    assert kept(top_k=3, top_p=0.75) == [0, 1]  # of what top_k leaves: 4/9 + 3/9 = 0.78


@pytest.mark.parametrize(
    "restricted", [Sampling(top_k=1), Sampling(top_p=1e-6), Sampling(temperature=1e-6)]
)
def test_the_narrowest_sampling_is_greedy(restricted: Sampling) -> None:
    model = model_of(MOMENTUM)
    assert list(generate(model, PROMPTS, 20, restricted)) == list(
        generate(model, PROMPTS, 20, GREEDY)
    )


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_tokens_are_drawn_as_often_as_the_model_says(temperature: float) -> None:
    model, n = model_of(MOMENTUM), 4000
    drawn = next(iter(generate(model, [PROMPTS[0]] * n, 1, Sampling(temperature=temperature))))
    counts = torch.bincount(torch.tensor(drawn), minlength=50).double()
    with torch.no_grad():
        expected = n * (model(torch.tensor([PROMPTS[0]]))[0, -1] / temperature).softmax(-1)
    often = expected >= 5
    chi2 = ((counts - expected)[often] ** 2 / expected[often]).sum().item()
    assert chi2 < 2 * often.sum() + 30


@pytest.mark.parametrize(
    ("prompts", "new", "message"),
    [
        ([[1], []], 5, "a prompt has no tokens"),
        (
            [[1] * 60],
            5,
            "a prompt of 60 tokens and max_new_tokens=5 do not fit .* context of 64 .* =4 or less",
        ),
        ([[1]], 0, "max_new_tokens must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(prompts: list[list[int]], new: int, message: str) -> None:
    with pytest.raises(UserError, match=message.replace(" =", ".*=")):
        next(generate(model_of(VANILLA), prompts, new, GREEDY))


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.5}])
def test_sampling_out_of_bounds_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"sampling.{next(iter(bad))} must be"):
        Sampling(**bad)


def test_a_cache_is_freed_with_its_last_use() -> None:
    """Without waiting for the garbage collector: each batch of an evaluation has a cache."""
    cache = Cache(n_layers=2, n_rows=1, capacity=4)
    cache.begin(4, None)
    cache.layers[0].append(torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 8))
    keys = weakref.ref(cache.layers[0].tensors["k"])
    gc.disable()
    try:
        del cache
        assert keys() is None
    finally:
        gc.enable()
