"""What is checked and filled in before a run gets its folder.

The dataclasses see single values. Here the values meet the data, the variant and the weights to
start from.
"""

from __future__ import annotations

from momentum_gpt.core.config import TrainConfig, read_config
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import inspect_data
from momentum_gpt.evaluation.budget import settle_evaluation
from momentum_gpt.models import build_attention
from momentum_gpt.models.weights import check_start, load_model_config
from momentum_gpt.training.checkpoint import has_any


def settle(config: TrainConfig) -> None:
    """Check the config against everything it names, and fill in what the user left open.

    Raises:
        UserError: an option does not fit the data, the variant or the weights.
    """
    build_attention(config.attention, config.model)
    facts = inspect_data(config)
    if facts.tokenizer is not None:
        plan = settle_evaluation(
            config.evaluation, config.training, config.model.seq_len, facts.tokenizer
        )
        print(f"evaluation {plan}")
    settle_vocabulary(config, facts.vocab_size)


def settle_vocabulary(config: TrainConfig, n_tokens: int) -> None:
    """Choose the rows of the embedding: enough for the data, and as many as the weights have.

    Args:
        n_tokens: number of token ids in the data.
    """
    model = config.model
    if config.init and has_any(config.run_dir / "checkpoints"):
        # The weights that the run started from are in its checkpoints by now.
        started_with = read_config(config.run_dir / "config.yaml")
        model.vocab_size = model.vocab_size or started_with.model.vocab_size
    elif config.init:
        settle_init(config, config.init, n_tokens)

    if model.vocab_size is None:
        model.vocab_size = -(-n_tokens // 64) * 64  # matrix products are fastest in multiples of 64
    if model.vocab_size < n_tokens:
        raise UserError(
            f"model.vocab_size={model.vocab_size} is smaller than the {n_tokens} tokens of the "
            f"data: leave it out, or use at least {n_tokens}"
        )


def settle_init(config: TrainConfig, init: str, n_tokens: int) -> None:
    """Check that the weights to start from fit the model and know the tokens of the data."""
    known = load_model_config(init).vocab_size
    assert known is not None
    if known < n_tokens:
        raise UserError(
            f"the data have {n_tokens} tokens, but init={init!r} knows {known}: "
            "prepare the data with its tokenizer"
        )
    config.model.vocab_size = config.model.vocab_size or known
    check_start(config.model, init)
