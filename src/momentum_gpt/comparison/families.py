"""All paired differences of a comparison; the p-values of one family are adjusted together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from momentum_gpt.comparison.by_cost import by_cost, remarks_on_cost
from momentum_gpt.comparison.by_document import by_document
from momentum_gpt.comparison.by_query import by_query
from momentum_gpt.comparison.by_seed import (
    BY_FREQUENCY,
    BY_POSITION,
    FEW_SHOT,
    LOSSES,
    BySeed,
    by_seed,
    variants,
)
from momentum_gpt.comparison.likeness import likeness_by_seed
from momentum_gpt.comparison.noise_model import NoiseModel, by_noise
from momentum_gpt.comparison.paired import Comparison, PairedDifference, with_holm
from momentum_gpt.comparison.runs import Run, have_other_tokenizers
from momentum_gpt.core.terminal import Advance

FAMILIES = {
    "Losses of": LOSSES,
    "Few-shot tasks,": FEW_SHOT,
    "Losses by position of": BY_POSITION,
    "Losses by token frequency of": BY_FREQUENCY,
}
"""The metrics whose p-values are adjusted together, by the beginning of their tables' titles."""

LAST_ALONE = "Documents and queries are those of the last evaluation alone."


def compare_pairs(
    runs: Sequence[Run],
    advance: Advance,
    looked_at: bool = False,
    basis: str = "",
    model: NoiseModel | None = None,
) -> list[Comparison]:
    """Return the comparisons of each variant, or else of each run, with the first one.

    With two or more training seeds of two variants, only seeds are compared: documents and queries
    would say something about two of the runs and nothing about the variants. The p-values are
    adjusted for the number of rows of each family.

    Args:
        runs: what is compared, the baseline first.
        advance: called after each difference.
        looked_at: whether the number of seeds was chosen by looking at the results.
        basis: what the metrics of a run are, if not those of its last evaluation.
        model: the noise of other runs; None: only these runs tell how much they vary.
    """
    # A single seed tells two trained models apart, not two variants.
    families = _variants(runs, advance, looked_at, basis)
    if not any(families):
        families = _models(runs, advance, basis)
    if model:
        families.insert(0, _by_noise(runs, model, basis))
    return [comparison for family in families for comparison in with_holm(family)]


def _by_noise(runs: Sequence[Run], model: NoiseModel, basis: str) -> list[Comparison]:
    (first_name, first), *others = variants(runs).items()
    found = []
    for name, other in others:
        title = f"Loss of {name} against {first_name} by a noise model, paired by training seed"
        one = by_noise(title, (first_name, name), first, other, model)
        if one:
            found.append(replace(one, basis=", ".join(filter(None, [one.basis, basis]))))
    return found


def _variants(
    runs: Sequence[Run], advance: Advance, looked_at: bool, basis: str
) -> list[list[Comparison]]:
    """Return each variant against the first: one family of p-values for each kind of metric."""
    across_tokenizers = have_other_tokenizers(runs)
    (first_name, first), *others = variants(runs).items()

    def family(
        what: str, rows_of: Callable[[BySeed], list[PairedDifference]], basis: str = ""
    ) -> list[Comparison]:
        found = []
        for name, other in others:
            title = f"{what} {name} against {first_name}, paired by training seed"
            found.append(Comparison(title, first_name, name, rows_of(other), basis))
        return _with_rows(found)

    families = []
    for what, metrics in FAMILIES.items():
        rows_of = partial(
            by_seed,
            first,
            metrics=metrics,
            across_tokenizers=across_tokenizers,
            advance=advance,
            looked_at=looked_at,
        )
        families.append(family(what, rows_of, basis))
    families.append(likeness_by_seed(variants(runs), looked_at))
    if across_tokenizers:  # nats per token are other units for each
        return families

    at_equal_cost = family("Losses at equal cost of", partial(by_cost, first, looked_at=looked_at))
    of_variant = dict(others)
    families[0] = [
        replace(one, remarks=remarks_on_cost(first, of_variant[one.other])) for one in families[0]
    ]
    return [*families, at_equal_cost]


def _models(runs: Sequence[Run], advance: Advance, basis: str) -> list[list[Comparison]]:
    """Return losses and few-shot tasks of each run against the first one."""
    units = ("byte", "word") if have_other_tokenizers(runs) else ("token",)
    first = runs[0]
    remarks = [LAST_ALONE] if basis else []
    losses = []
    few_shot = []
    for other in runs[1:]:
        title = f"{other.name} against {first.name}, paired by"
        rows = by_document(first.folder, other.folder, units, advance)
        what = f"Losses of {title} document"
        losses.append(Comparison(what, first.name, other.name, rows, remarks=remarks))
        rows = by_query(first.folder, other.folder, advance)
        what = f"Few-shot tasks, {title} query"
        few_shot.append(Comparison(what, first.name, other.name, rows, remarks=remarks))
    return [_with_rows(losses), _with_rows(few_shot)]


def _with_rows(comparisons: Sequence[Comparison]) -> list[Comparison]:
    return [comparison for comparison in comparisons if comparison.differences]
