"""A GPT with momentum attention, or a relative of it, for `transformers`.

Load it with trust_remote_code=True. `config.mixing` says what each layer computes:

    rule       softmax      y_t = V softmax(K^T q_t / sqrt(D)) over the tokens up to t
               linear       y_t = V K^T q_t over the tokens up to t
    addition   momentum     y_t += sum_{i=1}^{t-1} decay^(t-i) v_i     (arXiv 2212.10559, section 5)
               shift        y_t += weight v_{t-1}

Both additions follow from the values that the cache of `transformers` keeps anyway, so they need
no cache of their own. There are no buffers, because `from_pretrained` would leave them
uninitialised: constants are computed where they are used.

Shapes: B rows, T new tokens, S tokens including those in the cache, C width of the model, H heads,
D head dimension, V vocabulary.
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
"""Tokens whose momentum one matrix product sums, so that memory is linear in T."""

EDGE = 2.0**-20
"""Distance that a learned decay keeps from 0 and from 1."""


class MomentumGPTConfig(PretrainedConfig):
    """Shape of the model, and what its layers compute.

    Args:
        vocab_size, n_layers, n_heads, d_model: sizes.
        seq_len: longest context, in tokens.
        positions: learned | sinusoidal | rotary.
        bias: whether linear layers and LayerNorms have biases.
        activation: gelu_tanh | gelu.
        scale_embedding: whether token embeddings are multiplied by sqrt(d_model).
        mixing: for each layer {"rule": ..., "addition": ...}. `rule` is softmax or linear.
            `addition` is None, {"kind": "shift"}, or {"kind": "momentum"} with `decays` (one for
            each head), `learned`, `normalised` and `include_current`. None: softmax in each layer.
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
        mixing: list[dict[str, Any]] | None = None,
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
        self.mixing = mixing or [{"rule": "softmax", "addition": None} for _ in range(n_layers)]
        super().__init__(**kwargs)


class Momentum(nn.Module):
    """The decayed sum of past values."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.decays: list[float] = options["decays"]  # (H,)
        self.normalised: bool = options["normalised"]
        self.include_current: bool = options["include_current"]

        self.decay_logits: nn.Parameter | None = None
        if options["learned"]:
            self.decay_logits = nn.Parameter(torch.tensor(self.decays).logit())  # (H,)

    def forward(self, values: Tensor, T: int) -> Tensor:
        """Return what is added for the last T tokens, (B, H, T, D) in fp32.

        Args:
            values: those of all tokens, (B, H, S, D).
            T: how many of the tokens are new.
        """
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
    """Return sum_{i<t} decay^(t-i) v_i for the last T tokens t, (B, H, T, D).

    Args:
        values: (B, H, S, D).
        decay: (H, 1, 1).
        T: how many of the tokens are new.
    """
    before, new = values.split([values.shape[2] - T, T], dim=2)

    # The decayed sum up to and including the last token of the cache: (B, H, 1, D).
    ages = torch.arange(before.shape[2] - 1, -1, -1, device=values.device)
    state = decay**ages @ before

    pasts = []
    for chunk in new.split(CHUNK, dim=2):
        t = torch.arange(chunk.shape[2], device=values.device)[:, None]
        weights = torch.where(t > t.mT, decay ** (t - t.mT).clamp(min=0), 0.0)  # (H, CHUNK, CHUNK)
        past = weights @ chunk + decay ** (t + 1) * state
        state = (past + chunk)[:, :, -1:]
        pasts.append(past)
    return torch.cat(pasts, dim=2)


class Shift(nn.Module):
    """The previous token's value, weighted."""

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_heads))  # (H,), read from the weights

    def forward(self, values: Tensor, T: int) -> Tensor:
        """Return what is added for the last T tokens, (B, H, T, D).

        Args:
            values: those of all tokens, (B, H, S, D).
            T: how many of the tokens are new.
        """
        previous = F.pad(values, (0, 0, 1, 0))[:, :, -T - 1 : -1]
        return self.weight[:, None, None] * previous


def addition(config: MomentumGPTConfig, layer: int) -> nn.Module | None:
    """Return the module that computes what the layer adds to its attention, if anything."""
    options = config.mixing[layer]["addition"]
    if options is None:
        return None
    if options["kind"] == "shift":
        return Shift(config.n_heads)
    if options["kind"] == "momentum":
        return Momentum(options)
    raise ValueError(f"config.mixing: the addition of layer {layer} is unknown: {options}")


class Attention(nn.Module):
    """Projections around the rule that mixes values over time."""

    def __init__(self, config: MomentumGPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_heads = config.n_heads
        self.is_linear = config.mixing[layer]["rule"] == "linear"
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
        qkv = self.qkv(x).view(B, T, 3, self.n_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        if angles is not None:
            q = rotate(q, angles)
            k = rotate(k, angles)

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
    """Two linear layers with a GELU between them, four times as wide inside."""

    def __init__(self, config: MomentumGPTConfig) -> None:
        super().__init__()
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"
        self.up = nn.Linear(config.d_model, 4 * config.d_model, bias=config.bias)
        self.down = nn.Linear(4 * config.d_model, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


class Block(nn.Module):
    """Attention and MLP, each normalised on its way in and added to the residual stream."""

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
    """The language model. Its output layer is the embedding, so it has no matrix of its own."""

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
        """Return the logits (B, T, V), and with labels the loss in nats per token.

        A row is read as one document.

        Args:
            input_ids: (B, T).
            attention_mask: (B, S), for the tokens in the cache and the new ones; 0 is padding, on
                the left or on the right.
            past_key_values: the cache.
            labels: (B, T), at the same positions as input_ids, shifted here; -100 is no label.
            use_cache: whether to make a cache if there is none.
            logits_to_keep: return the logits of this many last tokens. 0: of all.
        """
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        T = input_ids.shape[1]
        S = T + (past_key_values.get_seq_length() if past_key_values is not None else 0)

        real = None
        if attention_mask is not None:
            if attention_mask.shape != (input_ids.shape[0], S):
                raise ValueError(
                    f"attention_mask must cover all {S} tokens, including those in the cache, "
                    f"got the shape {tuple(attention_mask.shape)}"
                )
            real = attention_mask.bool()

        positions = positions_of(real, S, input_ids.device)[:, -T:]
        sees = visible(real, T, S, input_ids.device)
        x, angles = self.embed(input_ids, positions)
        for block in self.blocks:
            x = block(x, angles, sees, real, past_key_values)

        hidden = self.norm(x[:, -logits_to_keep:])  # -0 keeps all
        logits = F.linear(hidden, self.token_embedding.weight)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def embed(self, input_ids: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the input of the first block, (B, T, C), and the angles of rotary positions.

        Args:
            input_ids: (B, T).
            positions: (B or 1, T).
        """
        x = self.token_embedding(input_ids)
        if self.config.scale_embedding:
            x = x * math.sqrt(self.config.d_model)

        if self.config.positions == "learned":
            return x + self.position_embedding(positions), None
        if self.config.positions == "sinusoidal":
            return x + sinusoids(positions, self.config.d_model).to(x.dtype), None

        d_head = self.config.d_model // self.config.n_heads
        precise = torch.promote_types(x.dtype, torch.float32)
        return x, rotary_angles(positions, d_head, precise)


def positions_of(real: Tensor | None, S: int, device: torch.device) -> Tensor:
    """Return positions (B or 1, S): the first token of each row that is no padding is at 0."""
    if real is None:
        return torch.arange(S, device=device)[None]
    return (real.cumsum(1) - 1).clamp(min=0)


def visible(real: Tensor | None, T: int, S: int, device: torch.device) -> Tensor:
    """Return which of the S tokens each of the last T may look at, (B or 1, 1, T, S).

    That is itself and every token before it, except padding.
    """
    queries = torch.arange(S - T, S, device=device)[:, None]
    keys = torch.arange(S, device=device)
    if real is None:
        return (keys <= queries)[None, None]

    # Padding looks at itself, so that no softmax is over nothing.
    return ((keys < queries) & real[:, None, None, :]) | (keys == queries)


def sinusoids(positions: Tensor, d_model: int) -> Tensor:
    """Return fairseq's sinusoidal positions, (..., C): the sines, then the cosines.

    The first token is at position 2, because fairseq reserves 1 for padding.
    """
    half = d_model // 2
    exponents = torch.arange(half, device=positions.device) * -(math.log(10000) / (half - 1))
    angles = (positions + 2)[..., None] * torch.exp(exponents)  # (..., C / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def rotary_angles(positions: Tensor, d_head: int, dtype: torch.dtype) -> Tensor:
    """Return the angles of rotary positions: (B or 1, 1, T, D / 2).

    RoFormer (arXiv 2104.09864), with base 10,000.
    """
    even = torch.arange(0, d_head, 2, dtype=dtype, device=positions.device)
    frequencies = 10000.0 ** (-even / d_head)
    return (positions[..., None] * frequencies)[:, None]


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate each pair (x_j, x_{j + D/2}) of x (B, H, T, D) by its angle, in the angles' dtype."""
    first, second = x.to(angles.dtype).chunk(2, dim=-1)
    sine = angles.sin()
    cosine = angles.cos()
    rotated = [first * cosine - second * sine, second * cosine + first * sine]
    return torch.cat(rotated, dim=-1).to(x.dtype)
