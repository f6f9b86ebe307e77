"""Our model class inside lm-eval against lm-eval's own, on the same weights; skipped where lm-eval is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-eval is not installed: make test-harness installs it")
pytest.importorskip("accelerate")

TEXT = "the quick brown fox jumps over the lazy dog while a slow red turtle looks on " * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of `transformers` with random weights and a byte-level tokenizer of its own."""
    import tokenizers
    import transformers

    path = tmp_path_factory.mktemp("gpt2")
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([TEXT], vocab_size=400, special_tokens=["<|endoftext|>"])
    tokenizer.save(str(path / "tokenizer.json"))
    end = "<|endoftext|>"
    transformers.PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"), eos_token=end).save_pretrained(path)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=400, n_positions=128, n_embd=32, n_layer=2, n_head=4)
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(path)
    return path


def both(folder: Path) -> tuple[Any, Any]:
    from lm_eval.models.huggingface import HFLM

    from momentum_gpt.evaluation.harness import NativeLM

    return NativeLM(run=str(folder)), HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4)


def test_log_probabilities_and_choices_are_those_of_lm_evals_own_model(folder: Path) -> None:
    """One-token and longer answers, shared and unshared contexts, one too long for the model, and none at all."""
    from lm_eval.api.instance import Instance

    prefix = " ".join(TEXT.split()[:60])
    asked = [
        (f"{prefix} {word} is", answer) for word in ("fox", "dog", "red turtle") for answer in (" the", " a slow", " over")
    ]
    asked += [("dog", " the"), ("", "the quick"), (TEXT, " brown fox")]
    instances = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(asked)]
    mine, theirs = (model.loglikelihood(instances) for model in both(folder))
    np.testing.assert_allclose([score for score, _ in mine], [score for score, _ in theirs], atol=1e-4)
    assert [chosen for _, chosen in mine] == [chosen for _, chosen in theirs]


def test_whole_texts_that_fit_the_context_have_lm_evals_nats(folder: Path) -> None:
    from lm_eval.api.instance import Instance

    texts = [" ".join(TEXT.split()[start : start + 20]) for start in range(0, 60, 20)]
    instances = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)]
    mine, theirs = (model.loglikelihood_rolling(instances) for model in both(folder))
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def test_generation_stops_where_it_is_told(folder: Path) -> None:
    from lm_eval.api.instance import Instance

    ours, theirs = both(folder)
    options = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
    instances = [Instance("generate_until", {}, ("the quick brown", options), 0)]
    assert ours.generate_until(instances) == theirs.generate_until(instances)
