"""FLOPs of a model against torch's count, and of devices by their names."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from momentum_gpt.core.config import ModelConfig
from momentum_gpt.core.flops import flops_per_token, peak_flops
from momentum_gpt.models import GPT


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_the_flops_of_a_token_are_those_that_torch_counts(positions: str) -> None:
    """Of the matrix products in a forward and a backward pass, attention's included."""
    config = ModelConfig(3, 4, 64, 256, vocab_size=96, positions=positions)
    model = GPT(config, {"name": "vanilla"}).double()  # whose products torch counts
    # One row: torch does not count products that are added in place, as the loss of more does.
    tokens = torch.zeros(1, 256, dtype=torch.long)
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
        model(tokens, tokens).backward()
    assert counted.get_total_flops() == tokens.numel() * flops_per_token(config)


def test_causal_attention_sees_half_of_the_tokens_and_itself() -> None:
    """Each of the 3 layers has two products of T x T x C, three times with the backward pass."""
    config = ModelConfig(3, 4, 64, 256, vocab_size=96)
    pairs = sum(range(1, 257)) / 256  # of a query, on average
    attention = 3 * 3 * 2 * 2 * 64
    saved = flops_per_token(config) - flops_per_token(config, causal=True)
    assert saved == attention * (256 - pairs)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GeForce RTX 4090", None),
        ("AMD Instinct MI300X", None),
    ],
)
def test_a_peak_is_known_by_the_name_of_the_device_or_not_at_all(
    device: str, expected: float | None
) -> None:
    assert peak_flops(device) == expected
