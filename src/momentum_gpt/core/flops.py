"""FLOPs of a model, and of the devices that compute it."""

from __future__ import annotations

from momentum_gpt.core.config import ModelConfig

PEAK_BF16_FLOPS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}
"""Dense bf16 FLOP/s by words in the device's name, from NVIDIA's data sheets.

A GPU that is not here gets no MFU.
"""


def flops_per_token(model: ModelConfig, causal: bool = False) -> float:
    """Return the FLOPs of the matrix products of one token, forward and backward.

    They are 6 (12 L C^2 + V C) + 12 L T C: the formula of PaLM (arXiv 2204.02311, appendix B) with
    those parameters alone that matrices multiply. What a variant adds to softmax attention is not
    counted, so that the variants of a comparison have one measure.

    Args:
        model: its `vocab_size` is a number.
        causal: whether to count attention to earlier tokens alone, on average (T + 1) / 2 of T.
    """
    assert model.vocab_size is not None
    C, T = model.d_model, model.seq_len
    seen = (T + 1) / 2 if causal else T
    products = 12 * model.n_layers * C * C + model.vocab_size * C
    return 6 * products + 12 * model.n_layers * seen * C


def peak_flops(device: str) -> float | None:
    """Return a GPU's FLOP/s by its name; None if it is not known."""
    for name, peak in PEAK_BF16_FLOPS.items():
        if all(part in device for part in name.split()):
            return peak
    return None
