"""What is measured of one draw of the demonstrations, and beside which nulls.

    dai2022   as in the paper and its code, with the paper's nulls. The nulls that it lacks stand
              beside them: without them, a number says nothing.
    default   updates as they are, centred, and without what only scales an output; changes of the
              attention maps; attention to the demonstrations, without what their order explains

Both have accuracies and Rec2FTP. Measures are kept by name, and the same measure without likeness
by `against(measure, null)`: a flat dictionary of tensors, which safetensors takes as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from momentum_gpt.analysis.nulls import gaussian, mismatched, uniform
from momentum_gpt.analysis.records import Pass, TrainingQueries
from momentum_gpt.analysis.similarity import (
    Pair,
    attention_changes,
    attention_maps,
    correlation,
    cosine,
    demonstration_attention,
    divergence,
    is_right,
    kendall,
    output_updates,
    partial_kendall,
    simam,
    top_overlap,
    total_variation,
    with_part,
)
from momentum_gpt.evaluation.finding import DIVERGENCE, ICL, TOTAL_VARIATION, ZERO_SHOT

PROTOCOLS = ("dai2022", "default")

PARTNER_SEED = 0
"""Chooses the partners of mismatched queries, the same ones in all draws."""

FINETUNED = "accuracy, finetuned"
REC2FTP = "Rec2FTP"
SIMAOU = "SimAOU"
SIMAOU_CENTRED = "SimAOU, centred"
SIMAOU_ACROSS = "SimAOU, without scaling"
SIMAOU_NORMALISED = "SimAOU, normalised"
SIMAM = "SimAM of changes"
SIMAM_RAW = "SimAM"
KENDALL = "Kendall"
KENDALL_PARTIAL = "Kendall, without position"
KENDALL_DEMONSTRATIONS = "Kendall, demonstrations"
TOP_10 = "top-10 overlap"

UPDATES = {
    SIMAOU: {},
    SIMAOU_CENTRED: {"centred": True},
    SIMAOU_ACROSS: {"without_scaling": True},
}
"""Arguments of `output_updates` in the default protocol."""

BASE_RATE = "base rate"
BEFORE = "before finetuning"
GAUSSIAN = "Gaussian noise"
MISMATCHED = "mismatched queries"
SHUFFLED = "shuffled labels"
UNTRAINED = "untrained model"
UNIFORM = "uniform noise (paper)"
WRONG = "wrong labels"

SEPARATOR = " | "

Measures = dict[str, Tensor]
"""Name -> a number for each (query, layer[, head]); of accuracies whether each query is right."""

Null = Callable[[Pair, int], Pair]


@dataclass
class Draw:
    """Three passes over the same queries, with one draw of the demonstrations."""

    zero_shot: Pass
    """The model before finetuning, without demonstrations."""
    icl: Pass
    """The same model, with them."""
    finetuned: Pass
    """The model finetuned on them, without them."""
    training: TrainingQueries
    """Recorded during the finetuning."""

    def layer(self, number: int) -> Draw:
        """Return one layer of all passes, in the same memory; L is 1."""
        return Draw(
            self.zero_shot.layer(number),
            self.icl.layer(number),
            self.finetuned.layer(number),
            self.training.layer(number),
        )


@dataclass
class _Comparison:
    """What one or more measures compare, with the nulls that replace one side of it."""

    pair: Pair
    compare: Callable[[Pair], Measures]
    nulls: Mapping[str, Null] = field(default_factory=dict)


def against(measure: str, null: str) -> str:
    """Return the name of a measure without likeness."""
    return f"{measure}{SEPARATOR}{null}"


def measure(
    draw: Draw, protocol: str = "default", seed: int = 0, with_nulls: bool = True
) -> Measures:
    """Return all measures of one draw of the demonstrations, and their nulls.

    One layer is measured after another, as what is compared of all of them fills gigabytes.

    Args:
        draw: what was recorded.
        protocol: dai2022 | default.
        seed: of the noise; another one for each draw.
        with_nulls: compare noise and mismatched queries, too; a draw that is itself a null has no
            need of them.
    """
    found = _answers(draw)
    L = draw.icl.outputs.shape[1]
    by_layer = []
    for number in range(L):
        seed_of_layer = L * seed + number
        by_layer.append(_of_layer(draw.layer(number), protocol, seed_of_layer, with_nulls))
    for name in by_layer[0]:
        found[name] = torch.cat([measures[name] for measures in by_layer], dim=1)

    if protocol == "default":
        found |= _agreement(draw.zero_shot, draw.icl, draw.finetuned)
    return found


def add_null(measures: Measures, null: str, other: Mapping[str, Tensor]) -> None:
    """Add another model's or another finetuning's measures as a null.

    Args:
        measures: are added to.
        null: its name, such as "untrained model" or "shuffled labels".
        other: measured with the same queries and the same draw.
    """
    for name, values in other.items():
        if SEPARATOR not in name and name in measures and not name.startswith("accuracy"):
            measures[against(name, null)] = values


def _answers(draw: Draw) -> Measures:
    before, icl, finetuned = draw.zero_shot, draw.icl, draw.finetuned
    zero_shot = is_right(before)
    return {
        ZERO_SHOT: zero_shot,
        FINETUNED: is_right(finetuned),
        against(FINETUNED, "zero-shot"): zero_shot.clone(),  # safetensors takes no two names of one
        ICL: is_right(icl),
        against(ICL, "zero-shot"): zero_shot.clone(),
    }


def _of_layer(draw: Draw, protocol: str, seed: int, with_nulls: bool) -> Measures:
    """Return the measures of a draw's only layer, and their nulls: (Q, 1[, H]) each."""
    found: Measures = {}
    for compared in _of_dai2022(draw) if protocol == "dai2022" else _of_default(draw):
        found |= compared.compare(compared.pair)
        if with_nulls:
            found |= _nulls_of(compared, seed)
    if protocol == "dai2022":
        found[against(SIMAM_RAW, BEFORE)] = simam(draw.icl, draw.zero_shot)
    return found


def _of_dai2022(draw: Draw) -> Iterator[_Comparison]:
    before, icl, finetuned = draw.zero_shot, draw.icl, draw.finetuned
    noise = {UNIFORM: uniform, GAUSSIAN: gaussian}
    updates = output_updates(before, icl, finetuned, normalised=True)
    yield _Comparison(updates, _named(SIMAOU_NORMALISED, cosine), noise)
    yield _Comparison(attention_maps(icl, finetuned), _named(SIMAM_RAW, cosine))

    attention = demonstration_attention(icl, finetuned, draw.training)
    yield _Comparison(attention, _named(KENDALL, kendall), {UNIFORM: uniform})


def _of_default(draw: Draw) -> Iterator[_Comparison]:
    before, icl, finetuned = draw.zero_shot, draw.icl, draw.finetuned
    yield from _of_updates("", before, icl, finetuned)
    if "momentum" in icl.parts:
        for part in ("softmax", "momentum"):
            of_parts = (with_part(one, part) for one in (before, icl, finetuned))
            yield from _of_updates(f", {part} part", *of_parts)

    changed = attention_changes(before, icl, finetuned)
    yield _Comparison(changed, _named(SIMAM, correlation), {GAUSSIAN: gaussian})

    attention = demonstration_attention(icl, finetuned, draw.training)
    yield _Comparison(attention, _both_kendalls)
    summed = demonstration_attention(icl, finetuned, draw.training, by_demonstration=True)
    yield _Comparison(summed, _named(KENDALL_DEMONSTRATIONS, partial_kendall))


def _of_updates(which: str, before: Pass, icl: Pass, finetuned: Pass) -> Iterator[_Comparison]:
    """Yield the similarity of updates in each form, under names that end in `which`."""
    for name, form in UPDATES.items():
        updates = output_updates(before, icl, finetuned, **form)
        yield _Comparison(updates, _named(f"{name}{which}", cosine), {GAUSSIAN: gaussian})


def _agreement(before: Pass, icl: Pass, finetuned: Pass) -> Measures:
    """Return how alike the answers are, beside how alike they were before finetuning."""
    found: Measures = {}
    compared = {TOP_10: top_overlap, TOTAL_VARIATION: total_variation, DIVERGENCE: divergence}
    for name, compare in compared.items():
        found[name] = compare(icl, finetuned)
        found[against(name, BEFORE)] = compare(icl, before)
    return found


def _nulls_of(compared: _Comparison, seed: int) -> Measures:
    """Return the measures of a comparison beside its nulls, and of mismatched queries."""
    found: Measures = {}
    for null, replaced in {**compared.nulls, MISMATCHED: _of_partners}.items():
        for name, values in compared.compare(replaced(compared.pair, seed)).items():
            found[against(name, null)] = values
    return found


def _of_partners(pair: Pair, seed: int) -> Pair:
    """Return the pair of mismatched queries, whose partners are the same in all draws."""
    return mismatched(pair, PARTNER_SEED)


def _named(name: str, compare: Callable[[Pair], Tensor]) -> Callable[[Pair], Measures]:
    return lambda pair: {name: compare(pair)}


def _both_kendalls(pair: Pair) -> Measures:
    """Return Kendall's correlation, and what of it places do not explain."""
    tau = kendall(pair)
    return {KENDALL: tau, KENDALL_PARTIAL: partial_kendall(pair, tau)}
