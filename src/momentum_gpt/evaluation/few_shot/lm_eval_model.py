"""Our models as a model class of lm-eval; what its requests have in common is computed once.

Besides the commands that call it, this is the only file that imports lm_eval.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from momentum_gpt.core import distributed
from momentum_gpt.core.config import EvaluationConfig
from momentum_gpt.core.terminal import Advance, ignore_progress, progress_bar
from momentum_gpt.data import Texts, load_tokenizer
from momentum_gpt.evaluation.few_shot.greedy import Opening, Writing, write_on
from momentum_gpt.evaluation.few_shot.shared_prefix import Request, n_tokens_of, score_and_choose
from momentum_gpt.evaluation.perplexity import lay_out, nats_of
from momentum_gpt.evaluation.targets import choose_targets
from momentum_gpt.models import load_model
from momentum_gpt.models.weights import model_folder

HEAD = 64
"""Contexts are grouped by this many first tokens, and a group is scored after a common prefix."""

NEW_TOKENS = 256
"""Tokens to generate where a task does not say how many."""

Pair = tuple[list[int], list[int]]
"""Tokens of a context and of its continuation."""


@dataclass
class Group:
    """Requests whose contexts begin alike."""

    prefix: list[int]
    """Tokens that all contexts begin with."""
    requests: list[Request]
    places: list[int]
    """The place of each continuation among all requests of the call."""

    @property
    def n_tokens(self) -> int:
        """Tokens that scoring takes."""
        return len(self.prefix) + n_tokens_of(self.requests)


@register_model("momentum_gpt")
class NativeLM(TemplateLM):
    """A run, checkpoint or model folder, or a GPT-2 or XGLM of `transformers` with its tokenizer.

    Args:
        run: the folder.
        tokens_per_forward: most tokens in a forward pass; bounds the memory.
        add_bos_token: begin each context with the end of a document, as in training and in our own
            few-shot tasks.
    """

    def __init__(
        self, run: str, tokens_per_forward: int = 16384, add_bos_token: bool = False, **_: Any
    ) -> None:
        super().__init__()
        self.model = load_model(run, distributed.local_device())
        self.tokenizer = load_tokenizer(model_folder(Path(run)))
        self.tokenizer.require_known(self.model.config.vocab_size)
        self.tokens_per_forward = int(tokens_per_forward)
        self.seq_len = self.model.config.seq_len
        self.beginning = [self.tokenizer.eos_id] if add_bos_token else []

    @property
    def eot_token_id(self) -> int:
        """The token that lm-eval puts before a text without a context."""
        return self.tokenizer.eos_id

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return the tokens of a text, after the beginning unless special tokens are unwanted."""
        beginning = [] if add_special_tokens is False else self.beginning
        return beginning + self.tokenizer.encode(string)

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Return the log-probability of each continuation, nats, and whether it would be generated.

        A request that is longer than the context loses its beginning, as in lm-eval's own models.
        """
        pairs = []
        for _texts, context, continuation in requests:
            # The last token is only predicted, so that one more than the context fits.
            kept = (context + continuation)[-(self.seq_len + 1) :]
            pairs.append((kept[: -len(continuation)], list(continuation)))

        groups = group_requests(pairs)
        total = sum(group.n_tokens for group in groups)
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with _bar("Running loglikelihood requests, tokens", total, disable_tqdm) as advance:
            for group in groups:
                scores, chosen = score_and_choose(
                    self.model, group.prefix, group.requests, self.tokens_per_forward, advance
                )
                for place, score, is_chosen in zip(group.places, scores, chosen, strict=True):
                    results[place] = (float(score), bool(is_chosen))
        return results

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each whole text, nats, after the end of a document.

        A text is read in disjoint windows of the context; the last one reaches back to be full.
        """
        texts = [request.args[0] for request in requests]
        stream = Texts(texts, self.tokenizer, sys.maxsize, "the requests")
        everything = EvaluationConfig(tokens=len(stream), documents="apart")
        targets = choose_targets(stream, everything, self.seq_len)

        layout = lay_out(targets.windows(self.seq_len), self.seq_len, targets.apart)
        title = "Running loglikelihood_rolling requests, tokens"
        with _bar(title, layout.n_tokens, disable_tqdm) as advance:
            nats = nats_of(self.model, targets, layout, self.tokens_per_forward, advance)

        by_text = np.bincount(targets.documents, nats, minlength=len(texts))
        return (0.0 - by_text).tolist()  # 0 for a text without a token

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Return greedy continuations, each up to the first of the texts in `until`.

        A context that leaves no room for the new tokens loses its beginning, as in lm-eval's own
        models.
        """
        by_options: dict[tuple[int, tuple[str, ...]], list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            options = request.args[1]
            room = min(options.get("max_gen_toks", NEW_TOKENS), self.seq_len - 1)
            by_options[room, tuple(options.get("until", []))].append(place)

        texts = [""] * len(requests)
        with _bar("Running generate_until requests", len(requests), disable_tqdm) as advance:
            for (room, until), places in by_options.items():
                contexts = [requests[place].args[0] for place in places]
                for place, text in zip(places, self._write(contexts, room, until), strict=True):
                    texts[place] = text
                advance(len(places))
        return texts

    def _write(self, contexts: list[str], room: int, until: tuple[str, ...]) -> list[str]:
        """Return what the model writes after each context, with the same options."""
        prompts = []
        for context in contexts:
            tokens = self.tok_encode(context) or [self.eot_token_id]
            prompts.append(tokens[-(self.seq_len - room) :])

        writing = Writing(self.tokenizer, until)
        texts = [""] * len(contexts)
        for places in by_beginning(prompts):
            prefix = shared_beginning([prompts[place] for place in places])
            openings = []
            for number, place in enumerate(places):
                openings.append(Opening(prompts[place][len(prefix) :], room, number))

            written = write_on(self.model, prefix, openings, writing, self.tokens_per_forward)
            for place, tokens in zip(places, written, strict=True):
                texts[place] = writing.text(tokens)
        return texts


def group_requests(pairs: list[Pair]) -> list[Group]:
    """Return groups of pairs whose contexts agree in their first HEAD tokens."""
    groups = []
    for places in by_beginning([context for context, _ in pairs]):
        prefix, requests = share_prefix([pairs[place] for place in places])
        groups.append(Group(prefix, requests, places))
    return groups


def by_beginning(contexts: list[list[int]]) -> list[list[int]]:
    """Return the places of contexts that agree in their first HEAD tokens, group by group."""
    places: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, context in enumerate(contexts):
        places[tuple(context[:HEAD])].append(place)
    return list(places.values())


def shared_beginning(contexts: list[list[int]]) -> list[int]:
    """Return the tokens that all contexts begin with; at least one of every context is left."""
    # Of sorted lists the first and the last have the shortest common beginning.
    first = min(contexts)
    last = max(contexts)
    most = min(map(len, contexts)) - 1
    n = next((i for i in range(most) if first[i] != last[i]), most)
    return first[:n]


def share_prefix(pairs: list[Pair]) -> tuple[list[int], list[Request]]:
    """Return the tokens that all contexts begin with, and a request for each different context."""
    prefix = shared_beginning([context for context, _ in pairs])
    by_context: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, (context, _) in enumerate(pairs):
        by_context[tuple(context)].append(number)

    requests = []
    for context_ids, numbers in by_context.items():
        answers = [pairs[number][1] for number in numbers]
        requests.append(Request(list(context_ids[len(prefix) :]), answers, numbers))
    return prefix, requests


@contextmanager
def _bar(title: str, total: int, is_disabled: bool) -> Iterator[Advance]:
    """Show a progress bar unless lm-eval wants none; yield the function that advances it."""
    if is_disabled:
        yield ignore_progress
        return
    with progress_bar(title, total) as advance:
        yield advance
