"""What runs share, by the hashes in their manifests: whether they may be compared at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from momentum_gpt.comparison.runs import Run, have_other_tokenizers

AGAINST = "NOT"
"""The first word of a sentence that speaks against comparing the runs."""


def common_ground(runs: Sequence[Run]) -> list[str]:
    """Return what the runs share and what they do not, one sentence each.

    Sentences that speak against comparing the runs begin with "NOT". If there are several training
    seeds, and two or more runs of each, the runs of one seed are compared with each other.
    """
    groups = _groups(runs)
    each = " for each seed" if len(groups) > 1 else ""
    sentences = []

    for fact, what in (
        ("initial_weights_sha256", "identical initial weights"),
        ("data_sha256", "identical training tokens"),
    ):
        shared = _is_shared(groups, fact)
        if shared is None:
            sentences.append(f"Unknown, without a checkpoint: {what}.")
        elif shared:
            sentences.append(f"{what.capitalize()}{each}.")
        else:
            sentences.append(f"{AGAINST} {what}{each}.")

    same_steps = _is_shared(groups, "step")
    if same_steps is None:
        sentences.append("Unknown, without a checkpoint: identical order of the training tokens.")
    elif not same_steps:
        # The hashes of the order would differ in any case.
        sentences.append(f"{AGAINST} the same number of steps.")
    elif _is_shared(groups, "order_sha256"):
        sentences.append(f"Identical order of the training tokens{each}.")
    else:
        sentences.append(f"{AGAINST} the same order of the training tokens{each}.")

    sentences += _measured(runs)

    # With a single run per variant, a difference may be one of the seeds.
    if len({run.variant for run in runs}) == len(runs):
        sentences.append(
            "One run per variant: telling whether one variant is better takes several seeds "
            "(training.seed)."
        )
    return sentences


def _measured(runs: Sequence[Run]) -> list[str]:
    """Return what speaks against comparing what was measured; [] if nothing does."""
    if have_other_tokenizers(runs):
        sentence = (
            "the same tokenizer: what is per token is left out. Bits per byte and nats per word "
            "are paired over the documents that all runs have scored whole, as `evaluate` does "
            "with evaluation.documents=apart."
        )
        return [f"{AGAINST} {sentence}"]

    # Losses on different texts differ even between equal models.
    if len({run.final.get("val/targets") for run in runs}) > 1:
        sentence = (
            "measured on the same number of validation targets: "
            "evaluate each run with the same evaluation.tokens."
        )
        return [f"{AGAINST} {sentence}"]
    return []


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs that must agree with one another: those of each seed, or all of them."""
    of_seed: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        of_seed[run.config.training.seed].append(run)

    # Runs with different seeds differ in their weights and their order on purpose.
    groups = list(of_seed.values())
    fewest = min(map(len, groups))
    return groups if len(groups) > 1 and fewest > 1 else [list(runs)]


def _is_shared(groups: list[list[Run]], fact: str) -> bool | None:
    """Return whether an entry of the manifests is the same within each group; None if unknown."""
    is_shared = True
    for group in groups:
        values = {getattr(run.manifest, fact, None) for run in group}
        if None in values:
            return None
        is_shared = is_shared and len(values) == 1
    return is_shared
