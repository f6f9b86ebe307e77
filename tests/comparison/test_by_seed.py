"""Training seeds: runs are paired by seed, and every option that matters makes a variant."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from momentum_gpt.comparison.by_seed import FEW_SHOT, LOSSES, by_seed, variants
from momentum_gpt.comparison.certificate import common_ground, confounds
from momentum_gpt.comparison.families import compare_pairs
from momentum_gpt.comparison.runs import Run, config_differences
from momentum_gpt.comparison.table import Column, columns
from momentum_gpt.core.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TrainingConfig,
)
from momentum_gpt.core.manifest import CheckpointManifest
from momentum_gpt.core.terminal import ignore_progress

MOMENTUM = {"name": "momentum", "ema_decay": 0.5, "learned": False, "layers": None}


def run(name: str, seed: int, loss: float, momentum: bool = False, **more: Any) -> Run:
    """Return a finished run with one metric, or with more of them."""
    config = TrainConfig(
        name=name,
        data=DataConfig("data"),
        model=ModelConfig(n_layers=1, n_heads=1, d_model=4, seq_len=64),
        attention=MOMENTUM if momentum else {"name": "vanilla"},
        optim=OptimConfig(lr=1e-3, min_lr=1e-4, warmup_steps=1),
        training=TrainingConfig(max_steps=10, tokens_per_step=64, seed=seed),
        deepspeed={"stage": 1},
    )
    records = [
        {"step": 5, "tokens": 5, "val/loss": 99.0},
        {"step": 10, "tokens": 10, "val/loss": loss, **more},
    ]
    return Run(name, config, records)


def with_training(given: Run, **options: Any) -> Run:
    """Return the run with other options of `training`."""
    training = replace(given.config.training, **options)
    return replace(given, config=replace(given.config, training=training))


def with_lr(given: Run, lr: float) -> Run:
    """Return the run with another learning rate."""
    optim = replace(given.config.optim, lr=lr, min_lr=lr / 10)
    return replace(given, config=replace(given.config, optim=optim))


def manifest(seed: int) -> CheckpointManifest:
    """Return a manifest whose weights and order are those of the seed."""
    return CheckpointManifest(
        step=9,
        tokens=576,
        order_sha256=str(seed),
        canary_loss=5.0,
        world_size=1,
        initial_weights_sha256=str(seed),
        data_sha256="d",
        tokenizer_sha256="t",
    )


def test_runs_are_paired_by_seed() -> None:
    """Differences -1, -2, -3: mean -2, s = 1, t = 4.30265 at 2 degrees of freedom."""
    runs = [
        run("a0", 0, 5.0),
        run("b2", 2, 3.0, momentum=True),
        run("a1", 1, 5.5),
        run("a2", 2, 6.0),
        run("b0", 0, 4.0, momentum=True),
        run("b1", 1, 3.5, momentum=True),
        run("a7", 7, 0.0),
    ]
    (first_name, first), (other_name, other) = variants(runs).items()
    assert (first_name, other_name) == ("vanilla", "momentum 0.5")

    (row,) = by_seed(first, other, LOSSES)
    assert (row.measure, row.unit) == ("val/loss", "nats/token")
    assert (row.pairs, row.paired_by) == (3, "training seed")
    assert (row.first, row.other) == (5.5, 3.5)

    half = 4.30265 / math.sqrt(3)
    assert row.interval == pytest.approx((-2 - half, -2 + half), abs=1e-4)

    # t = -2 sqrt(3) at 2 degrees of freedom; of 8 sign flips, 2 are as far from 0.
    assert row.p_values["t-test"] == pytest.approx(0.0742, abs=1e-4)
    assert row.p_values["sign-flip"] == 2 / 8


def test_seeds_are_paired_by_their_numbers_and_not_by_their_rank() -> None:
    """The variants share seeds 1 and 5 alone: differences -1 and -3, whatever the order."""
    losses = {0: 9.0, 1: 5.0, 5: 8.0}
    runs = [run(f"a{seed}", seed, loss) for seed, loss in losses.items()]
    for seed, loss in {5: 5.0, 7: 1.0, 1: 4.0}.items():
        runs.append(run(f"b{seed}", seed, loss, momentum=True))

    (row,) = by_seed(*variants(runs).values(), LOSSES)
    assert row.pairs == 2
    assert (row.first, row.other) == (6.5, 4.5)
    half = 12.7062 * 1.0  # t at one degree of freedom, times s / sqrt(2) = 1
    assert row.interval == pytest.approx((-2 - half, -2 + half), abs=1e-3)


def test_losses_and_few_shot_metrics_are_families_of_their_own() -> None:
    """Three tasks with the same difference: each p-value is multiplied by three."""
    few_shot = {f"icl/{task}/acc@4": 0.5 for task in "abc"}
    more = {"val/bpb": 1.0, "val/ppl@64": 9.0, "val/ppl@16": 10.0, "icl/score": -0.1}
    runs = [run(f"a{seed}", seed, 5.0, **few_shot, **more) for seed in range(3)]
    for seed in range(3):
        better = {key: value + 0.1 + 0.001 * seed for key, value in few_shot.items()}
        runs.append(run(f"b{seed}", seed, 5.0 - seed, momentum=True, **better, **more))

    losses, accuracies = compare_pairs(runs, ignore_progress)
    # The whole context's perplexity and bits per byte are the loss in other units.
    measures = [row.measure for row in losses.differences]
    assert measures == ["val/loss", "val/ppl@16", "icl/score"]
    for row in losses.differences:
        assert row.p_holm == min(1.0, 3 * row.p_values["t-test"])

    assert [row.measure for row in accuracies.differences] == list(few_shot)
    assert {row.unit for row in accuracies.differences} == {"accuracy"}
    for row in accuracies.differences:
        assert row.p_holm == pytest.approx(3 * row.p_values["t-test"])
        assert row.p_holm is not None
        assert row.p_holm < 0.001

    table = accuracies.table()
    assert [cells[-1] for cells in table.rows] == ["*", "*", "*"]
    assert {cells[table.head.index("Holm p")] for cells in table.rows} == {"<0.001"}
    assert "sample" not in table.head
    assert table.head[-6:-2] == ["t-test p", "Holm p", "sign-flip p", "anytime p"]


def test_losses_by_token_frequency_are_a_family_of_their_own() -> None:
    """Two rows: each p-value is doubled, whatever the losses by position are."""
    runs = []
    for seed in range(3):
        for momentum in (False, True):
            gap = momentum * (0.1 + 0.01 * seed)
            more = {f"val/loss@rank{n}": 5.0 - gap for n in (10, 100)}
            more |= {f"val/loss@pos{n}": 5.0 for n in (1, 2, 4)}
            runs.append(run(f"{seed}{momentum}", seed, 5.0, momentum, **more))
    _, _, by_frequency = compare_pairs(runs, ignore_progress)
    assert by_frequency.title.startswith("Losses by token frequency of momentum")
    assert [row.measure for row in by_frequency.differences] == [
        "val/loss@rank10",
        "val/loss@rank100",
    ]
    for row in by_frequency.differences:
        assert row.unit == "nats/token"
        assert row.p_holm == pytest.approx(2 * row.p_values["t-test"])


def test_every_metric_of_a_task_has_its_unit() -> None:
    units = {"acc": "accuracy", "soft": "probability", "f1": "F1"}
    metrics = {f"icl/a/{kind}@4": 0.5 for kind in units}
    runs = [run(f"a{seed}", seed, 5.0, **metrics) for seed in range(2)]
    runs += [run(f"b{seed}", seed, 5.0, momentum=True, **metrics) for seed in range(2)]
    _, few_shot = compare_pairs(runs, ignore_progress)
    found = {row.measure: row.unit for row in few_shot.differences}
    assert found == {f"icl/a/{kind}@4": unit for kind, unit in units.items()}


def test_across_tokenizers_only_units_of_text_are_compared() -> None:
    metrics = {
        "val/bpb": 1.0,
        "val/ppl_word": 90.0,
        "val/ppl@16": 10.0,
        "val/loss@rank10": 3.0,
        "icl/score": -0.1,
        "icl/x/acc@4": 0.5,
        "icl/x/soft@4": 0.5,
    }
    runs = []
    for seed in (0, 1):
        for momentum in (False, True):
            tokenizer = replace(manifest(seed), tokenizer_sha256=str(momentum))
            plain = run(f"{seed}{momentum}", seed, 5.0, momentum, **metrics)
            runs.append(replace(plain, manifest=tokenizer))

    losses, accuracies = compare_pairs(runs, ignore_progress)
    assert [row.measure for row in losses.differences] == ["val/bpb", "val/ppl_word"]
    assert [row.measure for row in accuracies.differences] == ["icl/x/acc@4"]
    assert [column.title for column in columns(runs)][:2] == ["bits per byte", "perplexity"]
    assert "NOT the same tokenizer" in " ".join(common_ground(runs))


def test_huge_perplexities_have_an_exponent_and_counts_are_in_full() -> None:
    perplexity = Column("perplexity", "per word", [1.5e11, 2.0], 3)
    assert [perplexity.cell(0), perplexity.cell(1)] == ["1.5e+11", "2.000"]
    assert perplexity.difference(1) == "-1.5e+11"
    assert Column("tokens", "trained on", [1310720.0], 0).cell(0) == "1,310,720"


def test_what_is_shared_is_shared_seed_by_seed() -> None:
    runs = []
    for name in "ab":
        for seed in (0, 1):
            runs.append(replace(run(f"{name}{seed}", seed, 5.0), manifest=manifest(seed)))

    assert common_ground(runs)[:3] == [
        "Identical initial weights for each seed.",
        "Identical training tokens for each seed.",
        "Identical order of the training tokens for each seed.",
    ]
    assert common_ground(runs[:2])[0] == "NOT identical initial weights: 0 in a0, 1 in a1."

    runs[3] = replace(runs[3], manifest=manifest(0))
    found = common_ground(runs)
    assert found[0] == "NOT identical initial weights for each seed: 1 in a1, 0 in b1."
    assert found[2] == "NOT the same order of the training tokens for each seed: 1 in a1, 0 in b1."


def test_what_no_checkpoint_tells_is_unknown() -> None:
    runs = [run("a", 0, 5.0), replace(run("b", 0, 5.0), manifest=manifest(0))]
    found = common_ground(runs)
    for what in ("initial weights", "training tokens", "order of the training tokens"):
        assert f"Unknown, without a checkpoint: identical {what}." in found
    assert confounds(found)[:7] == found[:7]


def test_different_numbers_of_steps_and_of_targets_speak_against_a_comparison() -> None:
    shorter = replace(manifest(0), step=5, order_sha256="5")
    runs = [
        replace(run("a", 0, 5.0, **{"val/targets": 64}), manifest=manifest(0)),
        replace(run("b", 0, 5.0, **{"val/targets": 32}), manifest=shorter),
    ]
    sentences = common_ground(runs)
    assert "NOT the same number of steps: 9 in a, 5 in b." in sentences
    assert any(sentence.startswith("NOT measured on the same number") for sentence in sentences)
    assert not any("order" in sentence for sentence in sentences)


def test_another_learning_rate_is_another_variant_and_one_seed_is_no_pair() -> None:
    runs = [
        run("a", 0, 5.0),
        with_lr(run("b", 0, 4.0), 2e-3),
        with_lr(run("c", 1, 4.0), 2e-3),
    ]
    found = variants(runs)
    assert list(found) == [
        "vanilla, lr 0.001, min_lr 0.0001",
        "vanilla, lr 0.002, min_lr 0.0002",
    ]
    first, other = found.values()
    assert by_seed(first, other, LOSSES) == []


def test_options_that_change_nothing_of_a_result_make_no_variant() -> None:
    """Two variants with two seeds each, and other numbers of kept checkpoints in every run."""
    runs = []
    for seed in (0, 1):
        for momentum in (False, True):
            loss = 5.0 - seed - momentum
            plain = run(f"{seed}{momentum}", seed, loss, momentum)
            number = len(runs)
            runs.append(
                with_training(
                    plain, keep_checkpoints=number + 1, log_every=number + 1, save_every=7
                )
            )

    assert list(variants(runs)) == ["vanilla", "momentum 0.5"]
    assert "training.keep_checkpoints" not in config_differences(runs)
    (comparison,) = compare_pairs(runs, ignore_progress)
    table = comparison.table()
    title = "Losses of momentum 0.5 against vanilla, paired by training seed"
    assert table.title == title
    assert table.rows[0][table.head.index("seeds")] == "2"


def test_options_that_affect_a_result_do_make_variants() -> None:
    runs = [run("a", 0, 5.0), with_training(run("b", 0, 5.0), max_tokens_per_forward=64)]
    assert list(config_differences(runs)) == ["training.max_tokens_per_forward"]
    assert len(variants(runs)) == 2


def test_what_both_measured_is_compared_and_nothing_else() -> None:
    more = {"val/ppl@32": 2.0, "icl/sst2/acc@4": 0.5, "val/seconds": 1.0, "val/targets": 64}
    runs = [
        run("a0", 0, 5.0, **more),
        run("a1", 1, 5.0, **more),
        run("b0", 0, 5.0, momentum=True, **more, **{"icl/score": 1.0}),
        run("b1", 1, 5.0, momentum=True, **more),
    ]
    first, other = variants(runs).values()
    measures = [row.measure for row in by_seed(first, other, LOSSES)]
    assert measures == ["val/loss", "val/ppl@32"]
    assert [row.measure for row in by_seed(first, other, FEW_SHOT)] == ["icl/sst2/acc@4"]
