"""Whatever runs differ in beside the attention is named, and refused unless one asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from momentum_gpt.comparison.certificate import ALONE, common_ground, confounds
from momentum_gpt.comparison.runs import Run
from tests.comparison.test_by_seed import manifest, run, with_lr, with_training


def pair() -> list[Run]:
    """Return a run of vanilla and one of momentum that agree in all else."""
    made = [run("a", 0, 5.0, **EVALUATED), run("b", 0, 4.0, momentum=True, **EVALUATED)]
    return [replace(one, manifest=manifest(0)) for one in made]


EVALUATED = {"val/targets": 64, "val/documents": 4}


def with_config(given: Run, section: str, **options: Any) -> Run:
    part = replace(getattr(given.config, section), **options)
    return replace(given, config=replace(given.config, **{section: part}))


def with_manifest(given: Run, **entries: Any) -> Run:
    assert given.manifest is not None
    return replace(given, manifest=replace(given.manifest, **entries))


def with_final(given: Run, **metrics: Any) -> Run:
    *before, last = given.records
    return replace(given, records=[*before, last | metrics])


CONFOUNDS: dict[str, tuple[Callable[[Run], Run], str]] = {
    "seed": (lambda r: with_training(r, seed=1), "the same training.seed: 0 in a, 1 in b"),
    "weights": (
        lambda r: with_manifest(r, initial_weights_sha256="other"),
        "identical initial weights: 0 in a, other in b",
    ),
    "order": (
        lambda r: with_manifest(r, order_sha256="other"),
        "the same order of the training tokens: 0 in a, other in b",
    ),
    "learning rate": (lambda r: with_lr(r, 2e-3), "the same optim.lr: 0.001 in a, 0.002 in b"),
    "batch": (
        lambda r: with_training(r, tokens_per_step=128),
        "the same training.tokens_per_step: 64 in a, 128 in b",
    ),
    "tokenizer": (lambda r: with_manifest(r, tokenizer_sha256="other"), "the same tokenizer"),
    "dtype": (
        lambda r: with_manifest(r, precision="bf16"),
        "the same precision: fp32 in a, bf16 in b",
    ),
    "clip": (
        lambda r: with_config(r, "optim", grad_clip=2.0),
        "the same optim.grad_clip: 1.0 in a, 2.0 in b",
    ),
    "data": (
        lambda r: with_manifest(r, data_sha256="other"),
        "identical training tokens: d in a, other in b",
    ),
    "init": (
        lambda r: replace(r, config=replace(r.config, init="somewhere")),
        "the same init: None in a, somewhere in b",
    ),
    "targets": (
        lambda r: with_final(r, **{"val/targets": 32}),
        "measured on the same number of validation targets",
    ),
    "documents": (
        lambda r: with_final(r, **{"val/documents": 3}),
        "measured on the same number of validation documents",
    ),
    "code": (
        lambda r: with_manifest(r, code=["one", "two"]),
        "the same code: [] in a, ['one', 'two'] in b",
    ),
    "packing": (
        lambda r: with_config(r, "data", document_mask=True),
        "the same data.document_mask: False in a, True in b",
    ),
    "kernel": (
        lambda r: with_manifest(r, kernels={"optimizer": "Muon"}),
        "the same kernels: {} in a, {'optimizer': 'Muon'} in b",
    ),
    "versions": (
        lambda r: with_manifest(r, versions={"torch": "2.0"}),
        "the same versions of libraries: {} in a, {'torch': '2.0'} in b",
    ),
    "left out": (
        lambda r: with_manifest(r, skipped_steps=[3]),
        "the same steps without an update: [] in a, [3] in b",
    ),
    "steps": (lambda r: with_manifest(r, step=8), "the same number of steps: 9 in a, 8 in b"),
    "DeepSpeed": (
        lambda r: replace(r, config=replace(r.config, deepspeed={"stage": 3})),
        "the same deepspeed.stage: 1 in a, 3 in b",
    ),
}


def test_runs_that_differ_in_the_attention_alone_may_be_compared() -> None:
    assert confounds(common_ground(pair())) == []


@pytest.mark.parametrize(("change", "named"), CONFOUNDS.values(), ids=CONFOUNDS)
def test_each_confound_is_named(change: Callable[[Run], Run], named: str) -> None:
    first, other = pair()
    found = confounds(common_ground([first, change(other)]))
    assert any(sentence.startswith(f"NOT {named}") for sentence in found), found


def test_a_confound_of_one_seed_of_many_is_named() -> None:
    made = []
    for seed in (0, 1, 2):
        for momentum in (False, True):
            one = run(f"{seed}{momentum}", seed, 5.0, momentum, **EVALUATED)
            made.append(replace(one, manifest=manifest(seed)))
    assert confounds(common_ground(made)) == []

    made[3] = with_config(made[3], "optim", grad_clip=2.0)
    (found,) = confounds(common_ground(made))
    assert found == "NOT the same optim.grad_clip for each seed: 1.0 in 1False, 2.0 in 1True."


def test_what_is_tuned_is_said_and_counts_not_against_the_comparison() -> None:
    first, other = pair()
    made = [first, with_lr(other, 2e-3)]
    found = common_ground(made, tuned=["optim.lr", "optim.min_lr"])
    assert confounds(found) == []
    assert "Each variant at its own optim.lr: 0.001 in a, 0.002 in b." in found
    assert len(confounds(common_ground(made, tuned=["optim.lr"]))) == 1


def test_a_run_without_a_partner_is_left_out_by_name() -> None:
    alone = replace(run("c", 7, 5.0, **EVALUATED), manifest=manifest(7))
    found = common_ground([*pair(), alone])
    assert confounds(found) == []
    assert found[0] == f"{ALONE} c (training.seed=7)."


def test_what_was_measured_alike_afterwards_needs_no_equal_options() -> None:
    first, other = pair()
    other = with_config(other, "evaluation", tokens=64)
    assert len(confounds(common_ground([first, other]))) == 1
    made = [replace(one, afterwards={"val/loss": 1.0, **EVALUATED}) for one in (first, other)]
    assert confounds(common_ground(made)) == []
