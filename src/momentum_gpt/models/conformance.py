"""What every attention variant must keep, checked on any that is registered: `make check-attention NAME=...`.

Each check measures a number and holds it against a bound. Exactness is checked in float64, so that a bound of 1e-9 leaves
nothing to rounding; the lengths cross the edges of the chunks that fast forms work in.

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
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from momentum_gpt.core.config import ModelConfig
from momentum_gpt.models.attention import build_attention
from momentum_gpt.models.mixing import documents_of
from momentum_gpt.models.cache import Cache
from momentum_gpt.models.gpt import GPT, init_weights
from momentum_gpt.models.weights import load_model, save_model, weights_sha256

SHAPE = ModelConfig(n_layers=2, n_heads=3, d_model=24, seq_len=320, vocab_size=64)
T = 70
EXACT = 1e-9
"""Largest difference in float64."""


@dataclass(frozen=True)
class Finding:
    check: str
    measured: float
    bound: float
    unit: str

    @property
    def holds(self) -> bool:
        return self.measured <= self.bound  # false for a nan


class Check:
    """The checks, on the variant with these options."""

    def __init__(self, options: dict[str, Any], backend: str = "inductor") -> None:
        self.options, self.backend = options, backend

    def all(self) -> list[Finding]:
        return [check() for check in self.checks()]

    def checks(self) -> list[Callable[[], Finding]]:
        return [
            self.definition,
            self.causality,
            self.gradients,
            self.decoding,
            self.documents,
            self.padding,
            self.batch_invariance,
            self.compiled,
            self.recompilation,
            self.bfloat16,
            self.bfloat16_decoding,
            self.shared_parameters,
            self.round_trip,
        ]

    def variant(self, dtype: torch.dtype = torch.float64) -> Any:
        return build_attention(self.options, SHAPE)[0].to(dtype)

    def definition(self) -> Finding:
        """Output and every gradient are those of the variant's own formula."""
        attend, inputs = self.variant(), heads(2, T)
        upstream = heads(2, T, seed=1)[0]
        results = []
        for function in (attend, attend.definition):
            y = function(*inputs)
            wanted = [*inputs, *attend.parameters()]
            gradients = torch.autograd.grad(
                (y * upstream).sum(), wanted, allow_unused=True, materialize_grads=True
            )
            results.append([y, *gradients])
        return Finding("equals its definition", largest(*results), EXACT, "difference")

    @torch.no_grad()
    def causality(self) -> Finding:
        attend, inputs = self.variant(), heads(2, T)
        before = attend(*inputs)
        for x in inputs:
            x[:, :, 41:] += 1.0
        return Finding(
            "future changes no past",
            largest([attend(*inputs)[:, :, :41]], [before[:, :, :41]]),
            EXACT,
            "difference",
        )

    def gradients(self) -> Finding:
        attend, inputs = self.variant(), heads(1, 35)
        names = [name for name, _ in attend.named_parameters()]

        def function(q: Tensor, k: Tensor, v: Tensor, *parameters: Tensor) -> Tensor:
            return torch.func.functional_call(
                attend, dict(zip(names, parameters, strict=True)), (q, k, v)
            )

        right = torch.autograd.gradcheck(
            function, (*inputs, *attend.parameters()), fast_mode=True, raise_exception=False
        )
        return Finding("gradients are numerical ones", float(not right), 0, "failures")

    @torch.no_grad()
    def decoding(self) -> Finding:
        """A prefix at once, another piece, then one by one."""
        attend, inputs = self.variant(), heads(2, T)
        cache, pieces, done = Cache(1, 2, T), [], 0
        for size in (33, 7, *[1] * (T - 40)):
            pieces.append(step(attend, cache, [x[:, :, done : done + size] for x in inputs]))
            done += size
        return Finding(
            "decoding is the full pass",
            largest([torch.cat(pieces, dim=2)], [attend(*inputs)]),
            EXACT,
            "difference",
        )

    @torch.no_grad()
    def documents(self) -> Finding:
        attend, inputs = self.variant(), heads(2, T)
        sizes = [37, 1, 32]
        ids = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes)).expand(2, -1)
        together = attend(*inputs, documents=documents_of(ids))
        apart = [
            attend(*parts) for parts in zip(*(x.split(sizes, dim=2) for x in inputs), strict=True)
        ]
        return Finding(
            "documents are as if alone",
            largest([together], [torch.cat(apart, dim=2)]),
            EXACT,
            "difference",
        )

    @torch.no_grad()
    def padding(self) -> Finding:
        """Prompts of unequal length, padded on the right with large numbers, then decoded together: each as if alone."""
        attend, inputs, lengths = self.variant(), heads(3, T), torch.tensor([1, 40, 33])
        prompts = [x[:, :, :40].clone() for x in inputs]
        for x in prompts:
            x[torch.arange(40) >= lengths[:, None].unsqueeze(1).expand(-1, x.shape[1], -1)] = 1e3
        cache = Cache(1, 3, T)
        first = step(attend, cache, prompts, lengths)
        worst = 0.0
        alone = [attend(*(x[b : b + 1] for x in inputs))[0] for b in range(3)]
        for b, n in enumerate(lengths.tolist()):
            worst = max(worst, largest([first[b, :, :n]], [alone[b][:, :n]]))
        for later in range(T - 40):
            at = lengths + later
            y = step(attend, cache, [x[torch.arange(3), :, at][:, :, None] for x in inputs])
            for b in range(3):
                worst = max(worst, largest([y[b, :, 0]], [alone[b][:, at[b]]]))
        return Finding("padding is inert", worst, EXACT, "difference")

    @torch.no_grad()
    def batch_invariance(self) -> Finding:
        """A row of a batch, and of a batch that decodes, is what it is alone."""
        attend, inputs = self.variant(), heads(4, T)
        together, decoded = attend(*inputs), one_by_one(attend, inputs)
        alone = torch.cat([attend(*(x[b : b + 1] for x in inputs)) for b in range(4)])
        return Finding(
            "rows are independent",
            largest([together, decoded], [alone, alone]),
            EXACT,
            "difference",
        )

    def compiled(self) -> Finding:
        attend = self.variant(torch.float32)
        torch._dynamo.reset()
        graph = torch.compile(attend, fullgraph=True, backend=self.backend)
        results = []
        try:
            for function in (attend, graph):
                inputs = heads(2, T, torch.float32)
                y = function(*inputs)
                results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
        except TorchDynamoException:  # not one graph
            return Finding("compiled equals eager", math.inf, 1e-4, "difference")
        return Finding("compiled equals eager", largest(*results), 1e-4, "difference")

    def recompilation(self) -> Finding:
        """Seven lengths: a graph for the first, one for all, and what single chunks may take; not one for each."""
        attend = self.variant(torch.float32)
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("eager")
        graph = torch.compile(attend, fullgraph=True, backend=counter)
        try:
            for length in (64, 65, 130, 33, 96, 7, 200):
                graph(*heads(2, length, torch.float32))
        except TorchDynamoException:
            return Finding("no graph for each length", math.inf, 4, "graphs")
        return Finding("no graph for each length", counter.frame_count, 4, "graphs")

    @torch.no_grad()
    def bfloat16(self) -> Finding:
        inputs = [x.abs().bfloat16() for x in heads(2, 300)]
        exact = self.variant()(*(x.double() for x in inputs))
        return Finding(
            "bf16 is near float64",
            relative(self.variant(torch.bfloat16)(*inputs), exact),
            2**-6,
            "of the largest",
        )

    @torch.no_grad()
    def bfloat16_decoding(self) -> Finding:
        inputs = [x.abs().bfloat16() for x in heads(2, 300)]
        decoded = one_by_one(self.variant(torch.bfloat16), inputs)
        exact = self.variant()(*(x.double() for x in inputs))
        return Finding("so is decoding in bf16", relative(decoded, exact), 2**-6, "of the largest")

    def shared_parameters(self) -> Finding:
        """Parameters that vanilla has too begin with the same bits, and none of them is missing."""
        models = [GPT(SHAPE, options) for options in ({"name": "vanilla"}, self.options)]
        for model in models:
            init_weights(model, seed=3)
        return Finding(
            "shared weights are vanilla's",
            float(len({*map(weights_sha256, models)}) - 1),
            0,
            "others",
        )

    @torch.no_grad()
    def round_trip(self) -> Finding:
        """Written and read back, a model gives the same bits, whatever its own parameters are."""
        model = GPT(SHAPE, self.options)
        init_weights(model, seed=0)
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(
                0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            )
        tokens = torch.arange(64)[None]
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder), model, dict(model.named_parameters()), tokenizer=None)
            restored = load_model(folder)(tokens)
        return Finding(
            "saved and loaded alike", largest([restored], [model(tokens)]), 0, "difference"
        )


def heads(B: int, T: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    """Random q, k, v, (B, H, T, D), that take gradients."""
    generator = torch.Generator().manual_seed(1000 * seed + T)
    shape = (B, SHAPE.n_heads, T, SHAPE.d_head)
    return [
        torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
        for _ in range(3)
    ]


def step(
    attend: nn.Module, cache: Cache, inputs: list[Tensor], n_new: Tensor | None = None
) -> Tensor:
    """The variant's next tokens, with a cache of one layer."""
    T = inputs[0].shape[2]
    cache.begin(T, n_new)
    y = attend(*inputs, cache=cache.layers[0])
    cache.end(T)
    return y


def one_by_one(attend: nn.Module, inputs: list[Tensor]) -> Tensor:
    """The variant's output, decoded token by token."""
    B, _, T, _ = inputs[0].shape
    cache = Cache(1, B, T)
    return torch.cat(
        [step(attend, cache, [x[:, :, t : t + 1] for x in inputs]) for t in range(T)], dim=2
    )


def largest(mine: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference; nan if anything is."""
    differences = torch.stack([(a - b).abs().max() for a, b in zip(mine, expected, strict=True)])
    return differences.max().item()


def relative(mine: Tensor, exact: Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    return ((mine.double() - exact).abs().max() / exact.abs().max()).item()


@dataclass(frozen=True)
class Cost:
    """Of one layer's mixing, forward and backward."""

    flops: int
    kept_bytes: int
    """Held from the forward to the backward pass, q, k, v and the output among it."""
    cache_bytes: int
    """Held for each row while decoding, after all the tokens."""
    seconds: float


def costs(
    all_options: list[dict[str, Any]], B: int, H: int, T: int, D: int, repeats: int
) -> list[Cost]:
    """What variants cost beside one another: in fp32, timed in turns, the median of `repeats`."""
    shape = ModelConfig(n_layers=1, n_heads=H, d_model=H * D, seq_len=T, vocab_size=1)
    variants = [build_attention(options, shape)[0] for options in all_options]
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(B, T, 3, H, D, generator=generator).permute(
        2, 0, 3, 1, 4
    )  # as the projection lays it out
    q, k, v = (x.detach().requires_grad_() for x in qkv)
    times: list[list[float]] = [[] for _ in variants]

    def forward_backward(attend: nn.Module) -> None:
        attend(q, k, v).backward(torch.ones_like(v))

    for _ in range(repeats + 1):
        for attend, its in zip(variants, times, strict=True):
            began = time.perf_counter()
            forward_backward(attend)
            its.append(time.perf_counter() - began)
    found = []
    for attend, its in zip(variants, times, strict=True):
        with (
            FlopCounterMode(display=False) as counter,
            sdpa_kernel(SDPBackend.MATH),
        ):  # the fused one is not counted
            forward_backward(attend)
        found.append(
            Cost(
                counter.get_total_flops(),
                kept_bytes(attend, q, k, v),
                cache_bytes(attend, q, k, v),
                median(its[1:]),
            )
        )
    return found


def kept_bytes(attend: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> int:
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = attend(q, k, v)
    for tensor in (q, k, v, y):  # the projections around it keep these
        pack(tensor)
    return sum(storages.values())


@torch.no_grad()
def cache_bytes(attend: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> int:
    cache = Cache(1, 1, q.shape[2])
    step(attend, cache, [q[:1], k[:1], v[:1]])
    return sum(tensor.nbytes for tensor in cache.layers[0].tensors.values())
