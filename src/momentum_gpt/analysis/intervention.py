"""What the answers of a recall model depend on: parts of its attention are taken out or exchanged.

Attention is a sum of parts, of each layer and head: what the softmax gives, and what the variant
adds to it (the decayed sum of momentum; nothing in vanilla attention). While a model reads a
sequence, one part is replaced everywhere in it:

    out         by zeros: what is lost without it?
    exchanged   by the same part of a twin: the same keys in the same order, but with each other's
                values. Answers that then follow the twin went through this part (interchange
                intervention: Geiger et al., arXiv 2106.02997).
    unrelated   by the same part of a sequence with other keys and values: the control, which
                destroys what the part says and keeps its size.

Shapes: n sequences, T tokens, H heads, D head dimension, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from momentum_gpt.analysis.capture import is_linear
from momentum_gpt.data.synthetic_tasks import HELD_OUT, NO_TARGET, SyntheticTask
from momentum_gpt.models import GPT
from momentum_gpt.models.attention import Variant
from momentum_gpt.models.mixing import linear_weights, softmax_weights

PARTS = ("softmax", "added")
"""Of each layer and head: the softmax part, and what the variant adds to it."""

Parts = dict[str, Tensor]
"""The parts of a layer, (n, H, T, D) each."""


class Place(NamedTuple):
    """Where to intervene."""

    layer: int | None
    """Counted from 0. None: all layers at once."""
    head: int | None
    """Counted from 0. None: all heads."""
    part: str
    """One of PARTS."""


@dataclass(frozen=True)
class Sequences:
    """Sequences of a recall task, and their counterparts."""

    tokens: Tensor
    """(n, T)."""
    answers: Tensor
    """(n, T); -100 where nothing is asked."""
    twins: Tensor
    """(n, T): the same keys, with each other's values."""
    twin_answers: Tensor
    """(n, T)."""


@dataclass(frozen=True)
class Effect:
    """What an intervention does, by sequence."""

    place: Place
    out: Tensor
    """(n,): accuracy without the part."""
    followed: Tensor
    """(n,): share of answers that are the twin's, with the twin's part."""
    exchanged: Tensor
    """(n,): accuracy with the twin's part."""
    unrelated: Tensor
    """(n,): accuracy with the part of a sequence of other keys and values."""


def draw(task: SyntheticTask, n: int) -> Sequences:
    """Return held-out sequences of a recall task, each with a twin.

    In a twin, each value stands where another one stood: the values of the sequence change places
    by a rotation, so that no key keeps its own.
    """
    tokens, answers = task.draw(HELD_OUT, 2**41, n)
    n_pairs = task.config.n_pairs
    twins, twin_answers = tokens.copy(), answers.copy()
    for row in range(n):
        values = tokens[row, 1 : 2 * n_pairs : 2]
        renamed = np.arange(task.vocab_size)
        renamed[values] = np.roll(values, 1)
        twins[row] = renamed[tokens[row]]
        asked = answers[row] != NO_TARGET
        twin_answers[row, asked] = renamed[answers[row, asked]]
    return Sequences(*map(torch.from_numpy, (tokens, answers, twins, twin_answers)))


def places_of(model: GPT) -> list[Place]:
    """Return each head's parts, those of all heads of a layer, and those of all layers."""
    variants = variants_of(model)
    heads = [*range(model.config.n_heads), None]
    found = []
    for part in PARTS:
        if part == "added" and not any(variant.mix for variant in variants):
            continue
        for layer in range(len(variants)):
            found += [Place(layer, head, part) for head in heads]
        found.append(Place(None, None, part))
    return found


@torch.no_grad()
def effects_on(model: GPT, sequences: Sequences) -> list[Effect]:
    """Measure the effect of replacing each part, one at a time: see `places_of`."""
    layers = parts_of(model, sequences.tokens)
    twins = parts_of(model, sequences.twins)
    return [effect_of(model, sequences, place, layers, twins) for place in places_of(model)]


def effect_of(
    model: GPT, sequences: Sequences, place: Place, layers: list[Parts], twins: list[Parts]
) -> Effect:
    """Measure the effect of replacing one part.

    Args:
        model: the model.
        sequences: what it reads.
        place: what is replaced.
        layers, twins: the parts of each layer, in the sequences and in their twins.
    """
    own = [parts[place.part] for parts in layers]
    of_twins = [parts[place.part] for parts in twins]
    replacements = {
        "out": [torch.zeros_like(part) for part in own],
        "exchanged": of_twins,
        "unrelated": [part.roll(1, dims=0) for part in own],
    }
    choices = {}
    for name, parts in replacements.items():
        with replaced(model, place, parts):
            choices[name] = model(sequences.tokens).argmax(-1)  # (n, T)
    answers = sequences.answers
    return Effect(
        place,
        out=share(choices["out"], answers),
        followed=share(choices["exchanged"], sequences.twin_answers),
        exchanged=share(choices["exchanged"], answers),
        unrelated=share(choices["unrelated"], answers),
    )


@torch.no_grad()
def accuracy(model: GPT, sequences: Sequences) -> Tensor:
    """Return the share of right answers of each sequence, (n,), without an intervention."""
    return share(model(sequences.tokens).argmax(-1), sequences.answers)


def share(choices: Tensor, answers: Tensor) -> Tensor:
    """Return the share of a sequence's answers that are chosen, (n,)."""
    asked = answers != NO_TARGET
    return ((choices == answers) & asked).sum(1) / asked.sum(1)


@torch.no_grad()
def attention_to_previous(model: GPT, sequences: Sequences) -> Tensor:
    """Return the attention's weight of the token before, (layers, n, H): the mean over a sequence's
    tokens from the second on."""
    found: list[Tensor] = []

    def see(attend: Variant, given: Any, mixed: Tensor) -> None:
        weights_of = linear_weights if is_linear(attend) else softmax_weights
        weights = weights_of(*given[:2])  # (n, H, T, T)
        found.append(weights.diagonal(-1, dim1=-2, dim2=-1).mean(-1))

    with hooked(variants_of(model), see):
        model(sequences.tokens)
    return torch.stack(found)


@torch.no_grad()
def parts_of(model: GPT, tokens: Tensor) -> list[Parts]:
    """Return the parts of each layer, without an intervention."""
    found: list[Parts] = []

    def see(attend: Variant, given: Any, mixed: Tensor) -> None:
        found.append(split(attend, given, mixed))

    with hooked(variants_of(model), see):
        model(tokens)
    return found


@contextmanager
def replaced(model: GPT, place: Place, parts: Sequence[Tensor]) -> Iterator[None]:
    """Put other parts in their place inside the `with` block.

    Args:
        model: the model.
        place: which heads of which layers.
        parts: of each layer, (n, H, T, D).
    """
    variants = variants_of(model)
    heads = slice(None) if place.head is None else slice(place.head, place.head + 1)

    def change(attend: Variant, given: Any, mixed: Tensor) -> Tensor:
        own = split(attend, given, mixed)[place.part]
        other = parts[variants.index(attend)]
        change = torch.zeros_like(mixed)
        change[:, heads] = (other - own)[:, heads]
        return mixed + change

    chosen = variants if place.layer is None else variants[place.layer : place.layer + 1]
    with hooked(chosen, change):
        yield


def split(attend: Variant, given: Any, mixed: Tensor) -> Parts:
    """Return the parts of what a variant has mixed."""
    if attend.mix is None:
        return {"softmax": mixed, "added": torch.zeros_like(mixed)}
    plain = attend.mix(*given)
    return {"softmax": plain, "added": mixed - plain}


def variants_of(model: GPT) -> list[Variant]:
    """Return the attention variant of each layer."""
    return [module for module in model.modules() if isinstance(module, Variant)]


@contextmanager
def hooked(variants: Sequence[Variant], hook: Any) -> Iterator[None]:
    handles = [variant.register_forward_hook(hook) for variant in variants]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
