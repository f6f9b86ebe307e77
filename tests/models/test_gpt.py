"""The GPT against independent implementations of the same model."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
import transformers
from torch import Tensor
from transformers.models.xglm.modeling_xglm import XGLMSinusoidalPositionalEmbedding

from momentum_gpt.core.config import ModelConfig
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import (
    document_ids_of,
    init_weights,
    positions_in_documents,
    rotary_angles,
    rotate,
    sinusoids,
)
from momentum_gpt.models.hf import modeling_momentum_gpt as exported
from momentum_gpt.models.mixing import Documents, blocks_of, documents_of, softmax_attention

MOMENTUM = {"name": "momentum", "ema_decay": 0.5}
VANILLA = {"name": "vanilla"}


GPT2_NAMES = {
    "norm1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "norm2": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
"""Written out again here, as an independent definition of what models/hf/names.py says."""


def gpt2_and_ours() -> tuple[transformers.GPT2LMHeadModel, GPT]:
    """Return a GPT-2 of transformers with random weights, and our GPT with the same weights."""
    torch.manual_seed(0)
    shape = transformers.GPT2Config(vocab_size=130, n_positions=48, n_embd=32, n_layer=3, n_head=4)
    gpt2 = transformers.GPT2LMHeadModel(shape).eval()
    # Fresh biases and norms are equal, which would hide a swapped one.
    for parameter in gpt2.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    weights = gpt2.transformer.state_dict()

    names = {"token_embedding": "wte", "position_embedding": "wpe", "norm": "ln_f"}
    for layer in range(3):
        for name, gpt2_name in GPT2_NAMES.items():
            names[f"blocks.{layer}.{name}"] = f"h.{layer}.{gpt2_name}"

    model = GPT(ModelConfig(3, 4, 32, 48, vocab_size=130), VANILLA)
    state = {}
    for name in model.state_dict():
        module, kind = name.rsplit(".", 1)
        tensor = weights[f"{names[module]}.{kind}"]
        if ".c_" in names[module] and kind == "weight":
            tensor = tensor.T  # Conv1D keeps (in, out)
        state[name] = tensor
    model.load_state_dict(state)
    return gpt2, model.eval()


@torch.no_grad()
def test_equals_gpt2_of_transformers_with_the_same_random_weights() -> None:
    gpt2, model = gpt2_and_ours()
    tokens = torch.randint(0, 130, (3, 48), generator=torch.Generator().manual_seed(1))
    expected = gpt2(tokens).logits
    tolerance = 1e-5 * expected.abs().max().item()
    torch.testing.assert_close(model(tokens), expected, rtol=0, atol=tolerance)

    loss = gpt2(tokens, labels=tokens).loss
    mine = model(tokens[:, :-1], tokens[:, 1:]) / (3 * 47)
    torch.testing.assert_close(mine, loss, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("attention", [VANILLA, MOMENTUM], ids=["vanilla", "momentum"])
def test_the_initial_loss_is_close_to_ln_vocabulary(positions: str, attention: dict) -> None:
    """A random model knows nothing. Badly scaled weights cost several tenths of a nat more."""
    model = GPT(ModelConfig(4, 4, 64, 64, vocab_size=1000, positions=positions), attention)
    init_weights(model, 0)
    tokens = torch.randint(0, 1000, (8, 65), generator=torch.Generator().manual_seed(0))
    loss = model(tokens[:, :-1], tokens[:, 1:]).item() / (8 * 64)
    assert abs(loss - math.log(1000)) < 0.05


def test_the_loss_is_a_sum_over_the_targets_alone() -> None:
    """So the parts of a batch add up, however its targets are spread over them."""
    model = GPT(ModelConfig(2, 2, 16, 32, vocab_size=50), MOMENTUM)
    init_weights(model, 0)
    tokens = torch.arange(99).view(3, 33) % 50
    targets = tokens[:, 1:].clone()
    targets[0, 5:] = -100
    targets[1] = -100

    log_p = model(tokens[:, :-1]).log_softmax(-1)
    expected = -log_p[targets != -100].gather(1, targets[targets != -100][:, None]).sum()
    torch.testing.assert_close(model(tokens[:, :-1], targets), expected)

    nothing = model(tokens[1:2, :-1], targets[1:2])
    nothing.backward()
    assert nothing.item() == 0
    assert all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("attention", [VANILLA, MOMENTUM], ids=["vanilla", "momentum"])
def test_the_future_never_changes_the_past(positions: str, attention: dict) -> None:
    model = GPT(ModelConfig(2, 2, 16, 64, vocab_size=50, positions=positions), attention)
    init_weights(model, 0)
    tokens = torch.randint(0, 50, (2, 64), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, 40:] = (changed[:, 40:] + 1) % 50
    assert torch.equal(model(tokens)[:, :40], model(changed)[:, :40])
    assert not torch.equal(model(tokens)[:, 40:], model(changed)[:, 40:])


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
def test_the_order_of_the_past_matters(positions: str) -> None:
    model = GPT(ModelConfig(2, 2, 16, 64, vocab_size=50, positions=positions), VANILLA)
    init_weights(model, 0)
    tokens = torch.arange(20)[None]
    assert not torch.allclose(
        model(tokens)[:, -1], model(tokens.flip(1).roll(-1, 1).flip(0))[:, -1], atol=1e-6
    )


def test_sinusoidal_positions_are_fairseqs() -> None:
    """XGLM's class in transformers is a port of fairseq's; its tokens start at position 2."""
    table = XGLMSinusoidalPositionalEmbedding(100, 32, padding_idx=1).weights
    torch.testing.assert_close(sinusoids(torch.arange(90), 32), table[2:92], rtol=1e-5, atol=1e-5)


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))

    def score(i: int, j: int) -> float:
        at = []
        for x, position in ((q, i), (k, j)):
            at.append(rotate(x, rotary_angles(torch.tensor([position]), 8, torch.float32)))
        return (at[0] * at[1]).sum().item()

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)


def rotated_by_the_formula(x: Tensor, positions: Tensor) -> Tensor:
    """RoFormer, section 3.2.2, pair by pair: multiplication with exp(i m theta_j), in float64."""
    half = x.shape[-1] // 2
    theta = [10000 ** (-2 * j / x.shape[-1]) for j in range(half)]
    result = torch.empty_like(x, dtype=torch.float64)
    for t, m in enumerate(positions.tolist()):
        for j in range(half):
            pair = torch.complex(x[:, :, t, j].double(), x[:, :, t, j + half].double())
            turned = pair * cmath.exp(1j * m * theta[j])
            result[:, :, t, j] = turned.real
            result[:, :, t, j + half] = turned.imag
    return result


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 2**-8)],
)
def test_rotary_positions_are_computed_in_the_models_precision(
    dtype: torch.dtype, tolerance: float
) -> None:
    """In bf16 they are computed in fp32, and only the result is rounded: to 8 binary digits."""
    model = GPT(ModelConfig(1, 2, 32, 600, vocab_size=50, positions="rotary"), VANILLA).to(dtype)
    positions = torch.tensor([0, 1, 7, 599])
    _, angles = model.embed(torch.zeros(1, 4, dtype=torch.int64), positions)

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, 4, 16, dtype=torch.float64, generator=generator).to(dtype)
    rotated = rotate(x, angles)
    assert rotated.dtype == dtype
    expected = rotated_by_the_formula(x, positions)
    assert (rotated.double() - expected).abs().max() <= tolerance * expected.abs().max()


def test_the_exported_code_rotates_in_the_models_precision_too() -> None:
    config = exported.MomentumGPTConfig(50, 1, 2, 32, positions="rotary")
    model = exported.MomentumGPTForCausalLM(config).double()
    positions = torch.tensor([0, 1, 7, 599])
    _, angles = model.embed(torch.zeros(1, 4, dtype=torch.int64), positions[None])

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 4, 16, dtype=torch.float64, generator=generator)
    expected = rotated_by_the_formula(x, positions)
    torch.testing.assert_close(exported.rotate(x, angles), expected, rtol=0, atol=1e-12)


def test_the_residual_projections_start_with_gpt2s_spread() -> None:
    """GPT-2 scales them by 1 / sqrt(N), where N is the number of residual layers: two a block.

    The spread of n numbers is known to 1 / sqrt(2 n) of itself, and their mean to 1 / sqrt(n).
    """
    model = GPT(ModelConfig(5, 4, 64, 16, vocab_size=100), VANILLA)
    init_weights(model, 0)
    residual_layers = 0
    for name, weight in model.named_parameters():
        if weight.ndim != 2:
            continue
        into_residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
        residual_layers += into_residual
        expected = 0.02 / math.sqrt(10) if into_residual else 0.02
        n = weight.numel()
        assert weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * n)), name
        assert abs(weight.mean().item()) < 5 * expected / math.sqrt(n), name
    assert residual_layers == 10


def test_activation_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        model = GPT(ModelConfig(2, 2, 16, 32, vocab_size=50), MOMENTUM)
        init_weights(model, 0)
        model.activation_checkpointing = recompute
        tokens = torch.arange(33)[None] % 50
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_parameters_are_as_many_as_the_sizes_say() -> None:
    """12 L C^2 in the blocks, as conf/model/gpt_350m.yaml says: 302M, and the embeddings."""
    with torch.device("meta"):
        model = GPT(ModelConfig(24, 16, 1024, 1024, vocab_size=50304, bias=False), VANILLA)
    matrices = sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
    assert matrices == 12 * 24 * 1024**2


END = 3
"""The token that ends a document, below."""

PACKED = torch.tensor([[5, 6, END, 7, 8, 9, 10, END, 11], [20, END, END, 21, 22, 23, 24, 25, 26]])


def test_documents_are_numbered_and_their_positions_counted_by_hand() -> None:
    ids = document_ids_of(PACKED, END)
    assert ids.tolist() == [[0, 0, 1, 1, 1, 1, 1, 2, 2], [0, 1, 2, 2, 2, 2, 2, 2, 2]]
    assert positions_in_documents(ids).tolist() == [
        [0, 1, 0, 1, 2, 3, 4, 0, 1],
        [0, 0, 0, 1, 2, 3, 4, 5, 6],
    ]


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("attention", [VANILLA, MOMENTUM], ids=["vanilla", "momentum"])
def test_packed_documents_are_read_as_if_each_stood_alone(positions: str, attention: dict) -> None:
    model = GPT(
        ModelConfig(2, 2, 16, 32, vocab_size=50, positions=positions), attention, document_end=END
    ).double()
    init_weights(model, 0)
    for row, sizes in zip(PACKED, ([2, 5, 2], [1, 1, 7]), strict=True):
        alone = torch.cat([model(part[None]) for part in row.split(sizes)], dim=1)
        torch.testing.assert_close(
            model(PACKED)[(row == PACKED).all(1)], alone, rtol=1e-10, atol=1e-10
        )
    model.document_end = None
    assert not torch.allclose(model(PACKED[:1])[:, -1], alone[:, -1])


def test_the_blocks_for_cuda_are_the_mask_for_the_cpu() -> None:
    """FlexAttention is traced as for a GPU, but run by PyTorch's eager kernels."""
    ids = torch.sort(torch.randint(0, 4, (2, 200), generator=torch.Generator().manual_seed(0)))[0]
    q, k, v = torch.randn(3, 2, 2, 200, 16, generator=torch.Generator().manual_seed(1))

    def by_blocks(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ids: torch.Tensor
    ) -> torch.Tensor:
        return softmax_attention(q, k, v, Documents(ids, blocks_of(ids)), None)

    expected = softmax_attention(q, k, v, documents_of(ids), None)
    torch.testing.assert_close(
        torch.compile(by_blocks, fullgraph=True, backend="aot_eager")(q, k, v, ids), expected
    )
