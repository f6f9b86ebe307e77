"""What every attention variant must keep, checked on any variant: `make check-attention NAME=...`.

Each check measures a number and compares it with a bound. Exactness is checked in float64, where a
bound of 1e-9 leaves nothing to rounding. The lengths cross the edges of the chunks in which fast
forms work.

Shapes: B batch, H heads, T time, D head dimension.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from momentum_gpt.core.config import ModelConfig
from momentum_gpt.models.attention import Variant, build_attention
from momentum_gpt.models.cache import Cache
from momentum_gpt.models.gpt import GPT, init_weights
from momentum_gpt.models.mixing import documents_of
from momentum_gpt.models.weights import load_model, save_model, weights_sha256

SHAPE = ModelConfig(n_layers=2, n_heads=3, d_model=24, seq_len=320, vocab_size=64)
"""The model that a variant is checked in."""

T = 70
"""Tokens of most checks."""

EXACT = 1e-9
"""Largest difference between results that are equal but for rounding, in float64."""

CLOSE = 1e-4
"""The same in float32."""

BFLOAT16 = 2**-6
"""Largest error in bf16, as a share of the largest number: that of a few roundings."""

MOST_GRAPHS = 4
"""Compiled graphs for any number of lengths: for the first one, for all, and for single chunks."""


@dataclass(frozen=True)
class Finding:
    """What one check measured."""

    check: str
    measured: float
    bound: float
    unit: str

    @property
    def holds(self) -> bool:
        return self.measured <= self.bound  # false for a nan


class Check:
    """The checks of one variant.

    Args:
        options: its name and options.
        backend: of torch.compile.
    """

    def __init__(self, options: dict[str, Any], backend: str = "inductor") -> None:
        self.options = options
        self.backend = backend

    def all(self) -> list[Finding]:
        """Run all checks."""
        return [check() for check in self.checks()]

    def checks(self) -> list[Callable[[], Finding]]:
        """Return the checks, to be run one by one."""
        return [
            self.definition,
            self.causality,
            self.gradients,
            self.decoding,
            self.documents,
            self.padding,
            self.batch_invariance,
            self.head_invariance,
            self.compiled,
            self.recompilation,
            self.bfloat16,
            self.bfloat16_decoding,
            self.shared_parameters,
            self.round_trip,
        ]

    def variant(self, dtype: torch.dtype = torch.float64) -> Variant:
        """Return the variant of the first layer."""
        return build_attention(self.options, SHAPE)[0].to(dtype)

    def definition(self) -> Finding:
        """Compare the output and every gradient with those of the variant's own formula."""
        attend = self.variant()
        inputs = heads(2, T)
        upstream = heads(2, T, seed=1)[0]
        leaves = [*inputs, *attend.parameters()]

        results: list[list[Tensor]] = []
        for function in (attend, attend.definition):
            y = function(*inputs)
            loss = (y * upstream).sum()
            # A formula need not depend on each of q, k and v.
            gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
            results.append([y, *gradients])
        return difference("equals its definition", results[0], results[1])

    @torch.no_grad()
    def causality(self) -> Finding:
        """Change all tokens from the 41st on, and compare the outputs before it."""
        attend = self.variant()
        inputs = heads(2, T)
        before = attend(*inputs)[:, :, :41]
        for x in inputs:
            x[:, :, 41:] += 1.0
        after = attend(*inputs)[:, :, :41]
        return difference("future changes no past", [after], [before])

    def gradients(self) -> Finding:
        """Compare the gradients with numerical ones."""
        attend = self.variant()
        inputs = heads(1, 35)
        names = [name for name, _ in attend.named_parameters()]

        def function(q: Tensor, k: Tensor, v: Tensor, *parameters: Tensor) -> Tensor:
            named = dict(zip(names, parameters, strict=True))
            return torch.func.functional_call(attend, named, (q, k, v))

        leaves = (*inputs, *attend.parameters())
        right = torch.autograd.gradcheck(function, leaves, fast_mode=True, raise_exception=False)
        return Finding("gradients are numerical ones", float(not right), 0, "failures")

    @torch.no_grad()
    def decoding(self) -> Finding:
        """Decode a prefix at once, then another piece, then token by token."""
        attend = self.variant()
        inputs = heads(2, T)
        cache = Cache(1, 2, T)
        pieces = []
        n_done = 0
        for size in (33, 7, *[1] * (T - 40)):
            new = [x[:, :, n_done : n_done + size] for x in inputs]
            pieces.append(step(attend, cache, new))
            n_done += size
        decoded = torch.cat(pieces, dim=2)
        return difference("decoding is the full pass", [decoded], [attend(*inputs)])

    @torch.no_grad()
    def documents(self) -> Finding:
        """Mix three documents packed into a row, and each by itself."""
        attend = self.variant()
        inputs = heads(2, T)
        sizes = [37, 1, 32]
        ids = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes)).expand(2, -1)
        together = attend(*inputs, documents=documents_of(ids))

        q, k, v = (x.split(sizes, dim=2) for x in inputs)
        apart = [attend(*document) for document in zip(q, k, v, strict=True)]
        return difference("documents are as if alone", [together], [torch.cat(apart, dim=2)])

    @torch.no_grad()
    def padding(self) -> Finding:
        """Decode prompts of unequal length together, and compare each with itself alone.

        They are padded on the right with large numbers, which would show.
        """
        attend = self.variant()
        inputs = heads(3, T)
        lengths = torch.tensor([1, 40, 33])
        is_padding = torch.arange(40) >= lengths[:, None]  # (B, 40)
        prompts = [x[:, :, :40].masked_fill(is_padding[:, None, :, None], 1e3) for x in inputs]

        # Row b alone, without padding: (H, T, D).
        alone = [attend(*row_of(inputs, b))[0] for b in range(3)]

        cache = Cache(1, 3, T)
        first = step(attend, cache, prompts, lengths)
        worst = 0.0
        for b, n in enumerate(lengths.tolist()):
            worst = max(worst, largest([first[b, :, :n]], [alone[b][:, :n]]))

        rows = torch.arange(3)
        for n_decoded in range(T - 40):
            at = lengths + n_decoded  # (B,): each row's next token
            y = step(attend, cache, [x[rows, :, at][:, :, None] for x in inputs])
            for b in range(3):
                worst = max(worst, largest([y[b, :, 0]], [alone[b][:, at[b]]]))
        return Finding("padding is inert", worst, EXACT, "difference")

    @torch.no_grad()
    def batch_invariance(self) -> Finding:
        """Compare each row of a batch, mixed at once and decoded, with the same row alone."""
        attend = self.variant()
        inputs = heads(4, T)
        together = attend(*inputs)
        decoded = one_by_one(attend, inputs)
        rows = [attend(*row_of(inputs, b)) for b in range(4)]
        alone = torch.cat(rows)
        return difference("rows are independent", [together, decoded], [alone, alone])

    @torch.no_grad()
    def head_invariance(self) -> Finding:
        """Compare each head by itself with all heads, as ranks that share sequences divide them."""
        attend = self.variant()
        inputs = heads(2, T)
        together = attend(*inputs)
        alone = []
        for head in range(SHAPE.n_heads):
            attend.heads = slice(head, head + 1)
            alone.append(attend(*(x[:, attend.heads] for x in inputs)))
        return difference("heads are independent", [torch.cat(alone, dim=1)], [together])

    def compiled(self) -> Finding:
        """Compare output and gradients with and without torch.compile; there must be one graph."""
        attend = self.variant(torch.float32)
        torch._dynamo.reset()
        graph = torch.compile(attend, fullgraph=True, backend=self.backend)
        name = "compiled equals eager"
        results = []
        try:
            for function in (attend, graph):
                inputs = heads(2, T, torch.float32)
                y = function(*inputs)
                results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
        except TorchDynamoException:  # not one graph
            return Finding(name, math.inf, CLOSE, "difference")
        return difference(name, results[0], results[1], bound=CLOSE)

    def recompilation(self) -> Finding:
        """Count the graphs that seven lengths need; it must not be one for each length."""
        attend = self.variant(torch.float32)
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("eager")
        graph = torch.compile(attend, fullgraph=True, backend=counter)
        n_graphs = math.inf
        try:
            for length in (64, 65, 130, 33, 96, 7, 200):
                graph(*heads(2, length, torch.float32))
            n_graphs = counter.frame_count
        except TorchDynamoException:  # not one graph
            pass
        return Finding("no graph for each length", n_graphs, MOST_GRAPHS, "graphs")

    @torch.no_grad()
    def bfloat16(self) -> Finding:
        """Compare the output in bf16 with the exact one."""
        inputs = [x.abs().bfloat16() for x in heads(2, 300)]
        exact = self.variant()(*(x.double() for x in inputs))
        error = relative(self.variant(torch.bfloat16)(*inputs), exact)
        return Finding("bf16 is near float64", error, BFLOAT16, "of the largest")

    @torch.no_grad()
    def bfloat16_decoding(self) -> Finding:
        """Compare what is decoded in bf16 with the exact output."""
        inputs = [x.abs().bfloat16() for x in heads(2, 300)]
        decoded = one_by_one(self.variant(torch.bfloat16), inputs)
        exact = self.variant()(*(x.double() for x in inputs))
        error = relative(decoded, exact)
        return Finding("so is decoding in bf16", error, BFLOAT16, "of the largest")

    def shared_parameters(self) -> Finding:
        """Compare the initial bits of the parameters that vanilla attention has, too."""
        hashes = set()
        for options in ({"name": "vanilla"}, self.options):
            model = GPT(SHAPE, options)
            init_weights(model, seed=3)
            hashes.add(weights_sha256(model))
        return Finding("shared weights are vanilla's", float(len(hashes) - 1), 0, "others")

    @torch.no_grad()
    def round_trip(self) -> Finding:
        """Compare a model with itself after saving and loading, with parameters moved at random."""
        model = GPT(SHAPE, self.options)
        init_weights(model, seed=0)
        for number, parameter in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(number)
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))

        tokens = torch.arange(64)[None]
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder), model, dict(model.named_parameters()), tokenizer=None)
            restored = load_model(folder)
        return difference("saved and loaded alike", [restored(tokens)], [model(tokens)], bound=0)


def heads(B: int, T: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    """Return random q, k, v, (B, H, T, D), that take gradients."""
    generator = torch.Generator().manual_seed(1000 * seed + T)
    shape = (B, SHAPE.n_heads, T, SHAPE.d_head)
    tensors = []
    for _ in range(3):
        drawn = torch.randn(shape, dtype=torch.float64, generator=generator)
        tensors.append(drawn.to(dtype).requires_grad_())
    return tensors


def row_of(inputs: list[Tensor], b: int) -> list[Tensor]:
    """Return q, k, v of one row, (1, H, T, D)."""
    return [x[b : b + 1] for x in inputs]


def step(
    attend: Variant, cache: Cache, inputs: list[Tensor], n_new: Tensor | None = None
) -> Tensor:
    """Return the variant's output for the next tokens, with a cache of one layer."""
    T = inputs[0].shape[2]
    cache.begin(T, n_new)
    y = attend(*inputs, cache=cache.layers[0])
    cache.end(T)
    return y


def one_by_one(attend: Variant, inputs: list[Tensor]) -> Tensor:
    """Return the variant's output, decoded token by token."""
    B, _, T, _ = inputs[0].shape
    cache = Cache(1, B, T)
    pieces = []
    for t in range(T):
        pieces.append(step(attend, cache, [x[:, :, t : t + 1] for x in inputs]))
    return torch.cat(pieces, dim=2)


def difference(
    check: str, results: list[Tensor], expected: list[Tensor], bound: float = EXACT
) -> Finding:
    """Return the finding whose number is the largest difference."""
    return Finding(check, largest(results, expected), bound, "difference")


def largest(results: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest difference between tensors; nan if there is any nan."""
    differences = [(a - b).abs().max() for a, b in zip(results, expected, strict=True)]
    return torch.stack(differences).max().item()


def relative(result: Tensor, exact: Tensor) -> float:
    """Return the largest difference, as a share of the largest number."""
    return ((result.double() - exact).abs().max() / exact.abs().max()).item()


@dataclass(frozen=True)
class Cost:
    """What one layer's mixing costs."""

    flops: int
    """Operations of a forward and a backward pass."""
    kept_bytes: int
    """Held from the forward to the backward pass, including q, k, v and the output."""
    cache_bytes: int
    """Held for each row after decoding all the tokens."""
    seconds: float
    """Time of a forward and a backward pass, median."""


def costs(
    all_options: list[dict[str, Any]], B: int, H: int, T: int, D: int, repeats: int
) -> list[Cost]:
    """Measure what variants cost, in fp32, timed in turns.

    Args:
        all_options: name and options of each variant.
        B, H, T, D: the shape.
        repeats: timed passes of each variant.
    """
    shape = ModelConfig(n_layers=1, n_heads=H, d_model=H * D, seq_len=T, vocab_size=1)
    variants = [build_attention(options, shape)[0] for options in all_options]

    # In the layout in which the projection leaves them.
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(B, T, 3, H, D, generator=generator).permute(2, 0, 3, 1, 4)
    q, k, v = (x.detach().requires_grad_() for x in qkv)

    times: list[list[float]] = [[] for _ in variants]
    for _ in range(repeats + 1):
        for attend, of_variant in zip(variants, times, strict=True):
            began = time.perf_counter()
            forward_backward(attend, q, k, v)
            of_variant.append(time.perf_counter() - began)

    found = []
    for attend, of_variant in zip(variants, times, strict=True):
        cost = Cost(
            count_flops(attend, q, k, v),
            kept_bytes(attend, q, k, v),
            cache_bytes(attend, q, k, v),
            median(of_variant[1:]),  # the first pass warms up
        )
        found.append(cost)
    return found


def forward_backward(attend: Variant, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Run the variant forward and backward once."""
    attend(q, k, v).backward(torch.ones_like(v))


def count_flops(attend: Variant, q: Tensor, k: Tensor, v: Tensor) -> int:
    """Return the operations of a forward and a backward pass."""
    # The fused kernel of softmax attention is not counted, so the plain one runs here.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        forward_backward(attend, q, k, v)
    return counter.get_total_flops()


def kept_bytes(attend: Variant, q: Tensor, k: Tensor, v: Tensor) -> int:
    """Return the bytes that are held for the backward pass, each storage counted once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = attend(q, k, v)
    for tensor in (q, k, v, y):  # the projections around the variant keep these
        pack(tensor)
    return sum(storages.values())


@torch.no_grad()
def cache_bytes(attend: Variant, q: Tensor, k: Tensor, v: Tensor) -> int:
    """Return the bytes that one row's cache holds after all tokens."""
    cache = Cache(1, 1, q.shape[2])
    step(attend, cache, [q[:1], k[:1], v[:1]])
    return sum(tensor.nbytes for tensor in cache.layers[0].tensors.values())
