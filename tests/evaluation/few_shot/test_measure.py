"""Few-shot scoring: equal to plain passes, equal to numbers worked out on paper, whatever the batches and the ranks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from momentum_gpt.core.config import IclConfig, ModelConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Tokenizer, load_tokenizer
from momentum_gpt.evaluation.few_shot.measure import Asked, evaluate_icl, normalized, prepare_task
from momentum_gpt.evaluation.few_shot.shared_prefix import requests_of, score_requests
from momentum_gpt.evaluation.few_shot.tasks import (
    Example,
    demonstrations,
    load_examples,
    load_task,
    neutral_prompts,
    task_names,
)
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import init_weights
from tests.conftest import SHARED_DATA


@pytest.fixture(scope="module")
def tokenizer(data_folder: Path) -> Tokenizer:
    return load_tokenizer(data_folder)


@pytest.fixture
def colours(tmp_path: Path) -> Callable[..., str]:
    """A task of a user's own, from .jsonl files, and its YAML."""

    def make(verbalizers: list[str], n_test: int = 12) -> str:
        folder = tmp_path / "colours"
        folder.mkdir(exist_ok=True)
        for split, n in (("train", 20), ("test", n_test)):
            rows = [
                {"text": f"{split} thing {i} of some kind", "label": i % len(verbalizers)}
                for i in range(n)
            ]
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        path = tmp_path / "colours.yaml"
        path.write_text(
            f"dataset: {folder}\ntest_split: test\ntemplate: 'Thing: {{text}} Colour:'\n"
            f"verbalizers: {json.dumps(verbalizers)}\n"
        )
        return str(path)

    return make


def model_of(options: dict[str, Any], seq_len: int = 512, positions: str = "learned") -> GPT:
    model = GPT(
        ModelConfig(2, 2, 16, seq_len, vocab_size=512, init_std=0.2, positions=positions), options
    )
    init_weights(model, 0)
    return model.double().eval()


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize(
    "options",
    [
        {"name": "vanilla"},
        {"name": "momentum", "ema_decay": 0.9},
        {"name": "shift", "weight": 0.5},
        {"name": "linear"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "verbalizers", [[" a", " b"], [" red and blue", " e", " yellow"]], ids=["short", "long"]
)
def test_every_score_is_that_of_a_plain_pass(
    tokenizer: Tokenizer,
    colours: Callable[..., str],
    options: dict[str, Any],
    positions: str,
    verbalizers: list[str],
) -> None:
    config = IclConfig(tasks=[colours(verbalizers)], k=[0, 3], seeds=2, verify=12, flipped=True)
    records = list(
        evaluate_icl(
            model_of(options, positions=positions), tokenizer, config, 512, tokens_per_forward=1500
        )
    )
    assert [(record["k"], record["seed"]) for record in records] == [(0, 0), (3, 0), (3, 1)]
    assert all(record["verified"] < 1e-5 for record in records)
    assert all("acc/flipped" in record for record in records[1:])


def test_batches_and_order_change_nothing(tokenizer: Tokenizer) -> None:
    generator = np.random.default_rng(0)
    prompts = [generator.integers(4, 500, n).tolist() for n in (3, 40, 7, 1, 22)]
    candidates = [[generator.integers(4, 500, n).tolist() for n in (2, 1, 5)] for _ in prompts]
    requests, prefix = requests_of(prompts, candidates), list(range(4, 44))
    model = model_of({"name": "momentum", "ema_decay": 0.9})
    results = [
        score_requests(model, prefix, requests, tokens_per_forward)
        for tokens_per_forward in (1, 200, 10**6)
    ]
    results.append(score_requests(model, prefix, requests[::-1], 200))
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], atol=1e-5)


class Favourite(nn.Module):
    """Gives token 300 the probability 1/2, token 301 1/4, and shares the rest out evenly; takes no notice of the context."""

    def __init__(self) -> None:
        super().__init__()
        self.config = ModelConfig(1, 1, 4, 512, vocab_size=512)
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(
        self, tokens: Tensor, cache: Any = None, n_new: Any = None, at: Any = None
    ) -> Tensor:
        cache.begin(tokens.shape[1], n_new)
        cache.end(tokens.shape[1])
        probabilities = torch.full((512,), 0.25 / 510)
        probabilities[300], probabilities[301] = 0.5, 0.25
        return probabilities.log().expand(*(tokens if at is None else at).shape, 512)


def test_known_probabilities_give_the_scores_worked_out_on_paper(
    tokenizer: Tokenizer, colours: Callable[..., str]
) -> None:
    """Candidates of tokens (300), (301) and (300, 301): ln 1/2, ln 1/4, ln 1/8; per token ln 1/2, ln 1/4, ln 1/8 / 2."""
    pieces = [tokenizer.decode([i]) for i in (300, 301)]
    verbalizers = [pieces[0], pieces[1], pieces[0] + pieces[1]]
    expected = [
        sum(
            math.log(0.5 if i == 300 else 0.25 if i == 301 else 0.25 / 510)
            for i in tokenizer.encode(v)
        )
        for v in verbalizers
    ]
    assert expected[:2] == pytest.approx([math.log(0.5), math.log(0.25)])
    config = IclConfig(tasks=[colours(verbalizers, n_test=30)], k=[2], seeds=1)
    (record,) = evaluate_icl(Favourite(), tokenizer, config, 512, 4096)
    scores = np.array(expected) / [len(tokenizer.encode(v)) for v in verbalizers]
    share = np.exp(scores) / np.exp(scores).sum()
    assert record["acc/sum"] == pytest.approx(
        1 / 3
    )  # always the first candidate, and a third of the labels are it
    assert record["majority"] == pytest.approx(1 / 3)
    assert record["soft"] == pytest.approx(share.mean(), rel=1e-5)
    assert record["chosen"][0] == 30
    assert record["acc/pmi"] == pytest.approx(
        1 / 3
    )  # the prompt adds nothing to any: all are tied, the first is taken
    assert record["loss"][:3] == pytest.approx((-np.log(share)).tolist(), abs=1e-4)


class Bigram(nn.Module):
    """Gives tokens 300 and 301 the probabilities that the table has for the last token, and shares the rest out evenly."""

    def __init__(self, table: dict[int, tuple[float, float]]) -> None:
        super().__init__()
        self.config, self.table = ModelConfig(1, 1, 4, 512, vocab_size=512), table
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(
        self, tokens: Tensor, cache: Any = None, n_new: Any = None, at: Any = None
    ) -> Tensor:
        cache.begin(tokens.shape[1], n_new)
        cache.end(tokens.shape[1])
        last = tokens.gather(1, at)  # (B, 1)
        a, b = torch.tensor(
            [[self.table.get(int(i), (0.1, 0.1)) for i in row] for row in last]
        ).unbind(-1)
        probabilities = ((1 - a - b) / 510)[..., None].repeat(1, 1, 512)
        probabilities[..., 300], probabilities[..., 301] = a, b
        return probabilities.log()


def test_calibration_and_pmi_are_those_worked_out_on_paper(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Shares without content (3/4, 1/4), (1/2, 1/2), (3/4, 1/4): on average (2/3, 1/3).

    | query, its right candidate   | raw | calibrated: share / (2/3, 1/3) | pmi: p / (0.6, 0.2) |
    | p = (0.8, 0.1), the first    | 1st | (1.33, 0.33): 1st              | (1.33, 0.50): 1st   |
    | p = (0.5, 0.4), the second   | 1st | (0.83, 1.33): 2nd              | (0.83, 2.00): 2nd   |
    | p = (0.6, 0.25), the second  | 1st | (1.06, 0.88): 1st              | (1.00, 1.25): 2nd   |
    """
    queries = {"def f": (0.8, 0.1), "for x": (0.5, 0.4), "is it": (0.6, 0.25)}
    neutral = {"N/A": (0.6, 0.2), "": (0.4, 0.4), "[MASK]": (0.3, 0.1)}
    last = {text: tokenizer.encode(f"A {text}")[-1] for text in (*queries, *neutral)}
    assert len(set(last.values())) == 6
    rows = [{"text": text, "label": label} for text, label in zip(queries, (0, 1, 1), strict=True)]
    for split in ("train", "test"):
        shown = rows if split == "test" else [{"text": "other", "label": 0}]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    verbalizers = json.dumps([tokenizer.decode([i]) for i in (300, 301)])
    (tmp_path / "t.yaml").write_text(
        f"dataset: {tmp_path}\ntest_split: test\ntemplate: 'A {{text}}'\nverbalizers: {verbalizers}\n"
    )
    model = Bigram({last[text]: p for text, p in (queries | neutral).items()})
    config = IclConfig(tasks=[str(tmp_path / "t.yaml")], k=[1], seeds=1)
    (record,) = evaluate_icl(model, tokenizer, config, 512, 4096)
    assert record["acc"] == pytest.approx(1 / 3)
    assert record["acc/calibrated"] == pytest.approx(2 / 3)
    assert record["acc/pmi"] == 1.0
    assert record["queries"] == [0, 1, 2]
    assert record["scores"]["sum"] == [
        pytest.approx(np.log(p).tolist(), abs=1e-5) for p in queries.values()
    ]
    assert record["soft"] == pytest.approx((8 / 9 + 4 / 9 + 0.25 / 0.85) / 3, rel=1e-5)


def test_scores_are_divided_by_what_their_names_say() -> None:
    """ " a" is 1 character and 2 bytes, " naïve" 5 and 7: characters without the space before, bytes with it."""
    asked = Asked(
        load_task("sst2"), [], [0], [Example("x", (" a", " naïve"), 0)], [[5]], [[[1], [2, 3, 4]]]
    )
    kinds = {
        kind: its[0].tolist() for kind, its in normalized([np.array([-2.0, -4.2])], asked).items()
    }
    expected = {
        "sum": [-2.0, -4.2],
        "per_token": [-2.0, -1.4],
        "per_char": [-2.0, -0.84],
        "per_byte": [-1.0, -0.6],
    }
    assert kinds == {kind: pytest.approx(values) for kind, values in expected.items()}


def test_as_many_demonstrations_are_shown_as_fit(
    tokenizer: Tokenizer, colours: Callable[..., str]
) -> None:
    task = colours([" a", " b"])
    config = IclConfig(tasks=[task], k=[0, 2, 16, 32], seeds=2)
    records = list(evaluate_icl(model_of({"name": "vanilla"}, 250), tokenizer, config, 250, 4096))
    shown = sorted({(record["k"], record["k_asked"]) for record in records})
    assert shown[:2] == [(0, 0), (2, 2)]
    assert len(shown) == 3
    assert shown[2][1] == 16
    assert 2 < shown[2][0] < 16
    with pytest.raises(UserError, match="none of 12 queries fits the model's context of 8 tokens"):
        prepare_task(task, tokenizer, config, 8)


def test_wrong_answers_and_prompts_without_content_fit_too(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """The right answers are short and the wrong ones long, the queries shorter than "[MASK]": whatever the context's length."""
    for split, n in (("train", 20), ("test", 4)):
        rows = [{"text": f"{'x' if split == 'test' else i}", "label": 0} for i in range(n)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "t.yaml").write_text(
        f"dataset: {tmp_path}\ntest_split: test\ntemplate: '{{text}}'\nverbalizers: [' a', ' a longer answer']\n"
    )
    config = IclConfig(tasks=[str(tmp_path / "t.yaml")], k=[16], seeds=2, flipped=True)
    for seq_len in range(60, 75, 3):
        records = list(
            evaluate_icl(model_of({"name": "vanilla"}, seq_len), tokenizer, config, seq_len, 4096)
        )
        assert 1 <= records[0]["k"] < 16


def test_demonstrations_are_a_function_of_the_seed_and_never_the_queries(
    colours: Callable[..., str],
) -> None:
    train, test = load_examples(load_task(colours([" a", " b"])), None)
    assert demonstrations(train, 5, "x", 0) == demonstrations(train, 9, "x", 0)[:5]
    assert demonstrations(train, 5, "x", 0) != demonstrations(train, 5, "x", 1)
    assert not {example.prompt for example in train} & {example.prompt for example in test}


def test_tasks_are_what_the_paper_and_its_code_say() -> None:
    assert (
        neutral_prompts(load_task("cb"))[0] == "N/A Question: N/A. True, False, or Neither? Answer:"
    )
    assert (
        neutral_prompts(load_task("cb_paper"))[0]
        == "N/A Question: N/A True, False, or Neither? Answer:"
    )
    wanted = {"sst2", "sst5", "mr", "subj", "agnews", "cb", "imdb", "arc_easy", "piqa"}
    assert wanted <= set(task_names())
    with pytest.raises(UserError, match="'sst3' is none of agnews"):
        load_task("sst3")


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "n", "n_candidates"),
    [("sst2", 872, 2), ("sst5", 1101, 5), ("mr", 1066, 2), ("subj", 2000, 2), ("agnews", 3000, 4), ("cb", 56, 3),
     ("imdb", 2000, 2), ("piqa", 1838, 2), ("arc_easy", 567, 4), ("agnews_paper", 3000, 4), ("cb_paper", 56, 3)],
)  # fmt: skip
def test_real_tasks_are_read_from_a_local_folder(name: str, n: int, n_candidates: int) -> None:
    train, test = load_examples(load_task(name), str(SHARED_DATA / "icl"))
    assert len(test) == pytest.approx(n, abs=6)
    assert {len(example.candidates) for example in test} == {n_candidates}
    assert all(0 <= example.gold < n_candidates for example in train + test)
    assert all(text.startswith(" ") for example in test[:50] for text in example.candidates)


def test_mistakes_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "bad.yaml"
    for content, said in (
        (
            "dataset: x\ntest_split: test\ntemplate: t\n",
            "must have verbalizers, or rows as one of arc, piqa",
        ),
        ("dataset: x\ntemplte: y\n", "is not a task"),
        (
            "dataset: /nowhere\ntest_split: test\ntemplate: t\nverbalizers: [a]\n",
            "cannot be loaded",
        ),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=said):
            list(
                evaluate_icl(
                    model_of({"name": "vanilla"}),
                    tokenizer,
                    IclConfig(tasks=[str(path)]),
                    512,
                    4096,
                )
            )
