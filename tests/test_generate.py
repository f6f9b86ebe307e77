"""The command that lets a model write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from momentum_gpt import generate
from momentum_gpt.core.config import ModelConfig
from momentum_gpt.data import load_tokenizer
from momentum_gpt.generate import Text
from momentum_gpt.models import GPT, save_model
from momentum_gpt.models.gpt import init_weights
from tests.conftest import Result

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def model_folder(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model = GPT(ModelConfig(2, 2, 32, 64, vocab_size=512), {"name": "momentum", "ema_decay": 0.5})
    init_weights(model, 0)
    save_model(folder, model, dict(model.named_parameters()), data_folder / "tokenizer.model")
    return folder


def test_text_goes_on_from_the_prompt(invoke: Invoke, model_folder: Path) -> None:
    arguments = [f"run={model_folder}", "prompt='def main('", "max_new_tokens=20"]
    first, second = invoke(generate.main, *arguments), invoke(generate.main, *arguments)
    assert (first.code, first.err) == (0, "")
    assert first.out.startswith("def main(")
    assert first.out == second.out
    assert invoke(generate.main, *arguments, "sampling.seed=1").out != first.out


def test_several_prompts_are_one_batch(invoke: Invoke, model_folder: Path) -> None:
    done = invoke(
        generate.main,
        f"run={model_folder}",
        "prompts=['class A','import os and']",
        "max_new_tokens=5",
    )
    assert done.out.startswith("--- 1\nclass A")
    assert "\n--- 2\nimport os and" in done.out


def test_a_stop_text_ends_generation(invoke: Invoke, model_folder: Path) -> None:
    arguments = [
        f"run={model_folder}",
        "prompt=import",
        "max_new_tokens=40",
        "sampling.temperature=0",
    ]
    free = invoke(generate.main, *arguments).out
    tokenizer = load_tokenizer(model_folder)
    third = tokenizer.decode(tokenizer.encode(free)[:4][-1:])
    stopped = invoke(generate.main, *arguments, f"stop=['{third}']")
    assert len(stopped.out) < len(free)


def test_a_character_is_shown_when_all_its_bytes_are_there(data_folder: Path) -> None:
    tokenizer = load_tokenizer(data_folder)
    ids = tokenizer.encode("x = '\u4e2d'")  # no piece of its own: three bytes
    text, shown = Text(tokenizer, []), []
    for token in ids:
        text.ids.append(token)
        shown.append(text.grown())
    assert "".join(shown) == "x = '\u4e2d'"
    assert not any("\ufffd" in part for part in shown)
    assert shown.count("") >= 2
    assert text.rest() == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stop=['more than one token']"], "and must be one"),
        (["prompt=a", "prompts=[b]"], "not both"),
        (["max_new_tokens=64"], "the model's context of 64"),
        (["sampling.top_p=2"], "sampling.top_p must be in (0, 1], got 2.0"),
        (["run=nowhere"], "nowhere holds no model"),
    ],
)
def test_mistakes_are_one_line(
    invoke: Invoke, model_folder: Path, arguments: list[str], said: str
) -> None:
    done = invoke(generate.main, f"run={model_folder}", *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1), done
    assert said in done.err
