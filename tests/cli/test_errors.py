"""A mistake of the user is one line with value, rule and remedy, and exit code 2.

Nothing is written then.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import prepare
from momentum_gpt import compare, evaluate, train
from momentum_gpt.cli import Command
from momentum_gpt.core.config import write_config
from momentum_gpt.training.settle import settle
from tests.conftest import SMOKE, Result, command, fill

Invoke = Callable[..., Result]

MISTAKES: list[tuple[list[str], list[str]]] = [
    (["model.n_layer=3"], ["there is no option 'model.n_layer'", "did you mean 'model.n_layers'"]),
    (["+model.foo=3"], ["there is no option 'model.foo'"]),
    (["+nonsense=1"], ["there is no option 'nonsense'"]),
    (["trainng.seed=1"], ["there is no option 'trainng", "did you mean 'training.seed'"]),
    (["model.n_layers=many"], ["model.n_layers", "'many'", "Integer"]),
    (["model.n_layers=1.5"], ["model.n_layers", "1.5", "Integer"]),
    (["optim.lr=fast"], ["optim.lr", "'fast'", "Float"]),
    (
        ["evaluation.context_lengths=64"],
        ["context_lengths=64 is no list: write 'evaluation.context_lengths=[64]'"],
    ),
    (["training.compile=perhaps"], ["training.compile", "perhaps"]),
    (["model=gpt_huge"], ["there is no model=gpt_huge", "gpt_350m"]),
    (["model=gpt_35m"], ["there is no model=gpt_35m", "did you mean model=gpt_350m?"]),
    (["training=5"], ["there is no training=5", "choose one of laptop, paper"]),
    (["experiment=nosuch"], ["there is no experiment=nosuch", "recall, smoke"]),
    (["attention=momentun"], ["did you mean attention=momentum?", "vanilla"]),
    (["model.n_heads=3"], ["model.d_model=32", "model.n_heads=3", "use model.n_heads=2"]),
    (["model.n_layers=0"], ["model.n_layers must be at least 1, got 0"]),
    (["model.positions=absolute"], ["one of learned, sinusoidal, rotary", "'absolute'"]),
    (
        ["attention=momentum", "attention.ema_decay=1"],
        ["attention.ema_decay must be a number in [0, 1)", ", got 1"],
    ),
    (["attention=momentum", "attention.ema_decay=-0.5"], ["[0, 1)", ", got -0.5"]),
    (
        ["attention.ema_decay=0.5"],
        ["has no option 'attention.ema_decay'", "add attention=momentum or"],
    ),
    (
        ["attention=shift", "attention.ema_decay=0.5"],
        ["attention=shift has no option", "add attention=momentum or"],
    ),
    (["attention.nosuch=1"], ["there is no option 'attention.nosuch'"]),
    (["+attention.ema_decay=0.5"], ["'vanilla' does not take ema_decay"]),
    (
        ["training.tokens_per_step=500"],
        ["training.tokens_per_step=500", "multiple of 64", "such as 512"],
    ),
    (["launch.nproc_per_node=3"], ["512", "3 rank(s)", "multiple of 192"]),
    (["training.max_tokens_per_forward=63"], ["less than one sequence", "64"]),
    (["training.precision=fp16"], ["one of fp32, bf16, got 'fp16'"]),
    (["optim.lr=inf"], ["optim.lr must be a finite number, got inf"]),
    (["optim.lr=nan"], ["optim.lr must be a finite number, got nan"]),
    (["training.lr=1"], ["no option 'training.lr'", "did you mean 'optim.lr'"]),
    (["lr=1"], ["there is no option 'lr': did you mean 'optim.lr'?"]),
    (["deepspeed.zero_optimization.stge=1"], ["did you mean 'deepspeed.zero_optimization.stage'?"]),
    (["optim.min_lr=1"], ["optim.min_lr must be between 0 and optim.lr"]),
    (["deepspeed.zero_optimization.stage=5"], ["0, 1, 2 or 3, got 5"]),
    (
        ["+deepspeed.train_batch_size=5"],
        ["deepspeed.train_batch_size is derived", "training.tokens_per_step"],
    ),
    (["+deepspeed.nosuchkey=4"], ["deepspeed.nosuchkey"]),
    (
        ["evaluation.context_lengths=[48]"],
        ["evaluation.context_lengths", "a divisor of model.seq_len=64", "48"],
    ),
    (["model.vocab_size=100"], ["model.vocab_size=100", "512 tokens"]),
    (["name=a/b"], ["name must be a plain folder name", "'a/b'"]),
    (["resume=maybe"], ["one of auto, never, got 'maybe'"]),
    (["data=/nowhere/at/all"], ["/nowhere/at/all", "does not exist", "momentum-gpt prepare"]),
    (["data=/tmp"], ["not a folder of token shards", "momentum-gpt prepare"]),
    (
        [
            "model.seq_len=4194304",
            "training.tokens_per_step=4194304",
            "training.max_tokens_per_forward=4194304",
            "evaluation.tokens=4194304",
        ],
        ["fewer than one window"],
    ),
    (["init=/nowhere"], ["/nowhere holds no model"]),
    (["training.max_steps"], ["'training.max_steps' is not an option: write OPTION=VALUE"]),
    (["--training.seed=1"], ["options are written without dashes: training.seed=1"]),
    (["--verbose"], ["there is no flag '--verbose'"]),
    (["init=a(b"], ["'init=a(b' has brackets or quotes without their partner", "'init=\"a(b\"'"]),
    (["task.kind=sort"], ["task.kind must be one of recall, induction, got 'sort'"]),
    (["task.kind=recall"], ["set either data=DIR or task.kind"]),
]
"""What is typed after a small run's options, and what the line says of it."""


@pytest.mark.parametrize(
    ("arguments", "said"), MISTAKES, ids=[" ".join(a)[:60] for a, _ in MISTAKES]
)
def test_train_says_what_is_wrong(
    invoke: Invoke, data_folder: Path, tmp_path: Path, arguments: list[str], said: list[str]
) -> None:
    run = ["name=x", f"data={data_folder}", f"runs={tmp_path / 'runs'}", *SMOKE]
    done = invoke(train.main, *run, *arguments)

    assert done.code == 2, done
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1, done.err
    for part in said:
        assert part in done.err
    assert not (tmp_path / "runs").exists()


def test_what_is_missing_is_named(invoke: Invoke, data_folder: Path) -> None:
    for arguments, missing in ((["name=x"], "data.path"), ([f"data={data_folder}"], "name")):
        done = invoke(train.main, *arguments)
        expected = f"error: {missing} is not set: add {missing}=... to the command\n"
        assert (done.code, done.err) == (2, expected)

    neither = invoke(train.main)
    remedy = "add data.path=... name=... to the command"
    assert neither.err == f"error: data.path and name are not set: {remedy}\n"


def test_a_missing_option_of_a_group_is_named_in_full(invoke: Invoke) -> None:
    done = invoke(prepare.main, "corpus=text", "output=x")
    assert done.err == "error: corpus.paths is not set: add corpus.paths=... to the command\n"


def test_variants_are_named_with_the_one_that_is_chosen(invoke: Invoke) -> None:
    done = invoke(train.main, "name=x", "data=y", "attention.ema_decay=0.3")
    assert done.err == (
        "error: attention=vanilla has no option 'attention.ema_decay': "
        "add attention=momentum or attention=linear_momentum to the command\n"
    )


def test_an_existing_run_with_another_config_is_left_alone(
    invoke: Invoke, data_folder: Path, tmp_path: Path
) -> None:
    """A run has begun with its first checkpoint; a start that failed before blocks nothing."""
    config = tmp_path / "runs" / "x" / "config.yaml"
    arguments = ["name=x", f"data={data_folder}", f"runs={tmp_path / 'runs'}", *SMOKE]

    def claim_only(options: train.TrainConfig) -> int:
        settle(options)
        write_config(options, config)
        return 0

    claim = Command(claim_only, train.TrainConfig, "train")
    assert invoke(claim, *arguments).code == 0
    (config.parent / "checkpoints" / "step_00000010").mkdir(parents=True)
    before = config.read_bytes()

    done = invoke(train.main, *arguments, "training.seed=7", "model.n_layers=3")
    assert done.code == 2
    for part in (
        "runs/x is a run with another config",
        "model.n_layers was 2 and is 3",
        "training.seed was 0 and is 7",
        "another name",
    ):
        assert part in done.err

    never = invoke(train.main, *arguments, "resume=never")
    assert never.code == 2
    assert "exists already and resume=never" in never.err

    assert config.read_bytes() == before
    assert {path.name for path in config.parent.iterdir()} == {"config.yaml", "checkpoints"}


def test_what_a_full_disk_prevents_is_one_line_and_exit_code_1(
    invoke: Invoke, small_disk: Path
) -> None:
    def claim_only(options: train.TrainConfig) -> None:
        write_config(options, options.run_dir / "config.yaml")

    def write_plainly(options: train.TrainConfig) -> None:
        (small_disk / "log").write_text("a" * 5000)

    fill(small_disk)
    for act, path in ((claim_only, small_disk / "x" / "config.yaml"), (write_plainly, "a file")):
        main = Command(act, train.TrainConfig, "train")
        done = invoke(main, "name=x", "data=y", f"runs={small_disk}", *SMOKE)
        assert done.code == 1
        assert done.err == (
            f"error: {path} cannot be written (no space left on device): "
            "free some space there, and give the same command again\n"
        )


def test_compare_and_evaluate_say_what_is_wrong(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for main, arguments, said in (
        (compare.main, [f"runs=[{tmp_path}/a]"], "two or more"),
        (compare.main, [f"runs=[{tmp_path}/a,{tmp_path}/b]"], "is not a run folder"),
        (compare.main, [], "runs is not set"),
        (compare.main, ["run=a"], "did you mean 'runs'"),
        (evaluate.main, [f"run={tmp_path}/empty"], "is not a run folder"),
    ):
        done = invoke(main, *arguments)
        assert done.code == 2, done
        assert said in done.err
        assert done.err.count("\n") == 1


def test_a_real_process_ends_with_one_line_and_code_2(tmp_path: Path) -> None:
    done = command("momentum_gpt", "train", "name=x", "data=nowhere", f"runs={tmp_path}/runs")
    assert done.code == 2
    assert done.err == (
        "error: data folder 'nowhere' does not exist: "
        "make one with: momentum-gpt prepare corpus=stdlib output=DIR\n"
    )

    unknown = command("momentum_gpt", "trian")
    assert unknown.code == 2
    assert "there is no verb 'trian'" in unknown.err
