"""What each protocol measures, and that each measure stands beside its nulls."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from momentum_gpt.analysis import protocols
from momentum_gpt.analysis.nulls import mismatched, uniform
from momentum_gpt.analysis.protocols import (
    BEFORE,
    GAUSSIAN,
    MISMATCHED,
    SEPARATOR,
    UNIFORM,
    add_null,
    against,
    measure,
)
from momentum_gpt.analysis.similarity import (
    Pair,
    cosine,
    demonstration_attention,
    kendall,
    output_updates,
    partial_kendall,
    simam,
    simam_of_changes,
    simaou,
    with_part,
)
from tests.analysis.passes import H, L, random_draws

DRAW = random_draws(1)[0]
PASSES = DRAW.zero_shot, DRAW.icl, DRAW.finetuned
N_QUERIES = 12


def same(first: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(first, other, equal_nan=True)


def test_the_paper_s_protocol_measures_what_the_paper_does() -> None:
    found = measure(DRAW, "dai2022", seed=3)
    same(found["SimAOU, normalised"], simaou(*PASSES, normalised=True))
    same(found["SimAM"], simam(DRAW.icl, DRAW.finetuned))
    same(found[against("SimAM", BEFORE)], simam(DRAW.icl, DRAW.zero_shot))
    attention = demonstration_attention(DRAW.icl, DRAW.finetuned, DRAW.training)
    same(found["Kendall"], kendall(attention))
    assert against("Kendall", UNIFORM) in found


def test_the_default_protocol_measures_without_the_artefacts() -> None:
    found = measure(DRAW)
    same(found["SimAOU"], simaou(*PASSES))
    same(found["SimAOU, centred"], simaou(*PASSES, centred=True))
    same(found["SimAM of changes"], simam_of_changes(*PASSES))
    attention = demonstration_attention(DRAW.icl, DRAW.finetuned, DRAW.training)
    same(found["Kendall, without position"], partial_kendall(attention))
    momentum = [with_part(one, "momentum") for one in PASSES]
    same(found["SimAOU, momentum part"], simaou(*momentum))
    updates = output_updates(*PASSES)
    same(found[against("SimAOU", MISMATCHED)], cosine(mismatched(updates, 0)))
    assert found["SimAM of changes"].shape == (N_QUERIES, L, H)
    assert found["top-10 overlap"].shape == (N_QUERIES,)


def test_a_vanilla_model_has_no_parts() -> None:
    vanilla = random_draws(1, is_momentum=False)[0]
    assert not [name for name in measure(vanilla) if "part" in name]


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_every_measure_has_a_null(protocol: str) -> None:
    found = measure(DRAW, protocol)
    names = [name for name in found if SEPARATOR not in name and "zero-shot" not in name]
    for name in names:
        assert any(other.startswith(f"{name}{SEPARATOR}") for other in found), name
    assert len(names) >= 5


def test_each_draw_and_layer_has_noise_of_its_own() -> None:
    updates = output_updates(*PASSES, normalised=True)
    noise = []
    for seed in range(3):
        found = measure(DRAW, "dai2022", seed)[against("SimAOU, normalised", UNIFORM)]
        for layer in range(L):
            of_layer = Pair(*(side[:, [layer]] for side in updates))
            expected = uniform(of_layer, L * seed + layer)
            same(found[:, [layer]], cosine(expected))
            noise.append(expected.finetuned)
    assert len({one.sum().item() for one in noise}) == 3 * L


def test_noise_depends_on_the_seed_and_partners_do_not() -> None:
    first, other = measure(DRAW, seed=1), measure(DRAW, seed=2)
    assert not torch.equal(first[against("SimAOU", GAUSSIAN)], other[against("SimAOU", GAUSSIAN)])
    same(first[against("SimAOU", MISMATCHED)], other[against("SimAOU", MISMATCHED)])


def test_another_model_is_a_null() -> None:
    found = measure(DRAW)
    untrained = measure(random_draws(2)[1])
    add_null(found, "untrained model", untrained)
    same(found[against("SimAOU", "untrained model")], untrained["SimAOU"])
    assert against("accuracy, ICL", "untrained model") not in found
    assert not [name for name in found if name.count(SEPARATOR) > 1]


def test_measures_are_kept_as_safetensors(tmp_path: Path) -> None:
    found = measure(DRAW)
    save_file({name: one.contiguous() for name, one in found.items()}, tmp_path / "a.safetensors")
    kept = load_file(tmp_path / "a.safetensors")
    assert kept.keys() == found.keys()
    for name, values in found.items():
        same(kept[name], values)


def test_measuring_changes_nothing_of_what_was_recorded() -> None:
    before = [one.logits.clone() for one in PASSES]
    measure(DRAW)
    measure(DRAW, "dai2022")
    for one, logits in zip(PASSES, before, strict=True):
        same(one.logits, logits)
    same(cosine(Pair(before[0], before[0])), cosine(Pair(PASSES[0].logits, PASSES[0].logits)))


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_a_draw_that_is_a_null_has_the_same_measures_without_nulls(protocol: str) -> None:
    full = measure(DRAW, protocol)
    alone = measure(DRAW, protocol, with_nulls=False)
    made = (GAUSSIAN, MISMATCHED, UNIFORM)
    assert list(alone) == [name for name in full if name.split(SEPARATOR)[-1] not in made]
    for name, values in alone.items():
        same(values, full[name])
