"""Continuing prompts with a trained model."""

from __future__ import annotations

import io
import sys
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


def test_text_continues_the_prompt(invoke: Invoke, model_folder: Path) -> None:
    arguments = [f"run={model_folder}", "prompt=def main(", "max_new_tokens=20"]
    first = invoke(generate.main, *arguments)
    second = invoke(generate.main, *arguments)
    assert (first.code, first.err) == (0, "")
    assert first.out.startswith("def main(")
    assert first.out == second.out
    assert invoke(generate.main, *arguments, "sampling.seed=1").out != first.out


@pytest.mark.parametrize(
    "prompt",
    [
        "def main(",
        "Hello, world",
        "I'm",
        "日本語",
        'a="b"',
        "{x: [1, 2]}",
        "x = ${y}",
        "C:\\",
        "two \\\\",
        "\\${y} \\\\${y}",
        "null",
        "1.50",
        "???",
        " spaces ",
        "two\nlines\n",
        "'quoted'",
        "a,b,c",
        "-m",
    ],
)
def test_a_prompt_is_taken_literally(invoke: Invoke, model_folder: Path, prompt: str) -> None:
    arguments = [f"run={model_folder}", "max_new_tokens=1", "sampling.temperature=0"]
    done = invoke(generate.main, *arguments, f"prompt={prompt}")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(prompt)


def test_a_prompt_may_come_from_a_file_or_from_standard_input(
    invoke: Invoke, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One newline at the end belongs to the file, a second one to the prompt."""
    text = "import os, sys\n\nprint('日本語 ${y}')"
    arguments = [f"run={model_folder}", "max_new_tokens=5"]
    expected = invoke(generate.main, *arguments, f"prompt={text}").out

    path = tmp_path / "prompt.txt"
    path.write_text(text + "\n", encoding="utf-8")
    assert invoke(generate.main, *arguments, f"prompt_file={path}").out == expected

    standard_input = io.TextIOWrapper(io.BytesIO(text.encode()))
    monkeypatch.setattr(sys, "stdin", standard_input)
    assert invoke(generate.main, *arguments, "prompt_file=-").out == expected

    path.write_text(text + "\n\n", encoding="utf-8")
    assert invoke(generate.main, *arguments, f"prompt_file={path}").out.startswith(text + "\n")


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
    ids = tokenizer.encode("x = '\u4e2d'")  # the character has no piece, so it is three bytes
    text = Text(tokenizer, [])
    shown = []
    for token in ids:
        text.ids.append(token)
        shown.append(text.grown())
    assert "".join(shown) == "x = '\u4e2d'"
    assert not any("\ufffd" in part for part in shown)
    assert shown.count("") >= 2
    assert text.rest() == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stop=['more than one token']"], "tokens and must be 1: take a shorter text"),
        (["prompt=a", "prompts=[b]"], "give either prompt or prompts, not both"),
        (["prompt_file=a", "prompts=[b]"], "give either prompt_file or prompts, not both"),
        (["prompt_file=nowhere.txt"], "prompt_file='nowhere.txt' cannot be read"),
        (["max_new_tokens=64"], "the model's context of 64"),
        (["sampling.top_p=2"], "sampling.top_p must be in (0, 1], got 2.0"),
        (["run=nowhere"], "nowhere holds no model"),
    ],
)
def test_mistakes_are_one_line(
    invoke: Invoke, model_folder: Path, arguments: list[str], message: str
) -> None:
    done = invoke(generate.main, f"run={model_folder}", *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1), done
    assert message in done.err
