"""What a model remembers while it decodes: an argument of its forward pass, never hidden in it.

Prompts of unequal length are padded on the right: what is there cannot reach the past, and is written over later.

Shapes: B rows, H heads, T new tokens, L tokens remembered at most, D head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from momentum_gpt.errors import UserError

APPENDED = {"k", "v"}
"""What a layer keeps of every token; of everything else it keeps one state."""


class Cache:
    """The memory of all layers; row b has seen `lengths[b]` tokens.

    Args:
        n_layers: of the model.
        n_rows: B.
        capacity: L; the model's `seq_len` at most.
    """

    def __init__(self, n_layers: int, n_rows: int, capacity: int, device: torch.device | str = "cpu") -> None:
        self.capacity = capacity
        self.lengths = torch.zeros(n_rows, dtype=torch.long, device=device)
        self.n_new: Tensor | None = None
        """(B,): how many of the tokens at hand are real, the others being padding. None: all."""
        self.longest = 0
        """No row is longer: known without asking the device."""
        self.layers = [LayerCache(self) for _ in range(n_layers)]

    def begin(self, T: int, n_new: Tensor | None) -> Tensor:
        """Make room for T more tokens; returns their positions, (B, T)."""
        if self.longest + T > self.capacity:
            raise UserError(f"{self.longest} + {T} tokens do not fit a cache of {self.capacity}: give it more capacity")
        self.n_new = n_new
        self.longest += T
        return self.lengths[:, None] + torch.arange(T, device=self.lengths.device)

    def end(self, T: int) -> None:
        self.lengths = self.lengths + (T if self.n_new is None else self.n_new)

    def select(self, rows: Tensor, capacity: int | None = None) -> Cache:
        """A copy that holds these rows, (n,), in this order; a row may be taken several times.

        Args:
            capacity: the copy's, at least what is remembered. None: the same.
        """
        chosen = Cache(len(self.layers), len(rows), capacity or self.capacity, self.lengths.device)
        chosen.lengths, chosen.longest = self.lengths[rows], self.longest
        for mine, its in zip(self.layers, chosen.layers, strict=True):
            its.tensors = {name: tensor[rows] for name, tensor in mine.tensors.items() if name not in APPENDED}
            for name in APPENDED & mine.tensors.keys():
                seen = mine.tensors[name][rows, :, : self.longest]  # (n, H, L', D)
                room = seen.new_zeros(*seen.shape[:2], chosen.capacity - self.longest, seen.shape[3])
                its.tensors[name] = torch.cat([seen, room], dim=2)
        return chosen


class LayerCache:
    """The memory of one layer: keys and values if the variant appends them, and what else it keeps, by name."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.tensors: dict[str, Tensor] = {}
        """Each with B rows."""

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k and v (B, H, T, D) behind what each row has; returns all of both, (B, H, L', D), L' the longest row."""
        B, H, T, D = k.shape
        if "k" not in self.tensors:
            for name in APPENDED:
                self.tensors[name] = k.new_zeros(B, H, self.cache.capacity, D)
        places = self.cache.lengths[:, None] + torch.arange(T, device=k.device)  # (B, T)
        places = places[:, None, :, None].expand(-1, H, -1, D)
        for name, new in (("k", k), ("v", v)):
            self.tensors[name].scatter_(2, places, new)
        return self.tensors["k"][:, :, : self.cache.longest], self.tensors["v"][:, :, : self.cache.longest]

    def visible(self, T: int) -> Tensor:
        """Which of the L' appended tokens each of the T new ones may look at: (B, 1, T, L')."""
        places = self.cache.lengths[:, None] + torch.arange(T, device=self.cache.lengths.device)  # (B, T)
        return torch.arange(self.cache.longest, device=places.device) <= places[:, None, :, None]

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
            last = (self.cache.n_new - 1)[:, None, None, None].expand(-1, states.shape[1], 1, states.shape[3])
            self.tensors[name] = states.gather(2, last)[:, :, 0]
