"""A command gets plain dataclasses; what the user typed literally arrives as it was typed."""

from __future__ import annotations

import pickle
import shlex
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momentum_gpt.cli import compose
from momentum_gpt.cli.compose import Command, JobFailedError, take_literals, write_out
from momentum_gpt.cli.mistakes import FLAGS, closest, no_such_choice, not_parsed
from momentum_gpt.core.config import TrainConfig
from momentum_gpt.generate import GenerateConfig
from tests.conftest import Result

Invoke = Callable[..., Result]

PROMPTS = [
    "def main(",
    "Hello, world",
    "I'm",
    "日本語",
    "a=\"b\" and 'c'",
    "{x: [1, 2]}",
    "x = ${y}",
    "ends with a backslash\\",
    "\\${oc.env:HOME}",
    "two\nlines",
    "--help",
    "",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_arrives_as_it_was_typed(invoke: Invoke, prompt: str) -> None:
    received = []

    def act(config: GenerateConfig) -> None:
        received.append(config.prompt)

    command = Command(act, GenerateConfig, "generate", literal=("prompt",))
    assert invoke(command, "run=a", f"prompt={prompt}").code == 0
    assert received == [prompt]


@given(st.text())
def test_literals_are_taken_whole_and_nothing_else_is(text: str) -> None:
    literals, others = take_literals(["run=a", f"prompt={text}", "-m"], ("prompt",))
    assert literals == {"prompt": text}
    assert others == ["run=a", "-m"]


def test_short_names_are_written_out_where_the_command_has_the_long_one() -> None:
    assert write_out("data=a=b", TrainConfig) == "data.path=a=b"
    assert write_out("data=a", GenerateConfig) == "data=a"


def test_the_option_with_the_same_ending_is_suggested() -> None:
    names = ["training", "training.seed", "optim", "optim.lr", "optim.min_lr"]
    assert closest("training.lr", names) == "optim.lr"
    assert closest("lr", names) == "optim.lr"
    assert closest("nonsense", names) is None


def test_a_slip_in_the_same_section_is_likelier_than_another_section() -> None:
    names = ["corpus", "corpus.paths", "tokenizer", "tokenizer.path"]
    assert closest("corpus.path", names) == "corpus.paths"
    assert closest("tokenizer.paths", names) == "tokenizer.path"


def test_a_section_which_cannot_be_set_is_never_suggested() -> None:
    assert closest("trainin", ["training", "training.seed"]) == "training.seed"


def test_every_flag_of_hydra_is_known() -> None:
    from hydra._internal.utils import get_args_parser

    actions = get_args_parser()._actions
    hydras = {flag for action in actions for flag in action.option_strings}
    assert hydras - {"--help", "-h"} == FLAGS


@pytest.mark.parametrize("name", ["a(b", "it's", 'say "x', "back\\slash (", "[0,1", 'a\\"', "(\\"])
def test_the_remedy_for_brackets_and_quotes_works_in_a_shell(invoke: Invoke, name: str) -> None:
    received = []

    def act(config: GenerateConfig) -> None:
        received.append(config.run)

    command = Command(act, GenerateConfig, "generate")
    refused = invoke(command, f"run={name}")
    assert refused.code == 2
    remedy = not_parsed(f"run={name}").partition("write ")[2]
    assert refused.err == f"error: {not_parsed(f'run={name}')}\n"

    (typed,) = shlex.split(remedy)
    assert invoke(command, typed).code == 0
    assert received == [name]


def test_a_choice_that_does_not_exist_is_named_with_those_that_do() -> None:
    message = no_such_choice("attention/momentun")
    assert message.startswith("there is no attention=momentun: did you mean attention=momentum?")
    assert message.endswith("choose one of linear, linear_momentum, momentum, shift, vanilla")


def test_an_exit_code_of_the_act_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def act(config: GenerateConfig) -> int:
        return 3

    monkeypatch.setattr(sys, "argv", ["generate", "run=a"])
    command = Command(act, GenerateConfig, "generate")
    with pytest.raises(SystemExit) as stopped:
        command()
    assert stopped.value.code == 3


def test_jobs_that_failed_in_other_processes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "FAILED_JOBS", [])
    results = [pickle.dumps(JobFailedError(f"seed={seed} (exit code 2)")) for seed in (0, 1)]
    monkeypatch.setattr(compose, "FAILED_JOBS", [])
    for result in results:
        pickle.loads(result)
    assert compose.FAILED_JOBS == ["seed=0 (exit code 2)", "seed=1 (exit code 2)"]
