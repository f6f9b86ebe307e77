"""A GPT on one page: pre-LN blocks, GELU, tied embedding.

This is single-device code. Compilation, DeepSpeed and ranks are applied from outside.

Shapes: B batch, T time, C = H * D width of the model (d_model), H heads, D head dimension,
V vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from momentum_gpt.core.config import ModelConfig
from momentum_gpt.models.attention import Variant, build_attention
from momentum_gpt.models.cache import Cache, LayerCache
from momentum_gpt.models.mixing import Documents, documents_of
from momentum_gpt.ops import project, summed_loss


class Shared(Protocol):
    """How several ranks share the sequences of a training batch; see training/ulysses.py."""

    def stretch(self, x: Tensor) -> Tensor:
        """Return this rank's stretch of whole sequences, (..., T)."""

    def attend(
        self, variant: Variant, q: Tensor, k: Tensor, v: Tensor, documents: Documents | None
    ) -> Tensor:
        """Return `variant(q, k, v, documents)` of this rank's stretch."""


class Linear(nn.Linear):
    """torch's linear layer, computed the faster way."""

    def forward(self, x: Tensor) -> Tensor:
        return project(x, self.weight, self.bias)


class Attention(nn.Module):
    """The projections around an attention variant.

    Args:
        config: shape of the model.
        attend: the variant, which mixes values over time; all else is the same for all variants.
    """

    def __init__(self, config: ModelConfig, attend: Variant) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.shared: Shared | None = None
        self.qkv = Linear(config.d_model, 3 * config.d_model, bias=config.bias)
        self.attend = attend
        self.out = Linear(config.d_model, config.d_model, bias=config.bias)

    def forward(
        self,
        x: Tensor,
        angles: Tensor | None,
        documents: Documents | None,
        cache: LayerCache | None,
    ) -> Tensor:
        B, T, C = x.shape
        parts = self.qkv(x).chunk(3, dim=-1)  # each (B, T, C)
        q, k, v = (part.view(B, T, self.n_heads, -1).transpose(1, 2) for part in parts)

        if angles is not None:
            q = rotate(q, angles)
            k = rotate(k, angles)

        if self.shared:
            y = self.shared.attend(self.attend, q, k, v, documents)
        else:
            y = self.attend(q, k, v, documents, cache)  # (B, H, T, D)
        return self.out(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """Two linear layers with a GELU between them, four times as wide inside."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"
        self.up = Linear(config.d_model, 4 * config.d_model, bias=config.bias)
        self.down = Linear(4 * config.d_model, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


class Block(nn.Module):
    """Attention and MLP, each normalised on its way in and added to the residual stream."""

    def __init__(self, config: ModelConfig, attend: Variant) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.d_model, bias=config.bias)
        self.attention = Attention(config, attend)
        self.norm2 = nn.LayerNorm(config.d_model, bias=config.bias)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Tensor,
        angles: Tensor | None,
        documents: Documents | None,
        cache: LayerCache | None,
    ) -> Tensor:
        x = x + self.attention(self.norm1(x), angles, documents, cache)
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Decoder-only language model.

    Args:
        config: shape of the model; `vocab_size` must be a number by now.
        attention: name and options of the variant, e.g. {"name": "momentum", "ema_decay": 0.5}.
        document_end: the token that ends a document, if documents packed into a row must not see
            one another. None: a row is read as one document.
    """

    def __init__(
        self, config: ModelConfig, attention: dict[str, Any], document_end: int | None = None
    ) -> None:
        super().__init__()
        assert config.vocab_size is not None
        self.config = config
        self.attention = attention
        self.document_end = document_end
        self.activation_checkpointing = False
        self.shared: Shared | None = None

        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.seq_len, config.d_model)
        variants = build_attention(attention, config)  # one for each layer
        self.blocks = nn.ModuleList(Block(config, attend) for attend in variants)
        self.norm = nn.LayerNorm(config.d_model, bias=config.bias)

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: Cache | None = None,
        n_new: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Return the logits (B, T, V) of tokens (B, T), or with targets the sum of their losses.

        The sum is in nats, computed in fp32. It is for the caller to divide it, once, by the
        number of targets of all the batches that belong together.

        Args:
            tokens: (B, T).
            targets: (B, T); -100 marks a position without a target.
            document_ids: (B, T), one number >= 0 for each document, each document being
                contiguous; each is read as if it stood alone. None: the token `document_end`
                ends a document, and without that token a row is one document.
            cache: what precedes these tokens in each row; these tokens are added to it. Not
                together with documents.
            n_new: (B,), how many of the T tokens are real, at least 1 in each row; the rest is
                padding on the right. None: all are real.
            at: (B, N), the positions whose logits to return, as (B, N, V). None: all.
        """
        hidden = self.hidden(tokens, document_ids, cache, n_new)  # (B, T, C)
        if at is not None:
            hidden = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))

        if targets is None:
            return self.logits(hidden)
        if self.shared:
            targets = self.shared.stretch(targets)
        return summed_loss(hidden.flatten(0, 1), self.token_embedding.weight, targets.flatten())

    def share_sequences(self, shared: Shared | None) -> None:
        """Pass only this rank's stretch of the sequences through the model; None: whole ones."""
        self.shared = shared
        for module in self.modules():
            if isinstance(module, Attention):
                module.shared = shared

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) of hidden states (..., C), through the tied embedding."""
        return project(hidden, self.token_embedding.weight)

    def hidden(
        self,
        tokens: Tensor,
        document_ids: Tensor | None = None,
        cache: Cache | None = None,
        n_new: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states (B, T, C) after the last norm. The arguments are `forward`'s."""
        T = tokens.shape[1]
        longest = self.config.seq_len
        assert longest >= T, f"{T} tokens, but the longest context of the model is {longest}"

        documents = None
        positions = torch.arange(T, device=tokens.device)  # (T,), or (B, T) below
        if cache is not None:
            positions = cache.begin(T, n_new)
        elif document_ids is None and self.document_end is not None:
            document_ids = document_ids_of(tokens, self.document_end)
        if document_ids is not None:
            documents = documents_of(document_ids)
            positions = positions_in_documents(document_ids)

        if self.shared:
            tokens = self.shared.stretch(tokens)
            positions = self.shared.stretch(positions)
        x, angles = self.embed(tokens, positions)
        for index, block in enumerate(self.blocks):
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, angles, documents, None, use_reentrant=False)
            else:
                layer_cache = cache.layers[index] if cache else None
                x = block(x, angles, documents, layer_cache)

        if cache is not None:
            cache.end(T)
        return self.norm(x)

    def embed(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the input of the first block, (B, T, C), and the angles of rotary positions."""
        x = self.token_embedding(tokens)
        if self.config.scale_embedding:
            x = x * math.sqrt(self.config.d_model)

        if self.config.positions == "learned":
            return x + self.position_embedding(positions), None
        if self.config.positions == "sinusoidal":
            return x + sinusoids(positions, self.config.d_model).to(x.dtype), None

        precise = torch.promote_types(x.dtype, torch.float32)
        return x, rotary_angles(positions, self.config.d_head, precise)


def document_ids_of(tokens: Tensor, document_end: int) -> Tensor:
    """Return the number of each token's document, (B, T), counted from 0 in each row.

    The token that ends a document is the first one that the next document sees. So the first
    real token of a document is predicted from it alone, as it is in generation and scoring,
    whose prompts begin with that token, too.
    """
    return (tokens == document_end).long().cumsum(1)


def positions_in_documents(document_ids: Tensor) -> Tensor:
    """Return the position of each token in its document, (B, T), counted from 0."""
    places = torch.arange(document_ids.shape[1], device=document_ids.device)
    is_first = F.pad(document_ids[:, 1:] != document_ids[:, :-1], (1, 0))
    starts = (is_first * places).cummax(1).values  # (B, T): where each token's document starts
    return places - starts


def sinusoids(positions: Tensor, d_model: int) -> Tensor:
    """Return fairseq's sinusoidal positions, (..., C): the sines, then the cosines.

    The first token is at position 2, because fairseq reserves 1 for padding.
    """
    half = d_model // 2
    exponents = torch.arange(half, device=positions.device) * -(math.log(10000) / (half - 1))
    angles = (positions + 2)[..., None] * torch.exp(exponents)  # (..., C / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def rotary_angles(positions: Tensor, d_head: int, dtype: torch.dtype) -> Tensor:
    """Return the angles of rotary positions: (1, T, D / 2), or (B, 1, T, D / 2).

    RoFormer (arXiv 2104.09864), with base 10,000.
    """
    even = torch.arange(0, d_head, 2, dtype=dtype, device=positions.device)
    frequencies = 10000.0 ** (-even / d_head)
    return (positions[..., None] * frequencies).unsqueeze(-3)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate each pair (x_j, x_{j + D/2}) of x (B, H, T, D) by its angle, in the angles' dtype."""
    first, second = x.to(angles.dtype).chunk(2, dim=-1)
    sine = angles.sin()
    cosine = angles.cos()
    rotated = [first * cosine - second * sine, second * cosine + first * sine]
    return torch.cat(rotated, dim=-1).to(x.dtype)


def is_of_variant(name: str) -> bool:
    """Return whether a parameter belongs to the attention variant, so that others may lack it."""
    return ".attend." in name


@torch.no_grad()
def init_weights(model: GPT, seed: int) -> None:
    """Draw every parameter from the seed and its own name.

    So a parameter that only one variant has changes no other parameter.

    | parameter                           | distribution                           |
    | embeddings, qkv, mlp.up             | normal(0, init_std)                    |
    | attention.out, mlp.down             | normal(0, init_std / sqrt(2 n_layers)) |
    | biases                              | 0                                      |
    | LayerNorm weights                   | 1                                      |

    With init_std 0.02 this is GPT-2's initialisation, which scales the outputs into the residual
    stream down by their number. The variant's own parameters (`...attend...`) keep the values that
    its class gave them.
    """
    init_std = model.config.init_std
    residual_std = init_std / math.sqrt(2 * model.config.n_layers)
    for name, parameter in model.named_parameters():
        if is_of_variant(name):
            continue
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1.0)
        else:
            into_residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
            std = residual_std if into_residual else init_std
            drawn = torch.empty(parameter.shape)
            parameter.copy_(drawn.normal_(0.0, std, generator=generator_of(seed, name)))


def generator_of(seed: int, name: object) -> torch.Generator:
    """Return the random generator of one name, e.g. a parameter's, under a seed."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
