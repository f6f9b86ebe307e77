"""Continue a prompt with a trained model; print the text as it is generated.

    momentum-gpt generate run=runs/momentum prompt='def main('
    momentum-gpt generate run=runs/momentum prompt_file=- < draft.txt
    momentum-gpt generate run=runs/momentum prompt=import \\
        sampling.temperature=0.8 sampling.top_p=0.95
    momentum-gpt generate run=runs/momentum \\
        prompts='["class A:","import os\\n"]'

Whatever follows `prompt=` is the prompt, character for character. An empty
prompt begins a new document. Several prompts are one batch, and their texts
are printed one after another.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from momentum_gpt.cli import Command
from momentum_gpt.core.config import Sampling
from momentum_gpt.core.errors import UserError

if TYPE_CHECKING:
    from momentum_gpt.data import Tokenizer


@dataclass
class GenerateConfig:
    run: str
    """A run folder, whose newest checkpoint is used; a checkpoint folder; or a model folder."""
    prompt: str = ""
    """Text that the model continues, taken literally. Empty: begin a new document."""
    prompt_file: str | None = None
    """File that holds the prompt, UTF-8; - is standard input. One newline at its end is left out.
    null: the prompt is `prompt`."""
    prompts: list[str] | None = None
    """Several prompts, generated as one batch. null: there is one prompt."""
    max_new_tokens: int = 100
    """Tokens generated for each prompt, at most."""
    stop: list[str] = field(default_factory=list)
    """Texts of one token each, e.g. ["\\n"], after which generation ends. It always ends at the
    end of a document."""
    sampling: Sampling = field(default_factory=Sampling)
    """How the next token is drawn from the model's distribution."""


def generate_text(config: GenerateConfig) -> None:
    """Generate and print."""
    # Imported here, so that --help does not load torch.
    from momentum_gpt.core import distributed
    from momentum_gpt.data import load_tokenizer
    from momentum_gpt.models import load_model
    from momentum_gpt.models.decoding import generate
    from momentum_gpt.models.weights import model_folder

    prompts = prompts_of(config)
    model = load_model(config.run, distributed.local_device())
    tokenizer = load_tokenizer(model_folder(Path(config.run)))
    tokenizer.require_known(model.config.vocab_size)

    texts = []
    for prompt in prompts:
        ids = tokenizer.encode(prompt) or [tokenizer.eos_id]
        texts.append(Text(tokenizer, ids))
    stop = {tokenizer.eos_id}
    for ending in config.stop:
        stop.add(token_of(ending, tokenizer))

    steps = generate(
        model,
        [text.ids for text in texts],
        config.max_new_tokens,
        config.sampling,
        frozenset(stop),
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

    if alone:
        write(texts[0].rest() + "\n")
        return
    for number, text in enumerate(texts, start=1):
        write(f"--- {number}\n{text.rest()}\n")


def prompts_of(config: GenerateConfig) -> list[str]:
    """Return the prompts of the one option that gives them.

    Raises:
        UserError: several options give prompts, or the file cannot be read.
    """
    given = {
        "prompt": bool(config.prompt),
        "prompt_file": config.prompt_file is not None,
        "prompts": config.prompts is not None,
    }
    used = [option for option, is_given in given.items() if is_given]
    if len(used) > 1:
        raise UserError(f"give either {' or '.join(used)}, not both")

    if config.prompts is not None:
        return config.prompts
    if config.prompt_file is not None:
        return [read_prompt(config.prompt_file)]
    return [config.prompt]


def read_prompt(path: str) -> str:
    """Return the text of a file, or of standard input for -, without one newline at its end.

    Editors and `echo` add that newline; a prompt that shall end with one needs two.

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return content.decode("utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        remedy = "give a file with UTF-8 text, or - for standard input"
        raise UserError(f"prompt_file={path!r} cannot be read ({error}): {remedy}") from None


class Text:
    """Token ids that become text as they grow.

    Args:
        tokenizer: decodes the ids.
        ids: the first ids; more may be appended to the attribute of this name.
    """

    def __init__(self, tokenizer: Tokenizer, ids: list[int]) -> None:
        self.tokenizer = tokenizer
        self.ids = list(ids)
        self.n_shown = 0  # characters

    def grown(self) -> str:
        """Return the new text that will not change.

        A character whose bytes are not complete decodes to U+FFFD and has to wait.
        """
        return self._beyond(self.tokenizer.decode(self.ids).rstrip("\ufffd"))

    def rest(self) -> str:
        """Return all the text that was not returned yet."""
        return self._beyond(self.tokenizer.decode(self.ids))

    def _beyond(self, text: str) -> str:
        new = text[self.n_shown :]
        self.n_shown = max(self.n_shown, len(text))
        return new


def token_of(text: str, tokenizer: Tokenizer) -> int:
    """Return the token that a stop text is.

    Raises:
        UserError: it is several tokens, or none.
    """
    ids = tokenizer.encode(text)
    if len(ids) != 1:
        raise UserError(f"stop: {text!r} is {len(ids)} tokens and must be 1: take a shorter text")
    return ids[0]


def write(text: str) -> None:
    """Print a piece of text at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


main = Command(generate_text, GenerateConfig, "generate", literal=("prompt", "prompt_file"))


if __name__ == "__main__":
    main()
