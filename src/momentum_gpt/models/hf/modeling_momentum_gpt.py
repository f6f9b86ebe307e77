"""A GPT with momentum attention and its relatives, for `transformers`: load it with trust_remote_code=True.

Attention is causal softmax attention (linear: without softmax and scale), and `config.attention["name"]` may add to it:

    momentum        y_t += sum_{i=1}^{t-1} decay^(t-i) v_i          Dai et al., arXiv 2212.10559, section 5
    shift           y_t += weight v_{t-1}

Both follow from the values that the cache keeps anyway, so it needs no cache of its own. There are no buffers, which
`from_pretrained` would leave uninitialised: what is constant is computed where it is used.

Shapes: B rows, T new tokens, S tokens with those in the cache, C width, H heads, D head dimension, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

CHUNK = 64
"""Tokens whose momentum one matrix product sums: memory linear in T."""

EDGE = 2.0**-20
"""A learned decay stays this far from 0 and 1."""


class MomentumGPTConfig(PretrainedConfig):
    """Its shape, as in training.

    Args:
        seq_len: longest context, tokens.
        positions: learned | sinusoidal | rotary.
        activation: gelu_tanh | gelu.
        scale_embedding: token embeddings times sqrt(d_model).
        attention: name (vanilla | momentum | shift | linear | linear_momentum) and options; `ema_decay` of momentum is a
            list of one for each layer, each a list of one for each head, `layers` lists those that have it.
    """

    model_type = "momentum_gpt"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012
    attribute_map = {  # noqa: RUF012
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "hidden_size": "d_model",
        "max_position_embeddings": "seq_len",
    }

    def __init__(
        self,
        vocab_size: int = 32000,
        n_layers: int = 12,
        n_heads: int = 12,
        d_model: int = 768,
        seq_len: int = 1024,
        positions: str = "learned",
        bias: bool = True,
        activation: str = "gelu_tanh",
        scale_embedding: bool = False,
        attention: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.d_model = d_model
        self.seq_len = seq_len
        self.positions = positions
        self.bias = bias
        self.activation = activation
        self.scale_embedding = scale_embedding
        self.attention = attention or {"name": "vanilla"}
        super().__init__(**kwargs)


class Momentum(nn.Module):
    """The decayed sum of past values."""

    def __init__(self, options: dict[str, Any], layer: int) -> None:
        super().__init__()
        self.decays: list[float] = options["ema_decay"][layer]  # (H,)
        self.normalised, self.include_current = options["normalised"], options["include_current"]
        self.decay_logits = (
            nn.Parameter(torch.tensor(self.decays).logit()) if options["learned"] else None
        )  # (H,)

    def forward(self, values: Tensor, T: int) -> Tensor:
        """What is added for the last T tokens, (B, H, T, D) in fp32, from the values of all, (B, H, S, D)."""
        values = values.float()
        if self.decay_logits is None:
            decay = torch.tensor(self.decays, device=values.device)
        else:
            decay = self.decay_logits.float().sigmoid().clamp(EDGE, 1 - EDGE)
        decay = decay[:, None, None]  # (H, 1, 1)
        term = ema_of_past(values, decay, T)
        if self.include_current:
            term = term + values[:, :, -T:]
        return (1 - decay) * term if self.normalised else term


def ema_of_past(values: Tensor, decay: Tensor, T: int) -> Tensor:
    """sum_{i<t} decay^(t-i) v_i for the last T tokens t, (B, H, T, D); values (B, H, S, D), decay (H, 1, 1)."""
    before, new = values.split([values.shape[2] - T, T], dim=2)
    ages = torch.arange(before.shape[2] - 1, -1, -1, device=values.device)
    state = (
        decay**ages @ before
    )  # (B, H, 1, D): the decayed sum up to and including the last token of the cache
    pasts = []
    for chunk in new.split(CHUNK, dim=2):
        t = torch.arange(chunk.shape[2], device=values.device)[:, None]
        weights = torch.where(t > t.mT, decay ** (t - t.mT).clamp(min=0), 0.0)  # (H, CHUNK, CHUNK)
        pasts.append(weights @ chunk + decay ** (t + 1) * state)
        state = (pasts[-1] + chunk)[:, :, -1:]
    return torch.cat(pasts, dim=2)


class Shift(nn.Module):
    """The previous token's value, weighted."""

    def __init__(self, options: dict[str, Any], n_heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((n_heads,), float(options["weight"])))

    def forward(self, values: Tensor, T: int) -> Tensor:
        """What is added for the last T tokens, (B, H, T, D), from the values of all, (B, H, S, D)."""
        return self.weight[:, None, None] * F.pad(values, (0, 0, 1, 0))[:, :, -T - 1 : -1]


def addition(config: MomentumGPTConfig, layer: int) -> nn.Module | None:
    """What the layer adds to its attention, if anything."""
    options = config.attention
    if options["name"] == "shift":
        return Shift(options, config.n_heads)
    has_momentum = options["name"].endswith("momentum") and layer in options["layers"]
    return Momentum(options, layer) if has_momentum else None


class Attention(nn.Module):
    def __init__(self, config: MomentumGPTConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_heads = layer, config.n_heads
        self.is_linear = config.attention["name"].startswith("linear")
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=config.bias)
        self.attend = addition(config, layer)
        self.out = nn.Linear(config.d_model, config.d_model, bias=config.bias)

    def forward(
        self,
        x: Tensor,
        angles: Tensor | None,
        sees: Tensor,
        real: Tensor | None,
        cache: Cache | None,
    ) -> Tensor:
        B, T, C = x.shape
        q, k, v = (
            self.qkv(x).view(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        )  # each (B, H, T, D)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)  # each (B, H, S, D)
        if real is not None:
            v = v * real[:, None, :, None]  # padding must not enter the sums
        if self.is_linear:
            y = (q.float() @ k.float().mT).masked_fill(~sees, 0.0) @ v.float()
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=sees)
        if self.attend is not None:
            y = y + self.attend(v, T)
        return self.out(y.to(x.dtype).transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, config: MomentumGPTConfig) -> None:
        super().__init__()
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"
        self.up = nn.Linear(config.d_model, 4 * config.d_model, bias=config.bias)
        self.down = nn.Linear(4 * config.d_model, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


class Block(nn.Module):
    def __init__(self, config: MomentumGPTConfig, layer: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.d_model, bias=config.bias)
        self.attention = Attention(config, layer)
        self.norm2 = nn.LayerNorm(config.d_model, bias=config.bias)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Tensor,
        angles: Tensor | None,
        sees: Tensor,
        real: Tensor | None,
        cache: Cache | None,
    ) -> Tensor:
        x = x + self.attention(self.norm1(x), angles, sees, real, cache)
        return x + self.mlp(self.norm2(x))


class MomentumGPTForCausalLM(PreTrainedModel, GenerationMixin):
    """The language model; its output is the tied embedding, so there is no matrix of its own for it."""

    config_class = MomentumGPTConfig
    _input_embed_layer = "token_embedding"
    _supports_sdpa = True
    _no_split_modules = ["Block"]  # noqa: RUF012

    def __init__(self, config: MomentumGPTConfig) -> None:
        super().__init__(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.seq_len, config.d_model)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model, bias=config.bias)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V) of input_ids (B, T); with labels (B, T), the loss in nats per token. A row is one document.

        Args:
            attention_mask: (B, S), of the tokens in the cache and the new ones: 0 is padding, on the left or the right.
            labels: those of the same positions, which are shifted here; -100 is none.
            logits_to_keep: only those of the last so many tokens. 0: all.
        """
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        T = input_ids.shape[1]
        S = T + (past_key_values.get_seq_length() if past_key_values is not None else 0)
        if attention_mask is not None and attention_mask.shape != (input_ids.shape[0], S):
            raise ValueError(
                f"attention_mask must be of all {S} tokens, those in the cache too, got {attention_mask.shape}"
            )
        real = attention_mask.bool() if attention_mask is not None else None
        x, angles = self.embed(input_ids, positions_of(real, S, input_ids.device)[:, -T:])
        sees = visible(real, T, S, input_ids.device)
        for block in self.blocks:
            x = block(x, angles, sees, real, past_key_values)
        logits = F.linear(self.norm(x[:, -logits_to_keep:]), self.token_embedding.weight)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def embed(self, input_ids: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the first block reads, (B, T, C), and the angles of rotary positions; positions (B or 1, T)."""
        x = self.token_embedding(input_ids)
        if self.config.scale_embedding:
            x = x * math.sqrt(self.config.d_model)
        if self.config.positions == "learned":
            return x + self.position_embedding(positions), None
        if self.config.positions == "sinusoidal":
            return x + sinusoids(positions, self.config.d_model).to(x.dtype), None
        return x, rotary_angles(positions, self.config.d_model // self.config.n_heads)


def positions_of(real: Tensor | None, S: int, device: torch.device) -> Tensor:
    """Positions (B or 1, S): each row's first token that is not padding is at 0."""
    if real is None:
        return torch.arange(S, device=device)[None]
    return (real.cumsum(1) - 1).clamp(min=0)


def visible(real: Tensor | None, T: int, S: int, device: torch.device) -> Tensor:
    """Which of the S tokens each of the last T may look at, (B or 1, 1, T, S): itself and those before it, no padding."""
    queries, keys = torch.arange(S - T, S, device=device)[:, None], torch.arange(S, device=device)
    if real is None:
        return (keys <= queries)[None, None]
    # Padding looks at itself, so that there is no softmax over nothing.
    return ((keys < queries) & real[:, None, None, :]) | (keys == queries)


def sinusoids(positions: Tensor, d_model: int) -> Tensor:
    """Fairseq's sinusoidal positions, (..., C): sines then cosines, the first token being position 2 (its padding is 1)."""
    half = d_model // 2
    frequencies = torch.exp(
        torch.arange(half, device=positions.device) * -(math.log(10000) / (half - 1))
    )
    angles = (positions + 2)[..., None] * frequencies  # (..., C / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def rotary_angles(positions: Tensor, d_head: int) -> Tensor:
    """Angles of rotary positions (RoFormer, arXiv 2104.09864), base 10,000, in fp32: (B or 1, 1, T, D / 2)."""
    frequencies = 10000.0 ** (-torch.arange(0, d_head, 2, device=positions.device) / d_head)
    return (positions[..., None] * frequencies)[:, None]


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair (x_j, x_{j + D/2}) of x (B, H, T, D) by its angle."""
    first, second = x.float().chunk(2, dim=-1)
    sine, cosine = angles.sin(), angles.cos()
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).to(
        x.dtype
    )
