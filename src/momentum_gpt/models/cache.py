"""What a model remembers while it decodes: an argument of its forward pass, never hidden in it.

Prompts of unequal length are padded on the right: what is there cannot reach the past, and is written over later.

Shapes: B rows, H heads, T new tokens, L tokens remembered at most, D head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from momentum_gpt.core.errors import UserError

APPENDED = {"k", "v"}
"""What a layer keeps of every token; of everything else it keeps one state."""


class Cache:
    """The memory of all layers; row b has seen `lengths[b]` tokens.

    Args:
        n_layers: of the model.
        n_rows: B.
        capacity: L; the model's `seq_len` at most.
    """

    def __init__(
        self, n_layers: int, n_rows: int, capacity: int, device: torch.device | str = "cpu"
    ) -> None:
        self.capacity = capacity
        self.lengths = torch.zeros(n_rows, dtype=torch.long, device=device)
        self.n_new: Tensor | None = None
        """(B,): how many of the tokens at hand are real, the others being padding. None: all."""
        self.longest = 0
        """No row is longer: known without asking the device."""
        self.base = 0
        """How many tokens all rows share, whose keys and values lie in `LayerCache.shared`."""
        self.layers = [LayerCache(self) for _ in range(n_layers)]

    def begin(self, T: int, n_new: Tensor | None) -> Tensor:
        """Make room for T more tokens; returns their positions, (B, T)."""
        if self.longest + T > self.capacity:
            raise UserError(
                f"{self.longest} + {T} tokens do not fit a cache of {self.capacity}: give it more capacity"
            )
        self.n_new = n_new
        self.longest += T
        return self.lengths[:, None] + torch.arange(T, device=self.lengths.device)

    def end(self, T: int) -> None:
        self.lengths = self.lengths + (T if self.n_new is None else self.n_new)

    def branch(self, n_rows: int, capacity: int) -> Cache:
        """A cache whose rows all go on from the one row of this one: its keys and values are shared, not copied.

        Args:
            capacity: tokens that each row may add.
        """
        assert len(self.lengths) == 1
        rows = Cache(len(self.layers), n_rows, self.longest + capacity, self.lengths.device)
        rows.lengths, rows.longest, rows.base = (
            self.lengths.expand(n_rows),
            self.longest,
            self.longest,
        )
        for mine, its in zip(self.layers, rows.layers, strict=True):
            its.tensors = {
                name: tensor.expand(n_rows, *tensor.shape[1:])
                for name, tensor in mine.tensors.items()
                if name not in APPENDED
            }
            if "k" in mine.tensors:
                its.shared = (
                    mine.tensors["k"][:, :, : self.longest],
                    mine.tensors["v"][:, :, : self.longest],
                )
        return rows

    def select(self, rows: Tensor, capacity: int) -> Cache:
        """A cache whose row j goes on from the row rows[j] of this one. What all rows share stays shared.

        Args:
            rows: (n,), each as often as one likes.
            capacity: tokens that each row may add.
        """
        chosen = Cache(len(self.layers), len(rows), self.longest + capacity, self.lengths.device)
        chosen.lengths, chosen.longest, chosen.base = self.lengths[rows], self.longest, self.base
        for mine, its in zip(self.layers, chosen.layers, strict=True):
            its.shared = mine.shared
            its.tensors = {name: tensor[rows] for name, tensor in mine.tensors.items()}
            for name in APPENDED & its.tensors.keys():
                own = its.tensors[name][:, :, : self.longest - self.base]
                its.tensors[name] = F.pad(own, (0, 0, 0, capacity))
        return chosen


class LayerCache:
    """The memory of one layer: keys and values if the variant appends them, and what else it keeps, by name."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.tensors: dict[str, Tensor] = {}
        """Each with B rows."""
        self.shared: tuple[Tensor, Tensor] | None = None
        """Keys and values that all rows have before their own, (1, H, P, D) each."""

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k and v (B, H, T, D) behind what each row has; returns all its own, (B, H, L', D), L' of the longest row."""
        B, H, T, D = k.shape
        if "k" not in self.tensors:
            for name in APPENDED:
                self.tensors[name] = k.new_zeros(B, H, self.cache.capacity - self.cache.base, D)
        places = self._places(T)[:, None, :, None].expand(-1, H, -1, D)
        for name, new in (("k", k), ("v", v)):
            self.tensors[name].scatter_(2, places, new)
        longest = self.cache.longest - self.cache.base
        return self.tensors["k"][:, :, :longest], self.tensors["v"][:, :, :longest]

    def visible(self, T: int) -> Tensor:
        """Which of its own L' tokens each of the T new ones may look at: (B, 1, T, L')."""
        places = self._places(T)
        return (
            torch.arange(self.cache.longest - self.cache.base, device=places.device)
            <= places[:, None, :, None]
        )

    def _places(self, T: int) -> Tensor:
        """Where the T new tokens are among the rows' own, (B, T)."""
        lengths = self.cache.lengths
        return lengths[:, None] - self.cache.base + torch.arange(T, device=lengths.device)

    def is_real(self, T: int) -> Tensor:
        """Which of the T new tokens are not padding: (B, 1, T, 1)."""
        lengths = self.cache.lengths
        n_new = torch.full_like(lengths, T) if self.cache.n_new is None else self.cache.n_new
        return (torch.arange(T, device=lengths.device) < n_new[:, None])[:, None, :, None]

    def get(self, name: str) -> Tensor | None:
        return self.tensors.get(name)

    def keep(self, name: str, states: Tensor) -> None:
        """Remember each row's state after its last real token, of states (B, H, T, D) after each token."""
        if self.cache.n_new is None:
            self.tensors[name] = states[:, :, -1]
        else:
            last = (self.cache.n_new - 1)[:, None, None, None].expand(
                -1, states.shape[1], 1, states.shape[3]
            )
            self.tensors[name] = states.gather(2, last)[:, :, 0]
