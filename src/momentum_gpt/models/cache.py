"""What a model remembers while it decodes. It is an argument of the forward pass, never hidden.

Prompts of unequal length are padded on the right: padding cannot reach the tokens before it, and
is overwritten by the tokens that follow.

Shapes: B rows, H heads, T new tokens, L remembered tokens of the longest row, P shared tokens,
D head dimension.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.nn import functional as F

from momentum_gpt.core.errors import UserError

APPENDED = {"k", "v"}
"""What a layer keeps for every token. Of everything else it keeps the latest state."""


class Cache:
    """The memory of all layers.

    Args:
        n_layers: layers of the model.
        n_rows: B.
        capacity: tokens that a row can hold; at most the model's `seq_len`.
        device: where the tensors live.
    """

    def __init__(
        self, n_layers: int, n_rows: int, capacity: int, device: torch.device | str = "cpu"
    ) -> None:
        self.capacity = capacity

        self.lengths = torch.zeros(n_rows, dtype=torch.long, device=device)
        """(B,): tokens that each row has seen."""

        self.n_new: Tensor | None = None
        """(B,): how many of the current tokens are real, the rest being padding. None: all."""

        self.longest = 0
        """An upper bound of `lengths` that is known without waiting for the device."""

        self.base = 0
        """P: tokens that all rows share; their keys and values are in `LayerCache.shared`."""

        # Layers that counted as references would keep a cache in memory after its last use, until
        # the garbage collector comes by.
        self.layers = [LayerCache(weakref.proxy(self)) for _ in range(n_layers)]

    def begin(self, T: int, n_new: Tensor | None) -> Tensor:
        """Make room for T more tokens, and return their positions, (B, T).

        Raises:
            UserError: the tokens do not fit.
        """
        if self.longest + T > self.capacity:
            raise UserError(
                f"{self.longest} + {T} tokens do not fit a cache of {self.capacity}: "
                "give it more capacity"
            )
        self.n_new = n_new
        self.longest += T
        return self.lengths[:, None] + torch.arange(T, device=self.lengths.device)

    def end(self, T: int) -> None:
        """Count the tokens that `begin` announced, after all layers have seen them."""
        self.lengths = self.lengths + (T if self.n_new is None else self.n_new)

    def branch(self, n_rows: int, capacity: int) -> Cache:
        """Return a cache whose rows all continue the single row of this one.

        Its keys and values are shared, not copied.

        Args:
            n_rows: rows of the new cache.
            capacity: tokens that each row may add.
        """
        assert len(self.lengths) == 1
        rows = Cache(len(self.layers), n_rows, self.longest + capacity, self.lengths.device)
        rows.lengths = self.lengths.expand(n_rows)
        rows.longest = self.longest
        rows.base = self.longest

        for source, branched in zip(self.layers, rows.layers, strict=True):
            for name, tensor in source.tensors.items():
                if name not in APPENDED:
                    branched.tensors[name] = tensor.expand(n_rows, *tensor.shape[1:])
            if "k" in source.tensors:
                k = source.tensors["k"][:, :, : self.longest]
                v = source.tensors["v"][:, :, : self.longest]
                branched.shared = (k, v)
        return rows

    def select(self, rows: Tensor, capacity: int) -> Cache:
        """Return a cache whose row j continues row rows[j] of this one.

        What all rows share stays shared.

        Args:
            rows: (n,), any of the rows, in any order and number.
            capacity: tokens that each row may add.
        """
        chosen = Cache(len(self.layers), len(rows), self.longest + capacity, self.lengths.device)
        chosen.lengths = self.lengths[rows]
        chosen.longest = self.longest
        chosen.base = self.base

        for source, copied in zip(self.layers, chosen.layers, strict=True):
            copied.shared = source.shared
            for name, tensor in source.tensors.items():
                copied.tensors[name] = tensor[rows]
            for name in APPENDED & copied.tensors.keys():
                used = copied.tensors[name][:, :, : self.longest - self.base]
                copied.tensors[name] = F.pad(used, (0, 0, 0, capacity))
        return chosen


class LayerCache:
    """The memory of one layer: tensors by name, each with B rows.

    Under "k" and "v" are the keys and values of a variant that appends them. Whatever else a
    variant keeps has a name of its own choice.
    """

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.tensors: dict[str, Tensor] = {}

        self.shared: tuple[Tensor, Tensor] | None = None
        """Keys and values that precede those of every row, (1, H, P, D) each."""

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k and v (B, H, T, D) after those of each row, and return all keys and values.

        The result, (B, H, L, D) each, does not include the shared ones.
        """
        B, H, T, D = k.shape
        if "k" not in self.tensors:
            own_capacity = self.cache.capacity - self.cache.base
            for name in APPENDED:
                self.tensors[name] = k.new_zeros(B, H, own_capacity, D)

        # Rows differ in length, so each row has its own places to write to.
        places = self._places(T)[:, None, :, None].expand(-1, H, -1, D)  # (B, H, T, D)
        self.tensors["k"].scatter_(2, places, k)
        self.tensors["v"].scatter_(2, places, v)

        L = self.cache.longest - self.cache.base
        return self.tensors["k"][:, :, :L], self.tensors["v"][:, :, :L]

    def visible(self, T: int) -> Tensor:
        """Return which of its row's L tokens each of the T new ones may look at, (B, 1, T, L)."""
        places = self._places(T)
        keys = torch.arange(self.cache.longest - self.cache.base, device=places.device)
        return keys <= places[:, None, :, None]

    def is_real(self, T: int) -> Tensor:
        """Return which of the T new tokens are not padding, (B, 1, T, 1)."""
        lengths = self.cache.lengths
        n_new = self.cache.n_new
        if n_new is None:
            n_new = torch.full_like(lengths, T)
        real = torch.arange(T, device=lengths.device) < n_new[:, None]  # (B, T)
        return real[:, None, :, None]

    def get(self, name: str) -> Tensor | None:
        """Return what was kept under a name; None before the first tokens."""
        return self.tensors.get(name)

    def keep(self, name: str, states: Tensor) -> None:
        """Remember each row's state after its last real token.

        Args:
            name: the name to keep it under.
            states: the state after each of the T new tokens, (B, H, T, D).
        """
        if self.cache.n_new is None:
            self.tensors[name] = states[:, :, -1]  # (B, H, D)
            return

        last = (self.cache.n_new - 1)[:, None, None, None]
        last = last.expand(-1, states.shape[1], 1, states.shape[3])  # (B, H, 1, D)
        self.tensors[name] = states.gather(2, last)[:, :, 0]

    def _places(self, T: int) -> Tensor:
        """Return where the T new tokens stand among their row's own, (B, T)."""
        lengths = self.cache.lengths - self.cache.base
        return lengths[:, None] + torch.arange(T, device=lengths.device)
