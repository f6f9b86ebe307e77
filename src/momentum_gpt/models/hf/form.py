"""What the exported modelling code can compute in a layer, as it stands in an export's config.json.

A variant describes itself in these terms, see `Variant.hf_form`. The modelling code interprets
the description and knows no variant by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class HFMomentum:
    """Add the decayed sum of past values: sum_{i<t} decay^(t-i) v_i."""

    decays: list[float]
    """The decay of each head, (H,); where decays are learned, their initial values."""
    learned: bool = False
    """Whether the decays are the sigmoid of a parameter, `decay_logits` (H,)."""
    normalised: bool = False
    """Whether the sum is multiplied by (1 - decay)."""
    include_current: bool = False
    """Whether the sum includes the current value, with weight 1."""
    kind: Literal["momentum"] = "momentum"


@dataclass(frozen=True)
class HFShift:
    """Add the previous token's value times a parameter, `weight` (H,)."""

    kind: Literal["shift"] = "shift"


@dataclass(frozen=True)
class HFForm:
    """How one layer mixes values: a rule, and at most one addition to its result."""

    rule: Literal["softmax", "linear"]
    """Causal softmax attention, or the same without the softmax and without the scale."""
    addition: HFMomentum | HFShift | None = None
