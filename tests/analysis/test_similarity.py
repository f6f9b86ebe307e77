"""Every measure against its formula, written out in loops over plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from momentum_gpt.analysis.records import Pass
from momentum_gpt.analysis.similarity import (
    Pair,
    Recall,
    attention_changes,
    correlation,
    cosine,
    demonstration_attention,
    divergence,
    kendall,
    order_sensitivity,
    output_updates,
    partial_kendall,
    rec2ftp,
    simam,
    simam_of_changes,
    simaou,
    top_overlap,
    total_variation,
    wilson,
    with_part,
)
from tests.analysis.passes import A, C, H, L, M, N, Q, random_pass, random_training

Vector = list[float]

ZERO_SHOT, ICL, FINETUNED = (random_pass(seed) for seed in (1, 2, 3))
TRAINING = random_training(4)


def cos(first: Vector, other: Vector) -> float:
    product = sum(a * b for a, b in zip(first, other, strict=True))
    return product / (length(first) * length(other))


def length(vector: Vector) -> float:
    return math.sqrt(sum(value * value for value in vector))


def minus(first: Vector, other: Vector) -> Vector:
    return [a - b for a, b in zip(first, other, strict=True)]


def divided(vector: Vector) -> Vector:
    return [value / length(vector) for value in vector]


def centred(vector: Vector) -> Vector:
    return [value - sum(vector) / len(vector) for value in vector]


def output(of: Pass, query: int, layer: int) -> Vector:
    return of.outputs[query, layer].double().tolist()


def logits(of: Pass, query: int, layer: int, head: int) -> Vector:
    """Return the logits of a query's tokens, without those that a shorter query does not have."""
    row = of.logits[query, layer, head].double().tolist()
    return [value for value in row if not math.isnan(value)]


def tau_of(first: Vector, other: Vector) -> float:
    """Return (concordant - discordant) / (n (n - 1) / 2), by looking at every pair."""
    n = len(first)
    total = 0
    for i in range(n):
        for j in range(i):
            product = (first[i] - first[j]) * (other[i] - other[j])
            total += (product > 0) - (product < 0)
    return total / (n * (n - 1) / 2)


def by_query_and_layer(value: Callable[[int, int], float]) -> np.ndarray:
    return np.array([[value(query, layer) for layer in range(L)] for query in range(Q)])


def by_head(value: Callable[[int, int, int], float]) -> np.ndarray:
    found = np.empty((Q, L, H))
    for query, layer, head in np.ndindex(found.shape):
        found[query, layer, head] = value(query, layer, head)
    return found


def test_simaou_is_the_cosine_of_the_updates() -> None:
    def value(query: int, layer: int) -> float:
        before = output(ZERO_SHOT, query, layer)
        icl = minus(output(ICL, query, layer), before)
        return cos(icl, minus(output(FINETUNED, query, layer), before))

    found = simaou(ZERO_SHOT, ICL, FINETUNED)
    np.testing.assert_allclose(found, by_query_and_layer(value), atol=1e-6)


def test_simaou_of_the_paper_subtracts_unit_vectors() -> None:
    def value(query: int, layer: int) -> float:
        before, icl, finetuned = (
            divided(output(of, query, layer)) for of in (ZERO_SHOT, ICL, FINETUNED)
        )
        return cos(minus(icl, before), minus(finetuned, before))

    found = simaou(ZERO_SHOT, ICL, FINETUNED, normalised=True)
    np.testing.assert_allclose(found, by_query_and_layer(value), atol=1e-6)


def test_simaou_centred_leaves_out_what_all_queries_have_in_common() -> None:
    def beyond_the_mean(of: Pass, query: int, layer: int) -> Vector:
        mean = [0.0] * C
        for other in range(Q):
            update = minus(output(of, other, layer), output(ZERO_SHOT, other, layer))
            mean = [total + part / Q for total, part in zip(mean, update, strict=True)]
        return minus(minus(output(of, query, layer), output(ZERO_SHOT, query, layer)), mean)

    def value(query: int, layer: int) -> float:
        return cos(beyond_the_mean(ICL, query, layer), beyond_the_mean(FINETUNED, query, layer))

    found = simaou(ZERO_SHOT, ICL, FINETUNED, centred=True)
    np.testing.assert_allclose(found, by_query_and_layer(value), atol=1e-6)


def test_simaou_without_scaling_leaves_out_what_is_along_the_output() -> None:
    def across(of: Pass, query: int, layer: int) -> Vector:
        before = output(ZERO_SHOT, query, layer)
        update = minus(output(of, query, layer), before)
        along = sum(a * b for a, b in zip(update, before, strict=True)) / length(before) ** 2
        return minus(update, [along * value for value in before])

    def value(query: int, layer: int) -> float:
        return cos(across(ICL, query, layer), across(FINETUNED, query, layer))

    found = simaou(ZERO_SHOT, ICL, FINETUNED, without_scaling=True)
    np.testing.assert_allclose(found, by_query_and_layer(value), atol=1e-5)


def test_updates_that_both_replace_the_output_are_alike_by_that_alone() -> None:
    """Three independent outputs: both updates contain that of the zero-shot pass, and 1/2 of it."""
    generator = torch.Generator().manual_seed(0)
    one = random_pass(0, n_queries=1)
    passes = [replace(one, outputs=torch.randn(300, 2, 256, generator=generator)) for _ in range(3)]
    zero_shot, icl, finetuned = passes
    found = simaou(zero_shot, icl, finetuned)
    assert found.mean().item() == pytest.approx(0.5, abs=0.01)
    across = simaou(zero_shot, icl, finetuned, without_scaling=True)
    assert across.mean().item() == pytest.approx(0, abs=0.01)


def test_independent_updates_look_alike_once_outputs_are_normalised() -> None:
    """Orthogonal to the output and to each other, three times its length: s = sqrt(10)."""
    output = torch.zeros(1, 1, 3)
    output[..., 0] = 2.0
    icl, finetuned = output.clone(), output.clone()
    icl[..., 1] = 6.0
    finetuned[..., 2] = 6.0
    one = random_pass(0, n_queries=1)
    zero_shot = replace(one, outputs=output)
    passes = zero_shot, replace(one, outputs=icl), replace(one, outputs=finetuned)
    s = math.sqrt(10)
    assert simaou(*passes, normalised=True).item() == pytest.approx((s - 1) / (2 * s))
    assert simaou(*passes).item() == 0


def test_independent_noise_of_many_entries_does_so_too() -> None:
    """Noise whose variance is three times that of the output: s = 2, and 1/4 instead of 0."""
    generator = torch.Generator().manual_seed(0)
    output, noise, other = torch.randn(3, 200, 2, 512, generator=generator)
    one = random_pass(0, n_queries=1)
    passes = [
        replace(one, outputs=output),
        replace(one, outputs=output + math.sqrt(3) * noise),
        replace(one, outputs=output + math.sqrt(3) * other),
    ]
    assert simaou(*passes, normalised=True).mean().item() == pytest.approx(0.25, abs=0.01)
    assert simaou(*passes).mean().item() == pytest.approx(0, abs=0.01)


def test_simam_is_the_cosine_of_the_logits_on_the_query_s_own_tokens() -> None:
    def value(query: int, layer: int, head: int) -> float:
        return cos(logits(ICL, query, layer, head), logits(FINETUNED, query, layer, head))

    np.testing.assert_allclose(simam(ICL, FINETUNED), by_head(value), atol=1e-6)


def test_simam_of_changes_is_that_of_centred_differences() -> None:
    def value(query: int, layer: int, head: int) -> float:
        before = logits(ZERO_SHOT, query, layer, head)
        if len(before) < 3:
            return math.nan
        icl = minus(logits(ICL, query, layer, head), before)
        finetuned = minus(logits(FINETUNED, query, layer, head), before)
        return cos(centred(icl), centred(finetuned))

    found = simam_of_changes(ZERO_SHOT, ICL, FINETUNED)
    np.testing.assert_allclose(found, by_head(value), atol=1e-5)


def test_a_constant_on_a_row_of_logits_changes_nothing() -> None:
    shifted = replace(ICL, logits=ICL.logits + 100 * torch.randn(Q, L, H, 1))
    found = simam_of_changes(ZERO_SHOT, shifted, FINETUNED)
    torch.testing.assert_close(
        found, simam_of_changes(ZERO_SHOT, ICL, FINETUNED), atol=1e-3, rtol=0, equal_nan=True
    )


def test_what_is_the_same_has_a_similarity_of_one() -> None:
    for found in (
        simaou(ZERO_SHOT, ICL, ICL),
        simaou(ZERO_SHOT, ICL, ICL, normalised=True),
        simaou(ZERO_SHOT, ICL, ICL, centred=True),
        simam(ICL, ICL),
        simam_of_changes(ZERO_SHOT, ICL, ICL),
        kendall(Pair(ICL.on_demonstrations, ICL.on_demonstrations)),
        top_overlap(ICL, ICL),
    ):
        torch.testing.assert_close(found, torch.ones_like(found))
    for distance in (total_variation(ICL, ICL), divergence(ICL, ICL)):
        torch.testing.assert_close(distance, torch.zeros_like(distance))


def test_an_update_of_nothing_has_no_direction() -> None:
    """Without demonstrations ICL is the zero-shot pass: undefined, and not a similarity of 0."""
    rounded = replace(
        ZERO_SHOT, outputs=ZERO_SHOT.outputs * (1 + 1e-7), logits=ZERO_SHOT.logits * (1 + 1e-7)
    )
    for icl in (ZERO_SHOT, rounded):
        assert simaou(ZERO_SHOT, icl, FINETUNED).isnan().all()
        assert simam_of_changes(ZERO_SHOT, icl, FINETUNED).isnan().all()
    nothing = random_pass(5, n_tokens=0)
    without = replace(TRAINING, queries=TRAINING.queries[:, :0], demonstration=torch.zeros(0))
    for by_demonstration in (False, True):
        pair = demonstration_attention(nothing, FINETUNED, without, by_demonstration)
        assert kendall(pair).isnan().all()
        assert kendall(pair).shape == (Q, L)


def test_entries_that_one_side_lacks_are_left_out_of_both() -> None:
    """A query that is compared with a shorter one is so on the last tokens of both."""
    short = torch.tensor([math.nan, math.nan, 1.0, 2.0, 4.0])
    long = torch.tensor([7.0, 9.0, 2.0, 1.0, 5.0])
    pair = Pair(long, short)
    assert cosine(pair).item() == pytest.approx(cos([2, 1, 5], [1, 2, 4]))
    assert correlation(pair).item() == pytest.approx(np.corrcoef([2, 1, 5], [1, 2, 4])[0, 1])
    assert correlation(Pair(long[:4], short[:4])).isnan()


def test_kendall_counts_all_pairs_of_tokens() -> None:
    def value(query: int, layer: int) -> float:
        last = FINETUNED.queries[query, layer].double()
        products = []
        for token in range(M):
            products.append(float(last @ TRAINING.queries[layer, token].double()))
        return tau_of(ICL.on_demonstrations[query, layer].tolist(), products)

    found = kendall(demonstration_attention(ICL, FINETUNED, TRAINING))
    np.testing.assert_allclose(found, by_query_and_layer(value), atol=1e-6)


def test_tied_values_are_left_out_of_kendall() -> None:
    """Counted by hand: of six pairs, four agree, and each side has one tie, so 4 / 5."""
    first = torch.tensor([[[1.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]]])
    other = torch.tensor([[[1.0, 2.0, 2.0, 4.0], [5.0, 5.0, 5.0, 5.0]]])
    found = kendall(Pair(first, other))
    assert found[0, 0].item() == pytest.approx(4 / 5)
    assert found[0, 1].isnan(), "all of one side are tied"


def test_kendall_of_two_demonstrations() -> None:
    """A single pair: it agrees, or not."""
    first = torch.tensor([[[1.0, 2.0], [1.0, 2.0], [1.0, 1.0]]])
    other = torch.tensor([[[5.0, 7.0], [7.0, 5.0], [5.0, 7.0]]])
    found = kendall(Pair(first, other))
    assert found[0, :2].tolist() == [1.0, -1.0]
    assert found[0, 2].isnan()


def test_kendall_of_demonstrations_orders_their_softmax_weights() -> None:
    def sums(values: Vector) -> Vector:
        weights = [math.exp(value) for value in values]
        found = [0.0] * 3
        for weight, number in zip(weights, TRAINING.demonstration.tolist(), strict=True):
            found[number] += weight / sum(weights)
        return found

    def value(query: int, layer: int) -> float:
        last = FINETUNED.queries[query, layer].double()
        products = []
        for token in range(M):
            products.append(float(last @ TRAINING.queries[layer, token].double()) / (C // H))
        return tau_of(sums(ICL.on_demonstrations[query, layer].tolist()), sums(products))

    found = kendall(demonstration_attention(ICL, FINETUNED, TRAINING, by_demonstration=True))
    np.testing.assert_allclose(found, by_query_and_layer(value), atol=1e-6)


def test_what_both_owe_to_the_place_is_taken_out() -> None:
    icl = [0.1, 0.5, 0.2, 0.9, 0.8]
    finetuned = [0.2, 0.1, 0.4, 0.5, 0.9]
    place = [0.0, 1.0, 2.0, 3.0, 4.0]
    tau = tau_of(icl, finetuned)
    of_icl, of_finetuned = tau_of(icl, place), tau_of(finetuned, place)
    rest = (1 - of_icl**2) * (1 - of_finetuned**2)
    expected = (tau - of_icl * of_finetuned) / math.sqrt(rest)
    pair = Pair(torch.tensor([[icl]]), torch.tensor([[finetuned]]))
    assert partial_kendall(pair).item() == pytest.approx(expected)
    ordered = Pair(torch.tensor([[icl]]), torch.tensor([[place]]))
    assert partial_kendall(ordered).isnan()


def test_rec2ftp_by_hand() -> None:
    """Ten queries: zero-shot is right in two, finetuning puts four right and ICL three of these.

    Of the four that finetuning leaves wrong, ICL puts one right.
    """
    zero_shot = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    finetuned = [1, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    icl = [0, 1, 1, 1, 1, 0, 1, 0, 0, 0]
    gold = torch.zeros(10, dtype=torch.long)
    one = random_pass(0, n_queries=10)

    def answering(right: list[int]) -> Pass:
        scores = [[0.0, -1.0] if is_right else [-1.0, 0.0] for is_right in right]
        return replace(one, scores=torch.tensor(scores), gold=gold)

    found = rec2ftp(answering(zero_shot), answering(icl), answering(finetuned))
    assert found == Recall(both=3, only_finetuned=1, only_icl=1, neither=3)
    assert (found.share, found.base_rate, found.odds_ratio) == (75.0, 25.0, 9.0)
    half = 1.959964 * math.sqrt(1 / 3 + 1 + 1 + 1 / 3)
    expected = math.exp(math.log(9) - half), math.exp(math.log(9) + half)
    assert found.odds_interval == pytest.approx(expected, rel=1e-5)
    assert found.share_interval == wilson(3, 4)
    assert found.base_interval == wilson(1, 4)


def test_nothing_is_divided_by_zero() -> None:
    nothing = Recall(0, 0, 0, 0)
    for number in (nothing.share, nothing.base_rate, nothing.odds_ratio):
        assert math.isnan(number)
    for interval in (nothing.share_interval, nothing.base_interval, nothing.odds_interval):
        assert all(map(math.isnan, interval))

    all_right = Recall(both=5, only_finetuned=0, only_icl=2, neither=3)
    assert all_right.odds_ratio == pytest.approx(5.5 * 3.5 / (0.5 * 2.5))
    assert math.isfinite(all_right.odds_interval[1])


def test_wilson_by_the_equation_that_defines_it() -> None:
    """The ends are the shares p whose distance to the observed one is 1.96 of their own errors."""
    for successes, trials in ((3, 4), (0, 10), (10, 10), (480, 1000)):
        low, high = wilson(successes, trials)
        for end in (low / 100, high / 100):
            error = math.sqrt(end * (1 - end) / trials)
            assert abs(successes / trials - end) == pytest.approx(1.959964 * error, abs=1e-7)
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == pytest.approx(100)


def test_the_answers_of_both() -> None:
    def shares(of: Pass, query: int) -> Vector:
        weights = [math.exp(score) for score in of.scores[query].double().tolist()]
        return [weight / sum(weights) for weight in weights]

    variation, nats, overlap = [], [], []
    for query in range(Q):
        p, other = shares(ICL, query), shares(FINETUNED, query)
        variation.append(sum(abs(p[a] - other[a]) for a in range(A)) / 2)
        nats.append(sum(p[a] * math.log(p[a] / other[a]) for a in range(A) if p[a]))
        same = set(ICL.top[query].tolist()) & set(FINETUNED.top[query].tolist())
        overlap.append(len(same) / 10)
    np.testing.assert_allclose(total_variation(ICL, FINETUNED), variation, atol=1e-6)
    np.testing.assert_allclose(divergence(ICL, FINETUNED), nats, atol=1e-6)
    np.testing.assert_allclose(top_overlap(ICL, FINETUNED), overlap, atol=1e-6)


def test_order_sensitivity_is_the_spread_over_orders() -> None:
    assert order_sensitivity([0.5, 0.7]) == pytest.approx(math.sqrt(0.02))
    assert math.isnan(order_sensitivity([0.5]))


def test_parts_are_measured_as_the_whole_is() -> None:
    """The sum of the parts is the output without its bias, which updates do not have."""
    passes = ZERO_SHOT, ICL, FINETUNED
    whole = simaou(*(with_part(one, "sum") for one in passes))
    torch.testing.assert_close(whole, simaou(*passes), atol=1e-5, rtol=0)

    updates = [
        output_updates(*(with_part(one, name) for one in passes)) for name in passes[0].parts
    ]
    both = Pair(updates[0].icl + updates[1].icl, updates[0].finetuned + updates[1].finetuned)
    torch.testing.assert_close(cosine(both), whole, atol=1e-5, rtol=0)
    momentum = simaou(*(with_part(one, "momentum") for one in passes))
    assert (momentum - whole).abs().max() > 0.1


def test_the_passes_are_left_as_they_are() -> None:
    """Measures that write into what they are given would change those that come after them."""
    before = [one.outputs.clone() for one in (ZERO_SHOT, ICL, FINETUNED)]
    attention_changes(ZERO_SHOT, ICL, FINETUNED)
    pair = output_updates(ZERO_SHOT, ICL, FINETUNED)
    kept = [side.clone() for side in pair]
    first = correlation(pair), cosine(pair)
    second = correlation(pair), cosine(pair)
    for one, other in zip((*kept, *first), (*pair, *second), strict=True):
        torch.testing.assert_close(one, other)
    for one, outputs in zip((ZERO_SHOT, ICL, FINETUNED), before, strict=True):
        torch.testing.assert_close(one.outputs, outputs)
    assert ICL.logits.shape == (Q, L, H, N)
