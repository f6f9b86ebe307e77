"""The dual form of attention: each identity that the page docs/dual-form.md explains, as code.

The functions are written to be read and tested, not to be fast. They take single heads, and tokens
are rows: what is V K^T q in the paper, with tokens as columns, is (q K^T) V here.

"The paper" is Dai et al. (arXiv 2212.10559).

Shapes: N tokens or samples, Q queries, T time, C width of a token, D dimension of keys and
queries or of a layer's input, E dimension of values or of a layer's output, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def attend(values: Tensor, keys: Tensor, queries: Tensor) -> Tensor:
    """Return linear attention, without softmax, scale or mask: sum_i v_i (k_i . q) for each q.

    LinearAttn(V, K, q) of the paper, equation 9.

    Args:
        values: (N, E).
        keys: (N, D).
        queries: (Q, D).

    Returns:
        (Q, E).
    """
    return (queries @ keys.T) @ values


def trained_layer(initial: Tensor, errors: Tensor, inputs: Tensor, queries: Tensor) -> Tensor:
    """Return the outputs of a linear layer that was trained by gradient descent, in its dual form.

        (W_0 + sum_i e_i x_i^T) q = W_0 q + sum_i e_i (x_i . q)

    Each output is what the initial weights give plus linear attention to the training samples
    (Aizerman et al. 1964; Irie et al. 2022; the paper, equations 7 to 9). A bias is the weight of
    an input that is always 1.

    Args:
        initial: W_0, the weights before training, (E, D).
        errors: e_i = -lr dL/d(output i), one row for each sample of each step, (N, E).
        inputs: x_i, what the layer was given then, (N, D).
        queries: (Q, D).

    Returns:
        (Q, E).
    """
    return queries @ initial.T + attend(errors, inputs, queries)


def train_by_attention(
    initial: Tensor,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    lr: float,
    momentum: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Train a linear layer by gradient descent and leave its weights as they are.

    Every step computes the layer's outputs by attention to the samples of the steps before it, and
    remembers its own samples. The result is that of `torch.optim.SGD`. With momentum, a sample's
    error counts `heavy_ball_coefficients` times.

    Args:
        initial: W_0, (E, D).
        batches: inputs (B, D) and targets of each step.
        loss: takes outputs (B, E) and targets, and returns a scalar.
        lr: learning rate.
        momentum: of the heavy ball, in [0, 1).

    Returns:
        errors: (N, E), those of all samples, weighted as `trained_layer` needs them.
        inputs: (N, D).
    """
    errors = initial.new_zeros(0, initial.shape[0])
    inputs = initial.new_zeros(0, initial.shape[1])
    steps = torch.zeros(0, dtype=torch.long)  # (N,): the step that each sample belongs to

    n_steps = 0
    for x, targets in batches:
        weighted = _weighted(errors, n_steps - 1 - steps, momentum)
        outputs = trained_layer(initial, weighted, inputs, x).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(outputs, targets), outputs)

        errors = torch.cat([errors, -lr * gradient])
        inputs = torch.cat([inputs, x])
        steps = torch.cat([steps, torch.full((len(x),), n_steps)])
        n_steps += 1
    return _weighted(errors, n_steps - 1 - steps, momentum), inputs


def _weighted(errors: Tensor, ages: Tensor, momentum: float) -> Tensor:
    coefficients = heavy_ball_coefficients(ages, momentum).to(errors.dtype)  # (N,)
    return coefficients[:, None] * errors


def weights_of_tokens(w_v: Tensor, w_k: Tensor, tokens: Tensor) -> Tensor:
    """Return the matrix that linear attention to some tokens applies to its query.

        sum_i (W_V x_i) (W_K x_i)^T

    Of the query's own tokens it is W_ZSL of the paper, of the demonstrations dW_ICL, and attention
    to both applies the sum of the two (equations 11 and 12). Its rank is at most the smaller of N,
    D and E.

    Args:
        w_v: projection to values, (E, C).
        w_k: projection to keys, (D, C).
        tokens: (N, C).

    Returns:
        (E, D).
    """
    values = tokens @ w_v.T
    keys = tokens @ w_k.T
    return values.T @ keys


def update_by_finetuning(
    w_v: Tensor, w_k: Tensor, dw_v: Tensor, dw_k: Tensor, tokens: Tensor
) -> Tensor:
    """Return how `weights_of_tokens` changes if both projections change: dW_FT of the paper.

        dW_V X (W_K X)^T + W_V X (dW_K X)^T + dW_V X (dW_K X)^T

    This is equation 13 multiplied out, with tokens as the columns of X.

    Args:
        w_v, dw_v: projection to values and its change, (E, C).
        w_k, dw_k: projection to keys and its change, (D, C).
        tokens: those of the query, (N, C).

    Returns:
        (E, D).
    """
    values = tokens @ w_v.T
    keys = tokens @ w_k.T
    more_values = tokens @ dw_v.T
    more_keys = tokens @ dw_k.T
    return more_values.T @ keys + values.T @ more_keys + more_values.T @ more_keys


def softmax_mixture(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    demonstration_keys: Tensor,
    demonstration_values: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return softmax attention to demonstrations and own tokens, as a mixture of its two parts.

        Attn([X'; X]) = (1 - share) Attn(X) + share Attn(X'),    share = Z' / (Z' + Z)

    where Z and Z' are the sums of exp(k_i . q / sqrt(D)) over own tokens and demonstrations. Exact,
    with softmax and scale: the demonstrations' part has the share `share` of the output.

    Args:
        queries: (Q, D).
        keys: of own tokens, at least one, (N, D).
        values: of own tokens, (N, E).
        demonstration_keys: (M, D); M may be 0.
        demonstration_values: (M, E).

    Returns:
        output: (Q, E).
        share: (Q,), in [0, 1].
    """
    scale = queries.shape[-1] ** -0.5
    own = queries @ keys.T * scale  # (Q, N)
    shown = queries @ demonstration_keys.T * scale  # (Q, M)

    # Z' / (Z' + Z) from the logarithms, which do not overflow.
    share = torch.sigmoid(shown.logsumexp(-1) - own.logsumexp(-1))
    zero_shot = own.softmax(-1) @ values
    from_demonstrations = shown.softmax(-1) @ demonstration_values
    output = torch.lerp(zero_shot, from_demonstrations, share[:, None])
    return output, share


def kernel_bias(key_features: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return what kernel attention has to remember of some tokens: two sums.

        sum_i phi(k_i) v_i^T   and   sum_i phi(k_i)

    Added to the sums over other tokens as a bias, they have the effect of the tokens themselves
    (Chen et al., arXiv 2406.02847).

    Args:
        key_features: phi(k_i), (N, F); N may be 0.
        values: (N, E).

    Returns:
        The bias of the key-value matrix, (F, E), and that of the denominator, (F,).
    """
    return key_features.T @ values, key_features.sum(0)


def kernel_attention(
    query_features: Tensor,
    key_features: Tensor,
    values: Tensor,
    bias: tuple[Tensor, Tensor],
) -> Tensor:
    """Return attention whose weights are phi(k_i) . phi(q), divided by their sum.

    Softmax attention is the case in which phi(k) . phi(q) = exp(k . q / sqrt(D)), and then phi has
    infinitely many features.

    Args:
        query_features: phi(q), (Q, F).
        key_features: phi(k_i), (N, F).
        values: (N, E).
        bias: what `kernel_bias` returned for other tokens, such as the demonstrations.

    Returns:
        (Q, E).
    """
    matrix, total = kernel_bias(key_features, values)
    numerator = query_features @ (bias[0] + matrix)  # (Q, E)
    denominator = query_features @ (bias[1] + total)  # (Q,)
    return numerator / denominator[:, None]


def rank_one_update(weight: Tensor, without: Tensor, with_context: Tensor) -> Tensor:
    """Return the change of a weight matrix that does what the context does.

        dW = W (A(C, x) - A(x)) A(x)^T / |A(x)|^2,    so that    (W + dW) A(x) = W A(C, x)

    Exact for every layer A before W, softmax attention included (Dherin et al., arXiv 2507.16003).
    It has rank one, and another token needs another one.

    Args:
        weight: W, the first matrix of an MLP, (E, D).
        without: A(x), what the layer before it gives without the context, not all 0, (D,).
        with_context: A(C, x), what that layer gives with the context, (D,).

    Returns:
        (E, D).
    """
    change = weight @ (with_context - without)
    return torch.outer(change, without) / without.square().sum()


def one_step_by_attention(
    weight: Tensor, inputs: Tensor, targets: Tensor, queries: Tensor, lr: float
) -> Tensor:
    """Return the outputs of a linear layer after one gradient step, by one layer of attention.

    The step is that of the loss 1/(2N) sum_i |W x_i - y_i|^2. Tokens are (x_i, y_i), and the query
    is (x, -W x). Keys and queries are the part x of a token, values are (0, W x_i - y_i), and the
    output projection is lr/N. What the layer adds to the query's token changes its last part to
    minus the new output (von Oswald et al., arXiv 2212.07677, proposition 1).

    Args:
        weight: W before the step, (E, D).
        inputs: (N, D); N may be 0, and then there is no step.
        targets: (N, E).
        queries: (Q, D).
        lr: learning rate.

    Returns:
        (Q, E).
    """
    E, D = weight.shape
    tokens = torch.cat([inputs, targets], dim=1)  # (N, D + E)
    query_tokens = torch.cat([queries, -queries @ weight.T], dim=1)  # (Q, D + E)

    w_kq = weight.new_zeros(D + E, D + E)
    w_kq[:D, :D] = torch.eye(D)
    w_v = weight.new_zeros(D + E, D + E)
    w_v[D:, :D] = weight
    w_v[D:, D:] = -torch.eye(E)

    added = attend(tokens @ w_v.T, tokens @ w_kq.T, query_tokens @ w_kq.T)
    updated = query_tokens + lr / max(len(inputs), 1) * added
    return -updated[:, D:]


def heavy_ball_coefficients(ages: Tensor, momentum: float) -> Tensor:
    """Return how many times gradients of some ages count in weights trained with momentum.

        1 + momentum + ... + momentum^age = (1 - momentum^(age + 1)) / (1 - momentum)

    A gradient moves the weights in its own step, momentum times as far in the next one, and so on.

    Args:
        ages: steps done since that of each gradient; 0 is the last step.
        momentum: in [0, 1).

    Returns:
        Of the shape of `ages`, float64.
    """
    powers = momentum ** (ages.double() + 1)
    return (1 - powers) / (1 - momentum)


def descend_by_the_paper(
    start: Tensor, gradient: Callable[[Tensor], Tensor], lr: float, decay: float, n_steps: int
) -> Tensor:
    """Return parameters after gradient descent with momentum as the paper writes it.

        Theta_t = Theta_{t-1} - lr sum_{i=1}^{t-1} decay^(t-i) gradient(Theta_i)

    The latest gradient has weight `decay`, not 1. So this is `torch.optim.SGD` with the learning
    rate `lr * decay`, and with a decay of 0 it stands still.

    Args:
        start: Theta_1.
        gradient: returns the gradient at given parameters.
        lr: learning rate.
        decay: in [0, 1).
        n_steps: updates after Theta_1.
    """
    parameters = start
    gradients: list[Tensor] = []
    for _ in range(n_steps):
        gradients.append(gradient(parameters))
        step = torch.zeros_like(start)
        for age, past in enumerate(reversed(gradients), start=1):
            step = step + decay**age * past
        parameters = parameters - lr * step
    return parameters


def momentum_matrix(T: int, decay: float) -> Tensor:
    """Return what momentum adds to each step, as weights of the gradients of the steps before it.

        L[t, i] = decay^(t - i) for i < t, else 0

    Row t of L times past gradients is what a step of gradient descent with momentum has more than
    one without. Times values, it is the term of momentum attention: (softmax(...) + L) V.

    Args:
        T: steps, or tokens.
        decay: in [0, 1).

    Returns:
        (T, T), float64.
    """
    ages = _ages(T)
    return torch.where(ages > 0, decay ** ages.clamp(min=0).double(), 0.0)


def momentum_of_weights(queries: Tensor, keys: Tensor, values: Tensor, decay: float) -> Tensor:
    """Return what momentum adds to a step of the weights, applied to the query of that step.

        sum_{i<t} decay^(t-i) v_i (k_i . q_t)

    The literal counterpart of momentum for linear attention. Momentum attention leaves out the
    products k_i . q_t; with all of them 1, the two are the same.

    Args:
        queries, keys: (T, D).
        values: (T, E).
        decay: in [0, 1).

    Returns:
        (T, E).
    """
    L = momentum_matrix(len(values), decay).to(values.dtype)
    return (L * (queries @ keys.T)) @ values


def heavy_ball_attention(queries: Tensor, keys: Tensor, values: Tensor, decay: float) -> Tensor:
    """Return the outputs of weights that gradient descent with momentum has trained up to each t.

        sum_{i<=t} (1 + decay + ... + decay^(t-i)) v_i (k_i . q_t)

    The weights begin at 0, and step t has the gradient -v_t k_t^T. With a decay of 0 this is causal
    linear attention.

    Args:
        queries, keys: (T, D).
        values: (T, E).
        decay: in [0, 1).

    Returns:
        (T, E).
    """
    ages = _ages(len(values)).clamp(min=-1)  # later steps count 0 times, as those of age -1
    coefficients = heavy_ball_coefficients(ages, decay).to(values.dtype)
    return (coefficients * (queries @ keys.T)) @ values


def _ages(T: int) -> Tensor:
    """Return how long before step t step i was, (T, T)."""
    t = torch.arange(T)
    return t[:, None] - t
