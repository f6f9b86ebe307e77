"""Compare an exported folder, as `transformers` loads it in a fresh process, with the model.

The process runs hf/answers.py, which imports nothing of this project.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import torch
from safetensors.torch import load_file
from torch import Tensor

from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json, write_json
from momentum_gpt.models.gpt import GPT
from momentum_gpt.models.hf.write import is_gpt2

LONGEST = 256
"""Tokens whose logits are compared, at most; a shorter context compares fewer."""

LONGEST_PROMPT = 48
"""Tokens of the longest prompt of greedy decoding, at most half of the above."""

N_GREEDY = 32
"""Tokens decoded greedily for each prompt, at most; a shorter context decodes fewer."""

CLOSE = 1e-5
"""Logits may differ by this share of the largest one, or by this if the largest is below 1.

That is the rounding of fp32 sums that are computed in another order.
"""


@dataclass(frozen=True)
class TokenizedText:
    """What our tokenizer makes of a text."""

    ids: list[int]
    decoded: str


@dataclass(frozen=True)
class Questions:
    """What answers.py is asked: the content of its questions.json."""

    tokens: list[list[int]]
    """(1, T), whose logits are wanted."""
    prompts: list[list[int]]
    """Token ids to continue greedily."""
    max_new_tokens: int
    texts: list[str]
    """Texts to tokenize. Empty: the folder has no tokenizer."""


@dataclass(frozen=True)
class Answers:
    """What answers.py answers: the content of its answers.json, and the logits."""

    transformers: str
    """The version of transformers."""
    greedy: list[list[int]]
    """The continuation of each prompt with a cache, then of each prompt without one."""
    logits: Tensor
    """(1, T, V)."""
    eos_id: int | None = None
    ids: list[list[int]] = field(default_factory=list)
    """The token ids of each text."""
    decoded: list[str] = field(default_factory=list)
    """The texts of these token ids."""


@dataclass(frozen=True)
class Checked:
    """What `check_export` measured."""

    transformers: str
    """The version of transformers."""
    logit_difference: float
    """The largest difference of a logit."""
    largest_logit: float
    n_greedy: int
    """Tokens decoded greedily."""


def require_transformers() -> None:
    """Raise a UserError unless transformers is installed."""
    if find_spec("transformers") is None:
        raise UserError(
            "transformers is not installed, and exports are checked with it: "
            "pip install transformers"
        )


def check_export(
    folder: Path, model: GPT, eos_id: int | None, texts: Mapping[str, TokenizedText]
) -> Checked:
    """Compare a folder, as `transformers` loads it, with the model in fp32 on the CPU.

    Args:
        folder: the export.
        model: what it must be.
        eos_id: the token that ends a document.
        texts: what our tokenizer makes of these texts. Empty: the folder has no tokenizer.

    Raises:
        UserError: `transformers` cannot load the folder; or the logits, the greedy tokens or the
            token ids of a text differ.
    """
    model = model.cpu().float().eval()
    questions = questions_for(model, list(texts))
    answers = ask(folder, questions, trust=not is_gpt2(model))
    version = f"transformers {answers.transformers}"

    expected = logits_of(model, torch.tensor(questions.tokens))
    largest = expected.abs().max().item()
    difference = (answers.logits - expected).abs().max().item()
    tolerance = CLOSE * max(1.0, largest)
    if not difference <= tolerance:  # also true for a nan
        refuse(
            f"logits differ by {difference:.1e} in {version}, "
            f"where {tolerance:.1e} would be rounding"
        )

    prompts = [*questions.prompts, *questions.prompts]
    for prompt, drawn in zip(prompts, answers.greedy, strict=True):
        check_greedy(model, prompt, until_end(drawn, eos_id), tolerance, version)

    if texts:
        check_texts(answers, texts, eos_id, version)
    n_greedy = sum(map(len, answers.greedy))
    return Checked(answers.transformers, difference, largest, n_greedy)


def questions_for(model: GPT, texts: list[str]) -> Questions:
    """Return random tokens and two prompts of unequal length, as long as the context allows."""
    config = model.config
    assert config.vocab_size is not None
    length = min(config.seq_len, LONGEST)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (1, length), generator=generator)

    longer = max(1, min(LONGEST_PROMPT, length // 2))
    shorter = (longer + 1) // 2
    prompts = [tokens[0, :longer].tolist(), tokens[0, longer : longer + shorter].tolist()]
    max_new_tokens = min(N_GREEDY, config.seq_len - longer)
    return Questions(tokens.tolist(), prompts, max_new_tokens, texts)


def ask(folder: Path, questions: Questions, trust: bool) -> Answers:
    """Ask `transformers` in a fresh process, which writes nothing to the user's caches.

    Raises:
        UserError: the process failed.
    """
    script = Path(__file__).with_name("answers.py")
    with TemporaryDirectory() as work:
        write_json(Path(work, "questions.json"), asdict(questions))
        command = [sys.executable, str(script), str(folder.resolve()), work]
        if trust:
            command.append("--trust")
        no_caches = {"HF_HUB_OFFLINE": "1", "HF_HOME": work, "HF_MODULES_CACHE": f"{work}/modules"}
        done = subprocess.run(
            command,
            env=os.environ | no_caches,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            last_line = " ".join(done.stderr.splitlines()[-1:])
            refuse(f"transformers does not load it: {last_line}")

        logits = load_file(Path(work, "logits.safetensors"))["logits"]
        return Answers(logits=logits, **read_json(Path(work, "answers.json")))


def refuse(difference: str) -> NoReturn:
    """Raise the UserError that says how the export differs from the model."""
    raise UserError(
        f"the export is not the same model and was discarded: {difference}; "
        "try another version of transformers"
    )


@torch.no_grad()
def logits_of(model: GPT, tokens: Tensor) -> Tensor:
    """Return the logits (B, T, V), with each row read as one document, as in `transformers`."""
    return model(tokens, document_ids=torch.zeros_like(tokens))


def until_end(drawn: Sequence[int], eos_id: int | None) -> list[int]:
    """Return the tokens up to the first end of a document; what follows it is padding."""
    if eos_id in drawn:
        return list(drawn[: drawn.index(eos_id) + 1])
    return list(drawn)


def check_greedy(
    model: GPT, prompt: list[int], drawn: list[int], tolerance: float, version: str
) -> None:
    """Check that each drawn token is the likeliest one after those before it.

    Of tokens that are equally likely up to rounding, any may have been drawn.
    """
    logits = logits_of(model, torch.tensor([[*prompt, *drawn[:-1]]]))
    logits = logits[0, len(prompt) - 1 :]  # (n, V): those that decided each drawn token
    of_drawn = logits[torch.arange(len(drawn)), drawn]
    too_unlikely = logits.max(-1).values - of_drawn > tolerance  # (n,)
    if too_unlikely.any():
        place = int(too_unlikely.nonzero()[0])
        here = int(logits[place].argmax())
        refuse(f"greedy token {place + 1} is {drawn[place]} in {version} and {here} here")


def check_texts(
    answers: Answers, texts: Mapping[str, TokenizedText], eos_id: int | None, version: str
) -> None:
    """Check that every text has the same tokens, and that these decode to the same text."""
    if answers.eos_id != eos_id:
        refuse(f"the document end is token {answers.eos_id} in {version} and {eos_id} here")

    for text, ids, decoded in zip(texts, answers.ids, answers.decoded, strict=True):
        expected = texts[text]
        if ids != expected.ids:
            refuse(f"the text {text!r:.80} is {ids[:20]} in {version} and {expected.ids[:20]} here")
        if decoded != expected.decoded:
            refuse(
                f"the tokens of {text!r:.80} decode to {decoded!r:.80} in {version} "
                f"and to {expected.decoded!r:.80} here"
            )
