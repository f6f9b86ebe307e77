"""What runs share, and what speaks against comparing them: the certificate of a comparison.

Two runs are comparable if they agree in everything but the attention: weights and tokens by their
hashes, kernels and code as each run recorded them, and every option.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from momentum_gpt.comparison.runs import Run, config_differences, have_other_tokenizers

AGAINST = "NOT"
"""The first word of a sentence that speaks against comparing the runs."""

UNKNOWN = "Unknown, without a checkpoint:"
"""The beginning of a sentence on what nobody can tell, which speaks against it as well."""

ALONE = "LEFT OUT, no other run has its seed:"
"""The beginning of a sentence on a run that has no partner."""

ONE_EACH = (
    "One run per variant: telling whether one variant is better takes several seeds "
    "(training.seed)."
)

SHARED = (
    ("initial_weights_sha256", "identical initial weights"),
    ("data_sha256", "identical training tokens"),
    ("precision", "the same precision"),
    ("kernels", "the same kernels"),
    ("code", "the same code"),
    ("versions", "the same versions of libraries"),
    ("skipped_steps", "the same steps without an update"),
)
"""Entries of the manifests that must agree, and how a sentence calls that."""

LEAST = ("initial_weights_sha256", "data_sha256")
"""Entries that are also named where they agree."""


def common_ground(runs: Sequence[Run], tuned: Sequence[str] = ()) -> list[str]:
    """Return what the runs share and what they do not, one sentence each.

    If several runs have the same training seed, the runs of each seed are compared with each other.

    Args:
        runs: two or more.
        tuned: options that each variant has its own best value of, such as "optim.lr".
    """
    groups, alone = by_seeds(runs)
    each = " for each seed" if len(groups) > 1 else ""
    sentences = [f"{ALONE} {run.name} (training.seed={run.config.training.seed})." for run in alone]

    for entry, what in SHARED:
        values = _first_difference(groups, entry)
        if values is None:
            sentences.append(f"{UNKNOWN} {what}.")
        elif values:
            sentences.append(f"{AGAINST} {what}{each}{_shown(values)}.")
        elif entry in LEAST:
            sentences.append(f"{what.capitalize()}{each}.")

    sentences += _order(groups, each)
    sentences += _options(groups, each, tuned)
    compared = [run for group in groups for run in group]
    sentences += _measured(compared)

    # With a single run per variant, a difference may be one of the seeds.
    if len({run.variant for run in runs}) == len(runs):
        sentences.append(ONE_EACH)
    return sentences


def confounds(sentences: Sequence[str]) -> list[str]:
    """Return those sentences of `common_ground` that speak against the comparison."""
    return [sentence for sentence in sentences if sentence.startswith((AGAINST, UNKNOWN))]


def by_seeds(runs: Sequence[Run]) -> tuple[list[list[Run]], list[Run]]:
    """Return the groups of runs that must agree with one another, and the runs without a partner.

    They are the runs of each seed, or all of them if no two have the same seed.
    """
    of_seed: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        of_seed[run.config.training.seed].append(run)

    # Runs with different seeds differ in their weights and their order on purpose.
    groups = [group for group in of_seed.values() if len(group) > 1]
    if not groups:
        return [list(runs)], []
    return groups, [group[0] for group in of_seed.values() if len(group) == 1]


def _order(groups: list[list[Run]], each: str) -> Iterator[str]:
    steps = _first_difference(groups, "step")
    if steps:
        # The hashes of the order would differ in any case.
        yield f"{AGAINST} the same number of steps{_shown(steps)}."
        return
    order = _first_difference(groups, "order_sha256")
    if order is None:
        yield f"{UNKNOWN} identical order of the training tokens."
    elif order:
        yield f"{AGAINST} the same order of the training tokens{each}{_shown(order)}."
    else:
        yield f"Identical order of the training tokens{each}."


def _options(groups: list[list[Run]], each: str, tuned: Sequence[str]) -> Iterator[str]:
    """Yield a sentence on each option, beside those of the attention, that runs differ in."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for group in groups:
        for option, values in config_differences(group).items():
            named = [(run.name, value) for run, value in zip(group, values, strict=True)]
            found.setdefault(option, named)

    # What was measured afterwards was measured alike, whatever was measured in training.
    measured = all(run.afterwards for group in groups for run in group)
    for option, named in found.items():
        section = option.partition(".")[0]
        if section == "attention" or (section == "evaluation" and measured):
            continue
        if option in tuned:
            yield f"Each variant at its own {option}{_shown(named)}."
        else:
            yield f"{AGAINST} the same {option}{each}{_shown(named)}."


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
    for metric, what in (("val/targets", "targets"), ("val/documents", "documents")):
        if len({run.final.get(metric) for run in runs}) > 1:
            sentence = (
                f"measured on the same number of validation {what}: "
                "evaluate each run with the same evaluation.tokens."
            )
            return [f"{AGAINST} {sentence}"]
    return []


def _first_difference(groups: list[list[Run]], entry: str) -> list[tuple[str, Any]] | None:
    """Return the two runs of a group, and their entries in the manifests, that do not agree.

    The result is [] if all groups agree, and None if a run has no manifest.
    """
    if any(run.manifest is None for group in groups for run in group):
        return None
    for first, *others in groups:
        value = getattr(first.manifest, entry)
        for other in others:
            if getattr(other.manifest, entry) != value:
                return [(first.name, value), (other.name, getattr(other.manifest, entry))]
    return []


def _shown(named: list[tuple[str, Any]]) -> str:
    """Return, for example, ": 0.001 in a, 0.002 in b", with hashes cut short."""
    parts = []
    for name, value in named:
        text = value[:12] if isinstance(value, str) else str(value)
        parts.append(f"{text} in {name}")
    return ": " + ", ".join(parts)
