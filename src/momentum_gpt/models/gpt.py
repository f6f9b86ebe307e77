"""A GPT on one page: pre-LN blocks, GELU, tied embedding. Single-device code; what runs it is applied from outside.

Shapes: B batch, T time, C = H * D the model's width (d_model), H heads, D head dimension, V vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from momentum_gpt.core.config import ModelConfig
from momentum_gpt.models.attention import Documents, build_attention, documents_of
from momentum_gpt.models.cache import Cache, LayerCache


class Attention(nn.Module):
    """Projections around the variant: `attend` mixes the values over time, everything else is the same for all."""

    def __init__(self, config: ModelConfig, attend: nn.Module) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=config.bias)
        self.attend = attend
        self.out = nn.Linear(config.d_model, config.d_model, bias=config.bias)

    def forward(
        self,
        x: Tensor,
        angles: Tensor | None,
        documents: Documents | None,
        cache: LayerCache | None,
    ) -> Tensor:
        B, T, C = x.shape
        q, k, v = (
            self.qkv(x).view(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        )  # each (B, H, T, D)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        y = self.attend(q, k, v, documents, cache)  # (B, H, T, D): the variant
        return self.out(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"
        self.up = nn.Linear(config.d_model, 4 * config.d_model, bias=config.bias)
        self.down = nn.Linear(4 * config.d_model, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


class Block(nn.Module):
    def __init__(self, config: ModelConfig, attend: nn.Module) -> None:
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
        config: its shape; `vocab_size` must be a number by now.
        attention: the variant's name and options, e.g. {"name": "momentum", "ema_decay": 0.5}.
        document_end: the token that ends a document, if what is packed into a row must not see one another. None: documents
            run on.
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
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.seq_len, config.d_model)
        self.blocks = nn.ModuleList(
            Block(config, attend) for attend in build_attention(attention, config)
        )
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
        """Logits (B, T, V) of tokens (B, T); with targets (B, T), their mean loss in nats per token, in fp32.

        Args:
            targets: -100 is no target.
            document_ids: (B, T), one number >= 0 per document, each in one piece: each is read as if it stood alone. None:
                the token `document_end` ends one, or without it each row is one.
            cache: what the rows hold before these tokens, which are added to it. Not together with documents.
            n_new: (B,), how many of the T tokens are real, at least 1 each; the others are padding, on the right. None: all.
            at: (B, N), the places whose logits are wanted, which are then (B, N, V). None: all.
        """
        hidden = self.hidden(tokens, document_ids, cache, n_new)
        if at is not None:
            hidden = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))
        logits = self.logits(hidden)
        if targets is None:
            return logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V), by the tied embedding."""
        return F.linear(hidden, self.token_embedding.weight)

    def hidden(
        self,
        tokens: Tensor,
        document_ids: Tensor | None = None,
        cache: Cache | None = None,
        n_new: Tensor | None = None,
    ) -> Tensor:
        """What the logits are made of, (B, T, C): the arguments are those of `forward`."""
        T = tokens.shape[1]
        documents, positions = None, torch.arange(T, device=tokens.device)
        if cache is not None:
            positions = cache.begin(T, n_new)  # (B, T)
        elif document_ids is None and self.document_end is not None:
            document_ids = document_ids_of(tokens, self.document_end)
        if document_ids is not None:
            documents, positions = documents_of(document_ids), positions_in_documents(document_ids)
        assert self.config.seq_len >= T, (
            f"{T} tokens, but the model's longest context is {self.config.seq_len}"
        )
        x = self.token_embedding(tokens)  # (B, T, C)
        if self.config.scale_embedding:
            x = x * math.sqrt(self.config.d_model)
        angles = None
        if self.config.positions == "learned":
            x = x + self.position_embedding(positions)
        elif self.config.positions == "sinusoidal":
            x = x + sinusoids(positions, self.config.d_model).to(x.dtype)
        else:
            angles = rotary_angles(positions, self.config.d_head)
        for layer, block in enumerate(self.blocks):
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, angles, documents, None, use_reentrant=False)
            else:
                x = block(x, angles, documents, cache.layers[layer] if cache else None)
        if cache is not None:
            cache.end(T)
        return self.norm(x)


def document_ids_of(tokens: Tensor, document_end: int) -> Tensor:
    """(B, T): number each row's documents from 0. The token that ends one is the first that the next one sees.

    So what stands behind it is predicted from it alone, as where a text is written or scored: they begin with it, too.
    """
    return (tokens == document_end).long().cumsum(1)


def positions_in_documents(document_ids: Tensor) -> Tensor:
    """(B, T): each document's first token is at position 0."""
    places = torch.arange(document_ids.shape[1], device=document_ids.device)
    starts = F.pad(document_ids[:, 1:] != document_ids[:, :-1], (1, 0)) * places
    return places - starts.cummax(1).values


def sinusoids(positions: Tensor, d_model: int) -> Tensor:
    """Fairseq's sinusoidal positions, (..., C): sines then cosines, the first token being position 2 (its padding is 1)."""
    half = d_model // 2
    frequencies = torch.exp(
        torch.arange(half, device=positions.device) * -(math.log(10000) / (half - 1))
    )
    angles = (positions + 2)[..., None] * frequencies  # (..., C / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def rotary_angles(positions: Tensor, d_head: int) -> Tensor:
    """Angles of rotary positions (RoFormer, arXiv 2104.09864), base 10,000, in fp32: (1, T, D / 2) or (B, 1, T, D / 2)."""
    frequencies = 10000.0 ** (-torch.arange(0, d_head, 2, device=positions.device) / d_head)
    return (positions[..., None] * frequencies).unsqueeze(-3)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair (x_j, x_{j + D/2}) of x (B, H, T, D) by its angle."""
    first, second = x.float().chunk(2, dim=-1)
    sine, cosine = angles.sin(), angles.cos()
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).to(
        x.dtype
    )


def is_of_variant(name: str) -> bool:
    """Whether the parameter is the attention variant's own, which other variants do not have."""
    return ".attend." in name


@torch.no_grad()
def init_weights(model: GPT, seed: int) -> None:
    """Draw every parameter from the seed and its own name, so that a variant's extra parameter changes no other.

    | parameter                           | distribution                          |
    | embeddings, qkv, mlp.up             | normal(0, init_std)                   |
    | attention.out, mlp.down             | normal(0, init_std / sqrt(2 n_layers))|
    | biases                              | 0                                     |
    | LayerNorm weights                   | 1                                     |

    GPT-2's, where init_std is 0.02, with the outputs into the residual stream scaled down by their number. A variant's own
    parameter (`...attend...`) keeps the value that its class gave it.
    """
    init_std = model.config.init_std
    for name, parameter in model.named_parameters():
        if is_of_variant(name):
            continue
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1.0)
        else:
            into_residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
            std = init_std / math.sqrt(2 * model.config.n_layers) if into_residual else init_std
            digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
