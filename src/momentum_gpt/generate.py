"""Let a trained model write: the text appears as it comes.

    python -m momentum_gpt.generate run=runs/momentum prompt='def main('
    python -m momentum_gpt.generate run=runs/momentum prompt=import sampling.temperature=0.8 sampling.top_p=0.95
    python -m momentum_gpt.generate run=runs/momentum prompts='["class A:","import os\n"]' max_new_tokens=40

Several prompts are one batch; their texts are printed one after another. An empty prompt begins a new document.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from momentum_gpt.cli import Command
from momentum_gpt.core import distributed
from momentum_gpt.core.config import Sampling
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Tokenizer, load_tokenizer
from momentum_gpt.models import load_model
from momentum_gpt.models.decoding import generate
from momentum_gpt.models.weights import model_folder


@dataclass
class GenerateConfig:
    run: str
    """A run, checkpoint or model folder."""
    prompt: str = ""
    """What the text begins with."""
    prompts: list[str] | None = None
    """Several prompts, instead of one."""
    max_new_tokens: int = 100
    stop: list[str] = field(default_factory=list)
    """Texts of one token each, e.g. ["\\n"], behind which generation ends, as it does at the end of a document."""
    sampling: Sampling = field(default_factory=Sampling)


def generate_text(config: GenerateConfig) -> None:
    model = load_model(config.run, distributed.local_device())
    tokenizer = load_tokenizer(model_folder(Path(config.run)))
    prompts = [config.prompt] if config.prompts is None else config.prompts
    if config.prompts is not None and config.prompt:
        raise UserError(f"give prompt={config.prompt!r} or prompts, not both")
    texts = [Text(tokenizer, tokenizer.encode(prompt) or [tokenizer.eos_id]) for prompt in prompts]
    stop = frozenset([tokenizer.eos_id, *(token_of(text, tokenizer) for text in config.stop)])
    steps = generate(
        model, [text.ids for text in texts], config.max_new_tokens, config.sampling, stop
    )
    alone = len(texts) == 1
    if alone:
        write(texts[0].grown())
    for tokens in steps:
        for text, token in zip(texts, tokens, strict=True):
            if token is not None:
                text.ids.append(token)
        if alone:
            write(texts[0].grown())
    write(
        texts[0].rest() + "\n"
        if alone
        else "".join(f"--- {i + 1}\n{text.rest()}\n" for i, text in enumerate(texts))
    )


class Text:
    """Token ids that become text as they grow."""

    def __init__(self, tokenizer: Tokenizer, ids: list[int]) -> None:
        self.tokenizer, self.ids = tokenizer, list(ids)
        self.shown = 0

    def grown(self) -> str:
        """What is new and will not change: a character whose bytes are not all there yet has to wait."""
        return self._beyond(self.tokenizer.decode(self.ids).rstrip("\ufffd"))

    def rest(self) -> str:
        """All that was not shown yet."""
        return self._beyond(self.tokenizer.decode(self.ids))

    def _beyond(self, text: str) -> str:
        new, self.shown = text[self.shown :], max(self.shown, len(text))
        return new


def token_of(text: str, tokenizer: Tokenizer) -> int:
    ids = tokenizer.encode(text)
    if len(ids) != 1:
        raise UserError(
            f"stop: {text!r} is {len(ids)} tokens, and must be one: take a shorter text"
        )
    return ids[0]


def write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


main = Command(generate_text, GenerateConfig, "generate")


if __name__ == "__main__":
    main()
