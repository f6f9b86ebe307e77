"""How alike in-context learning (ICL) and finetuning are: one number for each query and layer.

A measure has two steps. The first one pairs what ICL does to a query with what finetuning does to
it: two vectors for each query and layer, and where they are of attention, for each head. The second
one says how alike the two are. A null (`nulls.py`) replaces one side between these steps.

    pairs of                                      made by                     compared by
    updates of the attention modules' outputs     `output_updates`            `cosine`
    attention logits on the query's own tokens    `attention_maps`            `cosine`
    what has changed of these logits              `attention_changes`         `correlation`
    attention to the demonstrations               `demonstration_attention`   `kendall`

`simaou`, `simam` and `simam_of_changes` do both. A number is NaN where it is not defined, such as
the direction of an update of 0.

References:
    Dai et al., "Why Can GPT Learn In-Context? Language Models Implicitly Perform Gradient Descent
    as Meta-Optimizers" (arXiv 2212.10559, 2023), section 4, and its code, microsoft/LMOps,
    understand_icl: Rec2FTP, SimAOU, SimAM and Kendall. Deutch, Magar, Natan and Dar, "In-context
    Learning and Gradient Descent Revisited" (arXiv 2311.07772, 2024): SimAOU of updates that are
    not normalised, and SimAM of changes. Shen, Mishra and Khashabi (arXiv 2310.08540, 2024): what
    the models answer, and how the order of the demonstrations matters.

Shapes: Q queries, L layers, H heads, C width of the model, A answers, N tokens of the longest
query, M tokens of all demonstrations, D demonstrations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy import special
from scipy.stats import kendalltau
from torch import Tensor

from momentum_gpt.analysis.records import Pass, TrainingQueries, right_of
from momentum_gpt.evaluation.statistics import LEVEL, Interval

ROUNDING = 1e-6
"""What is smaller, as a share of what it is compared with, is what float32 rounds off."""

FEWEST_TOKENS = 3
"""Two tokens always correlate, to 1 or to -1."""


class Pair(NamedTuple):
    """What ICL and finetuning do to the same query: (Q, L, ..., X), with a vector on the last axis.

    NaN in either vector leaves that entry out of both.
    """

    icl: Tensor
    finetuned: Tensor


# Answers.


@dataclass(frozen=True)
class Recall:
    """Rec2FTP, the recall to finetuning's predictions, beside what it would be without likeness.

    Of the queries that are wrong without demonstrations, those that finetuning puts right are
    compared with those that it does not: how many of either does ICL answer right?
    """

    both: int
    """Queries that finetuning and ICL put right."""
    only_finetuned: int
    only_icl: int
    neither: int

    @property
    def share(self) -> float:
        """Rec2FTP in percent: ICL is right | finetuning has put the query right."""
        return _percent(self.both, self.both + self.only_finetuned)

    @property
    def share_interval(self) -> Interval:
        """Wilson's 95% interval of `share`, over queries."""
        return wilson(self.both, self.both + self.only_finetuned)

    @property
    def base_rate(self) -> float:
        """In percent: ICL is right | finetuning has left the query wrong."""
        return _percent(self.only_icl, self.only_icl + self.neither)

    @property
    def base_interval(self) -> Interval:
        """Wilson's 95% interval of `base_rate`, over queries."""
        return wilson(self.only_icl, self.only_icl + self.neither)

    @property
    def odds_ratio(self) -> float:
        """The odds of `share` as a multiple of those of `base_rate`; 1 without likeness.

        If a count is 0, 1/2 is added to all four (Haldane and Anscombe). NaN without any query on
        one of both sides.
        """
        counts = self._counts()
        if counts is None:
            return math.nan
        both, only_finetuned, only_icl, neither = counts
        return both * neither / (only_finetuned * only_icl)

    @property
    def odds_interval(self) -> Interval:
        """Woolf's 95% interval of `odds_ratio`, over queries."""
        counts = self._counts()
        if counts is None:
            return math.nan, math.nan
        error = math.sqrt(sum(1 / count for count in counts))
        margin = float(special.ndtri(1 - LEVEL / 2)) * error
        middle = math.log(self.odds_ratio)
        return math.exp(middle - margin), math.exp(middle + margin)

    def _counts(self) -> tuple[float, ...] | None:
        counts = self.both, self.only_finetuned, self.only_icl, self.neither
        if not self.both + self.only_finetuned or not self.only_icl + self.neither:
            return None
        return counts if all(counts) else tuple(count + 0.5 for count in counts)


def is_right(of: Pass) -> Tensor:
    """Return whether the most probable answer, of ties the first, is the right one, (Q,)."""
    return right_of(of.scores, of.gold)


def rec2ftp(zero_shot: Pass, icl: Pass, finetuned: Pass) -> Recall:
    """Return how many of the queries that finetuning puts right, ICL puts right, too.

        Rec2FTP = N(FT right, ICL right, ZSL wrong) / N(FT right, ZSL wrong)

    The paper and its code are the same here, and neither has the base rate. The code scores an
    answer by the mean log-probability of its tokens; see `Pass.scores`.
    """
    return recall(is_right(zero_shot), is_right(icl), is_right(finetuned))


def recall(zero_shot: Tensor, icl: Tensor, finetuned: Tensor) -> Recall:
    """Return the same as `rec2ftp` of whether each query is answered right, (Q,) each."""
    was_wrong = ~zero_shot
    return Recall(
        both=int((was_wrong & finetuned & icl).sum()),
        only_finetuned=int((was_wrong & finetuned & ~icl).sum()),
        only_icl=int((was_wrong & ~finetuned & icl).sum()),
        neither=int((was_wrong & ~finetuned & ~icl).sum()),
    )


def wilson(successes: int, trials: int) -> Interval:
    """Return Wilson's 95% interval of a share, in percent; (nan, nan) without trials."""
    if not trials:
        return math.nan, math.nan
    z2 = float(special.ndtri(1 - LEVEL / 2)) ** 2
    share = successes / trials
    middle = share + z2 / (2 * trials)
    half = math.sqrt(z2 * (share * (1 - share) / trials + z2 / (4 * trials**2)))
    whole = 1 + z2 / trials
    return 100 * max(0.0, middle - half) / whole, 100 * min(whole, middle + half) / whole


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else math.nan


# Pairs of what ICL and finetuning do.


def with_part(of: Pass, name: str) -> Pass:
    """Return a pass whose outputs are those of one part of the attention.

    Every function on outputs then measures this part.

    Args:
        of: the pass.
        name: softmax | momentum, or sum for both, which is the output without its bias.
    """
    parts = of.parts
    outputs = sum(parts.values(), torch.zeros(())) if name == "sum" else parts[name]
    return replace(of, outputs=outputs)


def output_updates(
    zero_shot: Pass,
    icl: Pass,
    finetuned: Pass,
    *,
    normalised: bool = False,
    centred: bool = False,
    without_scaling: bool = False,
) -> Pair:
    """Return what ICL and finetuning add to the attention modules' outputs, (Q, L, C) each.

        h_ICL - h_ZSL    and    h_FT - h_ZSL

    Args:
        zero_shot: the model before finetuning, without demonstrations.
        icl: the same model, with them.
        finetuned: the finetuned model, without them.
        normalised: divide each h by its length before subtracting, as the paper and its code do. It
            makes independent updates look alike: if both multiply the length of h by s, and are
            orthogonal to it and to each other, their cosine is (s - 1) / (2 s) and not 0.
        centred: subtract the mean update over the queries from each update. What is left is what
            the update of one query has beyond that of all.
        without_scaling: take out of each update what only makes h_ZSL longer or shorter. Attention
            to demonstrations is taken from the query's own tokens, so that an ICL update contains
            -h_ZSL whatever the demonstrations say; two updates of one query that both do are alike
            by this alone, and those of two queries are not.
    """
    before = zero_shot.outputs
    after = icl.outputs, finetuned.outputs
    if normalised:
        before = _unit(before)
        after = _unit(after[0]), _unit(after[1])
    updates = [changes(before, one) for one in after]
    if without_scaling:
        updates = [_across(one, before) for one in updates]
    if centred:
        updates = [one - one.nanmean(dim=0) for one in updates]
    return Pair(*updates)


def attention_maps(icl: Pass, other: Pass) -> Pair:
    """Return the attention logits on the query's own tokens, (Q, L, H, N) each.

    Args:
        icl: with demonstrations.
        other: the finetuned model; or the model before finetuning, for the paper's baseline.
    """
    return Pair(icl.logits, other.logits)


def attention_changes(zero_shot: Pass, icl: Pass, finetuned: Pass) -> Pair:
    """Return what ICL and finetuning add to the attention logits, (Q, L, H, N) each.

    m_ICL - m_ZSL    and    m_FT - m_ZSL
    """
    before = zero_shot.logits
    return Pair(changes(before, icl.logits), changes(before, finetuned.logits))


def demonstration_attention(
    icl: Pass, finetuned: Pass, training: TrainingQueries, by_demonstration: bool = False
) -> Pair:
    """Return the attention to the demonstrations' tokens, and finetuning's counterpart of it.

        m_ICL[i] = sum over heads of (k_i . q) / sqrt(d)     and     m_FT[i] = q'_i . q_FT

    with the query q of the last token, its value q_FT in the finetuned model, and the query q'_i of
    training token i just before the update on its demonstration.

    The paper writes of attention weights, and its code takes logits, as here. The code normalises
    both by a softmax over the tokens, which leaves their order as it is. Only the order counts.

    Args:
        icl: with demonstrations.
        finetuned: the finetuned model, without them.
        training: recorded during the finetuning.
        by_demonstration: sum the weights, after that softmax, over the tokens of a demonstration;
            their logarithms are returned, which keep the order where a weight is rounded to 0. The
            code divides q' and q_FT by sqrt(d) each.

    Returns:
        (Q, L, M) each, or (Q, L, D).
    """
    products = torch.einsum("qlc,lmc->qlm", finetuned.queries, training.queries)
    pair = Pair(icl.on_demonstrations, products)
    if not by_demonstration:
        return pair

    n_heads = icl.logits.shape[2]
    d_head = finetuned.queries.shape[-1] // n_heads
    places = [training.demonstration == number for number in training.demonstration.unique()]
    if not places:
        return pair
    sums = []
    for logits in (pair.icl, pair.finetuned / d_head):
        sums.append(torch.stack([logits[..., place].logsumexp(-1) for place in places], dim=-1))
    return Pair(*sums)


def changes(before: Tensor, after: Tensor) -> Tensor:
    """Return after - before; NaN where it is no more than float32 rounds off.

    Args:
        before: (..., X), with vectors on the last axis.
        after: the same shape.
    """
    change = after - before
    is_rounding = _length(change) <= ROUNDING * _length(before)
    return change.masked_fill_(is_rounding[..., None], math.nan)


# How alike the two sides of a pair are.


def cosine(pair: Pair) -> Tensor:
    """Return the cosine between the vectors of both sides, (Q, L, ...)."""
    icl, finetuned = _common(pair)
    return _cosine(icl, finetuned)


def correlation(pair: Pair) -> Tensor:
    """Return Pearson's correlation between both sides over the last axis, (Q, L, ...).

    It is the cosine after the mean of each vector has been subtracted: adding a constant to a row
    of attention logits changes nothing of what is attended to.

    NaN where fewer than three entries are in both vectors.
    """
    icl, finetuned = _common(pair)
    is_in = ~(pair.icl.isnan() | pair.finetuned.isnan())
    size = is_in.sum(dim=-1, keepdim=True)
    for side in (icl, finetuned):
        side -= side.sum(dim=-1, keepdim=True) / size
        side *= is_in
    found = _cosine(icl, finetuned)
    return found.masked_fill_(size[..., 0] < FEWEST_TOKENS, math.nan)


def kendall(pair: Pair) -> Tensor:
    """Return Kendall's rank correlation between both sides over the last axis, (Q, L).

        tau = (concordant pairs - discordant pairs) / (M (M - 1) / 2)

    The paper states this formula; its code calls `scipy.stats.kendalltau`, as this function does,
    which differs from it only where values are tied. Of the queries, the code takes the first 100.

    Args:
        pair: (Q, L, M) each.
    """
    tau = _kendall(_rows(pair.icl), _rows(pair.finetuned))
    return torch.from_numpy(tau).float().reshape(pair.icl.shape[:-1])


def partial_kendall(pair: Pair, tau: Tensor | None = None) -> Tensor:
    """Return Kendall's partial correlation, (Q, L): without what both sides owe to places.

        (tau - tau_ICL tau_FT) / sqrt((1 - tau_ICL^2) (1 - tau_FT^2))

    with the correlations tau_ICL and tau_FT of each side with the place of a token. Both may prefer
    the last tokens, whatever they say.

    Args:
        pair: (Q, L, M) each.
        tau: `kendall(pair)`, if it is known.
    """
    tau = kendall(pair) if tau is None else tau
    places = torch.arange(pair.icl.shape[-1]).expand(pair.icl.shape)
    icl = kendall(Pair(pair.icl, places))
    finetuned = kendall(Pair(pair.finetuned, places))
    rest = (1 - icl**2) * (1 - finetuned**2)
    rest[rest < ROUNDING] = math.nan  # the place alone says the order
    return (tau - icl * finetuned) / rest.sqrt()


def simaou(
    zero_shot: Pass,
    icl: Pass,
    finetuned: Pass,
    *,
    normalised: bool = False,
    centred: bool = False,
    without_scaling: bool = False,
) -> Tensor:
    """Return the similarity of attention output updates, (Q, L).

        SimAOU = cos(h_ICL - h_ZSL, h_FT - h_ZSL)

    The paper's and its code's is the normalised one. They differ in the token that h belongs to,
    which is a matter of what was recorded: the last one of the prompt in the paper, and in the code
    the first answer's, appended to the prompt.

    The arguments are those of `output_updates`.
    """
    pair = output_updates(
        zero_shot,
        icl,
        finetuned,
        normalised=normalised,
        centred=centred,
        without_scaling=without_scaling,
    )
    return cosine(pair)


def simam(icl: Pass, other: Pass) -> Tensor:
    """Return the similarity of attention maps as in the paper and its code, (Q, L, H).

        SimAM = cos(m_ICL, m_other)

    m are attention logits before the softmax. They are alike in any two passes of one model,
    so that the paper's baseline is the model before finetuning.

    The arguments are those of `attention_maps`.
    """
    return cosine(attention_maps(icl, other))


def simam_of_changes(zero_shot: Pass, icl: Pass, finetuned: Pass) -> Tensor:
    """Return the similarity of what has changed of the attention maps, (Q, L, H).

        cos(m_ICL - m_ZSL, m_FT - m_ZSL), each row centred first

    The rows of Deutch et al. are not centred.
    """
    return correlation(attention_changes(zero_shot, icl, finetuned))


# What the models answer.


def top_overlap(first: Pass, other: Pass) -> Tensor:
    """Return the share of the ten most probable next tokens that both have, (Q,)."""
    is_same = first.top[:, :, None] == other.top[:, None, :]  # (Q, 10, 10)
    return is_same.any(dim=-1).float().mean(dim=-1)


def total_variation(first: Pass, other: Pass) -> Tensor:
    """Return half the sum of |p - p'| over the answers, (Q,): 0 if alike, at most 1.

    The probabilities p are the softmax of the answers' scores.
    """
    gap = first.scores.softmax(dim=-1) - other.scores.softmax(dim=-1)
    return gap.abs().sum(dim=-1) / 2


def divergence(first: Pass, other: Pass) -> Tensor:
    """Return the Kullback-Leibler divergence sum p log(p / p') over the answers, (Q,), in nats.

    The probabilities p of `first` and p' of `other` are the softmax of the answers' scores.
    """
    log_first = first.scores.log_softmax(dim=-1)
    gap = log_first - other.scores.log_softmax(dim=-1)
    is_answer = ~first.scores.isneginf()  # a query may have fewer answers than others
    return torch.where(is_answer, log_first.exp() * gap, 0).sum(dim=-1)


def order_sensitivity(accuracies: Sequence[float]) -> float:
    """Return the standard deviation of the accuracy over orders of the same demonstrations.

    NaN for a single order.

    Args:
        accuracies: of each order, of the same queries; of ICL, or after finetuning in that order.
    """
    return float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else math.nan


def _length(vectors: Tensor) -> Tensor:
    """Return the lengths of vectors (..., X) without their NaN, (...)."""
    return vectors.nan_to_num().norm(dim=-1)


def _unit(vectors: Tensor) -> Tensor:
    """Return vectors of length 1; of one of length 0, NaN."""
    return vectors / vectors.norm(dim=-1, keepdim=True)


def _across(vectors: Tensor, others: Tensor) -> Tensor:
    """Return vectors without their part along others, of the same shape."""
    directions = _unit(others)
    along = torch.linalg.vecdot(vectors, directions)[..., None]
    return vectors - along * directions


def _common(pair: Pair) -> Pair:
    """Return new vectors with 0 on both sides where either has NaN."""
    is_out = pair.icl.isnan() | pair.finetuned.isnan()
    return Pair(pair.icl.masked_fill(is_out, 0), pair.finetuned.masked_fill(is_out, 0))


def _cosine(first: Tensor, other: Tensor) -> Tensor:
    """Return the cosine; 0 / 0, which is NaN, where a vector is 0."""
    products = torch.linalg.vecdot(first, other)
    return products / (first.norm(dim=-1) * other.norm(dim=-1))


def _rows(side: Tensor) -> np.ndarray:
    """Return the vectors (..., M) of a side as rows."""
    return side.flatten(end_dim=-2).cpu().numpy()


def _kendall(first: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return Kendall's tau of each row; NaN where a row has NaN or fewer than two places."""
    if first.shape[-1] < 2:
        return np.full(len(first), math.nan)
    # One call for all rows. Asymptotic p-values, which nobody reads, cost least, but of two places
    # there are none.
    method = "asymptotic" if first.shape[-1] > 2 else "auto"
    return kendalltau(first, other, axis=-1, method=method).statistic
